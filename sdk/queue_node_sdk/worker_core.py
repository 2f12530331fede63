r"""What a worker does next: lease, heartbeat, report, give back. Pure.

No thread, no socket, no clock: whoever drives it says what time it is, in seconds of a clock
that only goes forward (``time.monotonic``). One ``WorkerCore`` belongs to one thread.

A job is *held* from its lease until its report is through, or until the lease is lost:

    leased -> running -> ended -> closed
                 \-> lost (refused, cancelled, run out) -> closed

Leases end by the node's clock, of which ``NodeClock`` knows bounds only. Heartbeats go by the
earliest end that is possible and giving up by the latest, so that an error of a second costs
a heartbeat too many and never a lease.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from queue_node_sdk.backoff import RETRY
from queue_node_sdk.models import LeasedJob

DATE_ERROR_SECONDS: Final = 1.5
"""``Date`` is cut to whole seconds, and a node renews the line only twice a second."""
BEAT_SHARE: Final = 3.0
"""A heartbeat after this part of the lease: two more may fail before it ends."""
BEAT_MIN_SECONDS: Final = 0.05
"""Between two heartbeats of a job, however short its lease or unknown the node's clock."""
PROGRESS_SECONDS: Final = 0.5
"""Between two heartbeats that only carry progress (guess: what a reader can follow)."""
BEAT_RETRY_SECONDS: Final = 1.0
"""Between tries of a heartbeat that did not get through, at most."""
BEATS_MAX: Final = 1_000
ACKS_MAX: Final = 1_000
"""Items in one request; the node takes ten times as many."""
ACK_BYTES_MAX: Final = 12 << 20
"""Of results in one request, counted as if each character were escaped: under the node's
16 MiB with room for the rest."""
UNREPORTED_MAX: Final = 1_000
UNREPORTED_BYTES_MAX: Final = 64 << 20
"""Outcomes that wait for the node; with more of them nothing new is leased."""
_JSON_BYTES_PER_CHARACTER: Final = 6


# What became of an attempt -----------------------------------------------------------------


class Done(msgspec.Struct, frozen=True, tag=True):
    """The handler returned."""

    result: str | None


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It raised; ``retry`` False: no further attempt; ``retry_in``: pause before the next.

    Durations are as the wire takes them: seconds, or a text like ``5m``.
    """

    error: str
    retry: bool = True
    retry_in: float | str | None = None


class GivenBack(msgspec.Struct, frozen=True, tag=True):
    """It is to run again, here or elsewhere, and the attempt does not count."""

    delay: float | str | None = None


Ending = Done | Failed | GivenBack


class Loss(enum.StrEnum):
    """Why a job is not this worker's any more."""

    LEASE_LOST = "lease lost"
    CANCELLED = "cancelled"
    RUN_OUT = "the lease ran out without a heartbeat that got through"
    SHUTDOWN = "the worker is shutting down"


# The node's clock ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """A moment on our clock of which only bounds are known."""

    earliest: float
    latest: float


class NodeClock:
    """How far the node's clock is from ours, from the ``Date`` of its answers.

    ``Date`` is cut to whole seconds, so one answer tells the offset to about a second; answers that
    fall elsewhere in a second narrow it down. Bounds that exclude each other mean that a
    clock was set (or drifted, over hours): the newest answer counts.
    """

    def __init__(self) -> None:
        self._least = float("-inf")
        self._most = float("inf")

    def observe(self, date: datetime, received_at: float) -> None:
        """An answer that was written when the node's clock showed ``date``."""
        least = date.timestamp() - received_at
        self._least, self._most = (
            max(self._least, least),
            min(self._most, least + DATE_ERROR_SECONDS),
        )
        if self._least > self._most:
            self._least, self._most = least, least + DATE_ERROR_SECONDS

    def ours(self, moment: datetime) -> Span:
        """When ``moment`` of the node's clock is on ours; something was observed before."""
        at = moment.timestamp()
        return Span(at - self._most, at - self._least)


# The jobs in hand ----------------------------------------------------------------------------


class Phase(enum.Enum):
    """Where a held job stands."""

    RUNNING = enum.auto()
    """Its handler runs, or is about to."""
    ENDED = enum.auto()
    """Its outcome is not known to the node yet."""
    CLOSED = enum.auto()
    """Reported, or lost: nothing is sent for it any more."""


@dataclass(slots=True, eq=False)
class Held:
    """A job of this worker's. Only ``WorkerCore`` changes it."""

    job: LeasedJob
    lease: Span
    granted_seconds: float
    """How long a lease is at most when an extend does not say."""
    beat_at: float
    beaten_at: float
    keep_until: float = float("-inf")
    """The handler asked for a lease at least until then."""
    progress: str | float | None = None
    beating: bool = False
    phase: Phase = Phase.RUNNING
    ending: Ending | None = None
    reporting: bool = False
    alone: bool = False
    """Was part of a request that the node refused: is sent by itself, to find the bad one."""
    refused: bool = False
    """Its own outcome was refused, and a failure that says so took its place."""
    loss: Loss | None = None
    ghost: bool = False
    """Lost, and its handler has not returned yet."""

    @property
    def beats(self) -> bool:
        """Whether there is something to extend: a node of the first contract has no tokens."""
        return self.job.lease_token is not None


@dataclass(frozen=True, slots=True)
class Beat:
    """One item of a heartbeat; ``lease_seconds`` None: as long as the lease was given for."""

    held: Held
    lease_seconds: float | None
    progress: str | float | None


@dataclass(frozen=True, slots=True)
class Work:
    """What to report now: one request of acks, and the jobs to give back."""

    acks: list[Held]
    releases: list[Held]


class WorkerCore:
    """The jobs in hand, and what is due for them."""

    def __init__(self, concurrency: int, prefetch: int = 0) -> None:
        """Hold ``concurrency`` jobs at most that have not ended, and ``prefetch`` more."""
        self._room = concurrency + prefetch
        self._held: dict[tuple[str, str], Held] = {}
        self._ghosts = 0
        self._unreported_bytes = 0
        self._report_at = float("-inf")
        self._report_failures = 0
        self._draining = False

    # Leasing

    @property
    def wanted(self) -> int:
        """How many jobs to ask for now."""
        ended = sum(held.phase is Phase.ENDED for held in self._held.values())
        clogged = ended >= UNREPORTED_MAX or self._unreported_bytes >= UNREPORTED_BYTES_MAX
        if self._draining or clogged:
            return 0
        # A handler that goes on after its job is lost is still in somebody's way.
        return max(0, self._room - (len(self._held) - ended) - self._ghosts)

    def leased(self, job: LeasedJob, lease: Span, now: float) -> Held:
        """The node gave us ``job`` until ``lease``."""
        held = Held(job, lease, lease.latest - now, _beat_at(lease, now), beaten_at=now)
        self._held[_key(job)] = held
        return held

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not self._held

    @property
    def running(self) -> list[Held]:
        """Those whose handler has not ended."""
        return [held for held in self._held.values() if held.phase is Phase.RUNNING]

    # Heartbeats

    def next_beat_at(self) -> float | None:
        """When ``due_beats`` or ``run_out`` will have something; ``None``: not by itself."""
        times = [
            held.lease.latest if held.beating or not held.beats else held.beat_at
            for held in self._held.values()
        ]
        return min(times, default=None)

    def due_beats(self, now: float) -> list[Beat]:
        """The heartbeats to send in one request; each is out until its answer is told.

        Those that would be due soon go along: one request for all that were leased together.
        """
        beats: list[Beat] = []
        for held in self._held.values():
            if held.beating or not held.beats:
                continue
            soon = (held.beat_at - held.beaten_at) / 4
            if held.beat_at - soon <= now and len(beats) < BEATS_MAX:
                beats.append(self._beat(held, now))
        # Only what is really due starts a request.
        if not any(beat.held.beat_at <= now for beat in beats):
            return []
        for beat in beats:
            beat.held.beating = True
            beat.held.progress = None
        return beats

    def _beat(self, held: Held, now: float) -> Beat:
        # Extending counts from now: without a word a plain heartbeat would cut short what
        # the handler asked for.
        left = held.keep_until - now
        return Beat(held, left if left > held.granted_seconds else None, held.progress)

    def beaten(self, beat: Beat, lease: Span, now: float) -> None:
        """The node answered: the lease lasts until ``lease``."""
        held = beat.held
        held.beating = False
        held.lease = lease
        held.beaten_at = now
        held.beat_at = _beat_at(lease, now)
        if held.progress is not None:
            held.beat_at = min(held.beat_at, now + PROGRESS_SECONDS)

    def beat_refused(self, beat: Beat, loss: Loss) -> bool:
        """The node says that the lease is not ours; whether that is news for a handler.

        While an outcome waits its own answer tells: the heartbeat may just have come after it.
        """
        held = beat.held
        held.beating = False
        if held.phase is not Phase.RUNNING:
            held.beat_at = held.lease.latest
            return False
        self._lose(held, loss)
        return True

    def beats_failed(self, beats: Iterable[Beat], now: float) -> None:
        """They did not get through, or nobody knows; they are sent again soon."""
        for beat in beats:
            held = beat.held
            held.beating = False
            if held.progress is None:
                held.progress = beat.progress
            pause = (held.lease.earliest - held.beaten_at) / (4 * BEAT_SHARE)
            held.beat_at = now + min(BEAT_RETRY_SECONDS, max(BEAT_MIN_SECONDS, pause))

    def ask(self, held: Held, seconds: float, now: float) -> None:
        """The handler wants its lease to last ``seconds`` from now."""
        held.keep_until = max(held.keep_until, now + seconds)
        held.beat_at = now

    def tell_progress(self, held: Held, progress: str | float, now: float) -> None:
        """The next heartbeat says so, and comes soon; of several the last one counts."""
        held.progress = progress
        held.beat_at = min(held.beat_at, max(now, held.beaten_at + PROGRESS_SECONDS))

    def run_out(self, now: float) -> list[Held]:
        """The jobs whose lease has surely ended; they are lost, their outcomes dropped.

        Without a lease token there are no heartbeats, and the outcome is worth telling late.
        """
        over = [held for held in self._held.values() if held.beats and held.lease.latest <= now]
        for held in over:
            self._lose(held, Loss.RUN_OUT)
        return over

    # Reports

    def ended(self, held: Held, ending: Ending) -> bool:
        """The handler is through; False: it is too late, nothing is reported.

        Told once for each job, whatever became of it meanwhile.
        """
        if held.ghost:
            held.ghost = False
            self._ghosts -= 1
        if held.phase is not Phase.RUNNING:
            return False
        held.phase = Phase.ENDED
        self._set_ending(held, ending)
        return True

    def report_at(self) -> float | None:
        """When ``due_reports`` has something; ``None``: not by itself."""
        return self._report_at if self._to_report() else None

    def due_reports(self, now: float) -> Work:
        """What to send now; each is out until its answer is told.

        The acks fit into one request.
        """
        waiting = self._to_report() if now >= self._report_at else []
        releases = [held for held in waiting if isinstance(held.ending, GivenBack)]
        acks = _one_request([held for held in waiting if not isinstance(held.ending, GivenBack)])
        for held in (*acks, *releases):
            held.reporting = True
        return Work(acks, releases)

    def reported(self, held: Held) -> None:
        """The node took the outcome."""
        self._report_failures = 0
        self._close(held)

    def report_lost(self, held: Held, loss: Loss) -> None:
        """The node does not want it: the attempt is not ours."""
        self._report_failures = 0
        self._lose(held, loss)

    def report_refused(self, reports: Sequence[Held], error: str) -> list[Held]:
        """The node found something wrong with the request; those returned are given up.

        Of several nobody knows which: each goes by itself next. A single one was wrong itself,
        most often because its result is too large: the attempt fails and says so.
        """
        given_up: list[Held] = []
        for held in reports:
            held.reporting = False
            if len(reports) > 1:
                held.alone = True
            elif held.refused or isinstance(held.ending, GivenBack):
                self._close(held)
                given_up.append(held)
            else:
                held.refused = True
                self._set_ending(held, Failed(error))
        return given_up

    def reports_failed(
        self, reports: Iterable[Held], now: float, draw: float, retry_after: float | None = None
    ) -> None:
        """They did not get through, or nobody knows; they are sent again after a pause."""
        for held in reports:
            held.reporting = False
        self._report_failures += 1
        self._report_at = now + RETRY.pause_seconds(self._report_failures, draw, retry_after)

    def drop(self, held: Held) -> None:
        """Nothing more is sent for it."""
        self._close(held)

    # The end

    def drain(self) -> None:
        """Lease nothing more."""
        self._draining = True

    def give_back(self, helds: Iterable[Held], loss: Loss | None = None) -> list[Held]:
        """Release those that run (or have not begun); those returned are not ours any more."""
        given = [held for held in helds if held.phase is Phase.RUNNING]
        for held in given:
            held.loss = loss
            held.phase = Phase.ENDED
            self._set_ending(held, GivenBack())
        return given

    # Inside

    def _to_report(self) -> list[Held]:
        ended = [held for held in self._held.values() if held.phase is Phase.ENDED]
        return [held for held in ended if not held.reporting]

    def _set_ending(self, held: Held, ending: Ending) -> None:
        self._unreported_bytes += _weight(ending) - _weight(held.ending)
        held.ending = ending

    def _lose(self, held: Held, loss: Loss) -> None:
        held.loss = loss
        if held.phase is Phase.RUNNING:
            held.ghost = True
            self._ghosts += 1
        self._close(held)

    def _close(self, held: Held) -> None:
        if held.phase is not Phase.CLOSED:
            held.phase = Phase.CLOSED
            self._unreported_bytes -= _weight(held.ending)
            # The same job may have come back to us under a newer token meanwhile; that is
            # another key.
            del self._held[_key(held.job)]


def _key(job: LeasedJob) -> tuple[str, str]:
    # Without tokens the number of the attempt tells two leases of a job apart.
    return job.job_id, job.lease_token or f"attempt {job.attempt}"


def _beat_at(lease: Span, now: float) -> float:
    return now + max(BEAT_MIN_SECONDS, (lease.earliest - now) / BEAT_SHARE)


def _weight(ending: Ending | None) -> int:
    match ending:
        case Done(result=text) if text is not None:
            return len(text) * _JSON_BYTES_PER_CHARACTER
        case Failed(error=text):
            return len(text) * _JSON_BYTES_PER_CHARACTER
        case _:
            return 0


def _one_request(reports: Sequence[Held]) -> list[Held]:
    """The first reports that may travel together: at least one, if there is one."""
    taken: list[Held] = []
    size = 0
    for held in reports:
        size += _weight(held.ending)
        full = size > ACK_BYTES_MAX or len(taken) == ACKS_MAX
        if taken and (full or held.alone or taken[0].alone or held.job.lease_token is None):
            break
        taken.append(held)
        if held.job.lease_token is None:
            break
    return taken
