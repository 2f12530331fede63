"""Progress on a terminal: a bar for what is running now. Silent when there is no terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.fleet import OnProgress


class TerminalDisplay:
    """Bars on standard error, so that standard output is the report alone."""

    def __init__(self) -> None:
        """Find out whether anybody looks."""
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<36}"),
            BarColumn(),
            TextColumn("{task.fields[done]:>12,} done"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> Self:
        """Take the last line of the terminal."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back."""
        self._progress.stop()

    @contextmanager
    def stage(
        self, title: str, *, count: int | None = None, duration_s: float | None = None
    ) -> Iterator[OnProgress]:
        """A bar for ``count`` units, or for a time."""
        task = self._progress.add_task(title, total=count or duration_s, done=0)
        started = time.monotonic()

        def on_progress(done: int) -> None:
            completed = done if count else time.monotonic() - started
            self._progress.update(task, completed=completed, done=done)

        try:
            yield on_progress
        finally:
            self._progress.remove_task(task)
