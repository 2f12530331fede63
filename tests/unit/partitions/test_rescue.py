"""What becomes of a job when only some of its events are left; whole logs are in ``crash``."""

import pytest

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
)
from partitions.job import Own, State
from partitions.kinds import NumberedKind
from partitions.rescue import Rescue
from partitions.slots import make_claim
from tests.support.driver import START_MS, job_id, jobs_of
from tests.support.past import Past
from tests.support.witness import replayed

ONE, TWO = job_id(1), job_id(2)
GROUP = Own("orders")
LATER_MS = START_MS + 5_000


def submitted(each: bytes = ONE, retries: int = 3, own: Own | None = None) -> JobEnqueued:
    return JobEnqueued(each, 1 << 40, retries, START_MS, "owner", own=own)


def leased(token: int, each: bytes = ONE) -> JobLeased:
    return JobLeased(each, token, LATER_MS, 5_000, "worker")


def failed(retry_at_ms: int = 0) -> JobFailed:
    return JobFailed(ONE, START_MS, 0, retry_at_ms)


def after(*events: Event | None) -> Rescue:
    """The events, with a gap where there is None."""
    rescue = Rescue()
    for event in events:
        if event is None:
            rescue.gap()
        else:
            rescue.evolve(event)
    return rescue


def only(rescue: Rescue) -> tuple[State, int, bool]:
    """``(state, attempts, whether it is uncertain)`` of the job."""
    job = rescue.jobs[ONE]
    return job.state, job.attempts, ONE in rescue.uncertain


def test_without_a_gap_it_is_what_replay_makes():
    for seed in range(20):
        past = Past(40, seed=seed)
        rescue = after(*[event for events in past.records.values() for event in events])
        state = replayed(list(past.records.values()))
        assert rescue.jobs == jobs_of(state)
        assert (rescue.lost, rescue.uncertain) == (set(), set())
        assert rescue.last_token == state.jobs.last_token
        assert rescue.last_number == state.jobs.last_number
        assert rescue.paused == {
            queue.name for queue in state.jobs.kinds.queues.values() if queue.paused
        }


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        # What was not finished is uncertain, until an event finishes it.
        ([submitted(), None], (State.READY, 0, True)),
        ([submitted(), None, leased(1)], (State.RUNNING, 1, True)),
        ([submitted(), None, LeaseExtended(ONE, LATER_MS, b"")], (State.RUNNING, 1, True)),
        ([submitted(), leased(1), None, JobAcked(ONE, START_MS, 0)], (State.ACKED, 1, False)),
        ([submitted(), None, JobCancelled(ONE, START_MS)], (State.CANCELLED, 0, False)),
        ([submitted(), None, JobExpired(ONE, START_MS)], (State.DEAD, 0, False)),
        ([submitted(), None, LeaseExpired(ONE, START_MS, True)], (State.DEAD, 3, False)),
        # Given back: the attempt counts only if it was seen to begin, and is not counted then.
        ([submitted(), leased(1), None, JobReleased(ONE, 0)], (State.READY, 0, True)),
        ([submitted(), None, JobReleased(ONE, 0)], (State.READY, 0, True)),
        ([submitted(), None, JobReleased(ONE, LATER_MS)], (State.SCHEDULED, 0, True)),
        (
            [submitted(), leased(1), failed(LATER_MS), None, JobReleased(ONE, 0)],
            (State.READY, 1, True),
        ),
        # With one attempt in all, none can have failed and be followed by another.
        ([submitted(retries=1), leased(1), None, BackoffOver(ONE)], (State.READY, 0, True)),
        ([submitted(retries=1), None, BackoffOver(ONE)], (State.READY, 0, True)),
        ([submitted(), None, BackoffOver(ONE)], (State.RETRY, 1, True)),
        # Retried: all of it is known, whatever was before.
        (
            [submitted(), leased(1), failed(), None, JobRetried(ONE)],
            (State.READY, 0, False),
        ),
        ([submitted(), None, failed(), JobRetried(ONE)], (State.READY, 0, False)),
        # It was finished, and goes on: somebody retried it in the gap.
        (
            [submitted(), leased(1), leased(2), failed(), None, leased(7)],
            (State.RUNNING, 1, True),
        ),
        (
            [submitted(), JobCancelled(ONE, START_MS), None, JobReleased(ONE, 0)],
            (State.READY, 0, True),
        ),
        (
            [submitted(), JobCancelled(ONE, START_MS), None, leased(7), failed()],
            (State.DEAD, 1, False),
        ),
        # Finished, and nothing says that it was retried.
        ([submitted(), leased(1), failed(), None], (State.DEAD, 1, False)),
    ],
)
def test_a_job_behind_a_gap(events, expected):
    assert only(after(*events)) == expected


def test_its_ttl_is_over_once_anything_shows_that_it_began():
    own = Own(expires_at_ms=LATER_MS)
    for event in (leased(1), JobReleased(ONE, 0), failed(LATER_MS), JobCancelled(ONE, START_MS)):
        assert after(submitted(own=own), None, event).jobs[ONE].own == Own()
    assert after(submitted(own=own), None).jobs[ONE].own == own


def test_of_a_group_only_the_one_that_was_leased_last_runs():
    rescue = after(submitted(own=GROUP), submitted(TWO, own=GROUP), leased(1), None, leased(2, TWO))
    assert only(rescue) == (State.RETRY, 1, True)
    assert rescue.jobs[ONE].due_ms == 0
    assert rescue.jobs[TWO].state is State.RUNNING
    others = after(submitted(), submitted(TWO), leased(1), None, leased(2, TWO))
    assert others.jobs[ONE].state is State.RUNNING, "without a group both may run"


def test_a_turn_that_a_snapshot_shows_counts_too():
    before = after(submitted(own=GROUP), submitted(TWO, own=GROUP), leased(1))
    rescue = Rescue()
    kinds = [NumberedKind(kind.index, kind.key) for kind in before.kinds]
    head = replayed([[submitted()]]).jobs.begin_snapshot()
    rescue.restore(head, kinds, list(before.jobs.values()), {})
    rescue.gap()
    rescue.evolve(leased(2, TWO))
    assert rescue.jobs[ONE].state is State.RETRY


def test_claims_are_followed_with_and_without_a_gap():
    claimed = KeyClaimed(ONE, 5, START_MS)
    assert after(claimed, None, KeyClaimed(TWO, 6, START_MS)).claims == {
        ONE: make_claim(5, START_MS),
        TWO: make_claim(6, START_MS),
    }
    # What is in the gap is not known: claimed for another slot, let go before.
    assert after(claimed, None, KeyClaimed(ONE, 7, START_MS)).claims == {
        ONE: make_claim(7, START_MS)
    }
    assert after(claimed, KeyFreed(ONE), None, KeyFreed(ONE)).claims == {}


def test_an_acked_job_that_goes_on_is_another_one_whose_submission_is_lost():
    rescue = after(submitted(), leased(1), JobAcked(ONE, START_MS, 0), None, leased(2))
    assert (rescue.jobs, rescue.lost, rescue.uncertain) == ({}, {ONE}, set())


def test_an_id_that_is_submitted_again_is_neither_lost_nor_uncertain():
    for before in ([submitted()], [submitted(), leased(1)], []):
        rescue = after(*before, None, leased(5), submitted())
        assert (only(rescue), rescue.lost) == ((State.READY, 0, False), set())
    forgotten = after(submitted(), None, leased(2), JobForgotten(ONE))
    assert (forgotten.jobs, forgotten.lost, forgotten.uncertain) == ({}, set(), set())
