"""``backup.json``: what a backup says of itself, written when it is complete."""

import os
from pathlib import Path
from typing import Final

import msgspec

from queue_node.census import Count
from queue_node.errors import DirectoryError
from queue_node.node_file import BACKUP

BACKUP_FORMAT: Final = 1


class BackupFile(msgspec.Struct, frozen=True):
    """``backup.json``."""

    format: int
    version: str
    """Of the program that made it."""
    began_ms: int
    """When the backup began, ms since 1970."""
    partitions: int
    keys: int | None
    """API keys in it; None: there was no embedded key store."""
    count: Count


def read_backup_file(path: Path) -> BackupFile:
    """What the backup in ``path`` says of itself.

    Raises:
        DirectoryError: it is no backup, or not a complete one.
    """
    file = path / BACKUP
    try:
        found = msgspec.json.decode(file.read_bytes(), type=BackupFile)
    except (FileNotFoundError, NotADirectoryError):
        raise DirectoryError(f"{path} is no backup: there is no {BACKUP} in it") from None
    except msgspec.MsgspecError as error:
        raise DirectoryError(f"{file} is damaged: {error}") from error
    if found.format != BACKUP_FORMAT:
        raise DirectoryError(
            f"{file} has format {found.format}; this version knows {BACKUP_FORMAT}"
        )
    return found


def write_backup_file(path: Path, content: BackupFile) -> None:
    """Put it into ``path``, durable but for its name."""
    with (path / BACKUP).open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
