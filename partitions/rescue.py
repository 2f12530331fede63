"""The jobs that a log with gaps still tells of, and how sure each of them is. Pure.

It follows the same events as ``PartitionState``, and without a gap it comes to the same jobs. It
takes any event at any time, for behind a gap a job may be acked that nobody has seen leased.

* **lost**: an event names the job, but its submission is in a gap; nobody knows its payload.
* **uncertain**: it was not finished when a gap began, and nothing behind the gap finished it. It
  is as it was last seen; in the gap it may have been leased, failed, acked, even forgotten. It
  may run once more than it should.
* All others are as they were. A job that was finished before the gap stays finished.
"""

from typing import Final

from partitions.events import (
    BackoffOver,
    Event,
    JobAcked,
    JobEnqueued,
    JobFailed,
    JobForgotten,
    JobLeased,
    LeaseExpired,
    OutcomeMoved,
    PayloadMoved,
    TokensRaised,
)
from partitions.job import CREATED_SHIFT, EMPTY_AT, EXPIRED_AT, Job, State
from partitions.state import StateHead

_FINISHED: Final = (State.ACKED, State.DEAD)


class Rescue:
    """Jobs while the log is read; begins empty, or with those of a snapshot."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, Job] = {}
        self.owners: list[str] = []
        self.lost: set[bytes] = set()
        self.uncertain: set[bytes] = set()
        self.last_number = 0
        self.last_token = 0
        self._owner_indexes: dict[str, int] = {}

    def restore(self, head: StateHead, jobs: list[Job]) -> None:
        """Begin with what a snapshot holds."""
        assert not self.jobs, "only at the beginning"
        self.jobs = {job.job_id: job for job in jobs}
        self.owners = list(head.owners)
        self._owner_indexes = {owner: index for index, owner in enumerate(head.owners)}
        self.last_number, self.last_token = head.last_number, head.last_token

    def gap(self) -> None:
        """Records are missing here, and what they said of the jobs that were not finished."""
        self.uncertain.update(
            job.job_id for job in self.jobs.values() if job.state not in _FINISHED
        )

    def evolve(self, event: Event) -> None:
        """Follow an event, whatever came before."""
        if isinstance(event, JobEnqueued):
            self._enqueue(event)
            return
        if isinstance(event, JobForgotten):
            self.jobs.pop(event.job_id, None)
            self.lost.discard(event.job_id)
            self.uncertain.discard(event.job_id)
            return
        if isinstance(event, TokensRaised):
            self.last_token = max(self.last_token, event.last_token)
            return
        if isinstance(event, JobLeased):
            self.last_token = max(self.last_token, event.lease_token)
        job = self.jobs.get(event.job_id)
        if job is None:
            self.lost.add(event.job_id)
            return
        _change(job, event)
        if job.state in _FINISHED:
            self.uncertain.discard(job.job_id)

    def drop(self, job_id: bytes) -> None:
        """The job cannot be kept: its payload is gone."""
        del self.jobs[job_id]
        self.uncertain.discard(job_id)
        self.lost.add(job_id)

    def _enqueue(self, event: JobEnqueued) -> None:
        number = max(event.created_at_ms << CREATED_SHIFT, self.last_number + 1)
        self.last_number = number
        owner = self._owner_indexes.get(event.owner)
        if owner is None:
            owner = self._owner_indexes[event.owner] = len(self.owners)
            self.owners.append(event.owner)
        self.jobs[event.job_id] = Job(
            event.job_id, number, event.payload_at, event.max_retries, owner
        )


def _change(job: Job, event: Event) -> None:
    match event:
        case JobLeased():
            job.state = State.RUNNING
            job.attempts = min(job.attempts + 1, job.attempts_max)
            job.lease_token = event.lease_token
            job.due_ms = event.lease_until_ms
        case JobAcked():
            job.outcome_at, job.payload_at = event.result_at, 0
            _finish(job, State.ACKED, event.at_ms)
        case JobFailed():
            job.outcome_at = event.error_at or EMPTY_AT
            if event.retry_at_ms == 0:
                _finish(job, State.DEAD, event.at_ms)
            else:
                _wait(job, event.retry_at_ms)
        case LeaseExpired():
            job.outcome_at = EXPIRED_AT
            if event.dead:
                _finish(job, State.DEAD, event.at_ms)
            else:
                _wait(job, 0)
        case BackoffOver():
            _wait(job, 0)
        case PayloadMoved():
            job.payload_at = event.payload_at
        case OutcomeMoved():
            job.outcome_at = event.outcome_at


def _wait(job: Job, until_ms: int) -> None:
    # An attempt was made, even if its lease is in a gap; the last one may be, too.
    job.attempts = min(max(job.attempts, 1), max(job.attempts_max - 1, 1))
    job.state = State.RETRY
    job.due_ms = until_ms


def _finish(job: Job, state: State, at_ms: int) -> None:
    # DEAD means that no attempt was left, ACKED that there was one.
    job.attempts = job.attempts_max if state is State.DEAD else max(job.attempts, 1)
    job.state = state
    job.due_ms = at_ms
