"""The embedded key store in a backup: one consistent copy, while others read and write it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from queue_node.errors import NodeError


def copy_keys(source: Path, target: Path) -> int | None:
    """Copy the key store; how many keys are in the copy, None when there is no key store.

    Raises:
        NodeError: it can't be read, or the copy does not check.
    """
    if not source.exists():
        return None
    try:
        # In WAL mode a reader keeps nobody waiting, and sees one moment.
        with (
            closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True)) as keys,
            closing(sqlite3.connect(target)) as copy,
        ):
            keys.backup(copy)
            # So that the copy is one file and nothing beside it; a node turns it on again.
            copy.execute("PRAGMA journal_mode = DELETE")
            (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                raise NodeError(f"key store {source}: {verdict}")
            (count,) = copy.execute("SELECT count(*) FROM keys").fetchone()
    except sqlite3.Error as error:
        raise NodeError(f"key store {source}: {error}") from error
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return int(count)
