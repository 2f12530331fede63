"""The end of a reshard: the new partitions take the places of the old ones.

Everything is built in ``reshard/new``, and nothing else changes until it is complete. Then::

    1  node.json says the new number, and that it is moving    the decision, one rename
    2  each old partition goes to reshard/old, and the new one to its place; marks of those that
       are no more go (partitions/made.py)
    3  node.json says the new number
    4  reshard/ goes, and the old data with it

Whatever stops it, ``finish`` goes on from there: before 1 the old data is what counts and
``reshard/`` is rubbish; after 1 what is still in ``reshard/new`` is not in its place yet, and
what is not there is.
"""

import os
import shutil
from pathlib import Path
from typing import Final

from queue_node.errors import DirectoryError
from queue_node.node_file import (
    FORMAT,
    NodeFile,
    marks_of,
    partition_name,
    partition_numbers,
    read_node_file,
    sync_directory,
    write_node_file,
)

_FOLDER: Final = "reshard"


def folder(wal_dir: Path) -> Path:
    """Where a reshard keeps what is not in its place."""
    return wal_dir / _FOLDER


def building(wal_dir: Path) -> Path:
    """Where the new partitions are built."""
    return folder(wal_dir) / "new"


def has_leftovers(wal_dir: Path) -> bool:
    """Whether a reshard is under way or was cut short."""
    return folder(wal_dir).exists()


def decide(wal_dir: Path, partitions: int) -> None:
    """From now on the new partitions are what counts; all of them must be durable."""
    write_node_file(wal_dir, NodeFile(FORMAT, partitions, moving=True))


def finish(wal_dir: Path) -> None:
    """Do what is left to do; the caller holds the directory.

    Raises:
        DirectoryError: a file operation failed; it can be called again.
    """
    node = read_node_file(wal_dir)
    assert node is not None, "a reshard is of something"
    try:
        if node.moving:
            _move(wal_dir, node.partitions)
            write_node_file(wal_dir, NodeFile(FORMAT, node.partitions))
        if has_leftovers(wal_dir):
            shutil.rmtree(folder(wal_dir))
            sync_directory(wal_dir)
    except OSError as error:
        raise DirectoryError(f"{error.filename or wal_dir}: {error.strerror}") from error


def _move(wal_dir: Path, partitions: int) -> None:
    new, old = building(wal_dir), folder(wal_dir) / "old"
    old.mkdir(mode=0o700, exist_ok=True)
    sync_directory(folder(wal_dir))
    for number in sorted({*partition_numbers(wal_dir), *range(partitions)}):
        name = partition_name(number)
        is_new = number < partitions
        if is_new and not (new / name).exists():
            continue  # it is in its place already
        if (wal_dir / name).exists():
            os.rename(wal_dir / name, old / name)
            # Not every file system keeps the order of renames in a power cut.
            sync_directory(old)
            sync_directory(wal_dir)
        if is_new:
            os.rename(new / name, wal_dir / name)
            sync_directory(wal_dir)
            sync_directory(new)
    for number, mark in marks_of(wal_dir).items():
        if number >= partitions:
            mark.unlink()  # Durable with the node.json that follows.
