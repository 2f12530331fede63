"""Development keys, the key store that must be reached, and the banner."""

import logging
import socket

import msgspec
import pytest
import trio

from api.keys import TokenHasher
from api.keystore.base import (
    KeyStore,
    KeyStoreUnreachableError,
    KeyStoreUnusableError,
)
from api.keystore.seed import SeededKey
from api.keystore.sqlite import SqliteKeyStore
from queue_node import welcome
from queue_node.child import Child, Program
from queue_node.config import Config
from queue_node.errors import ConfigError
from queue_node.welcome import Banner, Welcome, banner_text, wants_dev_keys

URL = "http://127.0.0.1:8080"
PLAIN = Banner(URL, "")
AS_JSON = Banner(URL, "", as_json=True)

SEEDED = [
    SeededKey("client", "dev-client", "client_A"),
    SeededKey("worker", "dev-worker", "worker_B"),
    SeededKey("admin", "dev-admin", "admin_C"),
]


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def store(tmp_path):
    opened = SqliteKeyStore(str(tmp_path / "keys.sqlite"), TokenHasher(None))
    yield opened
    opened.close()


class DownAtFirst:
    """A key store that is down for its first ``times`` pings."""

    def __init__(self, store: KeyStore, times: int, fault: Exception) -> None:
        self._store = store
        self._times = times
        self._fault = fault

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def ping(self) -> None:
        if self._times:
            self._times -= 1
            raise self._fault
        self._store.ping()


def serving_child() -> Child:
    child = Child("front 0", Program(("true",), b""))
    child.serving.set()
    return child


def a_welcome(store, listener, config=Config(), children=(), banner=PLAIN) -> Welcome:  # noqa: B008 - frozen
    return Welcome(config, store, listener, banner, children)


async def test_an_empty_store_gets_keys_that_are_logged_and_put_into_the_banner(
    store, listener, caplog, capsys
):
    caplog.set_level(logging.INFO)
    await a_welcome(store, listener, children=[serving_child()]).run()
    records = {record.owner_id: record for record in store.list_all()}
    assert sorted(records) == ["dev-admin", "dev-client", "dev-worker"]
    tokens = {}
    for line in caplog.messages:
        created, kind, key, token, _, owner = line.split()
        assert (created, key, owner) == ("Created", "key:", f"dev-{kind})")
        tokens[kind] = token
    assert sorted(tokens) == ["admin", "client", "worker"]
    out = capsys.readouterr().out
    assert "serves on http://127.0.0.1:8080" in out
    assert tokens["client"] in out
    assert tokens["worker"] in out
    assert tokens["admin"] in out  # LOG_LEVEL may hide the log line, and it is shown only once


async def test_a_store_with_keys_gets_no_more(store, listener, caplog, capsys):
    await a_welcome(store, listener).run()
    before = store.list_all()
    capsys.readouterr()
    caplog.clear()
    await a_welcome(store, listener).run()
    assert store.list_all() == before
    assert caplog.messages == []
    assert capsys.readouterr().out == "Queue Node serves on http://127.0.0.1:8080\n"


async def test_keys_are_made_only_when_they_are_wanted(store, listener, capsys):
    await a_welcome(store, listener, Config(seed_dev_keys="never")).run()
    assert store.list_all() == []
    assert "curl" not in capsys.readouterr().out


async def test_without_any_key_it_says_how_to_make_the_first(store, listener, caplog):
    await a_welcome(store, listener, Config(seed_dev_keys="never")).run()
    [line] = caplog.messages
    assert f"no keys in {store.name}" in line
    assert "`queue-node keys create --type admin --owner OWNER --name NAME`" in line
    caplog.clear()
    await a_welcome(store, listener).run()
    caplog.clear()
    await a_welcome(store, listener, Config(seed_dev_keys="never")).run()
    assert caplog.messages == []


@pytest.mark.parametrize("level", [logging.INFO, logging.ERROR])
async def test_in_json_nothing_is_printed_and_the_keys_are_in_the_log_at_any_level(
    store, listener, caplog, capsys, level
):
    caplog.set_level(level)
    await a_welcome(store, listener, banner=AS_JSON).run()
    assert capsys.readouterr().out == ""
    created = [line for line in caplog.messages if line.startswith("Created ")]
    assert len(created) == 3
    assert (f"Queue Node serves on {URL}" in caplog.messages) is (level == logging.INFO)


async def test_keys_of_another_pepper_stop_the_node(store, listener, tmp_path):
    await a_welcome(store, listener).run()
    other = SqliteKeyStore(str(tmp_path / "keys.sqlite"), TokenHasher("a secret"))
    with pytest.raises(ConfigError, match=r"KEY_PEPPER=\*\*\*: the keys in .* without one: unset"):
        await a_welcome(other, listener, Config(key_pepper="a secret")).run()
    other.close()


async def test_a_store_that_is_down_is_waited_for_and_said_so(
    store, listener, caplog, capsys, monkeypatch
):
    monkeypatch.setattr(welcome, "_RETRY_FIRST_S", 0.001)
    fault = KeyStoreUnreachableError("redis://localhost:6379", "connection refused")
    with trio.fail_after(20):
        await a_welcome(DownAtFirst(store, 3, fault), listener).run()
    said = [line for line in caplog.messages if "trying again" in line]
    assert len(said) == 3
    assert said[0].startswith("key store redis://localhost:6379: connection refused; trying again")
    assert len(store.list_all()) == 3


async def test_a_store_that_can_not_be_used_stops_the_node(store, listener):
    fault = KeyStoreUnusableError("it speaks another protocol")
    with pytest.raises(ConfigError, match="it speaks another protocol"):
        await a_welcome(DownAtFirst(store, 1, fault), listener).run()


async def test_the_banner_waits_until_everybody_serves(store, listener, capsys):
    child = Child("front 0", Program(("true",), b""))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a_welcome(store, listener, children=[child]).run)
        while len(store.list_all()) < 3:
            await trio.sleep(0.005)
        assert capsys.readouterr().out == ""
        child.serving.set()
    assert "serves on" in capsys.readouterr().out


async def test_a_child_that_does_not_serve_hides_the_banner_for_a_while_only(
    store, listener, capsys, monkeypatch
):
    monkeypatch.setattr(welcome, "_CHILDREN_WAIT_S", 0.05)
    with trio.fail_after(20):
        await a_welcome(store, listener, children=[Child("f", Program((), b""))]).run()
    assert "serves on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "loopback", "wanted"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("always", False, True),
        ("never", True, False),
    ],
)
def test_development_keys_are_for_loopback_unless_asked_for(asked, loopback, wanted):
    host = "127.0.0.1" if loopback else "0.0.0.0"
    config = msgspec.structs.replace(Config(), seed_dev_keys=asked)
    with socket.create_server((host, 0)) as listener:
        assert wants_dev_keys(config, listener) is wanted


def test_without_fresh_keys_the_banner_is_the_url():
    assert banner_text(Banner("http://h:1", ""), []) == "Queue Node serves on http://h:1"


def test_the_banner_says_when_others_get_in_too():
    text = banner_text(Banner("http://127.0.0.1:1", "every other address"), [])
    assert text == "Queue Node serves on http://127.0.0.1:1 and every other address"


def test_with_fresh_keys_the_banner_has_three_lines_to_paste():
    lines = banner_text(Banner("http://h:1", ""), SEEDED).splitlines()
    pasted = [line for line in lines if "curl" in line]
    assert ["client_A" in line for line in pasted] == [True, False, False]
    assert ["worker_B" in line for line in pasted] == [False, True, True]
    assert pasted[0].endswith("http://h:1/jobs")
    assert "http://h:1/jobs/lease" in pasted[1]
    assert '/ack"' in pasted[2]


def test_on_tls_curl_is_told_not_to_ask_for_a_known_certificate():
    assert banner_text(Banner("https://h:1", "", tls=True), SEEDED).count("curl -sk ") == 3
