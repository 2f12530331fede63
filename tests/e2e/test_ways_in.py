"""One table of requests through every way in: same status, same body, same headers.

Each way has the node to itself while it goes through a case, so that what it leases is what
it submitted. Ids, tokens, times and keys are replaced by their kind before they are compared.
"""

import json
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.node import RunningNode
from tests.support.ways import Headers, Http1, Http2, Seen, Way

MIB = 1 << 20
BODY_MAX = 2 * MIB
UNKNOWN_ID = "01234567-89ab-7def-8123-456789abcdef"
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
KEY = re.compile(r"\b(client|worker|admin)_[0-9A-Za-z]{8,}")
TOKEN = re.compile(r'("lease_token":)"\d+"')

Job = dict[str, Any]


class Node:
    """The node through one way in: what a case needs to set itself up."""

    def __init__(self, way: Way, keys: dict[str, str]) -> None:
        self._way = way
        self.keys = keys

    def send(
        self,
        method: str,
        target: str,
        key: str | None,
        body: bytes | None = None,
        headers: Headers = (),
    ) -> Seen:
        sent = list(headers)
        if key is not None:
            sent.insert(0, ("Authorization", f"Bearer {self.keys.get(key, key)}"))
        return self._way.send(method, target, sent, body)

    def submit(self, **fields: object) -> Job:
        body = json.dumps({"payload": "text", **fields}).encode()
        seen = self.send("POST", "/jobs", "client", body)
        assert seen.status == 201
        job: Job = json.loads(seen.body)
        return job

    def lease(self) -> Job:
        seen = self.send("POST", "/jobs/lease", "worker")
        assert seen.status == 200
        lease: Job = json.loads(seen.body)
        return lease

    def leased(self, **fields: object) -> Job:
        self.submit(**fields)
        return self.lease()

    def ack(self, lease: Job, **fields: object) -> Job:
        body = json.dumps({"lease_token": lease["lease_token"], **fields}).encode()
        seen = self.send("POST", f"/jobs/{lease['job_id']}/ack", "worker", body)
        assert seen.status == 200
        return lease

    def acked(self, **fields: object) -> Job:
        return self.ack(self.leased(), **fields)

    def failed(self, max_retries: int) -> Job:
        return self.ack(self.leased(max_retries=max_retries), result_error="boom \u2603")

    def revoked(self) -> Job:
        wanted = b'{"name":"n","owner_id":"dev-admin","type":"client"}'
        made = json.loads(self.send("POST", "/admin/keys", "admin", wanted).body)
        assert self.send("DELETE", f"/keys/{made['key']}", "admin").status == 200
        key: Job = made
        return key

    def drain(self) -> None:
        """Leave no job that can be leased."""
        while self.send("POST", "/jobs/lease", "worker").status == 200:
            pass


@dataclass(frozen=True)
class Case:
    """``{job_id}`` and the like in target, body and key are filled from what ``given`` returns."""

    status: int
    method: str
    target: str
    key: str | None = None
    body: bytes | None = None
    headers: Headers = ()
    given: Callable[[Node], Job] = lambda node: {}
    words: str | None = None
    """What ``error`` must be; with ``...`` at its end, how it must begin."""


def submit(status: int, body: bytes | None, words: str | None = None, **more: Any) -> Case:
    return Case(status, "POST", "/jobs", "client", body, words=words, **more)


def lease(status: int, body: bytes | None = None, words: str | None = None, **more: Any) -> Case:
    return Case(status, "POST", "/jobs/lease", "worker", body, words=words, **more)


def ack(
    status: int,
    body: bytes | None = None,
    words: str | None = None,
    given: Callable[[Node], Job] = Node.leased,
    **more: Any,
) -> Case:
    target = "/jobs/{job_id}/ack"
    return Case(status, "POST", target, "worker", body, given=given, words=words, **more)


def get(status: int, target: str = "/jobs/{job_id}", words: str | None = None, **more: Any) -> Case:
    return Case(status, "GET", target, "client", words=words, **more)


def authorized(status: int, *values: str, words: str | None = None, **more: Any) -> Case:
    headers = tuple(("Authorization", value) for value in values)
    return Case(status, "GET", f"/jobs/{UNKNOWN_ID}", headers=headers, words=words, **more)


OK = b'{"payload":"x"}'
WITH_TOKEN = b'{"lease_token":"{lease_token}","result":"r\xc3\xa9"}'

CASES = {
    # POST /jobs
    "submit": submit(201, OK),
    "submit, all fields": submit(201, b'{"payload":"x","max_retries":5}'),
    "submit, no attempts": submit(201, b'{"payload":"x","max_retries":0}'),
    "submit, any Unicode": submit(201, '{"payload":"\\u0000\'\\"\U0001f600"}'.encode()),
    "submit, 1 MiB": submit(201, b'{"payload":"' + b"x" * MIB + b'"}'),
    "submit, a byte more": submit(413, b'{"payload":"' + b"x" * (MIB + 1) + b'"}'),
    "submit, body of the limit": submit(400, b" " * BODY_MAX),
    "submit, body over the limit": submit(413, b" " * (BODY_MAX + 1)),
    "submit, query": Case(201, "POST", "/jobs?x=1&x=%00", "client", OK),
    "submit, form": submit(
        201, OK, headers=[("Content-Type", "application/x-www-form-urlencoded")]
    ),
    "submit, multipart": submit(
        415, OK, headers=[("Content-Type", "multipart/form-data; boundary=x")]
    ),
    "submit, xml": submit(415, OK, headers=[("Content-Type", "text/xml")]),
    "submit, nothing of xml": submit(400, b"", headers=[("Content-Type", "text/xml")]),
    "submit, xml without a key": Case(
        415, "POST", "/jobs", body=OK, headers=[("Content-Type", "text/xml")]
    ),
    "submit, some json": submit(201, OK, headers=[("Content-Type", "application/a+JSON; b=c")]),
    "submit, no type at all": submit(201, OK, headers=[("Content-Type", "json")]),
    "nothing, xml": Case(
        415, "POST", "/nothing", "admin", OK, headers=[("Content-Type", "text/xml")]
    ),
    "make a key, xml": Case(
        415, "POST", "/admin/keys", "admin", OK, headers=[("Content-Type", "text/xml")]
    ),
    "submit, charset": submit(201, OK, headers=[("Content-Type", "text/plain; charset=utf-16")]),
    "submit, said to be compressed": submit(
        400, b"\x1f\x8b", headers=[("Content-Encoding", "gzip")]
    ),
    "submit, other method claimed": submit(201, OK, headers=[("X-HTTP-Method-Override", "GET")]),
    "submit, other path claimed": submit(
        201, OK, headers=[("X-Original-URL", "/health"), ("X-Forwarded-Prefix", "/x")]
    ),
    "submit, no body": submit(400, None),
    "submit, empty body": submit(400, b""),
    "submit, no JSON": submit(400, b"{", "invalid JSON: ..."),
    "submit, array": submit(400, b"[]", "invalid JSON: ..."),
    "submit, no payload": submit(400, b"{}", "payload is required"),
    "submit, empty payload": submit(400, b'{"payload":""}', "payload is required"),
    "submit, payload no text": submit(400, b'{"payload":{}}'),
    "submit, negative": submit(
        400, b'{"payload":"x","max_retries":-1}', "max_retries must be >= 0"
    ),
    "submit, too many attempts": submit(400, b'{"payload":"x","max_retries":1000000000}'),
    "submit, 2^63": submit(400, b'{"payload":"x","max_retries":9223372036854775808}'),
    "submit, unknown field": submit(400, b'{"payload":"x","state":"ACKED"}'),
    "submit, not UTF-8": submit(400, b'{"payload":"\xff"}'),
    "submit, BOM": submit(400, b"\xef\xbb\xbf" + OK),
    "submit, lone surrogate": submit(400, b'{"payload":"\\ud800"}'),
    "submit, nested": submit(400, b"[" * 5000),
    "submit, worker": Case(403, "POST", "/jobs", "worker", OK),
    "submit, admin": Case(201, "POST", "/jobs", "admin", OK),
    "submit, no key": Case(401, "POST", "/jobs", None, OK, words="Missing Authorization header"),
    "submit, no key, bad body": Case(401, "POST", "/jobs", None, b"{"),
    # POST /jobs/lease
    "lease": lease(200, given=Node.submit),
    "lease, empty body": lease(200, b"", given=Node.submit),
    "lease, empty object": lease(200, b"{}", given=Node.submit),
    "lease, nothing there": lease(404, words="no jobs available"),
    "lease, no JSON": lease(400, b"{", given=Node.submit),
    "lease, unknown field": lease(400, b'{"x":1}', given=Node.submit),
    "lease, client": Case(403, "POST", "/jobs/lease", "client"),
    "lease, no key": Case(401, "POST", "/jobs/lease"),
    # POST /jobs/{id}/ack
    "ack": ack(200),
    "ack, empty object": ack(200, b"{}"),
    "ack, with a token": ack(200, WITH_TOKEN),
    "ack, result": ack(200, b'{"result":"r","result_error":""}'),
    "ack, failure": ack(200, b'{"result":"","result_error":"boom"}'),
    "ack, again": ack(200, WITH_TOKEN, given=lambda node: node.acked(result="r\xe9")),
    "ack, another outcome": ack(409, WITH_TOKEN, "lease lost", given=Node.acked),
    "ack, another token": ack(409, b'{"lease_token":"9999999"}', "lease lost"),
    "ack, waits": ack(400, words="failed to ack job: ...", given=Node.submit),
    "ack, done": ack(400, words="failed to ack job: ...", given=Node.acked),
    "ack, unknown": ack(
        400, words="failed to ack job: ...", given=lambda node: {"job_id": UNKNOWN_ID}
    ),
    "ack, no id": ack(400, words="failed to ack job: ...", given=lambda node: {"job_id": "x"}),
    "ack, no JSON": ack(400, b"{"),
    "ack, both": ack(400, b'{"result":"a","result_error":"b"}'),
    "ack, token no text": ack(400, b'{"lease_token":1}'),
    "ack, token no number": ack(400, b'{"lease_token":"x"}'),
    "ack, result too large": ack(413, b'{"result":"' + b"x" * (MIB + 1) + b'"}'),
    "ack, client": Case(403, "POST", f"/jobs/{UNKNOWN_ID}/ack", "client"),
    "ack, no key": Case(401, "POST", f"/jobs/{UNKNOWN_ID}/ack"),
    # GET /jobs/{id}
    "get, waits": get(200, given=Node.submit),
    "get, runs": get(200, given=Node.leased),
    "get, done": get(200, given=lambda node: node.acked(result="\u2603")),
    "get, done without result": get(200, given=Node.acked),
    "get, failed": get(200, given=lambda node: node.failed(3)),
    "get, dead": get(200, given=lambda node: node.failed(1)),
    "get, query": get(200, "/jobs/{job_id}?x=%00", given=Node.submit),
    "get, with a body": Case(
        200, "GET", "/jobs/{job_id}", "client", b"{", given=Node.submit
    ),
    "get, worker": Case(200, "GET", "/jobs/{job_id}", "worker", given=Node.submit),
    "get, unknown": get(404, f"/jobs/{UNKNOWN_ID}", f"job not found: {UNKNOWN_ID}"),
    "get, no id": get(404, "/jobs/x", "job not found: x"),
    "get, upper case": get(404, f"/jobs/{UNKNOWN_ID.upper()}"),
    "get, braces": get(404, f"/jobs/%7B{UNKNOWN_ID}%7D"),
    "get, too long": get(404, "/jobs/" + "a" * 4000),
    "get, escaped digit": get(404, f"/jobs/%30{UNKNOWN_ID[1:]}"),
    "get, NUL": get(404, "/jobs/%00"),
    "get, not UTF-8": get(404, "/jobs/%ff"),
    "get, Unicode": get(404, "/jobs/%C3%A9"),
    "get, line end": get(404, "/jobs/%0d%0aX:%20y"),
    "get, slash behind": get(404, f"/jobs/{UNKNOWN_ID}/"),
    "get, slash inside": get(404, "/jobs/a%2Fb"),
    "get, two slashes": get(404, f"//jobs/{UNKNOWN_ID}"),
    "get, dots": get(404, "/jobs/../health"),
    "get, escaped dots": get(404, "/jobs/%2e%2e/health"),
    "get, no escape": get(404, "/jobs/%zz"),
    "get, backslash": get(404, "/jobs/a%5Cb"),
    "get, no key": Case(401, "GET", f"/jobs/{UNKNOWN_ID}"),
    # Who asks
    "auth, scheme in lower case": authorized(404, "bearer {admin}"),
    "auth, two spaces": authorized(404, "Bearer   {admin}"),
    "auth, other scheme": authorized(401, "Basic eDp5"),
    "auth, no scheme": authorized(401, "{admin}"),
    "auth, only scheme": authorized(401, "Bearer"),
    "auth, empty": authorized(401, ""),
    "auth, empty key": authorized(401, "Bearer "),
    "auth, unknown key": authorized(401, "Bearer client_x", words="Invalid API key"),
    "auth, a character more": authorized(401, "Bearer {admin}x", words="Invalid API key"),
    "auth, 10 kB": authorized(401, "Bearer " + "x" * 10_000, words="Invalid API key"),
    "auth, two keys": authorized(401, "Bearer {admin}, Bearer {admin}"),
    "auth, twice": authorized(400, "Bearer {admin}", "Bearer {admin}"),
    "auth, revoked": authorized(
        401, "Bearer {key}", words="API key has been revoked", given=Node.revoked
    ),
    "auth, in the query": Case(401, "GET", f"/jobs/{UNKNOWN_ID}?key=x&access_token=x"),
    # Methods
    "get of jobs": Case(200, "GET", "/jobs?queue=empty", "client"),
    "put": Case(405, "PUT", "/jobs", "client", OK, words="method not allowed"),
    "delete": Case(404, "DELETE", f"/jobs/{UNKNOWN_ID}", "admin"),
    "patch": Case(405, "PATCH", f"/jobs/{UNKNOWN_ID}", "admin", b"{}"),
    "post of get": Case(405, "POST", f"/jobs/{UNKNOWN_ID}", "admin", b"{}"),
    "get of ack": Case(405, "GET", f"/jobs/{UNKNOWN_ID}/ack", "worker"),
    "post of health": Case(405, "POST", "/health", None, b""),
    "trace": Case(405, "TRACE", "/jobs", "admin"),
    "head of jobs": Case(200, "HEAD", "/jobs?queue=empty", "client"),
    "head of health": Case(200, "HEAD", "/health"),
    "head of a job": Case(200, "HEAD", "/jobs/{job_id}", "client", given=Node.submit),
    "head of no job": Case(404, "HEAD", f"/jobs/{UNKNOWN_ID}", "client"),
    "head without a key": Case(401, "HEAD", f"/jobs/{UNKNOWN_ID}"),
    "options of submit": Case(200, "OPTIONS", "/jobs"),
    "options of a job": Case(200, "OPTIONS", f"/jobs/{UNKNOWN_ID}"),
    "options of health": Case(200, "OPTIONS", "/health"),
    "options of nothing": Case(404, "OPTIONS", "/nothing"),
    # The rest of Part 1
    "health": Case(200, "GET", "/health"),
    "health with a bad key": Case(200, "GET", "/health", "x"),
    "health, query": Case(200, "GET", "/health?x"),
    "health, slash": Case(404, "GET", "/health/"),
    "ready": Case(200, "GET", "/ready"),
    "nothing": Case(404, "GET", "/nothing"),
    "root": Case(404, "GET", "/"),
    "keys": Case(200, "GET", "/keys", "worker"),
    "keys, no key": Case(401, "GET", "/keys"),
    "make a key": Case(
        201, "POST", "/admin/keys", "admin", b'{"name":"n","owner_id":"o","type":"client"}'
    ),
    "make a key, nameless": Case(
        400, "POST", "/admin/keys", "admin", b'{"owner_id":"o","type":"client"}',
        words="name is required",
    ),
    "make a key, no JSON": Case(400, "POST", "/admin/keys", "admin", b"{", words="invalid JSON"),
    "make a key, client": Case(
        403, "POST", "/admin/keys", "client", b"{}", words="Admin access required"
    ),
    "revoke, unknown": Case(
        404, "DELETE", "/keys/client_AAAAAAAA", "admin", words="key not found"
    ),
    "revoke, not the owner": Case(
        403, "DELETE", "/keys/{admin}", "client", words="access denied: not the owner"
    ),
}  # fmt: skip

WAYS = ("plain", "plain, TLS", "app", "app, TLS", "HTTP/2")


# A job that came back meanwhile, failed or its lease over, would be leased before a fresh one.
ENVIRONMENT = {"MAX_BODY": str(BODY_MAX), "LEASE_DURATION": "1h"}
ENVIRONMENT |= {"RETRY_BACKOFF": "1h", "RETRY_BACKOFF_MAX": "1h"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_node(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningNode]:
    directory = tmp_path_factory.mktemp("tls-node")
    certificate, key = Path(directory, "cert.pem"), Path(directory, "key.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(key)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(certificate, append=True)
    environment = {"TLS_CERT": str(certificate), "TLS_KEY": str(key), **ENVIRONMENT}
    with RunningNode(directory, environment) as node:
        yield node


@pytest.fixture(scope="module")
def clear_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with RunningNode(tmp_path_factory.mktemp("node"), ENVIRONMENT) as node:
        yield node


@pytest.fixture(scope="module")
def nodes(authority: trustme.CA, tls_node: RunningNode, clear_node: RunningNode) -> dict[str, Node]:
    def trusting(*protocols: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    ways: dict[str, tuple[Way, RunningNode]] = {
        "plain": (Http1(clear_node.port, tls=None), clear_node),
        "plain, TLS": (Http1(tls_node.port, tls=trusting()), tls_node),
        "app": (Http1(clear_node.port, tls=None, suffix="?"), clear_node),
        "app, TLS": (Http1(tls_node.port, tls=trusting(), suffix="?"), tls_node),
        "HTTP/2": (Http2(tls_node.port, trusting("h2")), tls_node),
    }
    return {name: Node(way, node.keys) for name, (way, node) in ways.items()}


def run(node: Node, case: Case) -> Seen:
    """What the client sees, with what differs by nature replaced by its kind."""
    node.drain()
    given = {**node.keys, **case.given(node)}
    target = filled(case.target, given)
    headers = [(name, filled(value, given)) for name, value in case.headers]
    body = (
        None if case.body is None else filled(case.body.decode("latin-1"), given).encode("latin-1")
    )
    seen = node.send(case.method, target, case.key, body, headers)
    return Seen(seen.status, seen.headers, normalised(seen.body))


def filled(text: str, given: Job) -> str:
    for name, value in given.items():
        text = text.replace("{" + name + "}", str(value))
    return text


def normalised(body: bytes) -> bytes:
    text = body.decode()
    for pattern, kind in (
        (ID, "<id>"),
        (TIME, "<time>"),
        (KEY, r"<\1 key>"),
        (TOKEN, r"\1<token>"),
    ):
        text = pattern.sub(kind, text)
    return text.encode()


def without_length(seen: Seen) -> tuple[tuple[str, str], ...]:
    # Times have a fraction or none, tokens grow: such a body's length is not its meaning.
    # That it is the body's real length is what the client itself has checked.
    return tuple((name, value) for name, value in seen.headers if name != "content-length")


@pytest.mark.parametrize("name", CASES)
def test_every_way_in_gives_the_same_answer(nodes: dict[str, Node], name: str) -> None:
    case = CASES[name]
    seen = {way: run(nodes[way], case) for way in WAYS}
    reference = seen["app"]
    for way, answer in seen.items():
        assert answer.status == case.status, f"{way}: {answer}"
        assert has_length(answer) == has_length(reference), f"{way}: {answer}"
        if "keys" in case.target and case.method == "GET":
            # The two nodes have different keys by now.
            continue
        assert answer.body == reference.body, way
        assert without_length(answer) == without_length(reference), way
    if case.words is not None:
        assert_words(json.loads(reference.body)["error"], case.words)


def has_length(seen: Seen) -> bool:
    return any(name == "content-length" for name, _ in seen.headers)


def assert_words(error: str, words: str) -> None:
    if words.endswith("..."):
        assert error.startswith(words.removesuffix("..."))
    else:
        assert normalised(error.encode()) == normalised(words.encode())


def test_refusals_are_json_with_an_error_and_say_no_more(nodes: dict[str, Node]) -> None:
    for case in CASES.values():
        if case.status >= 400 and case.method != "HEAD":
            seen = run(nodes["app"], case)
            assert dict(seen.headers)["content-type"] == "application/json"
            assert list(json.loads(seen.body)) == ["error"], case
            assert ("www-authenticate" in dict(seen.headers)) == (case.status == 401)
            assert "server" not in dict(seen.headers)
