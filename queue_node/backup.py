"""``queue-node backup DEST``: a copy of a node's data, made while it runs.

A backup is a directory like the node's own, with ``backup.json`` beside ``node.json``: see
docs/backup.md for what it holds. It is made in ``DEST.part`` and renamed when it has been
checked, so a backup that was cut short is never taken for one.
"""

import argparse
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from partitions.clock import SystemClock
from partitions.copying import Copied, copying, files_of
from partitions.disk import RealDisk
from partitions.errors import DirectoryInUseError
from partitions.files import check_headers
from partitions.log import identity_of
from partitions.made import refuse_lost
from partitions.untouched import UntouchedDisk
from queue_node.backup_file import BACKUP_FORMAT, BackupFile, write_backup_file
from queue_node.backup_keys import copy_keys
from queue_node.census import Count, count_jobs, rows_of
from queue_node.errors import ExitCode, NodeError
from queue_node.node_file import (
    KEYS,
    partition_name,
    sync_directory,
    write_node_file,
)
from queue_node.offline import (
    ToolUsageError,
    add_common_arguments,
    begin,
    check_room,
    data_directory,
    existing_node,
    exit_codes,
    free_bytes,
    nearest_existing,
    plain_faults,
    remove,
    warn,
)
from queue_node.progress import Stages, print_summary, size, stages

_PART: Final = ".part"
_NICENESS: Final = 10
_disk: Final = RealDisk()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, or with ``dry_run`` would be."""

    backup: str
    directory: str
    partitions: int
    dry_run: bool
    files: int
    linked_bytes: int
    copied_bytes: int
    free_bytes: int
    """Before it."""
    keys: int | None = None
    """API keys in it; None: they are not in the data directory."""
    count: Count | None = None
    """None: a dry run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node backup``, its arguments."""
    parser.description = (
        "Copy a node's data to DEST, whether it runs or not. Every job that was acknowledged\n"
        "before the backup began is in it. Where DEST is on the same file system, old segments\n"
        "and snapshots become hard links: quick, and next to no room, but a bit that flips on\n"
        "the disk later hits both. Against that use --copy, or copy the backup elsewhere.\n"
        "Keys in Redis (REDIS_URL) are not part of it."
    )
    parser.epilog = exit_codes("not made, or made with texts that are unreadable")
    parser.add_argument("dest", metavar="DEST", help="the backup; a directory that is not there")
    parser.add_argument("--copy", action="store_true", help="copy everything, make no hard links")
    add_common_arguments(
        parser,
        dry_run_skips="it looks at the heads of the files only: damage behind them, for which a"
        " backup is refused, is found by `queue-node verify`",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the backup, print what it holds; 1 when some texts of the node are unreadable.

    Raises:
        NodeError: there is no backup, and why.
    """
    settings = begin()
    # The node's processes come first; and all files of a partition are open for a moment.
    os.nice(_NICENESS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    source = data_directory(arguments.directory, settings)
    target = Path(os.path.abspath(arguments.dest))
    report, warnings = plan(source, target, link=not arguments.copy), list[str]()
    if arguments.dry_run:
        check_room(target, report.copied_bytes)
    else:
        with stages(quiet=arguments.json) as bars:
            report, warnings = back_up(report, link=not arguments.copy, bars=bars)
    for warning in warnings:
        warn(warning)
    if settings.redis_url is not None:
        warn("the keys are in Redis (REDIS_URL), which no backup holds")
    print_summary(report, _rows(report), as_json=arguments.json)
    return ExitCode.FAULT if report.count is not None and report.count.unreadable else 0


def plan(source: Path, target: Path, *, link: bool) -> Report:
    """What ``back_up`` would do; nothing is changed.

    Raises:
        NodeError: it would refuse.
    """
    node = existing_node(source)
    if os.path.lexists(target):
        raise ToolUsageError(f"{target} exists: a backup is a new directory")
    if target.is_relative_to(source):
        raise ToolUsageError(f"{target} is inside the data directory {source}")
    above = nearest_existing(target)
    link = link and above.stat().st_dev == source.stat().st_dev
    files = linked = copied = 0
    with plain_faults():
        for number in range(node.partitions):
            directory = source / partition_name(number)
            refuse_lost(_disk, directory)
            check_headers(UntouchedDisk(_disk), directory, identity_of(number, node.partitions))
            sizes = _sizes_of(directory)
            files += len(sizes)
            linked += sum(sizes[:-1]) if link else 0
            copied += sum(sizes[-1:]) if link else sum(sizes)
        copied += (source / KEYS).stat().st_size if (source / KEYS).exists() else 0
    return Report(
        backup=str(target),
        directory=str(source),
        partitions=node.partitions,
        dry_run=True,
        files=files,
        linked_bytes=linked,
        copied_bytes=copied,
        free_bytes=free_bytes(above),
    )


def back_up(planned: Report, *, link: bool, bars: Stages) -> tuple[Report, list[str]]:
    """Make the backup; ``(report, warnings)``.

    Raises:
        NodeError: it could not be made; nothing is left of it.
    """
    source, target = Path(planned.directory), Path(planned.backup)
    check_room(target, planned.copied_bytes)
    with plain_faults(), _in_the_making(target) as part:
        began_ms = SystemClock().now_ms()
        copied = Copied()
        with bars.stage("copying", planned.linked_bytes + planned.copied_bytes) as stage:
            for number in range(planned.partitions):
                name = partition_name(number)
                (part / name).mkdir(mode=0o700)
                steps = copying(source / name, part / name, copied, link=link)
                for done in steps:
                    stage.advance(done)
        keys = copy_keys(source / KEYS, part / KEYS)
        node = existing_node(source)
        if node.partitions != planned.partitions:
            raise NodeError(f"{source} was resharded meanwhile: make the backup again")
        write_node_file(part, node)
        count, warnings = count_jobs(part, node.partitions, bars, "checking")
        about = BackupFile(
            BACKUP_FORMAT, version("queue-node"), began_ms, node.partitions, keys, count
        )
        write_backup_file(part, about)
        sync_directory(part)
        os.rename(part, target)
        sync_directory(target.parent)
    report = msgspec.structs.replace(
        planned,
        dry_run=False,
        files=copied.files,
        linked_bytes=copied.linked_bytes,
        copied_bytes=copied.copied_bytes,
        keys=keys,
        count=count,
    )
    return report, warnings


@contextmanager
def _in_the_making(target: Path) -> Iterator[Path]:
    """The folder in which the backup is made: new, ours alone, and gone if it fails."""
    part = target.with_name(target.name + _PART)
    _disk.make_directory(part)
    try:
        lock = _disk.lock_directory(part)
    except DirectoryInUseError:
        raise NodeError(f"{part} is in use: another backup is being made there") from None
    try:
        _clear(part)
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        del lock


def _clear(part: Path) -> None:
    """Remove what a backup that was cut short left; nobody else's files."""
    for entry in sorted(part.iterdir()):
        if not entry.name.startswith(("p-", "node.", "keys.sqlite", "backup.")):
            raise NodeError(f"{part} is in the way: {entry.name} in it is not of a backup")
    for entry in part.iterdir():
        remove(entry)


def _sizes_of(directory: Path) -> list[int]:
    sizes = []
    for name in files_of(directory):
        try:
            sizes.append((directory / name).stat().st_size)
        except FileNotFoundError:
            continue  # A running partition retired it.
    return sizes


def _rows(report: Report) -> list[tuple[str, str]]:
    rows = [
        ("backup", report.backup + (" (dry run: not made)" if report.dry_run else "")),
        ("of", f"{report.directory}, partitions: {report.partitions}"),
        ("files", f"{report.files:,}"),
        ("hard links", size(report.linked_bytes)),
        ("copied", f"{size(report.copied_bytes)} ({size(report.free_bytes)} were free)"),
    ]
    if report.count is not None:
        rows.append(("keys", "not in it" if report.keys is None else f"{report.keys:,}"))
        rows += rows_of(report.count)
    return rows
