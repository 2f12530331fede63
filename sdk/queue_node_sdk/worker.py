"""The side that does the work: leases jobs, runs a handler on each, reports the outcome.

``Worker`` puts the parts together: ``worker_engine`` talks to the node in a thread of its own,
``worker_threads``, ``worker_async`` or ``worker_process`` run the handlers. ``worker_core`` is
what they do, without threads.

A job that this process holds when it dies is given to another worker once its lease ends:
delivery is at least once, and a handler should not mind to see a job again.
"""

import functools
import inspect
import logging
import signal
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any, Final, Literal, Self, cast

import anyio
import anyio.to_thread
import httpx2

from queue_node_sdk.atransport import AsyncTransport
from queue_node_sdk.errors import ConfigurationError, QueueNodeError
from queue_node_sdk.settings import check_key, check_url, url_and_key_from_env
from queue_node_sdk.worker_async import AsyncRunner
from queue_node_sdk.worker_context import JobContext
from queue_node_sdk.worker_engine import Engine, Line, Runner
from queue_node_sdk.worker_options import WorkerOptions, default_name
from queue_node_sdk.worker_process import InEither, InProcess, InProcesses, check_handler
from queue_node_sdk.worker_threads import Bench, InThread, ThreadRunner

Handler = Callable[[JobContext], str | None] | Callable[[JobContext], Awaitable[str | None]]
"""What works on a job. One that is annotated with ``LeasedJob`` fits as well."""

Backend = Literal["asyncio", "trio"]

_log: Final = logging.getLogger("queue_node")

_LEAVE_SECONDS: Final = 7.0
"""For the last words of a worker that was cancelled: a bit more than the engine takes."""
_JOIN_SECONDS: Final = 1.0
"""For a thread that has nothing left to do."""
_LISTEN_SECONDS: Final = 0.5
"""How often the main thread, when it only waits, looks whether a signal came.

Python handles signals in the main thread, between two steps of it. One that comes just before
it goes to sleep, or that the system gives to another thread, does not wake it.
"""


class Worker:
    """Runs ``handler`` on jobs of one node until it is told to stop.

    The handler gets a ``JobContext`` and returns the result (a ``str``, or ``None`` for a
    success without one). What it raises is the failure of this attempt, and the node decides
    whether there is another; ``Retry``, ``Reject`` and ``Release`` say more. Leases are
    extended as long as it runs.

    - ``def``: runs in one of ``concurrency`` threads. When its job is lost it can only be
      told: ``job.lost``.
    - ``async def``: runs as a task of the event loop of ``run_async``, or of ``run``, which
      starts one (``backend``). When its job is lost its scope is cancelled.
    - ``def`` with ``process=True``: runs in one of ``concurrency`` processes. When its job is
      lost the process is killed. The handler must be importable, and the program guard its
      start with ``if __name__ == "__main__":``. A handler with a method ``in_process(job)``, such
      as that of tasks with ``process=True``, has some jobs run so and the others in threads.
    """

    def __init__(
        self,
        url: str,
        key: str,
        handler: Handler,
        *,
        concurrency: int = 4,
        queues: Sequence[str] | None = None,
        process: bool = False,
        backend: Backend = "asyncio",
        prefetch: int = 0,
        grace: float | None = 25.0,
        lease_seconds: float | None = None,
        name: str | None = None,
        poll_interval: float = 1.0,
        request_timeout: float = 10.0,
        verify: ssl.SSLContext | bool = True,
        http_transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: of the node, such as ``http://127.0.0.1:8080``.
            key: a worker key (``worker_...``) or an admin key.
            handler: called with each job.
            concurrency: how many jobs are worked on at once.
            queues: in order of preference; ``None``: ``default``.
            process: run the handler in processes instead of threads.
            backend: of the event loop that ``run`` starts for an ``async def``.
            prefetch: how many jobs to lease beyond those that run, ``concurrency`` at most:
                for jobs that are shorter than a request to the node. They wait here, while
                other workers may be free.
            grace: seconds for the jobs in hand to finish after a stop; then they are released.
                ``None``: no limit.
            lease_seconds: how long a lease lasts without a heartbeat; ``None``: as the job or
                the node says.
            name: shows in the jobs; ``None``: host and process id.
            poll_interval: the longest pause between two questions for work, in seconds, to a
                node that does not let them wait.
            request_timeout: seconds that one request may wait for the node.
            verify: how a node's certificate is checked: an ``ssl.SSLContext`` for a
                private authority.
            http_transport: to reach the node by other means than a socket.

        Raises:
            ConfigurationError: the URL, the key or an option cannot be right.
        """
        self._options = WorkerOptions(
            concurrency=concurrency,
            prefetch=prefetch,
            queues=queues,
            lease_seconds=lease_seconds,
            grace=grace,
            name=default_name() if name is None else name,
            poll_interval=poll_interval,
        )
        if not request_timeout > 0:
            raise ConfigurationError("request_timeout must be more than 0 seconds")
        self._url = check_url(url)
        self._handler = handler
        self._asynchronous = _is_async(handler)
        self._in_processes = process
        self._backend = backend
        if process:
            if self._asynchronous:
                raise ConfigurationError("process=True is for a plain def, not an async def")
            check_handler(cast("Callable[[JobContext], object]", handler))
        make_line: Callable[[], Line] = functools.partial(
            AsyncTransport,
            self._url,
            check_key(key),
            request_timeout=request_timeout,
            verify=verify,
            http_transport=http_transport,
        )
        self._engine = Engine(self._options, make_line)
        self._ran = False

    @classmethod
    def from_env(cls, handler: Handler, *, concurrency: int = 4, **options: Any) -> Self:  # noqa: ANN401 - those of __init__
        """A worker for the node in ``QUEUE_NODE_URL``, with the key in ``QUEUE_NODE_KEY``.

        Raises:
            ConfigurationError: one of them is not set, or cannot be right.
        """
        url, key = url_and_key_from_env()
        return cls(url, key, handler, concurrency=concurrency, **options)

    def run(self) -> None:
        """Work until ``stop()``, SIGTERM or SIGINT; then finish what is held and return.

        Finishing takes ``grace`` seconds at most; what has not ended then is released at once,
        for another worker. In the main thread the two signals are taken over meanwhile; a
        second one ends the process at once. A node that is away is waited for, for ever. A
        worker runs once: make another to go on.

        Raises:
            AuthError: the node does not take the key (any more).
            QueueNodeError: nothing at the URL behaves like a node, from the start; or the
                worker has run already.
        """
        with ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():
                stack.enter_context(_StopOnSignals(self.stop))
            if self._asynchronous:
                anyio.run(self._run_listening, backend=self._backend)
            else:
                self._run_in_threads()

    async def run_async(self) -> None:
        """``run`` in an event loop that runs already, trio's or asyncio's.

        Signals are left alone: call ``stop()``. When it is cancelled, so are the handlers, and
        their jobs are released at once. A plain ``def`` runs in threads here too.

        Raises:
            QueueNodeError: as ``run``.
        """
        if not self._asynchronous:
            try:
                await anyio.to_thread.run_sync(self._run_in_threads, abandon_on_cancel=True)
            finally:
                self._engine.stop(0)
            return
        self._begin()
        handler = cast("Callable[[JobContext], Awaitable[object]]", self._handler)
        runner = AsyncRunner(handler, self._options.concurrency, self._engine.ended)
        thread = self._start_engine(runner)
        try:
            await runner.run()
        finally:
            # Nothing is left to wait for unless we were cancelled.
            self._engine.stop(0)
            with anyio.move_on_after(_LEAVE_SECONDS, shield=True):
                await anyio.to_thread.run_sync(thread.join, _LEAVE_SECONDS)
            runner.close()
        self._raise_what_ended_it()

    def stop(self) -> None:
        """Lease nothing more and let ``run`` return when the jobs in hand are through.

        From any thread, or from a handler; more than once is as once.
        """
        self._engine.stop(self._options.grace)

    def __repr__(self) -> str:
        # Never the key.
        return f"Worker({self._url!r})"

    async def _run_listening(self) -> None:
        """``run_async`` in a loop that wakes up for signals."""
        error: QueueNodeError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_wake_up_for_signals)
            try:
                await self.run_async()
            except QueueNodeError as caught:
                # Raised below, where it is not one of a group.
                error = caught
            tasks.cancel_scope.cancel()
        if error is not None:
            raise error

    def _run_in_threads(self) -> None:
        self._begin()
        benches = [self._make_bench() for _ in range(self._options.concurrency)]
        runner = ThreadRunner(benches, self._engine.ended)
        thread = self._start_engine(runner)
        try:
            while thread.is_alive():
                thread.join(_LISTEN_SECONDS)
        finally:
            self._engine.stop(0)
        runner.join(_JOIN_SECONDS)
        self._raise_what_ended_it()

    def _make_bench(self) -> Bench:
        handler = cast("Callable[[JobContext], object]", self._handler)
        if self._in_processes:
            return InProcess(handler)
        if isinstance(handler, InProcesses):
            return InEither(handler)
        return InThread(handler)

    def _begin(self) -> None:
        if self._ran:
            raise QueueNodeError("this worker has run already; make another to go on")
        self._ran = True

    def _start_engine(self, runner: Runner) -> threading.Thread:
        thread = threading.Thread(
            target=self._engine.run, args=(runner,), name="queue-node-engine", daemon=True
        )
        thread.start()
        return thread

    def _raise_what_ended_it(self) -> None:
        if self._engine.fatal is not None:
            raise self._engine.fatal


class _StopOnSignals:
    """While entered, SIGTERM and SIGINT call ``stop``; the second ends the process."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._before: dict[
            int, Callable[[int, FrameType | None], Any] | int | signal.Handlers | None
        ] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._first)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: it was not set from Python, and cannot be set back from here.
            signal.signal(number, handler or signal.SIG_DFL)

    def _first(self, number: int, _frame: FrameType | None) -> None:
        # The next signal does what it does to a process that handles none: it dies of it,
        # in the middle of its handlers, and their jobs run again when the leases end.
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        # Stopped before it is said: who reads the line can rely on it.
        self._stop()
        _log.warning(
            "%s: finishing the jobs in hand; again to end at once", signal.Signals(number).name
        )


async def _wake_up_for_signals() -> None:
    while True:  # noqa: ASYNC110 - nothing else is waited for
        await anyio.sleep(_LISTEN_SECONDS)


def _is_async(handler: object) -> bool:
    """Whether calling it gives an awaitable: ``async def``, wrapped or as ``__call__``."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    call = getattr(handler, "__call__", None)  # noqa: B004 - it may be a coroutine function
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)
