"""A worker's line to the node: leases, heartbeats, reports, the end. Runs in a thread of its own.

It has its own event loop, so that no handler can keep a heartbeat from going out, whether
it waits, computes, or blocks the loop that it runs in. (What holds the interpreter's lock for
as long as a lease, in C, stops this thread too: such handlers belong into processes.)

``WorkerCore`` decides, and only this thread touches it. Others leave word through ``_post``.
The handlers' side is a ``Runner``, which this thread calls and which must not wait.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

import anyio

from queue_node_sdk.answers import ExtendResult, extended_of, leases_of, node_time, results_of
from queue_node_sdk.backoff import FIRST_POLL_SECONDS, POLL_GROWTH, RECONNECT, Backoff
from queue_node_sdk.calls import (
    AckItem,
    Call,
    ExtendItem,
    ack_call,
    acks_call,
    extends_call,
    lease_call,
    release_call,
)
from queue_node_sdk.doorbell import Doorbell
from queue_node_sdk.errors import (
    AuthError,
    BadRequest,
    JobCancelled,
    LeaseLost,
    NotFound,
    Overloaded,
    QueueNodeError,
    ServerError,
    Unreachable,
)
from queue_node_sdk.models import LeasedJob
from queue_node_sdk.protocol import Reply
from queue_node_sdk.worker_context import JobContext, context_of
from queue_node_sdk.worker_core import (
    Beat,
    Done,
    Ending,
    Failed,
    GivenBack,
    Held,
    Loss,
    NodeClock,
    WorkerCore,
)
from queue_node_sdk.worker_endings import described
from queue_node_sdk.worker_options import WorkerOptions

_log: Final = logging.getLogger("queue_node")

_LEASE_JOBS_MAX: Final = 1_000
"""Of one request, by the contract."""
_LAST_WORDS_SECONDS: Final = 5.0
"""For outcomes and releases when the grace time is over."""
_HANG_UP_SECONDS: Final = 0.25
"""After a stop: for the answer to a question for work that may be on its way."""
_RELEASES_AT_ONCE: Final = 16
_BEAT_PATIENCE_SECONDS_MIN: Final = 0.5
"""For one heartbeat, however short the lease: on a busy machine an answer takes its time."""


class Line(Protocol):
    """How requests get to the node."""

    url: str

    async def exchange(self, call: Call, patience_seconds: float) -> Reply:
        """Send it until it is answered, at least once.

        Raises:
            QueueNodeError: the refusal, or the trouble that outlasted the patience.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""


class Runner(Protocol):
    """Who runs the handlers. Each call returns at once, and may come from another thread."""

    def start(self, job: JobContext) -> None:
        """Run the handler as soon as there is room, then tell ``Engine.ended``: once per job."""

    def withdraw(self) -> list[JobContext]:
        """Take back those that have not begun; ``ended`` is not told of them."""
        ...

    def lose(self, job: JobContext) -> None:
        """The job is not ours any more: end its handler, if that can be done."""

    def finish(self) -> None:
        """There will be no more jobs."""


class _Lease:
    """The ``Control`` of a job in this process."""

    def __init__(self, engine: "Engine", held: Held) -> None:
        self.held = held
        self._engine = engine

    # Written by the engine's thread, read by any: single references, so never half of one.

    @property
    def loss(self) -> Loss | None:
        return self.held.loss

    @property
    def ends_at(self) -> float:
        return self.held.lease.earliest

    def tell_progress(self, progress: float | str) -> None:
        self._engine.tell_progress(self.held, progress)

    def ask(self, seconds: float) -> None:
        self._engine.ask(self.held, seconds)


class _Signal:
    """Wakes every task of the loop that waits for a change."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def seen(self) -> anyio.Event:
        """To be taken before one looks, so that no change falls between looking and waiting."""
        return self._event

    def notify(self) -> None:
        before, self._event = self._event, anyio.Event()
        before.set()


class Engine:
    """Leases jobs, hands them to a runner, keeps their leases, reports their outcomes."""

    def __init__(self, options: WorkerOptions, make_line: Callable[[], Line]) -> None:
        self._options = options
        self._make_line = make_line
        self._core = WorkerCore(options.concurrency, options.prefetch)
        self._clock = NodeClock()
        first_pause = min(FIRST_POLL_SECONDS, options.poll_interval)
        self._idle_pace = Backoff(first_pause, options.poll_interval, POLL_GROWTH)
        self._jobs: dict[Held, JobContext] = {}
        self._bell = Doorbell()
        self._inbox: deque[Callable[[], None]] = deque()
        self._grace = options.grace
        self._draining = False
        self._asking: anyio.CancelScope | None = None
        self._reached = False
        self._failures = 0
        self._said_tokenless = False
        self.fatal: BaseException | None = None
        """What ended it, if it was not ``stop``; for who runs it, once it has ended."""

    # From any thread -------------------------------------------------------------------------

    def stop(self, grace: float | None) -> None:
        """Lease nothing more; give back after ``grace`` seconds what has not ended."""
        self._post(partial(self._drain_within, grace))

    def ended(self, job: JobContext, ending: Ending) -> None:
        """The handler is through."""
        self._post(partial(self._note_ending, job, ending))

    def tell_progress(self, held: Held, progress: float | str) -> None:
        """For the next heartbeat."""
        self._post(lambda: self._core.tell_progress(held, progress, time.monotonic()))

    def ask(self, held: Held, seconds: float) -> None:
        """For a heartbeat at once."""
        asked_at = time.monotonic()
        self._post(lambda: self._core.ask(held, seconds, asked_at))

    def _post(self, what: Callable[[], None]) -> None:
        self._inbox.append(what)
        self._bell.ring()

    # Its thread ------------------------------------------------------------------------------

    def run(self, runner: Runner) -> None:
        """Work until stopped, or until there is no sense in going on: see ``fatal``."""
        try:
            anyio.run(self._main, runner, backend="asyncio")
        except BaseException as error:
            # A bug, told to who called run() and not to a thread's stderr.
            self.fatal = self.fatal or error
            for job in self._jobs.values():
                runner.lose(job)
        finally:
            runner.finish()
            self._bell.close()

    async def _main(self, runner: Runner) -> None:
        self._runner = runner
        self._signal = _Signal()
        self._line = self._make_line()
        self._bell.open()
        # It may have been stopped already.
        self._do_as_told()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_inbox)
                tasks.start_soon(self._keep_leases)
                tasks.start_soon(self._tell_outcomes)
                await self._lease_until_told()
                await self._see_off()
                tasks.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(1, shield=True):
                await self._line.aclose()

    async def _read_inbox(self) -> None:
        while True:
            await self._bell.wait()
            self._do_as_told()
            self._signal.notify()

    def _do_as_told(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _note_ending(self, job: JobContext, ending: Ending) -> None:
        self._core.ended(_held(job), ending)

    async def _wait(self, seen: anyio.Event, until: float | None) -> None:
        """For a change since ``seen``, or for a time."""
        if until is None:
            await seen.wait()
        else:
            with anyio.move_on_after(max(0.0, until - time.monotonic())):
                await seen.wait()

    async def _exchange(self, call: Call) -> Reply:
        # One try: what is sent again is made anew, of what is true by then.
        reply = await self._line.exchange(call, 0.0)
        now = datetime.now(UTC)  # noqa: TID251 - for a node that does not tell its own time
        self._clock.observe(node_time(reply, now), time.monotonic())
        return reply

    # Leasing ---------------------------------------------------------------------------------

    async def _lease_until_told(self) -> None:
        empty = 0
        while not self._draining:
            seen = self._signal.seen()
            if not self._core.wanted:
                await self._wait(seen, None)
                continue
            asked_at = time.monotonic()
            try:
                jobs = await self._ask(min(self._core.wanted, _LEASE_JOBS_MAX))
            except QueueNodeError as error:
                if not await self._outlast(error):
                    return
                continue
            self._note_answer()
            for job in jobs:
                self._take(job)
            empty = 0 if jobs else empty + 1
            if not jobs and time.monotonic() - asked_at < self._options.wait_seconds / 2:
                # It does not wait as asked: a node of the first contract, or one that is
                # about to end. Between half and all of the ceiling, so that idle workers
                # fall out of step.
                pause = self._idle_pace.ceiling_seconds(empty) * (1 + _draw()) / 2
                await self._pause(pause)

    async def _ask(self, wanted: int) -> list[LeasedJob]:
        call = lease_call(
            self._options.queues,
            wanted,
            self._options.wait_seconds,
            self._options.lease_seconds,
            self._options.name,
        )
        # Hanging up tells the node that nobody waits any more; when it is told to stop, an
        # answer that is on its way gets a moment, as its leases would only run out.
        with anyio.CancelScope() as self._asking:
            return leases_of(await self._exchange(call))
        return []

    def _take(self, job: LeasedJob) -> None:
        if job.lease_token is None and not self._said_tokenless:
            self._said_tokenless = True
            _log.warning(
                "%s gives no lease tokens: no lease is extended, and a job that takes longer than "
                "its lease runs again",
                self._line.url,
            )
        held = self._core.leased(job, self._clock.ours(job.lease_until), time.monotonic())
        self._jobs[held] = context = context_of(job, _Lease(self, held))
        if self._draining:
            self._give_back([context], None)
        else:
            self._runner.start(context)
        self._signal.notify()

    async def _outlast(self, error: QueueNodeError) -> bool:
        """Pause after a lease call that failed; False when it will not get better."""
        passing = isinstance(error, Unreachable | Overloaded | ServerError)
        # Once a node has answered there, anything but a refused key is a proxy in between,
        # and gets better. From the first it is a wrong URL, and somebody should hear of it.
        if isinstance(error, AuthError) or not (passing or self._reached):
            self.fatal = error
            return False
        if self._failures == 0:
            _log.warning("no work from %s: %s; trying until it is back", self._line.url, error)
        self._failures += 1
        await self._pause(
            RECONNECT.pause_seconds(self._failures, _draw(), error.retry_after_seconds)
        )
        return True

    def _note_answer(self) -> None:
        if self._failures:
            _log.warning("%s is back", self._line.url)
        self._failures = 0
        self._reached = True

    async def _pause(self, seconds: float) -> None:
        """For so long, or until the worker is told to stop."""
        until = time.monotonic() + seconds
        while not self._draining and time.monotonic() < until:
            await self._wait(self._signal.seen(), until)

    # Heartbeats ------------------------------------------------------------------------------

    async def _keep_leases(self) -> None:
        while True:
            seen = self._signal.seen()
            now = time.monotonic()
            for held in self._core.run_out(now):
                self._let_go(held)
            beats = self._core.due_beats(now)
            if beats:
                await self._send_beats(beats)
            else:
                await self._wait(seen, self._core.next_beat_at())

    async def _send_beats(self, beats: Sequence[Beat]) -> None:
        # A third of what is left: one that hangs leaves time for others.
        left = min(beat.held.lease.latest for beat in beats) - time.monotonic()
        call = extends_call([_extend_item(beat) for beat in beats])
        results: list[ExtendResult] = []
        try:
            with anyio.move_on_after(max(_BEAT_PATIENCE_SECONDS_MIN, left / 3)):
                results = extended_of(await self._exchange(call))
        except QueueNodeError as error:
            # Said once, by the lease calls, if it is the whole node that is away.
            _log.info("%d heartbeats did not get through: %s", len(beats), error)
        now = time.monotonic()
        for beat, result in zip(beats, results, strict=False):
            if result.status == 200 and result.lease_until is not None:
                self._core.beaten(beat, self._clock.ours(result.lease_until), now)
            elif result.status in (404, 409):
                if self._core.beat_refused(beat, _loss(result.error)):
                    self._let_go(beat.held)
            else:
                self._core.beats_failed([beat], now)
        self._core.beats_failed(beats[len(results) :], now)
        self._signal.notify()

    def _let_go(self, held: Held) -> None:
        """The job was lost: tell its handler, and whoever reads the log."""
        job = self._jobs.pop(held, None)
        told = "outcome not reported, the job may run again" if held.ending else "called off"
        if held.loss is Loss.CANCELLED:
            told = "its outcome is dropped" if held.ending else "called off"
        _warn(held, "%s: %s", held.loss, told)
        if job is not None and held.ending is None:
            self._runner.lose(job)
        self._signal.notify()

    # Outcomes --------------------------------------------------------------------------------

    async def _tell_outcomes(self) -> None:
        limiter = anyio.CapacityLimiter(_RELEASES_AT_ONCE)
        while True:
            seen = self._signal.seen()
            work = self._core.due_reports(time.monotonic())
            if not (work.acks or work.releases):
                await self._wait(seen, self._core.report_at())
                continue
            async with anyio.create_task_group() as tasks:
                if work.acks:
                    tasks.start_soon(self._send_acks, work.acks)
                for held in work.releases:
                    tasks.start_soon(self._send_release, held, limiter)
            self._signal.notify()

    async def _send_acks(self, acks: list[Held]) -> None:
        try:
            if acks[0].job.lease_token is None:
                await self._exchange(_lone_ack(acks[0]))
                self._close(acks[0])
                return
            items = [_ack_item(held) for held in acks]
            results = results_of(await self._exchange(acks_call(items)))
        except QueueNodeError as error:
            self._note_trouble(acks, error)
            return
        failed = acks[len(results) :]
        for held, result in zip(acks, results, strict=False):
            if result.status == 200:
                self._close(held)
            elif result.status in (404, 409):
                self._note_late(held, _loss(result.error))
            elif result.status == 429 or result.status >= 500:
                failed.append(held)
            else:
                self._note_refusal([held], f"BadRequest: {result.error}")
        if failed:
            self._core.reports_failed(failed, time.monotonic(), _draw())

    async def _send_release(self, held: Held, limiter: anyio.CapacityLimiter) -> None:
        assert isinstance(held.ending, GivenBack)
        token = held.job.lease_token
        if token is None:
            # Nothing can be given back to a node of the first contract; the lease ends.
            self._close(held)
            return
        async with limiter:
            try:
                await self._exchange(release_call(held.job.job_id, token, held.ending.delay))
            except QueueNodeError as error:
                self._note_trouble([held], error)
            else:
                self._close(held)

    def _note_trouble(self, reports: list[Held], error: QueueNodeError) -> None:
        """A whole request of reports was not taken."""
        if isinstance(error, AuthError):
            for held in reports:
                self._give_up(held, error)
        elif isinstance(error, BadRequest):
            self._note_refusal(reports, described(error))
        elif isinstance(error, LeaseLost | NotFound) and len(reports) == 1:
            cancelled = isinstance(error, JobCancelled)
            self._note_late(reports[0], Loss.CANCELLED if cancelled else Loss.LEASE_LOST)
        else:
            now = time.monotonic()
            self._core.reports_failed(reports, now, _draw(), error.retry_after_seconds)

    def _note_refusal(self, reports: list[Held], error: str) -> None:
        if len(reports) == 1:
            _warn(reports[0], "result refused: %s", error)
        for held in self._core.report_refused(reports, error):
            self._give_up(held, error)

    def _note_late(self, held: Held, loss: Loss) -> None:
        released = isinstance(held.ending, GivenBack)
        self._core.report_lost(held, loss)
        self._jobs.pop(held, None)
        if not released:
            _warn(held, "%s, its outcome is dropped", loss)

    def _give_up(self, held: Held, error: object) -> None:
        self._core.drop(held)
        self._jobs.pop(held, None)
        _log.error(
            "job %s: attempt %d: outcome not reported, the job may run again: %s",
            held.job.job_id,
            held.job.attempt,
            error,
            extra=_fields(held),
        )

    def _close(self, held: Held) -> None:
        self._core.reported(held)
        self._jobs.pop(held, None)

    # The end ---------------------------------------------------------------------------------

    def _drain_within(self, grace: float | None) -> None:
        self._grace = grace
        self._draining = True
        self._core.drain()
        if self._asking is not None:
            self._asking.deadline = anyio.current_time() + _HANG_UP_SECONDS

    async def _see_off(self) -> None:
        """Let what runs finish within the grace time, give back the rest."""
        began_at = time.monotonic()
        self._draining = True
        self._core.drain()
        self._give_back(self._runner.withdraw(), None)
        while self._core.running:
            seen = self._signal.seen()
            over_at = None if self._grace is None else began_at + self._grace
            if over_at is not None and time.monotonic() >= over_at:
                left = [self._jobs[held] for held in self._core.running]
                self._give_back(left, Loss.SHUTDOWN)
                for job in left:
                    _warn(_held(job), "not finished within the grace time, released")
                    self._runner.lose(job)
                break
            await self._wait(seen, over_at)
        until = time.monotonic() + _LAST_WORDS_SECONDS
        while not self._core.empty and time.monotonic() < until:
            await self._wait(self._signal.seen(), until)
        for held in list(self._jobs):
            self._give_up(held, "the worker ends")

    def _give_back(self, jobs: Iterable[JobContext], loss: Loss | None) -> None:
        self._core.give_back([_held(job) for job in jobs], loss)
        self._signal.notify()


# From ours to the wire's and back ------------------------------------------------------------


def _held(job: JobContext) -> Held:
    assert isinstance(job._control, _Lease)
    return job._control.held


def _extend_item(beat: Beat) -> ExtendItem:
    token = beat.held.job.lease_token
    assert token is not None
    return ExtendItem(beat.held.job.job_id, token, beat.lease_seconds, beat.progress)


def _ack_item(held: Held) -> AckItem:
    job_id, token = held.job.job_id, held.job.lease_token
    match held.ending:
        case Done(result=result):
            return AckItem(job_id, token, result)
        case Failed(error=error, retry=retry, retry_in=retry_in):
            return AckItem(job_id, token, None, error, None if retry else False, retry_in)
        case _:
            raise AssertionError("a release is no ack")


def _lone_ack(held: Held) -> Call:
    """For a node that gives no lease tokens, and so has no acks in batches."""
    match held.ending:
        case Done(result=result):
            return ack_call(held.job, result=result)
        case Failed(error=error):
            return ack_call(held.job, result_error=error)
        case _:
            raise AssertionError("a release is no ack")


def _loss(words: str) -> Loss:
    return Loss.CANCELLED if words == "cancelled" else Loss.LEASE_LOST


def _fields(held: Held) -> dict[str, object]:
    return {"job_id": held.job.job_id, "attempt": held.job.attempt}


def _warn(held: Held, words: str, *arguments: object) -> None:
    _log.warning(
        "job %s: attempt %d: " + words,
        held.job.job_id,
        held.job.attempt,
        *arguments,
        extra=_fields(held),
    )


def _draw() -> float:
    return random.random()  # noqa: S311 - spreads out requests, guards nothing
