"""A partition over a real Unix socket whose disk is a list and whose faults are made to order.

Its jobs are kept by the real ``PartitionState``, so it refuses what a partition refuses; only
the log and the process are missing. It notes every frame that a front sends. Hints it gives only
where a test wants them.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum, auto
from pathlib import Path

import trio

from partitions.framing import Deframer, frame
from partitions.messages import (
    PUSH_ID,
    Command,
    Hello,
    Hint,
    Reply,
    Request,
    Response,
    decode_requests,
    encode_responses,
)
from tests.support.stateful import Stateful

_RECEIVE_BYTES = 1 << 16


class Fault(Enum):
    """What happens to the frames that arrive, instead of an answer."""

    LOST_BEFORE = auto()
    """The connection breaks and nothing was carried out."""
    LOST_AFTER = auto()
    """All was carried out, then the connection breaks."""
    MUTE = auto()
    """Nothing is carried out, nothing is answered."""


class FakePartition(Stateful):
    """One partition; ``run`` serves it."""

    def __init__(self, path: Path, partition: int = 0, partitions: int = 1) -> None:
        super().__init__(partition, partitions)
        self.path = str(path)
        self.hints = False
        """Whether it says what its queues would give, as a partition does."""
        self.greeting = encode_responses(
            [Response(PUSH_ID, Hello(partition, partitions)), Response(PUSH_ID, Hint([]))]
        )
        self.frames: list[list[Request]] = []
        self.connections = 0
        self.faults: list[Fault] = []
        """Used up one by one, a frame each; with none left the partition is well."""
        self.answer: Callable[[Command], Reply] = self.carry_out
        self._open: dict[trio.SocketStream, trio.CancelScope] = {}
        self._reading = trio.Event()
        self._reading.set()

    @property
    def commands(self) -> list[Command]:
        """Everything that fronts asked for, in order of arrival."""
        return [request.command for requests in self.frames for request in requests]

    async def tell(self) -> None:
        """Push what a partition would push by now."""
        for push in self.pushes():
            await self.push(push)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; then the socket's path is gone, as after a kill."""
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            await listener.bind(self.path)
            listener.listen()
            try:
                async with trio.open_nursery() as nursery:
                    task_status.started()
                    while True:
                        sock, _ = await listener.accept()
                        nursery.start_soon(self._serve, trio.SocketStream(sock))
            finally:
                Path(self.path).unlink()  # noqa: ASYNC240 - a file in memory, in a test

    def hang_up(self) -> None:
        """Break every open connection."""
        for scope in self._open.values():
            scope.cancel()

    async def push(self, reply: Reply) -> None:
        """Send what nobody asked for."""
        await self.send(encode_responses([Response(PUSH_ID, reply)]))

    async def send(self, body: bytes) -> None:
        """Send one frame on every open connection."""
        await self.send_raw(frame(body))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes that may be no frame."""
        for stream in list(self._open):
            await stream.send_all(data)

    def deaf(self) -> AbstractContextManager[None]:
        """Inside the block the partition does nothing: it was stopped, or its disk hangs."""
        return self._deaf()

    @contextmanager
    def _deaf(self) -> Iterator[None]:
        self._reading = trio.Event()
        try:
            yield
        finally:
            self._reading.set()

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        with trio.CancelScope() as scope:
            self._open[stream] = scope
            try:
                await self._reading.wait()
                await stream.send_all(frame(self.greeting))
                if self.hints and (heads := self.greet()):
                    await stream.send_all(frame(encode_responses([Response(PUSH_ID, Hint(heads))])))
                await self._read(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # The front hung up; that is all it can do to us.
            finally:
                del self._open[stream]
                self.watched.clear()
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(stream)

    async def _read(self, stream: trio.SocketStream) -> None:
        deframer = Deframer()
        while data := await stream.receive_some(_RECEIVE_BYTES):
            await self._reading.wait()
            for body in deframer.feed(data):
                await self._take(stream, decode_requests(body))

    async def _take(self, stream: trio.SocketStream, requests: list[Request]) -> None:
        self.frames.append(requests)
        fault = self.faults.pop(0) if self.faults else None
        if fault is Fault.MUTE:
            return
        if fault is Fault.LOST_BEFORE:
            raise trio.BrokenResourceError
        replies = [Response(each.request_id, self.answer(each.command)) for each in requests]
        if fault is Fault.LOST_AFTER:
            raise trio.BrokenResourceError
        await stream.send_all(frame(encode_responses(replies)))
        if self.hints:
            await self.tell()
