"""The jobs inside: whose turn it is in a group, where a job is found, snapshots, moved texts."""

import tracemalloc
from typing import get_args

import msgspec
import pytest

from partitions import jobs as module
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
from partitions.job import Own, State
from partitions.jobs import Jobs, Piece
from partitions.options import Options, encode_options
from partitions.positions import make_position
from partitions.slots import make_claim
from tests.support.driver import job_id

NOW = 1_000_000
KEPT = encode_options(Options(retention_ms=5_000))


class World:
    """Jobs, made by events."""

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.tokens = 0

    def __call__(self, *events: Event) -> None:
        for event in events:
            self.jobs.evolve(event)

    def submit(self, index: int, group: str = "", options: bytes = b"", run_at_ms: int = 0) -> None:
        own = Own(group) if group else None
        at = make_position(1, 64 + index, 8)
        self(JobEnqueued(job_id(index), at, 3, NOW, "owner", options, run_at_ms, own))

    def lease(self, index: int) -> None:
        self.tokens += 1
        self(JobLeased(job_id(index), self.tokens, NOW + 1_000))

    def ready(self, queue: str = "default") -> list[int]:
        ids = [job.job_id for job in self.jobs.kinds.queues[queue].ready]
        return [next(index for index in range(20) if job_id(index) == each) for each in ids]

    def groups(self, queue: str = "default") -> set[str]:
        return set(self.jobs.kinds.queues[queue].groups)


@pytest.fixture
def world() -> World:
    return World()


# Memory -------------------------------------------------------------------------------------


def test_a_waiting_job_takes_no_more_memory_than_was_counted(world):
    # Just below the size at which the table of ids grows: then it has 27 bytes for each.
    count = 10_900
    events = [JobEnqueued(job_id(each), (1 << 34) + each, 3, NOW, "owner") for each in range(count)]
    tracemalloc.start()
    world(*events)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The job 80, its number 32, two lists 16; id and position are those of the event.
    assert taken / count < 80 + 32 + 16 + 27 + 2


# Groups -------------------------------------------------------------------------------------


def test_of_a_group_only_the_first_that_is_not_finished_is_ready(world):
    for index in range(1, 4):
        world.submit(index, "g")
    world.submit(4, "h")
    world.submit(5)
    assert world.ready() == [1, 4, 5]
    world.lease(1)
    assert world.ready() == [4, 5]
    world(JobAcked(job_id(1), NOW, 0))
    assert world.ready() == [2, 4, 5]
    assert world.groups() == {"g", "h"}


def test_inside_a_group_priority_does_not_matter(world):
    for index, priority in ((1, 0), (2, 9)):
        world.submit(index, "g", encode_options(Options(priority=priority)))
    world.submit(3, "", encode_options(Options(priority=5)))
    assert world.ready() == [3, 1]
    world.lease(1)
    world(JobAcked(job_id(1), NOW, 0))
    assert world.ready() == [2, 3]


def test_groups_of_the_same_name_in_two_queues_have_nothing_to_do_with_each_other(world):
    world.submit(1, "g")
    world.submit(2, "g", encode_options(Options("other")))
    assert (world.ready(), world.ready("other")) == ([1], [2])


@pytest.mark.parametrize(
    "waits",
    [
        JobFailed(job_id(1), NOW, 0, NOW + 50),
        JobReleased(job_id(1), NOW + 50),
    ],
    ids=["retrying", "released"],
)
def test_a_first_job_that_waits_holds_back_the_rest(world, waits):
    world.submit(1, "g")
    world.submit(2, "g")
    world.lease(1)
    world(waits)
    assert world.ready() == []
    world(BackoffOver(job_id(1)))
    assert world.ready() == [1]


def test_a_delayed_first_job_does_too_and_one_that_is_delayed_behind_it_does_not(world):
    world.submit(1, "g", run_at_ms=NOW + 50)
    world.submit(2, "g")
    world.submit(3, "h")
    world.submit(4, "h", run_at_ms=NOW + 50)
    assert world.ready() == [3]
    world(BackoffOver(job_id(4)))
    assert world.ready() == [3]
    world(BackoffOver(job_id(1)))
    assert world.ready() == [1, 3]


@pytest.mark.parametrize(
    "ends",
    [
        JobFailed(job_id(1), NOW, 0, 0),
        LeaseExpired(job_id(1), NOW, dead=True),
        JobCancelled(job_id(1), NOW),
        JobAcked(job_id(1), NOW, 0),
    ],
    ids=["failed", "expired", "cancelled", "acked"],
)
def test_however_a_job_ends_the_next_goes_on(world, ends):
    world.submit(1, "g")
    world.submit(2, "g")
    world.lease(1)
    world(ends)
    assert world.ready() == [2]


def test_a_first_job_that_is_cancelled_or_gone_before_it_ran_lets_the_next_go_on(world):
    for index in range(1, 5):
        world.submit(index, "g")
    world(JobCancelled(job_id(1), NOW))
    assert world.ready() == [2]
    world(JobForgotten(job_id(3)))
    world(JobForgotten(job_id(2)))
    assert world.ready() == [4]
    world(JobForgotten(job_id(4)))
    assert (world.ready(), world.groups()) == ([], set())


def test_a_job_that_begins_anew_is_first_again_but_waits_for_the_one_that_runs(world):
    for index in range(1, 4):
        world.submit(index, "g")
    world(JobCancelled(job_id(1), NOW))
    world(JobRetried(job_id(1)))
    assert world.ready() == [1]
    world(JobCancelled(job_id(1), NOW))
    world.lease(2)
    world(JobRetried(job_id(1)))
    assert world.ready() == []
    world(JobReleased(job_id(2), 0))
    assert world.ready() == [1]
    world.lease(1)
    world(JobAcked(job_id(1), NOW, 0))
    assert world.ready() == [2]


def test_a_group_whose_jobs_are_all_finished_is_no_group_until_one_begins_anew(world):
    world.submit(1, "g")
    world(JobCancelled(job_id(1), NOW))
    assert world.groups() == set()
    world(JobRetried(job_id(1)))
    assert (world.groups(), world.ready()) == ({"g"}, [1])


# Beginning anew, and ends -------------------------------------------------------------------


def test_a_job_that_begins_anew_is_another_object_and_the_old_one_is_gone(world):
    world.submit(1)
    world.submit(2)
    world.lease(1)
    world(JobFailed(job_id(1), NOW, make_position(1, 900, 8), 0))
    old = world.jobs.by_id[job_id(1)]
    world(JobRetried(job_id(1)))
    new = world.jobs.by_id[job_id(1)]
    assert new is not old
    assert (old.state, new.state, new.number) == (State.GONE, State.READY, old.number)
    assert (new.attempts, new.lease_token, new.outcome_at) == (0, 1, 0)
    assert [job is new for job in world.jobs.order] == [True, False]
    assert world.ready() == [1, 2]
    assert not world.jobs.skip_gone(State.DEAD)


def test_finished_jobs_stand_in_the_order_of_their_ends_without_those_that_are_gone(world):
    for index in range(1, 6):
        world.submit(index)
    for index in (3, 1, 5, 2):
        world(JobCancelled(job_id(index), NOW + 10 - index))
    world(JobRetried(job_id(3)), JobForgotten(job_id(5)))
    left = world.jobs.skip_gone(State.CANCELLED)
    assert [job.job_id for job in left if job.state is State.CANCELLED] == [job_id(1), job_id(2)]
    assert left[0].job_id == job_id(1)


def test_jobs_that_are_gone_do_not_pile_up_among_the_finished_ones(world, monkeypatch):
    monkeypatch.setattr(module, "_STALE_MIN", 8)
    world.submit(0)
    world(JobCancelled(job_id(0), NOW))
    world.submit(1)
    for _ in range(500):
        world(JobCancelled(job_id(1), NOW), JobRetried(job_id(1)))
    assert len(world.jobs.finished[State.CANCELLED]) <= 20
    assert world.jobs.skip_gone(State.CANCELLED)[0].job_id == job_id(0)


def test_a_job_with_a_retention_of_its_own_is_in_the_heap_and_not_in_the_queue(world):
    world.submit(1, options=KEPT)
    world(JobCancelled(job_id(1), NOW))
    assert not world.jobs.finished[State.CANCELLED]
    timer = (NOW + 5_000, job_id(1))
    assert world.jobs.finished_own.next_deadline_ms() == timer[0]
    assert world.jobs.is_to_go(timer)
    world(JobRetried(job_id(1)))
    assert not world.jobs.is_to_go(timer)
    world(JobCancelled(job_id(1), NOW + 1))
    assert not world.jobs.is_to_go(timer)
    assert world.jobs.is_to_go((NOW + 5_001, job_id(1)))


# Texts --------------------------------------------------------------------------------------


def test_the_texts_that_a_job_needs_are_counted_and_no_others(world):
    at = {what: make_position(segment, 900, 8) for segment, what in enumerate("erx", 2)}
    world.submit(1)
    world.submit(2)
    bytes_of_one = world.jobs.live.by_segment[1] // 2
    world.lease(1)
    world(JobFailed(job_id(1), NOW, at["e"], NOW))
    assert set(world.jobs.live.by_segment) == {1, 2}
    world(BackoffOver(job_id(1)))
    world.lease(1)
    world(JobAcked(job_id(1), NOW, at["r"]))
    # The payload is needed no more, nor is the error of the first attempt.
    assert world.jobs.live.by_segment == {1: bytes_of_one, 3: bytes_of_one}
    world(PayloadMoved(job_id(2), at["x"]), OutcomeMoved(job_id(1), at["x"]))
    assert world.jobs.live.by_segment == {4: 2 * bytes_of_one}
    world(JobCancelled(job_id(2), NOW), JobForgotten(job_id(2)), JobForgotten(job_id(1)))
    assert world.jobs.live.by_segment == {}


def test_what_is_needed_still_is_copied_forward_and_nothing_else(world):
    at, to = make_position(1, 65, 8), make_position(9, 64, 8)
    stored = JobEnqueued(job_id(1), at, 3, NOW, "owner")
    world(stored)
    assert world.jobs.moved(stored, lambda position: {at: to}[position]) == [
        PayloadMoved(job_id(1), to)
    ]
    assert world.jobs.moved(stored, lambda _: None) == []
    world(PayloadMoved(job_id(1), to))

    def none_moves(position: int) -> int:
        raise AssertionError(f"{position} is not needed")

    quiet = [
        stored,
        TokensRaised(5),
        QueuePaused("q", paused=True),
        JobForgotten(job_id(7)),
        KeyClaimed(job_id(1), 3, NOW),
        KeyFreed(job_id(1)),
    ]
    assert [world.jobs.moved(each, none_moves) for each in quiet] == [[]] * len(quiet)


# Snapshots ----------------------------------------------------------------------------------


def test_a_snapshot_is_of_its_moment_whatever_happens_meanwhile(world):
    for index in range(8):
        world.submit(index, "g" if index % 2 else "", KEPT if index % 3 else b"")
    world(QueuePaused("default", paused=True))
    world.lease(0)
    world(JobCancelled(job_id(2), NOW))
    world(*[KeyClaimed(job_id(index), 5, NOW) for index in range(20, 25)])
    moment = {job.job_id: job.copied() for job in world.jobs.order}
    head = world.jobs.begin_snapshot()
    meanwhile = iter(
        [
            JobAcked(job_id(0), NOW, 0),
            KeyFreed(job_id(20)),
            JobRetried(job_id(2)),
            KeyClaimed(job_id(21), 5, NOW + 1),
            KeyClaimed(job_id(30), 5, NOW),
            JobForgotten(job_id(7)),
            JobLeased(job_id(1), 9, NOW),
            QueuePaused("default", paused=False),
            JobEnqueued(job_id(9), 0, 1, NOW, "somebody new"),
            JobCancelled(job_id(2), NOW),
        ]
    )
    pieces = []
    while True:
        piece = world.jobs.next_for_snapshot(2)
        pieces.append(msgspec.msgpack.decode(msgspec.msgpack.encode(piece), type=Piece))
        if not piece.kinds and not piece.jobs and not piece.claims:
            break
        assert len(piece.kinds) + len(piece.jobs) + len(piece.claims) <= 2
        world(*[event for event in [next(meanwhile, None)] if event])
    jobs = [job for piece in pieces for job in piece.jobs]
    assert {job.job_id: job for job in jobs} == moment
    assert len(jobs) == len(moment) == head.jobs
    restored = Jobs()
    claims = {key: claim for piece in pieces for key, claim in piece.claims.items()}
    restored.restore(head, [kind for piece in pieces for kind in piece.kinds], jobs, claims)
    assert restored.claims == {job_id(index): make_claim(5, NOW) for index in range(20, 25)}
    assert head.claims == 5
    queue = restored.kinds.queues["default"]
    assert queue.paused
    assert [job.job_id for job in queue.ready] == [job_id(index) for index in (1, 4, 6)]
    assert queue.counts[State.RUNNING] == queue.counts[State.CANCELLED] == 1
    assert restored.unfinished == 7
    assert restored.timers.next_deadline_ms() == NOW + 1_000
    assert (restored.last_token, restored.live.by_segment) == (1, head.live_bytes)


def test_kinds_keep_their_numbers_while_a_snapshot_is_taken(world):
    world.submit(1, options=KEPT)
    world.submit(2)
    world.jobs.begin_snapshot()
    world(JobCancelled(job_id(1), NOW), JobForgotten(job_id(1)))
    world.jobs.drop_idle_kinds()
    assert len(list(world.jobs.kinds)) == 2
    world.jobs.abandon_snapshot()
    world.jobs.drop_idle_kinds()
    assert len(list(world.jobs.kinds)) == 1


# What cannot have happened ------------------------------------------------------------------


def in_state(world: World, state: State) -> None:
    """Job 1, of no group."""
    world.submit(1, run_at_ms=NOW + 5 if state is State.SCHEDULED else 0)
    if state in (State.RUNNING, State.RETRY, State.ACKED, State.DEAD):
        world.lease(1)
    match state:
        case State.RETRY:
            world(JobFailed(job_id(1), NOW, 0, NOW + 5))
        case State.ACKED:
            world(JobAcked(job_id(1), NOW, 0))
        case State.DEAD:
            world(JobFailed(job_id(1), NOW, 0, 0))
        case State.CANCELLED:
            world(JobCancelled(job_id(1), NOW))
    assert world.jobs.by_id[job_id(1)].state is state


def happens_to(job: bytes) -> list[tuple[Event, set[State]]]:
    """Each event of a job, and the states in which it can happen."""
    finished = {State.ACKED, State.DEAD, State.CANCELLED}
    return [
        (JobEnqueued(job, 0, 3, NOW, "owner", b""), set()),
        (JobLeased(job, 9, NOW + 9), {State.READY}),
        (LeaseExtended(job, NOW + 9, b""), {State.RUNNING}),
        (JobReleased(job, 0), {State.RUNNING}),
        (JobAcked(job, NOW, 0), {State.RUNNING}),
        (JobFailed(job, NOW, 0, NOW + 9), {State.RUNNING}),
        (LeaseExpired(job, NOW, dead=False), {State.RUNNING}),
        (BackoffOver(job), {State.SCHEDULED, State.RETRY}),
        (JobExpired(job, NOW), set()),  # it has no ttl
        (JobCancelled(job, NOW), set(State) - finished),
        (JobRetried(job), {State.DEAD, State.CANCELLED}),
        (JobForgotten(job), set(State) - {State.RUNNING}),
        (PayloadMoved(job, make_position(2, 64, 8)), set(State) - {State.ACKED}),
        (OutcomeMoved(job, make_position(2, 64, 8)), set()),  # it has no text
    ]


@pytest.mark.parametrize("state", [state for state in State if state is not State.GONE])
@pytest.mark.parametrize(("event", "possible"), happens_to(job_id(1)))
def test_an_event_that_cannot_have_happened_is_refused(world, state, event, possible):
    in_state(world, state)
    if state in possible:
        world(event)
        return
    with pytest.raises(AssertionError, match=type(event).__name__):
        world(event)


def test_every_event_of_a_job_is_refused_somewhere():
    of_none = (TokensRaised, QueuePaused, KeyClaimed, KeyFreed)
    of_jobs = {each for each in get_args(Event) if each not in of_none}
    assert {type(event) for event, _ in happens_to(job_id(1))} == of_jobs


def test_a_job_whose_group_has_anothers_turn_cannot_have_been_leased(world):
    for index in (1, 2):
        world.submit(index, "g")
    with pytest.raises(LookupError):
        world(JobLeased(job_id(2), 1, NOW))


def test_a_key_cannot_have_been_claimed_for_two_slots_nor_let_go_twice(world):
    world(KeyClaimed(job_id(1), 5, NOW), KeyClaimed(job_id(1), 5, NOW + 1))
    with pytest.raises(AssertionError, match="KeyClaimed"):
        world(KeyClaimed(job_id(1), 6, NOW))
    world(KeyFreed(job_id(1)), KeyClaimed(job_id(1), 6, NOW), KeyFreed(job_id(1)))
    with pytest.raises(LookupError):
        world(KeyFreed(job_id(1)))


def test_a_token_cannot_have_been_given_twice(world):
    world.submit(1)
    world.submit(2)
    world.lease(1)
    with pytest.raises(AssertionError, match="token"):
        world(JobLeased(job_id(2), 1, NOW))
