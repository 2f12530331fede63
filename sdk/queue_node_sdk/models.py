"""What the node tells about jobs, typed. Pure.

Field names are those of the HTTP contract. A field that a newer node adds is ignored; times
are aware ``datetime`` objects in UTC (RFC 3339 on the wire).
"""

import enum
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
