"""What the node tells about jobs and queues, typed. Pure.

Field names are those of the HTTP contract. A field that a newer node adds is ignored; times
are aware ``datetime`` objects in UTC (RFC 3339 on the wire).
"""

import enum
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec


class JobState(enum.StrEnum):
    """Where a job stands. A member equals its name, so ``job.state == "ACKED"`` works too."""

    READY = "READY"
    """Waiting for a worker."""
    SCHEDULED = "SCHEDULED"
    """Not due yet."""
    RUNNING = "RUNNING"
    """Leased by a worker."""
    RETRY = "RETRY"
    """An attempt failed or its lease ended; the next one is to come."""
    ACKED = "ACKED"
    """Done; ``result`` holds what the worker returned."""
    DEAD = "DEAD"
    """Out of attempts; ``result_error`` says why."""
    CANCELLED = "CANCELLED"
    """Taken back before it was done."""


_FINISHED: Final = frozenset({JobState.ACKED, JobState.DEAD, JobState.CANCELLED})


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the node showed it at one moment; it does not follow the job."""

    job_id: str
    state: JobState
    attempts: int
    """Deliveries so far."""
    max_retries: int
    """Attempts that the job gets in all (0 and 1 both mean one)."""
    created_at: datetime
    lease_until: datetime | None = None
    """End of the lease while the job is RUNNING."""
    result: str | None = None
    result_error: str | None = None
    """Why the latest attempt failed."""
    queue: str = "default"
    priority: int = 0
    tags: dict[str, str] = {}
    group: str = ""
    run_at: datetime | None = None
    """When a job that was delayed, or waits for its next attempt, can be leased."""
    expires_at: datetime | None = None
    """When its ``ttl`` is over: it is not started after that."""
    finished_at: datetime | None = None
    progress: float | str | None = None
    """What the worker last said: a number from 0 to 100, or text."""
    crashes: int = 0
    """Leases that ended without a word of their worker."""
    worker: str = ""
    """The name that the latest worker gave itself."""

    @property
    def finished(self) -> bool:
        """Whether the job has reached a state that it will not leave by itself."""
        return self.state in _FINISHED

    @property
    def succeeded(self) -> bool:
        """Whether a worker finished the job without an error."""
        return self.state is JobState.ACKED


class LeasedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that this worker holds until ``lease_until``, by the node's clock."""

    job_id: str
    payload: str
    lease_until: datetime
    attempt: int
    """Number of this delivery, from 1."""
    lease_token: str | None = None
    """Grows with every lease of the job: a fence for the handler's own writes elsewhere.

    ``None`` when the node is of a kind that gives none."""
    max_retries: int | None = None
    created_at: datetime | None = None
    queue: str = "default"
    tags: dict[str, str] = {}
    group: str = ""
    priority: int = 0


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a list: jobs, oldest first, without results.

    It may be empty and yet not the last: a filter that matches little is looked for in steps.
    """

    jobs: list[Job]
    next_cursor: str | None = None
    """Where the next page begins; ``None``: this was the last."""


class Rate(msgspec.Struct, frozen=True):
    """Jobs a second, over the last 1, 5 and 15 minutes."""

    m1: float = msgspec.field(name="1m", default=0.0)
    m5: float = msgspec.field(name="5m", default=0.0)
    m15: float = msgspec.field(name="15m", default=0.0)


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a queue moves."""

    submitted: Rate = Rate()
    leased: Rate = Rate()
    acked: Rate = Rate()
    failed: Rate = Rate()


class QueueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A queue as the node showed it at one moment."""

    queue: str
    counts: dict[str, int]
    """Jobs by state, each state: ``counts["READY"]``."""
    oldest_ready_age: float | None = None
    """Seconds since the longest waiting job that can be leased was submitted; ``None``: none."""
    rates: Rates = Rates()
    paused: bool = False
    dead_letters: int = 0
    partitions: dict[str, int] = {}
    """Unfinished jobs by partition: shows how uneven groups lie."""
    groups: int = 0
    """Groups with unfinished jobs."""
    unavailable: list[int] = []
    """Partitions that did not answer, whose jobs are not counted here."""


class QueueList(list[QueueInfo]):
    """All queues, by name: a list, which also says whose jobs are in none of its counts."""

    def __init__(self, queues: Iterable[QueueInfo] = (), unavailable: Iterable[int] = ()) -> None:
        """``unavailable``: see the attribute."""
        super().__init__(queues)
        self.unavailable: list[int] = list(unavailable)
        """Partitions that did not answer: queues that are only there are missing."""

    def __repr__(self) -> str:
        return f"QueueList({super().__repr__()}, unavailable={self.unavailable})"
