"""``queue-node soak``: a private node under load for as long as you like, and a verdict.

Exit code 0: no promise was broken, memory and disk did not grow. Otherwise 1, the first
violations with their job ids on standard error, and the node's log and data stay.
"""

import argparse
import math
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from queue_node.demo_processes import check_that_processes_can_be_found
from queue_node.errors import ExitCode
from queue_node.soak.load import Crew
from queue_node.soak.node import SoakError
from queue_node.soak.report import verdict_lines
from queue_node.soak.run import Soak, Wish

_MINUTES_MAX: Final = 60 * 24 * 366
_RATE_MAX: Final = 1_000.0


class SoakUsageError(SoakError):
    """What was asked for cannot be done."""

    exit_code = ExitCode.USAGE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node soak``, its arguments."""
    parser.add_argument(
        "--minutes",
        type=_minutes,
        metavar="N",
        default=10.0,
        help="how long (10); Ctrl-C ends it early, with a verdict",
    )
    parser.add_argument(
        "--chaos",
        action="store_true",
        help="kill partitions, fronts and the node (SIGKILL), stall them, fill the disk (as root)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="S", help="of load and attacks (drawn, and printed)"
    )
    parser.add_argument(
        "--rate", type=_rate, metavar="R", default=60.0, help="jobs submitted a second (60)"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="keep data (with --chaos: disk.img) and log of the node here; must be empty or new "
        "(default: a temporary folder, kept when the soak fails)",
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the soak; exit code 0 when nothing was broken.

    Raises:
        SoakError: it could not be run.
    """
    check_that_processes_can_be_found()
    seed = random.SystemRandom().randrange(1 << 31) if arguments.seed is None else arguments.seed
    folder = _folder(arguments.directory)
    console = Console(stderr=True, quiet=arguments.json, soft_wrap=True, highlight=False)
    console.print(f"{arguments.minutes:g} minutes, seed {seed}, node in {folder}")
    crew = Crew(rate=arguments.rate, seed=seed)
    soak = Soak(Wish(arguments.minutes, arguments.chaos, crew), folder, console.print)
    progress = Progress(
        TextColumn("soak"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:.0f}%"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with progress:
        bar = progress.add_task("soak", total=1.0)
        verdict = soak.run(lambda: progress.update(bar, completed=soak.share_done))
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(verdict)).decode() + "\n")
    else:
        for line in verdict_lines(verdict):
            print(line)
    for complaint in verdict.complaints:
        print(f"queue-node: {complaint}", file=sys.stderr)
    if not verdict.good:
        print(f"queue-node: the node's log and data are kept in {folder}", file=sys.stderr)
        return ExitCode.FAULT
    if arguments.directory is None:
        _remove(folder)
    return 0


def _folder(wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="queue-node-soak-"))
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        if any(wanted.iterdir()):
            raise SoakUsageError(f"--directory: {wanted} is not empty")
    except OSError as error:
        raise SoakUsageError(f"--directory: {wanted}: {error.strerror}") from error
    return wanted.resolve()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _minutes(text: str) -> float:
    return _number(text, _MINUTES_MAX)


def _rate(text: str) -> float:
    return _number(text, _RATE_MAX)


def _number(text: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan  # In no range, as "nan" itself.
    if not 0 < number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most {most:.0f}")
    return number
