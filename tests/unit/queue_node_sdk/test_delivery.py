"""The rounds of a delivery against a small node whose answers hypothesis draws."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from queue_node_sdk.delivery import BATCH_BYTES_MAX, BATCH_JOBS_MAX, Delivery
from queue_node_sdk.errors import BadRequest, OutcomeUnknown, QueueFull, Unreachable
from queue_node_sdk.options import submit_body
from queue_node_sdk.protocol import AnswerLost, NotSent, Outcome, Reply

LOST, AWAY = AnswerLost("cut"), NotSent("refused")
FULL = Reply(429, b'{"error": "too many jobs"}', {})


def bodies(count: int, size: int = 1) -> list[bytes]:
    return [submit_body("x" * size, {}, str(number)) for number in range(count)]


def answer(sent: bytes, status: int = 201) -> Reply:
    body = json.loads(sent)
    said: dict[str, Any] = (
        {"job_ids": [job["idempotency_key"] for job in body["jobs"]]}
        if "jobs" in body
        else {"job_id": body["idempotency_key"]}
    )
    return Reply(status, json.dumps(said).encode(), {})


def keys(sent: bytes) -> list[int]:
    body = json.loads(sent)
    return [int(job["idempotency_key"]) for job in body.get("jobs", [body])]


def drive(delivery: Delivery, node: Any) -> list[int]:
    """Rounds until all is over; how many jobs each request had."""
    sizes: list[int] = []
    for _ in range(10_000):
        while (call := delivery.next_call()) is not None:
            sizes.append(len(keys(call.body)))
            delivery.note(node(call.body))
        if delivery.pause_seconds("http://node", 3600, 0.5) is None:
            return sizes
    raise AssertionError("it never ends")


@given(st.integers(1, 60), st.sets(st.integers(0, 59)), st.lists(st.sampled_from([0, 1, 2, 3])))
def test_each_job_gets_its_own_outcome_whatever_happens(count, refused, faults):
    """Refused jobs get their refusal, all others the id that the node gave them, once."""
    stored: set[int] = set()
    left = list(faults)

    def node(sent: bytes) -> Outcome:
        fault = left.pop() if left else 0
        if fault == 1:
            return AWAY
        for index, key in enumerate(keys(sent)):
            if key in refused:
                where = f"jobs[{index}]: " if b'"jobs":' in sent else ""
                return Reply(400, json.dumps({"error": f"{where}bad"}).encode(), {})
        if fault == 2:
            return Reply(503, b'{"error": "overloaded"}', {"retry-after": "1"})
        stored.update(keys(sent))
        return LOST if fault == 3 else answer(sent)

    delivery = Delivery(bodies(count))
    drive(delivery, node)
    for number, outcome in enumerate(delivery.outcomes):
        if number in refused:
            assert isinstance(outcome, BadRequest)
            assert str(outcome) == "submit: bad (400)"
        else:
            assert outcome == str(number)
    assert stored == set(range(count)) - refused


def test_one_refused_costs_few_requests_and_many_one_each():
    def refusing(refused: set[int]) -> int:
        def node(sent: bytes) -> Outcome:
            for index, key in enumerate(keys(sent)):
                if key in refused:
                    where = f"jobs[{index}]: " if b'"jobs":' in sent else ""
                    return Reply(422, json.dumps({"error": f"{where}other"}).encode(), {})
            return answer(sent)

        return len(drive(Delivery(bodies(1000)), node))

    assert refusing({500}) == 3
    assert refusing(set(range(1000))) == 1000


def test_a_batch_that_was_stored_in_part_is_not_sent_again_whole():
    asked: list[list[int]] = []

    def node(sent: bytes) -> Outcome:
        asked.append(keys(sent))
        if len(asked) > 1:
            return answer(sent)
        results = [
            {"status": 503, "error": "lost"}
            if key % 3 == 0
            else {"status": 201, "job_id": str(key)}
            for key in keys(sent)
        ]
        return Reply(503, json.dumps({"error": "part", "results": results}).encode(), {})

    delivery = Delivery(bodies(6))
    drive(delivery, node)
    assert delivery.outcomes == ["0", "1", "2", "3", "4", "5"]
    assert asked == [[0, 1, 2, 3, 4, 5], [0, 3]]


def test_requests_are_bounded_in_jobs_and_in_bytes():
    sizes = drive(Delivery(bodies(BATCH_JOBS_MAX * 2 + 1)), answer)
    assert sizes == [BATCH_JOBS_MAX, BATCH_JOBS_MAX, 1]
    large = bodies(10, 3 << 20)
    assert drive(Delivery(large), answer) == [BATCH_BYTES_MAX // len(large[0])] * 5


def test_the_end_of_the_patience_tells_what_is_known_of_each():
    delivery = Delivery(bodies(2))
    assert delivery.next_call() is not None
    delivery.note(LOST)
    assert delivery.pause_seconds("u", 3600, 0) is not None
    assert delivery.next_call() is not None
    delivery.note(FULL)
    assert delivery.pause_seconds("u", 0, 0) is None
    assert [type(outcome) for outcome in delivery.outcomes] == [OutcomeUnknown] * 2
    for trouble, kind in ((FULL, QueueFull), (AWAY, Unreachable)):
        delivery = Delivery(bodies(1))
        delivery.next_call()
        delivery.note(trouble)
        assert delivery.pause_seconds("u", 0, 0) is None
        assert type(delivery.outcomes[0]) is kind


def test_the_nodes_advice_is_kept():
    delivery = Delivery(bodies(1))
    delivery.next_call()
    delivery.note(Reply(503, b'{"error": "overloaded"}', {"retry-after": "7"}))
    assert delivery.pause_seconds("u", 3600, 0) == 7


def test_jobs_that_go_together_are_refused_together():
    def node(sent: bytes) -> Outcome:
        if 1001 in keys(sent):
            return Reply(400, b'{"error": "jobs[1]: bad"}', {})
        return answer(sent)

    delivery = Delivery(bodies(2500), apart=False)
    assert drive(delivery, node) == [1000, 1000]
    assert delivery.outcomes[:1000] == [str(number) for number in range(1000)]
    assert {str(outcome) for outcome in delivery.outcomes[1000:]} == {
        "submit: jobs[1001]: bad (400)"
    }
