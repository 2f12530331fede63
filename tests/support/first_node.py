"""A node that knows the first part of the contract and nothing else, as the original system did.

It ignores what it does not know (fields, query strings, idempotency keys), leases one job at a
time without a token, and answers other paths as such a server does: 404, or 405.
"""

import itertools
import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_BACKOFF = timedelta(milliseconds=50)
_Answer = tuple[int, Any]
"""A status, and what becomes JSON; ``None``: an empty body."""


@dataclass
class FirstJob:
    """One job."""

    job_id: str
    payload: str
    max_retries: int
    created_at: datetime
    state: str = "READY"
    attempts: int = 0
    not_before: datetime | None = None
    """The end of its lease, or of its backoff."""
    result: str | None = None
    result_error: str | None = None


class FirstNode:
    """Serves from ``__enter__`` to ``__exit__`` on ``url``, whatever the key."""

    def __init__(self, *, unknown: int = 405, lease: timedelta = timedelta(seconds=30)) -> None:
        self.unknown = unknown
        """Status of what it does not know."""
        self.jobs: dict[str, FirstJob] = {}
        self.seen: list[str] = []
        """``METHOD /path`` of each request."""
        self.lose_answers = 0
        """Of so many submits from now on: carried out, and the connection cut."""
        self._lease = lease
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def handle(self, method: str, path: str, body: bytes) -> _Answer:
        """Carry out one request."""
        with self._lock:
            self.seen.append(f"{method} {path}")
            self._let_time_catch_up()
            match method, path.strip("/").split("/"):
                case "POST", ["jobs"]:
                    return self._submit(json.loads(body))
                case "POST", ["jobs", "lease"]:
                    return self._lease_one()
                case "POST", ["jobs", job_id, "ack"]:
                    return self._ack(job_id, json.loads(body or b"{}"))
                case "GET", ["jobs", job_id]:
                    return self._read(job_id)
                case _:
                    return self.unknown, {"error": "method not allowed"}

    def _let_time_catch_up(self) -> None:
        for job in self.jobs.values():
            if job.state == "RUNNING" and job.not_before and job.not_before <= datetime.now(UTC):
                self._fail(job, "lease expired")

    def _submit(self, body: dict[str, Any]) -> _Answer:
        if not body.get("payload"):
            return 400, {"error": "payload is required"}
        if body["payload"] == "too large":
            return 413, {"error": "payload too large"}
        job_id = f"job-{next(self._numbers)}"
        job = FirstJob(job_id, body["payload"], body.get("max_retries", 3), datetime.now(UTC))
        self.jobs[job_id] = job
        return 201, {"job_id": job_id}

    def _lease_one(self) -> _Answer:
        now = datetime.now(UTC)
        for job in self.jobs.values():
            due = job.not_before is None or job.not_before <= now
            if job.state in ("READY", "RETRY") and due:
                job.state, job.not_before = "RUNNING", now + self._lease
                job.attempts += 1
                fields = ("job_id", job.job_id), ("payload", job.payload)
                until = _time(job.not_before)
                return 200, dict(fields) | {"lease_until": until, "attempt": job.attempts}
        return 404, {"error": "no jobs available"}

    def _ack(self, job_id: str, body: dict[str, Any]) -> _Answer:
        job = self.jobs.get(job_id)
        if job is None or job.state != "RUNNING":
            return 400, {"error": f"failed to ack job: {job_id} is not running"}
        if body.get("result_error"):
            self._fail(job, body["result_error"])
        else:
            job.state, job.result = "ACKED", body.get("result", "")
        return 200, None

    def _fail(self, job: FirstJob, why: str) -> None:
        job.state = "RETRY" if job.attempts < job.max_retries else "DEAD"
        job.result_error, job.not_before = why, datetime.now(UTC) + _BACKOFF

    def _read(self, job_id: str) -> _Answer:
        job = self.jobs.get(job_id)
        if job is None:
            return 404, {"error": f"job not found: {job_id}"}
        shown: dict[str, Any] = {
            "job_id": job_id,
            "state": job.state,
            "attempts": job.attempts,
            "max_retries": job.max_retries,
            "created_at": _time(job.created_at),
        }
        shown |= {"result": job.result} if job.result is not None else {}
        return 200, shown | ({"result_error": job.result_error} if job.result_error else {})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one segment per answer

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.partition("?")[0]
                status, answer = node.handle(self.command, path, body)
                if path == "/jobs" and node.lose_answers > 0:
                    node.lose_answers -= 1
                    self.close_connection = True
                    return
                content = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
