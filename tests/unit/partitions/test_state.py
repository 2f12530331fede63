"""The state, one promise at a time; ``property/test_state_model`` has them all together."""

import itertools

import pytest

from partitions import state as module
from partitions.events import (
    BackoffOver,
    Event,
    JobAcked,
    JobEnqueued,
    JobFailed,
    JobForgotten,
    JobLeased,
    LeaseExpired,
)
from partitions.job import Outcome, State
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
    Settled,
    Tick,
    WrongPartition,
)
from partitions.retry import Backoff
from partitions.slots import make_job_id
from partitions.state import (
    Answer,
    JobFound,
    LeaseGranted,
    PartitionState,
    Policy,
    SettledBefore,
)
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
        self._text_at = itertools.count(64)  # no text is at so low a position

    def __call__(self, command: Command) -> Answer:
        applied = self.state.apply(command, self.now_ms, next(self._text_at))
        self.events = applied.events
        self.history += applied.events
        return applied.reply

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
    assert world.found(1) == JobFound(
        job_id(1), State.READY, 0, 3, NOW, None, Outcome.NONE, 0, "owner"
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
    assert world.events == (JobLeased(job_id(1), 1, NOW + 500),)
    found = world.found(1)
    assert (found.state, found.attempts, found.lease_until_ms) == (State.RUNNING, 1, NOW + 500)


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
    assert world.events == (JobAcked(job_id(1), NOW, 66),)
    found = world.found(1)
    assert (found.state, found.outcome, found.outcome_at) == (State.ACKED, Outcome.RESULT, 66)
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
    assert world(Ack(job_id(1), token, b"r")) == SettledBefore(job_id(1), 66)
    assert world.events == ()
    assert world(Fail(job_id(1), token, b"r")) == LeaseLost(job_id(1))
    assert world(Ack(job_id(1), token + 1, b"r")) == LeaseLost(job_id(1))


def test_the_same_failure_again_is_known_until_the_next_lease(world):
    world(enqueue(1))
    token = world.leased().lease_token
    world(Fail(job_id(1), token, b"e"))
    world.now_ms += 1_000
    assert world(Fail(job_id(1), token, b"e")) == SettledBefore(job_id(1), 66)
    world.leased()
    assert world(Fail(job_id(1), token, b"e")) == LeaseLost(job_id(1))


# Trying again -------------------------------------------------------------------------------


def test_a_failed_job_waits_for_its_backoff_and_keeps_its_place(world):
    world(enqueue(1))
    world(enqueue(2))
    token = world.leased().lease_token
    world(Fail(job_id(1), token, b"e"))
    delay = POLICY.backoff.delay_ms(job_id(1), 1)
    assert world.events == (JobFailed(job_id(1), NOW, 67, NOW + delay),)
    assert world.state.next_deadline_ms() == NOW + delay
    world.now_ms = NOW + delay - 1
    assert world.state.ready == 1
    assert world.found(1).state is State.RETRY
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
        JobLeased(job_id(1), 2, NOW + 250),
    )
    assert granted.attempt == 2


@pytest.mark.parametrize(("max_retries", "attempts"), [(0, 1), (1, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("how", ["fail", "expire"])
def test_a_job_is_dead_after_its_last_attempt(world, max_retries, attempts, how):
    world(enqueue(1, max_retries=max_retries))
    for _ in range(attempts):
        assert world.found(1).state in (State.READY, State.RETRY)
        token = world.leased(100).lease_token
        if how == "fail":
            world(Fail(job_id(1), token, b"e"))
        world.now_ms += 2_000
    found = world.found(1)
    assert (found.state, found.attempts) == (State.DEAD, attempts)
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
    assert world.found(10).state is State.RUNNING


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
    assert len(world.state._timers) < 10_000


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
