import json
from datetime import UTC, datetime
from typing import Any

import pytest

from queue_node_sdk import answers
from queue_node_sdk.errors import UnexpectedAnswer
from queue_node_sdk.protocol import Reply

LEASED = {
    "job_id": "j", "payload": "p", "lease_until": "2026-01-02T12:00:30Z", "attempt": 1,
    "lease_token": "7", "max_retries": 3, "created_at": "2026-01-02T12:00:00Z", "queue": "mail",
    "tags": {"a": "b"}, "group": "g", "priority": 4,
}  # fmt: skip


def reply(body: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(body).encode(), {})


def test_as_many_ids_as_jobs():
    assert answers.submitted_ids(reply({"job_ids": ["a", "b"]}, 201), 2) == ["a", "b"]
    with pytest.raises(UnexpectedAnswer, match="2 job ids for 3"):
        answers.submitted_ids(reply({"job_ids": ["a", "b"]}, 201), 3)


def test_leases_come_with_all_that_the_node_says():
    (job,) = answers.leases_of(reply({"jobs": [LEASED]}))
    assert (job.queue, job.tags, job.group, job.priority) == ("mail", {"a": "b"}, "g", 4)
    assert answers.leases_of(reply({"error": "no jobs available"}, 404)) == []


def test_each_of_many_has_its_result():
    acks = answers.results_of(reply({"results": [{"status": 200}, {"status": 409, "error": "e"}]}))
    assert [(ack.status, ack.error) for ack in acks] == [(200, ""), (409, "e")]
    extends = answers.extended_of(
        reply({"results": [{"status": 200, "lease_until": "2026-01-02T12:00:30Z"}]})
    )
    assert extends[0].lease_until == datetime(2026, 1, 2, 12, 0, 30, tzinfo=UTC)


def test_a_batch_that_was_stored_in_part_is_recognised():
    words = {"error": "part", "results": [{"status": 201, "job_id": "a"}, {"status": 503}]}
    results = answers.partly_stored(reply(words, 503), 2)
    assert results is not None
    assert [(each.status, each.job_id) for each in results] == [(201, "a"), (503, None)]
    assert answers.partly_stored(reply(words, 503), 3) is None
    assert answers.partly_stored(reply({"error": "overloaded"}, 503), 2) is None
    assert answers.partly_stored(reply(words, 201), 2) is None


def test_a_queue_and_a_page():
    rate = {"1m": 1.5, "5m": 1, "15m": 0}
    queue = {
        "queue": "q", "counts": {"READY": 2}, "oldest_ready_age": None, "paused": True,
        "rates": dict.fromkeys(("submitted", "leased", "acked", "failed"), rate),
        "dead_letters": 1, "partitions": {"0": 2}, "groups": 1,
    }  # fmt: skip
    info = answers.queue_of(reply(queue))
    assert (info.counts["READY"], info.rates.acked.m1, info.paused) == (2, 1.5, True)
    assert answers.queues_of(reply({"queues": [queue]})) == [info]
    assert answers.queues_of(reply({"queues": [queue]})).unavailable == []
    some = answers.queues_of(reply({"queues": [queue], "unavailable": [1, 3]}))
    assert (some, some.unavailable, len(some)) == ([info], [1, 3], 1)
    assert "unavailable=[1, 3]" in repr(some)
    assert answers.page_of(reply({"jobs": [], "next_cursor": "c"})).next_cursor == "c"
    assert answers.count_of(reply({"count": 3})) == 3


@pytest.mark.parametrize(
    "parse",
    [answers.leases_of, answers.results_of, answers.extended_of, answers.queue_of,
     answers.queues_of, answers.page_of, answers.count_of],
)  # fmt: skip
def test_what_is_not_the_contracts_is_an_error_of_ours(parse):
    for body in (b"", b"OK", b"[]", b"{}", b"\xff"):
        with pytest.raises(UnexpectedAnswer, match="URL"):
            parse(Reply(200, body, {}))
