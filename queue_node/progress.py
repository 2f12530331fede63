"""How the commands that move data show where they are and what came of it.

Bars go to standard error, and only to a terminal; the summary goes to standard output, as a
table or as one JSON object.
"""

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

_WIDTH: Final = 14

T = TypeVar("T")


class Stage:
    """One bar."""

    def __init__(self, progress: Progress, what: str, total: float) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=max(total, 1e-9))

    def advance(self, by: float) -> None:
        """So much more is done."""
        self._progress.advance(self._task, by)

    def reach(self, done: float) -> None:
        """So much is done in all."""
        self._progress.update(self._task, completed=done)

    def follow(self, steps: Generator[float, None, T], index: int) -> T:
        """Run ``steps`` to their end; they yield how much of part ``index`` is done, 0 to 1."""
        while True:
            try:
                self.reach(index + next(steps))
            except StopIteration as end:
                result: T = end.value
                return result


class Stages:
    """The bars of one command."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def stage(self, what: str, total: float) -> Iterator[Stage]:
        """A bar for what happens inside the block; full at its end."""
        stage = Stage(self._progress, what, total)
        yield stage
        stage.reach(max(total, 1e-9))


@contextmanager
def stages(*, quiet: bool) -> Iterator[Stages]:
    """Bars for what happens inside the block."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn(f"{{task.description:>{_WIDTH}}}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    with progress:
        yield Stages(progress)


def size(number_bytes: int) -> str:
    """For people: ``1.2 MB``."""
    return decimal(number_bytes)


def print_json(report: msgspec.Struct) -> None:
    """The report as one JSON object in one line."""
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


def print_summary(report: msgspec.Struct, rows: list[tuple[str, str]], *, as_json: bool) -> None:
    """The report as JSON, or its rows as a table."""
    if as_json:
        print_json(report)
        return
    # Without a frame, so that a digest of 64 characters fits into a line of 80.
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
