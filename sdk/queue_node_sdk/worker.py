"""The side that does the work: leases jobs, runs a handler on each, reports the outcome.

``concurrency`` threads all do the same: lease a job, run the handler, ack. Leasing stands
behind one lock, so an idle worker asks with one thread however many it has, and no job is
leased before a thread is free to run it.

A job that this process holds when it dies is given to another worker once its lease ends:
delivery is at least once, and a handler should not mind to see a job again.
"""

import logging
import random
import signal
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final, Self

from queue_node_sdk.backoff import FIRST_POLL_SECONDS, POLL_GROWTH, RECONNECT, Backoff
from queue_node_sdk.client import url_and_key_from_env
from queue_node_sdk.errors import (
    AuthError,
    BadRequest,
    ConfigurationError,
    LeaseLost,
    Overloaded,
    QueueNodeError,
    ServerError,
    Unreachable,
)
from queue_node_sdk.models import LeasedJob
from queue_node_sdk.protocol import LEASE_CALL, Call, ack_call, lease_of, lease_seconds
from queue_node_sdk.transport import Transport

Handler = Callable[[LeasedJob], str | None]

_log: Final = logging.getLogger("queue_node")

_ERROR_CHARACTERS_MAX: Final = 4_000
"""Of an exception's text that is reported: room for a message, not for a dump (guess)."""


class Worker:
    """Runs ``handler`` on jobs of one node until it is told to stop.

    The handler gets a ``LeasedJob`` and returns the result (a ``str``, or ``None`` for a
    success without one). Whatever it raises is reported as the failure of this attempt, and
    the node decides whether there is another. It runs in up to ``concurrency`` threads at
    once, and has to be done within the lease (30 s unless the node says otherwise).
    """

    def __init__(
        self,
        url: str,
        key: str,
        handler: Handler,
        *,
        concurrency: int = 4,
        poll_interval: float = 1.0,
        request_timeout: float = 10.0,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: of the node, such as ``http://127.0.0.1:8080``.
            key: a worker key (``worker_...``) or an admin key.
            handler: called with each job, in a thread of the worker's.
            concurrency: how many jobs are worked on at once.
            poll_interval: the longest pause between two questions for work, in seconds.
            request_timeout: seconds that one request may wait for the node.
            verify: how a node's certificate is checked: an ``ssl.SSLContext`` for a
                private authority.

        Raises:
            ConfigurationError: the URL, the key or a number cannot be right.
        """
        if concurrency < 1:
            raise ConfigurationError("concurrency must be 1 or more")
        if not poll_interval > 0:
            raise ConfigurationError("poll_interval must be more than 0 seconds")
        self._handler = handler
        self._concurrency = concurrency
        self._idle_pace = Backoff(
            min(FIRST_POLL_SECONDS, poll_interval), poll_interval, POLL_GROWTH
        )
        self._transport = Transport(url, key, request_timeout=request_timeout, verify=verify)
        self._leasing = threading.Lock()
        self._stopping = threading.Event()
        self._fatal: BaseException | None = None
        self._ran = False
        # What the next two say belongs to whoever holds _leasing.
        self._reached = False
        self._failures = 0

    @classmethod
    def from_env(cls, handler: Handler, *, concurrency: int = 4) -> Self:
        """A worker for the node in ``QUEUE_NODE_URL``, with the key in ``QUEUE_NODE_KEY``.

        Raises:
            ConfigurationError: one of them is not set, or cannot be right.
        """
        url, key = url_and_key_from_env()
        return cls(url, key, handler, concurrency=concurrency)

    def run(self) -> None:
        """Work until ``stop()``, SIGTERM or SIGINT; then finish what is held and return.

        In the main thread the two signals are taken over meanwhile; a second one ends the
        process at once. A node that is away is waited for, for ever. A worker runs once:
        make another to go on.

        Raises:
            AuthError: the node does not take the key (any more).
            QueueNodeError: nothing at the URL behaves like a node, from the start; or the
                worker has run already.
        """
        if self._ran:
            raise QueueNodeError("this worker has run already; make another to go on")
        self._ran = True
        threads = [
            threading.Thread(target=self._work, name=f"queue-node-worker-{number}")
            for number in range(self._concurrency)
        ]
        with ExitStack() as stack:
            stack.callback(self._transport.close)
            if threading.current_thread() is threading.main_thread():
                stack.enter_context(_StopOnSignals(self.stop))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self._fatal is not None:
            raise self._fatal

    def stop(self) -> None:
        """Lease nothing more; ``run()`` returns when the jobs in hand are done. At once."""
        self._stopping.set()

    def __repr__(self) -> str:
        # Never the key.
        return f"Worker({self._transport.url!r}, concurrency={self._concurrency})"

    def _work(self) -> None:
        """One thread: jobs, one after another, until the worker stops."""
        try:
            while (leased := self._next_job()) is not None:
                job, lease_ends_at = leased
                self._report(job, self._attempt(job), lease_ends_at)
        except BaseException as error:
            # Kept for run(), which raises it in the thread of the caller. The other
            # threads stop as well: a worker that limps on with fewer is no help.
            self._fatal = error
            self.stop()

    # Leasing

    def _next_job(self) -> tuple[LeasedJob, float] | None:
        """Wait for a job; ``None`` when the worker stops.

        Returns:
            The job, and when its lease ends on ``time.monotonic()``.
        """
        with self._leasing:
            empty = 0
            while not self._stopping.is_set():
                try:
                    sent_at = time.monotonic()
                    reply = self._transport.exchange(LEASE_CALL, 0)
                    job = lease_of(reply)
                except QueueNodeError as error:
                    self._note_outage(error)
                    empty = 0
                    continue
                self._note_answer()
                if job is not None:
                    now = datetime.now(UTC)  # noqa: TID251 - knows nothing of the node's clock
                    return job, sent_at + lease_seconds(job, reply, now)
                empty += 1
                # Between half and all of the ceiling, so that idle workers fall out of step.
                ceiling_seconds = self._idle_pace.ceiling_seconds(empty)
                self._stopping.wait(ceiling_seconds * (1 + _draw()) / 2)
            return None

    def _note_outage(self, error: QueueNodeError) -> None:
        """Pause after a lease call that failed, or raise what will not get better."""
        passing = isinstance(error, (Unreachable, Overloaded, ServerError))
        # Once a node has answered there, anything but a refused key is a proxy in between,
        # and gets better. From the first it is a wrong URL, and somebody should hear of it.
        if isinstance(error, AuthError) or not (passing or self._reached):
            raise error
        if self._failures == 0:
            _log.warning("no work from %s: %s; trying until it is back", self._transport.url, error)
        self._failures += 1
        self._stopping.wait(
            RECONNECT.pause_seconds(self._failures, _draw(), error.retry_after_seconds)
        )

    def _note_answer(self) -> None:
        if self._failures:
            _log.warning("%s is back", self._transport.url)
        self._failures = 0
        self._reached = True

    # Working

    def _attempt(self, job: LeasedJob) -> Call:
        """Run the handler; the report of what came of it."""
        try:
            result = self._handler(job)
            if result is not None and not isinstance(result, str):
                raise TypeError(
                    f"the handler returned {type(result).__name__}; a result is a str or None"
                )
            return ack_call(job, result=result)
        except BaseException as error:
            # The border to code that is not ours: SystemExit or a library's own
            # BaseException in a handler is the failure of one attempt, not of the worker.
            _log.warning("job %s: attempt %d failed", job.job_id, job.attempt, exc_info=error)
            return _failure(job, error)

    def _report(self, job: LeasedJob, report: Call, lease_ends_at: float) -> None:
        """Tell the node the outcome, again and again until the lease ends.

        With a lease token the same report twice is one report, so a lost answer is no harm.
        """
        try:
            try:
                self._exchange_until(report, lease_ends_at)
            except BadRequest as error:
                # A result that the node does not take would fail every attempt in the
                # same way and never say why.
                _log.warning("job %s: result refused: %s", job.job_id, error)
                self._exchange_until(_failure(job, error), lease_ends_at)
        except LeaseLost:
            _log.warning(
                "job %s: attempt %d: lease lost, its outcome is dropped", job.job_id, job.attempt
            )
        except QueueNodeError as error:
            _log.error(
                "job %s: attempt %d: outcome not reported, the job may run again: %s",
                job.job_id,
                job.attempt,
                error,
            )

    def _exchange_until(self, call: Call, ends_at: float) -> None:
        self._transport.exchange(call, max(0.0, ends_at - time.monotonic()))


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


def _failure(job: LeasedJob, error: BaseException) -> Call:
    """The report that the attempt failed with ``error``: its type and text, bounded."""
    try:
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:  # An exception's own __str__ may fail; its type is still worth something.
        text = type(error).__name__
    # What JSON cannot carry must not keep a failure from being told.
    text = text[:_ERROR_CHARACTERS_MAX].encode(errors="backslashreplace").decode()
    return ack_call(job, result_error=text)


def _draw() -> float:
    return random.random()  # noqa: S311 - spreads out requests, guards nothing
