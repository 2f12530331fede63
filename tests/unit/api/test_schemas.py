import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import problems, schemas
from api.problems import Problem
from api.schemas import LEASE_TOKEN_MAX, Ack, LeaseJob, Submit
from partitions.limits import ATTEMPTS_MAX
from partitions.messages import JobView, Leased
from partitions.slots import make_job_id

MIB = 1 << 20
JOB_ID = make_job_id(1_700_000_000_000, 5, 9)

# Any string that UTF-8 can carry: all but lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]))


def submit(body: bytes) -> Submit | Problem:
    return schemas.decode_submit(body, payload_bytes_max=MIB, default_max_retries=3)


def ack(body: bytes) -> Ack | Problem:
    return schemas.decode_ack(body, text_bytes_max=MIB)


def leased(payload: bytes) -> bytes:
    return schemas.encode(schemas.leased(Leased(JOB_ID, payload, 1, 1, 1, 3, 1)))


def shown(result: bytes | None, error: bytes | None) -> bytes:
    view = JobView(JOB_ID, "ACKED", 1, 3, 1, None, result, error, "me")
    return schemas.encode(schemas.status(view))


# Any text comes back equal -----------------------------------------------------------------


@given(texts.filter(bool), st.booleans())
def test_a_payload_comes_back_equal(payload: str, ascii_only: bool) -> None:
    body = json.dumps({"payload": payload}, ensure_ascii=ascii_only).encode()
    job = submit(body)
    assert isinstance(job, Submit)
    assert json.loads(leased(job.payload))["payload"] == payload


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
        job = submit(json.dumps({"payload": text}, ensure_ascii=ascii_only).encode())
        assert isinstance(job, Submit)
        assert json.loads(leased(job.payload))["payload"] == text
        told = ack(json.dumps({"result": text}, ensure_ascii=ascii_only).encode())
        assert isinstance(told, Ack)
        assert json.loads(shown(told.result, None))["result"] == text


# What a submit may say -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"payload":"x"}', Submit(b"x", 3)),
        (b'{"payload":"x","max_retries":null}', Submit(b"x", 3)),
        (b'{"payload":"x","max_retries":0}', Submit(b"x", 0)),
        (b'{"payload":"x","max_retries":1}', Submit(b"x", 1)),
        (b' \t\r\n{ "max_retries" : 7 , "payload" : "x" } \n', Submit(b"x", 7)),
        (b'{"payload":"a","payload":"b"}', Submit(b"b", 3)),
        (b'{"p\\u0061yload":"x"}', Submit(b"x", 3)),
        (f'{{"payload":"x","max_retries":{ATTEMPTS_MAX}}}'.encode(), Submit(b"x", ATTEMPTS_MAX)),
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
def test_a_lease_says_nothing(body: bytes) -> None:
    assert schemas.decode_lease(body) == LeaseJob()


@pytest.mark.parametrize(
    "body",
    [body for body in BROKEN_JSON if body] + [b'{"x":1}'],
    ids=lambda body: ascii(body[:50]),
)
def test_a_lease_outside_the_contract_is_400(body: bytes) -> None:
    problem = schemas.decode_lease(body)
    assert isinstance(problem, Problem)
    assert problem.status == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=8,
)
fields = st.sampled_from(["payload", "max_retries", "result", "result_error", "lease_token", "x"])
bodies = (
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(fields, json_values).map(lambda value: json.dumps(value).encode())
    | st.text(st.characters()).map(lambda text: text.encode("utf-8", "surrogatepass"))
)


@given(bodies)
def test_whatever_comes_is_an_answer_never_an_exception(body: bytes) -> None:
    for decoded in (submit(body), ack(body), schemas.decode_lease(body)):
        if isinstance(decoded, Problem):
            assert decoded.status in (400, 413)
            json.loads(problems.to_answer(decoded).body)


# What answers look like --------------------------------------------------------------------------


@given(st.integers(0, 253_402_300_799_999))
def test_times_are_rfc_3339_in_utc_and_exact(time_ms: int) -> None:
    text = schemas.rfc3339(time_ms)
    assert text.endswith("Z")
    parsed = datetime.fromisoformat(text)
    assert parsed.tzinfo == UTC
    delta = parsed - datetime(1970, 1, 1, tzinfo=UTC)
    assert delta.days * 86_400_000 + delta.seconds * 1000 + delta.microseconds // 1000 == time_ms


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (1_766_745_000_000, "2025-12-26T10:30:00Z"),
        (1_766_745_000_250, "2025-12-26T10:30:00.250Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_read_as_in_the_contract(time_ms: int, text: str) -> None:
    assert schemas.rfc3339(time_ms) == text


def test_fields_that_are_not_there_are_left_out_and_counts_of_zero_are_not() -> None:
    view = JobView(JOB_ID, "READY", 0, 0, 0, None, None, None, "me")
    assert json.loads(schemas.encode(schemas.status(view))) == {
        "job_id": "018bcfe5-6800-7005-8000-000000000009",
        "state": "READY",
        "attempts": 0,
        "max_retries": 0,
        "created_at": "1970-01-01T00:00:00Z",
    }


def test_a_running_job_shows_when_its_lease_ends_and_what_failed_before() -> None:
    view = JobView(JOB_ID, "RUNNING", 2, 3, 0, 1500, None, b"boom", "me")
    answer = json.loads(schemas.encode(schemas.status(view)))
    assert answer["lease_until"] == "1970-01-01T00:00:01.500Z"
    assert answer["result_error"] == "boom"
    assert "result" not in answer


def test_a_lease_token_is_a_string_of_digits() -> None:
    lease = Leased(JOB_ID, b"x", 0, 1, LEASE_TOKEN_MAX, 3, 0)
    answer = json.loads(schemas.encode(schemas.leased(lease)))
    assert answer["lease_token"] == str(LEASE_TOKEN_MAX)
    assert ack(json.dumps({"lease_token": answer["lease_token"]}).encode()) == Ack(LEASE_TOKEN_MAX)


def test_the_owner_of_a_job_is_not_shown() -> None:
    assert b"me" not in shown(b"r", None).replace(b"created_at", b"")
