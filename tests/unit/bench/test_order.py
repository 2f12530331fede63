"""bench.order: small histories with a known order, and a slow judge beside the quick one."""

import random

import pytest

from bench.errors import MalformedAnswerError
from bench.order import ABOVE_MS, History, Order

MS = 1_000_000
NONE = dict.fromkeys(ABOVE_MS, 0)


def history(submits, leases):
    """``submits``: id -> (priority, sent, answered); ``leases``: (ids, sent, answered); in ms."""
    seen = History()
    for job_id, (priority, sent_ms, answered_ms) in submits.items():
        seen.submitted(job_id, priority, sent_ms * MS, answered_ms * MS)
    for job_ids, sent_ms, answered_ms in leases:
        seen.leased(job_ids, sent_ms * MS, answered_ms * MS)
    return seen


def above(*durations_ms):
    return {limit: sum(each > limit for each in durations_ms) for limit in ABOVE_MS}


def test_jobs_leased_by_priority_and_age_are_in_order():
    submits = {"low": (0, 0, 1), "older": (1, 2, 3), "newer": (1, 4, 5)}
    leases = [(["older"], 10, 11), (["newer"], 12, 13), (["low"], 14, 15)]
    assert history(submits, leases).judge(0) == Order(3, NONE, NONE)


def test_a_better_job_left_behind_is_an_inversion_as_long_as_it_had_waited():
    submits = {"low": (0, 0, 1), "high": (1, 2, 3)}
    seen = history(submits, [(["low"], 10, 11), (["high"], 12, 13)])
    assert seen.judge(0) == Order(2, above(7), NONE)


def test_a_better_job_that_is_never_leased_is_left_behind_too():
    seen = history({"low": (0, 0, 1), "high": (1, 2, 3)}, [(["low"], 10, 11)])
    assert seen.judge(0) == Order(1, above(7), NONE)


@pytest.mark.parametrize(
    ("submit", "lease"),
    [
        pytest.param((1, 2, 10), (12, 13), id="submit answered when the lease was sent"),
        pytest.param((1, 2, 11), (12, 13), id="submit answered while the lease was on its way"),
        pytest.param((1, 2, 3), (11, 13), id="leased by a request sent when this was answered"),
        pytest.param((1, 2, 3), (10, 11), id="leased at the same time"),
        pytest.param((1, 2, 3), (5, 20), id="leased by a request that was on its way before"),
        pytest.param((0, 2, 3), (12, 13), id="not better"),
        pytest.param((-1, 2, 3), (12, 13), id="worse"),
    ],
)
def test_what_is_not_sure_is_no_inversion(submit, lease):
    submits = {"low": (0, 0, 1), "other": submit}
    seen = history(submits, [(["low"], 10, 11), (["other"], *lease)])
    assert seen.judge(0) == Order(2, NONE, NONE)


def test_of_several_better_jobs_the_one_that_waited_longest_counts():
    submits = {"low": (0, 0, 1), "a": (2, 20, 30), "b": (1, 5, 10), "c": (1, 0, 4)}
    # c was leased before; b had waited for 90 ms, a for 70.
    leases = [(["c"], 15, 16), (["low"], 100, 110), (["a"], 120, 130), (["b"], 140, 150)]
    assert history(submits, leases).judge(0) == Order(4, above(90), NONE)


def test_an_older_job_of_the_same_priority_is_overtaken_by_what_is_sure():
    submits = {"older": (0, 0, 10), "newer": (0, 35, 40)}
    seen = history(submits, [(["newer"], 50, 51), (["older"], 52, 53)])
    assert seen.judge(0) == Order(2, NONE, above(25))


def test_of_jobs_that_were_submitted_at_the_same_time_none_is_older():
    submits = {"one": (0, 0, 10), "other": (0, 10, 12)}
    seen = history(submits, [(["other"], 50, 51), (["one"], 52, 53)])
    assert seen.judge(0) == Order(2, NONE, NONE)


def test_each_job_of_an_answer_counts_but_not_against_the_others():
    submits = {"low": (0, 0, 1), "lower": (-1, 0, 1), "high": (1, 0, 1), "left": (1, 2, 4)}
    seen = history(submits, [(["lower", "low", "high"], 10, 11), (["left"], 12, 13)])
    assert seen.judge(0) == Order(4, above(6, 6), above())


def test_leases_from_before_the_measured_time_are_not_judged():
    submits = {"low": (0, 0, 1), "high": (1, 2, 3), "last": (0, 4, 5)}
    leases = [(["low"], 10, 11), (["high"], 12, 13), (["last"], 14, 15)]
    assert history(submits, leases).judge(12 * MS) == Order(2, NONE, NONE)


def test_a_job_may_be_leased_before_the_answer_to_its_submit_is_read():
    seen = History()
    seen.leased(["early"], 1, 2)
    seen.submitted("early", 0, 0, 3)
    assert seen.judge(0) == Order(1, NONE, NONE)
    assert seen.waiting == 0


def test_a_job_leased_twice_or_not_submitted_here_stops_the_run():
    seen = History()
    seen.leased(["a"], 1, 2)
    with pytest.raises(MalformedAnswerError, match="a was leased twice"):
        seen.leased(["a"], 3, 4)
    with pytest.raises(MalformedAnswerError, match="not submitted by us"):
        seen.judge(0)


def test_orders_add_up():
    total = Order()
    total.extend(Order(3, above(7), above(2)))
    total.extend(Order(2, above(700), above()))
    assert total == Order(5, above(7, 700), above(2))


def slow_judge(submits, leases):
    """The definition, word for word."""
    lease_of = {job_id: (sent, answered) for ids, sent, answered in leases for job_id in ids}
    never = (float("inf"), float("inf"))
    inversions, overtaking = [], []
    for job_id, (sent, answered) in lease_of.items():
        priority, submit_sent, _ = submits[job_id]
        left = [
            (other_priority, ready)
            for other, (other_priority, _, ready) in submits.items()
            if ready < sent and lease_of.get(other, never)[0] > answered
        ]
        if waits := [sent - ready for other, ready in left if other > priority]:
            inversions.append(max(waits))
        if ages := [submit_sent - ready for other, ready in left if other == priority]:
            overtaking += [max(ages)] if max(ages) > 0 else []
    return Order(len(lease_of), above(*inversions), above(*overtaking))


@pytest.mark.parametrize("seed", range(50))
def test_the_quick_judge_says_what_the_slow_one_says(seed):
    draw = random.Random(seed)
    submits = {}
    for number in range(draw.randrange(1, 60)):
        sent = draw.randrange(300)
        submits[str(number)] = (draw.randint(-2, 2), sent, sent + draw.randrange(1, 40))
    waiting, leases = list(submits), []
    draw.shuffle(waiting)
    while len(waiting) > draw.randrange(10):
        ids = [waiting.pop() for _ in range(min(len(waiting), draw.choice([1, 1, 4])))]
        sent = draw.randrange(600)
        leases.append((ids, sent, sent + draw.randrange(1, 40)))
    judged = history(submits, leases).judge(0)
    assert judged == slow_judge(submits, leases)
