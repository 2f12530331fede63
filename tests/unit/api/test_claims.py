"""One key, one job: with any groups, whatever partitions they and the key belong to."""

from itertools import permutations

import pytest

from api import problems
from api.problems import Problem
from api.submitting import Accepted
from partitions.limits import CLAIM_FREE_MS
from partitions.messages import ClaimKeys, EnqueueMany, FindGone, Forget, KeyClaim, StorageFull
from tests.support.by_hand import Run, settle
from tests.unit.api.test_submitting import Front, job

ORDERS = list(permutations(range(4)))


def bodies(front: Front) -> list[str]:
    """No group, and one of each partition."""
    return ["", *(front.group_of(each) for each in front.partitions)]


def claims(front: Front) -> int:
    return sum(len(each.state.jobs.claims) for each in front.partitions)


def pass_time(front: Front, ms: int) -> None:
    for each in front.partitions:
        each.now_ms += ms


def sweep(front: Front) -> None:
    for each in front.partitions:
        run = Run(front.submitting._claims.sweep_some(each.client))
        settle(front.partitions)
        assert run.done
        assert run.error is None


@pytest.mark.parametrize("order", ORDERS)
def test_another_group_or_none_is_a_conflict_and_the_same_body_the_first_job(order) -> None:
    front = Front(3)
    groups = [bodies(front)[each] for each in order]
    first = front.submit(job(b"x", "k", b"%d" % order[0], groups[0]))
    assert isinstance(first, Accepted)
    for place, group in zip(order, groups, strict=True):
        again = front.submit(job(b"x", "k", b"%d" % place, group))
        if group == groups[0]:
            assert again == Accepted(first.job_id, replayed=True)
        else:
            assert again is problems.IDEMPOTENCY_CONFLICT
        batch = front.submit_many([job(), job(b"x", "k", b"%d" % place, group)])
        assert isinstance(batch, list if group == groups[0] else Problem)
    pass_time(front, 10 * CLAIM_FREE_MS)
    sweep(front)
    assert front.submit(job(b"x", "k", b"other", groups[1])) is problems.IDEMPOTENCY_CONFLICT


def test_of_submits_at_once_one_makes_a_job() -> None:
    front = Front(3)
    wanted = [job(b"x", "k", b"%d" % place, each) for place, each in enumerate(bodies(front))]
    runs = [Run(front.submitting.submit("me", each)) for each in wanted * 3]
    settle(front.partitions)
    results = [run.result for run in runs]
    accepted = {each.job_id for each in results if isinstance(each, Accepted)}
    assert len(accepted) == sum(front.stored) == 1
    refusals = [each for each in results if not isinstance(each, Accepted)]
    assert {each.status for each in refusals} <= {422, 503}


def test_a_front_that_died_between_the_steps_holds_the_key_for_a_while() -> None:
    front = Front(3)
    one, other = bodies(front)[1:3]
    half = job(b"x", "k", b"1", one)
    key_id = front.placement.key_id("me", half)
    home = front.partitions[front.placement.owner_of(key_id).partition]
    home.carry_out(ClaimKeys([KeyClaim(key_id, front.placement.group_slot(half))]))
    for group in ("", other):
        assert front.submit(job(b"x", "k", b"2", group)) is problems.KEY_CLAIMED
    sweep(front)
    assert claims(front) == 1
    pass_time(front, CLAIM_FREE_MS)
    assert isinstance(front.submit(job(b"x", "k", b"2", other)), Accepted)
    assert front.submit(half) is problems.IDEMPOTENCY_CONFLICT


def test_stale_claims_are_swept_and_those_with_jobs_stay() -> None:
    front = Front(3)
    group = bodies(front)[1]
    kept, gone = (front.submit(job(b"x", key, group=group)) for key in ("kept", "gone"))
    assert isinstance(kept, Accepted)
    assert isinstance(gone, Accepted)
    for each in front.partitions:
        if gone.job_id in each.state.jobs.by_id:
            del each.state.jobs.by_id[gone.job_id]
    pass_time(front, CLAIM_FREE_MS)
    sweep(front)
    assert claims(front) == 1
    assert front.submit(job(b"x", "kept", group=group)) == Accepted(kept.job_id, replayed=True)


def test_a_claim_whose_partition_does_not_answer_stays() -> None:
    front = Front(3)
    group = front.group_of(front.partitions[0])
    keys = [front.key_of(each) for each in front.partitions[1:]]
    front.partitions[0].limit(jobs_max=0)
    for key in keys:
        assert front.submit(job(b"x", key, group=group)) is problems.TOO_MANY_JOBS
    pass_time(front, CLAIM_FREE_MS)
    front.partitions[0].answer = lambda command: StorageFull()
    sweep(front)
    assert claims(front) == 2
    front.partitions[0].answer = front.partitions[0].carry_out
    sweep(front)
    assert claims(front) == 0


def test_nothing_is_claimed_while_the_partition_of_the_group_is_down() -> None:
    front = Front(3)
    wanted = [
        job(b"x", front.key_of(each), group=front.group_of(front.partitions[0]))
        for each in front.partitions[1:]
    ]
    front.partitions[0].lose()
    assert front.submit(wanted[0]) is problems.PARTITION_DOWN
    assert front.submit_many(wanted) is problems.PARTITION_DOWN
    assert claims(front) == 0


def test_a_key_and_a_group_of_one_partition_are_one_message() -> None:
    front = Front(2)
    home = front.partitions[1]
    wanted = job(b"x", front.key_of(home), group=front.group_of(home))
    assert isinstance(front.submit(wanted), Accepted)
    assert [type(each) for each in home.commands] == [EnqueueMany]
    assert front.partitions[0].commands == []


def test_a_batch_with_two_groups_under_one_key_is_refused_at_the_second() -> None:
    front = Front(3)
    one, other = bodies(front)[1:3]
    for second in ("", other):
        outcome = front.submit_many([job(b"x", "k", b"1", one), job(b"x", "k", b"2", second)])
        assert isinstance(outcome, Problem)
        assert (outcome.status, outcome.error.partition(":")[0]) == (422, "jobs[1]")
    assert sum(front.stored) == claims(front) == 0


def test_a_plain_submit_and_a_key_without_a_group_ask_nothing_more() -> None:
    front = Front(2)
    front.submit(job())
    front.submit(job(b"x", "k"))
    front.submit(job(group="g"))
    commands = [each for partition in front.partitions for each in partition.commands]
    assert len(commands) == 3
    assert not any(isinstance(each, ClaimKeys | FindGone | Forget) for each in commands)
