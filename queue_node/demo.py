"""``queue-node demo``: the main job on real input, with a node and workers of its own.

One job per regular file below PATH; worker processes of our SDK hash it and count its lines
and words; every result is read back and checked against a direct computation. ``--chaos``
kills a partition and a front with SIGKILL in the middle, and nothing may be lost.
"""

import argparse
import os
import sys
import sysconfig
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from queue_node.demo_load import Load, Report, find_files
from queue_node.demo_processes import (
    DemoError,
    DemoNode,
    DemoWorkers,
    check_that_processes_can_be_found,
    running_node,
    running_workers,
)
from queue_node.errors import ExitCode
from queue_node_sdk import Client, QueueNodeError

_CONCURRENCY: Final = 4
"""Threads of a worker process: more than one hides the time that a request is under way."""

_LOOK_SECONDS: Final = 0.1

_NODE_SETTINGS: Final = {
    "SEED_DEV_KEYS": "1",
    # A job whose file is gone has its attempts behind it in seconds.
    "RETRY_BACKOFF": "100ms",
    "RETRY_BACKOFF_MAX": "1s",
}
_CHAOS_SETTINGS: Final = {
    "PARTITIONS": "2",
    "FRONTS": "2",
    # A lease whose answer died with its front ends by itself, and the demo waits for it.
    "LEASE_DURATION": "5s",
    "LEASE_CHECK_INTERVAL": "1s",
}


class DemoUsageError(DemoError):
    """What was asked for cannot be done."""

    exit_code = ExitCode.USAGE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node demo``, its arguments."""
    parser.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        help="file or folder to work on (default: the standard library of this Python)",
    )
    parser.add_argument(
        "--chaos",
        action="store_true",
        help="kill a partition and a front (SIGKILL) in the middle; nothing may be lost",
    )
    parser.add_argument(
        "--limit", type=_at_least_one, metavar="N", help="take the first N files only"
    )
    parser.add_argument(
        "--workers", type=_at_least_one, metavar="N", default=2, help="worker processes (2)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; exit code 0 when nothing was lost and nothing wrong.

    Raises:
        DemoError: it could not be run to its end.
    """
    console = Console(stderr=True, quiet=arguments.json)
    paths, skipped = _files(arguments.path, arguments.limit)
    if arguments.chaos:
        check_that_processes_can_be_found()
    if skipped:
        console.print(f"{skipped} files cannot be read and are left out")
    report = _run(paths, arguments.chaos, arguments.workers, console)
    report.skipped = skipped
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")
    else:
        Console().print(_table(report))
    for complaint in report.complaints:
        print(f"queue-node: {complaint}", file=sys.stderr)
    return 0 if report.good else 1


def _files(path: str | None, limit: int | None) -> tuple[list[str], int]:
    if path is None:
        # What was installed beside the standard library is not part of it.
        without = frozenset({"site-packages", "dist-packages"})
        path = sysconfig.get_path("stdlib")
    else:
        without = frozenset()
    if not Path(path).exists():
        raise DemoUsageError(f"{path}: no such file or folder")
    if Path(path).is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise DemoUsageError(f"{path}: this folder cannot be read")
    paths, skipped = find_files(os.path.abspath(path), limit, without)
    if not paths:
        what = f"{skipped} files, none of them readable" if skipped else "no regular file"
        raise DemoUsageError(f"{path}: {what} there, so there is nothing to do")
    return paths, skipped


def _run(paths: list[str], chaos: bool, workers: int, console: Console) -> Report:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="queue-node-demo-")))
        console.print(f"{len(paths)} files; starting a node in {folder}")
        settings = _NODE_SETTINGS | (_CHAOS_SETTINGS if chaos else {})
        node = stack.enter_context(running_node(folder, settings))
        crew = stack.enter_context(running_workers(folder, node, workers, _CONCURRENCY))
        client = stack.enter_context(Client(node.url, node.client_key))
        kills = [partial(node.kill_one, kind) for kind in ("partition", "front")] if chaos else []
        load = Load(client, paths, kills)
        try:
            _follow(load, node, crew, len(paths), console)
        except QueueNodeError as error:
            raise DemoError(f"{type(error).__name__}: {error}") from error
        return load.report()


def _follow(load: Load, node: DemoNode, workers: DemoWorkers, total: int, console: Console) -> None:
    """Run ``load`` to its end and show how far it is."""
    progress = Progress(
        TextColumn("{task.description:>9}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        # A file or a pipe gets no bars, only the table.
        disable=not console.is_terminal,
    )
    with progress:
        submitted = progress.add_task("submitted", total=total)
        done = progress.add_task("done", total=total)
        told = 0
        load.start()
        finished = False
        while not finished:
            finished = load.wait(_LOOK_SECONDS)
            node.check()
            workers.check()
            progress.update(submitted, completed=load.submitted)
            progress.update(done, completed=load.done)
            for victim in load.killed[told:]:
                console.print(f"killed {victim}")
                told += 1


def _table(report: Report) -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows = [
        ("jobs", f"{report.jobs:,}"),
        ("jobs/s", f"{report.jobs_per_second:,.0f}"),
        ("submit to done, p50", f"{report.p50_ms:,.0f} ms"),
        ("submit to done, p99", f"{report.p99_ms:,.0f} ms"),
        ("retries", f"{report.retries:,}"),
    ]
    rows += [("killed", victim) for victim in report.killed]
    if report.killed or report.possibly_doubled:
        rows.append(("submits possibly doubled", f"{report.possibly_doubled:,}"))
    if report.changed:
        rows.append(("files changed meanwhile", f"{report.changed:,}"))
    if report.skipped:
        rows.append(("files not readable", f"{report.skipped:,}"))
    rows += [("wrong", f"{report.wrong:,}"), ("lost", f"{report.lost:,}")]
    for row in rows:
        table.add_row(*row)
    return table


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number
