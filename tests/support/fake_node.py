"""A node of the contract in one thread's worth of memory, which fails on demand.

It knows what a client can see of a node (submit, also many and with idempotency keys, lease,
ack, read, keys) and nothing of disks or partitions, nor of ``wait``. ``fail(what, fault, ...)``
queues faults; each is used up by one request.
"""

import itertools
import json
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

CLIENT_KEY = "client_fake"
WORKER_KEY = "worker_fake"


@dataclass(frozen=True)
class Answer:
    """An answer that the fake gives instead of its own."""

    status: int
    body: bytes = b'{"error": "made to fail"}'
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"


@dataclass(frozen=True)
class HangUp:
    """Close the connection without an answer, after or before the request was carried out."""

    ran: bool


@dataclass(frozen=True)
class Stall:
    """Answer nothing until ``release`` is set."""

    release: threading.Event


Fault = Answer | HangUp | Stall


@dataclass
class FakeJob:
    """One job of the fake."""

    job_id: str
    payload: str
    max_retries: int
    created_at: datetime
    state: str = "READY"
    attempts: int = 0
    lease_token: int = 0
    lease_until: datetime | None = None
    settled: tuple[bool, str] | None = None  # success?, text
    result: str | None = None
    result_error: str | None = None
    progress: float | str | None = None


@dataclass
class Seen:
    """A request as it arrived."""

    what: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeNode:
    """Serves from ``__enter__`` to ``__exit__`` on ``url``."""

    lease_duration: timedelta = timedelta(seconds=30)
    skew: timedelta = timedelta()
    """How far the fake's clock is ahead of this machine's."""
    result_bytes_max: int = 1 << 20
    payload_characters_max: int = 1 << 20
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)
    url: str = ""
    submitted: dict[str, tuple[Any, str]] = field(default_factory=dict)
    """``{idempotency key: (the body of its first submit, job id)}``."""

    def __post_init__(self) -> None:
        # Reentrant: what wait_until() looks at may ask count().
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._numbers = itertools.count()
        self._server: _Server | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self.stop()

    def start(self) -> None:
        """Listen, on the port of the first time when started again."""
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.node = self
        self._port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and cut every connection."""
        assert self._server is not None
        self._server.shutdown()
        self._server.cut_all()
        self._server.server_close()
        self._thread.join()
        self._server = None

    def fail(self, what: str, *faults: Fault) -> None:
        """Meet the next requests ``what`` (submit, batch, lease, ack, get) with faults."""
        with self._lock:
            self._faults[what].extend(faults)

    def count(self, what: str) -> int:
        """Requests ``what`` so far."""
        with self._lock:
            return sum(seen.what == what for seen in self.seen)

    def wait_until(self, holds: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until ``holds()``, which is looked at after each request; fail if it never is."""
        with self._changed:
            assert self._changed.wait_for(holds, seconds), "it did not come to hold"

    def put(self, payload: str, max_retries: int = 3) -> FakeJob:
        """Store a job as a submit would."""
        with self._lock:
            return self._put(payload, max_retries)

    # What follows is called by the handler's threads.

    def handle(self, seen: Seen, key: str) -> Answer | HangUp:
        """Carry out one request."""
        with self._changed:
            self.seen.append(seen)
            self._changed.notify_all()
            faults = self._faults[seen.what]
            fault = faults.popleft() if faults else None
        if isinstance(fault, Stall):
            fault.release.wait(20)
            fault = None
        if isinstance(fault, Answer) or (isinstance(fault, HangUp) and not fault.ran):
            return fault
        with self._changed:
            answer = self._carry_out(seen, key)
            self._changed.notify_all()
        return fault if isinstance(fault, HangUp) else answer

    def now(self) -> datetime:
        """The fake's clock."""
        return datetime.now(UTC) + self.skew

    def _carry_out(self, seen: Seen, key: str) -> Answer:
        if key in self.revoked:
            return _error(401, "API key has been revoked")
        if key not in (CLIENT_KEY, WORKER_KEY):
            return _error(401, "Invalid API key")
        if seen.what in ("submit", "batch") and key != CLIENT_KEY:
            return _error(403, "Insufficient permissions: jobs:submit is required")
        if seen.what == "submit":
            return self._submit(json.loads(seen.body))
        if seen.what == "batch":
            return self._submit_many(json.loads(seen.body)["jobs"])
        if seen.what == "lease":
            return self._lease_many(seen)
        if seen.what == "ack":
            return self._ack(seen)
        if seen.what in ("extend", "release"):
            return self._keep_or_release(seen)
        if seen.what == "get":
            return self._get(seen)
        return _error(404, "not found")

    def _submit(self, body: dict[str, Any]) -> Answer:
        job_key = body.get("idempotency_key")
        if job_key in self.submitted:
            before, job_id = self.submitted[job_key]
            if before != body:
                return _error(422, "idempotency_key was used before, for a job with another body")
            return _json(200, {"job_id": job_id})
        if len(body["payload"]) > self.payload_characters_max:
            return _error(413, "payload too large")
        job = self._put(body["payload"], body.get("max_retries", 3))
        if job_key is not None:
            self.submitted[job_key] = (body, job.job_id)
        return _json(201, {"job_id": job.job_id})

    def _submit_many(self, bodies: list[dict[str, Any]]) -> Answer:
        for index, body in enumerate(bodies):
            before = self.submitted.get(body.get("idempotency_key", ""))
            if before is not None and before[0] != body:
                return _error(422, f"jobs[{index}]: idempotency_key was used before")
            if len(body["payload"]) > self.payload_characters_max:
                return _error(413, f"jobs[{index}]: payload too large")
        answers = [json.loads(self._submit(body).body) for body in bodies]
        return _json(201, {"job_ids": [answer["job_id"] for answer in answers]})

    def _put(self, payload: str, max_retries: int) -> FakeJob:
        job = FakeJob(f"job-{next(self._numbers)}", payload, max_retries, self.now())
        self.jobs[job.job_id] = job
        return job

    def _lease_many(self, seen: Seen) -> Answer:
        wanted = json.loads(seen.body or b"{}").get("max")
        if wanted is None:
            return self._lease()
        leased: list[Any] = []
        while len(leased) < wanted and (answer := self._lease()).status == 200:
            leased.append(json.loads(answer.body))
        return _json(200, {"jobs": leased}) if leased else answer

    def _lease(self) -> Answer:
        self._expire()
        for job in self.jobs.values():
            if job.state in ("READY", "RETRY"):
                job.state = "RUNNING"
                job.attempts += 1
                job.lease_token += 1
                job.settled = None
                job.lease_until = self.now() + self.lease_duration
                return _json(
                    200,
                    {
                        "job_id": job.job_id,
                        "payload": job.payload,
                        "lease_until": _rfc3339(job.lease_until),
                        "attempt": job.attempts,
                        "lease_token": str(job.lease_token),
                        "max_retries": job.max_retries,
                        "created_at": _rfc3339(job.created_at),
                        "queue": "default",
                    },
                )
        return _error(404, "no jobs available")

    def _ack(self, seen: Seen) -> Answer:
        self._expire()
        body = json.loads(seen.body or b"{}")
        if "acks" not in body:
            return self._ack_one(seen.headers["x-job"], body)
        answers = [self._ack_one(item["job_id"], item) for item in body["acks"]]
        # As the node: what no item may be refuses all of them.
        refused = [answer for answer in answers if answer.status == 413]
        return refused[0] if refused else _results(answers)

    def _keep_or_release(self, seen: Seen) -> Answer:
        self._expire()
        body = json.loads(seen.body)
        if seen.what == "extend":
            return _results([self._extend_one(item) for item in body["extends"]])
        job = self.jobs[seen.headers["x-job"]]
        if job.state != "RUNNING" or body["lease_token"] != str(job.lease_token):
            return _error(409, "lease lost")
        job.state, job.lease_until, job.attempts = "READY", None, job.attempts - 1
        return Answer(200, b"")

    def _extend_one(self, item: dict[str, Any]) -> Answer:
        job = self.jobs[item["job_id"]]
        if job.state == "CANCELLED":
            return _error(409, "cancelled")
        if job.state != "RUNNING" or item["lease_token"] != str(job.lease_token):
            return _error(409, "lease lost")
        job.lease_until = self.now() + timedelta(
            seconds=item.get("lease_duration", self.lease_duration.total_seconds())
        )
        job.progress = item.get("progress", job.progress)
        return _json(200, {"lease_until": _rfc3339(job.lease_until)})

    def _ack_one(self, job_id: str, body: dict[str, Any]) -> Answer:
        job = self.jobs.get(job_id)
        if job is None:
            return _error(400, f"failed to ack job: job not found: {job_id}")
        error = body.get("result_error", "")
        outcome = (not error, error or body.get("result", ""))
        if len(outcome[1].encode()) > self.result_bytes_max:
            return _error(413, "result too large")
        if body.get("lease_token") != str(job.lease_token):
            return _error(409, "lease lost")
        if job.settled == outcome:
            return Answer(200, b"")
        if job.state != "RUNNING":
            return _error(409, "lease lost")
        job.settled = outcome
        job.lease_until = None
        if not error:
            job.state, job.result, job.result_error = "ACKED", outcome[1], None
        else:
            again = job.attempts < job.max_retries and body.get("retry", True)
            job.state = "RETRY" if again else "DEAD"
            job.result_error = error
        return Answer(200, b"")

    def _get(self, seen: Seen) -> Answer:
        self._expire()
        job = self.jobs.get(seen.headers["x-job"])
        if job is None:
            return _error(404, f"job not found: {seen.headers['x-job']}")
        shown: dict[str, Any] = {
            "job_id": job.job_id,
            "state": job.state,
            "attempts": job.attempts,
            "max_retries": job.max_retries,
            "created_at": _rfc3339(job.created_at),
        }
        if job.lease_until is not None:
            shown["lease_until"] = _rfc3339(job.lease_until)
        if job.result is not None:
            shown["result"] = job.result
        if job.result_error is not None:
            shown["result_error"] = job.result_error
        return _json(200, shown)

    def _expire(self) -> None:
        for job in self.jobs.values():
            if job.state == "RUNNING" and job.lease_until and job.lease_until <= self.now():
                job.state, job.lease_until, job.settled = "RETRY", None, None


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    node: FakeNode

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().close_request(request)

    def cut_all(self) -> None:
        with self._open_lock:
            for connection in self._open:
                # The other end may have hung up already.
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Cut connections are part of the game.
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one segment per answer
    server: _Server

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what, job_id = _what(self.command, self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        headers["x-job"] = job_id
        key = headers.get("authorization", "").removeprefix("Bearer ")
        answer = self.server.node.handle(Seen(what, headers, body), key)
        if isinstance(answer, HangUp):
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        self.send_header("Date", self.date_time_string(self.server.node.now().timestamp()))
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        pass


def _what(method: str, path: str) -> tuple[str, str]:
    match method, path.partition("?")[0].strip("/").split("/"):
        case "POST", ["jobs"]:
            return "submit", ""
        case "POST", ["jobs", "batch"]:
            return "batch", ""
        case "POST", ["jobs", "lease"]:
            return "lease", ""
        case "POST", ["jobs", "ack"]:
            return "ack", ""
        case "POST", ["jobs", "extend"]:
            return "extend", ""
        case "POST", ["jobs", job_id, "release"]:
            return "release", job_id
        case "POST", ["jobs", job_id, "ack"]:
            return "ack", job_id
        case "GET", ["jobs", job_id]:
            return "get", job_id
        case _:
            return "other", ""


def _json(status: int, value: Any) -> Answer:
    return Answer(status, json.dumps(value).encode())


def _results(answers: list[Answer]) -> Answer:
    return _json(
        200,
        {"results": [{"status": each.status} | json.loads(each.body or "{}") for each in answers]},
    )


def _error(status: int, words: str) -> Answer:
    return _json(status, {"error": words})


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
