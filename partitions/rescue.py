"""The jobs that a log with gaps still tells of, and how sure each of them is. Pure.

It follows the same events as ``PartitionState``, and without a gap it comes to the same jobs. It
takes any event at any time, for behind a gap a job may be acked that nobody has seen leased.

* **lost**: an event names the job, but its submission is in a gap; nobody knows its payload.
* **uncertain**: it was not finished when a gap began, and nothing behind the gap finished it. It
  is as it was last seen; in the gap it may have been leased, failed, acked, even forgotten. It
  may run once more than it should. So is a job that was DEAD or CANCELLED before the gap and is
  unfinished behind it: somebody retried it there.
* All others are as they were. A job that was finished before the gap stays finished: if it was
  retried in the gap and no event behind it says so, it is to be retried again.

A claim of an idempotency key that is in a gap is not known: another body may be submitted under
that key. One that was let go in a gap is let go again (``api.claims``).
"""

from typing import Final

import msgspec

from partitions.events import (
    BackoffOver,
    Event,
    JobAcked,
    JobCancelled,
    JobEnqueued,
    JobExpired,
    JobFailed,
    JobForgotten,
    JobLeased,
    JobReleased,
    JobRetried,
    KeyClaimed,
    KeyFreed,
    LeaseExpired,
    LeaseExtended,
    OutcomeMoved,
    PayloadMoved,
    QueuePaused,
    TokensRaised,
)
from partitions.job import (
    CREATED_SHIFT,
    EMPTY_AT,
    EXPIRED_AT,
    FINISHED,
    TTL_OVER_AT,
    Job,
    Run,
    State,
)
from partitions.jobs import StateHead
from partitions.kinds import Kinds, NumberedKind
from partitions.slots import make_claim


class Rescue:
    """Jobs while the log is read; begins empty, or with those of a snapshot."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, Job] = {}
        self.kinds = Kinds()
        self.paused: set[str] = set()
        self.claims: dict[bytes, int] = {}
        self.lost: set[bytes] = set()
        self.uncertain: set[bytes] = set()
        self.last_number = 0
        self.last_token = 0
        self._running: dict[tuple[str, str], bytes] = {}
        """``{(queue, group): job}``, the one that was leased last, whatever became of it."""

    def restore(
        self,
        head: StateHead,
        kinds: list[NumberedKind],
        jobs: list[Job],
        claims: dict[bytes, int],
    ) -> None:
        """Begin with what a snapshot holds."""
        assert not self.jobs, "only at the beginning"
        self.jobs = {job.job_id: job for job in jobs}
        self.kinds.restore(kinds)
        self.paused = set(head.paused)
        self.claims = claims
        self.last_number, self.last_token = head.last_number, head.last_token
        for job in jobs:
            if job.state is State.RUNNING:
                self._take_turn(job)

    def gap(self) -> None:
        """Records are missing here, and what they said of the jobs that were not finished."""
        self.uncertain.update(job.job_id for job in self.jobs.values() if job.state not in FINISHED)

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
        if isinstance(event, QueuePaused):
            (self.paused.add if event.paused else self.paused.discard)(event.queue)
            return
        if isinstance(event, KeyClaimed):
            self.claims[event.key_id] = make_claim(event.slot, event.at_ms)
            return
        if isinstance(event, KeyFreed):
            self.claims.pop(event.key_id, None)
            return
        if isinstance(event, JobLeased):
            self.last_token = max(self.last_token, event.lease_token)
        job = self.jobs.get(event.job_id)
        if job is None:
            self.lost.add(event.job_id)
            return
        if job.state is State.ACKED and not isinstance(event, OutcomeMoved):
            # Nothing moves it any more: it was forgotten, and its id submitted again.
            self.drop(event.job_id)
            return
        if job.state in FINISHED and not isinstance(event, _OF_FINISHED):
            job.run = None if job.run is None else Run(lease_token=job.run.lease_token)
            self.uncertain.add(job.job_id)
        _change(job, event, self.kinds[job.kind].attempts_max)
        if job.state is State.RUNNING:
            self._take_turn(job)
        elif job.state in FINISHED:
            self.uncertain.discard(job.job_id)

    def drop(self, job_id: bytes) -> None:
        """The job cannot be kept: its payload is gone."""
        del self.jobs[job_id]
        self.uncertain.discard(job_id)
        self.lost.add(job_id)

    def _take_turn(self, job: Job) -> None:
        """Of a group only one runs: the one that did before has ended its attempt in a gap."""
        if job.own is None or not job.own.group:
            return
        key = self.kinds[job.kind].queue.name, job.own.group
        before = self.jobs.get(self._running.get(key, b""))
        self._running[key] = job.job_id
        if before is not None and before is not job and before.state is State.RUNNING:
            assert before.run is not None, "it was leased"
            _wait(before, before.run, self.kinds[before.kind].attempts_max)

    def _enqueue(self, event: JobEnqueued) -> None:
        number = max(event.created_at_ms << CREATED_SHIFT, self.last_number + 1)
        self.last_number = number
        kind = self.kinds.of(event.options, event.owner, event.max_retries)
        self.kinds.hold(kind)
        job = Job(event.job_id, number, event.payload_at, kind.index, own=event.own)
        if event.run_at_ms:
            job.state, job.due_ms = State.SCHEDULED, event.run_at_ms
        self.jobs[event.job_id] = job
        # An id that is submitted again stands for a job that was forgotten in a gap.
        self.lost.discard(event.job_id)
        self.uncertain.discard(event.job_id)


_NO_RUN: Final = Run()
_OF_FINISHED: Final = PayloadMoved | OutcomeMoved | JobRetried
"""What may be said of a job that is DEAD or CANCELLED."""


def _change(job: Job, event: Event, attempts_max: int) -> None:
    run = job.run or Run()
    if not isinstance(event, PayloadMoved | BackoffOver):
        _end_ttl(job)
    match event:
        case JobLeased():
            job.state = State.RUNNING
            run.attempts = min(run.attempts + 1, attempts_max)
            run.lease_token = event.lease_token
            run.lease_ms, run.worker, run.progress = event.lease_ms, event.worker, b""
            job.due_ms = event.lease_until_ms
        case LeaseExtended():
            # It runs; if its lease is in a gap, that was an attempt more, or its first.
            run.attempts = max(run.attempts, 1)
            job.state, job.due_ms = State.RUNNING, event.lease_until_ms
            run.progress = event.progress or run.progress
        case JobReleased():
            _give_back(job, run)
            job.state = State.SCHEDULED if event.run_at_ms else State.READY
            job.due_ms = event.run_at_ms
        case JobAcked():
            run.outcome_at, job.payload_at = event.result_at, 0
            run.attempts = max(run.attempts, 1)
            _finish(job, State.ACKED, event.at_ms)
        case JobFailed():
            run.outcome_at = event.error_at or EMPTY_AT
            if event.retry_at_ms == 0:
                # No attempt was left, or the worker wanted none.
                run.attempts = max(run.attempts, 1)
                _finish(job, State.DEAD, event.at_ms)
            else:
                _wait(job, run, attempts_max, event.retry_at_ms)
        case LeaseExpired():
            run.outcome_at = EXPIRED_AT
            run.crashes += 1
            if event.dead:
                run.attempts = attempts_max
                _finish(job, State.DEAD, event.at_ms)
            else:
                _wait(job, run, attempts_max)
        case BackoffOver():
            if job.state is State.SCHEDULED:
                job.state, job.due_ms = State.READY, 0
            else:
                _end_ttl(job)
                _wait(job, run, attempts_max)
        case JobExpired():
            run.outcome_at = TTL_OVER_AT
            _finish(job, State.DEAD, event.at_ms)
        case JobCancelled():
            _finish(job, State.CANCELLED, event.at_ms)
        case JobRetried():
            job.state, job.due_ms = State.READY, 0
            run = Run(lease_token=run.lease_token)
            job.run = None if job.run is None else run
        case PayloadMoved():
            job.payload_at = event.payload_at
        case OutcomeMoved():
            run.outcome_at = event.outcome_at
    if job.run is None and run != _NO_RUN:
        job.run = run


def _wait(job: Job, run: Run, attempts_max: int, until_ms: int = 0) -> None:
    """The job waits, for a time or for its turn, after an attempt that may be in a gap."""
    if attempts_max == 1:
        # No attempt failed, or it would be DEAD: it was given back.
        _give_back(job, run)
        job.state = State.SCHEDULED if until_ms else State.READY
    else:
        # The last attempt may be in a gap, too; this was not the last one.
        run.attempts = min(max(run.attempts, 1), attempts_max - 1)
        job.state = State.RETRY
    job.due_ms = until_ms


def _give_back(job: Job, run: Run) -> None:
    """The attempt does not count; it is counted if it was seen to begin."""
    if job.state is State.RUNNING:
        run.attempts = max(run.attempts - 1, 0)


def _finish(job: Job, state: State, at_ms: int) -> None:
    job.state = state
    job.due_ms = at_ms


def _end_ttl(job: Job) -> None:
    if job.own is not None and job.own.expires_at_ms:
        job.own = msgspec.structs.replace(job.own, expires_at_ms=0)
