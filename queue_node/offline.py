"""What the commands that work on a data directory have in common: their words, their refusals."""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from partitions.errors import CorruptLogError, PartitionError
from queue_node import config
from queue_node.config import Config
from queue_node.errors import DirectoryError, ExitCode, NodeError
from queue_node.node_file import NodeFile, read_node_file
from queue_node.progress import size

WHAT_TO_DO: Final = "`queue-node verify` tells more"
"""About a log that does not check."""


class ToolUsageError(NodeError):
    """What was asked for cannot be done like this."""

    exit_code = ExitCode.USAGE


def add_common_arguments(parser: argparse.ArgumentParser, *, dry_run_skips: str) -> None:
    """What all three understand; ``dry_run_skips`` is what a dry run does not find out."""
    parser.add_argument(
        "--directory", metavar="WAL_DIR", help="the node's data directory (default: WAL_DIR)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help=f"say what would be done, and change nothing; {dry_run_skips}",
    )
    parser.add_argument("--json", action="store_true", help="the summary as JSON, and no bars")


def begin() -> Config:
    """The configuration; what is made from now on is its owner's alone.

    Raises:
        ConfigError: a variable has a wrong value.
    """
    os.umask(0o077)
    return config.read(os.environ)


def exit_codes(meaning_of_1: str) -> str:
    """The epilog of a command that makes or changes a data directory."""
    return (
        f"Exit codes: 0 done; 1 {meaning_of_1}; 2 wrong usage;\n"
        "4 a directory can't be used (no node's, in use, not empty, no room)."
    )


def remove(entry: Path) -> None:
    """A file, or a directory with all that is in it."""
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def data_directory(named: str | None, settings: Config) -> Path:
    """The data directory that is meant."""
    return Path(os.path.abspath(named or settings.wal_dir))


def node_of(path: Path) -> NodeFile:
    """``node.json`` of a node that has run there.

    Raises:
        DirectoryError: none has, or nobody lets us see.
    """
    try:
        node = read_node_file(path) if path.is_dir() else None
    except OSError as error:
        raise DirectoryError(f"WAL_DIR={path} can't be used: {error.strerror}") from error
    if node is None:
        raise DirectoryError(f"WAL_DIR={path}: no node has run here (there is no node.json)")
    return node


def existing_node(path: Path) -> NodeFile:
    """The same of one whose partitions are in their places.

    Raises:
        DirectoryError: none has run there, or its last reshard is not finished.
    """
    node = node_of(path)
    if node.moving:
        raise DirectoryError(
            f"WAL_DIR={path}: a reshard was decided and cut short; it is finished by the next "
            f"`queue-node serve`, or by `queue-node reshard --partitions {node.partitions} "
            f"--directory {shlex.quote(str(path))}`"
        )
    return node


def nearest_existing(path: Path) -> Path:
    """``path``, or the first folder above it that is there."""
    while not os.path.exists(path):
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Room on the disk where ``path`` is or shall be."""
    return shutil.disk_usage(nearest_existing(path)).free


def check_room(path: Path, needed_bytes: int) -> None:
    """Refuse before anything is written.

    Raises:
        DirectoryError: the disk has less room than is needed.
    """
    free = free_bytes(path)
    if needed_bytes > free:
        raise DirectoryError(f"{path}: needs {size(needed_bytes)}, {size(free)} are free")


@contextmanager
def plain_faults() -> Iterator[None]:
    """Faults of the disk and of what is on it, each in one line."""
    try:
        yield
    except CorruptLogError as error:
        raise NodeError(f"{error}; {WHAT_TO_DO}") from error
    except PartitionError as error:
        raise NodeError(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise NodeError(f"{where}{error.strerror or error}") from error


def warn(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"queue-node: {message}\n")
