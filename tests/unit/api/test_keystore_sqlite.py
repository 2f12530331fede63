"""What is special about the embedded store: its file."""

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from api.keys import TokenHasher, mint
from api.keystore.base import KeyStoreUnreachableError, KeyStoreUnusableError, NewKey
from api.keystore.sqlite import SqliteKeyStore

HASHER = TokenHasher(None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.sqlite"


def test_its_files_are_for_nobody_else(path):
    mask = os.umask(0)
    try:
        store = SqliteKeyStore(str(path), HASHER)
        store.create(NewKey(mint("client"), "n", "o", 1))
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        store.close()
    finally:
        os.umask(mask)
    assert modes["keys.sqlite-wal"] == 0o600
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_read_or_write_is_refused(path, mode):
    SqliteKeyStore(str(path), HASHER).close()
    path.chmod(mode)
    with pytest.raises(KeyStoreUnusableError, match=f"mode {mode:04o}"):
        SqliteKeyStore(str(path), HASHER)


def test_commits_are_synced_in_wal_mode(path):
    store = SqliteKeyStore(str(path), HASHER)
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_a_file_that_is_no_store_is_refused(path):
    path.write_bytes(b"not a database, certainly not one" * 100)
    path.chmod(0o600)
    with pytest.raises(KeyStoreUnusableError, match="not a database"):
        SqliteKeyStore(str(path), HASHER)


def test_a_newer_store_is_refused(path):
    SqliteKeyStore(str(path), HASHER).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(KeyStoreUnusableError, match="schema 99"):
        SqliteKeyStore(str(path), HASHER)


def test_a_missing_directory_is_named(path):
    with pytest.raises(KeyStoreUnusableError, match="nowhere"):
        SqliteKeyStore(str(path.parent / "nowhere" / "keys.sqlite"), HASHER)


def test_a_store_that_another_process_holds_is_unreachable(path, monkeypatch):
    monkeypatch.setattr("api.keystore.sqlite._BUSY_TIMEOUT_S", 0.05)
    store = SqliteKeyStore(str(path), HASHER)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(KeyStoreUnreachableError, match="locked"):
        store.create(NewKey(mint("client"), "n", "o", 1))
    other.execute("ROLLBACK")
    other.close()
    store.create(NewKey(mint("client"), "n", "o", 1))
    assert len(store.list_all()) == 1
    store.close()
