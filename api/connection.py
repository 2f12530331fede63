"""One HTTP/1.1 connection: limits, order, timeouts. The shell around ``api.http1``.

One task serves a connection, one request after the other, so pipelined requests are answered
in order, and what the client sends meanwhile waits in the kernel: nothing is read ahead. The
answers to requests that came together leave together, in one send, as soon as there is
nothing left to run or a request has to wait.

**In place.** To wake a task of trio's costs as much as to answer a request. So a connection's
task sleeps on, waiting for bytes, while well-behaved requests of the lane are answered beside
it: whole ones in a known head are begun by the task that learned of their bytes
(``api.readiness``), brought on by the partition's reply, in the task that read that
(``api.calls``), and their answers sent from there. The connection's own task is woken for all
else: a request that comes before the last one is answered, in pieces, or is not the lane's, a
client that does not take its answer at once or leaves, an operation that needs more than replies.

**Time.** A connection writes down when it may be cut (``read_deadline``, ``write_deadline``),
and the front's sweeper (``api.door``) cancels what is over: never early, at most two sweeps late.

**Hang-ups.** A FIN alone does not tell a client that is gone from one that closed only its
sending side and still listens, so a request that runs on is cut ``half_close_ms`` after it,
and at once when the connection was reset. The sweeper asks the kernel (POLLRDHUP), so that
nothing has to be read for it.

**The last answer** of a connection is followed by a short time of reading and throwing away:
to close a socket with unread bytes in it makes the kernel send a reset, which can destroy
the answer before the client has read it.
"""

import logging
from collections.abc import Coroutine
from math import inf
from typing import Any, Final

import trio

from api import problems
from api.answer import Answer
from api.asgi import Exchange
from api.calls import Call, Drive, NeedsTask
from api.door import Door, Request, too_many_bodies
from api.grammar import Malformed
from api.head import Head
from api.http1 import RequestParser
from api.problems import Problem, to_answer
from api.render import CONTINUE, UnsafeHeader, connection_line, render
from api.transport import Gone, PlainTransport, Transport

log = logging.getLogger(__name__)

_MIB: Final = 1 << 20
_ALLOWED: Final = Answer(204, headers=(("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),))
_SENT_AT_ONCE_MAX: Final = 64 << 10
"""Answers up to this size fit into the socket of a client that reads."""
_TOO_SLOW: Final = Problem(408, "request timeout: the request did not arrive in time")


class Connection:
    """A client's HTTP/1.1 connection, from its first byte to its close."""

    __slots__ = (
        "_body_started",
        "_body_taken",
        "_client",
        "_cut_short",
        "_ended",
        "_exchange",
        "_half_closed",
        "_held",
        "_last_sent",
        "_out",
        "_parser",
        "_plain",
        "_scope",
        "_server",
        "_steps",
        "_transport",
        "_trap",
        "_unread",
        "door",
        "fileno",
        "head",
        "idle",
        "read_deadline",
        "running_since",
        "scheme",
        "write_deadline",
    )

    def __init__(
        self,
        door: Door,
        transport: Transport,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        scheme: str,
    ) -> None:
        self.door = door
        self.fileno = transport.fileno()
        self.scheme = scheme
        self.head: Head | None = None
        """The request that is being answered."""
        self.idle = True
        """Between two requests: nothing of a next one is here."""
        self.read_deadline = inf
        self.write_deadline = inf
        self.running_since: float | None = None
        """Time of the sweep before a request began to run; None when none runs."""
        self._transport = transport
        self._plain = transport.plain
        self._client = client
        self._server = server
        self._parser = RequestParser(door.limits, door.memo)
        self._scope = trio.CancelScope()
        self._out = b""
        self._held = 0
        self._body_started = 0.0
        self._body_taken = 0
        self._exchange: Exchange | None = None
        self._steps: Coroutine[Any, Any, Answer] | None = None
        """The lane request that is answered in place, and what it waits for."""
        self._trap: object = None
        self._unread: bytes | None = None
        """What came and could not be answered in place."""
        self._last_sent = False  # the answer in place was the connection's last
        self._half_closed: float | None = None
        self._ended = False  # the client's FIN was read
        self._cut_short = False  # an answer was begun that can't be finished

    # ---- Life.

    async def run(self) -> None:
        """Serve until either side closes, and leave nothing behind."""
        self.door.connections.add(self)
        try:
            with self._scope:
                try:
                    await self._serve()
                except Gone:
                    return
                await self._say_goodbye(unread=False)
            if self._scope.cancelled_caught:
                await self._answer_slowness()
        finally:
            self.door.connections.discard(self)
            if self._steps is not None:
                self._steps.close()
            self._release_body()
            await self._transport.close()

    async def _serve(self) -> None:
        """Read and answer until the connection is at its end."""
        parser = self._parser
        plain = self._plain
        in_a_row = 0
        while True:
            try:
                head = parser.next_head()
                if head is not None:
                    goes_on = await self._answer(head)
            except Malformed as error:
                await self._refuse(error.problem)
                return
            if head is None:
                data = await (self._next_bytes_of(plain) if plain else self._next_bytes())
                if data is None:
                    return
                if not data:
                    self._ended = True
                    return
                parser.feed(data)
                in_a_row = 0
                continue
            if not goes_on:
                await self.flush()
                return
            in_a_row += 1
            if in_a_row >= self.door.limits.pipelined_max or (
                len(self._out) >= self.door.limits.output_bytes_max
            ):
                in_a_row = 0
                await self.flush()
                await trio.lowlevel.checkpoint()  # the other connections' turn

    async def _next_bytes(self) -> bytes | None:
        """What the client sends, empty at its end; None: no more is to be read."""
        if self._out:
            await self.flush()
        return await self._transport.receive() if self._may_read_more() else None

    async def _next_bytes_of(self, transport: PlainTransport) -> bytes | None:
        """The same, without what is answered in place; all of that is answered by then."""
        while True:
            if self._out:
                await self.flush()
            if self._last_sent or (self._steps is None and not self._may_read_more()):
                return None
            await transport.arrival(self._serve_in_place)
            if (steps := self._steps) is not None:
                assert self.head is not None, "it is being answered"
                head, trap, self._steps = self.head, self._trap, None
                answer = await self._driven(head, steps, trap)
                self._end_in_place(head, answer)
                transport.wake()  # bytes may have come meanwhile, and are told of once
            elif not self._out and not self._last_sent:
                data, self._unread = self._unread, None
                if data is None:
                    data = transport.receive_now()
                if data is not None:
                    return data

    def _may_read_more(self) -> bool:
        """Write down how long a head may take from here; False when none is to come."""
        if self._parser.buffered == 0:
            self.idle = True
            self.read_deadline = self.door.now + self.door.limits.idle_timeout_ms / 1000
            return not self.door.draining
        if self.idle or self.read_deadline == inf:
            # The first bytes of a head: all of it has to come in this time.
            self.idle = False
            self.read_deadline = self.door.now + self.door.limits.head_timeout_ms / 1000
        return True

    # ---- One request.

    async def _answer(self, head: Head) -> bool:
        """Answer one request; whether the connection goes on after it."""
        self.idle = False
        self.head = head
        self.read_deadline = inf
        door = self.door
        if head.refusal is not None:
            answer = to_answer(head.refusal)
        elif (handler := door.lane.route(head.method, head.target)) is not None:
            body = await self._whole_body(head) if head.has_body else b""
            waits = self._out
            if waits and (len(waits) > _SENT_AT_ONCE_MAX or self._plain is None):
                await self.flush()
            self.running_since = door.now
            steps = handler(Request(head.authorization, body, head.idempotency_key, self.fileno))
            try:
                trap = steps.send(None)
            except StopIteration as done:
                answer = done.value
            except Exception as error:
                answer = _failed(head, error)
            else:
                if type(trap) is Call and self._is_answered_in_place():
                    self._steps, self._trap = steps, trap
                    trap.then = self._on_reply
                    return True
                answer = await self._driven(head, steps, trap)
            self.running_since = None
        elif head.target == "*":
            answer = _ALLOWED
        else:
            return await self._answer_by_app(head)
        goes_on = head.keep_alive and not door.draining
        if self._parser.body_complete:
            self._append(answer, head, close=not goes_on)
        elif not await self._answer_before_body(answer, head, goes_on):
            return False
        if self._held:
            self._release_body()
        self.head = None
        return goes_on

    async def _driven(self, head: Head, steps: Coroutine[Any, Any, Answer], trap: object) -> Answer:
        """Bring a lane request that waits to its end, in this task."""
        try:
            # Answers of requests before this one leave if this one has to wait.
            return await Drive(steps, trap, self._flush_now)
        except Exception as error:
            return _failed(head, error)

    # ---- Answers in place.

    def _serve_in_place(self) -> bool:
        """Bytes are here: answer them without the task that waits for them, if that can be.

        Only a whole request of the lane in a head that is known, as good clients send them;
        all else is left to the task, which reads it as if it had come to it.
        """
        if self._steps is not None:
            return False  # one after the other
        transport = self._plain
        assert transport is not None, "only such a one tells of bytes"
        try:
            data = transport.receive_now()
        except Gone:
            self._scope.cancel()
            return False
        if data is None:
            return True
        request = self._parser.known_request(data)
        door = self.door
        if (
            request is None
            or (handler := door.lane.route(request[0].method, request[0].target)) is None
            or door.body_bytes + len(request[1]) > door.limits.bodies_bytes_max
        ):
            self._unread = data
            return False
        head, body = request
        self.idle = False
        self.head = head
        self.read_deadline = inf
        self.running_since = door.now
        self._held += len(body)
        door.body_bytes += len(body)
        self._steps = handler(Request(head.authorization, body, head.idempotency_key, self.fileno))
        return self._go_on_in_place()

    def _is_answered_in_place(self) -> bool:
        """Whether nothing is here that needs the task before the answer."""
        if self._parser.buffered or self._plain is None:
            return False
        if self._out:
            self._flush_now()
        return not self._out

    def _on_reply(self) -> None:
        """A partition's reply is here. Runs in the task that read it."""
        if not self._go_on_in_place():
            assert self._plain is not None, "begun in place"
            self._plain.wake()

    def _go_on_in_place(self) -> bool:
        """Bring the request on by a step; False when the connection's own task is needed."""
        steps, head = self._steps, self.head
        assert steps is not None, "nothing is to be answered in place"
        assert head is not None, "it is being answered"
        try:
            self._trap = trap = steps.send(None)
        except StopIteration as done:
            answer: Answer = done.value
        except Exception as error:
            answer = _failed(head, error)
        else:
            if type(trap) is Call:
                trap.then = self._on_reply
                return True
            if type(trap) is NeedsTask:
                return False
            # What it waits for was told to wake another task than ours: it must not go on.
            steps.close()
            answer = _failed(head, RuntimeError("trio was used before in_task"))
        self._end_in_place(head, answer)
        return not self._out and not self._last_sent and self._may_read_more()

    def _end_in_place(self, head: Head, answer: Answer) -> None:
        """Send the answer, as far as it can be sent now."""
        self._steps = self._trap = None
        self.running_since = None
        self._last_sent = not head.keep_alive or self.door.draining
        self._append(answer, head, close=self._last_sent)
        if self._held:
            self._release_body()
        self.head = None
        self._flush_now()

    async def _answer_before_body(self, answer: Answer, head: Head, goes_on: bool) -> bool:
        """Answer who refuses without a look at the body, then pass over that."""
        # Who waits for 100 Continue may now send the body, or the next request.
        goes_on = goes_on and not head.expects_continue
        self._append(answer, head, close=not goes_on)
        await self.flush()
        if goes_on:
            await self.discard_body()
        return goes_on

    def _append(self, answer: Answer, head: Head | None, *, close: bool) -> None:
        """Put an answer behind those that wait to be sent."""
        method = "GET" if head is None else head.method
        line = connection_line(head, close)
        try:
            data = render(answer, method, self.door.date_line, line)
        except UnsafeHeader:
            log.exception("an answer that can't be sent")
            data = render(to_answer(problems.INTERNAL), method, self.door.date_line, line)
        self._out = self._out + data if self._out else data

    async def _answer_by_app(self, head: Head) -> bool:
        await self.flush()
        self._start_body()
        self._exchange = exchange = Exchange(self, head, self._client, self._server)
        self.running_since = self.door.now
        try:
            problem = await exchange.run(self.door.app)
        finally:
            self.running_since = None
            self._exchange = None
        if exchange.broken:
            self._cut_short = True
            raise Gone
        if problem is not None:
            raise Malformed(problem.status, problem.error, problem.headers)
        if exchange.closes:
            return False
        if not self._parser.body_complete:
            await self.discard_body()
        self._release_body()
        self.head = None
        return True

    # ---- Bodies.

    def _start_body(self) -> None:
        self._body_started = self.door.now
        self._body_taken = 0

    async def _whole_body(self, head: Head) -> bytes:
        """The body of a lane request.

        Raises:
            Malformed: broken, too large, or no room for it now.
        """
        piece = self._parser.take_body()
        self._hold(len(piece))
        if self._parser.body_complete:
            return piece
        self._start_body()
        if head.expects_continue and not piece:
            self._out += CONTINUE
        await self.flush()
        pieces = [piece]
        self._body_taken = len(piece)
        while not self._parser.body_complete:
            pieces.append(await self.read_body())
        return b"".join(pieces)

    async def read_body(self) -> bytes:
        """The next piece of the body, empty only at its end.

        Raises:
            Malformed: broken, too large, or no room for it now.
            Gone: the client left before its end.
        """
        parser = self._parser
        while True:
            piece = parser.take_body()
            if piece or parser.body_complete:
                self._body_taken += len(piece)
                self._hold(len(piece))
                return piece
            self.read_deadline = self._body_deadline()
            try:
                data = await self._transport.receive()
            finally:
                self.read_deadline = inf
            if not data:
                self._ended = True
                raise Gone
            parser.feed(data)

    @property
    def body_complete(self) -> bool:
        """Whether the request's body was read to its end."""
        return self._parser.body_complete

    def _body_deadline(self) -> float:
        assert self.head is not None
        size = max(self.head.content_length, self._body_taken + 1)
        return self._body_started + -(-size // _MIB) * self.door.limits.body_timeout_ms / 1000

    async def discard_body(self) -> None:
        """Pass over what is left of the body, so that the next request can be read."""
        if not self._body_started:
            self._start_body()
        while not self._parser.body_complete:
            await self.read_body()
            self._release_body()

    def _hold(self, count: int) -> None:
        self._held += count
        self.door.body_bytes += count
        if self.door.body_bytes > self.door.limits.bodies_bytes_max:
            raise too_many_bodies()

    def _release_body(self) -> None:
        self.door.body_bytes -= self._held
        self._held = 0
        self._body_started = 0.0

    # ---- Sending.

    def _flush_now(self) -> None:
        """Send as much of what waits as can be sent without waiting."""
        try:
            self._out = self._out[self._transport.send_now(self._out) :]
        except Gone:
            self._scope.cancel()

    async def flush(self) -> None:
        """Send every answer that waits.

        Raises:
            Gone: the client left, or reads too slowly.
        """
        data, self._out = self._out, b""
        if data:
            await self.write(data)

    async def write(self, data: bytes) -> None:
        """Send ``data``, waiting as long as the client keeps taking something."""
        sent = self._transport.send_now(data)
        if sent == len(data):
            return
        rest = memoryview(data)[sent:]
        timeout = self.door.limits.write_timeout_ms / 1000
        try:
            while rest:
                self.write_deadline = self.door.now + timeout
                rest = rest[await self._transport.send_some(rest) :]
        except trio.Cancelled:
            self._cut_short = True
            raise
        finally:
            self.write_deadline = inf

    def answer_start(self) -> tuple[bytes, bool]:
        """The Date line, and whether this answer must be the connection's last."""
        return self.door.date_line, self.door.draining

    # ---- The end.

    async def _refuse(self, problem: Problem) -> None:
        """Answer a request that we do not understand or serve, and end the connection."""
        self._release_body()  # now, not after the goodbye: others may wait for the room
        self._append(to_answer(problem), self.head, close=True)
        await self.flush()
        await self._say_goodbye(unread=True)

    async def _say_goodbye(self, *, unread: bool) -> None:
        """Let the client read the last answer before the socket is closed."""
        if self._ended or not (self._transport.finish() or unread):
            return
        self._ended = True
        with trio.move_on_after(self.door.limits.linger_ms / 1000):
            while await self._transport.receive():
                pass

    async def _answer_slowness(self) -> None:
        """After a cut: say 408 where somebody may be listening."""
        if self._cut_short or self.idle or self._ended or self.door.draining:
            return
        with trio.move_on_after(self.door.limits.linger_ms / 1000):
            try:
                await self._refuse(_TOO_SLOW)
            except Gone:
                return

    # ---- What the front calls.

    def expire(self) -> None:
        """The time of a read or a write is over."""
        if self.write_deadline < inf or (self._exchange is not None and self._exchange.started):
            self._cut_short = True
        self.running_since = None
        self._scope.cancel()

    def cut(self) -> None:
        """End it now, without a word."""
        self._cut_short = True
        self._scope.cancel()

    @property
    def may_be_gone(self) -> bool:
        """False when its end would be known: ten thousand that wait need not be asked about."""
        plain = self._plain
        return plain is None or plain.ended

    def hung_up(self, *, whole: bool) -> None:
        """The client closed its sending side, or the ``whole`` connection, while we work."""
        if self._half_closed is None:
            self._half_closed = self.door.now
        if not whole and self.door.now - self._half_closed < self.door.limits.half_close_ms / 1000:
            return
        if self._exchange is not None:
            self._exchange.disconnect()
        else:
            self.cut()


def _failed(head: Head, error: Exception) -> Answer:
    """The answer to a request whose handler raised, which none does but by a bug of ours.

    Every exception: a bug that one request meets must not end the front for all others.
    """
    log.error("a lane handler failed: %s", head.name, exc_info=error)
    return to_answer(problems.INTERNAL)
