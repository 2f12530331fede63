"""What a command does to the jobs of one partition: the decisions. Pure.

``apply(command, now_ms, put) -> (events, reply)`` decides, and changes the jobs only through the
events (``Jobs.evolve``), which recovery reads from the log; so running and recovered state cannot
differ. The reply must not leave the process before the events are durable.

Texts are not kept here: ``put(text)`` gives a text to the next commit, and the event names the
position that it returned. It is called for texts that the events keep, and for no others.

What only looks is in ``views``.
"""

import sys
from collections import Counter
from collections.abc import Callable
from heapq import nsmallest
from typing import Final, assert_never

import msgspec

from partitions.answers import (
    Answer,
    Applied,
    JobFound,
    LeaseGranted,
    LeasesGranted,
    ManyAnswers,
    SettledBefore,
)
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
    QueuePaused,
)
from partitions.job import (
    CANCELLED,
    DEAD,
    EMPTY_AT,
    FINISHED,
    READY,
    RUNNING,
    SCHEDULED,
    Job,
    Outcome,
    Own,
    State,
)
from partitions.jobs import Jobs
from partitions.limits import (
    DUE_PER_TICK_MAX,
    LEASE_BYTES_MAX,
    PAGE_QUEUES_MAX,
    QUEUES_MAX,
)
from partitions.messages import (
    Ack,
    AlreadyExists,
    Cancel,
    Claimed,
    ClaimKeys,
    ClaimPage,
    Command,
    Conflict,
    Enqueue,
    Enqueued,
    EnqueuedMany,
    EnqueueMany,
    Extend,
    Extended,
    Fail,
    FindGone,
    Forget,
    FreeKeys,
    Get,
    HeldKey,
    JobNotFound,
    JobsGone,
    KeyClaim,
    KeysHeld,
    Lease,
    LeaseLost,
    LeaseMany,
    List,
    ListClaims,
    Many,
    NothingReady,
    NotRunning,
    Pause,
    QueueViews,
    Release,
    Replayed,
    Reply,
    Retry,
    Settled,
    Submitted,
    Sweep,
    Swept,
    Tick,
    TooLate,
    TooMany,
    Unwatch,
    ViewQueues,
    WrongPartition,
    WrongState,
)
from partitions.options import decode_options
from partitions.positions import size_of
from partitions.queues import Queue
from partitions.retry import Backoff
from partitions.slots import SLOTS, claim_at_ms, claim_slot, make_claim, slot_of
from partitions.views import page, view_of_job, view_of_queue

_FORGET_EVERY_MS: Final = 5_000
"""Finished jobs are forgotten in bunches, so that they do not each cost a commit."""
_RETRIED: Final = (DEAD, CANCELLED)
_GIVEN_BACK: Final = (READY, SCHEDULED)
"""Where a job that was leased before is only by a release, or as new."""

Look = Get | List | ViewQueues | Unwatch | ListClaims | FindGone
"""Commands that change nothing."""

Put = Callable[[bytes], int]
"""Gives a text to the next commit; returns its position."""


class Policy(msgspec.Struct, frozen=True):
    """What the operator chose; decides events, is never needed to replay them."""

    slots: range = range(SLOTS)
    backoff: Backoff = Backoff()
    retention_ms: int = 86_400_000
    dead_retention_ms: int = 604_800_000
    lease_ms: int = 30_000
    jobs_max: int | None = None
    """Unfinished jobs; beyond it submits are refused."""


class PartitionState:
    """All jobs of one partition, and what may be done to them."""

    def __init__(self, policy: Policy | None = None) -> None:
        self._policy = policy or Policy()
        self._slot_first, self._slot_end = self._policy.slots.start, self._policy.slots.stop
        self.jobs = Jobs()
        self.clock_raised_ms = 0
        """By how much the time that is given here is above that of the fronts (``clock``)."""
        self._caught_up_ms = 0
        self._due_left = 0
        self._claims_to_list: list[bytes] = []

    def __len__(self) -> int:
        return len(self.jobs.by_id)

    @property
    def ready(self) -> int:
        """Jobs that can be leased now, were no queue paused."""
        return sum(len(queue.ready) for queue in self.jobs.kinds.queues.values())

    def apply(self, command: Command, now_ms: int, put: Put) -> Applied:
        """Let time catch up to ``now_ms``, then carry out ``command``, in memory only.

        Total: a command that cannot be honoured gets a refusing reply, never an exception.
        """
        deadline_ms = self.jobs.timers.next_deadline_ms()
        if deadline_ms is None or deadline_ms > now_ms:
            return self._decide(command, now_ms, put)
        due = self._catch_up(now_ms)
        applied = self._decide(command, now_ms, put)
        return Applied(due + applied.events, applied.reply)

    def find(self, job_id: bytes) -> JobFound | JobNotFound:
        """A job as it is now; changes nothing, so it needs no room on the disk."""
        job = self.jobs.by_id.get(job_id)
        return JobNotFound(job_id) if job is None else view_of_job(job, self.jobs.kind(job))

    def look(self, command: Look, now_ms: int) -> Answer:
        """What a command finds that changes nothing, as things are without time catching up.

        Nothing is evolved, so it needs no room on the disk.
        """
        match command:
            case Get():
                return self.find(command.job_id)
            case List():
                return page(self.jobs, command)
            case ViewQueues():
                return self._queues(command, now_ms)
            case Unwatch():
                return Settled(command.job_id)
            case ListClaims():
                return self._list_claims(command, now_ms)
            case FindGone():
                by_id, slots = self.jobs.by_id, self._policy.slots
                ids = command.job_ids
                return JobsGone(
                    [each for each in ids if each not in by_id and slot_of(each) in slots]
                )
            case _:
                assert_never(command)

    def next_deadline_ms(self) -> int | None:
        """When a ``Tick`` is due, if nothing else comes before; None: never."""
        deadlines = [
            _round_up(queue[0].due_ms + self._retention_ms(state))
            for state in FINISHED
            if (queue := self.jobs.skip_gone(state))
        ]
        if (gone_at_ms := self.jobs.finished_own.next_deadline_ms()) is not None:
            deadlines.append(_round_up(gone_at_ms))
        if (timer_ms := self.jobs.timers.next_deadline_ms()) is not None:
            deadlines.append(timer_ms)
        return min(deadlines, default=None)

    def evolve(self, event: Event) -> None:
        """Make the change that ``event`` says has happened. Never refuses."""
        self.jobs.evolve(event)

    # Time ---------------------------------------------------------------------------------

    def _catch_up(self, now_ms: int) -> tuple[Event, ...]:
        """Evolve what is due; at most ``DUE_PER_TICK_MAX`` timers, the rest come next time.

        The commands of one batch have one ``now_ms`` and share that number: were it for each
        of them, a thousand commands could make a record that no start would read.
        """
        if now_ms != self._caught_up_ms:
            self._caught_up_ms, self._due_left = now_ms, DUE_PER_TICK_MAX
        events: list[Event] = []
        timers = self.jobs.timers
        while self._due_left and (timer := timers.pop_due(now_ms)):
            if not self.jobs.matters(timer):
                continue
            self._due_left -= 1
            events.append(self._due(self.jobs.by_id[timer[1]], now_ms))
            self.evolve(events[-1])
        return tuple(events)

    def _due(self, job: Job, now_ms: int) -> Event:
        if job.state is RUNNING:
            dead = job.attempts >= self.jobs.kind(job).attempts_max
            return LeaseExpired(job.job_id, now_ms, dead)
        if job.own is not None and 0 < job.own.expires_at_ms <= now_ms:
            return JobExpired(job.job_id, now_ms)
        return BackoffOver(job.job_id)

    def _forget(self, now_ms: int) -> tuple[Event, ...]:
        events: list[Event] = []
        for state in FINISHED:
            gone_before_ms = now_ms - self._retention_ms(state)
            while len(events) < DUE_PER_TICK_MAX:
                queue = self.jobs.skip_gone(state)
                if not queue or queue[0].due_ms > gone_before_ms:
                    break
                events.append(JobForgotten(queue[0].job_id))
                self.evolve(events[-1])
        own = self.jobs.finished_own
        while len(events) < DUE_PER_TICK_MAX and (timer := own.pop_due(now_ms)):
            if self.jobs.is_to_go(timer):
                events.append(JobForgotten(timer[1]))
                self.evolve(events[-1])
        return tuple(events)

    def _retention_ms(self, state: State) -> int:
        policy = self._policy
        return policy.dead_retention_ms if state is DEAD else policy.retention_ms

    # Decisions ----------------------------------------------------------------------------

    def _decide(self, command: Command, now_ms: int, put: Put) -> Applied:
        match command:
            case Enqueue():
                return self._decide_enqueue(command, now_ms, put)
            case Lease():
                return self._decide_lease(command, now_ms)
            case Ack() | Fail() | Extend() | Release():
                return self._decide_held(command, now_ms, put)
            case Many():
                return self._decide_many(command, now_ms, put)
            case EnqueueMany():
                return self._decide_enqueue_many(command, now_ms, put)
            case LeaseMany():
                return self._decide_lease_many(command, now_ms)
            case Get():
                return Applied((), self.find(command.job_id))
            case Tick():
                return Applied(self._forget(now_ms), NothingReady())
            case Cancel() | Retry() | Forget():
                return self._decide_of_job(command, now_ms)
            case List() | ViewQueues() | Unwatch() | ListClaims() | FindGone():
                return Applied((), self.look(command, now_ms))
            case Sweep():
                return self._decide_sweep(command)
            case Pause():
                return self._decide_pause(command)
            case ClaimKeys():
                return self._decide_claim_keys(command, now_ms)
            case FreeKeys():
                return self._decide_free_keys(command)
            case _:
                assert_never(command)

    # Submitting.

    def _decide_enqueue(self, command: Enqueue, now_ms: int, put: Put) -> Applied:
        jobs, job_id = self.jobs, command.job_id
        if (
            job_id in jobs.by_id
            or not self._slot_first <= slot_of(job_id) < self._slot_end
            or (command.digest and job_id in jobs.claims)
        ):
            met = self._meets(command)
            if met is Submitted.CLAIMED:
                return Applied((), KeysHeld([self._held(job_id, now_ms)]))
            if met is not Submitted.STORED:
                return Applied((), _MET[met](job_id))
        kind = jobs.kinds.known(command.options, command.owner, command.max_retries)
        if (kind is None or self._policy.jobs_max is not None) and (
            refusal := self._no_room_for(1, [command])
        ) is not None:
            return Applied((), refusal)
        event = _stored(command, now_ms, put)
        jobs.enqueue(event, kind).queue.submitted.add(1, now_ms)
        return Applied((event,), Enqueued(job_id))

    def _decide_enqueue_many(self, command: EnqueueMany, now_ms: int, put: Put) -> Applied:
        if command.claims and (refused_claims := self._refuse_claims(command.claims, now_ms)):
            return Applied((), refused_claims)
        if self._meet_nothing(command.jobs):
            outcomes, new = bytes(len(command.jobs)), command.jobs
        else:
            digests: dict[bytes, bytes] = {}
            outcomes = bytes([self._meets(job, digests) for job in command.jobs])
            new = [
                job
                for job, met in zip(command.jobs, outcomes, strict=True)
                if met == Submitted.STORED
            ]
        refused = max(outcomes, default=0) > Submitted.REPLAYED
        if (refusal := self._no_room_for(len(new), new)) is not None and not refused:
            return Applied((), refusal)
        if refused or command.check_only:
            held = [
                self._held(job.job_id, now_ms)
                for job, met in zip(command.jobs, outcomes, strict=True)
                if met == Submitted.CLAIMED
            ]
            return Applied((), EnqueuedMany(outcomes, held))
        if new and 0 < command.by_ms < now_ms - self.clock_raised_ms:
            return Applied((), TooLate())
        claimed = self._claim(command.claims, now_ms) if command.claims and new else ()
        events = tuple([_stored(job, now_ms, put) for job in new])
        kinds = Counter([self.jobs.enqueue(event) for event in events])
        for kind, count in kinds.items():
            kind.queue.submitted.add(count, now_ms)
        return Applied(claimed + events, EnqueuedMany(outcomes))

    def _meet_nothing(self, commands: list[Enqueue]) -> bool:
        """Whether all of them are new and ours, as in most batches; in few steps of Python each."""
        job_ids = {each.job_id for each in commands}
        slots = [slot_of(job_id) for job_id in job_ids]
        return (
            len(job_ids) == len(commands)
            and self.jobs.by_id.keys().isdisjoint(job_ids)
            and self.jobs.claims.keys().isdisjoint(job_ids)
            and min(slots) in self._policy.slots
            and max(slots) in self._policy.slots
        )

    def _meets(self, command: Enqueue, digests: dict[bytes, bytes] | None = None) -> Submitted:
        """What a submit meets; ``digests``, by id, are those of the same batch so far."""
        job_id = command.job_id
        job = self.jobs.by_id.get(job_id)
        if job is not None:
            if not command.digest:
                return Submitted.EXISTS
            same = job.own is not None and job.own.digest == command.digest
            return Submitted.REPLAYED if same else Submitted.CONFLICT
        if slot_of(job_id) not in self._policy.slots:
            return Submitted.WRONG_PARTITION
        # Without a digest the id stands for no key.
        if command.digest and self._is_elsewhere(job_id):
            return Submitted.CLAIMED
        if digests is not None:
            if job_id in digests:
                if not command.digest:
                    return Submitted.EXISTS
                same = digests[job_id] == command.digest
                return Submitted.REPLAYED if same else Submitted.CONFLICT
            digests[job_id] = command.digest
        return Submitted.STORED

    def _no_room_for(self, count: int, commands: list[Enqueue]) -> Reply | None:
        jobs_max = self._policy.jobs_max
        if jobs_max is not None and self.jobs.unfinished + count > jobs_max:
            return TooMany("jobs")
        kinds = self.jobs.kinds
        names: set[str] = set()
        for command in commands:
            if kinds.known(command.options, command.owner, command.max_retries) is not None:
                continue
            try:
                names.add(decode_options(command.options).queue)
            except msgspec.MsgspecError:
                return WrongPartition(command.job_id)
        return None if self._has_room_for_queues(names) else TooMany("queues")

    def _has_room_for_queues(self, names: set[str]) -> bool:
        queues = self.jobs.kinds.queues
        if len(queues) + len(names) <= QUEUES_MAX or all(name in queues for name in names):
            return True
        self.jobs.drop_idle_kinds()
        return len(queues) + sum(name not in queues for name in names) <= QUEUES_MAX

    # Idempotency keys whose jobs are elsewhere.

    def _decide_claim_keys(self, command: ClaimKeys, now_ms: int) -> Applied:
        if (refusal := self._refuse_claims(command.claims, now_ms)) is not None:
            return Applied((), refusal)
        return Applied(self._claim(command.claims, now_ms), Claimed())

    def _refuse_claims(self, claims: list[KeyClaim], now_ms: int) -> Reply | None:
        """Why they cannot be made; None: they can."""
        jobs, slots = self.jobs, self._policy.slots
        held: list[HeldKey] = []
        wanted: dict[bytes, int] = {}
        for each in claims:
            key_id = each.key_id
            if slot_of(key_id) not in slots or wanted.setdefault(key_id, each.slot) != each.slot:
                return WrongPartition(key_id)
            claim = jobs.claims.get(key_id)
            if claim is not None:
                is_held = claim_slot(claim) != each.slot
            else:
                # A job without a group has the key's own id.
                is_held = key_id in jobs.by_id and slot_of(key_id) != each.slot
            if is_held:
                held.append(self._held(key_id, now_ms))
        return KeysHeld(held) if held else None

    def _is_elsewhere(self, key_id: bytes) -> bool:
        claim = self.jobs.claims.get(key_id)
        return claim is not None and claim_slot(claim) != slot_of(key_id)

    def _held(self, key_id: bytes, now_ms: int) -> HeldKey:
        claim = self.jobs.claims.get(key_id, make_claim(slot_of(key_id), 0))
        return HeldKey(key_id, claim, now_ms - claim_at_ms(claim))

    def _claim(self, claims: list[KeyClaim], now_ms: int) -> tuple[Event, ...]:
        # Those that are made already are made anew: whoever is about to let an old one go finds
        # it changed.
        events = tuple([KeyClaimed(each.key_id, each.slot, now_ms) for each in claims])
        for event in events:
            self.evolve(event)
        return events

    def _decide_free_keys(self, command: FreeKeys) -> Applied:
        claims = self.jobs.claims
        # By key: to let one go twice would be to let one go that is not there.
        gone = {each.key_id: each for each in command.held if claims.get(each.key_id) == each.claim}
        events = tuple([KeyFreed(key_id) for key_id in gone])
        for event in events:
            self.evolve(event)
        return Applied(events, Settled(b""))

    def _list_claims(self, command: ListClaims, now_ms: int) -> ClaimPage:
        # Where it goes on is no part of the state: after a restart it begins anew.
        if not self._claims_to_list:
            self._claims_to_list = list(self.jobs.claims)
        keys = self._claims_to_list[-command.limit :]
        del self._claims_to_list[-command.limit :]
        held = [self._held(key_id, now_ms) for key_id in keys if key_id in self.jobs.claims]
        return ClaimPage(held, not self._claims_to_list)

    # Leasing.

    def _decide_lease(self, command: Lease, now_ms: int) -> Applied:
        for name in command.queues:
            queue = self.jobs.kinds.queues.get(name)
            if queue is not None and (job := _next_of(queue, now_ms)) is not None:
                event, granted = self._lease(job, command, now_ms)
                queue.leased.add(1, now_ms)
                return Applied((event,), granted)
        return Applied((), NothingReady())

    def _decide_lease_many(self, command: LeaseMany, now_ms: int) -> Applied:
        events: list[Event] = []
        leases: list[LeaseGranted] = []
        reply_bytes = 0
        for name in command.lease.queues:
            queue = self.jobs.kinds.queues.get(name)
            if queue is None:
                continue
            while len(leases) < command.count and (job := _next_of(queue, now_ms)) is not None:
                reply_bytes += len(self.jobs.kind(job).options)
                if job.payload_at:
                    reply_bytes += size_of(job.payload_at)
                if reply_bytes > LEASE_BYTES_MAX and leases:
                    return Applied(tuple(events), LeasesGranted(leases))
                queue.leased.add(1, now_ms)
                event, granted = self._lease(job, command.lease, now_ms)
                events.append(event)
                leases.append(granted)
        reply: Answer = LeasesGranted(leases) if leases else NothingReady()
        return Applied(tuple(events), reply)

    def _lease(self, job: Job, command: Lease, now_ms: int) -> tuple[Event, LeaseGranted]:
        jobs = self.jobs
        kind = jobs.kinds[job.kind]
        lease_ms = command.duration_ms
        if lease_ms is None:
            lease_ms = self._policy.lease_ms if kind.lease_ms is None else kind.lease_ms
        until_ms = now_ms + lease_ms
        token = jobs.last_token + 1
        event = JobLeased(job.job_id, token, until_ms, lease_ms, command.worker)
        jobs.evolve(event)
        granted = LeaseGranted(
            job.job_id,
            job.payload_at,
            until_ms,
            job.attempts,
            token,
            kind.max_retries,
            job.created_at_ms,
            kind.options,
            "" if job.own is None else job.own.group,
        )
        return event, granted

    # What the holder of a lease may do.

    def _decide_many(self, command: Many, now_ms: int, put: Put) -> Applied:
        events: list[Event] = []
        answers: list[Reply | SettledBefore] = []
        for each in command.commands:
            applied = self._decide_held(each, now_ms, put)
            events += applied.events
            answers.append(applied.reply)  # type: ignore[arg-type]  # no other answer to these
        return Applied(tuple(events), ManyAnswers(answers))

    def _decide_held(
        self, command: Ack | Fail | Extend | Release, now_ms: int, put: Put
    ) -> Applied:
        job = self.jobs.by_id.get(command.job_id)
        if job is None:
            return Applied((), JobNotFound(command.job_id))
        if not self._holds(job, command.lease_token, now_ms):
            return Applied((), _not_held(job, command))
        match command:
            case Ack():
                result_at = put(command.result) if command.result else 0
                return self._settled(job, JobAcked(job.job_id, now_ms, result_at), now_ms)
            case Fail():
                error_at = put(command.error) if command.error else 0
                retry_at_ms = self._retry_at_ms(job, command, now_ms)
                event = JobFailed(job.job_id, now_ms, error_at, retry_at_ms)
                return self._settled(job, event, now_ms)
            case Extend():
                return self._extended(job, command, now_ms)
            case Release():
                run_at_ms = now_ms + command.delay_ms if command.delay_ms else 0
                released = JobReleased(job.job_id, run_at_ms)
                self.evolve(released)
                return Applied((released,), Settled(job.job_id))
            case _:
                assert_never(command)

    def _settled(self, job: Job, event: JobAcked | JobFailed, now_ms: int) -> Applied:
        queue = self.jobs.kinds[job.kind].queue
        (queue.acked if type(event) is JobAcked else queue.failed).add(1, now_ms)
        self.jobs.evolve(event)
        return Applied((event,), Settled(job.job_id))

    def _retry_at_ms(self, job: Job, command: Fail, now_ms: int) -> int:
        """When a job that failed is to run again; 0: not."""
        kind = self.jobs.kind(job)
        if not command.retry or job.attempts >= kind.attempts_max:
            return 0
        if command.retry_in_ms is not None:
            return now_ms + command.retry_in_ms
        backoff = self._policy.backoff if kind.backoff is None else kind.backoff
        return now_ms + backoff.delay_ms(job.job_id, job.attempts)

    def _extended(self, job: Job, command: Extend, now_ms: int) -> Applied:
        assert job.run is not None, "it is leased"
        duration_ms = command.duration_ms
        if duration_ms is None:
            # A lease from before its duration was kept has none.
            duration_ms = job.run.lease_ms or self._policy.lease_ms
        until_ms = now_ms + duration_ms
        event = LeaseExtended(job.job_id, until_ms, command.progress)
        self.evolve(event)
        return Applied((event,), Extended(job.job_id, until_ms))

    @staticmethod
    def _holds(job: Job, lease_token: int | None, now_ms: int) -> bool:
        # A lease can be over before its timer was handled, when very many end at once.
        live = job.state is RUNNING and now_ms < job.due_ms
        # Tokens only grow, so an older one means that another worker may hold the job by
        # now: a slow worker must not finish somebody else's attempt.
        return live and (lease_token is None or lease_token == job.lease_token)

    # What anybody may do to a job, and an operator to a queue.

    def _decide_of_job(self, command: Cancel | Retry | Forget, now_ms: int) -> Applied:
        job_id = command.job_id
        job = self.jobs.by_id.get(job_id)
        if job is None:
            return Applied((), JobNotFound(job_id))
        event: Event
        match command:
            case Cancel():
                if job.state is CANCELLED:
                    return Applied((), Settled(job_id))
                allowed, event = job.state not in FINISHED, JobCancelled(job_id, now_ms)
            case Retry():
                allowed, event = job.state in _RETRIED, JobRetried(job_id)
            case Forget():
                allowed, event = job.state in FINISHED, JobForgotten(job_id)
            case _:
                assert_never(command)
        if not allowed:
            return Applied((), WrongState(job_id, job.state.name))
        if type(command) is Retry and self._room_for_jobs() < 1:
            return Applied((), TooMany("jobs"))
        self.evolve(event)
        return Applied((event,), Settled(job_id))

    def _room_for_jobs(self) -> int:
        """How many more unfinished jobs there may be."""
        jobs_max = self._policy.jobs_max
        return sys.maxsize if jobs_max is None else jobs_max - self.jobs.unfinished

    def _decide_sweep(self, command: Sweep) -> Applied:
        jobs = self.jobs
        up_to = command.up_to_number or jobs.last_number
        queue = jobs.kinds.queues.get(command.queue)
        state = State.__members__.get(command.state)
        allowed = state in _RETRIED if command.action == "retry" else state is not RUNNING
        if queue is None or state is None or not queue.counts[state] or not allowed:
            return Applied((), Swept(0, None, up_to))
        met: list[bytes] = []
        next_number: int | None = None
        for looked_at, job in enumerate(jobs.order.after(command.after_number)):
            if job.number > up_to:
                break
            if looked_at == command.scan:
                break
            next_number = job.number
            if job.state is state and jobs.kinds[job.kind].queue is queue:
                met.append(job.job_id)
        else:
            next_number = None
        if next_number is not None and next_number >= up_to:
            next_number = None
        if command.action == "retry" and len(met) > (room := self._room_for_jobs()):
            if room < 1:
                return Applied((), TooMany("jobs"))
            del met[room:]
            next_number = jobs.by_id[met[-1]].number
        event = JobRetried if command.action == "retry" else JobForgotten
        events = tuple([event(job_id) for job_id in met])
        for each in events:
            jobs.evolve(each)
        return Applied(events, Swept(len(events), next_number, up_to))

    def _decide_pause(self, command: Pause) -> Applied:
        queues = self.jobs.kinds.queues
        queue = queues.get(command.queue)
        done = Settled(b"")
        if (queue is not None and queue.paused) is command.paused:
            return Applied((), done)
        if not self._has_room_for_queues({command.queue}):
            return Applied((), TooMany("queues"))
        event = QueuePaused(command.queue, command.paused)
        self.evolve(event)
        return Applied((event,), done)

    def _queues(self, command: ViewQueues, now_ms: int) -> QueueViews:
        queues = self.jobs.kinds.queues
        if command.queue is not None:
            named = queues.get(command.queue)
            return QueueViews([] if named is None else [view_of_queue(named, now_ms)])
        # By name: queues come and go from page to page, and one that stays is on just one.
        names = nsmallest(PAGE_QUEUES_MAX, (name for name in queues if name > command.after))
        page_of = [queues[name] for name in names]
        return QueueViews(
            [view_of_queue(queue, now_ms) for queue in page_of if queue.paused or queue.jobs],
            names[-1] if len(names) == PAGE_QUEUES_MAX else None,
        )


_MET: Final[dict[Submitted, Callable[[bytes], Reply]]] = {
    Submitted.REPLAYED: Replayed,
    Submitted.CONFLICT: Conflict,
    Submitted.EXISTS: AlreadyExists,
    Submitted.WRONG_PARTITION: WrongPartition,
}


def _next_of(queue: Queue, now_ms: int) -> Job | None:
    """The job to lease; None: none now."""
    if queue.paused:
        return None
    job = queue.ready.head()
    if job is not None and job.own is not None and 0 < job.own.expires_at_ms <= now_ms:
        # Its ttl is over, and very many timers are: it is about to be DEAD.
        return None
    return job


def _stored(command: Enqueue, now_ms: int, put: Put) -> JobEnqueued:
    own = None
    if command.group or command.digest or command.expires_at_ms:
        own = Own(command.group, command.digest, command.expires_at_ms)
    return JobEnqueued(
        command.job_id,
        put(command.payload) if command.payload else 0,
        command.max_retries,
        now_ms,
        command.owner,
        command.options,
        command.run_at_ms if command.run_at_ms > now_ms else 0,
        own,
    )


def _not_held(job: Job, command: Ack | Fail | Extend | Release) -> Reply | SettledBefore:
    """Why the token of the command, or its lack, is of no use."""
    token = command.lease_token
    if token is None:
        return NotRunning(job.job_id, job.state.name)
    if job.lease_token != token or job.state is RUNNING:
        return LeaseLost(job.job_id)
    if job.state is CANCELLED:
        return WrongState(job.job_id, job.state.name)
    if job.state in _GIVEN_BACK:
        # What stands at ``outcome_at`` is of the attempt before the one that was released.
        return LeaseLost(job.job_id)
    outcome_at = job.outcome_at if job.outcome_at > EMPTY_AT else 0
    match command:
        case Ack() if job.outcome is Outcome.RESULT:
            return SettledBefore(job.job_id, outcome_at, command.result or b"")
        case Fail() if job.outcome is Outcome.ERROR:
            return SettledBefore(job.job_id, outcome_at, command.error)
        case _:
            return LeaseLost(job.job_id)


def _round_up(deadline_ms: int) -> int:
    return -(-deadline_ms // _FORGET_EVERY_MS) * _FORGET_EVERY_MS
