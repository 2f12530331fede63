"""``queue-node repair``: a copy of a data directory without the damage, and what it cost.

The original is only read, under locks that keep a node off it. A partition that checks is
copied as it is; one that does not is built anew from what can be proven: see
``partitions.remains`` for what that is, ``partitions.rebuild`` for how. ``node.json`` comes last
into the copy, so that no node starts on half of one.
"""

import argparse
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from partitions.copying import copying_file, files_of
from partitions.disk import RealDisk
from partitions.log import identity_of
from partitions.rebuild import Checked, checking, rebuilding
from partitions.remains import Gap, Remains, gathering
from partitions.slots import format_job_id
from partitions.verify import Fault, PartitionReport, verifying
from queue_node.directory import LOCK
from queue_node.errors import DirectoryError, NodeError
from queue_node.node_file import (
    KEYS,
    partition_name,
    sync_directory,
    write_node_file,
)
from queue_node.offline import (
    ToolUsageError,
    begin,
    check_room,
    data_directory,
    existing_node,
    plain_faults,
)
from queue_node.progress import Stages, print_json, stages
from queue_node.verify import fault_lines, verify

_disk: Final = RealDisk()

_SHOWN_MAX: Final = 20
_ROOM_FOR_EACH: Final = 4 << 20
"""A partition's zeros ahead, and its snapshot."""

_SUBMISSION: Final = "its submission is in a gap of the log"
_PAYLOAD: Final = "its payload cannot be read"


class LostJob(msgspec.Struct, frozen=True):
    """A job that is not in the copy."""

    job_id: str
    why: str


class RepairedPartition(msgspec.Struct, frozen=True):
    """What became of a partition."""

    partition: int
    damaged: bool
    """False: it was copied as it is."""
    jobs: int
    """In the copy."""
    lost: list[LostJob] = []
    """Jobs whose submission or payload is gone. Those that only a gap knew have no ids here."""
    uncertain: list[str] = []
    """Ids of jobs that may have gone further than the copy knows: see docs/repair.md."""
    outcomes_lost: list[str] = []
    """Ids of jobs that are in the copy without their result or error."""
    gaps: list[Gap] = []
    notes: list[str] = []
    torn_bytes: int = 0
    faults: list[Fault] = []


class Report(msgspec.Struct, frozen=True):
    """What was done, or with ``dry_run`` would be."""

    directory: str
    dest: str
    dry_run: bool
    written: bool
    """False: a dry run, or nothing is damaged."""
    partitions: list[RepairedPartition]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node repair``, its arguments."""
    parser.description = (
        "Make DEST, a copy of the data in DIRECTORY without what is damaged, and say which jobs\n"
        "are lost or uncertain. DIRECTORY is not changed in any way; its node must be stopped.\n"
        "Everything that a checksum proves is kept. When nothing is damaged, no copy is made.\n"
        "Afterwards: WAL_DIR=DEST queue-node serve."
    )
    parser.epilog = (
        "Exit codes: 0 the copy is made and checks, or there is nothing to repair; 1 it could not\n"
        "be made; 2 wrong usage; 4 DIRECTORY is not a node's, or a node runs on it."
    )
    parser.add_argument("directory", metavar="DIRECTORY", help="the damaged data directory")
    parser.add_argument("dest", metavar="DEST", help="the copy; a directory that is not there")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be lost, and write nothing"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON, with every id")


def run(arguments: argparse.Namespace) -> int:
    """Repair, and print what was lost.

    Raises:
        NodeError: there is no copy, and why.
    """
    source = data_directory(arguments.directory, begin())
    dest = Path(os.path.abspath(arguments.dest))
    with stages(quiet=arguments.json) as bars:
        report = repair(source, dest, dry_run=arguments.dry_run, bars=bars)
    if arguments.json:
        print_json(report)
    else:
        _print(report)
    return 0


def repair(source: Path, dest: Path, *, dry_run: bool, bars: Stages) -> Report:
    """Make ``dest`` of ``source``.

    Raises:
        NodeError: it could not be made; nothing is left of it.
    """
    if os.path.lexists(dest):
        raise ToolUsageError(f"{dest} exists: a repaired copy is a new directory")
    if dest.is_relative_to(source):
        raise ToolUsageError(f"{dest} is inside {source}, which is not changed")
    node = existing_node(source)
    with plain_faults(), _kept_still(source, node.partitions):
        looks = _verified(source, node.partitions, bars)
        written = any(look.faults for look in looks) and not dry_run
        if written:
            room = sum(look.disk_bytes for look in looks) + node.partitions * _ROOM_FOR_EACH
            check_room(dest, room)
        with _in_the_making(dest, written) as target:
            partitions = [_repaired(source, look, len(looks), target, bars) for look in looks]
            if target is not None:
                _copy_keys(source, target)
                write_node_file(target, node)
                copy = verify(target, deep=True, bars=bars)
                if not copy.good:
                    words = "; ".join(fault_lines([*copy.faults, *_faults_of(copy.partitions)]))
                    raise NodeError(f"the copy does not check, please report it: {words}")
    return Report(str(source), str(dest), dry_run, written, partitions)


def _faults_of(partitions: Sequence[PartitionReport]) -> Iterator[Fault]:
    for partition in partitions:
        yield from partition.faults


@contextmanager
def _kept_still(source: Path, partitions: int) -> Iterator[None]:
    """Keep a node off the data for a while; nothing is written for that."""
    with ExitStack() as stack:
        for path in (source / LOCK, *(source / partition_name(n) for n in range(partitions))):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # a copy, or a part of the damage
            stack.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DirectoryError(
                    f"{path} is in use: stop the node first; what it wrote after the repair"
                    " would be missing in the copy"
                ) from None
        yield


@contextmanager
def _in_the_making(dest: Path, wanted: bool) -> Iterator[Path | None]:
    """The new directory, gone again if anything fails; None: none is made."""
    if not wanted:
        yield None
        return
    _disk.make_directory(dest)
    try:
        yield dest
        sync_directory(dest)
    except BaseException:
        shutil.rmtree(dest, ignore_errors=True)
        raise


def _verified(source: Path, partitions: int, bars: Stages) -> list[PartitionReport]:
    looks = []
    with bars.stage("verifying", partitions) as stage:
        for number in range(partitions):
            directory = source / partition_name(number)
            steps = verifying(_disk, directory, identity_of(number, partitions), deep=True)
            looks.append(stage.follow(steps, number))
    return looks


def _repaired(
    source: Path, look: PartitionReport, partitions: int, target: Path | None, bars: Stages
) -> RepairedPartition:
    """Copy or rebuild one partition; with ``target`` None, only say what would come of it."""
    number = look.partition
    directory = source / partition_name(number)
    new = None if target is None else target / partition_name(number)
    if new is not None:
        _disk.make_directory(new)
    if not look.faults:
        if new is not None:
            _copy(directory, new, number, look.disk_bytes, bars)
        return RepairedPartition(number, False, look.jobs, torn_bytes=look.torn_bytes)
    with bars.stage(f"repairing {number}", 2 if new is None else 3) as stage:
        identity = identity_of(number, partitions)
        remains = stage.follow(gathering(_disk, directory, identity), 0)
        submissions = sorted(remains.rescue.lost)
        checked = stage.follow(checking(_disk, directory, remains), 1)
        if new is not None:
            stage.follow(rebuilding(_disk, directory, remains, new), 2)
    return _outcome(look, remains, submissions, checked)


def _outcome(
    look: PartitionReport, remains: Remains, submissions: list[bytes], checked: Checked
) -> RepairedPartition:
    lost = [LostJob(format_job_id(each), _SUBMISSION) for each in submissions]
    lost += [LostJob(format_job_id(each), _PAYLOAD) for each in sorted(checked.payloads_lost)]
    return RepairedPartition(
        look.partition,
        True,
        len(remains.rescue.jobs),
        lost,
        [format_job_id(each) for each in sorted(remains.rescue.uncertain)],
        [format_job_id(each) for each in sorted(checked.outcomes_lost)],
        remains.gaps,
        remains.notes,
        remains.torn_bytes,
        look.faults,
    )


def _copy(source: Path, target: Path, number: int, total: int, bars: Stages) -> None:
    with bars.stage(f"copying {number}", total) as stage:
        for name in files_of(source):
            for done in copying_file(source / name, target / name):
                stage.advance(done)
    _disk.sync_directory(target)


def _copy_keys(source: Path, target: Path) -> None:
    """Byte by byte: to open a key store, even to read it, can write files beside it."""
    for name in (KEYS, f"{KEYS}-wal"):
        if (source / name).exists():
            for _ in copying_file(source / name, target / name):
                pass


# For people ---------------------------------------------------------------------------------


def _print(report: Report) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for line in _lines(report):
        console.print(line)


def _lines(report: Report) -> Iterator[str]:
    for each in report.partitions:
        if not each.damaged:
            yield f"partition {each.partition}: good, {each.jobs:,} jobs"
            continue
        yield (
            f"partition {each.partition}: DAMAGED, {each.jobs:,} jobs kept,"
            f" {len(each.lost):,} lost, {len(each.uncertain):,} uncertain,"
            f" {len(each.outcomes_lost):,} without their result"
        )
        for fault in each.faults:
            yield f"  found: {fault.file}: offset {fault.offset}: {fault.what}"
        for note in each.notes:
            yield f"  {note}"
        for gap in each.gaps:
            yield f"  gap: {_gap_words(gap)}"
        yield from _listed("lost", [f"{job.job_id}: {job.why}" for job in each.lost])
        yield from _listed("uncertain", each.uncertain)
        yield from _listed("without its result or error", each.outcomes_lost)
    if report.written:
        yield f"the copy is {report.dest}, it checks; to use it: WAL_DIR={report.dest}"
    elif not any(each.damaged for each in report.partitions):
        yield "nothing is damaged, so no copy was made"
    else:
        yield f"dry run: {report.dest} was not made"


def _gap_words(gap: Gap) -> str:
    where = f"{gap.file}, offset {gap.offset}"
    if gap.last_lsn is None:
        return f"every record from {gap.first_lsn} on, {where}: nobody knows how many there were"
    if gap.last_lsn < gap.first_lsn:
        return f"record {gap.first_lsn} does not continue the one before it, {where}"
    count = gap.last_lsn - gap.first_lsn + 1
    return (
        f"records {gap.first_lsn} to {gap.last_lsn} ({count:,}), {where}: jobs that were submitted"
        " in them are lost, and nobody knows their ids but for those below"
    )


def _listed(what: str, items: Sequence[str]) -> Iterator[str]:
    for item in items[:_SHOWN_MAX]:
        yield f"  {what}: {item}"
    if len(items) > _SHOWN_MAX:
        yield f"  {what}: and {len(items) - _SHOWN_MAX:,} more, all of them with --json"
