"""The shell around a partition's state and log: batch, apply, commit, reply.

One loop. It takes every request that waits, applies them in order of arrival, commits their
events as one record, and only then sends the replies; what arrives meanwhile is the next
batch. That is group commit without a timer: the slower the disk, the larger the batch.

The commit runs inline, not in a thread: the partition has nothing else to do meanwhile, and
a bare server did 40,000 submits/s inline against 33,000 through a worker thread.

When the disk is full, new jobs are refused and the rest goes on from the log's reserve;
when that is used up too, only reads are answered.
"""

import logging
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Final, assert_never

import msgspec
import trio

from partitions.checkpoint import Checkpoints
from partitions.clock import Clock
from partitions.errors import BlobUnreadableError
from partitions.job import Outcome
from partitions.limits import (
    BATCH_BYTES_MAX,
    BATCH_REQUESTS_MAX,
    DUE_PER_TICK_MAX,
    FRAME_BYTES_SOFT,
)
from partitions.log import EVENT_BYTES_MAX, Log
from partitions.messages import (
    PUSH_ID,
    Ack,
    Command,
    Enqueue,
    Fail,
    Get,
    Hello,
    Hint,
    JobView,
    Leased,
    LeaseLost,
    Reply,
    Request,
    Response,
    Settled,
    StorageFull,
    Tick,
    Unreadable,
    encode_responses,
)
from partitions.pipe import BACKLOG_BYTES_HIGH, Pipe
from partitions.record import BLOB_HEADER_BYTES, RECORD_HEADER_BYTES
from partitions.state import Answer, JobFound, LeaseGranted, PartitionState, SettledBefore

if TYPE_CHECKING:
    from partitions.events import Event

_logger: Final = logging.getLogger("queue_node.partition")

_TICK: Final = Tick()
_EXPIRED: Final = b"lease expired"
_DUE_EVENT_BYTES: Final = 52
"""What a tick may bring for each of ``DUE_PER_TICK_MAX``: a lease that ended (30 bytes) and a
job to forget (20), rounded up."""

_NO_ROOM_SLEEP_S: Final = 0.5
"""How often to look for room when there is not even any for what is due."""

_ROOM_AGAIN_MS: Final = 2_000
"""The disk is said to have room again when every batch found some for so long. When it is nearly
full, small batches do and large ones do not: the two lines would take turns."""
_LAST_SNAPSHOT_WITHIN_MS: Final = 2_000
"""Of the node's 10 s for its drain, when the fronts took 6 of them; without that snapshot the next
start reads more log."""
_STUCK_FRONT_S: Final = 5.0
"""A front that takes nothing for so long is cut off; it reconnects when it is well again."""


class Mail(msgspec.Struct, frozen=True, gc=False):
    """What one frame of one front asks for."""

    pipe: Pipe
    requests: list[Request]


class _Room(IntEnum):
    NONE = 0
    RESERVE = 1
    ALL = 2


class Actor:
    """The one task that touches a partition's state and log."""

    def __init__(
        self,
        state: PartitionState,
        log: Log,
        clock: Clock,
        *,
        sleep_ms_max: int,
        partition: int,
        partitions: int,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._state = state
        self._log = log
        self._clock = clock
        self._sleep_ms_max = sleep_ms_max
        self._hello = Hello(partition, partitions)
        self._checkpoints = checkpoints
        self._waiting: deque[Mail] = deque()
        self._pipes: set[Pipe] = set()
        self._hinted = state.ready > 0
        self._events: list[Event] = []
        self._room = _Room.ALL
        self._said_full = False
        self._short_of_room_ms = 0
        self._spare_bytes = 0

    def greet(self, pipe: Pipe) -> None:
        """A front connected: tell it who we are, and from now on when jobs are ready."""
        self._pipes.add(pipe)
        pipe.send(
            encode_responses([Response(PUSH_ID, self._hello), Response(PUSH_ID, self._hint())])
        )

    def forget(self, pipe: Pipe) -> None:
        """The front's connection is over; replies still owed to it go nowhere."""
        self._pipes.discard(pipe)

    async def run(self, mailbox: trio.MemoryReceiveChannel[Mail]) -> None:
        """Serve until ``mailbox`` ends; every reply sent is durable.

        Raises:
            OSError: the log could not be written or synced. The process must end: after a
                failed sync nobody knows what the disk holds.
        """
        with mailbox:
            while (batch := await self._next_batch(mailbox)) is not None:
                now_ms = self._clock.now_ms()
                self._note_room(room := self._room_for(batch), now_ms)
                answers = [
                    [self._apply(request.command, now_ms, room) for request in mail.requests]
                    for mail in batch
                ]
                if self._tick_is_due(now_ms) and room is not _Room.NONE:
                    self._apply(_TICK, now_ms, room)
                if self._events:
                    self._log.commit(self._events, now_ms)
                    self._events.clear()
                for mail, of_mail in zip(batch, answers, strict=True):
                    await self._deliver(mail, of_mail)
                self._push_hint()
                self._log.make_room(now_ms)
                if self._checkpoints is not None:
                    self._checkpoints.step(self._clock.now_ms())
        if self._checkpoints is not None:
            self._checkpoints.finish(self._clock.now_ms(), _LAST_SNAPSHOT_WITHIN_MS)

    # Taking in ----------------------------------------------------------------------------

    async def _next_batch(self, mailbox: trio.MemoryReceiveChannel[Mail]) -> list[Mail] | None:
        """All that waits, within bounds; empty when a deadline came first; None at the end."""
        if not self._waiting:
            with trio.move_on_after(self._sleep_s()):
                try:
                    self._waiting.append(await mailbox.receive())
                except trio.EndOfChannel:
                    return None
        batch: list[Mail] = []
        requests, text_bytes = 0, 0
        while requests < BATCH_REQUESTS_MAX and text_bytes < BATCH_BYTES_MAX:
            if not self._waiting:
                try:
                    self._waiting.append(mailbox.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            mail = self._waiting.popleft()
            batch.append(mail)
            requests += len(mail.requests)
            text_bytes += sum(len(_text_of(each.command)) for each in mail.requests)
        return batch

    def _sleep_s(self) -> float:
        if self._room is _Room.NONE:
            return _NO_ROOM_SLEEP_S
        now_ms = self._clock.now_ms()
        deadlines_ms = [now_ms + self._sleep_ms_max]
        if (deadline_ms := self._state.next_deadline_ms()) is not None:
            deadlines_ms.append(deadline_ms)
        if self._checkpoints and (step_ms := self._checkpoints.next_step_ms) is not None:
            deadlines_ms.append(step_ms)
        return max(min(deadlines_ms) - now_ms, 0) / 1000

    def _tick_is_due(self, now_ms: int) -> bool:
        deadline_ms = self._state.next_deadline_ms()
        return deadline_ms is not None and deadline_ms <= now_ms

    # Applying -----------------------------------------------------------------------------

    def _room_for(self, batch: list[Mail]) -> _Room:
        """What the disk has room for; makes zeros ahead for the whole batch when it can.

        Short of ``ALL``, ``_spare_bytes`` is what is left for the batch's requests, each of
        which takes its own: a large ack must not refuse the small ones beside it.
        """
        fixed_bytes = RECORD_HEADER_BYTES + DUE_PER_TICK_MAX * _DUE_EVENT_BYTES
        requests_bytes = sum(
            _bytes_of(request.command) for mail in batch for request in mail.requests
        )
        if self._log.reserve(fixed_bytes + requests_bytes):
            return _Room.ALL
        self._spare_bytes = self._log.zeros_bytes - fixed_bytes
        return _Room.RESERVE if self._spare_bytes >= 0 else _Room.NONE

    def _note_room(self, room: _Room, now_ms: int) -> None:
        self._room = room
        if room is not _Room.ALL:
            self._short_of_room_ms = now_ms
            if not self._said_full:
                self._said_full = True
                _logger.error("disk full: new jobs are refused until there is room again")
        elif self._said_full and now_ms - self._short_of_room_ms >= _ROOM_AGAIN_MS:
            self._said_full = False
            _logger.info("disk has room again: new jobs are taken")

    def _apply(self, command: Command, now_ms: int, room: _Room) -> Answer:
        if room is not _Room.ALL:
            if type(command) is Get and room is _Room.NONE:
                return self._state.find(command.job_id)
            if not self._takes_spare(command, room):
                return StorageFull()
        text = _text_of(command)
        if text:
            applied = self._state.apply(command, now_ms, self._log.next_blob_at(len(text)))
            if applied.keeps_text:
                self._log.stage(text)
        else:
            applied = self._state.apply(command, now_ms)
        self._events.extend(applied.events)
        return applied.reply

    def _takes_spare(self, command: Command, room: _Room) -> bool:
        """Whether the command may go on, and its share of what is left is taken."""
        if type(command) is Enqueue or room is _Room.NONE:
            return False
        if type(command) is Get or type(command) is Tick:
            return True  # what they may bring is reckoned with in any case
        size = _bytes_of(command)
        if size > self._spare_bytes:
            return False
        self._spare_bytes -= size
        return True

    # Giving out ---------------------------------------------------------------------------

    async def _deliver(self, mail: Mail, answers: list[Answer]) -> None:
        responses: list[Response] = []
        size = 0
        for request, answer in zip(mail.requests, answers, strict=True):
            reply, text_bytes = self._filled(answer, request.command)
            responses.append(Response(request.request_id, reply))
            size += text_bytes
            if size >= FRAME_BYTES_SOFT:
                await self._send(mail.pipe, responses)
                responses, size = [], 0
        if responses:
            await self._send(mail.pipe, responses)

    async def _send(self, pipe: Pipe, responses: list[Response]) -> None:
        pipe.send(encode_responses(responses))
        if pipe.backlog_bytes > BACKLOG_BYTES_HIGH:
            # Memory is bounded by waiting here; a front that is stuck must not stop the
            # partition for all others, so the wait is bounded too.
            with trio.move_on_after(_STUCK_FRONT_S) as scope:
                await pipe.drained()
            if scope.cancelled_caught:
                _logger.warning("a front took no replies for %s s: cut off", _STUCK_FRONT_S)
                pipe.close()

    def _filled(self, answer: Answer, command: Command) -> tuple[Reply, int]:
        """The reply with its texts read from the log, and how many bytes those are."""
        match answer:
            case LeaseGranted() | JobFound() | SettledBefore():
                try:
                    return self._read(answer, command)
                except BlobUnreadableError as error:
                    _logger.error("text of job %s is unreadable: %s", answer.job_id.hex(), error)
                    return Unreadable(answer.job_id), 0
            case _:
                return answer, 0

    def _read(
        self, answer: LeaseGranted | JobFound | SettledBefore, command: Command
    ) -> tuple[Reply, int]:
        match answer:
            case LeaseGranted():
                payload = self._log.read(answer.payload_at) if answer.payload_at else b""
                leased = Leased(
                    answer.job_id,
                    payload,
                    answer.lease_until_ms,
                    answer.attempt,
                    answer.lease_token,
                    answer.max_retries,
                    answer.created_at_ms,
                )
                return leased, len(payload)
            case JobFound():
                text = self._log.read(answer.outcome_at) if answer.outcome_at else None
                return _view(answer, text), len(text or b"")
            case SettledBefore():
                text = self._log.read(answer.outcome_at) if answer.outcome_at else b""
                same = text == _text_of(command)
                return (Settled if same else LeaseLost)(answer.job_id), 0
            case _:
                assert_never(answer)

    def _hint(self) -> Hint:
        return Hint(self._hinted)

    def _push_hint(self) -> None:
        ready = self._state.ready > 0
        if ready is self._hinted:
            return
        self._hinted = ready
        body = encode_responses([Response(PUSH_ID, self._hint())])
        for pipe in self._pipes:
            pipe.send(body)
            if pipe.backlog_bytes > 2 * BACKLOG_BYTES_HIGH:
                # It takes nothing, and asks for nothing that ``_send`` would cut it off for.
                _logger.warning("a front took no hints: cut off")
                pipe.close()


def _bytes_of(command: Command) -> int:
    """More than the command can add to a record."""
    return EVENT_BYTES_MAX + BLOB_HEADER_BYTES + len(_text_of(command))


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


def _view(found: JobFound, text: bytes | None) -> JobView:
    error = text if found.outcome is Outcome.ERROR else None
    if found.outcome is Outcome.EXPIRED:
        error = _EXPIRED
    return JobView(
        found.job_id,
        found.state.name,
        found.attempts,
        found.max_retries,
        found.created_at_ms,
        found.lease_until_ms,
        text if found.outcome is Outcome.RESULT else None,
        error,
        found.owner,
    )
