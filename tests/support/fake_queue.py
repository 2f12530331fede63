"""A queue node in a few lines of trio, for the benchmark's tests: it can misbehave.

It answers what the benchmark asks and nothing more, keeps no promise, and does what
``Habits`` says: stall, refuse, repeat ids, hang up, send an answer byte by byte.
"""

import json
import uuid
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

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


@dataclass
class FakeQueue:
    """What it holds and what it saw."""

    habits: Habits = field(default_factory=Habits)
    port: int = 0
    requests: int = 0
    waiting: deque[tuple[str, str]] = field(default_factory=deque)
    acked: list[str] = field(default_factory=list)
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
                job_id = self.habits.same_id or str(uuid.uuid4())
                self.waiting.append((job_id, json.loads(body)["payload"]))
                return 201, json.dumps({"job_id": job_id}).encode()
            case "POST", ["jobs", "lease"]:
                return self._lease()
            case "POST", ["jobs", job_id, "ack"]:
                assert json.loads(body) == {"lease_token": "7", "result": "ok"}
                self.acked.append(job_id)
                return 200, b""
            case _:
                raise AssertionError(f"the benchmark asked for {method} {target}")

    def _lease(self) -> tuple[int, bytes]:
        if not self.waiting:
            return 404, b'{"error":"no jobs available"}'
        job_id, payload = self.waiting.popleft()
        lease = {
            "job_id": job_id,
            "payload": payload,
            "lease_until": "2025-12-26T10:30:00Z",
            "attempt": 1,
            "lease_token": "7",
            "queue": "default",
        }
        return 200, json.dumps(lease).encode()


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
