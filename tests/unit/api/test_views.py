import json
from typing import Any

import msgspec
import pytest

from api import problems, views
from api.lease_schemas import LEASE_TOKEN_MAX, Ack, Extend, decode_ack, decode_extend
from api.problems import Problem
from api.query_schemas import STATES
from partitions.messages import JobView, Leased, QueueView
from partitions.options import Options, encode_options
from partitions.retry import Backoff
from partitions.slots import make_job_id

JOB_ID = make_job_id(1_700_000_000_000, 5, 9)
JOB_TEXT = "018bcfe5-6800-7005-8000-000000000009"
OTHER_ID = make_job_id(1_700_000_000_001, 5, 9)
OTHER_TEXT = "018bcfe5-6801-7005-8000-000000000009"
OPTIONS = encode_options(
    Options("mail", -7, 1_000, 2_000, Backoff(), (("a", "1"), ("b", "ü"))),
)


def shown(struct: object) -> Any:
    return json.loads(views.encode(struct))


def test_a_plain_lease_has_what_the_contract_says_and_no_more():
    assert shown(views.leased(Leased(JOB_ID, b"x", 1_500, 2, 7, 3, 0))) == {
        "job_id": JOB_TEXT,
        "payload": "x",
        "lease_until": "1970-01-01T00:00:01.500Z",
        "attempt": 2,
        "lease_token": "7",
        "max_retries": 3,
        "created_at": "1970-01-01T00:00:00Z",
        "queue": "default",
        "tags": {},
    }


def test_a_lease_shows_what_its_job_is():
    lease = Leased(JOB_ID, "ü".encode(), 0, 1, 7, 3, 0, OPTIONS, "g")
    answer = shown(views.leased_many([lease, lease]))
    assert set(answer) == {"jobs"}
    for job in answer["jobs"]:
        assert job["payload"] == "ü"
        assert job["queue"] == "mail"
        assert job["tags"] == {"a": "1", "b": "ü"}
        assert job["group"] == "g"
        assert job["priority"] == -7


def test_a_lease_token_is_a_string_of_digits_that_an_ack_takes():
    answer = shown(views.leased(Leased(JOB_ID, b"x", 0, 1, LEASE_TOKEN_MAX, 3, 0)))
    assert answer["lease_token"] == str(LEASE_TOKEN_MAX)
    body = json.dumps({"lease_token": answer["lease_token"]}).encode()
    assert decode_ack(body, text_bytes_max=9) == Ack(LEASE_TOKEN_MAX)


def test_of_a_plain_job_what_is_not_there_is_left_out_and_counts_of_zero_are_not():
    view = JobView(JOB_ID, "READY", 0, 0, 0, None, None, None, "me")
    assert shown(views.status(view)) == {
        "job_id": JOB_TEXT,
        "state": "READY",
        "attempts": 0,
        "max_retries": 0,
        "created_at": "1970-01-01T00:00:00Z",
        "queue": "default",
    }


def test_all_that_may_be_known_of_a_job():
    view = JobView(
        JOB_ID,
        "RUNNING",
        2,
        3,
        0,
        1_500,
        b"",
        b"boom",
        "me",
        OPTIONS,
        5,
        run_at_ms=1_000,
        finished_at_ms=2_000,
        expires_at_ms=3_000,
        group="g",
        crashes=1,
        progress=b'"half"',
        worker="w",
    )
    assert shown(views.status(view)) == {
        "job_id": JOB_TEXT,
        "state": "RUNNING",
        "attempts": 2,
        "max_retries": 3,
        "created_at": "1970-01-01T00:00:00Z",
        "queue": "mail",
        "lease_until": "1970-01-01T00:00:01.500Z",
        "result": "",
        "result_error": "boom",
        "priority": -7,
        "tags": {"a": "1", "b": "ü"},
        "group": "g",
        "run_at": "1970-01-01T00:00:01Z",
        "expires_at": "1970-01-01T00:00:03Z",
        "finished_at": "1970-01-01T00:00:02Z",
        "progress": "half",
        "crashes": 1,
        "worker": "w",
    }


@pytest.mark.parametrize("progress", [0, 99.5, "", "half\n"])
def test_progress_is_shown_as_the_heartbeat_had_it(progress: object):
    body = json.dumps({"lease_token": "7", "progress": progress}).encode()
    extend = decode_extend(body)
    assert isinstance(extend, Extend)
    view = JobView(JOB_ID, "RUNNING", 1, 3, 0, 1, None, None, "me", progress=extend.progress)
    assert shown(views.status(view))["progress"] == progress


def test_the_owner_of_a_job_is_not_shown():
    view = JobView(JOB_ID, "ACKED", 1, 3, 1, None, b"r", None, "somebody")
    assert b"somebody" not in views.encode(views.status(view))


def test_a_page_says_null_where_it_ends():
    view = JobView(JOB_ID, "READY", 0, 0, 0, None, None, None, "me")
    page = shown(views.page([view], "c"))
    assert [job["job_id"] for job in page["jobs"]] == [JOB_TEXT]
    assert page["next_cursor"] == "c"
    assert shown(views.page([], None)) == {"jobs": [], "next_cursor": None}


def test_what_submits_answer():
    made = msgspec.json.decode(views.created(JOB_ID), type=views.JobCreated)
    assert made == views.JobCreated(JOB_TEXT)
    assert shown(views.created_many([OTHER_ID, JOB_ID])) == {"job_ids": [OTHER_TEXT, JOB_TEXT]}
    assert shown(views.partly_stored([JOB_ID, problems.PARTITION_DOWN])) == {
        "error": problems.PARTLY_STORED.error,
        "results": [
            {"status": 201, "job_id": JOB_TEXT},
            {"status": 503, "error": problems.PARTITION_DOWN.error},
        ],
    }


def test_what_many_acks_and_heartbeats_answer_in_order():
    assert shown(views.results([None, problems.LEASE_LOST, None])) == {
        "results": [{"status": 200}, {"status": 409, "error": "lease lost"}, {"status": 200}]
    }
    assert shown(views.extend_results([1_000, problems.CANCELLED])) == {
        "results": [
            {"status": 200, "lease_until": "1970-01-01T00:00:01Z"},
            {"status": 409, "error": "cancelled"},
        ]
    }
    assert shown(views.extended(1_000)) == {"lease_until": "1970-01-01T00:00:01Z"}
    assert shown(views.count(7)) == {"count": 7}


def queue(**fields: Any) -> QueueView:
    empty: dict[str, Any] = {
        "paused": False,
        "counts": {},
        "oldest_ready_ms": None,
        "groups": 0,
        "rates": {},
    }
    return QueueView("mail", **{**empty, **fields})


def test_a_queue_is_the_sum_of_its_partitions():
    one = queue(
        counts={"READY": 2, "DEAD": 1, "ACKED": 9},
        oldest_ready_ms=8_500,
        groups=1,
        rates={"submitted": (1.0, 0.5, 0.25), "acked": (0.1, 0.0, 0.0)},
    )
    other = queue(
        paused=True,
        counts={"READY": 1, "RUNNING": 4, "DEAD": 2, "CANCELLED": 3, "RETRY": 1, "SCHEDULED": 1},
        oldest_ready_ms=7_000,
        groups=2,
        rates={"submitted": (2.0, 1.0, 1.0), "acked": (0.2, 0.0, 0.0)},
    )
    still = {"1m": 0.0, "5m": 0.0, "15m": 0.0}
    assert shown(views.queue_view("mail", [(0, one), (2, other)], 10_000, [])) == {
        "queue": "mail",
        "counts": {
            "SCHEDULED": 1,
            "READY": 3,
            "RUNNING": 4,
            "RETRY": 1,
            "ACKED": 9,
            "DEAD": 3,
            "CANCELLED": 3,
        },
        "oldest_ready_age": 3.0,
        "rates": {
            "submitted": {"1m": 3.0, "5m": 1.5, "15m": 1.25},
            "leased": still,
            "acked": {"1m": 0.3, "5m": 0.0, "15m": 0.0},
            "failed": still,
        },
        "paused": True,
        "dead_letters": 3,
        "partitions": {"0": 2, "2": 7},
        "groups": 3,
    }


def test_a_queue_without_ready_jobs_has_no_oldest_one():
    answer = shown(views.queue_view("mail", [(0, queue())], 10_000, []))
    assert answer["oldest_ready_age"] is None
    assert answer["counts"] == dict.fromkeys(STATES, 0)


def test_a_clock_that_is_behind_a_partitions_makes_no_job_younger_than_now():
    body = views.queue_view("mail", [(0, queue(oldest_ready_ms=10_001))], 10_000, [])
    assert body.oldest_ready_age == 0


def test_queues_come_by_name():
    bodies = [views.queue_view(name, [(0, queue())], 0, []) for name in ("b", "a")]
    answer = shown(views.queues(bodies, []))
    assert [body["queue"] for body in answer["queues"]] == ["a", "b"]
    assert "unavailable" not in answer


def test_partitions_that_did_not_answer_are_named():
    body = views.queue_view("mail", [(0, queue())], 0, [1])
    assert shown(body)["unavailable"] == [1]
    assert shown(views.queues([body], [1]))["unavailable"] == [1]


@pytest.mark.parametrize(
    ("problem", "status", "words", "retry_after"),
    [
        (problems.IDEMPOTENCY_CONFLICT, 422, "idempotency_key", None),
        (problems.at("jobs", 3, problems.IDEMPOTENCY_CONFLICT), 422, "jobs[3]: ", None),
        (problems.CANCELLED, 409, "cancelled", None),
        (problems.wrong_state(JOB_TEXT, "ACKED"), 409, "ACKED", None),
        (problems.not_finished(JOB_TEXT, "READY"), 409, "READY: cancel it first", None),
        (problems.TOO_MANY_JOBS, 429, "jobs", "5"),
        (problems.TOO_MANY_QUEUES, 429, "queues", "5"),
        (problems.TOO_MANY_WAITING, 503, "wait", "1"),
        (problems.at("jobs", 0, problems.TOO_MANY_JOBS), 429, "jobs[0]: ", "5"),
        (problems.PARTLY_STORED, 503, "results", None),
    ],
)
def test_problems_of_part_2(problem: Problem, status: int, words: str, retry_after: str | None):
    answer = problems.to_answer(problem)
    assert answer.status == status
    assert words in json.loads(answer.body)["error"]
    assert dict(answer.headers).get("Retry-After") == retry_after


def test_an_answer_repeats_no_more_of_a_job_id_than_a_real_one_could_be():
    for made in (problems.job_not_found("x" * 10_000), problems.ack_unknown("x" * 10_000)):
        assert len(made.error) < 200
    assert problems.job_not_found(JOB_TEXT).error == f"job not found: {JOB_TEXT}"


def test_partitions_that_did_not_answer_are_named_and_else_nothing_is_said_of_them() -> None:
    assert "unavailable" not in shown(views.queue_view("mail", [(0, queue())], 0, []))
    assert shown(views.queue_view("mail", [(0, queue())], 0, [1, 3]))["unavailable"] == [1, 3]
    assert shown(views.queues([], [2])) == {"queues": [], "unavailable": [2]}


def test_a_partition_that_does_not_serve_is_not_said_to_come_back():
    # It may be starting, or stay down because its log is corrupt: a front cannot know.
    problem = problems.PARTITION_DOWN
    assert (problem.status, problem.headers) == (503, (("Retry-After", "1"),))
    assert "it is restarting" not in problem.error
    assert "the node's log" in problem.error
