"""``queue-node bench micro``: the state machine, the codecs, the log or the storage, alone."""

import argparse
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench import environment
from bench.errors import BenchError
from bench.micro import codec, log, state, storage
from bench.micro.figure import Figure
from partitions.limits import TEXT_BYTES_MAX

PARTS = ("state", "codec", "log", "storage")
_ON_DISK = ("log", "storage")


def add_arguments(modes: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The subcommand and its options."""
    parser = modes.add_parser("micro", help="parts of a partition alone, without any HTTP")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="log, storage: the files are made below it (default: the current directory)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=storage.JOBS,
        metavar="N",
        help="storage: so many wait (default: %(default)s; 5000000 take 2 minutes and 2.5 GB)",
    )
    parser.add_argument(
        "--acks",
        type=int,
        default=storage.ACKS,
        metavar="N",
        help="storage: so many are acked at once (default: %(default)s)",
    )
    parser.add_argument(
        "--payload-bytes",
        type=int,
        default=storage.PAYLOAD_BYTES,
        metavar="N",
        help="storage: of each job (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure one part; the exit code."""
    directory: Path = arguments.dir
    if arguments.part in _ON_DISK and not directory.is_dir():
        print(f"queue-node bench: --dir: {str(directory)!r} is not a directory", file=sys.stderr)
        return 2
    for option in ("jobs", "acks", "payload_bytes"):
        if getattr(arguments, option) < 1:
            name = option.replace("_", "-")
            print(f"queue-node bench: --{name}: must be at least 1", file=sys.stderr)
            return 2
    if arguments.payload_bytes > TEXT_BYTES_MAX:
        print(f"queue-node bench: --payload-bytes: at most {TEXT_BYTES_MAX}", file=sys.stderr)
        return 2
    facts = environment.describe(directory if arguments.part in _ON_DISK else None)
    try:
        figures = _measure(arguments, directory)
    except BenchError as error:
        print(f"queue-node bench: {error}", file=sys.stderr)
        return 1
    _print(arguments.part, figures, facts, as_json=arguments.json)
    return 0


def _measure(arguments: argparse.Namespace, directory: Path) -> list[Figure]:
    match arguments.part:
        case "state":
            return state.measure()
        case "codec":
            return codec.measure()
        case "log":
            return log.measure(directory)
        case _:
            load = storage.Load(arguments.jobs, arguments.acks, arguments.payload_bytes)
            filling = f"filling and starting a log of {load.jobs:,} jobs ..."
            with Console(stderr=True).status(filling):
                return storage.measure(directory, load)


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
