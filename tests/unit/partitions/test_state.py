"""The state, one promise at a time; ``property/test_state_model`` has them all together."""

import itertools
from typing import Any

import msgspec
import pytest

from partitions import state as module
from partitions.answers import (
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
    JobEnqueued,
    JobFailed,
    JobForgotten,
    JobLeased,
    KeyClaimed,
    KeyFreed,
    LeaseExpired,
    QueuePaused,
)
from partitions.job import CREATED_SHIFT, Outcome
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
    JobView,
    KeyClaim,
    KeysHeld,
    Lease,
    LeaseLost,
    LeaseMany,
    ListClaims,
    Many,
    NothingReady,
    NotRunning,
    Pause,
    Release,
    Replayed,
    Retry,
    Settled,
    Submitted,
    Sweep,
    Swept,
    Tick,
    TooLate,
    TooMany,
    ViewQueues,
    WrongPartition,
    WrongState,
)
from partitions.options import Options, encode_options
from partitions.positions import size_of
from partitions.retry import Backoff
from partitions.slots import SLOTS, in_slot, make_claim, make_job_id, slot_of
from partitions.state import PartitionState, Policy
from tests.support.driver import enqueue, job_id, snapshot

NOW = 1_000_000
POLICY = Policy(backoff=Backoff(100, 1_000), retention_ms=50_000, dead_retention_ms=90_000)


class World:
    """A state, its time, and the events of the last command."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.state = PartitionState(policy)
        self.now_ms = NOW
        self.events: tuple[Event, ...] = ()
        self.history: list[Event] = []
        self._places = itertools.count(64)  # no text is at so low a position
        self.texts: dict[int, bytes] = {}

    def __call__(self, command: Command) -> Any:
        applied = self.state.apply(command, self.now_ms, self.put)
        self.events = applied.events
        self.history += applied.events
        return applied.reply

    def put(self, text: bytes) -> int:
        place = next(self._places)
        self.texts[place] = text
        return place

    def leased(self, duration_ms: int = 1_000) -> LeaseGranted:
        granted = self(Lease(duration_ms))
        assert isinstance(granted, LeaseGranted)
        return granted

    def found(self, index: int) -> JobFound:
        found = self(Get(job_id(index)))
        assert isinstance(found, JobFound)
        return found


@pytest.fixture
def world() -> World:
    return World()


# Submitting ---------------------------------------------------------------------------------


def test_a_submit_stores_the_job_with_the_place_of_its_text(world):
    assert world(enqueue(1)) == Enqueued(job_id(1))
    assert world.events == (JobEnqueued(job_id(1), 64, 3, NOW, "owner"),)
    assert world.texts == {64: b"payload"}
    found = world.found(1)
    assert (found.outcome, found.outcome_at) == (Outcome.NONE, 0)
    assert found.view == JobView(
        job_id(1), "READY", 0, 3, NOW, None, None, None, "owner", number=NOW << CREATED_SHIFT
    )


def test_an_id_is_stored_once(world):
    world(enqueue(1))
    assert world(enqueue(1, b"another")) == AlreadyExists(job_id(1))
    assert world.events == ()
    assert len(world.state) == 1


@pytest.mark.parametrize(("slot", "mine"), [(9, False), (10, True), (19, True), (20, False)])
def test_a_job_of_a_slot_that_is_not_owned_is_refused(slot, mine):
    world = World(Policy(slots=range(10, 20)))
    wanted = make_job_id(NOW, 1, slot)
    reply = world(Enqueue(wanted, b"p", 1, "owner"))
    assert reply == (Enqueued(wanted) if mine else WrongPartition(wanted))
    assert bool(world.events) is mine


# Leasing ------------------------------------------------------------------------------------


def test_a_lease_gives_the_job_until_its_time_with_token_and_attempt(world):
    world(enqueue(1))
    assert world(Lease(500)) == LeaseGranted(job_id(1), 64, NOW + 500, 1, 1, 3, NOW)
    assert world.events == (JobLeased(job_id(1), 1, NOW + 500, 500),)
    found = world.found(1)
    view = found.view
    assert (view.state, view.attempts, view.lease_until_ms) == ("RUNNING", 1, NOW + 500)


def test_jobs_are_leased_in_order_of_submission_and_each_once(world):
    for index in (3, 1, 2):
        world(enqueue(index))
    assert [world.leased().job_id for _ in range(3)] == [job_id(3), job_id(1), job_id(2)]
    assert world(Lease(500)) == NothingReady()
    assert world.events == ()


def test_tokens_grow_over_all_jobs_and_leases(world):
    world(enqueue(1))
    world(enqueue(2))
    tokens = [world.leased(10).lease_token, world.leased(10).lease_token]
    world.now_ms += 10
    tokens += [world.leased(10).lease_token, world.leased(10).lease_token]
    assert tokens == [1, 2, 3, 4]


# Ending attempts ----------------------------------------------------------------------------


def test_an_ack_ends_the_job_for_good(world):
    world(enqueue(1))
    token = world.leased().lease_token
    assert world(Ack(job_id(1), token, b"r")) == Settled(job_id(1))
    assert world.events == (JobAcked(job_id(1), NOW, 65),)
    found = world.found(1)
    assert (found.view.state, found.outcome_at) == ("ACKED", 65)
    assert (found.outcome, world.texts[65]) == (Outcome.RESULT, b"r")
    world.now_ms += 10_000
    assert world(Lease(1)) == NothingReady()


def test_an_ack_without_a_token_ends_whichever_attempt_runs(world):
    world(enqueue(1))
    world.leased()
    assert world(Ack(job_id(1), None, None)) == Settled(job_id(1))


@pytest.mark.parametrize("command", [Ack, Fail])
def test_an_old_lease_token_cannot_end_an_attempt(world, command):
    world(enqueue(1))
    old = world.leased(100)
    world.now_ms += 100
    new = world.leased(100)
    assert world(command(job_id(1), old.lease_token, b"x")) == LeaseLost(job_id(1))
    assert world.events == ()
    assert world(Ack(job_id(1), new.lease_token, b"x")) == Settled(job_id(1))


@pytest.mark.parametrize("command", [Ack, Fail])
def test_a_lease_is_over_at_its_end_and_not_a_moment_before(world, command):
    world(enqueue(1))
    world(enqueue(2))
    first, second = world.leased(100), world.leased(100)
    world.now_ms += 99
    assert world(command(first.job_id, first.lease_token, b"x")) == Settled(first.job_id)
    world.now_ms += 1
    assert world(command(second.job_id, second.lease_token, b"x")) == LeaseLost(second.job_id)


@pytest.mark.parametrize("command", [Ack, Fail])
def test_an_unknown_job_is_not_found(world, command):
    assert world(command(job_id(1), None, b"x")) == JobNotFound(job_id(1))
    assert world(Get(job_id(1))) == JobNotFound(job_id(1))


def test_an_ack_without_a_token_needs_a_running_job(world):
    world(enqueue(1))
    assert world(Ack(job_id(1), None, None)) == NotRunning(job_id(1), "READY")
    world.leased(100)
    world(Fail(job_id(1), None, b"e"))
    assert world(Ack(job_id(1), None, None)) == NotRunning(job_id(1), "RETRY")
    world.now_ms += 1_000
    world.leased(100)
    world(Ack(job_id(1), None, None))
    assert world(Ack(job_id(1), None, None)) == NotRunning(job_id(1), "ACKED")


def test_the_same_report_again_is_known_by_its_token_and_kind(world):
    world(enqueue(1))
    token = world.leased().lease_token
    world(Ack(job_id(1), token, b"r"))
    assert world(Ack(job_id(1), token, b"r")) == SettledBefore(job_id(1), 65, b"r")
    assert world.events == ()
    assert world(Fail(job_id(1), token, b"r")) == LeaseLost(job_id(1))
    assert world(Ack(job_id(1), token + 1, b"r")) == LeaseLost(job_id(1))


def test_the_same_failure_again_is_known_until_the_next_lease(world):
    world(enqueue(1))
    token = world.leased().lease_token
    world(Fail(job_id(1), token, b"e"))
    world.now_ms += 1_000
    assert world(Fail(job_id(1), token, b"e")) == SettledBefore(job_id(1), 65, b"e")
    world.leased()
    assert world(Fail(job_id(1), token, b"e")) == LeaseLost(job_id(1))


# Trying again -------------------------------------------------------------------------------


def test_a_failed_job_waits_for_its_backoff_and_keeps_its_place(world):
    world(enqueue(1))
    world(enqueue(2))
    token = world.leased().lease_token
    world(Fail(job_id(1), token, b"e"))
    delay = POLICY.backoff.delay_ms(job_id(1), 1)
    assert world.events == (JobFailed(job_id(1), NOW, 66, NOW + delay),)
    assert world.state.next_deadline_ms() == NOW + delay
    world.now_ms = NOW + delay - 1
    assert world.state.ready == 1
    assert world.found(1).view.state == "RETRY"
    world.now_ms += 1
    granted = world.leased()
    assert world.events[0] == BackoffOver(job_id(1))
    assert (granted.job_id, granted.attempt) == (job_id(1), 2)


def test_an_expired_lease_makes_the_job_ready_at_once(world):
    world(enqueue(1))
    world.leased(100)
    world.now_ms += 150
    granted = world.leased(100)
    assert world.events == (
        LeaseExpired(job_id(1), NOW + 150, dead=False),
        JobLeased(job_id(1), 2, NOW + 250, 100),
    )
    assert granted.attempt == 2


@pytest.mark.parametrize(("max_retries", "attempts"), [(0, 1), (1, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("how", ["fail", "expire"])
def test_a_job_is_dead_after_its_last_attempt(world, max_retries, attempts, how):
    world(enqueue(1, max_retries=max_retries))
    for _ in range(attempts):
        assert world.found(1).view.state in ("READY", "RETRY")
        token = world.leased(100).lease_token
        if how == "fail":
            world(Fail(job_id(1), token, b"e"))
        world.now_ms += 2_000
    found = world.found(1)
    assert (found.view.state, found.view.attempts) == ("DEAD", attempts)
    assert found.outcome is (Outcome.ERROR if how == "fail" else Outcome.EXPIRED)
    assert world(Lease(1)) == NothingReady()


def test_what_the_last_attempt_left_replaces_what_an_earlier_one_left(world):
    world(enqueue(1))
    world(Fail(job_id(1), world.leased().lease_token, b"e"))
    assert world.found(1).outcome is Outcome.ERROR
    world.now_ms += 1_000
    world.leased(100)
    world.now_ms += 100
    assert (world.found(1).outcome, world.found(1).outcome_at) == (Outcome.EXPIRED, 0)


# Forgetting ---------------------------------------------------------------------------------


def test_finished_jobs_are_forgotten_after_their_retention_dead_ones_later(world):
    world(enqueue(1))
    world(enqueue(2, max_retries=1))
    world(Ack(job_id(1), world.leased().lease_token, None))
    world(Fail(job_id(2), world.leased().lease_token, b"e"))
    world.now_ms = NOW + 49_999
    world(Tick())
    assert (world.events, len(world.state)) == ((), 2)
    world.now_ms += 1
    world(Tick())
    assert world.events == (JobForgotten(job_id(1)),)
    world.now_ms = NOW + 90_000
    world(Tick())
    assert world.events == (JobForgotten(job_id(2)),)
    assert world(Get(job_id(2))) == JobNotFound(job_id(2))
    assert world.state.next_deadline_ms() is None


def test_a_tick_is_asked_for_when_a_job_is_to_be_forgotten_rounded_up(world):
    world(enqueue(1))
    assert world.state.next_deadline_ms() is None
    world.now_ms += 1
    world(Ack(job_id(1), world.leased().lease_token, None))
    # The dead timer of the lease comes first; time passes it by.
    world.now_ms += 2_000
    world(Tick())
    deadline_ms = world.state.next_deadline_ms()
    assert deadline_ms is not None
    assert NOW + 50_001 <= deadline_ms < NOW + 55_001
    assert deadline_ms % 5_000 == 0


# Very many ----------------------------------------------------------------------------------


@pytest.fixture
def few_per_tick(monkeypatch):
    monkeypatch.setattr(module, "DUE_PER_TICK_MAX", 10)


def test_deadlines_that_are_due_together_are_handled_in_portions(world, few_per_tick):
    for index in range(25):
        world(enqueue(index, max_retries=1))
        world.leased(100)
    world.now_ms += 100
    handled = []
    for _ in range(3):
        assert world.state.next_deadline_ms() == NOW + 100
        world(Tick())
        handled.append(len(world.events))
        world.now_ms += 1
    assert handled == [10, 10, 5]


def test_the_commands_of_one_moment_share_one_portion(world, few_per_tick):
    # A batch of a thousand commands, each with thousands of deadlines, would be a record
    # beyond its bound.
    for index in range(25):
        world(enqueue(index, max_retries=1))
        world.leased(100)
    world.now_ms += 100
    events = []
    for index in range(5):
        world(Get(job_id(index)))
        events += world.events
    assert len(events) == 10


def test_a_lease_that_is_over_cannot_be_acked_though_its_deadline_was_not_handled(
    world, few_per_tick
):
    for index in range(11):
        world(enqueue(index))
    granted = [world.leased(100) for _ in range(11)]
    world.now_ms += 100
    assert world(Ack(granted[10].job_id, granted[10].lease_token, None)) == LeaseLost(job_id(10))
    assert len(world.events) == 10
    assert world.found(10).view.state == "RUNNING"


def test_a_report_under_such_a_lease_is_not_taken_for_that_of_the_attempt_before_it(
    world, few_per_tick
):
    world(enqueue(99))
    world(Fail(job_id(99), world.leased().lease_token, b"e"))
    for index in range(10):
        world(enqueue(index))
        world.leased(10_000)
    world.now_ms += 5_000
    late = world.leased(5_000)
    assert late.job_id == job_id(99)
    world.now_ms += 5_000
    # Ten deadlines are handled, and this one is not among them: its id is the largest.
    assert world(Fail(job_id(99), late.lease_token, b"e")) == LeaseLost(job_id(99))
    assert len(world.events) == 10
    assert job_id(99) not in [event.job_id for event in world.events]


def test_finished_jobs_are_forgotten_in_portions_too(world, few_per_tick):
    for index in range(25):
        world(enqueue(index))
        world(Ack(job_id(index), world.leased().lease_token, None))
    world.now_ms += 100_000
    forgotten = []
    for _ in range(3):
        world(Tick())
        forgotten.append(sum(isinstance(event, JobForgotten) for event in world.events))
        world.now_ms += 1
    assert forgotten == [10, 10, 5]


def test_acked_leases_do_not_pile_up_in_the_timers(world):
    for index in range(20_000):
        world(enqueue(index))
        world(Ack(job_id(index), world.leased(600_000).lease_token, None))
    assert len(world.state.jobs.timers) < 10_000


# Submitting with more than a payload ---------------------------------------------------------


def submit(index: int, *, put_off: int = 0, ttl: int = 0, **more) -> Enqueue:
    """A submit; ``more``: group, digest, max_retries, and options."""
    return Enqueue(
        job_id(index),
        b"payload",
        more.pop("max_retries", 3),
        "owner",
        run_at_ms=NOW + put_off if put_off else 0,
        expires_at_ms=NOW + ttl if ttl else 0,
        group=more.pop("group", ""),
        digest=more.pop("digest", b""),
        options=encode_options(Options(**more)),
    )


def test_an_idempotency_key_stores_one_job_and_knows_another_body(world):
    first, other = submit(1, digest=b"a" * 16), submit(1, digest=b"b" * 16)
    assert world(first) == Enqueued(job_id(1))
    assert world(first) == Replayed(job_id(1))
    assert world(other) == Conflict(job_id(1))
    assert world(submit(1)) == AlreadyExists(job_id(1))
    assert world.events == ()
    world(Ack(job_id(1), world.leased().lease_token, None))
    assert world(first) == Replayed(job_id(1))
    world(Forget(job_id(1)))
    assert world(other) == Enqueued(job_id(1))


def test_a_batch_is_stored_whole_or_not_at_all(world):
    world(submit(1, digest=b"a" * 16))
    good = [submit(1, digest=b"a" * 16), submit(2), submit(3, digest=b"c" * 16)]
    twice = [*good, submit(3, digest=b"c" * 16)]
    stored, replayed = Submitted.STORED, Submitted.REPLAYED
    asked = world(EnqueueMany(twice, check_only=True))
    assert asked == EnqueuedMany(bytes([replayed, stored, stored, replayed]))
    assert len(world.state) == 1
    for bad, why in [
        (submit(1, digest=b"x" * 16), Submitted.CONFLICT),
        (submit(2), Submitted.EXISTS),
        (submit(3, digest=b"x" * 16), Submitted.CONFLICT),
    ]:
        refused = world(EnqueueMany([*good, bad]))
        assert isinstance(refused, EnqueuedMany)
        assert refused.outcomes[-1] == why
        assert (world.events, len(world.state)) == ((), 1)
    assert world(EnqueueMany(twice)) == asked
    assert len(world.state) == 3
    assert len(world.texts) == 3


def test_a_batch_with_a_job_of_another_partition_stores_nothing():
    world = World(Policy(slots=range(10, 20)))
    mine, foreign = make_job_id(NOW, 1, 12), make_job_id(NOW, 2, 20)
    jobs = [Enqueue(each, b"p", 1, "o") for each in (mine, foreign)]
    assert world(EnqueueMany(jobs)) == EnqueuedMany(
        bytes([Submitted.STORED, Submitted.WRONG_PARTITION])
    )
    assert len(world.state) == 0


def test_options_that_are_none_are_refused_and_store_nothing(world):
    bad = Enqueue(job_id(1), b"p", 1, "owner", options=b"\xc1")
    assert world(bad) == WrongPartition(job_id(1))
    assert world(EnqueueMany([enqueue(2), bad])) == WrongPartition(job_id(1))
    assert (len(world.state), world.texts) == (0, {})


def test_more_unfinished_jobs_than_may_be_are_refused():
    world = World(Policy(jobs_max=3))
    world(enqueue(1))
    assert world(EnqueueMany([enqueue(index) for index in range(2, 5)])) == TooMany("jobs")
    world(EnqueueMany([enqueue(2), submit(3, digest=b"d" * 16)]))
    assert world(enqueue(4)) == TooMany("jobs")
    # The same submit again is no new job.
    assert world(submit(3, digest=b"d" * 16)) == Replayed(job_id(3))
    world(Ack(job_id(1), world.leased().lease_token, None))
    assert world(enqueue(4)) == Enqueued(job_id(4))


def test_more_queues_than_may_be_are_refused_and_those_without_jobs_make_room(world, monkeypatch):
    monkeypatch.setattr(module, "QUEUES_MAX", 2)
    world(submit(1, queue="a"))
    world(submit(2, queue="b"))
    assert world(submit(3, queue="c")) == TooMany("queues")
    assert world(EnqueueMany([submit(3, queue="c")])) == TooMany("queues")
    assert world(Pause("c", paused=True)) == TooMany("queues")
    assert world(submit(4, queue="a", priority=1)) == Enqueued(job_id(4))
    world(Cancel(job_id(2)))
    world(Forget(job_id(2)))
    assert world(Pause("c", paused=True)) == Settled(b"")
    assert world(submit(5, queue="b")) == TooMany("queues")
    assert world(Pause("c", paused=False)) == Settled(b"")
    assert world(submit(5, queue="d")) == Enqueued(job_id(5))


def test_a_delayed_job_waits_for_its_time_and_then_has_its_old_place(world):
    world(submit(1, put_off=100))
    world(submit(2))
    assert (world.found(1).view.state, world.found(1).view.run_at_ms) == ("SCHEDULED", NOW + 100)
    assert world.state.next_deadline_ms() == NOW + 100
    world.now_ms += 99
    assert world.found(1).view.state == "SCHEDULED"
    world.now_ms += 1
    assert world.leased().job_id == job_id(1)


def test_a_job_that_was_not_started_in_time_is_dead_and_says_so(world):
    world(submit(1, ttl=100))
    world(submit(2, ttl=100, put_off=50))
    world(submit(3, ttl=100))
    assert world.found(1).view.expires_at_ms == NOW + 100
    started = world.leased(1_000)
    assert started.job_id == job_id(1)
    world.now_ms += 100
    for index in (2, 3):
        view = world.found(index).view
        assert (view.state, view.result_error, view.attempts) == ("DEAD", b"expired", 0)
        assert (view.finished_at_ms, view.crashes) == (NOW + 100, 0)
    # One that was started in time may go on.
    assert world.found(1).view.state == "RUNNING"
    world(Release(job_id(1), started.lease_token))
    world.now_ms += 10_000
    assert world.leased().job_id == job_id(1)


def test_a_job_whose_ttl_is_over_is_not_leased_though_its_deadline_was_not_handled(
    world, few_per_tick
):
    for index in range(15):
        world(submit(index, ttl=100))
    world.now_ms += 100
    assert world(Lease(1_000)) == NothingReady()
    assert world(LeaseMany(Lease(1_000), 5)) == NothingReady()
    world.now_ms += 1
    assert world(Lease(1_000)) == NothingReady()
    assert world(ViewQueues()).queues[0].counts == {"DEAD": 15}


# Leasing from queues ------------------------------------------------------------------------


def test_queues_are_asked_in_the_order_of_preference_and_paused_ones_not(world):
    world(submit(1, queue="low", priority=100))
    world(submit(2, queue="high"))
    world(submit(3, queue="high"))
    order = ("none", "high", "low")
    assert world(Lease(1_000)) == NothingReady()
    assert world(Lease(1_000, order)).job_id == job_id(2)
    world(Pause("high", paused=True))
    assert world(Lease(1_000, order)).job_id == job_id(1)
    assert world(Lease(1_000, order)) == NothingReady()
    assert world(submit(4, queue="high")) == Enqueued(job_id(4))
    world(Pause("high", paused=False))
    assert world(Lease(1_000, order)).job_id == job_id(3)


def test_pausing_again_costs_no_event(world):
    world(Pause("q", paused=False))
    assert world.events == ()
    world(Pause("q", paused=True))
    assert world.events == (QueuePaused("q", paused=True),)
    world(Pause("q", paused=True))
    assert world.events == ()


def test_the_duration_of_the_call_wins_over_the_jobs_which_wins_over_the_nodes(world):
    for index in range(2):
        world(submit(index, lease_ms=300))
    world(submit(2))
    until = [world(Lease(duration)).lease_until_ms for duration in (200, None, None)]
    assert until == [NOW + 200, NOW + 300, NOW + 30_000]


def test_many_are_leased_all_of_the_first_queue_and_then_of_the_next(world):
    for index, queue in enumerate(["b", "a", "b", "a", "a"]):
        world(submit(index, queue=queue, priority=index))
    granted = world(LeaseMany(Lease(1_000, ("a", "b"), "w"), 4))
    assert isinstance(granted, LeasesGranted)
    assert [each.job_id for each in granted.leases] == [job_id(each) for each in (4, 3, 1, 2)]
    assert [each.lease_token for each in granted.leases] == [1, 2, 3, 4]
    assert world.found(4).view.worker == "w"
    rest = world(LeaseMany(Lease(1_000, ("a", "b")), 4))
    assert [each.job_id for each in rest.leases] == [job_id(0)]
    assert world(LeaseMany(Lease(1_000, ("a", "b")), 4)) == NothingReady()


def test_payloads_of_one_lease_call_have_a_bound_but_one_job_is_always_given(world, monkeypatch):
    monkeypatch.setattr(module, "LEASE_BYTES_MAX", 40)
    for index in range(5):
        world(enqueue(index))
    size = size_of(64)
    assert size <= 20
    assert len(world(LeaseMany(Lease(1_000), 5)).leases) == 40 // size
    monkeypatch.setattr(module, "LEASE_BYTES_MAX", 1)
    assert len(world(LeaseMany(Lease(1_000), 5)).leases) == 1


# Holding a lease ----------------------------------------------------------------------------


def test_a_heartbeat_counts_from_now_and_keeps_what_was_said(world):
    world(enqueue(1))
    token = world.leased(500).lease_token
    world.now_ms += 400
    assert world(Extend(job_id(1), token, progress=b"50")) == Extended(job_id(1), NOW + 900)
    assert world(Extend(job_id(1), token, 2_000)) == Extended(job_id(1), NOW + 2_400)
    world.now_ms = NOW + 2_399
    view = world.found(1).view
    assert (view.state, view.progress, view.lease_until_ms) == ("RUNNING", b"50", NOW + 2_400)
    world.now_ms += 1
    assert world(Extend(job_id(1), token)) == LeaseLost(job_id(1))
    assert world.leased().lease_token == token + 1
    assert world.found(1).view.progress == b""


def test_a_released_job_has_its_attempt_back_and_its_old_place(world):
    world(enqueue(1, max_retries=1))
    world(enqueue(2))
    token = world.leased().lease_token
    assert world(Release(job_id(1), token)) == Settled(job_id(1))
    assert (world.found(1).view.state, world.found(1).view.attempts) == ("READY", 0)
    again = world.leased()
    assert (again.job_id, again.attempt, again.lease_token) == (job_id(1), 1, token + 1)
    world(Release(job_id(1), again.lease_token, 100))
    assert world.found(1).view.run_at_ms == NOW + 100
    assert world.leased().job_id == job_id(2)
    world.now_ms += 100
    assert world.leased().job_id == job_id(1)


def test_a_report_after_a_release_is_not_taken_for_that_of_the_attempt_before(world):
    world(enqueue(1))
    world(Fail(job_id(1), world.leased().lease_token, b"e"))
    world.now_ms += 10_000
    token = world.leased().lease_token
    world(Release(job_id(1), token))
    assert world(Fail(job_id(1), token, b"e")) == LeaseLost(job_id(1))
    assert world(Release(job_id(1), token)) == LeaseLost(job_id(1))


def test_a_worker_may_say_that_there_is_no_sense_in_trying_again_or_when_there_is(world):
    world(enqueue(1))
    world(enqueue(2))
    world(Fail(job_id(1), world.leased().lease_token, b"e", retry=False))
    world(Fail(job_id(2), world.leased().lease_token, b"e", retry_in_ms=7))
    assert world.found(1).view.state == "DEAD"
    assert world.found(2).view.run_at_ms == NOW + 7


def test_a_jobs_own_backoff_wins(world):
    world(submit(1, backoff=Backoff(5, 5, 1.0, 0.0)))
    world(Fail(job_id(1), world.leased().lease_token, b"e"))
    assert world.found(1).view.run_at_ms == NOW + 5


def test_crashes_are_counted_beside_attempts(world):
    world(enqueue(1))
    world.leased(10)
    world.now_ms += 10
    world(Fail(job_id(1), world.leased().lease_token, b"e", retry_in_ms=0))
    world.leased(10)
    world.now_ms += 10
    view = world.found(1).view
    assert (view.state, view.attempts, view.crashes) == ("DEAD", 3, 2)
    assert view.result_error == b"lease expired"


def test_many_are_carried_out_one_after_the_other(world):
    for index in range(4):
        world(enqueue(index))
    tokens = [world.leased().lease_token for _ in range(4)]
    ack = Ack(job_id(0), tokens[0], b"r")
    answers = world(
        Many(
            [
                ack,
                ack,
                Fail(job_id(1), 99, b"e"),
                Extend(job_id(2), tokens[2], 50),
                Release(job_id(3), tokens[3]),
                Ack(job_id(9), 1, None),
            ]
        )
    )
    assert answers == ManyAnswers(
        [
            Settled(job_id(0)),
            SettledBefore(job_id(0), 68, b"r"),
            LeaseLost(job_id(1)),
            Extended(job_id(2), NOW + 50),
            Settled(job_id(3)),
            JobNotFound(job_id(9)),
        ]
    )
    assert len(world.events) == 3
    # No text is kept for what was refused.
    assert sorted(world.texts) == [64, 65, 66, 67, 68]


# Calling off, beginning anew, deleting ------------------------------------------------------


def test_a_cancelled_job_does_not_run_and_its_worker_is_told(world):
    for index in range(3):
        world(enqueue(index))
    token = world.leased().lease_token
    world(Ack(job_id(1), world.leased().lease_token, None))
    for index in (0, 2):
        assert world(Cancel(job_id(index))) == Settled(job_id(index))
        assert world(Cancel(job_id(index))) == Settled(job_id(index))
        assert world.events == ()
    assert world(Cancel(job_id(1))) == WrongState(job_id(1), "ACKED")
    assert world(Cancel(job_id(9))) == JobNotFound(job_id(9))
    assert world(Lease(1_000)) == NothingReady()
    told = WrongState(job_id(0), "CANCELLED")
    assert world(Extend(job_id(0), token)) == world(Release(job_id(0), token)) == told
    assert world(Ack(job_id(0), token, b"r")) == world(Fail(job_id(0), token, b"r")) == told
    assert world(Ack(job_id(0), token + 9, b"r")) == LeaseLost(job_id(0))


def test_a_dead_job_begins_anew_in_its_old_place_and_no_token_comes_twice(world):
    world(enqueue(1, max_retries=1))
    world(enqueue(2))
    token = world.leased().lease_token
    world(Fail(job_id(1), token, b"e"))
    assert world(Retry(job_id(1))) == Settled(job_id(1))
    view = world.found(1).view
    assert (view.state, view.attempts, view.result_error) == ("READY", 0, None)
    assert world(Retry(job_id(1))) == WrongState(job_id(1), "READY")
    assert world(Fail(job_id(1), token, b"e")) == LeaseLost(job_id(1))
    again = world.leased()
    assert (again.job_id, again.attempt) == (job_id(1), 1)
    assert again.lease_token > token


def test_only_finished_jobs_can_be_deleted(world):
    world(enqueue(1))
    assert world(Forget(job_id(1))) == WrongState(job_id(1), "READY")
    world.leased()
    assert world(Forget(job_id(1))) == WrongState(job_id(1), "RUNNING")
    world(Cancel(job_id(1)))
    assert world(Forget(job_id(1))) == Settled(job_id(1))
    assert world(Get(job_id(1))) == world(Forget(job_id(1))) == JobNotFound(job_id(1))
    assert world.state.jobs.live.by_segment == {}


def test_a_job_with_a_retention_of_its_own_goes_by_it(world):
    world(submit(1, retention_ms=10_000))
    world(submit(2, retention_ms=70_000))
    world(submit(3))
    for index in (1, 2, 3):
        world(Ack(job_id(index), world.leased().lease_token, None))
    gone = []
    for after_ms in (9_999, 10_000, 50_000, 70_000):
        world.now_ms = NOW + after_ms
        world(Tick())
        gone.append([event.job_id for event in world.events if isinstance(event, JobForgotten)])
    assert gone == [[], [job_id(1)], [job_id(3)], [job_id(2)]]
    assert world.state.next_deadline_ms() is None


def test_a_job_that_began_anew_is_not_forgotten_by_its_old_end(world):
    world(submit(1, retention_ms=10_000))
    world(submit(2))
    for index in (1, 2):
        world(Cancel(job_id(index)))
    world.now_ms += 5_000
    for index in (1, 2):
        world(Retry(job_id(index)))
    world.now_ms = NOW + 100_000
    world(Tick())
    assert [world.found(index).view.state for index in (1, 2)] == ["READY", "READY"]
    for index in (1, 2):
        world(Cancel(job_id(index)))
    world.now_ms += 9_999
    world(Tick())
    assert len(world.state) == 2
    world.now_ms += 50_000
    world(Tick())
    assert len(world.state) == 0


# Bulk ---------------------------------------------------------------------------------------


def swept(world: World, queue: str, state: str, action: Any, scan: int = 3) -> tuple[int, int]:
    """All steps of a bulk call: to how many jobs it was done, and how many steps it took."""
    count, steps, after, up_to = 0, 0, 0, 0
    while True:
        reply = world(Sweep(queue, state, action, after, up_to, scan))
        assert isinstance(reply, Swept)
        assert len(world.events) == reply.count <= scan
        count, steps = count + reply.count, steps + 1
        if reply.next_number is None:
            return count, steps
        after, up_to = reply.next_number, reply.up_to_number


def test_a_bulk_retry_is_of_one_queue_and_state_and_goes_in_steps(world):
    for index in range(10):
        world(submit(index, queue="a" if index % 2 else "b", max_retries=1))
        world(Cancel(job_id(index)))
    assert swept(world, "a", "CANCELLED", "retry") == (5, 4)
    assert swept(world, "a", "CANCELLED", "retry") == (0, 1)
    views = {each.queue: each.counts for each in world(ViewQueues()).queues}
    assert views == {"a": {"READY": 5}, "b": {"CANCELLED": 5}}


@pytest.mark.parametrize(
    ("state", "action", "count"),
    [
        ("READY", "forget", 1),
        ("RETRY", "forget", 1),
        ("SCHEDULED", "forget", 1),
        ("DEAD", "forget", 1),
        ("ACKED", "forget", 1),
        ("CANCELLED", "forget", 1),
        ("RUNNING", "forget", 0),
        ("no state", "forget", 0),
        ("DEAD", "retry", 1),
        ("CANCELLED", "retry", 1),
        ("READY", "retry", 0),
        ("ACKED", "retry", 0),
        ("RUNNING", "retry", 0),
    ],
)
def test_what_may_be_done_in_bulk(world, state, action, count):
    for index in range(6):
        world(enqueue(index))
    world(submit(6, put_off=5_000))
    leases = [world.leased(100_000) for _ in range(5)]
    world(Ack(job_id(0), leases[0].lease_token, None))
    world(Fail(job_id(1), leases[1].lease_token, b"e"))
    world(Fail(job_id(2), leases[2].lease_token, b"e", retry=False))
    world(Cancel(job_id(3)))
    assert len(world(ViewQueues()).queues[0].counts) == 7
    assert swept(world, "default", state, action)[0] == count
    assert swept(world, "none", state, action)[0] == 0


# Idempotency keys whose jobs are elsewhere ----------------------------------------------------

KEY = make_job_id(1, 7, 3)
ELSEWHERE = 40_000
OTHERWHERE = 40_001
HALF = Policy(slots=range(SLOTS // 2))


def keyed(job_id: bytes, digest: bytes = b"1" * 16) -> Enqueue:
    return Enqueue(job_id, b"p", 3, "owner", digest=digest)


def held_since(ms: int, now_ms: int, slot: int = ELSEWHERE) -> KeysHeld:
    return KeysHeld([HeldKey(KEY, make_claim(slot, ms), now_ms - ms)])


def test_a_key_is_claimed_for_one_slot_and_again_for_the_same(world):
    assert world(ClaimKeys([KeyClaim(KEY, ELSEWHERE)])) == Claimed()
    assert world.events == (KeyClaimed(KEY, ELSEWHERE, NOW),)
    world.now_ms += 5
    assert world(ClaimKeys([KeyClaim(KEY, OTHERWHERE)])) == held_since(NOW, NOW + 5)
    assert world.events == ()
    assert world(ClaimKeys([KeyClaim(KEY, ELSEWHERE)])) == Claimed()
    assert world.state.jobs.claims == {KEY: make_claim(ELSEWHERE, NOW + 5)}


def test_a_job_without_a_group_is_refused_under_a_claimed_key_alone_and_in_a_batch(world):
    world(ClaimKeys([KeyClaim(KEY, ELSEWHERE)]))
    held = held_since(NOW, NOW)
    assert world(keyed(KEY)) == held
    both = [enqueue(1), keyed(KEY)]
    refused = EnqueuedMany(bytes([Submitted.STORED, Submitted.CLAIMED]), held.held)
    assert world(EnqueueMany(both, check_only=True)) == refused
    assert world(EnqueueMany(both)) == refused
    assert not world.state.jobs.by_id


def test_a_key_of_a_job_without_a_group_cannot_be_claimed(world):
    world(keyed(KEY))
    # Since ever: it is not let go for its age, but for its job's being gone.
    assert world(ClaimKeys([KeyClaim(KEY, ELSEWHERE)])) == held_since(0, NOW, slot_of(KEY))
    assert world(FreeKeys([HeldKey(KEY, make_claim(slot_of(KEY), 0))])) == Settled(b"")
    assert world.events == ()


def test_a_group_with_the_slot_of_the_key_stores_under_the_keys_own_id(world):
    assert world(ClaimKeys([KeyClaim(KEY, slot_of(KEY))])) == Claimed()
    assert world(EnqueueMany([keyed(KEY)])) == EnqueuedMany(bytes([Submitted.STORED]))
    assert world(ClaimKeys([KeyClaim(KEY, slot_of(KEY))])) == Claimed()
    assert world(keyed(KEY)) == Replayed(KEY)
    assert world(keyed(KEY, b"2" * 16)) == Conflict(KEY)


def test_all_keys_of_a_message_are_claimed_or_none():
    world = World(HALF)
    other = make_job_id(1, 8, 4)
    world(ClaimKeys([KeyClaim(KEY, ELSEWHERE)]))
    for also in (KeyClaim(KEY, OTHERWHERE), KeyClaim(make_job_id(1, 9, SLOTS - 1), 5)):
        assert not isinstance(world(ClaimKeys([KeyClaim(other, 5), also])), Claimed)
        assert world.events == ()
    twice = [KeyClaim(other, 5), KeyClaim(other, 6)]
    assert world(ClaimKeys(twice)) == WrongPartition(other)
    assert world(ClaimKeys([KeyClaim(other, 5), KeyClaim(other, 5)])) == Claimed()


def test_a_job_and_its_claim_in_one_message_are_one_change(world):
    job = keyed(in_slot(KEY, ELSEWHERE))
    claims = [KeyClaim(KEY, ELSEWHERE)]
    assert world(EnqueueMany([job], claims=claims)) == EnqueuedMany(bytes([Submitted.STORED]))
    assert [type(event) for event in world.events] == [KeyClaimed, JobEnqueued]
    assert world(EnqueueMany([job], claims=claims)) == EnqueuedMany(bytes([Submitted.REPLAYED]))
    assert world.events == ()
    other = keyed(in_slot(KEY, OTHERWHERE))
    refused = world(EnqueueMany([other], claims=[KeyClaim(KEY, OTHERWHERE)]))
    assert refused == held_since(NOW, NOW)
    assert other.job_id not in world.state.jobs.by_id


def test_what_is_refused_for_want_of_room_claims_nothing():
    world = World(msgspec.structs.replace(POLICY, jobs_max=0))
    claims = [KeyClaim(KEY, ELSEWHERE)]
    assert world(EnqueueMany([keyed(in_slot(KEY, ELSEWHERE))], claims=claims)) == TooMany("jobs")
    assert world.state.jobs.claims == {}


def test_a_job_comes_in_time_or_never_by_the_clock_of_the_fronts(world):
    world.state.clock_raised_ms = 1_000
    job = keyed(KEY)
    assert world(EnqueueMany([job], by_ms=NOW - 1_001)) == TooLate()
    assert world.events == ()
    assert world(EnqueueMany([job], by_ms=NOW - 1_000)) == EnqueuedMany(bytes([Submitted.STORED]))
    late = EnqueueMany([job], by_ms=1)
    assert world(late) == EnqueuedMany(bytes([Submitted.REPLAYED])), "it is there: that is told"


def test_a_claim_is_let_go_unless_it_was_made_anew(world):
    world(ClaimKeys([KeyClaim(KEY, ELSEWHERE)]))
    old = HeldKey(KEY, make_claim(ELSEWHERE, NOW))
    world.now_ms += 1
    world(ClaimKeys([KeyClaim(KEY, ELSEWHERE)]))
    world(FreeKeys([old]))
    assert world.events == ()
    new = HeldKey(KEY, make_claim(ELSEWHERE, NOW + 1), age_ms=99)
    world(FreeKeys([new, new]))
    assert world.events == (KeyFreed(KEY),)
    assert world(keyed(KEY)) == Enqueued(KEY)


def test_only_jobs_that_would_be_here_are_gone():
    world = World(HALF)
    world(keyed(KEY))
    missing, foreign = make_job_id(1, 9, 5), make_job_id(1, 9, SLOTS - 1)
    assert world(FindGone([KEY, missing, foreign])) == JobsGone([missing])


def test_claims_are_listed_in_pages_that_go_on(world):
    keys = [make_job_id(1, number, number) for number in range(5)]
    world(ClaimKeys([KeyClaim(key, ELSEWHERE) for key in keys]))
    world.now_ms += 20
    pages = [world(ListClaims(2)) for _ in range(3)]
    assert [page.last for page in pages] == [False, False, True]
    held = [each for page in pages for each in page.held]
    assert sorted(each.key_id for each in held) == keys
    assert {each.age_ms for each in held} == {20}
    assert len(world(ListClaims(2)).held) == 2, "and begin anew"
    world(FreeKeys(held))
    assert world(ListClaims(2)) == ClaimPage([], last=False)
    assert world(ListClaims(2)) == ClaimPage([], last=True)


# Replaying ----------------------------------------------------------------------------------


def test_the_events_give_the_same_state_again(world):
    for index in range(6):
        world(enqueue(index, max_retries=2))
    granted = [world.leased(100 + index) for index in range(5)]
    world(Ack(granted[0].job_id, granted[0].lease_token, b"r"))
    world(Fail(granted[1].job_id, granted[1].lease_token, b"e"))
    world.now_ms += 103
    world(Tick())
    replayed = PartitionState(POLICY)
    for event in world.history:
        replayed.evolve(event)
    assert snapshot(replayed) == snapshot(world.state)
    assert len({job.state for job in snapshot(replayed).jobs.values()}) == 4


def test_the_policy_is_not_needed_to_replay(world):
    world(enqueue(1))
    world(Fail(job_id(1), world.leased().lease_token, b"e"))
    replayed = PartitionState(Policy(slots=range(0), backoff=Backoff(1, 1)))
    for event in world.history:
        replayed.evolve(event)
    assert snapshot(replayed) == snapshot(world.state)
