"""Every route and every field with what it does not take: a 4xx that names it, nothing stored.

All of it through the lane and through the app (``?`` at the end of the target).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.contract import NOBODYS, Answer, Http, Json, held, job, new_name
from tests.support.node import RunningNode

LONG = "x" * 100_000
"""Longer than any text may be that is not a payload or a result; short enough for the door."""

NO_TEXT: list[Any] = [5, 1.5, True, [], {}]
NO_DURATION: list[Any] = [
    "soon", "1x", "s", "-1s", -1, -0.5, "1s1", " 1s", "1 s", "1e400s", "9" * 400 + "s",
    "99999999999h", 1e300, True, [], {},
]  # fmt: skip
NO_TOKEN: list[Any] = ["x", "-1", "1.5", "0x1", "1e3", " 1", "", "\u0661", 1, 1.5, True, [], {}]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    environment = {"LEASE_DURATION": "1h", "MAX_BODY": str(4 << 20)}
    with RunningNode(tmp_path_factory.mktemp("node"), environment) as running:
        yield running


@pytest.fixture(scope="module", params=["", "?"], ids=["lane", "app"])
def http(node: RunningNode, request: pytest.FixtureRequest) -> Http:
    return Http(node, suffix=request.param)


@pytest.fixture
def queue() -> str:
    return new_name()


def assert_refused(answer: Answer, field: str) -> None:
    assert 400 <= answer.status < 500, answer
    assert set(answer.json) == {"error"}
    assert field in answer.error, answer.error


def cases(table: Mapping[str, list[Any]]) -> list[Any]:
    """A parameter for each value of each field, with a short id."""
    return [
        pytest.param(field, value, id=f"{field}={json.dumps(value)[:30]}-{number}")
        for field, values in table.items()
        for number, value in enumerate(values)
    ]


# POST /jobs ----------------------------------------------------------------------------------

JOB: dict[str, list[Any]] = {
    "payload": ["", *NO_TEXT],
    "max_retries": [-1, 10**9, 2**31, 2**63, 2**64, 10**400, 1.5, "3", True, [], {}],
    "queue": [
        "", "a b", "a/b", "é", "a\n", "a\x00", "*", "a,b", "x" * 129, LONG, *NO_TEXT,
    ],
    "priority": [-101, 101, 2**63, -(2**63) - 1, 10**400, 1.5, "1", True, [], {}],
    "delay": NO_DURATION,
    "run_at": [
        "tomorrow", "", "2030-01-01", "2030-13-01T00:00:00Z", "2030-02-30T00:00:00Z",
        "2030-01-01T00:00:00", "2030-01-01T25:00:00Z", "20300101T000000Z", "99999-01-01T00:00:00Z",
        LONG, 5, True, [], {},
    ],
    "lease_duration": NO_DURATION,
    "backoff": [
        "1s", 5, True, [],
        {"initial": "soon"}, {"initial": -1}, {"initial": []},
        {"max": "soon"}, {"max": "-1s"},
        {"factor": 0.5}, {"factor": -1}, {"factor": "2"}, {"factor": []}, {"factor": 10**400},
        {"jitter": -0.1}, {"jitter": 1.1}, {"jitter": "0"}, {"jitter": []},
    ],
    "group": [LONG, *NO_TEXT],
    "idempotency_key": [LONG, *NO_TEXT],
    "ttl": NO_DURATION,
    "retention": NO_DURATION,
    "tags": [
        "a", 5, True, [], ["a:b"], {"a": 1}, {"a": None}, {"a": {"b": "c"}}, {"a": LONG},
        {LONG: "a"}, {f"{n}": "x" for n in range(17)},
    ],
}  # fmt: skip


def named_by(field: str, value: object) -> str:
    """What the words must name: the field inside where the value is a settings object."""
    if field == "backoff" and isinstance(value, dict):
        (inner,) = value
        return str(inner)
    return field


@pytest.mark.parametrize(("field", "value"), cases(JOB))
def test_a_bad_field_of_a_job(http: Http, queue: str, field: str, value: object):
    before = http.all_counts()
    answer = http.call("POST", "/jobs", {**job(queue), field: value}, key="client")
    assert_refused(answer, named_by(field, value))
    assert http.all_counts() == before


@pytest.mark.parametrize(("field", "value"), cases(JOB))
def test_a_bad_field_of_a_job_of_a_batch(http: Http, queue: str, field: str, value: object):
    before = http.all_counts()
    jobs = [job(queue), job(queue), {**job(queue), field: value}]
    answer = http.submit_batch(jobs)
    assert_refused(answer, named_by(field, value))
    assert "2" in answer.error
    assert http.all_counts() == before


def test_a_job_needs_a_payload(http: Http, queue: str):
    assert_refused(http.call("POST", "/jobs", {"queue": queue}, key="client"), "payload")
    assert http.counts(queue) == {}


def test_delay_and_run_at_exclude_each_other(http: Http, queue: str):
    answer = http.submit(queue, delay="1s", run_at="2030-01-01T00:00:00Z")
    assert_refused(answer, "delay")
    assert "run_at" in answer.error
    assert http.counts(queue) == {}


@pytest.mark.parametrize("at", ["job", "backoff"])
def test_an_unknown_field_is_refused_by_its_name(http: Http, queue: str, at: str):
    unknown = {"prioritty": 1}
    body = job(queue, **(unknown if at == "job" else {"backoff": unknown}))
    assert_refused(http.call("POST", "/jobs", body, key="client"), "prioritty")
    assert_refused(http.submit_batch([body]), "prioritty")
    assert http.counts(queue) == {}


# Bodies that are not JSON, or hardly ---------------------------------------------------------

NO_JSON = {
    "no JSON": b"{",
    "text": b"payload=x",
    "trailing": b'{"payload":"x"} x',
    "two": b'{"payload":"x"}{"payload":"y"}',
    "array": b"[]",
    "string": b'"x"',
    "number": b"1",
    "huge number": b"1" * 5000,
    "not UTF-8": b'{"payload":"\xff"}',
    "overlong UTF-8": b'{"payload":"\xc0\xaf"}',
    "UTF-8 of a surrogate": b'{"payload":"\xed\xa0\x80"}',
    "not UTF-8 in a name": b'{"payload":"x","\xff":1}',
    "UTF-16": '{"payload":"x"}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"payload":"x"}',
    "lone surrogate": b'{"payload":"\\ud800"}',
    "lone surrogate, low": b'{"payload":"\\udc00x"}',
    "NaN": b'{"payload":"x","priority":NaN}',
    "infinity": b'{"payload":"x","priority":Infinity}',
    "nested arrays": b'{"payload":"x","tags":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "nested objects": b'{"payload":"x","tags":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    "nested and cut": b"[" * 100_000,
    "single quotes": b"{'payload':'x'}",
    "control character": b'{"payload":"a\nb"}',
    "comma": b'{"payload":"x",}',
    "NUL": b"\x00",
}

BODIES = {
    "/jobs": "client",
    "/jobs/batch": "client",
    "/jobs/lease": "worker",
    "/jobs/ack": "worker",
    "/jobs/extend": "worker",
    f"/jobs/{NOBODYS}/ack": "worker",
    f"/jobs/{NOBODYS}/extend": "worker",
    f"/jobs/{NOBODYS}/release": "worker",
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON)
def test_a_body_that_is_no_json_object(http: Http, path: str, body: bytes):
    before = http.all_counts()
    answer = http.call("POST", path, body, key=BODIES[path])
    assert answer.status == 400, answer
    assert answer.error
    assert http.all_counts() == before


@pytest.mark.parametrize("text", ["\\ud800", "\\uDBFFx", "\\udc00", "\\ud800\\ud800", "\\ud83d\\n"])
def test_the_words_name_a_lone_surrogate(http: Http, text: str):
    answer = http.call("POST", "/jobs", f'{{"payload":"\\ud83d\\ude00{text}"}}'.encode())
    lone = text[:6]
    words = f"invalid JSON: {lone} is half of a surrogate pair, which is no character"
    assert (answer.status, answer.error) == (400, words)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/jobs/lease", {"wait": "soon"}, "wait must be {}, 0 to 60s"),
        ("/jobs/lease", {"wait": "99999999h"}, "wait must be {}, 0 to 60s"),
        ("/jobs/lease", {"wait": "61s"}, "wait must be <= 60s"),
        (
            "/jobs/lease",
            {"lease_duration": "-1s"},
            "lease_duration must be {}, more than 0, at most 168h",
        ),
        ("/jobs/lease", {"lease_duration": "169h"}, "lease_duration must be <= 168h"),
        ("/jobs", {"payload": "p", "ttl": "x"}, "ttl must be {}, more than 0, at most 87600h"),
        ("/jobs", {"payload": "p", "delay": "87601h"}, "delay must be {}, 0 to 87600h"),
    ],
)
def test_the_words_about_a_duration_name_its_own_limit(
    http: Http, path: str, body: Json, words: str
):
    answer = http.call("POST", path, body)
    duration = "a duration like 1m30s or a number of seconds"
    assert (answer.status, answer.error) == (400, words.format(duration))


@pytest.mark.parametrize(
    "body",
    [body for body in NO_JSON.values() if b'{"payload"' in body],
)
def test_a_job_of_a_batch_that_is_no_json(http: Http, body: bytes):
    before = http.all_counts()
    whole = b'{"jobs":[{"payload":"x"},' + body + b"]}"
    answer = http.call("POST", "/jobs/batch", whole, key="client")
    assert answer.status == 400, answer
    assert answer.error
    assert http.all_counts() == before


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch", "/jobs/ack", "/jobs/extend"])
@pytest.mark.parametrize("body", [b"", b"{}", None])
def test_nothing_where_something_is_needed(http: Http, path: str, body: bytes | None):
    before = http.all_counts()
    answer = http.call("POST", path, body, key=BODIES[path])
    assert answer.status == 400, answer
    assert answer.error
    assert http.all_counts() == before


def test_of_two_fields_of_one_name_the_last_counts(http: Http, queue: str):
    other = new_name()
    body = f'{{"queue":"{other}","payload":"a","payload":"b","queue":"{queue}"}}'
    assert http.call("POST", "/jobs", body.encode(), key="client").status == 201
    assert http.leased(queue)["payload"] == "b"
    assert http.counts(other) == {}


@pytest.mark.parametrize(
    ("path", "field"),
    [("/jobs/batch", "jobs"), ("/jobs/ack", "acks"), ("/jobs/extend", "extends")],
)
@pytest.mark.parametrize("value", [5, "x", True, {}, [5], ["x"], [[]], [None]])
def test_a_call_of_many_needs_a_list_of_objects(http: Http, path: str, field: str, value: object):
    before = http.all_counts()
    answer = http.call("POST", path, {field: value}, key=BODIES[path])
    assert 400 <= answer.status < 500
    assert answer.error
    assert http.all_counts() == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/jobs/batch", {"jobs": [{"payload": "x"}]}),
        ("/jobs/ack", {"acks": [{"job_id": NOBODYS, "lease_token": "1"}]}),
        ("/jobs/extend", {"extends": [{"job_id": NOBODYS, "lease_token": "1"}]}),
    ],
)
def test_an_unknown_field_beside_the_list(http: Http, path: str, body: Json):
    before = http.all_counts()
    answer = http.call("POST", path, {**body, "colour": "red"}, key=BODIES[path])
    assert_refused(answer, "colour")
    assert http.all_counts() == before


# POST /jobs/lease ----------------------------------------------------------------------------

LEASE: dict[str, list[Any]] = {
    "queues": ["q", 5, True, {}, [5], [""], ["a b"], ["x" * 129], [None], ["ok", "a/b"]],
    "max": [0, -1, 1001, 2**63, 10**400, 1.5, "1", True, [], {}],
    "wait": [*NO_DURATION, "61s", 61, "1h"],
    "lease_duration": NO_DURATION,
    "worker": [LONG, *NO_TEXT],
    "colour": ["red", None],
}


@pytest.mark.parametrize(("field", "value"), cases(LEASE))
def test_a_bad_field_of_a_lease(http: Http, queue: str, field: str, value: object):
    job_id = http.submitted(queue)
    answer = http.call("POST", "/jobs/lease", {"queues": [queue], field: value}, key="worker")
    assert_refused(answer, field)
    assert http.counts(queue) == {"READY": 1}
    assert http.job(job_id)["attempts"] == 0


# What a worker says of its lease ---------------------------------------------------------------

ACK: dict[str, list[Any]] = {
    "lease_token": NO_TOKEN,
    "result": NO_TEXT,
    "result_error": NO_TEXT,
    "retry": ["no", 0, 1.5, [], {}],
    "retry_in": NO_DURATION,
    "colour": ["red"],
}
EXTEND: dict[str, list[Any]] = {
    "lease_token": [None, *NO_TOKEN],
    "lease_duration": NO_DURATION,
    "progress": [-1, 101, 2**63, 10**400, [], {}, LONG],
    "colour": ["red"],
}
RELEASE: dict[str, list[Any]] = {
    "lease_token": [None, *NO_TOKEN],
    "delay": NO_DURATION,
    "colour": ["red"],
}


def of_lease(lease: Json, verb: str, **fields: object) -> tuple[str, Json]:
    """Path and body of a call that would be taken but for ``fields``."""
    body: Json = {"lease_token": lease["lease_token"]}
    if verb == "ack" and "retry" in " ".join(fields):
        body["result_error"] = "e"
    return f"/jobs/{lease['job_id']}/{verb}", {**body, **fields}


def assert_refused_of_a_lease(http: Http, queue: str, verb: str, field: str, value: object) -> None:
    lease = http.submitted_and_leased(queue)
    before = http.job(lease["job_id"])
    path, body = of_lease(lease, verb, **{field: value})
    assert_refused(http.call("POST", path, body, key="worker"), field)
    assert http.job(lease["job_id"]) == before
    http.acked(lease)


@pytest.mark.parametrize(("field", "value"), cases(ACK))
def test_a_bad_field_of_an_ack(http: Http, queue: str, field: str, value: object):
    assert_refused_of_a_lease(http, queue, "ack", field, value)


@pytest.mark.parametrize(("field", "value"), cases(EXTEND))
def test_a_bad_field_of_an_extension(http: Http, queue: str, field: str, value: object):
    assert_refused_of_a_lease(http, queue, "extend", field, value)


@pytest.mark.parametrize(("field", "value"), cases(RELEASE))
def test_a_bad_field_of_a_release(http: Http, queue: str, field: str, value: object):
    assert_refused_of_a_lease(http, queue, "release", field, value)


@pytest.mark.parametrize(("field", "value"), cases({**ACK, "job_id": [5, None, [], {}]}))
def test_a_bad_field_of_an_ack_among_many(http: Http, queue: str, field: str, value: object):
    lease = http.submitted_and_leased(queue)
    reason = {"result_error": "e"} if "retry" in field else {}
    bad = {**held(lease, **reason), field: value}
    answer = http.ack_many([held(lease, result="r"), bad])
    assert_refused(answer, field)
    assert "1" in answer.error
    assert http.counts(queue) == {"RUNNING": 1}
    http.acked(lease)


@pytest.mark.parametrize(("field", "value"), cases({**EXTEND, "job_id": [5, None, [], {}]}))
def test_a_bad_field_of_an_extension_among_many(http: Http, queue: str, field: str, value: object):
    lease = http.submitted_and_leased(queue)
    before = http.job(lease["job_id"])
    answer = http.extend_many([held(lease, progress=9), {**held(lease), field: value}])
    assert_refused(answer, field)
    assert "1" in answer.error
    assert http.job(lease["job_id"]) == before
    http.acked(lease)


@pytest.mark.parametrize("verb", ["extend", "release"])
@pytest.mark.parametrize("body", [None, b"", b"{}"])
def test_extend_and_release_need_the_token(http: Http, queue: str, verb: str, body: bytes | None):
    lease = http.submitted_and_leased(queue)
    before = http.job(lease["job_id"])
    answer = http.call("POST", f"/jobs/{lease['job_id']}/{verb}", body, key="worker")
    assert answer.status == 400
    # Of no body at all it may say that instead.
    assert not body or "lease_token" in answer.error
    assert answer.error
    assert http.job(lease["job_id"]) == before
    http.acked(lease)


def test_a_success_is_no_failure(http: Http, queue: str):
    lease = http.submitted_and_leased(queue)
    answer = http.ack(lease, result="a", result_error="b")
    assert answer.status == 400
    assert "result" in answer.error
    assert http.state(lease["job_id"]) == "RUNNING"
    http.acked(lease)


@pytest.mark.parametrize("verb", ["ack", "extend", "release"])
@pytest.mark.parametrize("number", ["0", "18446744073709551616", "9" * 400])
def test_a_token_that_is_a_number_and_cannot_be_right(
    http: Http, queue: str, verb: str, number: str
):
    lease = http.submitted_and_leased(queue)
    before = http.job(lease["job_id"])
    path, body = of_lease(lease, verb, lease_token=number)
    answer = http.call("POST", path, body, key="worker")
    assert answer.status in (400, 409)
    assert answer.error
    assert http.job(lease["job_id"]) == before
    http.acked(lease)


@pytest.mark.parametrize("verb", ["ack", "extend", "release"])
@pytest.mark.parametrize("job_id", [NOBODYS, NOBODYS.upper(), "nope", "%00", "%ff", "x" * 500])
def test_a_lease_of_no_job(http: Http, verb: str, job_id: str):
    answer = http.call("POST", f"/jobs/{job_id}/{verb}", {"lease_token": "1"}, key="worker")
    assert 400 <= answer.status < 500
    assert answer.error


# Reads and an operator's calls -----------------------------------------------------------------


@pytest.mark.parametrize("wait", ["soon", "-1s", "-1", "61s", "61", "1h", "1e400", LONG[:2000]])
def test_a_bad_wait_for_a_job(http: Http, queue: str, wait: str):
    job_id = http.submitted(queue)
    assert_refused(http.get(f"/jobs/{job_id}", wait=wait), "wait")


@pytest.mark.parametrize("name", ["a%20b", "%C3%A9", "%00", "%ff", "a%2Fb", "x" * 129, "*"])
@pytest.mark.parametrize(
    ("method", "verb"),
    [
        ("GET", ""),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/retry-dead"),
        ("DELETE", "/jobs?state=DEAD"),
    ],
)
def test_a_bad_name_of_a_queue(http: Http, method: str, verb: str, name: str):
    answer = http.call(method, f"/queues/{name}{verb}")
    assert answer.status in (400, 404)
    assert answer.error


# Keys ------------------------------------------------------------------------------------------

ROUTES = [
    ("POST", "/jobs/batch", ["client", "admin"]),
    ("POST", "/jobs/lease", ["worker", "admin"]),
    ("POST", "/jobs/ack", ["worker", "admin"]),
    ("POST", "/jobs/extend", ["worker", "admin"]),
    ("POST", f"/jobs/{NOBODYS}/extend", ["worker", "admin"]),
    ("POST", f"/jobs/{NOBODYS}/release", ["worker", "admin"]),
    ("POST", f"/jobs/{NOBODYS}/cancel", ["client", "admin"]),
    ("POST", f"/jobs/{NOBODYS}/retry", ["client", "admin"]),
    ("DELETE", f"/jobs/{NOBODYS}", ["admin"]),
    ("GET", "/jobs", ["client", "worker", "admin"]),
    ("GET", "/queues", ["client", "worker", "admin"]),
    ("GET", "/queues/default", ["client", "worker", "admin"]),
    ("POST", "/queues/none/pause", ["admin"]),
    ("POST", "/queues/none/resume", ["admin"]),
    ("POST", "/queues/none/retry-dead", ["admin"]),
    ("DELETE", "/queues/none/jobs?state=DEAD", ["admin"]),
]


@pytest.mark.parametrize(("method", "path", "keys"), ROUTES)
def test_who_may_call_what(http: Http, method: str, path: str, keys: list[str]):
    for key in ("client", "worker", "admin"):
        refused = http.call(method, path, key=key).status == 403
        assert refused == (key not in keys), key
    answer = http.call(method, path, b"{", key=None)
    assert answer.status == 401
    assert answer.error == "Missing Authorization header"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/jobs/lease"),
        ("PUT", "/jobs/ack"),
        ("DELETE", f"/jobs/{NOBODYS}/extend"),
        ("GET", f"/jobs/{NOBODYS}/release"),
        ("PUT", f"/jobs/{NOBODYS}/cancel"),
        ("POST", "/queues"),
        ("GET", "/queues/none/pause"),
    ],
)
def test_another_method_is_refused(http: Http, method: str, path: str):
    answer = http.call(method, path, {} if method != "GET" else None)
    assert answer.status == 405
    assert answer.error


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT", "PATCH"])
@pytest.mark.parametrize("route", ["lease", "batch", "ack", "extend"])
def test_a_route_where_an_id_could_stand_is_no_job(http: Http, method: str, route: str):
    answer = http.call(method, f"/jobs/{route}")
    assert (answer.status, answer.headers["allow"]) == (405, "OPTIONS, POST")


@pytest.mark.parametrize("name", ["leases", "Lease", "ack.", "batch-1"])
def test_what_is_only_like_a_route_may_be_a_job(http: Http, name: str):
    answer = http.call("GET", f"/jobs/{name}")
    assert (answer.status, answer.error) == (404, f"job not found: {name}")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/jobs", {"payload": "p"}),
        ("/jobs/batch", {"jobs": [{"payload": "p"}]}),
        ("/jobs/lease", {}),
        ("/jobs/ack", {"acks": []}),
        (f"/jobs/{NOBODYS}/ack", {}),
        (f"/jobs/{NOBODYS}/cancel", {}),
    ],
)
@pytest.mark.parametrize("content_type", ["text/xml", "multipart/form-data; boundary=b"])
def test_a_body_of_another_format(http: Http, path: str, body: Json, content_type: str):
    before = http.all_counts()
    answer = http.call("POST", path, body, headers={"Content-Type": content_type})
    assert (answer.status, "application/json" in answer.error) == (415, True)
    assert http.all_counts() == before


@pytest.mark.parametrize(
    "content_type",
    [
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/a+json",
    ],
)
def test_a_type_that_names_no_other_format(http: Http, queue: str, content_type: str):
    assert http.submit(queue, headers={"Content-Type": content_type}).status == 201


def test_a_type_of_no_body(http: Http, queue: str):
    headers = {"Content-Type": "text/xml"}
    assert http.call("POST", "/jobs/lease", key="worker", headers=headers).status in (200, 404)
    assert http.call("GET", "/queues", headers=headers).status == 200


# Last: after all of this the node still works ---------------------------------------------------


def test_nothing_was_shaken(http: Http, node: RunningNode, queue: str):
    assert node.running
    lease = http.submitted_and_leased(queue)
    http.acked(lease, result="r")
    assert http.state(lease["job_id"]) == "ACKED"
    assert "Traceback" not in node.log
