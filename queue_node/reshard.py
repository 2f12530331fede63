"""``queue-node reshard --partitions M``: a stopped node's jobs in M partitions.

The old data is only read; the new partitions are built and checked beside it, and take its
place by the steps of ``reshard_switch``. Killed before the decision, the node is as it was;
killed after it, the next reshard or start finishes the renames. Nothing is lost or doubled.
"""

import argparse
from pathlib import Path
from typing import Final

import msgspec

from partitions.census import Census
from partitions.copying import files_of
from partitions.disk import RealDisk
from partitions.errors import DirectoryInUseError
from partitions.log import identity_of
from partitions.regroup import Source, loading, regrouping
from queue_node import reshard_switch
from queue_node.census import Count, count_jobs, count_of, rows_of
from queue_node.config import PARTITIONS_MAX
from queue_node.directory import hold, hold_unchanged
from queue_node.errors import DirectoryError, NodeError
from queue_node.node_file import partition_name, refuse_backup
from queue_node.offline import (
    add_common_arguments,
    begin,
    check_room,
    data_directory,
    exit_codes,
    free_bytes,
    node_of,
    plain_faults,
)
from queue_node.progress import Stages, print_summary, size, stages

_JOB_BYTES: Final = 150
"""What a waiting job takes beside its texts: 45 in each of two snapshots and 30 in its event,
measured, and room for a result's event."""
_FINISHED: Final = {
    False: "were finished",
    True: "would be finished first; what follows them was not looked at",
}
_disk: Final = RealDisk()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, or with ``dry_run`` would be."""

    directory: str
    partitions_before: int
    partitions: int
    dry_run: bool
    old_bytes: int
    """Of the data as it was; the new, of about that size, is beside it for a while."""
    new_bytes: int | None = None
    free_bytes: int
    """Before it."""
    needed_bytes: int | None = None
    """Room that the new data takes at most; None: there is nothing to do, or nobody has looked."""
    finished: bool = False
    """A reshard that was cut short after its decision was finished (or would be) first."""
    count: Count | None = None
    """None: a dry run, or nothing to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node reshard``, its arguments."""
    parser.description = (
        "Move the jobs of a node that is stopped to another number of partitions. They keep\n"
        "their ids, states, attempts, order, owners, results, leases and times. Needs room for\n"
        "the live data once more, and some 300 bytes of memory a job. Whenever it is cut short,\n"
        "run it again: until it is done the old data is there."
    )
    parser.epilog = exit_codes("not done, the data is as it was")
    parser.add_argument("--partitions", type=_count, required=True, metavar="M", help="how many")
    add_common_arguments(
        parser,
        dry_run_skips="it reads the whole log, as a start does, but not the texts: one that is"
        " damaged, which a reshard refuses, is found by `queue-node verify --deep`",
    )


def run(arguments: argparse.Namespace) -> int:
    """Reshard, print what there is.

    Raises:
        NodeError: it was not done, and why; the node's data is as it was.
    """
    settings = begin()
    wal_dir = data_directory(arguments.directory, settings)
    report = plan(wal_dir, arguments.partitions)
    with stages(quiet=arguments.json) as bars:
        report = (rehearse if arguments.dry_run else reshard)(report, bars)
    print_summary(report, _rows(report), as_json=arguments.json)
    return 0


def plan(wal_dir: Path, partitions: int) -> Report:
    """What ``reshard`` is to do.

    Raises:
        NodeError: there is no node, or it is a backup.
    """
    node = node_of(wal_dir)
    refuse_backup(wal_dir)
    with plain_faults():
        old_bytes = _bytes_in(wal_dir, node.partitions)
    return Report(
        directory=str(wal_dir),
        partitions_before=node.partitions,
        partitions=partitions,
        dry_run=True,
        old_bytes=old_bytes,
        free_bytes=free_bytes(wal_dir),
    )


def rehearse(planned: Report, bars: Stages) -> Report:
    """Do what ``reshard`` does before it changes anything.

    Raises:
        NodeError: it would be refused, and why.
    """
    wal_dir = Path(planned.directory)
    with hold_unchanged(wal_dir), plain_faults():
        node = node_of(wal_dir)
        locks = _lock(wal_dir, node.partitions)
        if node.moving or node.partitions == planned.partitions:
            return msgspec.structs.replace(planned, finished=node.moving)
        sources = _load(wal_dir, node.partitions, bars)
        for source in sources:
            source.log.close()
        needed_bytes = _needed_bytes(sources)
        # What a reshard that was cut short left goes first.
        left = sum(each.stat().st_size for each in reshard_switch.folder(wal_dir).rglob("*.s*"))
        check_room(wal_dir, needed_bytes - left)
        del locks
    return msgspec.structs.replace(planned, needed_bytes=needed_bytes)


def reshard(planned: Report, bars: Stages) -> Report:
    """Reshard; a second time does nothing.

    Raises:
        NodeError: it was not done; the data is as it was, or the next call finishes it.
    """
    wal_dir, partitions = Path(planned.directory), planned.partitions
    with hold(str(wal_dir)), plain_faults():
        node = node_of(wal_dir)
        if node.moving or reshard_switch.has_leftovers(wal_dir):
            reshard_switch.finish(wal_dir)
        planned = msgspec.structs.replace(
            planned, dry_run=False, partitions_before=node.partitions, finished=node.moving
        )
        # A partition whose supervisor was killed may still be about to end.
        locks = _lock(wal_dir, node.partitions)
        if node.partitions == partitions:
            if not node.moving:
                return planned
            count, _ = count_jobs(wal_dir, partitions, bars, "checking")
            return msgspec.structs.replace(planned, count=count)
        sources = _load(wal_dir, node.partitions, bars)
        check_room(wal_dir, needed_bytes := _needed_bytes(sources))
        old = _build(wal_dir, sources, partitions, bars)
        sources.clear()  # A million jobs in memory once, not twice.
        new, _ = count_jobs(reshard_switch.building(wal_dir), partitions, bars, "checking")
        if new != old:
            raise NodeError(
                f"the new partitions hold {new.jobs} jobs (digest {new.digest}), the old ones "
                f"{old.jobs} (digest {old.digest}); nothing was changed"
            )
        new_bytes = _bytes_in(reshard_switch.building(wal_dir), partitions)
        reshard_switch.decide(wal_dir, partitions)
        reshard_switch.finish(wal_dir)
        del locks
    return msgspec.structs.replace(
        planned, needed_bytes=needed_bytes, new_bytes=new_bytes, count=new
    )


def _lock(wal_dir: Path, partitions: int) -> list[object]:
    try:
        return [
            _disk.lock_directory(wal_dir / partition_name(number))
            for number in range(partitions)
            if (wal_dir / partition_name(number)).exists()
        ]
    except DirectoryInUseError as error:
        raise DirectoryError(f"{error}: stop the node first") from error


def _load(wal_dir: Path, partitions: int, bars: Stages) -> list[Source]:
    sources = []
    with bars.stage("reading", partitions) as stage:
        for number in range(partitions):
            steps = loading(
                _disk, wal_dir / partition_name(number), identity_of(number, partitions)
            )
            sources.append(stage.follow(steps, number))
    return sources


def _needed_bytes(sources: list[Source]) -> int:
    live = sum(sum(each.head.live_bytes.values()) for each in sources)
    return live + _JOB_BYTES * sum(each.head.jobs for each in sources)


def _build(wal_dir: Path, sources: list[Source], partitions: int, bars: Stages) -> Count:
    """Write the new partitions; returns what the old ones held."""
    census = Census()
    new = reshard_switch.building(wal_dir)
    directories = [new / partition_name(number) for number in range(partitions)]
    with bars.stage("writing", sum(each.head.jobs for each in sources)) as stage:
        for done in regrouping(_disk, directories, sources, census):
            stage.reach(done)
    for source in sources:
        source.log.close()
    return count_of(census)


def _bytes_in(folder: Path, partitions: int) -> int:
    directories = [folder / partition_name(number) for number in range(partitions)]
    return sum(
        (directory / name).stat().st_size
        for directory in directories
        for name in files_of(directory)
    )


def _rows(report: Report) -> list[tuple[str, str]]:
    rows = [
        ("directory", report.directory + (" (dry run: not changed)" if report.dry_run else "")),
        ("partitions", f"{report.partitions_before} -> {report.partitions}"),
        ("size before", f"{size(report.old_bytes)} ({size(report.free_bytes)} were free)"),
    ]
    if report.finished:
        rows.append(
            ("renames", "those of a reshard that was cut short " + _FINISHED[report.dry_run])
        )
    if report.dry_run and report.needed_bytes is not None:
        rows.append(("size needed", f"{size(report.needed_bytes)} at most"))
    if report.new_bytes is not None:
        rows.append(("size now", size(report.new_bytes)))
    if report.count is not None:
        rows += rows_of(report.count)
    elif report.partitions == report.partitions_before and not report.finished:
        rows.append(("jobs", "not touched: it has so many partitions already"))
    return rows


def _count(text: str) -> int:
    # isdecimal: argparse names this function when a ValueError leaves it.
    if not (text.isdecimal() and 1 <= int(text) <= PARTITIONS_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {PARTITIONS_MAX}")
    return int(text)
