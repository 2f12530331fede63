"""Backoff: within its bounds, the same each time, and not all at once."""

from hypothesis import given
from hypothesis import strategies as st

from partitions.retry import Backoff

ids = st.binary(min_size=16, max_size=16)
attempts = st.integers(1, 1_000_000)
times = st.integers(0, 2**40)


@given(initial=times, most=times, job_id=ids, attempt=attempts)
def test_a_delay_is_the_doubled_one_within_the_maximum_and_at_most_a_quarter_longer(
    initial, most, job_id, attempt
):
    base = min(initial * 2 ** min(attempt - 1, 60), most)
    delay = Backoff(initial, most).delay_ms(job_id, attempt)
    assert base <= delay <= base + base // 4


@given(job_id=ids, attempt=attempts, factor=st.floats(1, 10), jitter=st.floats(0, 1))
def test_the_factor_and_the_jitter_are_a_matter_of_choice(job_id, attempt, factor, jitter):
    delay = Backoff(100, 5_000, factor, jitter).delay_ms(job_id, attempt)
    assert 100 <= delay <= 10_000
    without = Backoff(100, 5_000, factor, 0).delay_ms(job_id, attempt)
    assert without <= delay <= without * (1 + jitter)


def test_a_factor_of_three_is_one_three_nine_and_then_the_maximum():
    backoff = Backoff(10, 200, 3, 0)
    assert [backoff.delay_ms(bytes(16), attempt) for attempt in range(1, 6)] == [
        10,
        30,
        90,
        200,
        200,
    ]


@given(job_id=ids, attempt=attempts, factor=st.sampled_from([1.0, 2.0, 1e300, float("inf")]))
def test_no_backoff_stays_none_however_it_grows(job_id, attempt, factor):
    assert Backoff(0, 600_000, factor, 1).delay_ms(job_id, attempt) == 0


@given(job_id=ids, attempt=attempts)
def test_the_same_failure_always_gives_the_same_delay(job_id, attempt):
    assert Backoff().delay_ms(job_id, attempt) == Backoff().delay_ms(job_id, attempt)


@given(job_id=ids, attempt=attempts)
def test_delays_never_shrink_from_one_attempt_to_the_next_by_more_than_the_jitter(job_id, attempt):
    backoff = Backoff()
    assert backoff.delay_ms(job_id, attempt + 1) * 5 >= backoff.delay_ms(job_id, attempt) * 4


def test_jobs_that_fail_together_come_back_apart():
    delays = {Backoff(10_000, 60_000).delay_ms(bytes([n]) * 16, 1) for n in range(100)}
    assert len(delays) > 80
    assert max(delays) - min(delays) > 1_500
