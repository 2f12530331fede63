import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import problems, views
from api.bodies import SubmitBody
from api.problems import Problem
from api.submit_schemas import Submit, SubmitLimits, decode_batch, decode_submit
from partitions.limits import ATTEMPTS_MAX, OPTIONS_BYTES_MAX
from partitions.messages import Leased
from partitions.options import Options, decode_options
from partitions.retry import Backoff
from partitions.slots import make_job_id
from tests.support.awkward import AWKWARD_TEXTS, BROKEN_JSON, MIB, words

JOB_ID = make_job_id(1_700_000_000_000, 5, 9)
LIMITS = SubmitLimits(payload_bytes_max=MIB, default_max_retries=3)
NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000

# Any string that UTF-8 can carry: all but lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]))


def now() -> int:
    return NOW_MS


def submit(body: bytes, key: str | None = None, limits: SubmitLimits = LIMITS) -> Submit | Problem:
    return decode_submit(body, limits, now, key)


def plain(payload: bytes, max_retries: int) -> Submit:
    return Submit(payload, max_retries, "default", b"")


def job(**fields: Any) -> Submit:
    """A job that is fine, with these fields."""
    checked = submit(json.dumps({"payload": "x", **fields}).encode())
    assert isinstance(checked, Submit), checked
    return checked


# As many bytes as characters allow: where characters are counted, bytes never are too many.
FULLEST_TAGS = tuple((f"{n:02}{chr(0x1F600) * 62}", chr(0x1F600) * 256) for n in range(16))


def wrong(**fields: Any) -> str:
    """What is wrong with a job with these fields."""
    return words(submit(json.dumps({"payload": "x", **fields}).encode()))


def leased(payload: bytes) -> bytes:
    return views.encode(views.leased(Leased(JOB_ID, payload, 1, 1, 1, 3, 1)))


# Any text comes back equal --------------------------------------------------------------------


@given(texts.filter(bool), st.booleans())
def test_a_payload_comes_back_equal(payload: str, ascii_only: bool) -> None:
    body = json.dumps({"payload": payload}, ensure_ascii=ascii_only).encode()
    stored = submit(body)
    assert isinstance(stored, Submit)
    assert json.loads(leased(stored.payload))["payload"] == payload


@pytest.mark.parametrize("text", AWKWARD_TEXTS, ids=lambda text: ascii(text[:6]))
def test_awkward_texts_come_back_equal(text: str) -> None:
    for ascii_only in (True, False):
        stored = submit(json.dumps({"payload": text}, ensure_ascii=ascii_only).encode())
        assert isinstance(stored, Submit)
        assert json.loads(leased(stored.payload))["payload"] == text


# What a submit may say ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"payload":"x"}', plain(b"x", 3)),
        (b'{"payload":"x","max_retries":null}', plain(b"x", 3)),
        (b'{"payload":"x","max_retries":0}', plain(b"x", 0)),
        (b'{"payload":"x","max_retries":1}', plain(b"x", 1)),
        (b' \t\r\n{ "max_retries" : 7 , "payload" : "x" } \n', plain(b"x", 7)),
        (b'{"payload":"a","payload":"b"}', plain(b"b", 3)),
        (b'{"p\\u0061yload":"x"}', plain(b"x", 3)),
        (f'{{"payload":"x","max_retries":{ATTEMPTS_MAX}}}'.encode(), plain(b"x", ATTEMPTS_MAX)),
    ],
)
def test_a_submit_within_the_contract(body: bytes, expected: Submit) -> None:
    assert submit(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"payload":""}',
        b'{"payload":null}',
        b'{"max_retries":1}',
        b'{"payload":"x","payload":""}',
    ],
)
def test_a_payload_is_required(body: bytes) -> None:
    assert submit(body) == problems.PAYLOAD_REQUIRED


WRONG_SUBMITS = [
    b'{"payload":1}',
    b'{"payload":["x"]}',
    b'{"payload":{"a":1}}',
    b'{"payload":true}',
    b'{"payload":NaN}',
    b'{"payload":"x","max_retries":true}',
    b'{"payload":"x","max_retries":"3"}',
    b'{"payload":"x","max_retries":3.5}',
    b'{"payload":"x","max_retries":-1}',
    b'{"payload":"x","max_retries":1e400}',
    b'{"payload":"x","max_retries":NaN}',
    b'{"payload":"x","max_retries":Infinity}',
    b'{"payload":"x","max_retries":1000000000}',
    b'{"payload":"x","max_retries":1000001}',
    b'{"payload":"x","max_retries":9223372036854775808}',
    b'{"payload":"x","max_retries":18446744073709551616}',
    b'{"payload":"x","max_retries":' + b"9" * 10_000 + b"}",
    b'{"payload":"x","max_retries":-9223372036854775809}',
    b'{"payload":"x","max_retries":[]}',
    b'{"payload":"x","max_retries":03}',
    b'{"payload":"x","state":"ACKED"}',
    b'{"payload":"x","attempts":0}',
    b'{"payload":"x","job_id":"1"}',
    b'{"payload":"x","Payload":"y"}',
    b'{"payload":"x","":1}',
]


@pytest.mark.parametrize("body", BROKEN_JSON + WRONG_SUBMITS, ids=lambda body: ascii(body[:50]))
def test_a_submit_outside_the_contract_is_400(body: bytes) -> None:
    problem = submit(body)
    assert isinstance(problem, Problem)
    assert problem.status == 400
    assert problem.error
    assert problems.to_answer(problem).body.decode().isprintable()


def test_an_unknown_field_is_named() -> None:
    assert "state" in words(submit(b'{"state":"ACKED"}'))


def test_the_words_about_a_surrogate_do_not_take_a_backslash_for_one() -> None:
    assert words(submit(rb'{"payload":"\\ud800')) == "invalid JSON: Input data was truncated"
    assert words(submit(rb'{"payload":"\ud83d\ude00\\\udfff"}')).startswith(
        r"invalid JSON: \udfff is half of a surrogate pair"
    )


@pytest.mark.parametrize(
    ("field", "span"),
    [("delay", "0 to 87600h"), ("ttl", "more than 0, at most 87600h"),
     ("lease_duration", "more than 0, at most 168h")],
)  # fmt: skip
def test_the_words_about_a_duration_have_the_fields_own_limit(field: str, span: str) -> None:
    refused = words(submit(b'{"payload":"x","%b":"soon"}' % field.encode()))
    assert refused == f"{field} must be a duration like 1m30s or a number of seconds, {span}"


def test_negative_max_retries_has_the_contracts_words() -> None:
    assert submit(b'{"payload":"x","max_retries":-1}') == problems.MAX_RETRIES_NEGATIVE


@pytest.mark.parametrize("character", ["x", "ü", "\U0001f600", "\x00"])
def test_a_payload_of_the_limit_is_taken_and_a_byte_more_is_413(character: str) -> None:
    size = len(character.encode())
    exact = character * (MIB // size)
    assert isinstance(submit(json.dumps({"payload": exact}).encode()), Submit)
    problem = submit(json.dumps({"payload": exact + "x"}).encode())
    assert isinstance(problem, Problem)
    assert problem.status == 413
    assert "payload" in problem.error


# What a job may ask for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, Options()),
        ({"queue": "default", "priority": 0, "tags": {}, "backoff": {}}, Options()),
        ({"queue": "a.B_c:d-9"}, Options(queue="a.B_c:d-9")),
        ({"queue": "q" * 128}, Options(queue="q" * 128)),
        ({"priority": -100}, Options(priority=-100)),
        ({"priority": 100}, Options(priority=100)),
        ({"lease_duration": "1m30s"}, Options(lease_ms=90_000)),
        ({"lease_duration": "168h"}, Options(lease_ms=7 * DAY_MS)),
        ({"retention": 0}, Options(retention_ms=0)),
        ({"retention": "3650h"}, Options(retention_ms=3650 * 3_600_000)),
        ({"tags": {"b": "1", "a": ""}}, Options(tags=(("a", ""), ("b", "1")))),
        ({"tags": {"k" * 64: "v" * 256}}, Options(tags=(("k" * 64, "v" * 256),))),
        ({"tags": dict(FULLEST_TAGS)}, Options(tags=FULLEST_TAGS)),
        ({"backoff": {"initial": 2}}, Options(backoff=Backoff(2_000, 600_000))),
        ({"backoff": {"initial": "1h"}}, Options(backoff=Backoff(3_600_000, 3_600_000))),
        ({"backoff": {"max": "100ms"}}, Options(backoff=Backoff(100, 100))),
        ({"backoff": {"factor": 1}}, Options(backoff=Backoff(1_000, 600_000, 1.0))),
        (
            {"backoff": {"initial": "0s", "max": "0s", "factor": 1.5, "jitter": 0}},
            Options(backoff=Backoff(0, 0, 1.5, 0.0)),
        ),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_what_a_job_may_ask_for(fields: dict[str, Any], options: Options) -> None:
    stored = job(**fields)
    assert decode_options(stored.options) == options
    assert stored.queue == options.queue
    assert (stored.options == b"") == (options == Options())


def test_a_backoff_begins_with_what_the_node_is_set_to() -> None:
    limits = SubmitLimits(MIB, 3, backoff_initial_ms=50, backoff_max_ms=70)
    stored = submit(b'{"payload":"x","backoff":{"factor":3}}', limits=limits)
    assert isinstance(stored, Submit)
    assert decode_options(stored.options).backoff == Backoff(50, 70, 3.0)


@pytest.mark.parametrize(
    ("fields", "run_at_ms", "expires_at_ms"),
    [
        ({}, 0, 0),
        ({"delay": "1m"}, NOW_MS + 60_000, 0),
        ({"delay": 0}, 0, 0),
        ({"run_at": "2023-11-14T22:13:21Z"}, NOW_MS + 1_000, 0),
        ({"run_at": "2023-11-14T22:13:20Z"}, 0, 0),
        ({"run_at": "1969-01-01T00:00:00Z"}, 0, 0),
        ({"ttl": 0.5}, 0, NOW_MS + 500),
        ({"ttl": "10s", "delay": "20s"}, NOW_MS + 20_000, NOW_MS + 10_000),
    ],
)
def test_when_a_job_may_start(fields: dict[str, Any], run_at_ms: int, expires_at_ms: int) -> None:
    stored = job(**fields)
    assert (stored.run_at_ms, stored.expires_at_ms) == (run_at_ms, expires_at_ms)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"queue": ""}, "queue"),
        ({"queue": "a b"}, "queue"),
        ({"queue": "a\n"}, "queue"),
        ({"queue": "ä"}, "queue"),
        ({"queue": "q" * 129}, "queue"),
        ({"queue": 1}, "queue"),
        ({"priority": 101}, "priority"),
        ({"priority": -101}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"priority": "1"}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 10**30}, "priority"),
        ({"delay": -1}, "delay"),
        ({"delay": "soon"}, "delay"),
        ({"delay": True}, "delay"),
        ({"delay": []}, "delay"),
        ({"delay": 10**30}, "delay"),
        ({"delay": "87601h"}, "delay"),
        ({"delay": "1s", "run_at": "2025-12-26T10:30:00Z"}, "delay and run_at"),
        ({"run_at": "tomorrow"}, "run_at"),
        ({"run_at": 1_766_745_000}, "run_at"),
        ({"run_at": "2025-12-26T10:30:00"}, "run_at"),
        ({"lease_duration": 0}, "lease_duration"),
        ({"lease_duration": "168h1s"}, "lease_duration"),
        ({"lease_duration": "1"[:0]}, "lease_duration"),
        ({"backoff": 1}, "backoff"),
        ({"backoff": {"initial": "x"}}, "backoff.initial"),
        ({"backoff": {"max": -1}}, "backoff.max"),
        ({"backoff": {"initial": 2, "max": 1}}, "backoff.initial"),
        ({"backoff": {"factor": 0.99}}, "backoff.factor"),
        ({"backoff": {"jitter": 1.01}}, "backoff.jitter"),
        ({"backoff": {"jitter": -0.01}}, "backoff.jitter"),
        ({"backoff": {"jitter": "a"}}, "backoff.jitter"),
        ({"backoff": {"base": 1}}, "base"),
        ({"group": ""}, "group"),
        ({"group": "g" * 257}, "group"),
        ({"group": 1}, "group"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "k" * 257}, "idempotency_key"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": "-1s"}, "ttl"),
        ({"retention": "x"}, "retention"),
        ({"tags": []}, "tags"),
        ({"tags": {"a": 1}}, "tags"),
        ({"tags": {"a": None}}, "tags"),
        ({"tags": {"": "a"}}, "tags"),
        ({"tags": {"k" * 65: "a"}}, "tags"),
        ({"tags": {"a": "v" * 257}}, "tags"),
        ({"tags": {f"{n}": "" for n in range(17)}}, "tags"),
        ({"max_retries": -1, "queue": "a"}, "max_retries"),
        ({"max_retries": ATTEMPTS_MAX + 1, "queue": "a"}, "max_retries"),
        ({"unique": True}, "unique"),
        ({"Queue": "a"}, "Queue"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_job_that_asks_for_too_much_is_told_the_field(fields: dict[str, Any], named: str) -> None:
    assert named in wrong(**fields)


def test_null_is_as_good_as_absent() -> None:
    names = set(SubmitBody.__struct_fields__) - {"payload"}
    assert job(**dict.fromkeys(names)) == plain(b"x", 3)


def test_what_an_answer_repeats_of_a_request_is_short() -> None:
    assert len(wrong(**{"x" * 100_000: 1})) < 400


# Idempotency ----------------------------------------------------------------------------------


def test_a_job_without_a_key_has_no_digest() -> None:
    assert (job().idempotency_key, job(queue="a").digest) == ("", b"")


def test_header_and_field_are_the_same_key() -> None:
    by_field = submit(b'{"payload":"x","idempotency_key":"k"}')
    assert isinstance(by_field, Submit)
    assert by_field.idempotency_key == "k"
    assert len(by_field.digest) == 16
    assert submit(b'{"payload":"x"}', "k") == by_field
    assert submit(b'{"payload":"x","idempotency_key":"k"}', "k") == by_field
    assert "Idempotency-Key" in words(submit(b'{"payload":"x","idempotency_key":"k"}', "K"))


@pytest.mark.parametrize("key", ["", "k" * 257, "\xe4", "a\tb", "\ud800"])
def test_a_header_that_is_no_key(key: str) -> None:
    assert "Idempotency-Key" in words(submit(b'{"payload":"x"}', key))


SAME_BODIES = [
    b'{"payload":"\xc3\xa4","delay":"1s","tags":{"a":"1","b":"2"},"backoff":{"factor":2}}',
    b'{"backoff":{"factor":2.0,"max":null},"tags":{"b":"2","a":"1"},"delay":1,"payload":"\\u00e4"}',
    b' {"payload" : "\xc3\xa4", "delay" : "1000ms", "tags" : {"a":"1","b":"2"},'
    b'"backoff":{"factor":2e0},"queue":"default","priority":null,"max_retries":null} ',
]


def test_the_same_body_spelled_another_way_has_the_same_digest() -> None:
    digests = set()
    for body in SAME_BODIES:
        stored = submit(body, "k")
        assert isinstance(stored, Submit)
        digests.add(stored.digest)
    assert len(digests) == 1


def test_a_digest_depends_neither_on_the_key_nor_the_time_nor_the_settings() -> None:
    body = b'{"payload":"x","delay":"1s","ttl":"1m","backoff":{"factor":3}}'
    one = decode_submit(body, LIMITS, now, "k")
    other = decode_submit(body, SubmitLimits(99, 7, 5, 9), lambda: NOW_MS + 1, "other")
    assert isinstance(one, Submit)
    assert isinstance(other, Submit)
    assert one.digest == other.digest
    assert one.run_at_ms != other.run_at_ms


OTHER_BODIES: list[dict[str, Any]] = [
    {},
    {"payload": "y"},
    {"max_retries": 4},
    {"queue": "other"},
    {"priority": 1},
    {"delay": 1},
    {"delay": 2},
    {"run_at": "2025-12-26T10:30:00Z"},
    {"lease_duration": 1},
    {"ttl": 1},
    {"retention": 1},
    {"group": "g"},
    {"tags": {"a": "b"}},
    {"tags": {"a": "", "b": ""}},
    {"tags": {"ab": ""}},
    {"backoff": {"initial": 1}},
    {"backoff": {"max": 1}},
    {"backoff": {"jitter": 1}},
    {"backoff": {"factor": 1}},
]


def test_every_field_is_part_of_the_digest() -> None:
    digests = {job(idempotency_key="k", **fields).digest for fields in OTHER_BODIES}
    assert len(digests) == len(OTHER_BODIES)


@pytest.mark.parametrize("tags", [{}, {"a": "b"}])
def test_the_trace_of_a_submit_is_no_part_of_the_digest(tags: dict[str, str]) -> None:
    untraced = job(idempotency_key="k", tags=tags)
    traced = job(
        idempotency_key="k", tags={**tags, "traceparent": "00-1-2-01", "tracestate": "v=1"}
    )
    other = job(idempotency_key="k", tags={**tags, "traceparent": "00-3-4-01"})
    assert untraced.digest == traced.digest == other.digest
    assert len({untraced.options, traced.options, other.options}) == 3


# Many jobs ------------------------------------------------------------------------------------


def batch(*jobs: Any) -> list[Submit] | Problem:
    return decode_batch(json.dumps({"jobs": jobs}).encode(), LIMITS, now)


def test_a_batch_is_its_jobs_in_order() -> None:
    assert batch({"payload": "a"}, {"payload": "b", "max_retries": 0}) == [
        plain(b"a", 3),
        plain(b"b", 0),
    ]
    assert batch({"payload": "a"}, {"payload": "x", "queue": "q", "delay": 1}) == [
        plain(b"a", 3),
        job(queue="q", delay=1),
    ]


def test_ten_thousand_jobs_are_a_batch_and_one_more_is_not() -> None:
    for extra in ({}, {"queue": "q"}):
        jobs = [{"payload": "x", **extra}] * 10_000
        checked = batch(*jobs)
        assert isinstance(checked, list)
        assert len(checked) == 10_000
        assert "jobs" in words(batch(*jobs, {"payload": "x"}))


@pytest.mark.parametrize("others", [{}, {"priority": 1}], ids=["plain", "full"])
@pytest.mark.parametrize(
    ("bad", "status", "error"),
    [
        ({}, 400, "jobs[3]: payload is required"),
        ({"payload": ""}, 400, "jobs[3]: payload is required"),
        ({"payload": None}, 400, "jobs[3]: payload is required"),
        ({"payload": "x", "max_retries": -1}, 400, "jobs[3]: max_retries must be >= 0"),
        ({"payload": "x", "delay": "x"}, 400, "jobs[3]: delay must be"),
        ({"payload": "x", "tags": {"": ""}}, 400, "jobs[3]: a key of tags must not be empty"),
        ({"payload": "x", "zzz": 1}, 400, "jobs[3]: invalid JSON: Object contains unknown field"),
        ({"payload": 1}, 400, "jobs[3]: invalid JSON: Expected `str`, got `int` - at `$.payload`"),
        (7, 400, "jobs[3]: "),
        (None, 400, "jobs[3]: "),
        ({"payload": "x" * (MIB + 1)}, 413, "jobs[3]: payload too large"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_one_bad_job_refuses_the_batch_by_its_index(
    others: dict[str, Any], bad: object, status: int, error: str
) -> None:
    good = {"payload": "x", **others}
    assert words(batch(good, good, good, bad, good), status).startswith(error)


@pytest.mark.parametrize(
    "body",
    [*BROKEN_JSON, b'{"jobs":[]}', b'{"jobs":null}', b'{"jobs":{}}', b"{}", b'{"job":[]}'],
    ids=lambda body: ascii(body[:40]),
)
def test_a_batch_that_is_none(body: bytes) -> None:
    assert words(decode_batch(body, LIMITS, now))


def test_the_largest_tags_fit_the_pipe() -> None:
    tags = {f"{n:02}{chr(0x1F600) * 62}": chr(0x1F600) * 256 for n in range(16)}
    taken = job(tags=tags, queue="q" * 128)
    assert 16_000 < len(taken.options) <= OPTIONS_BYTES_MAX
