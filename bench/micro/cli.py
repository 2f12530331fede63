"""``queue-node bench micro``: the state machine, the codecs or the log, alone."""

import argparse
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench import environment
from bench.micro import codec, log, state
from bench.micro.figure import Figure

PARTS = ("state", "codec", "log")


def add_arguments(modes: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The subcommand and its options."""
    parser = modes.add_parser("micro", help="parts of a partition alone, without any HTTP")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="log: the files are made below it (default: the current directory)",
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure one part; the exit code."""
    directory: Path = arguments.dir
    if arguments.part == "log" and not directory.is_dir():
        print(f"queue-node bench: --dir: {str(directory)!r} is not a directory", file=sys.stderr)
        return 2
    facts = environment.describe(directory if arguments.part == "log" else None)
    match arguments.part:
        case "state":
            figures = state.measure()
        case "codec":
            figures = codec.measure()
        case _:
            figures = log.measure(directory)
    _print(arguments.part, figures, facts, as_json=arguments.json)
    return 0


def _print(
    part: str, figures: list[Figure], facts: environment.Environment, *, as_json: bool
) -> None:
    if as_json:
        whole = {"environment": facts, "part": part, "figures": figures}
        print(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode("utf-8"))
        return
    table = Table(title=f"{part} ({facts.cpu}, {facts.python})")
    table.add_column("what")
    for name in ("a second", "us each"):
        table.add_column(name, justify="right")
    table.add_column("note")
    for figure in figures:
        table.add_row(
            figure.what, f"{figure.per_second:,.0f}", f"{figure.us_each:.2f}", figure.note
        )
    console = Console()
    console.print(table)
    sync = facts.fdatasync
    if sync is not None:
        console.print(
            f"write + fdatasync of 300 bytes: {sync.median_ms:.3f} ms "
            f"on {facts.directory_filesystem}"
        )
