"""A front's end of the pipe to one partition: calls out, replies in, reconnecting for ever.

Calls that are made in the same pass of the scheduler travel in one frame: the first wakes
the sender, which runs in the next pass and takes all that has gathered. Under load that is
what feeds the partition's group commit.

``ask`` either returns the partition's reply or raises; after ``PartitionUnavailableError``
with ``sent`` nobody knows whether the command was carried out. What is in flight is bounded
in requests and in bytes: beyond it ``OverloadedError``, before anything is kept. How the reply
is waited for is in ``api.calls``.
"""

import logging
import socket
import types
from collections.abc import Callable, Generator
from typing import Final

import msgspec
import trio

from api.calls import Call, driven
from api.errors import OverloadedError, PartitionUnavailableError
from api.heads import KnownHead
from partitions.errors import PipeError
from partitions.limits import (
    FRAME_BYTES_SOFT,
    FRAME_REQUESTS_MAX,
    IN_FLIGHT_BYTES_MAX,
    REQUESTS_PER_PARTITION_MAX,
)
from partitions.messages import (
    PUSH_ID,
    Command,
    Head,
    Hello,
    Hint,
    JobsOver,
    Recovering,
    Reply,
    Request,
    decode_responses,
    encode_requests,
)
from partitions.pipe import BACKLOG_BYTES_HIGH, Pipe

_logger: Final = logging.getLogger("queue_node.front")

_RECONNECT_FIRST_S: Final = 0.02
_RECONNECT_LONGEST_S: Final = 1.0
_HELLO_WITHIN_S: Final = 5.0
"""A partition that recovers says so several times a second."""
_SILENCE_S: Final = 5.0
"""A partition that owes answers and says nothing for so long hangs.

Guess: longer than a disk stalls that is well, shorter than clients wait. Not less: during a sync
a partition cannot say that it is alive."""
_POSTS_MAX: Final = REQUESTS_PER_PARTITION_MAX
"""Commands beyond the bound that nobody waits for. As many as there may be of those that bring
them about: the release of a lease whose client has gone follows the reply to it."""
_LOOKS: Final = 5
"""How often it is looked at in that time. Looks are counted, not seconds: after this front itself
stood still, the replies that came meanwhile are still to be read."""


class PartitionClient:
    """Calls to one partition, from any task of the front."""

    def __init__(self, partition: int, partitions: int, path: str) -> None:
        self.partition = partition
        self.heads: dict[str, KnownHead] = {}
        """What each queue would give, as the partition last said; it may be old by now."""
        self.on_heads: Callable[[list[Head]], None] = _ignore
        """Told what the partition says of its queues."""
        self.on_over: Callable[[list[bytes]], None] = _ignore
        """Told which watched jobs are finished or gone."""
        self.on_change: Callable[[], None] = _nothing
        """Told that the partition is gone, and watches nothing any more; or serves again."""
        self._expected = Hello(partition, partitions)
        self._path = path
        self._last_id = 0
        self._calls: dict[int, Call] = {}
        self._in_flight_bytes = 0
        self._outgoing: dict[int, Request] = {}
        self._outgoing_bytes = 0
        self._sender: trio.lowlevel.Task | None = None
        self._connected = trio.Event()
        self.state = "down"
        """``serving``, ``down``, or ``recovering (n%)``."""
        self._sent = 0
        self._answered = 0
        self._frames = 0
        self._hangs = False

    @property
    def serving(self) -> bool:
        """Whether calls can be made now."""
        return self._connected.is_set()

    async def call(self, command: Command, text_bytes: int = 0) -> Reply:
        """``ask`` in a task of trio's."""
        return await driven(self.ask(command, text_bytes))

    @types.coroutine
    def ask(
        self,
        command: Command,
        text_bytes: int = 0,
        orphaned: Callable[[Reply], None] | None = None,
    ) -> Generator[Call, None, Reply]:
        """Send ``command`` and wait for its reply; ``text_bytes`` is the size of its texts.

        ``orphaned`` gets the reply if whoever asked is gone by then.

        Raises:
            PartitionUnavailableError: not connected, or the connection broke meanwhile.
            OverloadedError: too much is in flight.
        """
        call = self.begin(command, text_bytes)
        try:
            yield call
        except BaseException:
            # Cancelled, or the operation was closed: nobody wants the reply any more.
            if orphaned is None or not self._hand_over(call, orphaned):
                self._give_up(call)
            raise
        return call.result()

    def begin(self, command: Command, text_bytes: int = 0, spare: int = 0) -> Call:
        """Send ``command``; what is returned is to be waited for (``calls.outcome_of``).

        So many in flight as ``spare`` says may be beyond the bound.

        Raises:
            PartitionUnavailableError: not connected.
            OverloadedError: too much is in flight.
        """
        if not self._connected.is_set():
            raise PartitionUnavailableError(self.partition, sent=False)
        if (
            len(self._calls) >= REQUESTS_PER_PARTITION_MAX + spare
            or self._in_flight_bytes + text_bytes > IN_FLIGHT_BYTES_MAX
        ):
            raise OverloadedError(self.partition)
        self._last_id = request_id = self._last_id + 1
        self._calls[request_id] = call = Call(request_id, text_bytes)
        self._in_flight_bytes += text_bytes
        self._outgoing[request_id] = Request(request_id, command)
        self._outgoing_bytes += text_bytes
        if (sender := self._sender) is not None:
            self._sender = None
            trio.lowlevel.reschedule(sender)
        return call

    def post(self, command: Command) -> None:
        """Send ``command`` if the partition serves; nobody waits for its reply.

        Also when others are refused because too much is in flight: it ends something.
        """
        try:
            self.begin(command, 0, _POSTS_MAX)
        except (PartitionUnavailableError, OverloadedError) as error:
            _logger.debug("not sent: %s", error)

    def _hand_over(self, call: Call, orphaned: Callable[[Reply], None]) -> bool:
        """Let ``orphaned`` have the reply; False when the command is not on its way."""
        if call.done:
            if not call.failed:
                orphaned(call.result())
            return True
        if call.request_id not in self._calls or call.request_id in self._outgoing:
            return False
        call.then = lambda: None if call.failed else orphaned(call.result())
        return True

    def _give_up(self, call: Call) -> None:
        """Forget a call: its reply, if one comes, goes nowhere."""
        self._take_call(call.request_id)
        # What was not sent yet must not stay: clients that submit and hang up, again and
        # again, would fill the memory while a partition takes nothing.
        if self._outgoing.pop(call.request_id, None) is not None:
            self._outgoing_bytes -= call.text_bytes

    async def wait_serving(self) -> None:
        """Return when calls can be made."""
        await self._connected.wait()

    async def run(self) -> None:
        """Keep connected until cancelled."""
        delay_s = _RECONNECT_FIRST_S
        while True:
            sock = self._connect()
            if sock is not None and await self._run_connection(Pipe(sock)):
                delay_s = _RECONNECT_FIRST_S
            await trio.sleep(delay_s)
            delay_s = min(delay_s * 2, _RECONNECT_LONGEST_S)

    def _connect(self) -> socket.socket | None:
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            # No descriptor is left: clients may cause that, and it must not end the front.
            _logger.debug("no socket for partition %d: %s", self.partition, error)
            return None
        sock.setblocking(False)
        try:
            # A Unix socket connects at once or not at all.
            sock.connect(self._path)
        except OSError:
            sock.close()
            return None
        return sock

    async def _run_connection(self, pipe: Pipe) -> bool:
        """Serve calls until the connection breaks; whether it ever served."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipe.run)
                try:
                    await self._greeted(pipe)
                    nursery.start_soon(self._send, pipe)
                    nursery.start_soon(self._watch, pipe)
                    await self._receive(pipe)
                except (PipeError, msgspec.MsgspecError) as error:
                    _logger.error("partition %d is not understood: %r", self.partition, error)
                nursery.cancel_scope.cancel()
            served = self._connected.is_set()
            if served:
                # Not when we are cancelled: then it is this front that goes.
                _logger.warning("partition %d is gone; reconnecting", self.partition)
            return served
        finally:
            pipe.close()
            self._disconnected()

    async def _greeted(self, pipe: Pipe) -> None:
        """Wait until the partition serves; as long as it recovers it says how far it is."""
        while not self._connected.is_set():
            bodies: list[bytes] = []
            with trio.move_on_after(_HELLO_WITHIN_S):
                bodies = await pipe.receive()
            if not bodies:
                raise PipeError("no greeting came")
            first = decode_responses(bodies[0])
            if not first or not isinstance(first[0].reply, Hello | Recovering):
                raise PipeError(f"expected {self._expected}, met {first[:1]}")
            for body in bodies:
                self._take(body)

    async def _send(self, pipe: Pipe) -> None:
        # A closed pipe takes nothing: what waits then is known not to have been sent.
        while not pipe.closed:
            if not self._outgoing:
                self._sender = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abandon_sender)
                # Whoever woke us may have given up since.
                continue
            requests, size = list(self._outgoing.values()), self._outgoing_bytes
            self._sent += len(requests)
            self._outgoing.clear()
            self._outgoing_bytes = 0
            if size <= FRAME_BYTES_SOFT:
                for start in range(0, len(requests), FRAME_REQUESTS_MAX):
                    pipe.send(encode_requests(requests[start : start + FRAME_REQUESTS_MAX]))
            else:
                # Each frame has one large text at most, so none is near the bound.
                for request in requests:
                    pipe.send(encode_requests([request]))
            if pipe.backlog_bytes > BACKLOG_BYTES_HIGH:
                await pipe.drained()

    async def _watch(self, pipe: Pipe) -> None:
        """Break with a partition that hangs: stopped, or on a disk that does not come back.

        Its callers hear 503 then instead of nothing, new jobs go to others, and it is asked
        again when it greets us again.
        """
        silent = 0
        while silent < _LOOKS:
            sent, frames = self._sent, self._frames
            await trio.sleep(_SILENCE_S / _LOOKS)
            owes = self._answered < sent
            silent = silent + 1 if owes and self._frames == frames else 0
        _logger.error("partition %d hangs: cut off until it is back", self.partition)
        self._hangs = True
        pipe.close()

    def _abandon_sender(self, _: object) -> trio.lowlevel.Abort:
        self._sender = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _receive(self, pipe: Pipe) -> None:
        while bodies := await pipe.receive():
            for body in bodies:
                self._take(body)

    def _take(self, body: bytes) -> None:
        self._frames += 1
        for response in decode_responses(body):
            request_id = response.request_id
            if request_id == PUSH_ID:
                self._take_push(response.reply)
                continue
            self._answered += 1
            if (call := self._take_call(request_id)) is not None:
                call.answer(response.reply)

    def _take_push(self, push: Reply) -> None:
        match push:
            case Hint():
                for head in push.heads:
                    if head.priority is None:
                        self.heads.pop(head.queue, None)
                    elif (known := self.heads.get(head.queue)) is not None:
                        known.told(head)
                    else:
                        self.heads[head.queue] = KnownHead(head)
                self.on_heads(push.heads)
            case JobsOver():
                self.on_over(push.job_ids)
            case Recovering():
                self.state = f"recovering ({push.done_percent}%)"
            case Hello():
                if push != self._expected:
                    raise PipeError(f"expected {self._expected}, met {push}")
                self.state = "serving"
                self._connected.set()
                _logger.info("partition %d serves", self.partition)
                self.on_change()
            case _:
                raise PipeError(f"a push that is none: {push}")

    def _take_call(self, request_id: int) -> Call | None:
        call = self._calls.pop(request_id, None)
        if call is not None:
            self._in_flight_bytes -= call.text_bytes
        return call

    def _disconnected(self) -> None:
        if self._connected.is_set():
            # Only then: whoever waits for an event that was not set waits for this very one.
            self._connected = trio.Event()
        self.state = "down"
        self.heads.clear()
        # What was not answered never will be: the next connection owes nothing.
        self._answered = self._sent
        unsent = self._outgoing
        self._outgoing, self._outgoing_bytes = {}, 0
        for request_id in list(self._calls):
            # One that fails may bring another to its end.
            if (call := self._take_call(request_id)) is not None:
                sent = request_id not in unsent
                call.fail(PartitionUnavailableError(self.partition, sent=sent, hangs=self._hangs))
        self._hangs = False
        self.on_change()


def _ignore(_: object) -> None:
    """Nobody wants to know."""


def _nothing() -> None:
    """The same."""
