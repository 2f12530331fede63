"""A queue node in a few lines of trio, for the benchmark's tests: it can misbehave.

It answers what the benchmark asks and nothing more, keeps no promise, and does what
``Habits`` says: stall, refuse, repeat ids, hang up, send an answer byte by byte, lease fewer
jobs than there are, lease one twice, refuse one ack of many.
"""

import json
import uuid
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio


@dataclass
class Habits:
    """How this node differs from a good one. Requests are counted from 1."""

    stall_request: int = 0
    stall_s: float = 0.0
    never_answer: bool = False
    refuse_from: int = 0
    refuse_status: int = 503
    same_id: str = ""
    hang_up_request: int = 0
    close_after_request: int = 0
    bytewise: bool = False
    garbage: bytes = b""
    lease_at_most: int = 1_000
    lease_again: bool = False
    """In a later answer, what was leased first comes once more in place of a job that waits."""
    refuse_ack: int = 0
    """That ack of those that came many in a request is refused, counted from 1."""


@dataclass
class FakeQueue:
    """What it holds and what it saw."""

    habits: Habits = field(default_factory=Habits)
    port: int = 0
    requests: int = 0
    waiting: deque[tuple[str, str]] = field(default_factory=deque)
    acked: list[str] = field(default_factory=list)
    leases_asked: list[int] = field(default_factory=list)
    """``max`` of each lease of many."""
    first_leased: tuple[str, str] | None = None
    connections: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection until it ends."""
        self.connections += 1
        buffer = b""
        while True:
            request = await _next_request(stream, buffer)
            if request is None:
                return
            head, body, buffer = request
            self.requests += 1
            if not await self._answer(stream, head, body, self.requests):
                return

    async def _answer(self, stream: trio.SocketStream, head: str, body: bytes, turn: int) -> bool:
        habits = self.habits
        if habits.never_answer:
            await trio.sleep_forever()
        if turn == habits.stall_request:
            await trio.sleep(habits.stall_s)
        if turn == habits.hang_up_request:
            return False
        if habits.refuse_from and turn >= habits.refuse_from:
            status, answer = habits.refuse_status, b'{"error":"not now"}'
        else:
            status, answer = self._do(head, body)
        closing = turn == habits.close_after_request
        data = habits.garbage or _encode(status, answer, closing=closing)
        pieces = [data[i : i + 1] for i in range(len(data))] if habits.bytewise else [data]
        for piece in pieces:
            await stream.send_all(piece)
        return not closing

    def _do(self, head: str, body: bytes) -> tuple[int, bytes]:
        method, target, _ = head.split("\r\n")[0].split(" ")
        match method, target.strip("/").split("/"):
            case "GET", ["health"]:
                return 200, b"OK"
            case "POST", ["jobs"]:
                return 201, json.dumps({"job_id": self._submit(json.loads(body))}).encode()
            case "POST", ["jobs", "batch"]:
                job_ids = [self._submit(job) for job in _only(json.loads(body), "jobs")]
                return 201, json.dumps({"job_ids": job_ids}).encode()
            case "POST", ["jobs", "lease"]:
                return self._lease_many(_only(json.loads(body), "max")) if body else self._lease()
            case "POST", ["jobs", "ack"]:
                return self._ack_many(_only(json.loads(body), "acks"))
            case "POST", ["jobs", job_id, "ack"]:
                assert json.loads(body) == {"lease_token": "7", "result": "ok"}
                self.acked.append(job_id)
                return 200, b""
            case _:
                raise AssertionError(f"the benchmark asked for {method} {target}")

    def _submit(self, job: dict[str, Any]) -> str:
        job_id = self.habits.same_id or str(uuid.uuid4())
        self.waiting.append((job_id, job["payload"]))
        return job_id

    def _lease(self) -> tuple[int, bytes]:
        if not self.waiting:
            return 404, b'{"error":"no jobs available"}'
        return 200, json.dumps(_lease_of(*self.waiting.popleft())).encode()

    def _lease_many(self, count: int) -> tuple[int, bytes]:
        self.leases_asked.append(count)
        if not self.waiting:
            return 404, b'{"error":"no jobs available"}'
        count = min(count, self.habits.lease_at_most, len(self.waiting))
        jobs = [self.waiting.popleft() for _ in range(count)]
        if self.first_leased is None:
            self.first_leased = jobs[0]
        elif self.habits.lease_again:
            jobs[0] = self.first_leased
        return 200, json.dumps({"jobs": [_lease_of(*job) for job in jobs]}).encode()

    def _ack_many(self, acks: list[dict[str, str]]) -> tuple[int, bytes]:
        results: list[dict[str, Any]] = []
        for ack in acks:
            assert ack == {"job_id": ack["job_id"], "lease_token": "7"}
            self.acked.append(ack["job_id"])
            lost = len(self.acked) == self.habits.refuse_ack
            results.append({"status": 409, "error": "lease lost"} if lost else {"status": 200})
        return 200, json.dumps({"results": results}).encode()


def _only(body: dict[str, Any], name: str) -> Any:
    """The value of the one field that there is."""
    assert body.keys() == {name}
    return body[name]


def _lease_of(job_id: str, payload: str) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "payload": payload,
        "lease_until": "2025-12-26T10:30:00Z",
        "attempt": 1,
        "lease_token": "7",
        "queue": "default",
    }


@asynccontextmanager
async def fake_queue(habits: Habits | None = None) -> AsyncIterator[FakeQueue]:
    """A node that listens on ``port`` until the end of the block."""
    queue = FakeQueue(habits or Habits())
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    queue.port = listener.socket.getsockname()[1]

    async def handle(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await queue.serve(stream)
        except trio.BrokenResourceError:
            pass  # the client left in the middle, as clients do

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield queue
        nursery.cancel_scope.cancel()


async def _next_request(
    stream: trio.SocketStream, buffer: bytes
) -> tuple[str, bytes, bytes] | None:
    while b"\r\n\r\n" not in buffer:
        data = await stream.receive_some(65536)
        if not data:
            return None
        buffer += data
    raw, _, rest = buffer.partition(b"\r\n\r\n")
    head = raw.decode("ascii")
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    length = int(headers.get("content-length", "0"))
    while len(rest) < length:
        data = await stream.receive_some(65536)
        if not data:
            return None
        rest += data
    return head, rest[:length], rest[length:]


def _encode(status: int, body: bytes, *, closing: bool) -> bytes:
    close = "Connection: close\r\n" if closing else ""
    head = (
        f"HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\n{close}"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body
