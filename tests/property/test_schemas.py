"""Whatever a request holds, it is decoded within the contract, or refused in words."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from api import bodies, problems
from api.bodies import LEASE_MS_MAX
from api.cursors import decode_cursor, encode_cursor
from api.durations import DURATION_MS_MAX
from api.lease_schemas import (
    LEASE_TOKEN_MAX,
    Ack,
    Extend,
    LeaseRequest,
    decode_ack,
    decode_acks,
    decode_extend,
    decode_extends,
    decode_lease,
    decode_release,
)
from api.problems import Problem
from api.query_schemas import (
    STATES,
    ListRequest,
    check_queue,
    decode_bulk_state,
    decode_list,
    decode_wait,
)
from api.submit_schemas import Submit, SubmitLimits, decode_batch, decode_submit
from partitions import messages
from partitions.limits import ATTEMPTS_MAX, OPTIONS_BYTES_MAX, PROGRESS_BYTES_MAX
from partitions.options import decode_options

TEXT_BYTES_MAX = 64
"""Of this file: small, so that it is met."""
LIMITS = SubmitLimits(TEXT_BYTES_MAX, 3)
NOW_MS = 1_700_000_000_000

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
any_text = st.text(st.characters(), max_size=300)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8
)
durations = (
    st.sampled_from(["0", "1s", "1m30s", "500ms", "168h", "1ns", "9999999h", "-1s", "x"])
    | st.integers(0, 100)
    | st.floats(0, 100)
    | st.floats()
    | st.none()
)
tokens = st.sampled_from(
    ["7", "12345", "0", str(LEASE_TOKEN_MAX), str(LEASE_TOKEN_MAX + 1), "", "x"]
)
names = st.sampled_from(["default", "a", "b.c", "a b", "", "q" * 128, "q" * 129])
# Of each field that there is, what is often right and sometimes just not.
likely: dict[str, st.SearchStrategy[Any]] = {
    "payload": texts,
    "max_retries": st.integers(-1, ATTEMPTS_MAX + 1) | st.none(),
    "queue": names | st.none(),
    "priority": st.integers(-101, 101) | st.none(),
    "delay": durations,
    "run_at": st.sampled_from(["2025-12-26T10:30:00Z", "9999-12-31T23:59:59.999Z", "now", None]),
    "lease_duration": durations,
    "backoff": st.fixed_dictionaries(
        {},
        optional={
            "initial": durations,
            "max": durations,
            "factor": st.floats(0.5, 3) | st.none(),
            "jitter": st.floats(-0.5, 1.5) | st.none(),
        },
    ),
    "group": st.text(max_size=3) | st.sampled_from(["g" * 256, "g" * 257, None]),
    "idempotency_key": st.text(max_size=3) | st.sampled_from(["k" * 256, "k" * 257, None]),
    "ttl": durations,
    "retention": durations,
    "tags": st.dictionaries(texts, texts, max_size=17) | st.none(),
    "queues": st.lists(names, max_size=3) | st.none(),
    "max": st.integers(-1, 1001) | st.none(),
    "wait": durations,
    "worker": texts | st.none(),
    "job_id": texts,
    "lease_token": tokens | st.none(),
    "result": texts | st.none(),
    "result_error": texts | st.none(),
    "retry": st.booleans() | st.none(),
    "retry_in": durations,
    "progress": st.integers(-1, 101) | st.floats() | texts | st.none(),
}


def now() -> int:
    return NOW_MS


@st.composite
def objects(draw: st.DrawFn, body: type[bodies.Body]) -> dict[str, Any]:
    """What could be ``body``: few of its fields, most of them right; or any fields of any kind."""
    every = body.__struct_fields__
    if draw(st.integers(0, 9)) == 9:
        return draw(st.dictionaries(st.sampled_from(["x", *every]), json_values, max_size=4))
    required = every[: len(every) - len(body.__struct_defaults__)]
    chosen = draw(st.lists(st.sampled_from(every), max_size=3, unique=True))
    value: dict[str, Any] = {name: draw(likely[name]) for name in {*required, *chosen}}
    if draw(st.integers(0, 9)) == 9:
        value[draw(st.sampled_from(every))] = draw(json_values)
    return value


@st.composite
def encoded(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> bytes:
    """Their JSON in either spelling, and sometimes with bytes that are not it."""
    body = _dumped(draw(values), draw(st.booleans()))
    at = draw(st.integers(0, 60))
    match draw(st.integers(0, 9)):
        case 7:
            return body[:at]
        case 8:
            return body[:at] + draw(st.binary(max_size=4)) + body[at:]
        case 9:
            return draw(st.binary())
        case _:
            return body


def _dumped(value: object, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def many(name: str, body: type[bodies.Body]) -> st.SearchStrategy[bytes]:
    items = st.lists(objects(body), max_size=4)
    return encoded(
        st.fixed_dictionaries({name: items}) | st.fixed_dictionaries({name: json_values})
    )


def check_problem(problem: Problem) -> None:
    assert problem.status in (400, 413)
    assert len(problem.error) < 600
    assert json.loads(problems.to_answer(problem).body)["error"] == problem.error


def crosses_the_pipe(command: messages.Command) -> None:
    """A partition drops a front whose command is out of bounds."""
    request = messages.Request(1, command)
    assert messages.decode_requests(messages.encode_requests([request])) == [request]


def check_submit(job: Submit) -> None:
    assert 0 < len(job.payload) <= TEXT_BYTES_MAX
    assert len(job.options) <= OPTIONS_BYTES_MAX
    assert decode_options(job.options).queue == job.queue
    assert check_queue(job.queue) is None
    assert job.run_at_ms == 0 or job.run_at_ms > NOW_MS
    assert job.expires_at_ms == 0 or NOW_MS < job.expires_at_ms <= NOW_MS + DURATION_MS_MAX
    assert bool(job.idempotency_key) == (len(job.digest) == 16)
    crosses_the_pipe(
        messages.Enqueue(
            bytes(16),
            job.payload,
            job.max_retries,
            "me",
            job.options,
            job.run_at_ms,
            job.expires_at_ms,
            job.group,
            job.digest,
        )
    )


def check_ack(ack: Ack) -> None:
    assert ack.lease_token is None or 0 <= ack.lease_token <= LEASE_TOKEN_MAX
    assert ack.result is None or not ack.error
    assert ack.error or (ack.retry and ack.retry_in_ms is None)
    assert ack.retry or ack.retry_in_ms is None
    assert len(ack.result or ack.error) <= TEXT_BYTES_MAX
    crosses_the_pipe(
        messages.Fail(bytes(16), ack.lease_token, ack.error, ack.retry, ack.retry_in_ms)
    )


def check_extend(extend: Extend) -> None:
    assert 0 <= extend.lease_token <= LEASE_TOKEN_MAX
    assert extend.duration_ms is None or 0 < extend.duration_ms <= LEASE_MS_MAX
    assert len(extend.progress) <= PROGRESS_BYTES_MAX
    if extend.progress:
        assert isinstance(json.loads(extend.progress), str | int | float)
    crosses_the_pipe(
        messages.Extend(bytes(16), extend.lease_token, extend.duration_ms, extend.progress)
    )


def answered(decoded: Any, check: Callable[[Any], None]) -> None:
    check_problem(decoded) if isinstance(decoded, Problem) else check(decoded)


def each(check: Callable[[Any], None], items: list[tuple[str, Any]]) -> None:
    assert items
    for job_id, item in items:
        job_id.encode()
        check(item)


@given(encoded(objects(bodies.SubmitBody)), st.sampled_from([None, None, "k"]) | any_text)
def test_a_submit(body: bytes, key: str | None):
    answered(decode_submit(body, LIMITS, now, key), check_submit)


@given(many("jobs", bodies.SubmitBody))
def test_a_batch(body: bytes):
    decoded = decode_batch(body, LIMITS, now)
    if isinstance(decoded, Problem):
        check_problem(decoded)
        return
    assert decoded
    for job in decoded:
        check_submit(job)


@given(st.lists(objects(bodies.SubmitBody), min_size=1, max_size=4))
def test_a_job_of_a_batch_is_what_it_is_alone(jobs: list[dict[str, Any]]):
    alone = [decode_submit(_dumped(job, True), LIMITS, now) for job in jobs]
    together = decode_batch(_dumped({"jobs": jobs}, True), LIMITS, now)
    if not isinstance(together, Problem):
        assert together == alone
        return
    wrong = [(index, job) for index, job in enumerate(alone) if isinstance(job, Problem)]
    assert wrong
    # What is no JSON at all (Infinity) is so at another byte in the batch, and not of one job.
    if not any("malformed" in job.error for _, job in wrong):
        assert together in [problems.at("jobs", index, job) for index, job in wrong]


@given(encoded(objects(bodies.LeaseBody)))
def test_a_lease(body: bytes):
    def check(request: LeaseRequest) -> None:
        assert len(set(request.queues)) == len(request.queues) > 0
        assert request.max is None or 1 <= request.max <= 1000
        assert 0 <= request.wait_ms <= 60_000
        crosses_the_pipe(messages.Lease(request.duration_ms, request.queues, request.worker))

    answered(decode_lease(body), check)


@given(encoded(objects(bodies.AckBody)))
def test_an_ack(body: bytes):
    answered(decode_ack(body, text_bytes_max=TEXT_BYTES_MAX), check_ack)


@given(many("acks", bodies.AckItemBody))
def test_many_acks(body: bytes):
    answered(
        decode_acks(body, text_bytes_max=TEXT_BYTES_MAX),
        lambda acks: each(check_ack, acks),
    )


@given(encoded(objects(bodies.ExtendBody)))
def test_an_extend(body: bytes):
    answered(decode_extend(body), check_extend)


@given(many("extends", bodies.ExtendItemBody))
def test_many_extends(body: bytes):
    answered(
        decode_extends(body),
        lambda extends: each(check_extend, extends),
    )


@given(encoded(objects(bodies.ReleaseBody)))
def test_a_release(body: bytes):
    answered(
        decode_release(body),
        lambda release: crosses_the_pipe(
            messages.Release(bytes(16), release.lease_token, release.delay_ms)
        ),
    )


PARAMETERS = {
    "queue": names,
    "state": st.sampled_from(STATES),
    "group": any_text,
    "tag": st.sampled_from(["a:b", "a:", "url:http://x", "a", ":b"]),
    "limit": st.sampled_from(["1", "1000", "0", "1001", "x"]),
    "cursor": any_text | st.just(encode_cursor([1, None])),
    "wait": st.sampled_from(["30s", "0", "1.5", "61s", ""]),
}
known = st.sampled_from([*PARAMETERS]).flatmap(
    lambda name: st.tuples(st.just(name), PARAMETERS[name])
)
queries = st.lists(known, max_size=2) | st.lists(known | st.tuples(any_text, any_text), max_size=3)


@given(queries)
def test_a_query(args: list[tuple[str, str]]):
    def check_list(request: ListRequest) -> None:
        crosses_the_pipe(messages.List(0, request.limit, request.filter))
        if request.cursor is not None:
            answered(decode_cursor(request.cursor, 2), lambda at: None)

    def check_wait(wait_ms: int) -> None:
        assert 0 <= wait_ms <= 60_000

    def check_state(state: str) -> None:
        assert state in STATES
        assert state != "RUNNING"

    answered(decode_list(args), check_list)
    answered(decode_wait(args), check_wait)
    answered(decode_bulk_state(args), check_state)


@given(names | any_text)
def test_a_queue_in_a_path(name: str):
    answered(
        check_queue(name) or name,
        lambda queue: crosses_the_pipe(messages.Pause(queue, True)),
    )
