"""The tries of one call, with troubles that hypothesis draws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_node_sdk import OutcomeUnknown, Overloaded, QueueNodeError, StorageFull, Unreachable
from queue_node_sdk.backoff import RETRY
from queue_node_sdk.calls import QUEUES_CALL, Call, lease_call, retry_call, status_call, submit_call
from queue_node_sdk.exchange import Exchange
from queue_node_sdk.protocol import AnswerLost, NoTls, NotSent, Outcome, Reply, may_have_run

DONE = Reply(200, b"{}", {})
AWAY, LOST = NotSent("refused"), AnswerLost("cut")


def refused(status: int, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, b'{"error": "made to fail"}', named)


BUSY = refused(503, retry_after="2")
CALLS = [QUEUES_CALL, status_call("j", 20), submit_call(b"{}"), retry_call("j"), lease_call()]
TROUBLES = [AWAY, LOST, NoTls("no"), BUSY, refused(503), refused(500), refused(429),
            refused(507), refused(409), refused(404), refused(401)]  # fmt: skip


def run(
    call: Call, outcomes: list[Outcome], patience: float, draw: float, takes: float = 0.01
) -> tuple[Reply | QueueNodeError, list[Outcome], list[float]]:
    """What came of it, what was met, and the pauses."""
    now, met, pauses = 500.0, list[Outcome](), list[float]()
    exchange = Exchange(call, "http://node", now, patience)
    for outcome in [*outcomes, DONE]:
        assert exchange.left_seconds(now) > 0 or patience == 0
        now += takes
        met.append(outcome)
        try:
            after = exchange.pause_after(outcome, now, draw)
        except QueueNodeError as error:
            return error, met, pauses
        if isinstance(after, Reply):
            return after, met, pauses
        pauses.append(after)
        now += after
    raise AssertionError("DONE was no answer")


draws = st.floats(0, 1, exclude_max=True)
some_troubles = st.lists(st.sampled_from(TROUBLES), max_size=8)


@given(st.sampled_from(CALLS), some_troubles, st.floats(0, 60), draws)
def test_the_patience_is_for_all_tries(call, troubles, patience, draw):
    _, met, pauses = run(call, troubles, patience, draw)
    assert sum(pauses) <= patience
    for number, (trouble, pause) in enumerate(zip(met, pauses, strict=False), 1):
        advice = 2.0 if trouble is BUSY else 0.0
        assert advice <= pause <= advice + RETRY.ceiling_seconds(number)


@given(st.sampled_from(CALLS), some_troubles, draws)
def test_what_may_have_run_runs_again_only_where_that_is_the_same(call, troubles, draw):
    came, met, _ = run(call, troubles, 1e6, draw)
    if not call.repeatable:
        assert not any(may_have_run(outcome) for outcome in met[:-1])
    if came is not DONE:
        assert isinstance(came, QueueNodeError)


@given(some_troubles, st.one_of(st.floats(0, 1), st.floats(0, 60)), draws)
def test_a_submit_that_may_be_stored_is_never_said_not_to_be(troubles, patience, draw):
    came, met, _ = run(submit_call(b"{}"), troubles, patience, draw)
    may_be_stored = any(may_have_run(outcome) for outcome in met)
    if isinstance(came, Unreachable | Overloaded | StorageFull) and may_be_stored:
        assert isinstance(came, OutcomeUnknown)


@pytest.mark.parametrize("trouble", [AWAY, LOST, BUSY, refused(500)])
def test_without_patience_there_is_one_try(trouble: Outcome):
    came, met, _ = run(QUEUES_CALL, [trouble], 0, 0.5)
    assert isinstance(came, QueueNodeError)
    assert len(met) == 1


def test_a_call_that_waits_at_the_node_counts_from_its_first_failure():
    exchange = Exchange(status_call("j", 20), "http://node", 0.0, 50.0, failing_for_seconds=30.0)
    assert exchange.left_seconds(19.0) == 50.0
    assert isinstance(exchange.pause_after(LOST, 20.0, 0.5), float)
    assert exchange.left_seconds(20.0) == 30.0
    with pytest.raises(Unreachable):
        exchange.pause_after(LOST, 50.0, 0.5)


def test_a_node_that_is_away_is_said_once(caplog: pytest.LogCaptureFixture):
    run(QUEUES_CALL, [AWAY, AWAY, LOST, AWAY], 60, 0.5)
    assert [record.message for record in caplog.records] == [
        "cannot reach http://node: refused; trying for 60 s"
    ]
