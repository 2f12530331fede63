"""A job: the contract's words, and how many attempts it gets."""

import pytest

from partitions.job import Job, State


@pytest.mark.parametrize(("max_retries", "attempts"), [(0, 1), (1, 1), (2, 2), (7, 7)])
def test_zero_and_one_retries_both_mean_one_attempt(max_retries, attempts):
    assert Job(bytes(16), 1, 1, max_retries, 0).attempts_max == attempts


def test_the_names_of_the_states_are_those_of_the_contract():
    assert [state.name for state in State] == ["READY", "RUNNING", "RETRY", "ACKED", "DEAD"]
