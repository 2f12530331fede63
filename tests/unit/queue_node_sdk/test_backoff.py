from hypothesis import given
from hypothesis import strategies as st

from queue_node_sdk.backoff import Backoff


def test_the_ceiling_grows_to_its_limit():
    backoff = Backoff(first_seconds=0.1, longest_seconds=1.0, factor=2)
    assert [backoff.ceiling_seconds(n) for n in (1, 2, 3, 4, 5)] == [0.1, 0.2, 0.4, 0.8, 1.0]


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_a_pause_lies_between_nothing_and_the_ceiling(failures: int, draw: float):
    backoff = Backoff(first_seconds=0.1, longest_seconds=5.0)
    assert 0 <= backoff.pause_seconds(failures, draw) < 5.0


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1000))
def test_retry_after_is_the_least_and_jitter_comes_on_top(draw: float, retry_after: float):
    backoff = Backoff(first_seconds=0.1, longest_seconds=5.0)
    pause = backoff.pause_seconds(1, draw, retry_after)
    assert retry_after <= pause <= retry_after + 0.1
