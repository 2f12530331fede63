"""A front with a small lane and a small app, in the test's own process, on a loopback port."""

import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from api.answer import TEXT, Answer
from api.asgi import Receive, Send
from api.calls import in_task
from api.door import Request
from api.front import Front
from api.settings import DoorLimits

log = logging.getLogger(__name__)

Handler = Callable[[Request], Coroutine[Any, Any, Answer]]

LANE = "/lane"
"""A lane route: answers with what it got."""
APP = "/app"
"""An app route: the same answer for the same request."""
WAYS = (LANE, APP)


class SmallLane:
    """``/lane`` echoes, ``/lane/wait`` waits for ``release``, ``/lane/fail`` has a bug."""

    def __init__(self) -> None:
        self.release = trio.Event()
        self.waiting = trio.Event()
        self.calls: list[tuple[str, str, str | None, bytes]] = []
        """(method, target, authorization, body) of every request that was run, both ways."""

    def route(self, method: str, target: str) -> Handler | None:
        path = target.partition("?")[0]
        if path not in ("/lane", "/lane/wait", "/lane/fail", "/lane/big", "/lane/crlf"):
            return None

        async def handler(request: Request) -> Answer:
            self.calls.append((method, target, request.authorization, request.body))
            match path:
                case "/lane/wait":
                    self.waiting.set()
                    await in_task()
                    await self.release.wait()
                case "/lane/fail":
                    raise ValueError("a bug in a lane handler")
                case "/lane/big":
                    return Answer(200, b"x" * (8 << 20), TEXT)
                case "/lane/crlf":
                    return Answer(200, b"", TEXT, (("X-Injected", "a\r\nb: c"),))
            return Answer(200, echo(request.authorization, request.body))

        return handler


def echo(authorization: str | None, body: bytes) -> bytes:
    return msgspec.json.encode({"authorization": authorization, "bytes": len(body)})


class SmallApp:
    """An ASGI app with one route for each thing that an app can do, right or wrong."""

    def __init__(self, lane: SmallLane) -> None:
        self.lane = lane
        self.lifespan: list[str] = []
        self.disconnects = 0
        self.running = 0
        self.sent = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self.running += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self.running -= 1

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            self.lifespan.append(message["type"])
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _answer(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/app/early":
            await say(send, 401, b"early")
            return
        if path == "/app/fail":
            raise ValueError("a bug in the app")
        body = await read(receive)
        if body is None:
            self.disconnects += 1
            return
        authorization = next(
            (v.decode() for n, v in scope["headers"] if n == b"authorization"), None
        )
        target = scope["raw_path"].decode()
        self.lane.calls.append((scope["method"], target, authorization, body))
        await self._route(path, authorization, body, receive, send)

    async def _route(
        self, path: str, authorization: str | None, body: bytes, receive: Receive, send: Send
    ) -> None:
        match path:
            case "/app":
                await say(send, 200, echo(authorization, body), b"application/json")
            case "/app/wait":
                self.lane.waiting.set()
                async with trio.open_nursery() as nursery:

                    async def watch() -> None:
                        if (await receive())["type"] == "http.disconnect":
                            self.disconnects += 1
                            nursery.cancel_scope.cancel()

                    nursery.start_soon(watch)
                    await self.lane.release.wait()
                    await say(send, 200, b"waited")
                    nursery.cancel_scope.cancel()
            case "/app/stream":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                for piece in (b"one ", b"", b"two ", b"three"):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            case "/app/endless":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                while True:
                    piece = b"x" * 65536
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    self.sent += len(piece)
            case "/app/silent":
                return
            case "/app/empty":
                await say(send, 204, b"")
            case "/app/late-fail":
                await start(send, 200, [(b"content-length", b"10")])
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
                raise ValueError("a bug in the middle of an answer")
            case "/app/short":
                await start(send, 200, [(b"content-length", b"10")])
                await send({"type": "http.response.body", "body": b"half", "more_body": False})
            case "/app/long":
                await start(send, 200, [(b"content-length", b"4")])
                await send({"type": "http.response.body", "body": b"more than four"})
            case "/app/crlf":
                await start(send, 200, [(b"x-injected", b"a\r\nb: c")])
                await send({"type": "http.response.body", "body": b"injected"})
            case "/app/headers":
                await start(
                    send,
                    200,
                    [(b"server", b"x"), (b"connection", b"close"), (b"transfer-encoding", b"gzip"),
                     (b"x-own", b"kept")],
                )  # fmt: skip
                await send({"type": "http.response.body", "body": b"ok"})
            case _:
                await say(send, 404, b'{"error":"not found"}')


async def read(receive: Receive) -> bytes | None:
    """The request's body; None when the client left before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        if not message["more_body"]:
            return bytes(body)


async def start(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def say(send: Send, status: int, body: bytes, kind: bytes = b"text/plain") -> None:
    await start(send, status, [(b"content-type", kind), (b"content-length", b"%d" % len(body))])
    await send({"type": "http.response.body", "body": body, "more_body": False})


class RunningFront:
    """What a test may look at and do."""

    def __init__(
        self, front: Front, lane: SmallLane, app: SmallApp, port: int, nursery: trio.Nursery
    ) -> None:
        self.front = front
        self.lane = lane
        self.app = app
        self.port = port
        self.nursery = nursery

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@asynccontextmanager
async def running_front(
    limits: DoorLimits | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RunningFront]:
    """A front that serves; it is drained at the end, and has to end by itself."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    lane = SmallLane()
    app = SmallApp(lane)
    front = Front(listener, lane, app, limits or DoorLimits(), tls)
    port = listener.getsockname()[1]
    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            await nursery.start(front.run)
            yield RunningFront(front, lane, app, port, nursery)
            lane.release.set()
            front.drain()
