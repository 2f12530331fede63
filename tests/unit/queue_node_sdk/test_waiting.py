from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_node_sdk import ConfigurationError, Job, JobState, Timeout, Unreachable
from queue_node_sdk.waiting import LONGEST_WAIT_SECONDS, Waiting

JOB = Job(
    job_id="j", state=JobState.RUNNING, attempts=1, max_retries=3, created_at=datetime.now(UTC)
)
BEGAN = 1000.0
"""On a clock that has been going for a while."""


def waiting(timeout: float | None, poll_interval: float = 1.0) -> Waiting:
    return Waiting("j", timeout=timeout, poll_interval=poll_interval, retry_for=30, now=BEGAN)


def looks(
    timeout: float, poll_interval: float, takes: list[float], *, keeps: bool
) -> tuple[list[float], float]:
    """When the node was asked for a job that never ends, and when that was given up.

    Args:
        timeout: of the wait.
        poll_interval: of the wait.
        takes: seconds that an answer takes to come, in turn.
        keeps: whether the node keeps a read waiting.
    """
    subject, now, asked = waiting(timeout, poll_interval), BEGAN, list[float]()
    for turn in range(100_000):
        call, in_all_seconds, failing_seconds = subject.call(now)
        assert failing_seconds is None
        assert now + in_all_seconds <= BEGAN + timeout + 1 + 1e-6
        assert 0 <= call.wait_seconds <= LONGEST_WAIT_SECONDS
        asked.append(now - BEGAN)
        now += call.wait_seconds if keeps else min(takes[turn % len(takes)], in_all_seconds)
        try:
            now += subject.pause_seconds(JOB, now)
        except Timeout:
            return asked, now - BEGAN
    raise AssertionError("it never ends")


@given(
    st.floats(0, 100),
    st.floats(0.05, 10),
    st.lists(st.floats(0.001, 2), min_size=1, max_size=5),
)
def test_a_node_that_keeps_nobody_waiting_is_asked_until_the_end(timeout, poll_interval, takes):
    asked, ended = looks(timeout, poll_interval, takes, keeps=False)
    assert timeout - 1e-6 <= ended <= timeout + 1 + 1e-6
    # The last look is at the deadline, or its answer came after it.
    assert ended - asked[-1] <= max(takes) + 1e-6
    between = [later - earlier for earlier, later in pairwise(asked)]
    assert all(each <= poll_interval + max(takes) + 1e-6 for each in between)


@given(st.floats(0, 1000))
def test_a_node_that_waits_is_asked_no_more_than_it_must(timeout: float):
    asked, ended = looks(timeout, 1.0, [0.0], keeps=True)
    assert len(asked) <= timeout / LONGEST_WAIT_SECONDS + 3
    assert ended == pytest.approx(timeout, abs=0.01)


def test_pauses_grow_from_a_hundredth_of_a_second_to_the_interval():
    subject, now, pauses = waiting(None, 0.5), BEGAN, list[float]()
    for _ in range(20):
        subject.call(now)
        pauses.append(subject.pause_seconds(JOB, now))
        now += pauses[-1]
    assert pauses[0] == 0.01
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.5


def test_without_an_end_only_failures_have_one():
    call, in_all_seconds, failing_seconds = waiting(None).call(BEGAN + 10**6)
    assert call.wait_seconds == LONGEST_WAIT_SECONDS
    assert (in_all_seconds, failing_seconds) == (30 + LONGEST_WAIT_SECONDS, 30)
    away = Unreachable("away")
    assert waiting(None).gave_up(away) is away


def test_a_timeout_says_where_the_job_stands():
    with pytest.raises(Timeout, match="job j is RUNNING after 5 s"):
        waiting(5).pause_seconds(JOB, BEGAN + 5)


def test_an_end_makes_of_a_node_that_is_away_a_timeout():
    raised = waiting(5).gave_up(Unreachable("cannot reach the node"))
    assert isinstance(raised, Timeout)
    assert "cannot reach the node" in str(raised)


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_an_interval_that_cannot_be_right(interval: float):
    with pytest.raises(ConfigurationError):
        waiting(1, interval)
