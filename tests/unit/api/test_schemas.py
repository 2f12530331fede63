import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import problems, schemas, views
from api.bodies import SubmitBody
from api.problems import Problem
from api.schemas import (
    LEASE_TOKEN_MAX,
    STATES,
    Ack,
    Extend,
    LeaseRequest,
    ListRequest,
    Release,
    Submit,
    SubmitLimits,
)
from partitions.limits import ATTEMPTS_MAX, OPTIONS_BYTES_MAX, PROGRESS_BYTES_MAX
from partitions.messages import Filter, JobView, Leased
from partitions.options import Options, decode_options
from partitions.retry import Backoff
from partitions.slots import make_job_id

MIB = 1 << 20
JOB_ID = make_job_id(1_700_000_000_000, 5, 9)
LIMITS = SubmitLimits(payload_bytes_max=MIB, default_max_retries=3)
NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000

# Any string that UTF-8 can carry: all but lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]))


def now() -> int:
    return NOW_MS


def submit(body: bytes, key: str | None = None, limits: SubmitLimits = LIMITS) -> Submit | Problem:
    return schemas.decode_submit(body, limits, now, key)


def plain(payload: bytes, max_retries: int) -> Submit:
    return Submit(payload, max_retries, "default", b"")


def job(**fields: Any) -> Submit:
    """A job that is fine, with these fields."""
    checked = submit(json.dumps({"payload": "x", **fields}).encode())
    assert isinstance(checked, Submit), checked
    return checked


# As many bytes as characters allow: where characters are counted, bytes never are too many.
FULLEST_TAGS = tuple((f"{n:02}{chr(0x1F600) * 62}", chr(0x1F600) * 256) for n in range(16))
FULLEST = b"\\u0000" * 256


def words(problem: object, status: int = 400) -> str:
    assert isinstance(problem, Problem), problem
    assert problem.status == status
    return problem.error


def wrong(**fields: Any) -> str:
    """What is wrong with a job with these fields."""
    return words(submit(json.dumps({"payload": "x", **fields}).encode()))


def ack(body: bytes) -> Ack | Problem:
    return schemas.decode_ack(body, text_bytes_max=MIB)


def leased(payload: bytes) -> bytes:
    return views.encode(views.leased(Leased(JOB_ID, payload, 1, 1, 1, 3, 1)))


def shown(result: bytes | None, error: bytes | None) -> bytes:
    view = JobView(JOB_ID, "ACKED", 1, 3, 1, None, result, error, "me")
    return views.encode(views.status(view))


# Any text comes back equal -----------------------------------------------------------------


@given(texts.filter(bool), st.booleans())
def test_a_payload_comes_back_equal(payload: str, ascii_only: bool) -> None:
    body = json.dumps({"payload": payload}, ensure_ascii=ascii_only).encode()
    stored = submit(body)
    assert isinstance(stored, Submit)
    assert json.loads(leased(stored.payload))["payload"] == payload


@given(texts, st.booleans(), st.sampled_from(["result", "result_error"]))
def test_a_result_comes_back_equal(text: str, ascii_only: bool, field: str) -> None:
    body = json.dumps({field: text}, ensure_ascii=ascii_only).encode()
    told = ack(body)
    assert isinstance(told, Ack)
    result, error = told.result, told.error or None
    answer = json.loads(shown(result, error))
    assert answer.get(field, "") == text
    assert ("result_error" in answer) == (field == "result_error" and text != "")


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "a\x00b",
        "'",
        '"',
        "\\",
        "`$(x)`",
        "\u2028\u2029",
        "\x7f\x80\x9f",
        "\ufeff",
        "\uffff",
        "\U0010ffff",
        "e\u0301",
        "</script>",
        " ",
        "null",
        "\r\n",
        "ü" * (MIB // 2),
        "€" * (MIB // 3),
        "\U0001f600" * (MIB // 4),
        "\x00" * MIB,
    ],
    ids=lambda text: ascii(text[:6]),
)
def test_awkward_texts_come_back_equal(text: str) -> None:
    for ascii_only in (True, False):
        stored = submit(json.dumps({"payload": text}, ensure_ascii=ascii_only).encode())
        assert isinstance(stored, Submit)
        assert json.loads(leased(stored.payload))["payload"] == text
        told = ack(json.dumps({"result": text}, ensure_ascii=ascii_only).encode())
        assert isinstance(told, Ack)
        assert json.loads(shown(told.result, None))["result"] == text


# What a submit may say -----------------------------------------------------------------------


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


BROKEN_JSON = [
    b"",
    b" ",
    b"null",
    b"[]",
    b'"x"',
    b"3",
    b"{",
    b'{"payload":"x"',
    b'{"payload":"x"}x',
    b'{"payload":"x"}{}',
    b"{'payload':'x'}",
    b'{"payload":"x",}',
    b'{payload:"x"}',
    b'{"payload":x}',
    b'\xef\xbb\xbf{"payload":"x"}',  # a BOM
    b'{"payload":"\xff"}',
    b'{"payload":"\xc3"}',
    b'{"payload":"\xed\xa0\x80"}',  # a surrogate in UTF-8
    b'{"payload":"\xc0\x80"}',  # an overlong NUL
    b'{"payload":"\\ud800"}',
    b'{"payload":"\\udc00x"}',
    b'{"payload":"\\ud800\\u0041"}',
    b'{"payload":"\\x41"}',
    b'{"payload":"a\nb"}',  # a control character that is not escaped
    b'{"payload":"\x00"}',
    '{"payload":"x"}'.encode("utf-16"),
    b"[" * 5000 + b"]" * 5000,
    b"[" * 1_000_000,
    b'{"payload":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"unknown":' + b"[" * 5000 + b"]" * 5000 + b',"payload":"x"}',
    b'{"a":' * 100_000,
]

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
    for problem in (submit(b'{"state":"ACKED"}'), ack(b'{"state":"ACKED"}')):
        assert isinstance(problem, Problem)
        assert "state" in problem.error


def test_the_words_about_a_surrogate_do_not_take_a_backslash_for_one() -> None:
    assert words(submit(rb'{"payload":"\\ud800')) == "invalid JSON: Input data was truncated"
    assert words(submit(rb'{"payload":"\ud83d\ude00\\\udfff"}')).startswith(
        r"invalid JSON: \udfff is half of a surrogate pair"
    )


def test_a_number_a_hair_above_the_limit_is_above_it() -> None:
    week_s = 7 * 24 * 3600
    assert not isinstance(schemas.decode_lease(b'{"lease_duration": %d.0}' % week_s), Problem)
    above = schemas.decode_lease(b'{"lease_duration": %d.0000000001}' % week_s)
    assert isinstance(above, Problem)
    assert above.error == "lease_duration must be <= 168h"


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


@pytest.mark.parametrize("field", ["result", "result_error"])
def test_a_result_of_the_limit_is_taken_and_a_byte_more_is_413(field: str) -> None:
    assert isinstance(ack(json.dumps({field: "x" * MIB}).encode()), Ack)
    problem = ack(json.dumps({field: "x" * (MIB + 1)}).encode())
    assert isinstance(problem, Problem)
    assert problem.status == 413
    assert field in problem.error


# What an ack and a lease may say ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", Ack()),
        (b"{}", Ack()),
        (b'{"result":"r"}', Ack(None, b"r")),
        (b'{"result":"r","result_error":""}', Ack(None, b"r")),
        (b'{"result":"","result_error":"e"}', Ack(None, None, b"e")),
        (b'{"result":"","result_error":""}', Ack()),
        (b'{"result":null,"result_error":null,"lease_token":null}', Ack()),
        (b'{"lease_token":"0"}', Ack(0)),
        (b'{"lease_token":"007"}', Ack(7)),
        (f'{{"lease_token":"{LEASE_TOKEN_MAX}"}}'.encode(), Ack(LEASE_TOKEN_MAX)),
    ],
)
def test_an_ack_within_the_contract(body: bytes, expected: Ack) -> None:
    assert ack(body) == expected


WRONG_ACKS = [
    b'{"result":1}',
    b'{"result_error":false}',
    b'{"result":"a","result_error":"b"}',
    b'{"lease_token":1}',
    b'{"lease_token":""}',
    b'{"lease_token":"-1"}',
    b'{"lease_token":"+1"}',
    b'{"lease_token":" 1"}',
    b'{"lease_token":"1\\n"}',
    b'{"lease_token":"1.0"}',
    b'{"lease_token":"0x1"}',
    b'{"lease_token":"1_0"}',
    '{"lease_token":"\u0661"}'.encode(),
    b'{"lease_token":"9223372036854775808"}',
    b'{"lease_token":"' + b"9" * 100_000 + b'"}',
    b'{"state":"ACKED"}',
    b'{"error":"x"}',
]


@pytest.mark.parametrize(
    "body", [body for body in BROKEN_JSON if body] + WRONG_ACKS, ids=lambda body: ascii(body[:50])
)
def test_an_ack_outside_the_contract_is_400_and_never_an_empty_success(body: bytes) -> None:
    problem = ack(body)
    assert isinstance(problem, Problem)
    assert problem.status == 400


@pytest.mark.parametrize("body", [b"", b"{}", b" { } "])
def test_a_lease_that_says_nothing_is_any_job_of_the_default_queue(body: bytes) -> None:
    assert schemas.decode_lease(body) == LeaseRequest(("default",), None, 0, None, "")


@pytest.mark.parametrize(
    "body",
    [body for body in BROKEN_JSON if body] + [b'{"x":1}'],
    ids=lambda body: ascii(body[:50]),
)
def test_a_lease_outside_the_contract_is_400(body: bytes) -> None:
    problem = schemas.decode_lease(body)
    assert isinstance(problem, Problem)
    assert problem.status == 400


# Part 2: a submit -----------------------------------------------------------------------------


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
    one = schemas.decode_submit(body, LIMITS, now, "k")
    other = schemas.decode_submit(body, SubmitLimits(99, 7, 5, 9), lambda: NOW_MS + 1, "other")
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
    return schemas.decode_batch(json.dumps({"jobs": jobs}).encode(), LIMITS, now)


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
    assert words(schemas.decode_batch(body, LIMITS, now))


# Lease ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"queues":["a","b"]}', LeaseRequest(("a", "b"))),
        (b'{"max":1}', LeaseRequest(max=1)),
        (b'{"max":1000}', LeaseRequest(max=1000)),
        (b'{"wait":"1m"}', LeaseRequest(wait_ms=60_000)),
        (b'{"wait":0}', LeaseRequest()),
        (b'{"lease_duration":"500ms"}', LeaseRequest(duration_ms=500)),
        (b'{"worker":"host-7"}', LeaseRequest(worker="host-7")),
        (b'{"queues":null,"max":null,"wait":null,"lease_duration":null}', LeaseRequest()),
    ],
)
def test_what_a_lease_may_ask_for(body: bytes, expected: LeaseRequest) -> None:
    assert schemas.decode_lease(body) == expected


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"queues": []}, "queues"),
        ({"queues": "a"}, "queues"),
        ({"queues": ["a", "a"]}, "queues"),
        ({"queues": ["a", "b c"]}, "queues[1]"),
        ({"queues": ["a", None]}, "queues[1]"),
        ({"queues": [f"{n}" for n in range(101)]}, "queues"),
        ({"max": 0}, "max"),
        ({"max": 1001}, "max"),
        ({"max": True}, "max"),
        ({"max": "1"}, "max"),
        ({"wait": 60.001}, "wait"),
        ({"wait": -1}, "wait"),
        ({"lease_duration": 0}, "lease_duration"),
        ({"worker": "w" * 129}, "worker"),
        ({"queue": "a"}, "queue"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_lease_that_asks_for_too_much_is_told_the_field(
    fields: dict[str, Any], named: str
) -> None:
    assert named in words(schemas.decode_lease(json.dumps(fields).encode()))


# Ack, extend, release --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"result_error":"e","retry":false}', Ack(None, None, b"e", False)),
        (b'{"result_error":"e","retry":true}', Ack(None, None, b"e")),
        (b'{"result_error":"e","retry_in":"1m"}', Ack(None, None, b"e", True, 60_000)),
        (b'{"result_error":"e","retry":true,"retry_in":0}', Ack(None, None, b"e", True, 0)),
        (b'{"result":"r","retry":null,"retry_in":null}', Ack(None, b"r")),
    ],
)
def test_how_a_failure_goes_on(body: bytes, expected: Ack) -> None:
    assert ack(body) == expected


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"result":"r","retry":false}', "retry"),
        (b'{"retry":true}', "retry"),
        (b'{"result_error":"","retry_in":1}', "retry_in"),
        (b'{"result_error":"e","retry":false,"retry_in":1}', "retry_in"),
        (b'{"result_error":"e","retry_in":"x"}', "retry_in"),
        (b'{"result_error":"e","retry":1}', "retry"),
    ],
)
def test_an_ack_that_contradicts_itself(body: bytes, named: str) -> None:
    assert named in words(ack(body))


def acks(*items: object) -> list[tuple[str, Ack]] | Problem:
    return schemas.decode_acks(json.dumps({"acks": items}).encode(), text_bytes_max=MIB)


def test_many_acks_are_each_as_one_alone_in_order() -> None:
    assert acks(
        {"job_id": "a", "lease_token": "7", "result": "r"},
        {"job_id": "no uuid", "result_error": "e", "retry_in": 1},
        {"job_id": ""},
    ) == [
        ("a", Ack(7, b"r")),
        ("no uuid", Ack(None, None, b"e", True, 1_000)),
        ("", Ack()),
    ]


@pytest.mark.parametrize(
    ("bad", "status", "error"),
    [
        ({}, 400, "acks[2]: job_id is required"),
        ({"job_id": None}, 400, "acks[2]: job_id is required"),
        ({"job_id": 1}, 400, "acks[2]: "),
        ({"job_id": "a", "lease_token": "x"}, 400, "acks[2]: lease_token"),
        ({"job_id": "a", "lease_token": 7}, 400, "acks[2]: "),
        ({"job_id": "a", "retry": False}, 400, "acks[2]: retry"),
        ({"job_id": "a", "x": 1}, 400, "acks[2]: "),
        ({"job_id": "a", "result": "x" * (MIB + 1)}, 413, "acks[2]: result too large"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_one_malformed_ack_refuses_all_by_its_index(bad: object, status: int, error: str) -> None:
    assert words(acks({"job_id": "a"}, {"job_id": "a"}, bad, {"job_id": "a"}), status).startswith(
        error
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"lease_token":"7"}', Extend(7)),
        (b'{"lease_token":"7","lease_duration":1}', Extend(7, 1_000)),
        (b'{"lease_token":"7","progress":0}', Extend(7, None, b"0")),
        (b'{"lease_token":"7","progress":99.5}', Extend(7, None, b"99.5")),
        (b'{"lease_token":"7","progress":100}', Extend(7, None, b"100")),
        (b'{"lease_token":"7","progress":""}', Extend(7, None, b'""')),
        (b'{"lease_token":"7","progress":"half\\n"}', Extend(7, None, b'"half\\n"')),
        (b'{"lease_token":"7","progress":"%b"}' % FULLEST, Extend(7, None, b'"%b"' % FULLEST)),
        (b'{"lease_token":"7","progress":null}', Extend(7)),
    ],
)
def test_a_heartbeat(body: bytes, expected: Extend) -> None:
    assert schemas.decode_extend(body) == expected


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "lease_token is required"),
        ({"lease_token": None}, "lease_token is required"),
        ({"lease_token": 7}, "lease_token"),
        ({"lease_token": "x"}, "lease_token"),
        ({"lease_token": "7", "lease_duration": 0}, "lease_duration"),
        ({"lease_token": "7", "progress": 101}, "progress"),
        ({"lease_token": "7", "progress": -0.1}, "progress"),
        ({"lease_token": "7", "progress": True}, "progress"),
        ({"lease_token": "7", "progress": {}}, "progress"),
        ({"lease_token": "7", "progress": "p" * 257}, "progress"),
        ({"lease_token": "7", "delay": 1}, "delay"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_heartbeat_that_is_wrong_is_told_the_field(fields: dict[str, Any], named: str) -> None:
    assert named in words(schemas.decode_extend(json.dumps(fields).encode()))
    item = {"job_id": "a", "lease_token": "7"}
    many = schemas.decode_extends(
        json.dumps({"extends": [item, {"job_id": "b", **fields}]}).encode()
    )
    assert words(many).startswith("extends[1]: ")
    assert named in words(many)


def test_many_heartbeats_are_each_as_one_alone_in_order() -> None:
    body = b"""{"extends":[{"job_id":"a","lease_token":"7","progress":1},
    {"job_id":"b","lease_token":"8","lease_duration":"1s"}]}"""
    assert schemas.decode_extends(body) == [
        ("a", Extend(7, None, b"1")),
        ("b", Extend(8, 1_000)),
    ]


def test_a_release() -> None:
    assert schemas.decode_release(b'{"lease_token":"7"}') == Release(7)
    assert schemas.decode_release(b'{"lease_token":"7","delay":"1s"}') == Release(7, 1_000)
    for body in (b"{}", b'{"lease_token":""}'):
        assert "lease_token" in words(schemas.decode_release(body))
    assert "delay" in words(schemas.decode_release(b'{"lease_token":"7","delay":-1}'))


@pytest.mark.parametrize("body", BROKEN_JSON, ids=lambda body: ascii(body[:40]))
def test_broken_json_is_400_for_all(body: bytes) -> None:
    assert words(schemas.decode_acks(body, text_bytes_max=MIB))
    assert words(schemas.decode_extend(body))
    assert words(schemas.decode_extends(body))
    assert words(schemas.decode_release(body))


# Queries and paths ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], ListRequest(None, 100, Filter())),
        ([("limit", "1000"), ("cursor", "c")], ListRequest("c", 1000)),
        (
            [("queue", "q"), ("state", "DEAD"), ("group", "g ü")],
            ListRequest(filter=Filter("q", "DEAD", "g ü")),
        ),
        (
            [("tag", "a:b"), ("tag", "url:http://x"), ("tag", "c:")],
            ListRequest(filter=Filter(tags=(("a", "b"), ("url", "http://x"), ("c", "")))),
        ),
        ([("tag", ":a:b")], ListRequest(filter=Filter(tags=(("", "a:b"),)))),
        ([("tag", "k:" + "v" * 319)], ListRequest(filter=Filter(tags=(("k", "v" * 319),)))),
    ],
)
def test_a_list_may_be_narrowed(args: list[tuple[str, str]], expected: ListRequest) -> None:
    assert schemas.decode_list(args) == expected


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ([("limit", "0")], "limit"),
        ([("limit", "1001")], "limit"),
        ([("limit", "-1")], "limit"),
        ([("limit", "+1")], "limit"),
        ([("limit", "1.0")], "limit"),
        ([("limit", "")], "limit"),
        ([("limit", "\u0661")], "limit"),
        ([("limit", "9" * 10_000)], "limit"),
        ([("limit", "1"), ("limit", "1")], "limit"),
        ([("state", "ready")], "state"),
        ([("state", "")], "state"),
        ([("queue", "a b")], "queue"),
        ([("queue", "")], "queue"),
        ([("group", "")], "group"),
        ([("group", "\ud800")], "group"),
        ([("group", "g" * 257)], "group"),
        ([("tag", "a")], "tag"),
        ([("tag", ":b")], "tag"),
        ([("tag", "a:\udfff")], "tag"),
        ([("tag", "k" * 65 + ":")], "tag"),
        ([("tag", "k:" + "v" * 320)], "tag"),
        ([("tag", "a:b")] * 17, "tag"),
        ([("after", "1")], "after"),
        ([("\ud800", "1")], "ud800"),
        ([("x" * 10_000, "1")], "xxx"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_list_that_is_wrong_is_told_the_parameter(
    args: list[tuple[str, str]], named: str
) -> None:
    problem = schemas.decode_list(args)
    assert named in words(problem)
    assert isinstance(problem, Problem)
    assert len(problems.to_answer(problem).body) < 400


def test_how_long_a_read_may_wait() -> None:
    assert schemas.decode_wait([]) == 0
    assert schemas.decode_wait([("wait", "30s")]) == 30_000
    assert schemas.decode_wait([("wait", "1.5")]) == 1_500
    assert schemas.decode_wait([("wait", "60s")]) == 60_000
    for text in ("61s", "-1", "", "x", "60.001"):
        assert "wait" in words(schemas.decode_wait([("wait", text)]))
    assert "wait" in words(schemas.decode_wait([("wait", "1"), ("wait", "1")]))
    # Clients of the first contract may send what they like; it was never looked at.
    assert schemas.decode_wait([("queue", "a"), ("wait", "1")]) == 1_000


def test_a_purge_names_a_state_and_never_takes_running_jobs() -> None:
    for state in STATES:
        decoded = schemas.decode_bulk_state([("state", state)])
        assert isinstance(decoded, Problem) if state == "RUNNING" else decoded == state
    assert words(schemas.decode_bulk_state([])) == "state is required"
    assert "state" in words(schemas.decode_bulk_state([("state", "x")]))
    assert "queue" in words(schemas.decode_bulk_state([("queue", "x")]))


def test_a_queue_in_a_path() -> None:
    assert schemas.check_queue("a.B_c:d-9") is None
    for name in ("", "a b", "a/b", "q" * 129, "\ud800", "ä", "a\n"):
        assert "queue" in words(schemas.check_queue(name))


# Cursors --------------------------------------------------------------------------------------

positions = st.lists(st.none() | st.integers(0, (1 << 63) - 1), min_size=1, max_size=20)


@given(positions)
def test_a_cursor_comes_back_equal_and_is_safe_in_a_url(numbers: list[int | None]) -> None:
    text = schemas.encode_cursor(numbers)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert schemas.decode_cursor(text, len(numbers)) == tuple(numbers)
    assert "cursor" in words(schemas.decode_cursor(text, len(numbers) + 1))


@given(positions, st.data())
def test_a_cursor_that_was_touched_is_refused(
    numbers: list[int | None], data: st.DataObject
) -> None:
    text = schemas.encode_cursor(numbers)
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(exclude_characters=[text[at]]))
    for touched in (text[:at] + character + text[at + 1 :], text[:at], text + character):
        assert "cursor" in words(schemas.decode_cursor(touched, len(numbers)))


def test_the_largest_tags_and_progress_fit_the_pipe() -> None:
    tags = {f"{n:02}{chr(0x1F600) * 62}": chr(0x1F600) * 256 for n in range(16)}
    taken = job(tags=tags, queue="q" * 128)
    assert 16_000 < len(taken.options) <= OPTIONS_BYTES_MAX
    for character in ("\0", chr(0x1F600), '"'):
        body = json.dumps({"lease_token": "7", "progress": character * 256}).encode()
        extend = schemas.decode_extend(body)
        assert isinstance(extend, schemas.Extend)
        assert json.loads(extend.progress) == character * 256
        assert len(extend.progress) <= PROGRESS_BYTES_MAX
