"""Requests that nobody would write, as bytes on a connection: each has an answer, none a trace.

Every route of the document with mutilated bodies, paths, queries, methods and headers. Whatever is
sent: an answer comes, it is no 500, a refusal is ``{"error": words}``, and the node has no job
that it did not say it had stored.
"""

import contextlib
import http.client
import itertools
import json
import re
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from api.lease_schemas import LeaseRequest, decode_lease
from api.openapi import ROUTES
from api.query_schemas import decode_wait, query_pairs
from tests.support.contract import NOBODYS, Http
from tests.support.node import RunningNode

EXAMPLES = 400
WAIT_MS_MAX = 20
"""What a fuzzed request may park for."""
WORDS_MAX = 1000
"""Of an error: it may repeat what was sent, not all of it."""
TIMEOUT_S = 60.0
NEVER_DONE = frozenset({501, 505})
"""5xx of a request that the door does not know how to read."""

FUZZED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
numbers = itertools.count()


class Request(NamedTuple):
    method: str
    target: bytes
    """As it is sent; without line breaks, which would make it something else."""
    body: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    chunked: bool = False
    key: str | None = "admin"

    @property
    def head(self) -> bytes:
        framing = (
            b"Transfer-Encoding: chunked"
            if self.chunked
            else b"Content-Length: %d" % len(self.body)
        )
        extra = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in self.headers)
        return (
            self.method.encode() + b" " + self.target + b" HTTP/1.1\r\nHost: a\r\n"
            + extra + framing + b"\r\n"
        )  # fmt: skip

    @property
    def framed_body(self) -> bytes:
        if not self.chunked:
            return self.body
        chunk = b"%x\r\n%b\r\n" % (len(self.body), self.body) if self.body else b""
        return chunk + b"0\r\n\r\n"


class Answer(NamedTuple):
    status: int
    content_type: str | None
    body: bytes


class Lease(NamedTuple):
    job_id: str
    token: str


class Wire:
    """A connection to the node, made anew when the node has ended it with an answer."""

    def __init__(self, node: RunningNode) -> None:
        self.node = node
        self._socket: socket.socket | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, request: Request) -> Answer:
        """Raises ``http.client.RemoteDisconnected`` when no answer came, which fails the test."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self.node.port), TIMEOUT_S)
        key = self.node.keys.get(request.key or "", request.key)
        authorization = f"Authorization: Bearer {key}\r\n".encode() if key else b""
        # The node may have answered and closed before it has all of it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(request.head + authorization + b"\r\n" + request.framed_body)
        response = http.client.HTTPResponse(self._socket, method=request.method)
        response.begin()
        body = response.read()
        if response.will_close:
            self.close()
        return Answer(response.status, response.getheader("Content-Type"), body)


class Stored:
    """What the node said it has: ids of jobs by what came back."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.refused = 0
        self.done = 0

    def note(self, answer: Answer) -> None:
        if answer.status >= 400:
            self.refused += 1
            return
        self.done += 1
        if answer.content_type == "application/json" and answer.body:
            said = json.loads(answer.body)
            if isinstance(said, dict):
                self.ids.update(said.get("job_ids", ()))
                self.ids.update([said["job_id"]] if "job_id" in said else ())


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    environment = {"FRONTS": "1", "PARTITIONS": "2", "LEASE_DURATION": "1h"}
    with RunningNode(tmp_path_factory.mktemp("node"), environment) as running:
        yield running


@pytest.fixture
def wire(node: RunningNode) -> Iterator[Wire]:
    with contextlib.closing(Wire(node)) as connected:
        yield connected


@pytest.fixture(scope="module")
def stored() -> Stored:
    return Stored()


@pytest.fixture(scope="module")
def leases(node: RunningNode, stored: Stored) -> list[Lease]:
    """Some jobs with live leases."""
    everybody = Http(node)
    stored.ids.update(everybody.submitted_batch([{"payload": "x", "queue": "held"}] * 20))
    held = everybody.drained("held", most=20)
    return [Lease(one["job_id"], one["lease_token"]) for one in held]


# What is sent -----------------------------------------------------------------------------------

TEXTS = st.text(max_size=20) | st.sampled_from(["", "default", "x" * 300, "\x00"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | TEXTS
    | st.sampled_from(["10ms", "1s", "0", "-1s", "9" * 30, "2030-01-01T00:00:00Z", "9999h"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
JOB: dict[str, Any] = {
    "payload": "x", "max_retries": 3, "queue": "q", "priority": 5, "delay": "1h",
    "lease_duration": "1m", "backoff": {"initial": 1, "factor": 2, "max": "1h", "jitter": 0.5},
    "group": "g", "idempotency_key": "k", "ttl": "2h", "retention": "1h", "tags": {"a": "b"},
}  # fmt: skip
ACK: dict[str, Any] = {
    "lease_token": "1", "result_error": "e", "retry": True, "retry_in": "1m",
}  # fmt: skip
EXTEND: dict[str, Any] = {"lease_token": "1", "lease_duration": "1m", "progress": 50}
BODIES: dict[str, Any] = {
    "/jobs": JOB,
    "/jobs/batch": {"jobs": [{"payload": "x"}, JOB]},
    "/jobs/lease": {
        "queues": ["q"], "max": 2, "wait": "0ms", "lease_duration": "1m", "worker": "w",
    },
    "/jobs/{job_id}/ack": ACK,
    "/jobs/ack": {"acks": [{"job_id": NOBODYS, **ACK}]},
    "/jobs/{job_id}/extend": EXTEND,
    "/jobs/extend": {"extends": [{"job_id": NOBODYS, **EXTEND}]},
    "/jobs/{job_id}/release": {"lease_token": "1", "delay": "1m"},
    "/admin/keys": {"name": "n", "owner_id": "o", "type": "client"},
}  # fmt: skip
"""Of each route, one that would be taken but for the ids."""


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything inside."""
    yield at
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*at, name))


def _put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    name, *rest = at
    if isinstance(value, dict):
        return {**value, name: _put(value.get(name), tuple(rest), new)}
    return [_put(v, tuple(rest), new) if i == name else v for i, v in enumerate(value)]


@st.composite
def mangled(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes that were right: some cut out, put in, doubled, or put elsewhere."""
    start = draw(st.integers(0, len(whole)))
    end = draw(st.integers(start, min(len(whole), start + 8)))
    between = draw(st.binary(max_size=4) | st.just(whole[start:end] * 2) | st.just(b""))
    return draw(st.sampled_from([whole[:start] + between + whole[end:], whole[:start] + between]))


@st.composite
def bodies(draw: st.DrawFn, path: str, queue: str, lease: Lease) -> bytes:
    """For a route: nothing, anything, or nearly what it takes, about a queue of its own."""
    right = BODIES.get(path)
    kind = draw(st.sampled_from(["right", "near", "near", "near", "mangled", "json", "bytes"]))
    if right is None or kind == "bytes":
        return draw(st.binary(max_size=40))
    text = json.dumps(right).replace('"q"', json.dumps(queue)).replace(NOBODYS, lease.job_id)
    right = json.loads(text.replace('"lease_token": "1"', f'"lease_token": "{lease.token}"'))
    if kind == "json":
        return json.dumps(draw(JSON)).encode()
    if kind == "near":
        at = draw(st.sampled_from([place for place in _places(right) if place]))
        if isinstance(at[-1], str) and draw(st.booleans()):
            at = (*at[:-1], draw(TEXTS))
        right = _put(right, at, draw(JSON))
    whole = json.dumps(right, ensure_ascii=draw(st.booleans())).encode()
    return draw(mangled(whole)) if kind == "mangled" else whole


VISIBLE = st.lists(st.integers(0x21, 0x7E), max_size=20).map(bytes)
ODD = st.sampled_from(
    [b"%00", b"%ff", b"%2e%2e", b"..", b"%2F", b"%", b"%zz", b"\xff", b" ", b"\t", b"\x00",
     b"x" * 9000, b"%F0%9F%98%80", b"%ED%A0%80", b"?", b"#", b"\\", b"*", b"", b"batch", b"ack"]
)  # fmt: skip
SEGMENTS = (
    ODD
    | VISIBLE
    | TEXTS.map(lambda text: quote(text.encode(), safe="").encode())
    | st.sampled_from([NOBODYS.encode(), NOBODYS.upper().encode(), b"default", b"held"])
)
QUERIES = st.lists(
    st.tuples(
        st.sampled_from([b"queue", b"state", b"tag", b"group", b"limit", b"cursor", b"wait"])
        | VISIBLE,
        SEGMENTS | st.sampled_from([b"READY", b"RUNNING", b"a:b", b"1", b"1001", b"10ms"]),
    ),
    max_size=3,
).map(lambda pairs: b"&".join(name + b"=" + value for name, value in pairs))
METHODS = st.sampled_from(
    ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW", "get"]
)
HEADERS = st.lists(
    st.sampled_from(
        [
            ("Content-Type", b"text/plain"),
            ("Content-Type", b"text/xml"),
            ("Content-Type", b"\xff"),
            ("Content-Encoding", b"gzip"),
            ("Accept", b"application/xml"),
            ("Idempotency-Key", b"k"),
            ("Idempotency-Key", b""),
            ("Idempotency-Key", b"\xff"),
            ("Idempotency-Key", b"x" * 300),
            ("Expect", b"something"),
            ("Range", b"bytes=0-1"),
            ("If-None-Match", b"*"),
            ("X-HTTP-Method-Override", b"DELETE"),
            ("Connection", b"close"),
            ("Upgrade", b"websocket"),
        ]
    ),
    max_size=2,
).map(tuple)
KEYS = st.sampled_from(["admin", "admin", "admin", "client", "worker", None, "nonsense"])
LEADING = (b"", b"/", b"/jobs", b"/queues", b"/keys", b"/admin")


@st.composite
def requests(draw: st.DrawFn, leases: list[Lease], queue: str) -> Request:
    """A request to one of the routes, with one or two things that are not as they should be."""
    route = draw(st.sampled_from(ROUTES))
    lease = draw(st.sampled_from(leases))
    what = draw(st.sampled_from(["body", "body", "path", "query", "method", "headers"]))
    segment = draw(SEGMENTS) if what == "path" else None
    target = route.path.encode()
    for name, right in (("job_id", lease.job_id), ("queue", queue), ("key", "nobody")):
        target = target.replace(b"{%b}" % name.encode(), segment or right.encode())
    if what == "path" and segment is not None and draw(st.booleans()):
        target = draw(st.sampled_from(LEADING)) + b"/" + segment
    if what == "query" or draw(st.booleans()):
        target += b"?" + draw(QUERIES)
    body = draw(bodies(route.path, queue, lease))
    return Request(
        draw(METHODS) if what == "method" else route.method.upper(),
        target,
        body if route.body is not None or what == "body" else b"",
        draw(HEADERS) if what == "headers" else (),
        draw(st.booleans()),
        draw(KEYS),
    )


def parks(request: Request) -> bool:
    """Whether it would hold up the test: a wait is drawn like any other number."""
    _, _, query = request.target.partition(b"?")
    asked = decode_lease(request.body)
    wait_ms = decode_wait(query_pairs(query.decode("latin-1")))
    return (isinstance(asked, LeaseRequest) and asked.wait_ms > WAIT_MS_MAX) or (
        isinstance(wait_ms, int) and wait_ms > WAIT_MS_MAX
    )


# What comes back --------------------------------------------------------------------------------


def assert_in_order(request: Request, answer: Answer) -> None:
    assert answer.status < 500 or answer.status in NEVER_DONE, answer
    if answer.status < 400 or request.method == "HEAD":
        return
    assert answer.content_type == "application/json", answer
    said = json.loads(answer.body)
    assert set(said) == {"error"}, answer
    assert isinstance(said["error"], str)
    assert 0 < len(said["error"]) <= WORDS_MAX, answer


def test_every_request_has_an_answer_and_a_refused_one_leaves_nothing(
    node: RunningNode, wire: Wire, stored: Stored, leases: list[Lease]
):
    @FUZZED
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        queue = f"fuzz-{next(numbers)}"
        request = data.draw(requests(leases, queue).filter(lambda drawn: not parks(drawn)))
        try:
            answer = wire.ask(request)
        except BaseException:
            wire.close()
            raise
        assert_in_order(request, answer)
        stored.note(answer)
        if answer.status >= 400:
            assert_untouched(wire, queue)

    run()
    assert stored.refused
    assert stored.done
    assert set(Http(node).listed(1000)) <= stored.ids


def assert_untouched(wire: Wire, queue: str) -> None:
    view = json.loads(wire.ask(Request("GET", b"/queues/" + queue.encode(), b"")).body)
    assert set(view["counts"].values()) == {0}, view
    assert view["paused"] is False


PLAIN = b'POST /jobs/lease HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{"wait":"0s"}'
PLAIN_CHUNKED = (
    b"POST /jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'7\r\n{"paylo\r\n9;x=y\r\nad": "x"}\r\n0\r\nX: y\r\n\r\n'
)


@settings(FUZZED, max_examples=EXAMPLES // 2)
@given(sent=st.binary(max_size=200) | mangled(PLAIN) | mangled(PLAIN_CHUNKED))
@example(sent=PLAIN)
@example(sent=PLAIN_CHUNKED)
@example(sent=b"\r\n\r\n\r\n")
def test_bytes_that_are_hardly_a_request(node: RunningNode, sent: bytes):
    """An answer, or when they are but the beginning of a request, the end: nothing hangs."""
    with socket.create_connection(("127.0.0.1", node.port), TIMEOUT_S) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    statuses = [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3}) ", said, re.MULTILINE)]
    assert bool(said) == bool(statuses)
    assert all(status < 500 or status in NEVER_DONE for status in statuses), said
    if sent in (PLAIN, PLAIN_CHUNKED):
        assert statuses == [401]


# Last ---------------------------------------------------------------------------------------------


def test_nothing_went_wrong_inside(node: RunningNode):
    assert node.running
    assert "Traceback" not in node.log
    assert node.request("GET", "/ready").status == 200
