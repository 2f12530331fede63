"""All jobs of one partition, as the events of the log make them. Pure.

``evolve(event)`` is the only thing that changes them, live and when the log is replayed, so
running and recovered jobs cannot differ; ``state`` decides which events happen. It never refuses:
what is in the log has happened.

Invariants, between any two calls:

* a job is among the ready jobs of its queue exactly when it is READY, or RETRY with ``due_ms`` 0,
  and, in a group, when it is that group's turn (``queues``);
* a RUNNING or SCHEDULED job has a timer at its ``due_ms``, so has a RETRY job that is not ready,
  and one with a ttl that was not leased yet has another;
* a finished job is in one of the ``finished`` queues, oldest first, or, with a retention of its
  own, in a heap;
* ``live`` counts the texts that some job still needs, for every segment.

``claims`` are of idempotency keys whose jobs are elsewhere (``slots``): they belong to no job here.

**Snapshots.** ``begin_snapshot`` fixes a moment; ``next_for_snapshot`` then hands out the jobs
as they were at that moment, a few at a time, while commands go on (``cut``).
"""

from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

import msgspec

from partitions.cut import Cut
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
    position_in,
)
from partitions.job import (
    ACKED,
    CANCELLED,
    CREATED_SHIFT,
    DEAD,
    EMPTY_AT,
    EXPIRED_AT,
    FINISHED,
    GONE,
    READY,
    RETRY,
    RUNNING,
    SCHEDULED,
    TTL_OVER_AT,
    Job,
    Run,
    State,
)
from partitions.kinds import Kind, Kinds, NumberedKind
from partitions.line import Line
from partitions.live import LiveTexts
from partitions.queues import Group, Queue
from partitions.slots import claim_slot, make_claim
from partitions.timers import Timer, Timers

_STALE_MIN: Final = 4096
"""Fewer jobs that are gone are left in a queue of finished ones (guess)."""

_DELAYED: Final = (SCHEDULED, RETRY)

_number_of: Final = attrgetter("number")
_due_of: Final = attrgetter("due_ms")


class StateHead(msgspec.Struct, frozen=True, array_like=True):
    """All of a state that is neither a job nor a kind; what a snapshot begins with."""

    jobs: int
    last_number: int
    last_token: int
    paused: list[str]
    live_bytes: dict[int, int]
    claims: int = 0


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A part of a snapshot. Every kind comes before the jobs; an empty one is the end."""

    kinds: list[NumberedKind]
    jobs: list[Job]
    claims: dict[bytes, int] = {}


class Jobs:
    """The jobs, and every order in which they are looked for."""

    def __init__(self) -> None:
        self.by_id: dict[bytes, Job] = {}
        self.kinds = Kinds()
        self.order = Line()
        """All of them, by submission."""
        self.timers = Timers()
        self.finished: dict[State, deque[Job]] = {state: deque() for state in FINISHED}
        """Those that are kept for as long as the node is set; some may be GONE."""
        self.finished_own = Timers()
        """When the others are to be forgotten."""
        self.unfinished = 0
        self.last_number = 0
        self.last_token = 0
        self.claims: dict[bytes, int] = {}
        """``{key id: claim}``, of keys that belong to this partition."""
        self.live = LiveTexts()
        self.changed: set[Queue] = set()
        """Queues whose ready jobs changed; whoever looks at them clears it."""
        self._timers_live = 0
        self._finished_own_live = 0
        self._stale: dict[State, int] = dict.fromkeys(FINISHED, 0)
        self._cut: Cut | None = None
        self._cut_kinds: list[Kind | None] = []
        self._cut_claims: dict[bytes, int] = {}

    def kind(self, job: Job) -> Kind:
        """What the job has in common with others."""
        return self.kinds[job.kind]

    def evolve(self, event: Event) -> None:
        """Make the change that ``event`` says has happened. Never refuses.

        What cannot have happened to these jobs is a bug, or in a log that is replayed damage
        that no checksum shows: an assertion fails, or the job is not where it should be
        (``LookupError``), and the jobs are of no use any more.
        """
        self._evolvers[type(event)](self, event)

    def matters(self, timer: Timer) -> bool:
        """Whether something is due at that time, and the timer is not from before."""
        deadline_ms, job_id = timer
        job = self.by_id.get(job_id)
        if job is None:
            return False
        state = job.state
        if job.due_ms == deadline_ms and state in (RUNNING, RETRY, SCHEDULED):
            return True
        return job.own is not None and job.own.expires_at_ms == deadline_ms

    def is_to_go(self, timer: Timer) -> bool:
        """The same of ``finished_own``."""
        gone_at_ms, job_id = timer
        job = self.by_id.get(job_id)
        if job is None or job.state not in FINISHED:
            return False
        retention_ms = self.kinds[job.kind].retention_ms
        return retention_ms is not None and job.due_ms + retention_ms == gone_at_ms

    # Snapshots and disk space -----------------------------------------------------------

    def begin_snapshot(self) -> StateHead:
        """Fix this moment for ``next_for_snapshot``; one snapshot at a time."""
        self._cut = Cut(self.order.share(), self.last_number)
        self._cut_kinds = self.kinds.all()
        self._cut_claims = self.claims.copy()
        return StateHead(
            len(self.by_id),
            self.last_number,
            self.last_token,
            sorted(queue.name for queue in self.kinds.queues.values() if queue.paused),
            dict(self.live.by_segment),
            len(self.claims),
        )

    def next_for_snapshot(self, count: int) -> Piece:
        """At most ``count`` kinds, claims or jobs that were not handed out yet, as they were then.

        In no order that matters; empty when there are no more, and the snapshot is over. They
        are to be encoded before anything is evolved.
        """
        assert self._cut is not None, "no snapshot was begun"
        while kinds := self._cut_kinds[-count:]:
            del self._cut_kinds[-count:]
            if some := [NumberedKind(each.index, each.key) for each in kinds if each is not None]:
                return Piece(some, [])
        if claims := self._cut_claims:
            return Piece([], [], dict([claims.popitem() for _ in range(min(count, len(claims)))]))
        taken = self._cut.take(count)
        if not taken:
            self.abandon_snapshot()
        return Piece([], taken)

    def abandon_snapshot(self) -> None:
        """Forget the moment that was fixed."""
        self._cut = None
        self._cut_kinds = []
        self._cut_claims = {}
        self.order.unshare()

    def restore(
        self,
        head: StateHead,
        kinds: list[NumberedKind],
        jobs: list[Job],
        claims: dict[bytes, int],
    ) -> None:
        """Become what the snapshot holds; this must be fresh. Takes over ``jobs`` and ``claims``.

        Raises:
            msgspec.MsgspecError: the options of a kind are none.
        """
        assert not self.by_id, "only fresh jobs can be restored"
        self.claims = claims
        self.kinds.restore(kinds)
        for name in head.paused:
            self.kinds.queue(name).paused = True
        jobs.sort(key=_number_of)
        self.by_id = {job.job_id: job for job in jobs}
        self.order = Line(jobs)
        self.last_number, self.last_token = head.last_number, head.last_token
        self.live = LiveTexts(head.live_bytes)
        # Most jobs of a large state wait and are plain: those take few steps of Python each.
        plain = [job for job in jobs if job.state is READY and job.own is None]
        self._restore_plain(plain)
        if len(plain) < len(jobs):
            for job in jobs:
                if job.state is not READY or job.own is not None:
                    self._restore_one(job)
        for state, queue in self.finished.items():
            queue.extend(
                sorted(
                    (
                        job
                        for job in jobs
                        if job.state is state and self.kinds[job.kind].retention_ms is None
                    ),
                    key=_due_of,
                )
            )
        self._restore_groups()

    def moved(self, event: Event, move: Callable[[int], int | None]) -> list[Event]:
        """Copy forward what ``event``, of an old segment, put there and is still needed.

        ``move(position)`` copies a text and says where it is now. Returns what happened;
        nothing is evolved yet.
        """
        at = position_in(event)
        if at <= EMPTY_AT:
            return []
        match event:
            case JobEnqueued() | PayloadMoved():
                job = self.by_id.get(event.job_id)
                if job is not None and job.payload_at == at and (to := move(at)) is not None:
                    return [PayloadMoved(job.job_id, to)]
            case JobAcked() | JobFailed() | OutcomeMoved():
                job = self.by_id.get(event.job_id)
                if job is not None and job.outcome_at == at and (to := move(at)) is not None:
                    return [OutcomeMoved(job.job_id, to)]
        return []

    def _restore_plain(self, plain: list[Job]) -> None:
        """Ready jobs without anything of their own, in order."""
        by_line: dict[tuple[str, int], list[Job]] = {}
        lists: dict[int, list[Job]] = {}
        kinds = list(self.kinds)
        for kind in kinds:
            lists[kind.index] = by_line.setdefault((kind.queue.name, kind.priority), [])
        counts = dict.fromkeys(lists, 0)
        if len(kinds) == 1:
            lists[kinds[0].index].extend(plain)
            counts[kinds[0].index] = len(plain)
        else:
            for job in plain:
                lists[job.kind].append(job)
                counts[job.kind] += 1
        for index, count in counts.items():
            if count:
                kind = self.kinds[index]
                self.kinds.hold(kind, count)
                kind.queue.counts[READY] += count
        for (name, priority), jobs in by_line.items():
            if jobs:
                queue = self.kinds.queues[name]
                queue.ready.fill(jobs, priority)
                self.changed.add(queue)
        self.unfinished += len(plain)

    def _restore_one(self, job: Job) -> None:
        kind = self.kinds[job.kind]
        self.kinds.hold(kind)
        queue, state = kind.queue, job.state
        queue.counts[state] += 1
        if state in FINISHED:
            if kind.retention_ms is not None:
                self._keep_for(job, kind.retention_ms)
            return
        self.unfinished += 1
        own = job.own
        if own is not None and own.expires_at_ms:
            self._add_timer(own.expires_at_ms, job)
        if job.due_ms:
            self._add_timer(job.due_ms, job)
        if own is not None and own.group:
            group = self._group(queue, own.group)
            group.members.append(job)
            if state is RUNNING:
                group.running = job
        elif job.is_ready:
            self._offer(job, kind)

    def _restore_groups(self) -> None:
        for queue in self.kinds.queues.values():
            for name in list(queue.groups):
                self._give_turn(queue, name)

    def drop_idle_kinds(self) -> None:
        """Let go of what no job has any more, and so of queues without jobs."""
        if self._cut is None:
            self.kinds.drop_idle()

    # Changes ------------------------------------------------------------------------------

    def enqueue(self, event: JobEnqueued, kind: Kind | None = None) -> Kind:
        """Evolve by a submit; the kind of the job, which may be known."""
        assert event.job_id not in self.by_id, "JobEnqueued of a job that is there"
        number = event.created_at_ms << CREATED_SHIFT
        if number <= self.last_number:
            number = self.last_number + 1
        # Shifts and sums leave room for a carry, in 48 bytes; a copy of it takes 32.
        self.last_number = number = number | 0
        if kind is None:
            kind = self.kinds.of(event.options, event.owner, event.max_retries)
        if kind.jobs:
            kind.jobs += 1
        else:
            self.kinds.hold(kind)
        job = Job(event.job_id, number, event.payload_at, kind.index)
        self.by_id[event.job_id] = job
        self.order.append(job)
        self.unfinished += 1
        if event.payload_at > EMPTY_AT:
            self.live.keep(event.payload_at)
        counts = kind.queue.counts
        if event.run_at_ms:
            job.state = SCHEDULED
            counts[SCHEDULED] += 1
            self._start_timer(job, event.run_at_ms)
        else:
            counts[READY] += 1
        own = event.own
        if own is not None:
            job.own = own
            if own.expires_at_ms:
                self._add_timer(own.expires_at_ms, job)
            if own.group:
                self._group(kind.queue, own.group).members.append(job)
                self._give_turn(kind.queue, own.group)
                return kind
        if not event.run_at_ms:
            kind.queue.ready.add(job, kind.priority)
            self.changed.add(kind.queue)
        return kind

    def _on_leased(self, event: JobLeased) -> None:
        job = self._change(event.job_id)
        assert job.is_ready, _misfit(event, job)
        assert event.lease_token > self.last_token, "JobLeased under a token that was given before"
        kind = self.kinds[job.kind]
        queue = kind.queue
        queue.ready.remove(job, kind.priority)
        self.changed.add(queue)
        own = job.own
        if own is not None:
            if own.expires_at_ms:
                self._stop_ttl(job)
            if own.group:
                group = queue.groups[own.group]
                group.offered, group.running = None, job
        queue.counts[job.state] -= 1
        queue.counts[RUNNING] += 1
        job.state = RUNNING
        run = job.run
        if run is None:
            run = job.run = Run()
        run.attempts += 1
        run.lease_token = event.lease_token
        run.lease_ms = event.lease_ms
        run.worker = event.worker
        run.progress = b""
        self.last_token = event.lease_token
        self._start_timer(job, event.lease_until_ms)

    def _on_extended(self, event: LeaseExtended) -> None:
        job = self._change(event.job_id)
        assert job.state is RUNNING, _misfit(event, job)
        self._stop_timer()
        self._start_timer(job, event.lease_until_ms)
        if event.progress:
            _run_of(job).progress = event.progress

    def _on_released(self, event: JobReleased) -> None:
        job = self._change(event.job_id)
        assert job.state is RUNNING, _misfit(event, job)
        self._stop_timer()
        _run_of(job).attempts -= 1
        if event.run_at_ms:
            self._start_timer(job, event.run_at_ms)
            self._wait(job, SCHEDULED)
        else:
            job.due_ms = 0
            self._wait(job, READY)

    def _on_acked(self, event: JobAcked) -> None:
        job = self._change(event.job_id)
        assert job.state is RUNNING, _misfit(event, job)
        self._set_outcome(job, event.result_at)
        if job.payload_at > EMPTY_AT:
            self.live.drop(job.payload_at)
        job.payload_at = 0
        self._stop_timer()
        self._finish(job, ACKED, event.at_ms)

    def _on_failed(self, event: JobFailed) -> None:
        job = self._change(event.job_id)
        assert job.state is RUNNING, _misfit(event, job)
        self._set_outcome(job, event.error_at or EMPTY_AT)
        self._stop_timer()
        if event.retry_at_ms == 0:
            self._finish(job, DEAD, event.at_ms)
        else:
            self._start_timer(job, event.retry_at_ms)
            self._wait(job, RETRY)

    def _on_lease_expired(self, event: LeaseExpired) -> None:
        job = self._change(event.job_id)
        assert job.state is RUNNING, _misfit(event, job)
        self._set_outcome(job, EXPIRED_AT)
        _run_of(job).crashes += 1
        self._stop_timer()
        if event.dead:
            self._finish(job, DEAD, event.at_ms)
        else:
            job.due_ms = 0
            self._wait(job, RETRY)

    def _on_backoff_over(self, event: BackoffOver) -> None:
        job = self._change(event.job_id)
        assert job.due_ms, _misfit(event, job)
        assert job.state in _DELAYED, _misfit(event, job)
        self._stop_timer()
        job.due_ms = 0
        kind = self.kinds[job.kind]
        if job.state is SCHEDULED:
            self._count(job, kind, READY)
        self._offer(job, kind)

    def _on_expired(self, event: JobExpired) -> None:
        job = self._change(event.job_id)
        assert job.own is not None, _misfit(event, job)
        assert job.own.expires_at_ms, _misfit(event, job)
        self._leave(job)
        self._set_outcome(job, TTL_OVER_AT)
        self._finish(job, DEAD, event.at_ms)

    def _on_cancelled(self, event: JobCancelled) -> None:
        job = self._change(event.job_id)
        assert job.state not in FINISHED, _misfit(event, job)
        self._leave(job)
        self._finish(job, CANCELLED, event.at_ms)

    def _on_retried(self, event: JobRetried) -> None:
        # It begins anew as another object: where the old one is still met it is GONE.
        old = self._change(event.job_id)
        assert old.state in (DEAD, CANCELLED), _misfit(event, old)
        kind = self.kinds[old.kind]
        self._set_outcome(old, 0)
        own = old.own
        if own is not None and own.expires_at_ms:
            own = msgspec.structs.replace(own, expires_at_ms=0)
        run = None if old.run is None else Run(lease_token=old.run.lease_token)
        job = Job(old.job_id, old.number, old.payload_at, old.kind, run=run, own=own)
        self._unfinish(old, kind)
        kind.queue.counts[old.state] -= 1
        kind.queue.counts[READY] += 1
        old.state = GONE
        self.by_id[event.job_id] = job
        self.order.replace(old, job)
        self.unfinished += 1
        if own is not None and own.group:
            self._group(kind.queue, own.group).members.add(job)
        self._offer(job, kind)

    def _on_forgotten(self, event: JobForgotten) -> None:
        job = self._change(event.job_id)
        assert job.state is not RUNNING, _misfit(event, job)
        kind = self.kinds[job.kind]
        finished = job.state in FINISHED
        if finished:
            self._unfinish(job, kind)
        else:
            self._leave(job)
            self.unfinished -= 1
        del self.by_id[event.job_id]
        self.order.remove(job)
        if job.payload_at > EMPTY_AT:
            self.live.drop(job.payload_at)
        self._set_outcome(job, 0)
        kind.queue.counts[job.state] -= 1
        job.state = GONE
        if not finished and job.own is not None and job.own.group:
            self._leave_group(job, kind)
        self.kinds.let_go(kind, keep=self._cut is not None)

    def _on_payload_moved(self, event: PayloadMoved) -> None:
        job = self._change(event.job_id)
        assert job.payload_at > EMPTY_AT, _misfit(event, job)
        self.live.drop(job.payload_at)
        self._keep(event.payload_at)
        job.payload_at = event.payload_at

    def _on_outcome_moved(self, event: OutcomeMoved) -> None:
        job = self._change(event.job_id)
        assert job.outcome_at > EMPTY_AT, _misfit(event, job)
        self._set_outcome(job, event.outcome_at)

    def _on_tokens_raised(self, event: TokensRaised) -> None:
        self.last_token = max(self.last_token, event.last_token)

    def _on_paused(self, event: QueuePaused) -> None:
        queue = self.kinds.queue(event.queue)
        queue.paused = event.paused
        self.changed.add(queue)
        self.kinds.drop_if_idle(queue)

    def _on_key_claimed(self, event: KeyClaimed) -> None:
        held = self.claims.get(event.key_id)
        assert held is None or claim_slot(held) == event.slot, "KeyClaimed of a key that is held"
        self.claims[event.key_id] = make_claim(event.slot, event.at_ms)

    def _on_key_freed(self, event: KeyFreed) -> None:
        del self.claims[event.key_id]

    # What changes have in common ----------------------------------------------------------

    def _change(self, job_id: bytes) -> Job:
        """The job, to be changed: a snapshot under way gets it as it was."""
        job = self.by_id[job_id]
        if self._cut is not None:
            self._cut.preserve(job)
        return job

    def _count(self, job: Job, kind: Kind, state: State) -> None:
        counts = kind.queue.counts
        counts[job.state] -= 1
        counts[state] += 1
        job.state = state

    def _wait(self, job: Job, state: State) -> None:
        """A job that ran waits again; ``due_ms`` says until when."""
        kind = self.kinds[job.kind]
        self._count(job, kind, state)
        own = job.own
        if own is not None and own.group:
            kind.queue.groups[own.group].running = None
            self._give_turn(kind.queue, own.group)
        elif job.due_ms == 0:
            self._offer(job, kind)

    def _leave(self, job: Job) -> None:
        """An unfinished job does not go on: no lease, no place among the ready, no timer."""
        kind = self.kinds[job.kind]
        if job.due_ms:
            self._stop_timer()
        elif job.own is None or not job.own.group:
            kind.queue.ready.remove(job, kind.priority)
            self.changed.add(kind.queue)
        if job.own is not None and job.own.expires_at_ms:
            self._stop_ttl(job)

    def _finish(self, job: Job, state: State, at_ms: int) -> None:
        kind = self.kinds[job.kind]
        self._count(job, kind, state)
        job.due_ms = at_ms
        self.unfinished -= 1
        if kind.retention_ms is None:
            self.finished[state].append(job)
        else:
            self._keep_for(job, kind.retention_ms)
        if job.own is not None and job.own.group:
            self._leave_group(job, kind)

    def _keep_for(self, job: Job, retention_ms: int) -> None:
        self.finished_own.add(job.due_ms + retention_ms, job.job_id)
        self._finished_own_live += 1

    def _unfinish(self, job: Job, kind: Kind) -> None:
        """A finished job is finished no more: it is about to be GONE."""
        if kind.retention_ms is not None:
            self._finished_own_live -= 1
            self.finished_own.shrink(self._finished_own_live, self.is_to_go)
            return
        finished = self.finished[job.state]
        if finished[0] is job:
            finished.popleft()
            return
        self._stale[job.state] += 1
        if self._stale[job.state] > max(_STALE_MIN, len(finished) // 2):
            # The job itself is GONE only in a moment.
            left = deque(each for each in finished if each.state is job.state and each is not job)
            self.finished[job.state] = left
            self._stale[job.state] = 0

    def skip_gone(self, state: State) -> deque[Job]:
        """The queue of finished jobs of that state; its first one, if any, is not GONE."""
        finished = self.finished[state]
        while finished and finished[0].state is GONE:
            finished.popleft()
            self._stale[state] -= 1
        return finished

    def _offer(self, job: Job, kind: Kind) -> None:
        """The job can be leased, when it is its turn."""
        own = job.own
        if own is not None and own.group:
            self._give_turn(kind.queue, own.group)
            return
        kind.queue.ready.add(job, kind.priority)
        self.changed.add(kind.queue)

    def _group(self, queue: Queue, name: str) -> Group:
        group = queue.groups.get(name)
        if group is None:
            group = queue.groups[name] = Group()
        return group

    def _leave_group(self, job: Job, kind: Kind) -> None:
        assert job.own is not None, "it is in a group"
        queue, name = kind.queue, job.own.group
        group = queue.groups[name]
        if group.running is job:
            group.running = None
        group.members.remove(job)
        self._give_turn(queue, name)

    def _give_turn(self, queue: Queue, name: str) -> None:
        """Let the right job of the group be among the ready ones, and no other."""
        group = queue.groups[name]
        first = group.members.head()
        wanted = first if first and group.running is None and first.is_ready else None
        if group.offered is not wanted:
            if group.offered is not None:
                queue.ready.remove(group.offered, self.kinds[group.offered.kind].priority)
            if wanted is not None:
                queue.ready.add(wanted, self.kinds[wanted.kind].priority)
            group.offered = wanted
            self.changed.add(queue)
        if first is None:
            del queue.groups[name]

    def _keep(self, position: int) -> None:
        """A text is needed from now on; what is no position of one has none."""
        if position > EMPTY_AT:
            self.live.keep(position)

    def _set_outcome(self, job: Job, position: int) -> None:
        run = job.run
        if run is None:
            if position == 0:
                return
            run = job.run = Run()
        if run.outcome_at > EMPTY_AT:
            self.live.drop(run.outcome_at)
        if position > EMPTY_AT:
            self.live.keep(position)
        run.outcome_at = position

    def _start_timer(self, job: Job, deadline_ms: int) -> None:
        job.due_ms = deadline_ms
        self._add_timer(deadline_ms, job)

    def _add_timer(self, deadline_ms: int, job: Job) -> None:
        self.timers.add(deadline_ms, job.job_id)
        self._timers_live += 1

    def _stop_timer(self) -> None:
        # The timer itself stays in the heap until it comes up or the heap is rebuilt.
        self._timers_live -= 1
        self.timers.shrink(self._timers_live, self.matters)

    def _stop_ttl(self, job: Job) -> None:
        assert job.own is not None, "it has a ttl"
        job.own = msgspec.structs.replace(job.own, expires_at_ms=0)
        self._stop_timer()

    _evolvers: Final[dict[type[Event], Callable[["Jobs", Any], object]]] = {
        JobEnqueued: enqueue,
        JobLeased: _on_leased,
        JobAcked: _on_acked,
        JobFailed: _on_failed,
        LeaseExpired: _on_lease_expired,
        BackoffOver: _on_backoff_over,
        JobForgotten: _on_forgotten,
        PayloadMoved: _on_payload_moved,
        OutcomeMoved: _on_outcome_moved,
        TokensRaised: _on_tokens_raised,
        LeaseExtended: _on_extended,
        JobReleased: _on_released,
        JobExpired: _on_expired,
        JobCancelled: _on_cancelled,
        JobRetried: _on_retried,
        QueuePaused: _on_paused,
        KeyClaimed: _on_key_claimed,
        KeyFreed: _on_key_freed,
    }


def _misfit(event: Event, job: Job) -> str:
    return f"{type(event).__name__} of job {job.job_id.hex()}, which is {job.state.name}"


def _run_of(job: Job) -> Run:
    assert job.run is not None, "it was leased"
    return job.run
