"""The embedded key store: one SQLite file, shared by every process of the node.

WAL mode, so readers never wait for a writer; ``synchronous=FULL``, so a key that was made or
revoked stays so after a power cut. The file is made 0600 and refused when others may read it.

One connection serves all threads behind a lock (a look-up takes some 20 us and is cached by
the keyring). A subscription has a connection of its own and asks it for ``PRAGMA
data_version``, which changes when another connection has committed: then it reads the table
``revocations`` from where it was, so last-used times, which also commit, disturb nobody.
"""

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from api.keys import Token, TokenHasher
from api.keystore.base import (
    SUBSCRIPTION_WAIT_S,
    KeyIdTakenError,
    KeyRecord,
    KeyStoreUnreachableError,
    KeyStoreUnusableError,
    NewKey,
    OtherPepperError,
    Revocations,
    record_of,
)

_SCHEMA_VERSION: Final = 1
_BUSY_TIMEOUT_S: Final = 1.5
"""How long to wait for another process that writes; its write is one small commit."""
_POLL_S: Final = 0.05
"""Between two looks at ``data_version``: so late is a revocation on another front."""

_SCHEMA: Final = """
CREATE TABLE keys (
    key_id TEXT PRIMARY KEY,
    key_hash TEXT NOT NULL UNIQUE,
    last4 TEXT NOT NULL,
    name TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    type TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_s INTEGER NOT NULL,
    last_used_s INTEGER,
    revoked_s INTEGER
);
CREATE INDEX keys_by_owner ON keys (owner_id);
CREATE TABLE revocations (number INTEGER PRIMARY KEY AUTOINCREMENT, key_id TEXT NOT NULL);
"""
_COLUMNS: Final = "key_id, name, owner_id, type, scopes, created_s, last_used_s, revoked_s"


class SqliteKeyStore:
    """See ``api.keystore.base.KeyStore``."""

    def __init__(self, path: str, hasher: TokenHasher) -> None:
        """Open the file, made if it is not there.

        Raises:
            KeyStoreUnusableError: it cannot be opened, is not ours, or others may read it.
        """
        self._path = Path(path)
        self._hasher = hasher
        self._lock = threading.Lock()
        _make_private(self._path)
        try:
            self._connection = _connect(self._path)
        except sqlite3.Error as error:
            raise KeyStoreUnusableError(f"key store {path}: {error}") from error
        try:
            self._set_up()
        except sqlite3.Error as error:
            self._connection.close()
            raise KeyStoreUnusableError(f"key store {path}: {error}") from error
        except BaseException:
            self._connection.close()
            raise

    @property
    def name(self) -> str:
        """See ``KeyStore.name``."""
        return str(self._path)

    def create(self, new: NewKey) -> KeyRecord:
        """See ``KeyStore.create``."""
        with self._transaction() as connection:
            self._insert(connection, new)
        return record_of(new)

    def create_first(self, keys: Sequence[NewKey]) -> bool:
        """See ``KeyStore.create_first``."""
        with self._transaction() as connection:
            if not _is_empty(connection):
                return False
            for new in keys:
                self._insert(connection, new)
        return True

    def find(self, token: Token) -> KeyRecord | None:
        """See ``KeyStore.find``."""
        digest = self._hasher.digest(token)
        with self._reading() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS}, key_hash FROM keys WHERE key_hash = ?",  # noqa: S608
                (digest,),
            ).fetchone()
        if row is None or not self._hasher.fits(token, row[-1]):
            return None
        return _record(row)

    def get(self, key_id: str) -> KeyRecord | None:
        """See ``KeyStore.get``."""
        with self._reading() as connection:
            return _by_id(connection, key_id)

    def list_all(self) -> list[KeyRecord]:
        """See ``KeyStore.list_all``."""
        return self._list("TRUE", ())

    def list_owned(self, owner_id: str) -> list[KeyRecord]:
        """See ``KeyStore.list_owned``."""
        return self._list("owner_id = ?", (owner_id,))

    def revoke(self, key_id: str, now_s: int) -> KeyRecord | None:
        """See ``KeyStore.revoke``."""
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE keys SET revoked_s = ? WHERE key_id = ? AND revoked_s IS NULL",
                (now_s, key_id),
            ).rowcount
            if changed:
                connection.execute("INSERT INTO revocations (key_id) VALUES (?)", (key_id,))
            return _by_id(connection, key_id)

    def touch(self, last_used_s: Mapping[str, int]) -> None:
        """See ``KeyStore.touch``."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE keys SET last_used_s = max(coalesce(last_used_s, 0), ?) WHERE key_id = ?",
                [(used_s, key_id) for key_id, used_s in last_used_s.items()],
            )

    def subscribe(self) -> "SqliteSubscription":
        """See ``KeyStore.subscribe``."""
        return SqliteSubscription(self._path)

    def ping(self) -> None:
        """See ``KeyStore.ping``."""
        with self._reading() as connection:
            connection.execute("SELECT 1 FROM keys LIMIT 1").fetchone()

    def check_pepper(self) -> None:
        """See ``KeyStore.check_pepper``."""
        ours = self._hasher.mark
        with self._transaction() as connection:
            # Not in the schema: stores that were made before this was kept have it from now on.
            connection.execute("CREATE TABLE IF NOT EXISTS pepper (mark TEXT NOT NULL)")
            row = connection.execute("SELECT mark FROM pepper").fetchone()
            if row is not None and row[0] != ours and not _is_empty(connection):
                raise OtherPepperError(str(self._path), row[0], ours)
            if row is None or row[0] != ours:
                connection.execute("DELETE FROM pepper")
                connection.execute("INSERT INTO pepper (mark) VALUES (?)", (ours,))

    def is_empty(self) -> bool:
        """See ``KeyStore.is_empty``."""
        with self._reading() as connection:
            return _is_empty(connection)

    def close(self) -> None:
        """See ``KeyStore.close``."""
        with self._lock:
            self._connection.close()

    def _set_up(self) -> None:
        mode = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise KeyStoreUnusableError(f"key store {self._path}: no WAL mode here ({mode})")
        # IMMEDIATE: of two processes that start at once, one makes the tables, the other waits.
        with self._transaction() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif version != _SCHEMA_VERSION:
                raise KeyStoreUnusableError(
                    f"key store {self._path}: schema {version}, this version knows"
                    f" {_SCHEMA_VERSION}"
                )

    def _insert(self, connection: sqlite3.Connection, new: NewKey) -> None:
        record = record_of(new)
        try:
            connection.execute(
                "INSERT INTO keys (key_id, key_hash, last4, name, owner_id, type, scopes,"
                " created_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.key_id,
                    self._hasher.digest(new.token),
                    new.token.last4,
                    record.name,
                    record.owner_id,
                    record.type,
                    " ".join(record.scopes),
                    record.created_s,
                ),
            )
        except sqlite3.IntegrityError as error:
            raise KeyIdTakenError(record.key_id) from error

    def _list(self, condition: str, arguments: tuple[str, ...]) -> list[KeyRecord]:
        with self._reading() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM keys WHERE {condition}"  # noqa: S608 - ours, above
                " ORDER BY created_s, key_id",
                arguments,
            ).fetchall()
        return [_record(row) for row in rows]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _faults(self._path):
            yield self._connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _faults(self._path):
            # The write lock is taken first: what is read inside cannot be overtaken.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


class SqliteSubscription:
    """See ``api.keystore.base.Subscription``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _faults(path):
            self._connection = _connect(path)
        try:
            with _faults(path):
                # What was committed up to here is not reported: whoever subscribes forgets
                # what it remembered from before (see ``Keyring.run``).
                self._data_version = self._read_data_version()
                self._number: int = self._connection.execute(
                    "SELECT coalesce(max(number), 0) FROM revocations"
                ).fetchone()[0]
        except BaseException:
            self._connection.close()
            raise

    def wait(self) -> Revocations:
        """See ``Subscription.wait``."""
        until = time.monotonic() + SUBSCRIPTION_WAIT_S
        with _faults(self._path):
            while (version := self._read_data_version()) == self._data_version:
                if time.monotonic() >= until:
                    return frozenset()
                time.sleep(_POLL_S)
            self._data_version = version
            rows = self._connection.execute(
                "SELECT number, key_id FROM revocations WHERE number > ? ORDER BY number",
                (self._number,),
            ).fetchall()
        if rows:
            self._number = rows[-1][0]
        return frozenset(key_id for _, key_id in rows)

    def close(self) -> None:
        """See ``Subscription.close``."""
        self._connection.close()

    def _read_data_version(self) -> int:
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        assert isinstance(version, int)
        return version


def _make_private(path: Path) -> None:
    try:
        # SQLite gives -wal and -shm the permissions of the file itself.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise KeyStoreUnusableError(f"key store {path}: {error.strerror}") from error
    if mode & 0o077:
        raise KeyStoreUnusableError(
            f"key store {path}: others may read or write it (mode {mode:04o}); chmod 600 it"
        )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise KeyStoreUnreachableError(str(path), str(error)) from error


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is None


def _by_id(connection: sqlite3.Connection, key_id: str) -> KeyRecord | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM keys WHERE key_id = ?",  # noqa: S608 - ours, above
        (key_id,),
    ).fetchone()
    return None if row is None else _record(row)


def _record(row: tuple[Any, ...]) -> KeyRecord:
    key_id, name, owner_id, key_type, scopes, created_s, last_used_s, revoked_s = row[:8]
    return KeyRecord(
        key_id=key_id,
        name=name,
        owner_id=owner_id,
        type=key_type,
        scopes=tuple(scopes.split()),
        created_s=created_s,
        last_used_s=last_used_s,
        revoked_s=revoked_s,
    )
