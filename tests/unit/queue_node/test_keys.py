"""``queue-node keys``, as an operator types it."""

import json
from pathlib import Path

import pytest

from api.keys import is_key_id, parse_token
from api.keystore import open_keystore
from api.keystore.base import KeyStore
from queue_node.cli import main
from queue_node.config import Config
from queue_node.directory import DataDirectory
from queue_node.errors import ExitCode
from queue_node.keys import keystore_path
from tests.support.ports import ReservedPort
from tests.support.redis import RedisServer


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WAL_DIR", str(tmp_path))
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("KEY_PEPPER", "a pepper for these tests")
    return monkeypatch


@pytest.fixture
def store(tmp_path: Path, environment):
    """The store as the node sees it."""
    path = str(tmp_path / "keys.sqlite")
    store = open_keystore(None, path, "a pepper for these tests")
    yield store
    store.close()


def create(capsys, *words: str) -> str:
    assert main(["keys", "create", "--owner", "me", "--name", "mine", *words]) == 0
    output: str = capsys.readouterr().out
    return output.strip()


def test_the_store_is_the_nodes(tmp_path):
    directory = DataDirectory(tmp_path, tmp_path, after_a_crash=False)
    assert keystore_path(Config(wal_dir=str(tmp_path))) == directory.keystore_path


@pytest.mark.parametrize("key_type", ["client", "worker", "admin"])
def test_a_key_is_made_and_printed_alone(capsys, store: KeyStore, key_type):
    token = parse_token(create(capsys, "--type", key_type))
    assert token is not None
    record = store.find(token)
    assert record is not None
    assert (record.type, record.owner_id, record.name) == (key_type, "me", "mine")


def test_json_is_that_of_the_http_interface(capsys, store):
    made = json.loads(create(capsys, "--type", "client", "--json"))
    assert parse_token(made["key"])
    assert main(["keys", "list", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    listed = json.loads(line)
    assert is_key_id(listed["key"])
    assert {**made, "key": listed["key"]} == listed


def test_a_list_shows_ids_and_no_effects_on_the_terminal(capsys, store):
    token = create(capsys, "--type", "client", "--name", "\x1b[31m red [bold]\r\n")
    create(capsys, "--type", "admin", "--owner", "other")
    assert main(["keys", "list", "--no-json"]) == 0
    output = capsys.readouterr().out
    heading, first, second = output.splitlines()
    assert heading.split("  ")[0] == "KEY"
    assert token[:15] in output
    assert token[15:] not in output
    assert r"\u001b[31m red [bold]\r\n" in first + second
    assert main(["keys", "list", "--owner", "other", "--no-json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_list_that_goes_to_a_program_is_a_line_of_json_each(capsys, store):
    made = [create(capsys, "--type", kind) for kind in ("client", "worker")]
    assert main(["keys", "revoke", made[0]]) == 0
    capsys.readouterr()
    assert main(["keys", "list"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {each["key"]: "revoked_at" in each for each in listed} == {
        made[0][:15]: True,
        made[1][:15]: False,
    }
    assert all("last_used_at" in each for each in listed)


def test_a_narrow_terminal_shows_whole_ids(capsys, store, environment):
    environment.setenv("COLUMNS", "60")
    environment.setenv("FORCE_COLOR", "1")
    token = create(capsys, "--type", "client", "--name", "a name that is much too long" * 3)
    assert main(["keys", "list"]) == 0
    heading, row = capsys.readouterr().out.splitlines()[:2]
    assert "KEY" in heading
    assert token[:15] in row


@pytest.mark.parametrize("whole", [False, True])
def test_a_key_is_revoked_by_id_or_whole(capsys, store, whole):
    text = create(capsys, "--type", "client")
    assert main(["keys", "revoke", text if whole else text[:15]]) == 0
    assert capsys.readouterr().out == f"Revoked {text[:15]} (me)\n"
    assert store.find(parse_token(text)).revoked_s is not None
    assert main(["keys", "revoke", text[:15], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["message"] == "Key revoked successfully"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["revoke", "client_aaaaaaaa"], "key not found"),
        (["revoke", "*"], "key not found"),
        (["revoke", "client_" + "A" * 32], "key not found"),
        (["create", "--type", "client", "--owner", "a:b", "--name", "n"], "owner_id must match"),
        (["create", "--type", "client", "--owner", "", "--name", "n"], "owner_id is required"),
        (["create", "--type", "client", "--owner", "a", "--name", ""], "name is required"),
    ],
)
def test_what_cannot_be_is_one_line(capsys, store, words, line):
    assert main(["keys", *words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"queue-node: {line}")
    assert output.err.count("\n") == 1


def test_without_a_data_directory_nothing_is_made(capsys, environment, tmp_path):
    environment.setenv("WAL_DIR", str(tmp_path / "nowhere"))
    assert main(["keys", "list"]) == ExitCode.DIRECTORY
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_redis_that_is_down_is_one_line(capsys, environment):
    nobody = ReservedPort()
    environment.setenv("REDIS_URL", f"127.0.0.1:{nobody.number}")
    assert main(["keys", "list"]) == 1
    nobody.close()
    error = capsys.readouterr().err
    assert "refused" in error
    assert error.count("\n") == 1


def test_keys_in_redis(capsys, environment, tmp_path):
    directory = tmp_path / "redis"
    directory.mkdir()
    server = RedisServer(directory)
    server.start()
    try:
        environment.setenv("REDIS_URL", server.url)
        text = create(capsys, "--type", "worker")
        assert server.client.smembers("keys:active") == {text[:15]}
        assert main(["keys", "revoke", text[:15]]) == 0
        assert server.client.smembers("keys:revoked") == {text[:15]}
    finally:
        server.close()
    assert not (tmp_path / "keys.sqlite").exists()
