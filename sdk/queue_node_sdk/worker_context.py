"""What a handler is given, and what it may say: the job, and how its attempt is to end.

A handler gets a ``JobContext`` and returns the result, or raises: anything at all for a failure,
``Retry``, ``Reject`` or ``Release`` for something more particular.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final, Protocol

from queue_node_sdk.errors import BadRequest, JobCancelled, LeaseLost
from queue_node_sdk.models import LeasedJob
from queue_node_sdk.options import Duration, wire_duration
from queue_node_sdk.worker_core import Loss

PROGRESS_CHARACTERS_MAX: Final = 256
LEASE_SECONDS_MAX: Final = 7 * 86_400
"""Of the contract, as the other."""


class Control(Protocol):
    """Whoever keeps the lease: the worker itself, or its pipe to it in another process.

    Called by handlers, from any thread; nothing here waits.
    """

    @property
    def loss(self) -> Loss | None:
        """Why the job is not ours any more."""

    @property
    def ends_at(self) -> float:
        """Until when the lease surely lasts, on ``time.monotonic()``."""
        ...

    def tell_progress(self, progress: float | str) -> None:
        """Send it along with the next heartbeat."""

    def ask(self, seconds: float) -> None:
        """Make the lease last so long from now."""


class JobContext(LeasedJob, frozen=True, kw_only=True, eq=False):
    """A job that is being worked on: the fields of a ``LeasedJob``, and a line to the worker.

    The worker extends the lease as long as the handler runs, so a handler need not hurry. It
    may lose the job all the same: somebody cancels it, or the node could not be reached until
    the lease ended and another worker has it now. Then ``lost`` is true, whatever the handler
    returns is dropped, and its own writes elsewhere should be fenced with ``lease_token``.

    Everything here may be called from any thread.
    """

    _control: Control

    @property
    def lost(self) -> bool:
        """Whether the job is not this worker's any more, so that going on is of no use."""
        return self._control.loss is not None

    @property
    def why_lost(self) -> str | None:
        """``"lease lost"``, ``"cancelled"`` and so on; ``None`` while the job is ours."""
        loss = self._control.loss
        return None if loss is None else str(loss)

    def raise_if_lost(self) -> None:
        """A place where a long handler may be called off.

        Raises:
            LeaseLost: the job is not ours any more (``JobCancelled``: somebody cancelled it).
        """
        loss = self._control.loss
        if loss is not None:
            kind = JobCancelled if loss is Loss.CANCELLED else LeaseLost
            raise kind(f"job {self.job_id}: {loss}")

    @property
    def seconds_left(self) -> float:
        """How long the lease surely lasts if no heartbeat gets through any more.

        By the node's clock, of which ours is no part. It grows with each heartbeat.
        """
        return max(0.0, self._control.ends_at - monotonic())

    @property
    def deadline(self) -> datetime:
        """``seconds_left`` from now, as a time of this machine's clock (in UTC)."""
        now = datetime.now(UTC)  # noqa: TID251 - a time for people and other libraries
        return now + timedelta(seconds=self.seconds_left)

    def progress(self, value: float | str) -> None:
        """Show in the job how far it is: a number from 0 to 100, or a short text.

        Goes out with a heartbeat within half a second; of several values the last one counts,
        and what was not sent by the end of the handler is not sent.

        Raises:
            BadRequest: it is neither.
            LeaseLost: as ``raise_if_lost``.
        """
        self.raise_if_lost()
        self._control.tell_progress(_checked_progress(value))

    def extend(self, seconds: float) -> None:
        """Make the lease last at least ``seconds`` from now.

        Not needed for a long job, whose heartbeats come by themselves: for a handler that is
        about to stop the whole process, or to hold the interpreter's lock, for so long (7 days
        at most). The request is on its way when this returns; ``seconds_left`` shows when it is
        through.

        Raises:
            BadRequest: the number cannot be right.
            LeaseLost: as ``raise_if_lost``.
        """
        # A heartbeat that the node refuses would take others' heartbeats with it.
        if isinstance(seconds, bool) or not (0 < seconds <= LEASE_SECONDS_MAX):
            raise BadRequest(f"seconds must be more than 0, and 7 days at most: {seconds!r}")
        self.raise_if_lost()
        self._control.ask(seconds)


def context_of(job: LeasedJob, control: Control) -> JobContext:
    """``job`` with a line to its worker."""
    fields = {name: getattr(job, name) for name in LeasedJob.__struct_fields__}
    return JobContext(**fields, _control=control)


def _checked_progress(value: float | str) -> float | str:
    if isinstance(value, str):
        if not 0 < len(value) <= PROGRESS_CHARACTERS_MAX:
            raise BadRequest(f"a progress text has 1 to {PROGRESS_CHARACTERS_MAX} characters")
        # A heartbeat that cannot be sent would take others' heartbeats with it.
        return value.encode(errors="backslashreplace").decode()[:PROGRESS_CHARACTERS_MAX]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise BadRequest(f"a progress is a number from 0 to 100, or a text: {value!r}")
    return value


# How an attempt may end besides returning and failing ------------------------------------------
#
# What they say has a default in the class: one that somebody derived may not call ours to begin.


class Retry(Exception):
    """``raise Retry(in_="5m")``: this attempt failed; the next one after so long.

    The attempt counts: after ``max_retries`` of them the job is DEAD. ``raise Retry(...) from
    error`` keeps the error's words when there is no ``reason``.
    """

    reason: str = ""
    in_: float | str | None = None

    def __init__(self, reason: str = "", *, in_: Duration | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.in_ = None if in_ is None else wire_duration("in_", in_)


class Reject(Exception):
    """``raise Reject("not an image")``: no attempt can succeed; the job is DEAD now."""

    reason: str = ""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Release(Exception):
    """``raise Release()``: not now, or not here; the attempt does not count."""

    delay: float | str | None = None

    def __init__(self, delay: Duration | None = None) -> None:
        super().__init__(delay)
        self.delay = None if delay is None else wire_duration("delay", delay)


# Who is at work ------------------------------------------------------------------------------

_current: Final[ContextVar[JobContext | None]] = ContextVar("queue_node_job", default=None)


def current_job() -> JobContext | None:
    """The job whose handler is calling, however deep; ``None`` outside of one."""
    return _current.get()


@contextmanager
def working_on(job: JobContext) -> Generator[None, None, None]:
    """Make ``job`` the current one."""
    token = _current.set(job)
    try:
        yield
    finally:
        _current.reset(token)


class JobFields(logging.Filter):
    """Gives every log record of a handler ``job_id`` and ``attempt``.

    Add it to a logging handler of your own, and name the two in its format.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass."""
        job = _current.get()
        if not hasattr(record, "job_id"):
            record.job_id = job.job_id if job else None
            record.attempt = job.attempt if job else None
        return True
