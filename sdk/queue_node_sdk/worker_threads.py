"""Handlers that are plain functions: one thread for each job at a time.

For ``process=True`` there is a process behind each thread.
"""

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Protocol

from queue_node_sdk.worker_context import JobContext
from queue_node_sdk.worker_core import Ending, GivenBack
from queue_node_sdk.worker_endings import attempt


class Bench(Protocol):
    """Where one job at a time is worked on; used by one thread."""

    def open(self) -> None:
        """Get ready, before the first job."""

    def work(self, job: JobContext) -> Ending:
        """Run the handler to its end. Raises nothing."""
        ...

    def lose(self, job: JobContext) -> None:
        """End the handler of ``job``, if it runs here. From any thread."""

    def close(self) -> None:
        """There will be no more jobs."""


class InThread:
    """The handler runs in the worker's thread. It cannot be ended: it may ask ``job.lost``."""

    def __init__(self, handler: Callable[[JobContext], object]) -> None:
        self._handler = handler

    def open(self) -> None:
        """Nothing to do."""

    def work(self, job: JobContext) -> Ending:
        """Run it here."""
        return attempt(self._handler, job)

    def lose(self, job: JobContext) -> None:
        """``job.lost`` is true already."""

    def close(self) -> None:
        """Nothing to do."""


class ThreadRunner:
    """A ``Runner``: one thread for each bench, all of which take from one line of jobs."""

    def __init__(
        self, benches: Sequence[Bench], ended: Callable[[JobContext, Ending], None]
    ) -> None:
        self._benches = benches
        self._ended = ended
        self._line: SimpleQueue[JobContext | None] = SimpleQueue()
        # Daemons: a handler that does not end within the grace time keeps no process alive.
        self._threads = [
            threading.Thread(
                target=self._serve, args=(bench,), name=f"queue-node-worker-{number}", daemon=True
            )
            for number, bench in enumerate(benches)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, job: JobContext) -> None:
        """Put it in the line."""
        self._line.put(job)

    def withdraw(self) -> list[JobContext]:
        """Empty the line."""
        waiting: list[JobContext] = []
        while True:
            try:
                job = self._line.get_nowait()
            except Empty:
                return waiting
            if job is not None:
                waiting.append(job)

    def lose(self, job: JobContext) -> None:
        """The bench that has it knows what can be done."""
        for bench in self._benches:
            bench.lose(job)

    def finish(self) -> None:
        """Let each thread end after what it is at."""
        for _ in self._threads:
            self._line.put(None)

    def join(self, seconds: float) -> None:
        """Wait so long for threads that have nothing left to do; others are left to themselves."""
        for thread in self._threads:
            thread.join(seconds)

    def _serve(self, bench: Bench) -> None:
        bench.open()
        while (job := self._line.get()) is not None:
            # Lost while it was in the line: nobody would hear of it.
            self._ended(job, GivenBack() if job.lost else bench.work(job))
        bench.close()
