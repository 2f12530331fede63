"""What a partition is to do, in the plainest form: a dict of jobs, every rule spelled out.

No queues, no heap, no events, no log, no counters: each question is a search through all jobs.
The property tests hold ``PartitionState`` and the log to the replies of this.

It knows none of the bounds that only very many jobs reach.
"""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from partitions.job import CREATED_SHIFT
from partitions.messages import (
    Ack,
    AlreadyExists,
    Cancel,
    Claimed,
    ClaimKeys,
    Command,
    Conflict,
    Enqueue,
    Enqueued,
    EnqueuedMany,
    EnqueueMany,
    Extend,
    Extended,
    Fail,
    Filter,
    FindGone,
    Forget,
    FreeKeys,
    Get,
    HeldKey,
    JobNotFound,
    JobsGone,
    JobView,
    KeyClaim,
    KeysHeld,
    Lease,
    Leased,
    LeasedMany,
    LeaseLost,
    LeaseMany,
    Many,
    NothingReady,
    NotRunning,
    Pause,
    QueueView,
    Release,
    Replayed,
    Replies,
    Reply,
    Retry,
    Settled,
    Submitted,
    Tick,
    TooLate,
    WrongPartition,
    WrongState,
)
from partitions.options import Options, decode_options
from partitions.slots import make_claim, slot_of
from partitions.state import Policy
from tests.support.driver import Snapshot, text_of

EXPIRED = b"lease expired"
TTL_OVER = b"expired"
FINISHED = ("ACKED", "DEAD", "CANCELLED")

_REFUSALS: dict[Submitted, Callable[[bytes], Reply]] = {
    Submitted.REPLAYED: Replayed,
    Submitted.CONFLICT: Conflict,
    Submitted.EXISTS: AlreadyExists,
    Submitted.WRONG_PARTITION: WrongPartition,
}


@dataclass
class ModelJob:
    """One job."""

    submit: Enqueue
    options: Options
    number: int
    created_at_ms: int
    state: str = "READY"
    attempts: int = 0
    token: int = 0
    wait_until_ms: int | None = None
    """End of a lease, a delay or a backoff; None when none of them runs."""
    expires_at_ms: int | None = None
    """End of the ttl, of a job that was not started yet."""
    finished_ms: int | None = None
    result: bytes | None = None
    error: bytes | None = None
    settled_by: Ack | Fail | None = None
    """The report that ended the last attempt, if one did."""
    crashes: int = 0
    lease_ms: int = 0
    progress: bytes = b""
    worker: str = ""

    @property
    def attempts_max(self) -> int:
        """0 and 1 both mean one."""
        return max(1, self.submit.max_retries)

    @property
    def ready(self) -> bool:
        """Whether it can be leased, were it alone in its group."""
        return self.state == "READY" or (self.state == "RETRY" and self.wait_until_ms is None)

    @property
    def unfinished(self) -> bool:
        return self.state not in FINISHED

    @property
    def group(self) -> tuple[str, str] | None:
        """Groups are per queue."""
        return (self.options.queue, self.submit.group) if self.submit.group else None

    def finish(self, state: str, now_ms: int) -> None:
        self.wait_until_ms = self.expires_at_ms = None
        self.state, self.finished_ms = state, now_ms


@dataclass
class Model:
    """All jobs, by id, and the queues that are paused."""

    policy: Policy
    jobs: dict[bytes, ModelJob] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    claims: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """``{key id: (slot of its job, since when)}``."""
    submitted: int = 0
    """The number of the last submit."""
    last_token: int = 0

    def copy(self) -> "Model":
        """A model that can go its own way."""
        # What a job refers to is never changed.
        jobs = {job_id: copy.copy(job) for job_id, job in self.jobs.items()}
        return replace(self, jobs=jobs, paused=set(self.paused), claims=dict(self.claims))

    def step(self, command: Command, now_ms: int) -> Reply:
        """Let time pass, do what the command says, and give the reply that is due.

        Lists, sweeps and views of queues have questions of their own below: what they promise
        is not how many steps they take.
        """
        self.pass_time(now_ms)
        match command:
            case Enqueue():
                return self._enqueue(command, now_ms)
            case EnqueueMany():
                return self._enqueue_many(command, now_ms)
            case Lease():
                return self._lease(command, now_ms)
            case LeaseMany():
                return self._lease_many(command, now_ms)
            case Ack() | Fail() | Extend() | Release():
                return self._held(command, now_ms)
            case Many():
                replies = [self._held(each, now_ms) for each in command.commands]
                return Replies(replies)  # type: ignore[arg-type]  # those to the holder of a lease
            case Get():
                return self.view(command.job_id)
            case Cancel():
                return self._cancel(command.job_id, now_ms)
            case Retry() | Forget():
                return self._begin_anew_or_forget(command)
            case Pause():
                (self.paused.add if command.paused else self.paused.discard)(command.queue)
                return Settled(b"")
            case ClaimKeys():
                refusal = self._refuse_claims(command.claims, now_ms)
                return refusal or self._claim(command.claims, now_ms)
            case FreeKeys():
                for each in command.held:
                    if each.key_id in self.claims and each.claim == self._packed(each.key_id):
                        del self.claims[each.key_id]
                return Settled(b"")
            case FindGone():
                ids = [each for each in command.job_ids if each not in self.jobs]
                return JobsGone([each for each in ids if slot_of(each) in self.policy.slots])
            case Tick():
                self._forget(now_ms)
                return NothingReady()
            case _:
                raise AssertionError(f"no single reply to {command} is due")

    # Questions ----------------------------------------------------------------------------

    def view(self, job_id: bytes) -> JobView | JobNotFound:
        """A job as readers see it."""
        job = self.jobs.get(job_id)
        if job is None:
            return JobNotFound(job_id)
        submit = job.submit
        return JobView(
            job_id,
            job.state,
            job.attempts,
            submit.max_retries,
            job.created_at_ms,
            job.wait_until_ms if job.state == "RUNNING" else None,
            job.result,
            job.error,
            submit.owner,
            submit.options,
            job.number,
            job.wait_until_ms if job.state in ("SCHEDULED", "RETRY") else None,
            job.finished_ms,
            job.expires_at_ms,
            submit.group,
            job.crashes,
            job.progress,
            job.worker,
        )

    def may_go(self, job: ModelJob) -> bool:
        """Whether it can be leased, were its queue not paused.

        Of a group nobody runs beside another, and the first that is not finished goes first.
        """
        if not job.ready:
            return False
        if job.group is None:
            return True
        rivals = [each for each in self.jobs.values() if each.group == job.group]
        return all(
            each.state != "RUNNING" and each.number >= job.number
            for each in rivals
            if each.unfinished
        )

    def ready_ids(self, queue: str = "default") -> list[bytes]:
        """In the order in which they are to be leased, were the queue not paused."""
        ready = [
            job for job in self.jobs.values() if job.options.queue == queue and self.may_go(job)
        ]
        ready.sort(key=lambda job: (-job.options.priority, job.number))
        return [job.submit.job_id for job in ready]

    def listed(self, wanted: Filter) -> list[bytes]:
        """The jobs that a filter lets through, in order of submission."""
        found = [
            job
            for job in self.jobs.values()
            if wanted.queue in (None, "", job.options.queue)
            and wanted.state in (None, "", job.state)
            and wanted.group in (None, "", job.submit.group)
            and all(tag in job.options.tags for tag in wanted.tags)
        ]
        return [job.submit.job_id for job in sorted(found, key=lambda job: job.number)]

    def queues(self, only: str | None = None) -> list[QueueView]:
        """Those that have jobs or are paused, sorted by name; no rates."""
        names = {job.options.queue for job in self.jobs.values()} | self.paused
        return [self._queue(name) for name in sorted(names) if only in (None, name)]

    def _queue(self, name: str) -> QueueView:
        jobs = [job for job in self.jobs.values() if job.options.queue == name]
        ready = [self.jobs[job_id].created_at_ms for job_id in self.ready_ids(name)]
        groups = {job.group for job in jobs if job.unfinished and job.group}
        counts = dict(Counter(job.state for job in jobs))
        return QueueView(
            name, name in self.paused, counts, min(ready, default=None), len(groups), {}
        )

    def deadlines(self) -> list[tuple[int, bytes]]:
        """When something happens to a job by itself, but for its being forgotten."""
        return sorted(
            (at_ms, job_id)
            for job_id, job in self.jobs.items()
            for at_ms in (job.wait_until_ms, job.expires_at_ms)
            if at_ms is not None
        )

    def gone_at_ms(self, job: ModelJob) -> int | None:
        """When a finished job is to be forgotten, or a little later."""
        if job.finished_ms is None:
            return None
        keep_ms = job.options.retention_ms
        if keep_ms is None:
            dead = job.state == "DEAD"
            keep_ms = self.policy.dead_retention_ms if dead else self.policy.retention_ms
        return job.finished_ms + keep_ms

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
        for what, (has_it, wants_it) in self._wholes(found).items():
            if has_it != wants_it:
                wrong.append(f"{what}: {has_it}, not {wants_it}")
        return wrong

    def _wholes(self, found: Snapshot) -> dict[str, tuple[object, object]]:
        """What is known of all jobs together: as found, and as it should be."""
        queues, waiting = self.queues(), self.deadlines()
        ready = {each.queue: ids for each in queues if (ids := self.ready_ids(each.queue))}
        counts = {each.queue: each.counts for each in queues if each.counts}
        finished = {job_id: job for job_id, job in self.jobs.items() if not job.unfinished}
        own = {
            (self.gone_at_ms(job), job_id)
            for job_id, job in finished.items()
            if job.options.retention_ms is not None
        }
        found_finished = {job_id for ids in found.finished.values() for job_id in ids}
        return {
            "the last token": (found.last_token, self.last_token),
            "the last number": (found.last_number, self.submitted),
            "all jobs in order": (found.order, self.listed(Filter())),
            "what is ready": (found.ready, ready),
            "what is paused": (found.paused, self.paused),
            "claims": (found.claims, {each: self._packed(each) for each in self.claims}),
            "counts": (found.counts, counts),
            "unfinished": (found.unfinished, len(self.jobs) - len(finished)),
            "timers": (found.timers, sorted(set(waiting))),
            "timers that live": (found.timers_live, len(waiting)),
            "retentions of their own": (set(found.finished_own), own),
            "finished": (found_finished, set(finished) - {job_id for _, job_id in own}),
        }

    # Time ---------------------------------------------------------------------------------

    def pass_time(self, now_ms: int) -> None:
        """Let leases, backoffs, delays and ttls end that are over."""
        for job in self.jobs.values():
            if job.expires_at_ms is not None and job.expires_at_ms <= now_ms:
                job.error = TTL_OVER
                job.finish("DEAD", now_ms)
            elif job.wait_until_ms is not None and job.wait_until_ms <= now_ms:
                job.wait_until_ms = None
                if job.state == "SCHEDULED":
                    job.state = "READY"
                elif job.state == "RUNNING":
                    job.error, job.result = EXPIRED, None
                    job.crashes += 1
                    self._after_failure(job, now_ms, None, last=job.attempts >= job.attempts_max)

    def _forget(self, now_ms: int) -> None:
        for job_id, job in list(self.jobs.items()):
            gone_at_ms = self.gone_at_ms(job)
            if gone_at_ms is not None and gone_at_ms <= now_ms:
                del self.jobs[job_id]

    # Submitting ---------------------------------------------------------------------------

    def _meets(self, command: Enqueue, before: dict[bytes, bytes]) -> Submitted:
        """``before``: the digest of every job that is there already, by id."""
        if command.job_id in before:
            if not command.digest:
                return Submitted.EXISTS
            same = before[command.job_id] == command.digest
            return Submitted.REPLAYED if same else Submitted.CONFLICT
        if slot_of(command.job_id) not in self.policy.slots:
            return Submitted.WRONG_PARTITION
        if command.digest and self._elsewhere(command.job_id):
            return Submitted.CLAIMED
        return Submitted.STORED

    def _digests(self) -> dict[bytes, bytes]:
        return {job_id: job.submit.digest for job_id, job in self.jobs.items()}

    def _enqueue(self, command: Enqueue, now_ms: int) -> Reply:
        met = self._meets(command, self._digests())
        if met is Submitted.CLAIMED:
            return KeysHeld([self._held_key(command.job_id, now_ms)])
        if met is not Submitted.STORED:
            return _REFUSALS[met](command.job_id)
        self._store(command, now_ms)
        return Enqueued(command.job_id)

    def _enqueue_many(self, command: EnqueueMany, now_ms: int) -> Reply:
        if command.claims and (refusal := self._refuse_claims(command.claims, now_ms)):
            return refusal
        before = self._digests()
        met, new = [], []
        for each in command.jobs:
            met.append(self._meets(each, before))
            if met[-1] is Submitted.STORED:
                before[each.job_id] = each.digest
                new.append(each)
        if not command.check_only and all(each <= Submitted.REPLAYED for each in met):
            if new and 0 < command.by_ms < now_ms:
                return TooLate()
            if new:
                self._claim(command.claims, now_ms)
            for each in new:
                self._store(each, now_ms)
        claimed = [
            job.job_id
            for job, each in zip(command.jobs, met, strict=True)
            if each is Submitted.CLAIMED
        ]
        return EnqueuedMany(bytes(met), [self._held_key(each, now_ms) for each in claimed])

    # Idempotency keys of jobs elsewhere ---------------------------------------------------

    def _elsewhere(self, key_id: bytes) -> bool:
        return key_id in self.claims and self.claims[key_id][0] != slot_of(key_id)

    def _refuse_claims(self, claims: list[KeyClaim], now_ms: int) -> Reply | None:
        wanted: dict[bytes, int] = {}
        for each in claims:
            foreign = slot_of(each.key_id) not in self.policy.slots
            if foreign or wanted.setdefault(each.key_id, each.slot) != each.slot:
                return WrongPartition(each.key_id)
        held = [each.key_id for each in claims if self._taken(each)]
        return KeysHeld([self._held_key(each, now_ms) for each in held]) if held else None

    def _taken(self, claim: KeyClaim) -> bool:
        if claim.key_id in self.claims:
            return self.claims[claim.key_id][0] != claim.slot
        return claim.key_id in self.jobs and slot_of(claim.key_id) != claim.slot

    def _claim(self, claims: list[KeyClaim], now_ms: int) -> Claimed:
        self.claims.update({each.key_id: (each.slot, now_ms) for each in claims})
        return Claimed()

    def _packed(self, key_id: bytes) -> int:
        """As the state keeps it; of a job without a group, since ever."""
        return make_claim(*self.claims.get(key_id, (slot_of(key_id), 0)))

    def _held_key(self, key_id: bytes, now_ms: int) -> HeldKey:
        since_ms = self.claims[key_id][1] if key_id in self.claims else 0
        return HeldKey(key_id, self._packed(key_id), now_ms - since_ms)

    def _store(self, command: Enqueue, now_ms: int) -> None:
        self.submitted = max(self.submitted + 1, now_ms << CREATED_SHIFT)
        job = ModelJob(command, decode_options(command.options), self.submitted, now_ms)
        if command.run_at_ms > now_ms:
            job.state, job.wait_until_ms = "SCHEDULED", command.run_at_ms
        job.expires_at_ms = command.expires_at_ms or None
        self.jobs[command.job_id] = job

    # Leasing ------------------------------------------------------------------------------

    def _lease(self, command: Lease, now_ms: int) -> Leased | NothingReady:
        for queue in command.queues:
            if queue not in self.paused and (ready := self.ready_ids(queue)):
                return self._lease_one(self.jobs[ready[0]], command, now_ms)
        return NothingReady()

    def _lease_many(self, command: LeaseMany, now_ms: int) -> Reply:
        leased: list[Leased] = []
        while len(leased) < command.count:
            one = self._lease(command.lease, now_ms)
            if isinstance(one, NothingReady):
                break
            leased.append(one)
        return LeasedMany(leased) if leased else NothingReady()

    def _lease_one(self, job: ModelJob, command: Lease, now_ms: int) -> Leased:
        # The lease call's duration wins over the job's, which wins over the node's.
        durations_ms = (command.duration_ms, job.options.lease_ms, self.policy.lease_ms)
        job.lease_ms = next(each for each in durations_ms if each is not None)
        job.state, job.wait_until_ms, job.expires_at_ms = "RUNNING", now_ms + job.lease_ms, None
        self.last_token += 1
        job.token = self.last_token
        job.attempts += 1
        job.worker, job.progress, job.settled_by = command.worker, b"", None
        return Leased(
            job.submit.job_id,
            job.submit.payload,
            job.wait_until_ms,
            job.attempts,
            job.token,
            job.submit.max_retries,
            job.created_at_ms,
            job.submit.options,
            job.submit.group,
        )

    # What the holder of a lease may do ----------------------------------------------------

    def _held(self, command: Ack | Fail | Extend | Release, now_ms: int) -> Reply:
        job = self.jobs.get(command.job_id)
        if job is None:
            return JobNotFound(command.job_id)
        is_held = (
            job.state == "RUNNING" and job.wait_until_ms is not None and now_ms < job.wait_until_ms
        )
        if not is_held or command.lease_token not in (None, job.token):
            return self._not_held(job, command)
        match command:
            case Extend():
                duration_ms = command.duration_ms
                job.wait_until_ms = now_ms + (job.lease_ms if duration_ms is None else duration_ms)
                job.progress = command.progress or job.progress
                return Extended(command.job_id, job.wait_until_ms)
            case Release():
                job.attempts -= 1
                job.state, job.wait_until_ms = "READY", None
                if command.delay_ms:
                    job.state, job.wait_until_ms = "SCHEDULED", now_ms + command.delay_ms
            case Ack() | Fail():
                self._end_attempt(job, command, now_ms)
        return Settled(command.job_id)

    @staticmethod
    def _not_held(job: ModelJob, command: Ack | Fail | Extend | Release) -> Reply:
        if command.lease_token is None:
            return NotRunning(command.job_id, job.state)
        if command.lease_token == job.token:
            if job.state == "CANCELLED":
                return WrongState(command.job_id, "CANCELLED")
            before = job.settled_by
            # The same report again, by success or failure and the text.
            if (
                before is not None
                and type(before) is type(command)
                and text_of(before) == text_of(command)
            ):
                return Settled(command.job_id)
        return LeaseLost(command.job_id)

    def _end_attempt(self, job: ModelJob, command: Ack | Fail, now_ms: int) -> None:
        job.settled_by = command
        # An empty text is kept as none at all.
        text = text_of(command) or None
        if isinstance(command, Ack):
            job.result, job.error = text, None
            job.finish("ACKED", now_ms)
            return
        job.result, job.error = None, text
        delay_ms = command.retry_in_ms
        if delay_ms is None:
            backoff = job.options.backoff or self.policy.backoff
            delay_ms = backoff.delay_ms(job.submit.job_id, job.attempts)
        last = not command.retry or job.attempts >= job.attempts_max
        self._after_failure(job, now_ms, now_ms + delay_ms, last=last)

    @staticmethod
    def _after_failure(job: ModelJob, now_ms: int, retry_at_ms: int | None, *, last: bool) -> None:
        if last:
            job.finish("DEAD", now_ms)
        else:
            job.state, job.wait_until_ms = "RETRY", retry_at_ms

    # What anybody may do ------------------------------------------------------------------

    def _cancel(self, job_id: bytes, now_ms: int) -> Reply:
        job = self.jobs.get(job_id)
        if job is None:
            return JobNotFound(job_id)
        if job.state in ("ACKED", "DEAD"):
            return WrongState(job_id, job.state)
        if job.unfinished:
            job.finish("CANCELLED", now_ms)
        return Settled(job_id)

    def _begin_anew_or_forget(self, command: Retry | Forget) -> Reply:
        job_id = command.job_id
        job = self.jobs.get(job_id)
        if job is None:
            return JobNotFound(job_id)
        if isinstance(command, Forget):
            if job.unfinished:
                return WrongState(job_id, job.state)
            del self.jobs[job_id]
        else:
            if job.state not in ("DEAD", "CANCELLED"):
                return WrongState(job_id, job.state)
            self._begin_anew(job)
        return Settled(job_id)

    def _begin_anew(self, job: ModelJob) -> None:
        """As new, in its old place, but without a ttl; no token comes twice."""
        self.jobs[job.submit.job_id] = ModelJob(
            job.submit, job.options, job.number, job.created_at_ms, token=job.token
        )

    def sweep(self, queue: str, state: str, action: str, up_to_number: int) -> int:
        """All of a bulk call at once; to how many jobs it is done."""
        allowed = state in ("DEAD", "CANCELLED") if action == "retry" else state != "RUNNING"
        met = [
            job
            for job in self.jobs.values()
            if allowed
            and (job.options.queue, job.state) == (queue, state)
            and job.number <= up_to_number
        ]
        for job in met:
            if action == "retry":
                self._begin_anew(job)
            else:
                del self.jobs[job.submit.job_id]
        return len(met)
