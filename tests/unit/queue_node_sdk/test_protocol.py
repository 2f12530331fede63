import json
from datetime import UTC, datetime, timedelta

import pytest

from queue_node_sdk import errors
from queue_node_sdk.answers import job_of, lease_of, lease_seconds, submitted_id
from queue_node_sdk.calls import LEASE_CALL, ack_call, status_call, submit_call
from queue_node_sdk.models import JobState, LeasedJob
from queue_node_sdk.options import submit_body
from queue_node_sdk.protocol import (
    AnswerLost,
    NotSent,
    Reply,
    accepted,
    error_from,
    may_have_run,
    may_repeat,
    retry_after_seconds,
)
from queue_node_sdk.settings import check_key, check_url

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
LEASED = LeasedJob(job_id="j", payload="p", lease_until=NOON, attempt=1, lease_token="7")
TOKENLESS = LeasedJob(job_id="j", payload="p", lease_until=NOON, attempt=1)
SUBMIT = submit_call(submit_body("x", {}, "key"))
STATUS = status_call("j")
ACK = ack_call(LEASED, result="r")


def reply(status: int, words: str = "made up", **headers: str) -> Reply:
    return Reply(status, json.dumps({"error": words}).encode(), headers)


def test_an_ack_says_what_happened_and_under_which_lease():
    assert json.loads(ack_call(LEASED, result="r").body) == {"result": "r", "lease_token": "7"}
    assert json.loads(ack_call(LEASED).body) == {"lease_token": "7"}
    assert json.loads(ack_call(TOKENLESS, result_error="e").body) == {"result_error": "e"}


@pytest.mark.parametrize("job_id", ["a/../b", "a?b", "a#b", "ä ö", "a%2fb", "..x"])
def test_a_job_id_stays_one_segment_of_the_path(job_id: str):
    path = status_call(job_id).path
    assert path.startswith("/jobs/")
    assert not set(path.removeprefix("/jobs/")) & set("/?# ")


@pytest.mark.parametrize("job_id", ["", ".", "..", "\ud800"])
def test_what_is_no_job_id_is_refused_at_once(job_id: str):
    with pytest.raises(errors.BadRequest):
        status_call(job_id)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8080", "ftp://x", "http://", "http://x:0", "http://x:99999", "http://u:p@x",
     "http://x/?a=b", "http://x/#f", "http://[::1", "//x"],
)  # fmt: skip
def test_what_is_no_url_of_a_node_is_refused(url: str):
    with pytest.raises(errors.ConfigurationError):
        check_url(url)


def test_a_url_may_end_in_a_slash_and_have_a_path():
    assert check_url("http://127.0.0.1:8080/") == "http://127.0.0.1:8080"
    assert check_url("https://proxy/queue/") == "https://proxy/queue"


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "ключ", "a\x00"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_and_not_shown(key: str):
    with pytest.raises(errors.ConfigurationError) as caught:
        check_key(key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    ("trouble", "submit", "status", "ack"),
    [
        (NotSent("refused"), True, True, True),
        (AnswerLost("reset"), True, True, True),
        (reply(429), True, True, True),
        (reply(503, **{"retry-after": "1"}), True, True, True),
        (reply(503), True, True, True),
        (reply(500), True, True, True),
        (reply(502), True, True, True),
        (reply(507), False, True, True),
        (reply(400), False, False, False),
        (reply(401), False, False, False),
        (reply(404), False, False, False),
        (reply(409), False, False, False),
    ],
)
def test_only_what_cannot_harm_is_sent_again(trouble, submit, status, ack):
    assert may_repeat(SUBMIT, trouble) is submit
    assert may_repeat(STATUS, trouble) is status
    assert may_repeat(ACK, trouble) is ack


def test_an_ack_without_a_token_is_not_sent_twice():
    assert not may_repeat(ack_call(TOKENLESS, result="r"), AnswerLost("reset"))


def test_what_may_have_run_is_told_from_what_cannot_have():
    for trouble in (AnswerLost("reset"), reply(500), reply(502), reply(503)):
        assert may_have_run(trouble)
    for refusal in (NotSent("no"), reply(429), reply(507), reply(503, **{"retry-after": "1"})):
        assert not may_have_run(refusal)


@pytest.mark.parametrize(
    "last", [NotSent("refused"), reply(429), reply(507), reply(503, **{"retry-after": "1"})]
)
def test_a_last_try_that_stored_nothing_says_nothing_of_an_earlier_one(last):
    assert not isinstance(error_from(SUBMIT, last), errors.OutcomeUnknown)
    error = error_from(SUBMIT, last, may_have_run_before=True)
    assert type(error) is errors.OutcomeUnknown
    # A read has no outcome that somebody could miss.
    read = error_from(STATUS, last, may_have_run_before=True)
    assert not isinstance(read, errors.OutcomeUnknown)


def test_a_refusal_after_a_lost_answer_is_still_a_refusal():
    error = error_from(SUBMIT, reply(422), may_have_run_before=True)
    assert type(error) is errors.IdempotencyConflict


def test_the_409s_are_told_apart():
    cancelled = error_from(ACK, reply(409, "cancelled"))
    assert type(cancelled) is errors.JobCancelled
    assert isinstance(cancelled, errors.LeaseLost)
    assert type(error_from(ACK, reply(409, "lease lost"))) is errors.LeaseLost
    words = "job j cannot do this: its state is RUNNING"
    assert type(error_from(STATUS, reply(409, words))) is errors.WrongState


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (NotSent("refused"), errors.Unreachable),
        (reply(400), errors.BadRequest),
        (reply(401), errors.AuthError),
        (reply(403), errors.PermissionDenied),
        (reply(404), errors.NotFound),
        (reply(405), errors.BadRequest),
        (reply(409), errors.LeaseLost),
        (reply(413), errors.TooLarge),
        (reply(418), errors.BadRequest),
        (reply(422), errors.IdempotencyConflict),
        (reply(429), errors.QueueFull),
        (reply(500), errors.ServerError),
        (reply(503), errors.Overloaded),
        (reply(507), errors.StorageFull),
        (Reply(502, b"<html>", {}), errors.ServerError),
        (Reply(404, b"<html>", {}), errors.UnexpectedAnswer),
        (Reply(302, b"", {}), errors.UnexpectedAnswer),
        (Reply(400, b"\xff\xfe", {}), errors.UnexpectedAnswer),
    ],
)
def test_each_trouble_has_its_error(trouble, kind):
    error = error_from(STATUS, trouble)
    assert type(error) is kind
    assert error.status == (trouble.status if isinstance(trouble, Reply) else None)
    assert "read job j" in str(error)


def test_a_lost_answer_is_unknown_only_where_it_matters():
    assert type(error_from(SUBMIT, AnswerLost("reset"))) is errors.OutcomeUnknown
    assert type(error_from(STATUS, AnswerLost("reset"))) is errors.Unreachable


def test_overloaded_promises_of_a_submit_that_it_was_not_stored():
    # A partition that died over a submit is a 503 too, but without advice to repeat it.
    assert type(error_from(SUBMIT, reply(503, **{"retry-after": "1"}))) is errors.Overloaded
    assert type(error_from(SUBMIT, reply(503))) is errors.ServerError
    assert type(error_from(STATUS, reply(503))) is errors.Overloaded


def test_a_timeout_is_also_pythons_and_a_wrong_setting_a_value_error():
    assert issubclass(errors.Timeout, TimeoutError)
    assert issubclass(errors.ConfigurationError, ValueError)
    assert str(errors.Timeout("late")) == "late"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1", 1), ("30", 30), ("", None), ("-1", None), ("1.5", None), ("9" * 400, None), ("²", None)],
)
def test_retry_after_is_read_in_seconds_or_not_at_all(text: str, seconds: float | None):
    assert retry_after_seconds(reply(503, **{"retry-after": text})) == seconds


def test_an_empty_queue_is_an_answer_and_another_404_is_not():
    assert accepted(LEASE_CALL, reply(404, "no jobs available")) is not None
    assert lease_of(reply(404, "no jobs available")) is None
    assert accepted(LEASE_CALL, reply(404, "not found")) is None
    assert accepted(LEASE_CALL, Reply(404, b"<html>", {})) is None
    assert accepted(STATUS, reply(404, "no jobs available")) is None


def test_a_job_is_typed_and_fields_of_newer_nodes_are_ignored():
    body = {
        "job_id": "j",
        "state": "RUNNING",
        "attempts": 1,
        "max_retries": 3,
        "created_at": "2025-12-26T10:30:00Z",
        "lease_until": "2025-12-26T10:30:30.123456789Z",
        "of_a_newer_node": {"a": [1]},
    }
    job = job_of(Reply(200, json.dumps(body).encode(), {}))
    assert job.state is JobState.RUNNING
    assert job.created_at == datetime(2025, 12, 26, 10, 30, tzinfo=UTC)
    assert job.lease_until is not None
    assert job.lease_until - job.created_at > timedelta(seconds=30)
    assert not job.finished
    assert job.result is None


@pytest.mark.parametrize(
    "body",
    [b"", b"OK", b"[]", b"{}", b'{"job_id": 1}', b"\xff", b'{"job_id": "j", "state": "NEW"}'],
)
def test_an_answer_that_is_not_the_contracts_is_an_error_of_ours(body: bytes):
    with pytest.raises(errors.UnexpectedAnswer):
        job_of(Reply(200, body, {}))
    with pytest.raises(errors.UnexpectedAnswer):
        lease_of(Reply(200, body, {}))
    if b"job_id" not in body or b"1" in body:
        with pytest.raises(errors.UnexpectedAnswer):
            submitted_id(Reply(201, body, {}))


def test_a_lease_is_measured_on_the_nodes_clock():
    # The worker's own clock is an hour late, which does not matter.
    here = NOON - timedelta(hours=1)
    dated = Reply(200, b"", {"date": "Fri, 02 Jan 2026 11:59:30 GMT"})
    assert lease_seconds(LEASED, dated, here) == 30
    assert lease_seconds(LEASED, Reply(200, b"", {"date": "yesterday"}), here) == 3600
    assert lease_seconds(LEASED, Reply(200, b"", {}), here) == 3600
