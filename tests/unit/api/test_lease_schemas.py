import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import views
from api.lease_schemas import (
    LEASE_TOKEN_MAX,
    Ack,
    Extend,
    LeaseRequest,
    Release,
    decode_ack,
    decode_acks,
    decode_extend,
    decode_extends,
    decode_lease,
    decode_release,
)
from api.problems import Problem
from partitions.limits import PROGRESS_BYTES_MAX
from partitions.messages import JobView
from partitions.slots import make_job_id
from tests.support.awkward import AWKWARD_TEXTS, BROKEN_JSON, MIB, words

JOB_ID = make_job_id(1_700_000_000_000, 5, 9)

# Any string that UTF-8 can carry: all but lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]))

# As many bytes as characters allow.
FULLEST = b"\\u0000" * 256


def ack(body: bytes) -> Ack | Problem:
    return decode_ack(body, text_bytes_max=MIB)


def shown(result: bytes | None, error: bytes | None) -> bytes:
    view = JobView(JOB_ID, "ACKED", 1, 3, 1, None, result, error, "me")
    return views.encode(views.status(view))


# Any text comes back equal --------------------------------------------------------------------


@given(texts, st.booleans(), st.sampled_from(["result", "result_error"]))
def test_a_result_comes_back_equal(text: str, ascii_only: bool, field: str) -> None:
    body = json.dumps({field: text}, ensure_ascii=ascii_only).encode()
    told = ack(body)
    assert isinstance(told, Ack)
    result, error = told.result, told.error or None
    answer = json.loads(shown(result, error))
    assert answer.get(field, "") == text
    assert ("result_error" in answer) == (field == "result_error" and text != "")


@pytest.mark.parametrize("text", AWKWARD_TEXTS, ids=lambda text: ascii(text[:6]))
def test_awkward_texts_come_back_equal(text: str) -> None:
    for ascii_only in (True, False):
        told = ack(json.dumps({"result": text}, ensure_ascii=ascii_only).encode())
        assert isinstance(told, Ack)
        assert json.loads(shown(told.result, None))["result"] == text


# Lease ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"{}", b" { } "])
def test_a_lease_that_says_nothing_is_any_job_of_the_default_queue(body: bytes) -> None:
    assert decode_lease(body) == LeaseRequest(("default",), None, 0, None, "")


@pytest.mark.parametrize(
    "body",
    [body for body in BROKEN_JSON if body] + [b'{"x":1}'],
    ids=lambda body: ascii(body[:50]),
)
def test_a_lease_outside_the_contract_is_400(body: bytes) -> None:
    problem = decode_lease(body)
    assert isinstance(problem, Problem)
    assert problem.status == 400


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
    assert decode_lease(body) == expected


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
    assert named in words(decode_lease(json.dumps(fields).encode()))


def test_a_number_a_hair_above_the_limit_is_above_it() -> None:
    week_s = 7 * 24 * 3600
    assert not isinstance(decode_lease(b'{"lease_duration": %d.0}' % week_s), Problem)
    above = decode_lease(b'{"lease_duration": %d.0000000001}' % week_s)
    assert isinstance(above, Problem)
    assert above.error == "lease_duration must be <= 168h"


# Ack, extend, release -------------------------------------------------------------------------


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


def test_an_unknown_field_is_named() -> None:
    assert "state" in words(ack(b'{"state":"ACKED"}'))


@pytest.mark.parametrize("field", ["result", "result_error"])
def test_a_result_of_the_limit_is_taken_and_a_byte_more_is_413(field: str) -> None:
    assert isinstance(ack(json.dumps({field: "x" * MIB}).encode()), Ack)
    problem = ack(json.dumps({field: "x" * (MIB + 1)}).encode())
    assert isinstance(problem, Problem)
    assert problem.status == 413
    assert field in problem.error


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
    return decode_acks(json.dumps({"acks": items}).encode(), text_bytes_max=MIB)


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
    assert decode_extend(body) == expected


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
    assert named in words(decode_extend(json.dumps(fields).encode()))
    item = {"job_id": "a", "lease_token": "7"}
    many = decode_extends(json.dumps({"extends": [item, {"job_id": "b", **fields}]}).encode())
    assert words(many).startswith("extends[1]: ")
    assert named in words(many)


def test_many_heartbeats_are_each_as_one_alone_in_order() -> None:
    body = b"""{"extends":[{"job_id":"a","lease_token":"7","progress":1},
    {"job_id":"b","lease_token":"8","lease_duration":"1s"}]}"""
    assert decode_extends(body) == [
        ("a", Extend(7, None, b"1")),
        ("b", Extend(8, 1_000)),
    ]


def test_a_release() -> None:
    assert decode_release(b'{"lease_token":"7"}') == Release(7)
    assert decode_release(b'{"lease_token":"7","delay":"1s"}') == Release(7, 1_000)
    for body in (b"{}", b'{"lease_token":""}'):
        assert "lease_token" in words(decode_release(body))
    assert "delay" in words(decode_release(b'{"lease_token":"7","delay":-1}'))


@pytest.mark.parametrize("body", BROKEN_JSON, ids=lambda body: ascii(body[:40]))
def test_broken_json_is_400_for_all(body: bytes) -> None:
    assert words(decode_acks(body, text_bytes_max=MIB))
    assert words(decode_extend(body))
    assert words(decode_extends(body))
    assert words(decode_release(body))


def test_the_largest_progress_fits_the_pipe() -> None:
    for character in ("\0", chr(0x1F600), '"'):
        body = json.dumps({"lease_token": "7", "progress": character * 256}).encode()
        extend = decode_extend(body)
        assert isinstance(extend, Extend)
        assert json.loads(extend.progress) == character * 256
        assert len(extend.progress) <= PROGRESS_BYTES_MAX
