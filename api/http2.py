"""HTTP/2 for TLS connections that negotiate it (ALPN): Hypercorn's protocol in a shell of ours.

Hypercorn's ``H2Protocol`` (over ``h2``) understands the frames and calls the ASGI app; its
server around it is left out, because there a client can keep it from ever closing: it sends
shielded from cancellation and without a timeout, waits for reads without end, and lets
exceptions through that end the process. Here each connection has one cancel scope; whatever
goes wrong (a send that times out, a broken frame, an exception from below) cancels it, and
the socket is closed.

The same rules as on HTTP/1.1 stand between the protocol and the app (``_Rules``): sizes of
bodies, time for them, paths with one spelling, one Authorization.

HTTP/2 in clear does not exist here: the HTTP/1.1 door answers its preface with 505 and ignores
``Upgrade: h2c``.
"""

import logging
from typing import Any, Final, cast

import h2.events
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from api import problems
from api.asgi import AsgiApp, Message, Receive, Send
from api.door import Door, too_many_bodies
from api.grammar import body_too_large
from api.head import refuse_path
from api.problems import Problem, to_answer
from api.settings import DoorLimits

log = logging.getLogger(__name__)

_RECEIVE_BYTES: Final = 64 << 10
_RESETS_FREE: Final = 100
"""Streams that a client may reset without a second look."""
_RESETS_SHARE: Final = 0.5
"""Of all streams, beyond those: more is a rapid reset attack (CVE-2023-44487)."""
_MIB: Final = 1 << 20

TlsStream = trio.SSLStream[trio.SocketStream]


class Http2:
    """What the HTTP/2 connections of a front share."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._config = _config(door.limits)
        # Hypercorn types every message of ASGI; we do not.
        self._app = ASGIWrapper(cast("Any", _Rules(door)))
        self._context = WorkerContext(None)
        self._connections: set[_Connection] = set()

    async def serve(
        self, stream: TlsStream, client: tuple[str, int] | None, server: tuple[str, int] | None
    ) -> None:
        """Serve one client until either side closes; the handshake is done."""
        connection = _Connection(stream, self._door)
        self._connections.add(connection)
        try:
            await connection.run(self._app, self._config, self._context, client, server)
        finally:
            self._connections.discard(connection)

    async def drain(self) -> None:
        """No new streams; connections close when theirs are answered."""
        await self._context.terminated.set()
        for connection in self._connections:
            connection.drain()


def _config(limits: DoorLimits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = log
    config.include_server_header = False
    config.h2_max_header_list_size = limits.head_bytes_max
    # Without an end, like on HTTP/1.1: h2 would drop the answers still to come. Rapid resets,
    # which this number is against, are counted as such below.
    config.keep_alive_max_requests = 1 << 62
    return config


class _Connection:
    """One HTTP/2 connection, from its handshake to its close."""

    def __init__(self, stream: TlsStream, door: Door) -> None:
        self._stream = stream
        self._door = door
        self._scope = trio.CancelScope()
        self._sending = trio.Lock()
        self._idle = True
        self._protocol: _Protocol

    async def run(
        self,
        app: ASGIWrapper,
        config: Config,
        context: WorkerContext,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
    ) -> None:
        """Serve until the client leaves, is too slow, or breaks the protocol."""
        try:
            with self._scope:
                async with TaskGroup() as tasks:
                    self._protocol = _Protocol(
                        app, config, context, tasks, ConnectionState({}), True, client, server,
                        self._on_event,
                    )  # fmt: skip
                    await self._protocol.initiate()
                    await self._read()
                    self._scope.cancel()
        except BaseExceptionGroup as group:
            cancelled, faults = group.split(trio.Cancelled)
            if faults is not None:
                self._report(faults)
            if cancelled is not None:
                raise cancelled from None
        except Exception as error:
            self._report(error)
        finally:
            await trio.aclose_forcefully(self._stream.transport_stream)

    def drain(self) -> None:
        """Close as soon as nothing is being answered."""
        if self._idle:
            self._scope.cancel()

    def _report(self, error: BaseException) -> None:
        # Many kinds of broken or hostile input end up as exceptions of Hypercorn or h2.
        log.warning("an HTTP/2 connection failed and was closed", exc_info=error)

    async def _read(self) -> None:
        idle_s = self._door.limits.idle_timeout_ms / 1000
        while not self._protocol.closed:
            with trio.move_on_after(idle_s):
                try:
                    data = bytes(await self._stream.receive_some(_RECEIVE_BYTES))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                if not data:
                    return
                await self._protocol.handle(RawData(data))
                if self._protocol.resets_too_often:
                    log.warning("an HTTP/2 client resets its streams too often: closed")
                    return
                continue
            if self._idle:
                return

    async def _on_event(self, event: Event) -> None:
        """What the protocol wants: bytes sent, the end, or a note that all is answered."""
        match event:
            case RawData():
                await self._send(event.data)
            case Updated():
                self._idle = event.idle
                if event.idle and self._door.draining:
                    self._scope.cancel()
            case Closed():
                self._scope.cancel()

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            try:
                with trio.fail_after(self._door.limits.write_timeout_ms / 1000):
                    await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                # After half a record nothing can be sent any more: the end, for all streams.
                self._scope.cancel()


class _Protocol(H2Protocol):
    """Hypercorn's, with an eye on rapid resets."""

    opened = 0
    resets = 0

    @property
    def resets_too_often(self) -> bool:
        """Whether the client opens streams in order to reset them."""
        return self.resets > _RESETS_FREE and self.resets > _RESETS_SHARE * self.opened

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            self.opened += isinstance(event, h2.events.RequestReceived)
            self.resets += isinstance(event, h2.events.StreamReset)
        await super()._handle_events(events)


class _Rules:
    """The app as HTTP/2 clients may reach it: with the door's rules before it."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Refuse, or let the app answer while its request's body is counted and timed."""
        if scope["type"] != "http":
            # An extended CONNECT: there is no WebSocket here.
            await send({"type": "websocket.close", "code": 1000})
            return
        problem = _refusal(scope, self._door.limits)
        if problem is not None:
            await _answer(problem, send)
            return
        await _Bounded(self._door, receive, send).run(self._door.app, scope)


def _refusal(scope: dict[str, Any], limits: DoorLimits) -> Problem | None:
    names = [name for name, _ in scope["headers"]]
    target = scope["raw_path"].decode("latin-1")
    if scope["method"] == "TRACE":
        return problems.METHOD_NOT_ALLOWED
    if names.count(b"authorization") > 1:
        return Problem(400, "more than one Authorization header")
    if len(names) > limits.headers_max:
        return Problem(431, "too many header lines")
    if len(target) + len(scope["query_string"]) >= limits.url_bytes_max:
        return Problem(414, "request target too long")
    if not target.startswith("/"):
        return Problem(400, "malformed request target: a path is expected")
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limits.body_bytes_max:
            return body_too_large(limits.body_bytes_max).problem
    return refuse_path(target)


async def _answer(problem: Problem, send: Send) -> None:
    answer = to_answer(problem)
    headers = [(b"content-type", answer.content_type.encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


class _Bounded:
    """One request whose body is counted and timed on its way to the app."""

    def __init__(self, door: Door, receive: Receive, send: Send) -> None:
        self._door = door
        self._receive_below = receive
        self._send_below = send
        self._app_scope = trio.CancelScope()
        self._deadline = trio.current_time()
        self._taken = 0
        self._complete = False
        self._started = False
        self._problem: Problem | None = None

    async def run(self, app: AsgiApp, scope: dict[str, Any]) -> None:
        """Call the app; answer in its place when the body broke a rule, or it failed."""
        try:
            with self._app_scope:
                await app(scope, self._receive, self._send)
        except Exception as error:
            log.error("the app failed: %s (HTTP/2)", scope["method"], exc_info=error)
            self._problem = problems.INTERNAL
        finally:
            self._door.body_bytes -= self._taken
            self._taken = 0
        if self._problem is not None and not self._started:
            await _answer(self._problem, self._send_below)

    async def _receive(self) -> Message:
        if self._complete:
            return await self._receive_below()
        limits = self._door.limits
        allowed_s = (1 + self._taken // _MIB) * limits.body_timeout_ms / 1000
        with trio.move_on_at(self._deadline + allowed_s):
            message = await self._receive_below()
            problem = self._count(message)
            return message if problem is None else await self._stop(problem)
        return await self._stop(Problem(408, "request timeout: the body did not arrive in time"))

    def _count(self, message: Message) -> Problem | None:
        size = len(message.get("body", b""))
        self._taken += size
        self._door.body_bytes += size
        self._complete = not message.get("more_body", False)
        limits = self._door.limits
        if self._taken > limits.body_bytes_max:
            return body_too_large(limits.body_bytes_max).problem
        if self._door.body_bytes > limits.bodies_bytes_max:
            return too_many_bodies().problem
        return None

    async def _stop(self, problem: Problem) -> Message:
        self._problem = problem
        self._app_scope.cancel()
        return await trio.sleep_forever()

    async def _send(self, message: Message) -> None:
        self._started = True
        await self._send_below(message)
