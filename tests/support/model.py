"""What a partition is to do, in the plainest form: a dict of jobs, every rule spelled out.

No queues, no heap, no events, no log: each question is a search through all jobs. The
property tests hold ``PartitionState`` and the log to the replies of this.
"""

import copy
from dataclasses import dataclass, field

from partitions.messages import (
    Ack,
    AlreadyExists,
    Command,
    Enqueue,
    Enqueued,
    Fail,
    Get,
    JobNotFound,
    JobView,
    Lease,
    Leased,
    LeaseLost,
    NothingReady,
    NotRunning,
    Reply,
    Settled,
    Tick,
    WrongPartition,
)
from partitions.slots import slot_of
from partitions.state import Policy
from tests.support.driver import Snapshot, text_of

EXPIRED = b"lease expired"


@dataclass
class ModelJob:
    """One job. ``wait_until_ms``: end of a lease or of a backoff; None when neither runs."""

    submit: Enqueue
    number: int
    created_at_ms: int
    state: str = "READY"
    attempts: int = 0
    token: int = 0
    wait_until_ms: int | None = None
    finished_ms: int | None = None
    result: bytes | None = None
    error: bytes | None = None
    settled_by: Ack | Fail | None = None

    @property
    def attempts_max(self) -> int:
        """0 and 1 both mean one."""
        return max(1, self.submit.max_retries)

    @property
    def ready(self) -> bool:
        """Whether it can be leased."""
        return self.state == "READY" or (self.state == "RETRY" and self.wait_until_ms is None)


@dataclass
class Model:
    """All jobs, by id."""

    policy: Policy
    jobs: dict[bytes, ModelJob] = field(default_factory=dict)
    submitted: int = 0
    last_token: int = 0

    def copy(self) -> "Model":
        """A model that can go its own way."""
        return copy.deepcopy(self)

    def step(self, command: Command, now_ms: int) -> Reply:
        """Let time pass, do what the command says, and give the reply that is due."""
        self._pass_time(now_ms)
        match command:
            case Enqueue():
                return self._enqueue(command, now_ms)
            case Lease():
                return self._lease(command, now_ms)
            case Ack() | Fail():
                return self._settle(command, now_ms)
            case Get():
                return self.view(command.job_id)
            case Tick():
                self._forget(now_ms)
                return NothingReady()

    def view(self, job_id: bytes) -> JobView | JobNotFound:
        """A job as readers see it."""
        job = self.jobs.get(job_id)
        if job is None:
            return JobNotFound(job_id)
        return JobView(
            job_id,
            job.state,
            job.attempts,
            job.submit.max_retries,
            job.created_at_ms,
            job.wait_until_ms if job.state == "RUNNING" else None,
            job.result,
            job.error,
            job.submit.owner,
        )

    def ready_ids(self) -> list[bytes]:
        """In the order in which they are to be leased."""
        ready = [job for job in self.jobs.values() if job.ready]
        return [job.submit.job_id for job in sorted(ready, key=lambda job: job.number)]

    def differences(self, found: Snapshot) -> list[str]:
        """What a state holds that it should not, or lacks."""
        wrong = []
        if set(found.jobs) != set(self.jobs):
            wrong.append(f"jobs {set(found.jobs) ^ set(self.jobs)} are in one only")
        for job_id in set(found.jobs) & set(self.jobs):
            job, expected = found.jobs[job_id], self.jobs[job_id]
            has = (job.state.name, job.attempts, job.lease_token, job.due_ms or None)
            wants = (
                expected.state,
                expected.attempts,
                expected.token,
                expected.finished_ms or expected.wait_until_ms,
            )
            if has != wants:
                wrong.append(f"job {job_id.hex()} is {has}, not {wants}")
        if found.ready != self.ready_ids():
            wrong.append("the ready jobs stand in another order")
        if found.last_token != self.last_token:
            wrong.append(f"the last token is {found.last_token}, not {self.last_token}")
        waiting = sorted(
            (job.wait_until_ms, job_id)
            for job_id, job in self.jobs.items()
            if job.wait_until_ms is not None
        )
        if found.timers != waiting or found.timers_live != len(waiting):
            wrong.append(f"timers {found.timers} ({found.timers_live} live), not {waiting}")
        return wrong

    def _pass_time(self, now_ms: int) -> None:
        for job in self.jobs.values():
            if job.wait_until_ms is None or job.wait_until_ms > now_ms:
                continue
            job.wait_until_ms = None
            if job.state == "RUNNING":
                job.error, job.result, job.settled_by = EXPIRED, None, None
                self._after_failure(job, now_ms, None)

    def _forget(self, now_ms: int) -> None:
        for job_id, job in list(self.jobs.items()):
            dead = job.state == "DEAD"
            keep_ms = self.policy.dead_retention_ms if dead else self.policy.retention_ms
            if job.finished_ms is not None and job.finished_ms + keep_ms <= now_ms:
                del self.jobs[job_id]

    def _enqueue(self, command: Enqueue, now_ms: int) -> Reply:
        if slot_of(command.job_id) not in self.policy.slots:
            return WrongPartition(command.job_id)
        if command.job_id in self.jobs:
            return AlreadyExists(command.job_id)
        self.submitted += 1
        self.jobs[command.job_id] = ModelJob(command, self.submitted, now_ms)
        return Enqueued(command.job_id)

    def _lease(self, command: Lease, now_ms: int) -> Reply:
        ready = self.ready_ids()
        if not ready:
            return NothingReady()
        job = self.jobs[ready[0]]
        self.last_token += 1
        job.state = "RUNNING"
        job.attempts += 1
        job.token = self.last_token
        job.wait_until_ms = now_ms + command.duration_ms
        return Leased(
            job.submit.job_id,
            job.submit.payload,
            job.wait_until_ms,
            job.attempts,
            job.token,
            job.submit.max_retries,
            job.created_at_ms,
        )

    def _settle(self, command: Ack | Fail, now_ms: int) -> Reply:
        job = self.jobs.get(command.job_id)
        if job is None:
            return JobNotFound(command.job_id)
        if job.state == "RUNNING" and command.lease_token in (None, job.token):
            self._end_attempt(job, command, now_ms)
            return Settled(command.job_id)
        if command.lease_token is None:
            return NotRunning(command.job_id, job.state)
        again = (
            job.state != "RUNNING"
            and command.lease_token == job.token
            and type(job.settled_by) is type(command)
            and job.settled_by is not None
            and text_of(job.settled_by) == text_of(command)
        )
        return Settled(command.job_id) if again else LeaseLost(command.job_id)

    def _end_attempt(self, job: ModelJob, command: Ack | Fail, now_ms: int) -> None:
        job.settled_by = command
        job.wait_until_ms = None
        # An empty text is kept as none at all.
        text = text_of(command) or None
        if isinstance(command, Ack):
            job.state, job.finished_ms, job.result, job.error = "ACKED", now_ms, text, None
        else:
            job.result, job.error = None, text
            delay = self.policy.backoff.delay_ms(job.submit.job_id, job.attempts)
            self._after_failure(job, now_ms, now_ms + delay)

    @staticmethod
    def _after_failure(job: ModelJob, now_ms: int, retry_at_ms: int | None) -> None:
        if job.attempts >= job.attempts_max:
            job.state, job.finished_ms = "DEAD", now_ms
        else:
            job.state, job.wait_until_ms = "RETRY", retry_at_ms
