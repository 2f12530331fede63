"""``queue-node restore BACKUP``: a backup becomes a data directory again.

Into a directory that is missing or empty. A mark stands in it until all is there and checked;
with the mark nobody serves it, and a restore that was cut short begins anew.

**Lease tokens.** A backup does not know the tokens that were given after it was made. Given
once more, such a token would let a worker of those days finish somebody else's attempt. So a
restored partition goes on from the time of the restore, in ms, times 2^18: no partition gives
as many as 262,144 leases a millisecond, so that is above any token of any life before.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from partitions.clock import SystemClock
from partitions.copying import copying_file, files_of
from partitions.disk import RealDisk
from partitions.events import TokensRaised
from partitions.log import identity_of
from partitions.recovery import recover
from partitions.state import PartitionState
from queue_node.backup_file import BackupFile, read_backup_file
from queue_node.census import Count, count_jobs, rows_of
from queue_node.directory import LOCK, hold
from queue_node.errors import DirectoryError, ExitCode, NodeError
from queue_node.node_file import (
    FORMAT,
    KEYS,
    RESTORING,
    NodeFile,
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
    exit_codes,
    free_bytes,
    plain_faults,
    remove,
    warn,
)
from queue_node.progress import Stages, print_summary, size, stages

_TOKEN_SHIFT: Final = 18
_HARMLESS: Final = {LOCK, "lost+found"}
_disk: Final = RealDisk()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, or with ``dry_run`` would be."""

    backup: str
    directory: str
    partitions: int
    dry_run: bool
    copied_bytes: int
    free_bytes: int
    """Before it."""
    keys: int | None
    """API keys in the backup; None: they are elsewhere."""
    count: Count
    """What the backup says, checked unless this is a dry run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node restore``, its arguments."""
    parser.description = (
        "Make a data directory of a backup; `queue-node serve` goes on from it. What happened\n"
        "after the backup was made is gone: jobs finished since then run again, jobs submitted\n"
        "since then are unknown, keys revoked since then are valid again."
    )
    parser.epilog = exit_codes("not done, or texts were unreadable in the backup")
    parser.add_argument("backup", metavar="BACKUP", help="a directory that `backup` made")
    add_common_arguments(
        parser,
        dry_run_skips="it believes backup.json: damage to the other files of the backup is found"
        " by `queue-node verify`",
    )


def run(arguments: argparse.Namespace) -> int:
    """Restore, print what there is; 1 when some texts were unreadable in the backup already.

    Raises:
        NodeError: it was not restored, and why.
    """
    settings = begin()
    backup = Path(os.path.abspath(arguments.backup))
    report = plan(backup, data_directory(arguments.directory, settings))
    if arguments.dry_run:
        check_room(Path(report.directory), report.copied_bytes)
    else:
        with stages(quiet=arguments.json) as bars:
            report = restore(report, bars)
    if report.count.unreadable:
        warn(f"{report.count.unreadable} texts were unreadable when the backup was made")
    print_summary(report, _rows(report), as_json=arguments.json)
    return ExitCode.FAULT if report.count.unreadable else 0


def plan(backup: Path, target: Path) -> Report:
    """What ``restore`` would do; nothing is changed.

    Raises:
        NodeError: it would refuse.
    """
    about = read_backup_file(backup)
    if target.is_relative_to(backup) or backup.is_relative_to(target):
        raise ToolUsageError(f"{target} and {backup} lie in each other")
    with plain_faults():
        _refuse_unless_empty(target)
        needed = sum(file.stat().st_size for file in _files(backup, about))
    return Report(
        backup=str(backup),
        directory=str(target),
        partitions=about.partitions,
        dry_run=True,
        copied_bytes=needed,
        free_bytes=free_bytes(target),
        keys=about.keys,
        count=about.count,
    )


def restore(planned: Report, bars: Stages) -> Report:
    """Restore; what is there afterwards is what was backed up, or it is no data directory.

    Raises:
        NodeError: why it is not. It can be called again.
    """
    backup, target = Path(planned.backup), Path(planned.directory)
    about = read_backup_file(backup)
    check_room(target, planned.copied_bytes)
    with hold(str(target)), plain_faults():
        _refuse_unless_empty(target)
        _begin(target)
        with bars.stage("copying", planned.copied_bytes) as stage:
            for done in _copying(backup, target, about):
                stage.advance(done)
        _raise_tokens(target, about.partitions)
        count, _ = count_jobs(target, about.partitions, bars, "checking")
        if count != about.count:
            raise NodeError(
                f"{backup} is damaged: it holds {count.jobs} jobs (digest {count.digest}), and "
                f"was made with {about.count.jobs} (digest {about.count.digest})"
            )
        write_node_file(target, NodeFile(FORMAT, about.partitions))
        (target / RESTORING).unlink()
        sync_directory(target)
    return msgspec.structs.replace(planned, dry_run=False, count=count)


def _refuse_unless_empty(target: Path) -> None:
    if not target.exists():
        return
    names = set(os.listdir(target)) - _HARMLESS
    if names and RESTORING not in names:
        raise DirectoryError(
            f"WAL_DIR={target} is not empty ({min(names)} is in it): restore into a new directory"
        )


def _begin(target: Path) -> None:
    """Put up the mark, and remove what a restore that was cut short left."""
    mark = target / RESTORING
    _disk.create(mark).close()
    sync_directory(target)
    for entry in target.iterdir():
        if entry.name not in _HARMLESS and entry != mark:
            remove(entry)


def _files(backup: Path, about: BackupFile) -> Iterator[Path]:
    for number in range(about.partitions):
        directory = backup / partition_name(number)
        yield from (directory / name for name in files_of(directory))
    if about.keys is not None:
        yield backup / KEYS


def _copying(backup: Path, target: Path, about: BackupFile) -> Iterator[int]:
    """Copy all files; yields bytes as they are done."""
    for number in range(about.partitions):
        _disk.make_directory(target / partition_name(number))
    for file in _files(backup, about):
        yield from copying_file(file, target / file.relative_to(backup))
    for number in range(about.partitions):
        sync_directory(target / partition_name(number))


def _raise_tokens(target: Path, partitions: int) -> None:
    """Let every partition give tokens that it never gave before; see the module."""
    for number in range(partitions):
        directory = target / partition_name(number)
        found = recover(_disk, directory, identity_of(number, partitions), PartitionState())
        now_ms = SystemClock(found.newest_ms).now_ms()
        found.log.commit([TokensRaised(now_ms << _TOKEN_SHIFT)], now_ms)
        found.log.close()


def _rows(report: Report) -> list[tuple[str, str]]:
    return [
        ("directory", report.directory + (" (dry run: not made)" if report.dry_run else "")),
        ("from", f"{report.backup}, partitions: {report.partitions}"),
        ("copied", f"{size(report.copied_bytes)} ({size(report.free_bytes)} were free)"),
        ("keys", "not in it" if report.keys is None else f"{report.keys:,}"),
        *rows_of(report.count),
    ]
