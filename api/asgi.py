"""The way in for everything that the lane does not take: one request as an ASGI call.

Bodies stream in both directions: ``receive`` reads from the socket only when the app asks, and
``send`` returns only when the bytes are with the kernel, so a slow client holds back the app and
not our memory. The request is framed by ``api.http1`` alone, the answer by us: what the app
says about Connection, Transfer-Encoding or Date is dropped, its Content-Length is held
against what it sends, and an app that breaks its word ends the connection rather than have
the client read one answer as two.

ASGI 3, HTTP spec 2.4: ``send`` after the client left raises ``OSError``.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, Protocol
from urllib.parse import unquote

import trio

from api import problems
from api.grammar import Malformed
from api.head import Head
from api.problems import Problem
from api.render import (
    CONTINUE,
    UnsafeHeader,
    connection_line,
    has_no_body,
    header_line,
    status_line,
)

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}
_OURS: Final = frozenset(
    (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"date", b"server")
)


class AppBroke(RuntimeError):
    """The app broke the ASGI protocol, or its own Content-Length."""


class ClientLeft(OSError):
    """What ``send`` raises once the client is gone, as ASGI says."""


class Client(Protocol):
    """What an exchange needs of its connection."""

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""

    @property
    def body_complete(self) -> bool:
        """Whether the body was read to its end."""

    async def read_body(self) -> bytes:
        """The next piece of the body, empty only at its end."""

    async def write(self, data: bytes) -> None:
        """Send, as fast as the client takes it."""

    def answer_start(self) -> tuple[bytes, bool]:
        """The Date line, and whether this answer must be the connection's last."""


def http_scope(
    head: Head, scheme: str, client: tuple[str, int] | None, server: tuple[str, int] | None
) -> dict[str, Any]:
    """The ASGI scope of a request."""
    path, _, query = head.target.partition("?")
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": "1.1" if head.http11 else "1.0",
        "method": head.method,
        "scheme": scheme,
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": list(head.headers),
        "client": client,
        "server": server,
        "state": {},
        "extensions": {},
    }


class Exchange:
    """One request and its answer, between a connection and the app.

    After ``run``: ``broken``: the answer was begun and can't be finished, so the connection
    has to be cut; ``closes``: the answer was the last of its connection.
    """

    def __init__(
        self,
        connection: Client,
        head: Head,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
    ) -> None:
        self.started = False
        self.closes = False
        self._connection = connection
        self._head = head
        self._scope = http_scope(head, connection.scheme, client, server)
        self._app_scope = trio.CancelScope()
        self._gone = trio.Event()
        self._problem: Problem | None = None
        self._body_delivered = False
        self._continue_owed = head.expects_continue
        self._start: tuple[int, list[bytes], int | None] | None = None
        self._complete = False
        self._chunked = False
        self._left: int | None = None  # bytes of the body still to come; None: unknown
        self._no_body = False
        self._sending = False
        self._writing = trio.Lock()  # ``100 Continue`` comes from ``receive``

    @property
    def broken(self) -> bool:
        """The client is gone, or has part of an answer that can't be finished."""
        return self._gone.is_set() or (self.started and not self._complete)

    async def run(self, app: AsgiApp) -> Problem | None:
        """Call the app; what to answer in its place when it did not begin an answer."""
        try:
            with self._app_scope:
                await app(self._scope, self._receive, self._send)
        except BaseExceptionGroup as group:
            cancelled, faults = group.split(trio.Cancelled)
            if faults is not None:
                self._report(faults)
            if cancelled is not None:
                raise cancelled from None
        except Exception as error:
            self._report(error)
        if self.started or self._gone.is_set():
            if not self.broken:
                return None
            if not self._gone.is_set():
                log.error("the app left an answer unfinished: %s", self._head.name)
            return None
        if self._problem is None:
            log.error("no answer from the app: %s", self._head.name)
            self._problem = problems.INTERNAL
        return self._problem

    def disconnect(self) -> None:
        """The client left: the app learns it from ``receive`` and ``send``."""
        self._gone.set()

    def _report(self, error: BaseException) -> None:
        if self._gone.is_set() or self._problem is not None:
            return  # the consequence of what is known already
        log.error("the app failed: %s", self._head.name, exc_info=error)
        self._problem = problems.INTERNAL

    # ---- The request's body.

    async def _receive(self) -> Message:
        if not self._body_delivered:
            body = await self._next_piece()
            if body is not None:
                self._body_delivered = self._connection.body_complete
                return {
                    "type": "http.request",
                    "body": body,
                    "more_body": not self._body_delivered,
                }
        if not self._complete or self._sending:
            # Also while the end is being sent: Quart cancels that when it hears of a disconnect.
            await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _next_piece(self) -> bytes | None:
        """The next piece of the body; None when the client left."""
        if self._gone.is_set():
            return None
        try:
            if self._continue_owed and not self.started:
                await self._invite()
            return await self._connection.read_body()
        except Malformed as error:
            # Not the app's business: it is stopped where it is, and the door answers.
            self._problem = error.problem
            self._app_scope.cancel()
            await trio.sleep_forever()
        except OSError:
            self._gone.set()
        return None

    async def _invite(self) -> None:
        async with self._writing:
            if self._continue_owed and not self.started:
                self._continue_owed = False
                await self._connection.write(CONTINUE)

    # ---- The answer.

    async def _send(self, message: Message) -> None:
        if self._gone.is_set():
            raise ClientLeft("the client is gone")
        if self._sending:
            raise AppBroke("two sends at the same time")
        self._sending = True
        try:
            match message["type"]:
                case "http.response.start":
                    self._begin(message)
                case "http.response.body":
                    await self._send_body(
                        bytes(message.get("body", b"")), bool(message.get("more_body", False))
                    )
                case other:
                    raise AppBroke(f"unexpected message {other!r}")
        finally:
            self._sending = False

    def _begin(self, message: Message) -> None:
        """Keep status and headers: they are sent with the first bytes of the body."""
        if self._start is not None:
            raise AppBroke("a second http.response.start")
        status = int(message["status"])
        if not 200 <= status <= 599:
            raise AppBroke(f"status {status} can't be an answer's")
        lines, length = _header_lines(message.get("headers", ()))
        self._start = status, lines, length

    async def _send_body(self, body: bytes, more: bool) -> None:
        if self._start is None or self._complete:
            raise AppBroke("http.response.body before its start or after its end")
        if not self.started and body == b"" and more:
            return  # nothing to send yet, and the length may become known
        async with self._writing:
            data = b"" if self.started else self._head_bytes(len(body), more)
            data += self._framed(body, more)
            if not more and self._left:
                raise AppBroke(f"{self._left} bytes of the answer are missing")
            # Before the send: when it returns, the app may be cancelled at once.
            self.started = True
            self._complete = not more
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        if not data:
            await trio.lowlevel.checkpoint()
            return
        written = False
        try:
            await self._connection.write(data)
            written = True
        except OSError as error:
            self._gone.set()
            raise ClientLeft("the client is gone") from error
        finally:
            if not written:
                self._complete = False

    def _head_bytes(self, first_bytes: int, more: bool) -> bytes:
        """The answer's head; decides how its body is framed, and if the connection goes on."""
        assert self._start is not None
        status, lines, length = self._start
        self._no_body = has_no_body(self._head.method, status)
        date_line, last = self._connection.answer_start()
        self.closes = last or not self._head.keep_alive
        if self._continue_owed and not self._connection.body_complete:
            # Never asked for, so the client may send the body or the next request.
            self.closes = True
        if length is None and not more:
            length = first_bytes
        framing = b""
        if status not in (204, 304):
            if length is not None:
                framing = b"Content-Length: %d\r\n" % length
            elif self._head.http11:
                framing = b"Transfer-Encoding: chunked\r\n"
                self._chunked = not self._no_body
            else:
                self.closes = True  # HTTP/1.0: the body ends with the connection
        self._left = None if self._no_body else length
        connection = connection_line(self._head, self.closes)
        return b"".join((status_line(status), date_line, *lines, framing, connection, b"\r\n"))

    def _framed(self, body: bytes, more: bool) -> bytes:
        if self._no_body:
            return b""
        if self._left is not None:
            if len(body) > self._left:
                raise AppBroke("more body than its Content-Length said")
            self._left -= len(body)
        if not self._chunked:
            return body
        end = b"" if more else b"0\r\n\r\n"
        return b"%x\r\n%b\r\n%b" % (len(body), body, end) if body else end


def _header_lines(headers: Iterable[tuple[bytes, bytes]]) -> tuple[list[bytes], int | None]:
    """The app's headers as lines, without those that are ours; and its Content-Length.

    Raises:
        AppBroke: a header that can't be sent.
    """
    lines = []
    length: int | None = None
    for raw_name, raw_value in headers:
        name, value = bytes(raw_name), bytes(raw_value).strip(b" \t")
        lower = name.lower()
        if lower == b"content-length":
            if length is not None or not value.isdigit():
                raise AppBroke(f"Content-Length {value!r}")
            length = int(value)
        elif lower not in _OURS:
            try:
                lines.append(header_line(name, value))
            except UnsafeHeader as error:
                raise AppBroke(str(error)) from error
    return lines, length


class Lifespan:
    """The app's start-up and shutdown, once per front.

    An app that does not know lifespans (it raises before it says anything) is served without.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._started = trio.Event()
        self._stop = trio.Event()
        self._failure: str | None = None
        self._complete = False
        self._asked = False
        self.ended: Final = trio.Event()
        """Set when the app has shut down."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the app up, keep it until ``stop``, shut it down.

        Raises:
            AppBroke: the app refused to start.
        """
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._call, scope)
            await self._started.wait()
            if self._failure is not None:
                nursery.cancel_scope.cancel()
            else:
                task_status.started()
        if self._failure is not None:
            raise AppBroke(f"the app did not start: {self._failure}")

    def stop(self) -> None:
        """Let the app shut down; ``run`` returns when it has."""
        self._stop.set()

    async def _call(self, scope: dict[str, Any]) -> None:
        try:
            await self._app(scope, self._receive, self._send)
        except Exception:
            if self._complete:
                log.exception("the app failed in its lifespan")
            else:
                log.info("the app has no lifespan", exc_info=True)
        finally:
            self._started.set()
            self.ended.set()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._complete = True
                self._started.set()
            case "lifespan.startup.failed":
                self._failure = str(message.get("message", ""))
                self._started.set()
            case "lifespan.shutdown.failed":
                log.error("the app did not shut down well: %s", message.get("message", ""))
        await trio.lowlevel.checkpoint()
