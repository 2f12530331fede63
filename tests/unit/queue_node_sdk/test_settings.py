from contextlib import suppress

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_node_sdk import AsyncClient, Client, ConfigurationError, Worker
from queue_node_sdk.settings import check_key, check_url, url_and_key_from_env

hosts = st.sampled_from(["127.0.0.1", "localhost", "[::1]", "node.example", "a-b.c"])
ports = st.one_of(st.none(), st.integers(1, 65535))
paths = st.sampled_from(["", "/", "/queue", "/queue/", "/a/b//"])


@given(st.sampled_from(["http", "https", "HTTP"]), hosts, ports, paths)
def test_the_url_of_a_node_is_taken_without_its_last_slash(scheme, host, port, path):
    url = f"{scheme}://{host}{'' if port is None else f':{port}'}{path}"
    checked = check_url(url)
    assert checked == url.rstrip("/")
    assert check_url(checked) == checked
    assert httpx2.URL(f"{checked}/jobs").path == f"{path.rstrip('/')}/jobs"


@given(st.text())
def test_any_text_is_the_url_of_a_node_or_an_error_of_ours(text: str):
    with suppress(ConfigurationError):
        assert check_url(text).lower().startswith(("http://", "https://"))


@pytest.mark.parametrize(
    "url",
    ["http://me:secret@node", "http://me@node", "http://node?key=secret", "http://node#secret"],
)
def test_a_url_with_a_secret_is_refused_and_not_shown(url: str):
    with pytest.raises(ConfigurationError) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", [" http://node", "http://node\n", "http://a b", "http://node/a b"])
def test_a_url_with_blanks_is_refused(url: str):
    with pytest.raises(ConfigurationError, match="blanks"):
        check_url(url)


@given(st.text())
def test_any_text_is_a_key_or_is_not_shown(text: str):
    key = f"s3cret{text}"
    if all("!" <= character <= "~" for character in text):
        assert check_key(key) == key
    else:
        with pytest.raises(ConfigurationError) as caught:
            check_key(key)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "key", "missing"),
    [
        (None, None, "QUEUE_NODE_URL and QUEUE_NODE_KEY"),
        ("", "client_x", "QUEUE_NODE_URL"),
        ("http://node", None, "QUEUE_NODE_KEY"),
        ("http://node", "", "QUEUE_NODE_KEY"),
    ],
)
def test_what_the_environment_lacks_is_named(url, key, missing, monkeypatch: pytest.MonkeyPatch):
    for name, value in (("QUEUE_NODE_URL", url), ("QUEUE_NODE_KEY", key)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    for from_env in (Client.from_env, AsyncClient.from_env, lambda: Worker.from_env(print)):
        with pytest.raises(ConfigurationError) as caught:
            from_env()
        assert str(caught.value) == f"not set in the environment: {missing}"


def test_the_environment_names_node_and_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QUEUE_NODE_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("QUEUE_NODE_KEY", "client_x")
    assert url_and_key_from_env() == ("http://127.0.0.1:1/", "client_x")
    assert repr(AsyncClient.from_env()) == "AsyncClient('http://127.0.0.1:1')"
    assert repr(Worker.from_env(print)) == "Worker('http://127.0.0.1:1')"
    monkeypatch.setenv("QUEUE_NODE_KEY", "has a blank")
    with pytest.raises(ConfigurationError):
        Client.from_env()
