"""A partition over a real Unix socket whose disk is a list and whose faults are made to order.

Its jobs are kept by the real ``PartitionState``, so it refuses what a partition refuses; only
the log and the process are missing. It notes every frame that a front sends.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum, auto
from pathlib import Path

import trio

from partitions.framing import Deframer, frame
from partitions.job import Outcome
from partitions.messages import (
    PUSH_ID,
    Ack,
    Command,
    Enqueue,
    Fail,
    Hello,
    Hint,
    JobView,
    Leased,
    LeaseLost,
    Reply,
    Request,
    Response,
    Settled,
    decode_requests,
    encode_responses,
)
from partitions.slots import first_slot
from partitions.state import (
    Answer,
    JobFound,
    LeaseGranted,
    PartitionState,
    Policy,
    SettledBefore,
)

START_MS = 1_700_000_000_000
_RECEIVE_BYTES = 1 << 16


class Fault(Enum):
    """What happens to the frames that arrive, instead of an answer."""

    LOST_BEFORE = auto()
    """The connection breaks and nothing was carried out."""
    LOST_AFTER = auto()
    """All was carried out, then the connection breaks."""
    MUTE = auto()
    """Nothing is carried out, nothing is answered."""


class FakePartition:
    """One partition; ``serving`` runs it."""

    def __init__(self, path: Path, partition: int = 0, partitions: int = 1) -> None:
        self.path = str(path)
        self.partition = partition
        slots = range(first_slot(partition, partitions), first_slot(partition + 1, partitions))
        self.state = PartitionState(Policy(slots=slots))
        self.now_ms = START_MS
        self.greeting = encode_responses(
            [Response(PUSH_ID, Hello(partition, partitions)), Response(PUSH_ID, Hint(ready=False))]
        )
        self.frames: list[list[Request]] = []
        self.connections = 0
        self.faults: list[Fault] = []
        """Used up one by one, a frame each; with none left the partition is well."""
        self.answer: Callable[[Command], Reply] = self.carry_out
        self._texts = [b""] * 64  # no text is at so low a position
        self._open: dict[trio.SocketStream, trio.CancelScope] = {}
        self._reading = trio.Event()
        self._reading.set()

    @property
    def commands(self) -> list[Command]:
        """Everything that fronts asked for, in order of arrival."""
        return [request.command for requests in self.frames for request in requests]

    def carry_out(self, command: Command) -> Reply:
        """Do what a partition does with ``command``."""
        text = _text_of(command)
        applied = self.state.apply(command, self.now_ms, len(self._texts) if text else 0)
        if applied.keeps_text:
            self._texts.append(text)
        return self._filled(applied.reply, command)

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
                await self._read(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # The front hung up; that is all it can do to us.
            finally:
                del self._open[stream]
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

    def _filled(self, answer: Answer, command: Command) -> Reply:
        match answer:
            case LeaseGranted():
                return Leased(
                    answer.job_id,
                    self._texts[answer.payload_at],
                    answer.lease_until_ms,
                    answer.attempt,
                    answer.lease_token,
                    answer.max_retries,
                    answer.created_at_ms,
                )
            case JobFound():
                return self._view(answer)
            case SettledBefore():
                same = self._texts[answer.outcome_at] == _text_of(command)
                return (Settled if same else LeaseLost)(answer.job_id)
            case _:
                return answer

    def _view(self, found: JobFound) -> JobView:
        text = self._texts[found.outcome_at] if found.outcome_at else None
        error = b"lease expired" if found.outcome is Outcome.EXPIRED else text
        return JobView(
            found.job_id,
            found.state.name,
            found.attempts,
            found.max_retries,
            found.created_at_ms,
            found.lease_until_ms,
            text if found.outcome is Outcome.RESULT else None,
            error if found.outcome in (Outcome.ERROR, Outcome.EXPIRED) else None,
            found.owner,
        )


def _text_of(command: Command) -> bytes:
    match command:
        case Enqueue():
            return command.payload
        case Ack():
            return command.result or b""
        case Fail():
            return command.error
        case _:
            return b""
