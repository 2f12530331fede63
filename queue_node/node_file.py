"""What is in a data directory by name, and ``node.json``, which says how it was made.

``node.json`` is the one truth about a directory: which partitions count, and whether they are
in their places. It is replaced by a rename, so it is the old one or the new one.
"""

import os
import re
import shlex
from pathlib import Path
from typing import Final

import msgspec

from partitions.made import MADE
from queue_node.errors import DirectoryError

FORMAT: Final = 1
NODE: Final = "node.json"
KEYS: Final = "keys.sqlite"
BACKUP: Final = "backup.json"
"""Marks a backup: see queue_node/backup_file.py."""
RESTORING: Final = "restoring"
"""Marks a directory that ``queue-node restore`` has not finished: nobody may use it."""
_PARTITION: Final = re.compile(r"p-(\d{4,})")


class NodeFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``node.json``."""

    format: int
    partitions: int
    moving: bool = False
    """A reshard has been decided; its last renames are under way (``reshard_switch``)."""


def partition_name(number: int) -> str:
    """Name of a partition's directory."""
    return f"p-{number:04d}"


def partition_numbers(path: Path) -> list[int]:
    """The partitions that have a directory in ``path``."""
    found = (_PARTITION.fullmatch(name) for name in os.listdir(path))
    return sorted(int(match[1]) for match in found if match)


def marks_of(path: Path) -> dict[int, Path]:
    """``{partition: the mark that it had a log}``, of partitions whose directory is gone too."""
    found = {mark: _PARTITION.fullmatch(mark.stem) for mark in path.glob(f"*{MADE}")}
    return {int(match[1]): mark for mark, match in found.items() if match}


def read_node_file(path: Path) -> NodeFile | None:
    """``node.json`` in ``path``; None when no node has ever run there.

    Raises:
        DirectoryError: it is damaged, or not there although it should be.
    """
    file = path / NODE
    if (path / RESTORING).exists():
        raise DirectoryError(
            f"WAL_DIR={path}: a restore into it was cut short: run `queue-node restore` again"
        )
    try:
        found = msgspec.json.decode(file.read_bytes(), type=NodeFile)
    except FileNotFoundError:
        # Partitions without the file: their number is unknown, and a guess loses jobs.
        if any(path.glob("p-[0-9]*")):
            raise DirectoryError(f"{file} is missing, but there are partitions") from None
        return None
    except msgspec.MsgspecError as error:
        raise DirectoryError(f"{file} is damaged: {error}") from error
    except OSError as error:
        raise DirectoryError(f"{file} can't be read: {error.strerror}") from error
    if found.format != FORMAT:
        raise DirectoryError(f"{file} has format {found.format}; this version knows {FORMAT}")
    if found.partitions < 1:
        raise DirectoryError(f"{file} is damaged: partitions={found.partitions}")
    return found


def refuse_backup(path: Path) -> None:
    """Keep a backup as it is: neither a node nor a reshard may work on it.

    A node on it would give out lease tokens that the node it was made of gave out too, and
    what ``backup.json`` says would be true no longer.

    Raises:
        DirectoryError: it is a backup.
    """
    if os.path.lexists(path / BACKUP):
        raise DirectoryError(
            f"WAL_DIR={path} is a backup: `queue-node restore {shlex.quote(str(path))} "
            "--directory NEW` makes a data directory of it"
        )


def write_node_file(path: Path, content: NodeFile) -> None:
    """Make ``content`` the directory's ``node.json``, durably and all at once.

    Raises:
        DirectoryError: it can't be written.
    """
    file = path / NODE
    beside = file.with_suffix(".new")
    try:
        with beside.open("wb") as opened:
            opened.write(msgspec.json.encode(content) + b"\n")
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(beside, file)
        sync_directory(path)
    except OSError as error:
        raise DirectoryError(f"WAL_DIR={file} can't be used: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Return when the names in ``path`` are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
