"""The jobs of one partition: what a command does to them. Pure.

``apply(command, now_ms) -> (events, reply)`` decides, and changes the state only through the
``_on_*`` methods, one per event. ``evolve(event)`` is the table of them, and recovery calls it
with the same events from the log; so running and recovered state cannot differ. The reply must
not leave the process before the events are durable.

Texts never come here. A command's text, if it has one, will stand at ``text_at`` when the
events that name that position are committed; replies name positions, and the actor reads
them (``LeaseGranted``, ``JobFound``, ``SettledBefore``).

Invariants, between any two calls:

* a job is in the ready queue exactly when it is READY, or RETRY with ``due_ms`` 0;
* a RUNNING job has a timer at its ``due_ms``, and so has a RETRY job that is not ready;
* ``attempts`` <= ``attempts_max``; every lease has a token above all earlier ones;
* a finished job (ACKED, DEAD) is in one of the two ``_finished`` queues, oldest first;
* ``live`` counts the texts that some job still needs, for every segment.

**Snapshots.** ``begin_snapshot`` fixes a moment; ``next_for_snapshot`` then hands out the jobs
as they were at that moment, a few at a time, while commands go on (``cut``).
"""

from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, assert_never

import msgspec

from partitions.cut import Cut
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
from partitions.job import CREATED_SHIFT, EMPTY_AT, EXPIRED_AT, Job, Outcome, State
from partitions.limits import DUE_PER_TICK_MAX
from partitions.live import LiveTexts
from partitions.messages import (
    Ack,
    AlreadyExists,
    Command,
    Enqueue,
    Enqueued,
    Fail,
    Get,
    JobNotFound,
    Lease,
    LeaseLost,
    NothingReady,
    NotRunning,
    Reply,
    Settled,
    Tick,
    WrongPartition,
)
from partitions.queues import ReadyQueue
from partitions.retry import Backoff
from partitions.slots import SLOTS, slot_of
from partitions.timers import Timer, Timers

_FORGET_EVERY_MS: Final = 5_000
"""Finished jobs are forgotten in bunches, so that they do not each cost a commit."""

_FINISHED: Final = (State.ACKED, State.DEAD)
_number_of: Final = attrgetter("number")
_due_of: Final = attrgetter("due_ms")


class Policy(msgspec.Struct, frozen=True):
    """What the operator chose; decides events, is never needed to replay them."""

    slots: range = range(SLOTS)
    backoff: Backoff = Backoff()
    retention_ms: int = 86_400_000
    dead_retention_ms: int = 604_800_000


class LeaseGranted(msgspec.Struct, frozen=True, gc=False):
    """The head of the queue was leased; its payload is at ``payload_at``."""

    job_id: bytes
    payload_at: int
    lease_until_ms: int
    attempt: int
    lease_token: int
    max_retries: int
    created_at_ms: int


class JobFound(msgspec.Struct, frozen=True, gc=False):
    """A job to show. The text of a RESULT or an ERROR is at ``outcome_at`` (0: empty)."""

    job_id: bytes
    state: State
    attempts: int
    max_retries: int
    created_at_ms: int
    lease_until_ms: int | None
    outcome: Outcome
    outcome_at: int
    owner: str


class SettledBefore(msgspec.Struct, frozen=True, gc=False):
    """The same token already ended its attempt the same way.

    It is the same report sent again when its text is what stands at ``outcome_at``
    (0: there was none); otherwise the lease is lost.
    """

    job_id: bytes
    outcome_at: int


Answer = Reply | LeaseGranted | JobFound | SettledBefore


class Applied(msgspec.Struct, frozen=True, gc=False):
    """What a command led to. ``keeps_text``: the events name ``text_at``."""

    events: tuple[Event, ...]
    reply: Answer
    keeps_text: bool = False


class StateHead(msgspec.Struct, frozen=True, array_like=True):
    """All of a state that is not a job; what a snapshot begins with."""

    jobs: int
    last_number: int
    last_token: int
    owners: list[str]
    live_bytes: dict[int, int]


class PartitionState:
    """All jobs of one partition."""

    def __init__(self, policy: Policy | None = None) -> None:
        self._policy = policy or Policy()
        self._jobs: dict[bytes, Job] = {}
        self._ready = ReadyQueue()
        self._timers = Timers()
        self._timers_live = 0
        self._finished: dict[State, deque[Job]] = {state: deque() for state in _FINISHED}
        self._last_number = 0
        self._last_token = 0
        self._owners: list[str] = []
        self._owner_indexes: dict[str, int] = {}
        self._cut: Cut | None = None
        self.live = LiveTexts()
        self._caught_up_ms = 0
        self._due_left = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def ready(self) -> int:
        """Jobs that can be leased now."""
        return len(self._ready)

    def apply(self, command: Command, now_ms: int, text_at: int = 0) -> Applied:
        """Let time catch up to ``now_ms``, then carry out ``command``, in memory only.

        Total: a command that cannot be honoured gets a refusing reply, never an exception.
        ``text_at`` is where the command's text will stand if the events keep it; 0 when it
        has none.
        """
        deadline_ms = self._timers.next_deadline_ms()
        if deadline_ms is None or deadline_ms > now_ms:
            return self._decide(command, now_ms, text_at)
        due = self._catch_up(now_ms)
        applied = self._decide(command, now_ms, text_at)
        return Applied(due + applied.events, applied.reply, applied.keeps_text)

    def find(self, job_id: bytes) -> JobFound | JobNotFound:
        """A job as it is now; changes nothing, so it needs no room on the disk."""
        job = self._jobs.get(job_id)
        if job is None:
            return JobNotFound(job_id)
        return JobFound(
            job_id,
            job.state,
            job.attempts,
            job.max_retries,
            job.created_at_ms,
            job.due_ms if job.state is State.RUNNING else None,
            job.outcome,
            job.outcome_at if job.outcome_at > EMPTY_AT else 0,
            self._owners[job.owner],
        )

    def next_deadline_ms(self) -> int | None:
        """When a ``Tick`` is due, if nothing else comes before; None: never."""
        deadlines = [
            _round_up(queue[0].due_ms + self._retention_ms(state))
            for state, queue in self._finished.items()
            if queue
        ]
        timer = self._timers.next_deadline_ms()
        if timer is not None:
            deadlines.append(timer)
        return min(deadlines, default=None)

    def evolve(self, event: Event) -> None:
        """Make the change that ``event`` says has happened. Never refuses."""
        self._evolvers[type(event)](self, event)

    # Snapshots and disk space -----------------------------------------------------------

    def begin_snapshot(self) -> StateHead:
        """Fix this moment for ``next_for_snapshot``; one snapshot at a time."""
        self._cut = Cut(list(self._jobs.values()), self._last_number)
        return StateHead(
            len(self._jobs),
            self._last_number,
            self._last_token,
            list(self._owners),
            dict(self.live.by_segment),
        )

    def next_for_snapshot(self, count: int) -> list[Job]:
        """At most ``count`` jobs that were not handed out yet, as they were at that moment.

        In no order that matters; empty when there are no more, and the snapshot is over. They
        are to be encoded before anything is applied or evolved.
        """
        assert self._cut is not None, "no snapshot was begun"
        taken = self._cut.take(count)
        if not taken:
            self._cut = None
        return taken

    def abandon_snapshot(self) -> None:
        """Forget the moment that was fixed."""
        self._cut = None

    def restore(self, head: StateHead, jobs: list[Job]) -> None:
        """Become what the snapshot holds; this state must be fresh. Takes over ``jobs``."""
        assert not self._jobs, "only a fresh state can be restored"
        jobs.sort(key=_number_of)
        self._jobs = {job.job_id: job for job in jobs}
        self._last_number, self._last_token = head.last_number, head.last_token
        self._owners = list(head.owners)
        self._owner_indexes = {owner: index for index, owner in enumerate(head.owners)}
        self.live = LiveTexts(head.live_bytes)
        # Most jobs of a large state are READY: those take no step of Python each.
        self._ready.add_all_fresh([job for job in jobs if job.state is State.READY])
        for job in [job for job in jobs if job.state is not State.READY]:
            if job.is_ready:
                self._ready.add_returned(job)
            elif job.state is State.RUNNING or job.state is State.RETRY:
                self._timers.add(job.due_ms, job.job_id)
                self._timers_live += 1
        for state, queue in self._finished.items():
            queue.extend(sorted((job for job in jobs if job.state is state), key=_due_of))

    def moved(self, event: Event, move: Callable[[int], int | None]) -> list[Event]:
        """Copy forward what ``event``, of an old segment, put there and is still needed.

        ``move(position)`` copies a text and says where it is now. Returns what happened;
        nothing is evolved yet.
        """
        if isinstance(event, TokensRaised):
            return []
        job = self._jobs.get(event.job_id)
        if job is None:
            return []
        match event:
            case JobEnqueued(payload_at=at) | PayloadMoved(payload_at=at):
                if at <= EMPTY_AT or job.payload_at != at:
                    return []
                to = move(at)
                return [] if to is None else [PayloadMoved(job.job_id, to)]
            case JobAcked(result_at=at) | JobFailed(error_at=at) | OutcomeMoved(outcome_at=at):
                if at > EMPTY_AT and job.outcome_at == at:
                    to = move(at)
                    return [] if to is None else [OutcomeMoved(job.job_id, to)]
        return []

    def _keep(self, position: int) -> None:
        """A text is needed from now on; what is no position of one has none."""
        if position > EMPTY_AT:
            self.live.keep(position)

    def _drop(self, position: int) -> None:
        """A text is needed no more."""
        if position > EMPTY_AT:
            self.live.drop(position)

    def _change(self, job_id: bytes) -> Job:
        """The job, to be changed: a snapshot under way gets it as it was."""
        job = self._jobs[job_id]
        if self._cut is not None:
            self._cut.preserve(job)
        return job

    def _set_outcome(self, job: Job, position: int) -> None:
        self._drop(job.outcome_at)
        self._keep(position)
        job.outcome_at = position

    # Time ---------------------------------------------------------------------------------

    def _catch_up(self, now_ms: int) -> tuple[Event, ...]:
        """Evolve what is due; at most ``DUE_PER_TICK_MAX`` timers, the rest come next time.

        The commands of one batch have one ``now_ms`` and share that number: were it for each
        of them, a thousand commands could make a record that no start would read.
        """
        if now_ms != self._caught_up_ms:
            self._caught_up_ms, self._due_left = now_ms, DUE_PER_TICK_MAX
        events: list[Event] = []
        while self._due_left and (timer := self._timers.pop_due(now_ms)):
            if not self._matters(timer):
                continue
            self._due_left -= 1
            job = self._jobs[timer[1]]
            if job.state is State.RUNNING:
                dead = job.attempts >= job.attempts_max
                events.append(LeaseExpired(job.job_id, now_ms, dead))
            else:
                events.append(BackoffOver(job.job_id))
            self.evolve(events[-1])
        return tuple(events)

    def _matters(self, timer: Timer) -> bool:
        job = self._jobs.get(timer[1])
        return (
            job is not None
            and job.due_ms == timer[0]
            and (job.state is State.RUNNING or job.state is State.RETRY)
        )

    def _forget(self, now_ms: int) -> tuple[Event, ...]:
        events: list[Event] = []
        for state, queue in self._finished.items():
            gone_before_ms = now_ms - self._retention_ms(state)
            while queue and queue[0].due_ms <= gone_before_ms and len(events) < DUE_PER_TICK_MAX:
                events.append(JobForgotten(queue[0].job_id))
                self.evolve(events[-1])
        return tuple(events)

    def _retention_ms(self, state: State) -> int:
        policy = self._policy
        return policy.dead_retention_ms if state is State.DEAD else policy.retention_ms

    # Decisions ----------------------------------------------------------------------------

    def _decide(self, command: Command, now_ms: int, text_at: int) -> Applied:
        match command:
            case Enqueue():
                return self._decide_enqueue(command, now_ms, text_at)
            case Lease():
                return self._decide_lease(command, now_ms)
            case Ack():
                return self._decide_ack(command, now_ms, text_at)
            case Fail():
                return self._decide_fail(command, now_ms, text_at)
            case Get():
                return Applied((), self.find(command.job_id))
            case Tick():
                return Applied(self._forget(now_ms), NothingReady())
            case _:
                assert_never(command)

    def _decide_enqueue(self, command: Enqueue, now_ms: int, text_at: int) -> Applied:
        job_id = command.job_id
        if slot_of(job_id) not in self._policy.slots:
            return Applied((), WrongPartition(job_id))
        if job_id in self._jobs:
            return Applied((), AlreadyExists(job_id))
        event = JobEnqueued(job_id, text_at, command.max_retries, now_ms, command.owner)
        self._on_enqueued(event)
        return Applied((event,), Enqueued(job_id), keeps_text=True)

    def _decide_lease(self, command: Lease, now_ms: int) -> Applied:
        job = self._ready.head()
        if job is None:
            return Applied((), NothingReady())
        until_ms = now_ms + command.duration_ms
        event = JobLeased(job.job_id, self._last_token + 1, until_ms)
        self._on_leased(event)
        reply = LeaseGranted(
            job.job_id,
            job.payload_at,
            until_ms,
            job.attempts,
            job.lease_token,
            job.max_retries,
            job.created_at_ms,
        )
        return Applied((event,), reply)

    def _decide_ack(self, command: Ack, now_ms: int, text_at: int) -> Applied:
        job = self._jobs.get(command.job_id)
        if job is None:
            return Applied((), JobNotFound(command.job_id))
        if not self._holds(job, command.lease_token, now_ms):
            return Applied((), self._not_held(job, command.lease_token, Outcome.RESULT))
        event = JobAcked(job.job_id, now_ms, text_at)
        self._on_acked(event)
        return Applied((event,), Settled(job.job_id), keeps_text=text_at != 0)

    def _decide_fail(self, command: Fail, now_ms: int, text_at: int) -> Applied:
        job = self._jobs.get(command.job_id)
        if job is None:
            return Applied((), JobNotFound(command.job_id))
        if not self._holds(job, command.lease_token, now_ms):
            return Applied((), self._not_held(job, command.lease_token, Outcome.ERROR))
        retry_at_ms = 0
        if job.attempts < job.attempts_max:
            retry_at_ms = now_ms + self._policy.backoff.delay_ms(job.job_id, job.attempts)
        event = JobFailed(job.job_id, now_ms, text_at, retry_at_ms)
        self._on_failed(event)
        return Applied((event,), Settled(job.job_id), keeps_text=text_at != 0)

    @staticmethod
    def _holds(job: Job, lease_token: int | None, now_ms: int) -> bool:
        # A lease can be over before its timer was handled, when very many end at once.
        live = job.state is State.RUNNING and now_ms < job.due_ms
        # Tokens only grow, so an older one means that another worker may hold the job by
        # now: a slow worker must not finish somebody else's attempt.
        return live and (lease_token is None or lease_token == job.lease_token)

    @staticmethod
    def _not_held(job: Job, lease_token: int | None, outcome: Outcome) -> Answer:
        if lease_token is None:
            return NotRunning(job.job_id, job.state.name)
        if (
            job.lease_token == lease_token
            and job.outcome is outcome
            and job.state is not State.RUNNING
        ):
            return SettledBefore(job.job_id, job.outcome_at if job.outcome_at > EMPTY_AT else 0)
        return LeaseLost(job.job_id)

    # Changes ------------------------------------------------------------------------------

    def _on_enqueued(self, event: JobEnqueued) -> None:
        number = event.created_at_ms << CREATED_SHIFT
        if number <= self._last_number:
            number = self._last_number + 1
        self._last_number = number
        owner = self._owner_indexes.get(event.owner)
        if owner is None:
            owner = self._owner_indexes[event.owner] = len(self._owners)
            self._owners.append(event.owner)
        job = Job(event.job_id, number, event.payload_at, event.max_retries, owner)
        self._jobs[event.job_id] = job
        self._keep(event.payload_at)
        self._ready.add_fresh(job)

    def _on_leased(self, event: JobLeased) -> None:
        job = self._change(event.job_id)
        self._ready.remove(job)
        job.state = State.RUNNING
        job.attempts += 1
        job.lease_token = event.lease_token
        self._last_token = max(self._last_token, event.lease_token)
        self._start_timer(job, event.lease_until_ms)

    def _on_acked(self, event: JobAcked) -> None:
        job = self._change(event.job_id)
        self._set_outcome(job, event.result_at)
        self._drop(job.payload_at)
        job.payload_at = 0
        self._stop_timer()
        self._finish(job, State.ACKED, event.at_ms)

    def _on_failed(self, event: JobFailed) -> None:
        job = self._change(event.job_id)
        self._set_outcome(job, event.error_at or EMPTY_AT)
        self._stop_timer()
        if event.retry_at_ms == 0:
            self._finish(job, State.DEAD, event.at_ms)
        else:
            job.state = State.RETRY
            self._start_timer(job, event.retry_at_ms)

    def _on_expired(self, event: LeaseExpired) -> None:
        job = self._change(event.job_id)
        self._set_outcome(job, EXPIRED_AT)
        self._stop_timer()
        if event.dead:
            self._finish(job, State.DEAD, event.at_ms)
        else:
            job.state = State.RETRY
            self._return(job)

    def _on_backoff_over(self, event: BackoffOver) -> None:
        self._stop_timer()
        self._return(self._change(event.job_id))

    def _on_forgotten(self, event: JobForgotten) -> None:
        job = self._change(event.job_id)
        del self._jobs[event.job_id]
        self._drop(job.payload_at)
        self._set_outcome(job, 0)
        finished = self._finished[job.state]
        if finished[0] is job:
            finished.popleft()
        else:
            finished.remove(job)

    def _on_payload_moved(self, event: PayloadMoved) -> None:
        job = self._change(event.job_id)
        self._drop(job.payload_at)
        self._keep(event.payload_at)
        job.payload_at = event.payload_at

    def _on_outcome_moved(self, event: OutcomeMoved) -> None:
        self._set_outcome(self._change(event.job_id), event.outcome_at)

    def _on_tokens_raised(self, event: TokensRaised) -> None:
        self._last_token = max(self._last_token, event.last_token)

    def _return(self, job: Job) -> None:
        job.due_ms = 0
        self._ready.add_returned(job)

    def _finish(self, job: Job, state: State, at_ms: int) -> None:
        job.state = state
        job.due_ms = at_ms
        self._finished[state].append(job)

    def _start_timer(self, job: Job, deadline_ms: int) -> None:
        job.due_ms = deadline_ms
        self._timers.add(deadline_ms, job.job_id)
        self._timers_live += 1

    def _stop_timer(self) -> None:
        # The timer itself stays in the heap until it comes up or the heap is rebuilt.
        self._timers_live -= 1
        self._timers.shrink(self._timers_live, self._matters)

    _evolvers: Final[dict[type[Event], Callable[["PartitionState", Any], None]]] = {
        JobEnqueued: _on_enqueued,
        JobLeased: _on_leased,
        JobAcked: _on_acked,
        JobFailed: _on_failed,
        LeaseExpired: _on_expired,
        BackoffOver: _on_backoff_over,
        JobForgotten: _on_forgotten,
        PayloadMoved: _on_payload_moved,
        OutcomeMoved: _on_outcome_moved,
        TokensRaised: _on_tokens_raised,
    }


def _round_up(deadline_ms: int) -> int:
    return -(-deadline_ms // _FORGET_EVERY_MS) * _FORGET_EVERY_MS
