"""``queue-node verify``: is a data directory, a copy of one, or a backup as it should be?

It only reads. See ``partitions.verify`` for what is checked, docs/repair.md for what to do.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from partitions.disk import RealDisk
from partitions.job import State
from partitions.log import identity_of
from partitions.verify import Fault, PartitionReport, verifying
from queue_node import config
from queue_node.directory import running_node
from queue_node.errors import ExitCode
from queue_node.node_file import partition_name, partition_numbers
from queue_node.offline import data_directory, existing_node, plain_faults
from queue_node.progress import Stages, print_json, size, stages

_disk: Final = RealDisk()

_EXTRA: Final = "move it away, or restore the node.json that it belongs to"


class Report(msgspec.Struct, frozen=True):
    """What was found."""

    directory: str
    good: bool
    running: int | None
    """Process id of a node that seems to run there: the figures are of one moment or another."""
    partitions: list[PartitionReport]
    faults: list[Fault]
    """Of the directory itself; those of a partition are in its own report."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node verify``, its arguments."""
    parser.description = (
        "Check the data of a node, a copy of it, or a backup: every record and snapshot, whether\n"
        "the snapshots hold what the log says, and with --deep every text that a job still needs.\n"
        "Nothing is written and no lock is taken, so the node may run. A torn tail, what\n"
        "a crash left unfinished at the very end, is normal: the next start cuts it off."
    )
    parser.epilog = (
        "Exit codes: 0 all is well; 1 something is not, it is said what and where;\n"
        "2 wrong usage; 4 DIRECTORY is not a node's. Memory: some 300 bytes for each job of the\n"
        "largest partition, and 128 MiB."
    )
    parser.add_argument(
        "directory", nargs="?", metavar="DIRECTORY", help="the data directory (default: WAL_DIR)"
    )
    parser.add_argument(
        "--deep", action="store_true", help="read every payload and result that is still needed"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON, and no bars")


def run(arguments: argparse.Namespace) -> int:
    """Print what is there; exit code 0 only when all of it checks.

    Raises:
        NodeError: there is no node's data.
    """
    path = data_directory(arguments.directory, config.read(os.environ))
    with stages(quiet=arguments.json) as bars:
        report = verify(path, deep=arguments.deep, bars=bars)
    if arguments.json:
        print_json(report)
    else:
        _print(report, deep=arguments.deep)
    return 0 if report.good else ExitCode.FAULT


def verify(path: Path, *, deep: bool, bars: Stages) -> Report:
    """Look at all partitions of a data directory.

    Raises:
        NodeError: it is none.
    """
    count = existing_node(path).partitions
    with plain_faults():
        faults = [
            Fault(
                str(path / partition_name(number)), 0, f"node.json says PARTITIONS={count}", _EXTRA
            )
            for number in partition_numbers(path)
            if number >= count
        ]
    partitions = []
    with bars.stage("verifying", count) as stage:
        for number in range(count):
            steps = verifying(
                _disk, path / partition_name(number), identity_of(number, count), deep=deep
            )
            partitions.append(stage.follow(steps, number))
    good = not faults and not any(each.faults for each in partitions)
    return Report(str(path), good, running_node(path), partitions, faults)


def fault_lines(faults: list[Fault]) -> Iterator[str]:
    """Each fault in words: where, what, and what to do."""
    for fault in faults:
        yield f"{fault.file}: offset {fault.offset}: {fault.what}"
        yield f"    {fault.advice}"


def _print(report: Report, *, deep: bool) -> None:
    # What is piped is not cut to the width of a terminal that is not there.
    console = Console(soft_wrap=True)
    table = Table("partition", title=report.directory, title_justify="left")
    for heading in _headings(deep):
        table.add_column(heading, justify="right")
    for each in report.partitions:
        table.add_row(str(each.partition), *_cells(each, deep))
    Console(width=None if console.is_terminal else _WIDE).print(table)
    for faults in (report.faults, *(each.faults for each in report.partitions)):
        for line in fault_lines(faults):
            console.print(line, markup=False, highlight=False)
    if report.running is not None:
        console.print(
            f"a node runs here (process {report.running}): what it wrote meanwhile is left out",
            markup=False,
            highlight=False,
        )
    console.print("all is well" if report.good else "NOT well: see above", highlight=False)


_WIDE: Final = 200


def _headings(deep: bool) -> list[str]:
    return [
        "segments",
        "records",
        "jobs",
        *(state.name for state in State),
        "live",
        "on disk",
        "snapshots",
        "torn",
        *(["texts"] if deep else []),
        "verdict",
    ]


def _cells(report: PartitionReport, deep: bool) -> list[str]:
    snapshots = f"{report.snapshots - report.snapshots_bad} good"
    if report.snapshots_bad:
        snapshots += f", {report.snapshots_bad} bad"
    texts = "-" if report.texts is None else f"{report.texts:,}"
    if report.texts_bad:
        texts += f", {report.texts_bad:,} bad"
    return [
        f"{report.segments:,}",
        f"{report.records:,}",
        f"{report.jobs:,}",
        *(f"{report.states.get(state.name, 0):,}" for state in State),
        size(report.live_bytes),
        size(report.disk_bytes),
        snapshots,
        f"{report.torn_bytes:,} B" if report.torn_bytes else "-",
        *([texts] if deep else []),
        "DAMAGED" if report.faults else "good",
    ]
