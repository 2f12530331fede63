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
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import h2.events
import h2.exceptions
import trio
from h2.errors import ErrorCodes
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from api import problems
from api.asgi import AsgiApp, ClientLeft, Message, Receive, Send
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
_PIECE_BYTES: Final = 16 << 10
"""An answer is handed on in pieces of this size, so that a reader that moves shows."""
_CUT: Final = "cut the connection"
_GONE: Final = "the client reset the stream"

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
        for connection in list(self._connections):
            await connection.drain()


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
                    state = ConnectionState({_CUT: self._scope.cancel})
                    self._protocol = _Protocol(
                        app, config, context, tasks, state, True, client, server, self._on_event
                    )
                    self._protocol.draining = self._door.draining
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

    async def drain(self) -> None:
        """Refuse new streams, and close as soon as nothing is being answered."""
        self._protocol.draining = True
        await self._protocol.close_if_drained()

    def _report(self, error: BaseException) -> None:
        # Many kinds of broken or hostile input end up as exceptions of Hypercorn or h2.
        self._door.complain("an HTTP/2 connection failed and was closed", error=error)

    async def _read(self) -> None:
        """Feed the protocol until the client leaves, breaks it, or is idle for too long.

        Idle is a connection without a request: bytes that begin none (a head that comes one
        by one, pings) do not prolong it.
        """
        allowed_s = self._door.limits.idle_timeout_ms / 1000
        idle_since = trio.current_time()
        while not self._protocol.closed:
            data: bytes | None = None
            was_idle = self._protocol.idle
            if not was_idle:
                idle_since = trio.current_time()
            with trio.move_on_at(idle_since + allowed_s):
                try:
                    data = bytes(await self._stream.receive_some(_RECEIVE_BYTES))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
            if data:
                await self._protocol.handle(RawData(data))
                if not was_idle or not self._protocol.idle:
                    idle_since = trio.current_time()
                if self._protocol.resets_too_often:
                    self._door.complain("an HTTP/2 client resets its streams too often: closed")
                    return
            elif data is not None or self._protocol.idle:
                return

    async def _on_event(self, event: Event) -> None:
        """What the protocol wants: bytes sent, the end, or a note that all is answered."""
        match event:
            case RawData():
                await self._send(event.data)
            case Updated():
                await self._protocol.close_if_drained()
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
    """Hypercorn's, with some things changed; each was seen to go wrong in 0.18.

    * Rapid resets are counted.
    * A client that keeps its window shut holds back the app: Hypercorn buffers without end.
    * What waits to be sent on a stream that the client reset is forgotten: it was kept as long
      as the connection.
    * The app of a stream that the client reset is told so by ``send`` (``_GONE``, an event for
      each stream): its messages went nowhere without a word, for as long as it sent any.
    * Body that comes after the answer is passed over: it was a ``KeyError`` that ended all
      streams of the connection.
    * A draining connection is closed when the last byte was sent: Hypercorn says GOAWAY before
      that, and the end of the answer is lost. So its own way to drain
      (``WorkerContext.terminated``) is not used.
    """

    draining = False
    opened = 0
    resets = 0

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401 - Hypercorn's, as they are
        super().__init__(*arguments)
        self._gone: dict[int, trio.Event] = {}

    @property
    def resets_too_often(self) -> bool:
        """Whether the client opens streams in order to reset them."""
        return self.resets > _RESETS_FREE and self.resets > _RESETS_SHARE * self.opened

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        # One by one: while one is handled, its stream may be answered and closed.
        for event in events:
            match event:
                case h2.events.RequestReceived(stream_id=int(stream_id)) if self.draining:
                    self.connection.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
                case h2.events.DataReceived(stream_id=int(stream_id)) if (
                    stream_id not in self.streams
                ):
                    self._pass_over(event)
                case h2.events.RequestReceived(stream_id=int(stream_id)):
                    self.opened += 1
                    self._gone[stream_id] = gone = trio.Event()
                    # Copied into the scope of the stream that is made now.
                    self.connection_state[_GONE] = gone
                    await super()._handle_events([event])
                case h2.events.StreamReset(stream_id=int(stream_id)):
                    self.resets += 1
                    if stream_id in self._gone:
                        self._gone[stream_id].set()
                    await super()._handle_events([event])
                    await self._forget(stream_id)
                case _:
                    await super()._handle_events([event])
        await self._flush()

    async def _close_stream(self, stream_id: int) -> None:
        self._gone.pop(stream_id, None)
        await super()._close_stream(stream_id)

    def _pass_over(self, event: h2.events.DataReceived) -> None:
        """Body of a request that was answered without it."""
        assert event.stream_id is not None
        self.connection.acknowledge_received_data(
            event.flow_controlled_length or 0, event.stream_id
        )
        if event.stream_id not in self.stream_buffers:
            # RFC 9113 8.1: the answer is whole, the rest of the body need not be sent.
            with suppress(h2.exceptions.ProtocolError):
                self.connection.reset_stream(event.stream_id, ErrorCodes.NO_ERROR)

    async def _forget(self, stream_id: int) -> None:
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            await buffer.close()
            # The sending task finds it closed, and removes it.
            self.priority.unblock(stream_id)
            await self.has_data.set()

    async def _send_data(self, stream_id: int) -> None:
        if self._window_is_shut(stream_id):
            self.priority.block(stream_id)  # until the client opens it
            return
        await super()._send_data(stream_id)
        await self.close_if_drained()

    def _window_is_shut(self, stream_id: int) -> bool:
        buffer = self.stream_buffers.get(stream_id)
        if buffer is None or not buffer.buffer:
            return False
        try:
            return self.connection.local_flow_control_window(stream_id) <= 0
        except h2.exceptions.ProtocolError:
            return False  # the stream is closed: the caller cleans up

    async def close_if_drained(self) -> None:
        """When draining: the end, once every answer was sent to its end."""
        if self.draining and not self.streams and not self.stream_buffers:
            self.connection.close_connection()
            await self._flush()
            await self.send(Closed())


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
        cut: Callable[[], None] = scope["state"].pop(_CUT)
        gone: trio.Event = scope["state"].pop(_GONE)
        problem = _refusal(scope, self._door.limits)
        if problem is not None:
            await _answer(problem, send)
            return
        await _Bounded(self._door, receive, send, cut, gone).run(self._door.app, scope)


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

    def __init__(
        self,
        door: Door,
        receive: Receive,
        send: Send,
        cut: Callable[[], None],
        gone: trio.Event,
    ) -> None:
        self._cut = cut
        self._gone = gone
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
            # When the client is gone it is the consequence, and nobody is there to answer.
            if not self._gone.is_set():
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
        body = message.get("body", b"")
        if len(body) <= _PIECE_BYTES:
            await self._send_piece(message)
            return
        for start in range(0, len(body), _PIECE_BYTES):
            piece = body[start : start + _PIECE_BYTES]
            last = start + _PIECE_BYTES >= len(body)
            more = not last or message.get("more_body", False)
            await self._send_piece({**message, "body": piece, "more_body": more})

    async def _send_piece(self, message: Message) -> None:
        with trio.move_on_after(self._door.limits.write_timeout_ms / 1000) as patience:
            if not self._gone.is_set():
                await self._send_below(message)
            # An app that never stops must not keep everybody else from their turn.
            await trio.lowlevel.checkpoint()
        if patience.cancelled_caught:
            # Its window stays shut: the client does not read.
            self._cut()
            await trio.sleep_forever()
        if self._gone.is_set():
            raise ClientLeft("the client reset the stream")
