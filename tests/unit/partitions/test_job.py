"""A job: the contract's words, what its fields mean together, and how small it is."""

import sys

import pytest

from partitions.job import (
    CREATED_SHIFT,
    EMPTY_AT,
    EXPIRED_AT,
    TTL_OVER_AT,
    Job,
    Outcome,
    Run,
    State,
)


def job(state: State = State.READY, **fields) -> Job:
    return Job(bytes(16), 5 << CREATED_SHIFT, 100, 0, state, **fields)


def test_the_names_of_the_states_are_those_of_the_contract():
    assert {state.name for state in State if state} == {
        "READY", "SCHEDULED", "RUNNING", "RETRY", "ACKED", "DEAD", "CANCELLED",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "outcome_at", "outcome"),
    [
        (State.READY, 0, Outcome.NONE),
        (State.ACKED, 0, Outcome.RESULT),
        (State.ACKED, 70, Outcome.RESULT),
        (State.RETRY, 70, Outcome.ERROR),
        (State.RUNNING, 70, Outcome.ERROR),
        (State.CANCELLED, 70, Outcome.ERROR),
        (State.DEAD, EMPTY_AT, Outcome.ERROR),
        (State.DEAD, EXPIRED_AT, Outcome.EXPIRED),
        (State.DEAD, TTL_OVER_AT, Outcome.TTL_OVER),
    ],
)
def test_what_the_last_attempt_left_is_told_by_state_and_position(state, outcome_at, outcome):
    assert job(state, run=Run(1, 1, outcome_at=outcome_at)).outcome is outcome


@pytest.mark.parametrize(
    ("state", "due_ms", "ready"),
    [
        (State.READY, 0, True),
        (State.RETRY, 0, True),
        (State.RETRY, 9, False),
        (State.SCHEDULED, 9, False),
        (State.RUNNING, 9, False),
        (State.CANCELLED, 9, False),
    ],
)
def test_a_job_is_ready_when_it_waits_for_no_time(state, due_ms, ready):
    assert job(state, due_ms=due_ms).is_ready is ready


def test_a_job_that_never_ran_has_no_attempts_token_or_outcome():
    fresh = job()
    assert (fresh.attempts, fresh.lease_token, fresh.outcome_at) == (0, 0, 0)
    assert fresh.created_at_ms == 5


def test_a_copy_stays_as_it_is():
    running = job(State.RUNNING, run=Run(1, 7))
    copied = running.copied()
    assert running.run is not None
    running.run.attempts = 2
    running.state = State.DEAD
    assert (copied.state, copied.attempts) == (State.RUNNING, 1)


def test_a_million_waiting_jobs_are_80_megabytes_of_structs():
    assert sys.getsizeof(job()) <= 80
