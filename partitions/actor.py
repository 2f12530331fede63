"""The shell around a partition's state and log: batch, apply, commit, reply.

One loop. It takes every request that waits, applies them in order of arrival (but for acks that
wait), commits their events as one record, and only then sends the replies; what arrives meanwhile
is the next batch. That is group commit without a timer: the slower the disk, the larger the batch.

The commit runs inline, not in a thread: the partition has nothing else to do meanwhile, and
a bare server did 40,000 submits/s inline against 33,000 through a worker thread.

Acks of a large backlog can be quicker than cleaning the log after them. They wait for it then, in
order, while all else goes on (``mail.WaitingAcks``, ``checkpoint``).

When the disk is full, new jobs are refused and the rest goes on from the log's reserve;
when that is used up too, only reads are answered.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from partitions.answers import Answer, JobFound, LeasesGranted
from partitions.checkpoint import Checkpoints
from partitions.clock import Clock
from partitions.costs import record_bytes
from partitions.errors import BlobUnreadableError
from partitions.filling import TextAnswer, filled, reply_to
from partitions.hints import Hints
from partitions.job import FINISHED
from partitions.limits import (
    BATCH_BYTES_MAX,
    BATCH_REQUESTS_MAX,
    DUE_PER_TICK_MAX,
    FRAME_BYTES_SOFT,
    FREED_BYTES_MAX,
    MANY_MAX,
    WATCHED_JOBS_MAX,
)
from partitions.log import Log
from partitions.mail import Mail, WaitingAcks
from partitions.messages import (
    PUSH_ID,
    ClaimKeys,
    Command,
    Enqueue,
    EnqueueMany,
    FindGone,
    Get,
    Hello,
    Hint,
    JobsOver,
    List,
    ListClaims,
    Reply,
    Request,
    Response,
    StorageFull,
    Tick,
    TooMany,
    Unreadable,
    Unwatch,
    ViewQueues,
    encode_responses,
)
from partitions.pipe import BACKLOG_BYTES_HIGH, Pipe
from partitions.record import RECORD_HEADER_BYTES
from partitions.state import Look, PartitionState
from partitions.watermark import Watermark

if TYPE_CHECKING:
    from partitions.events import Event

_logger: Final = logging.getLogger("queue_node.partition")

_TICK: Final = Tick()
_NOTHING: Final[Mapping[int, bytes]] = {}
_READS: Final = (Get, List, ViewQueues, Unwatch, ListClaims, FindGone)
"""What these may bring, through the time that passes, is reckoned with in any case."""
_SUBMITS: Final = (Enqueue, EnqueueMany, ClaimKeys)
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
_IN_A_ROW_MAX: Final = 8
"""Batches without a turn for other tasks: fronts that connect wait for theirs. One, while there are
replies that a socket did not take: with Linux's default buffers (``wmem_max``) 7 MiB of them came
in 4.8 s, and come in 0.4, where 20 ms of cleaning follow each batch (``checkpoint``)."""
_FEW_ACKS_BYTES: Final = 48 << 10
"""Of a record: with so much in a batch, acks are looked for in what comes next. Before that there
are not many; and fewer, where texts are large (``_ACK_BYTES`` times what may be acked at once)."""
_ACK_BYTES: Final = 112
"""What an ack is reckoned with (``costs``)."""
_SAY_WELL_MS: Final = 1_000
"""A front gives up a partition that says nothing for 5 s."""
_STUCK_FRONT_S: Final = 5.0
"""A front that takes nothing for so long is cut off; it reconnects when it is well again."""


class _Room(IntEnum):
    NONE = 0
    RESERVE = 1
    ALL = 2


_ALL: Final = _Room.ALL  # asked of every request (``job.READY`` says why it is a name)


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
        watermark: Watermark | None = None,
    ) -> None:
        self._state = state
        self._log = log
        self._clock = clock
        self._sleep_ms_max = sleep_ms_max
        self._hello = Hello(partition, partitions)
        self._checkpoints = checkpoints
        self._watermark = watermark
        self._nearly_full = False
        self._waiting: deque[Mail] = deque()
        self._acks = WaitingAcks()
        self._is_ending = False
        self._well_until_ms = 0
        self._pipes: set[Pipe] = set()
        self._hints = Hints(state.jobs, partitions)
        self._watchers: dict[bytes, set[Pipe]] = {}
        """Who is to be told that a job is over."""
        self._watched: dict[Pipe, int] = {}
        self._events: list[Event] = []
        self._room = _ALL
        self._said_full = False
        self._short_of_room_ms = 0
        self._spare_bytes = 0
        self._in_a_row = 0
        """Batches since other tasks had their turn."""

    def greet(self, pipe: Pipe) -> None:
        """A front connected: tell it who we are, and from now on what can be leased."""
        self._pipes.add(pipe)
        self._watched[pipe] = 0
        pipe.send(encode_responses([Response(PUSH_ID, self._hello)]))
        if heads := self._hints.all(self._clock.now_ms()):
            pipe.send(encode_responses([Response(PUSH_ID, Hint(heads))]))

    def forget(self, pipe: Pipe) -> None:
        """The front's connection is over; replies still owed to it go nowhere."""
        self._pipes.discard(pipe)
        if self._watched.pop(pipe, 0):
            for job_id in [each for each, pipes in self._watchers.items() if pipe in pipes]:
                self._stop_watching(job_id, pipe)

    async def run(
        self,
        mailbox: trio.MemoryReceiveChannel[Mail],
        at_once: Callable[[], list[Mail]] = list,
    ) -> None:
        """Serve until ``mailbox`` ends; every reply sent is durable.

        ``at_once`` gives mails without waiting, those of the mailbox first (``intake``).

        Raises:
            OSError: the log could not be written or synced. The process must end: after a
                failed sync nobody knows what the disk holds.
        """
        with mailbox:
            while (batch := await self._next_batch(mailbox, at_once)) is not None:
                if self._checkpoints is not None:
                    self._checkpoints.note_work()
                now_ms = self._clock.now_ms()
                self._note_room(room := self._room_for(batch), now_ms)
                self._nearly_full = self._watermark is not None and self._watermark.is_low(now_ms)
                answers: dict[Pipe, list[tuple[Request, Answer]]] = {}
                for mail in batch:
                    answers.setdefault(mail.pipe, []).extend(
                        [
                            (request, self._answer(request.command, now_ms, room, mail.pipe))
                            for request in mail.requests
                        ]
                    )
                if self._tick_is_due(now_ms) and room is not _Room.NONE:
                    self._apply(_TICK, now_ms, room)
                if self._events:
                    self._log.commit(self._events, now_ms)
                hint = self._hint(now_ms) if self._events else None
                if hint is not None:
                    others = [pipe for pipe in self._pipes if pipe not in answers]
                    self._push(encode_responses([hint]), others)
                for pipe, of_pipe in answers.items():
                    await self._deliver(pipe, of_pipe, hint)
                if self._events:
                    self._push_over()
                    self._events.clear()
                self._say_it_is_well(now_ms)
                self._log.make_room(now_ms)
                if self._checkpoints is not None:
                    self._checkpoints.step(self._clock.now_ms())
        if self._checkpoints is not None:
            self._checkpoints.finish(self._clock.now_ms(), _LAST_SNAPSHOT_WITHIN_MS)

    # Taking in ----------------------------------------------------------------------------

    async def _next_batch(
        self, mailbox: trio.MemoryReceiveChannel[Mail], at_once: Callable[[], list[Mail]]
    ) -> list[Mail] | None:
        """All that waits, within bounds; empty when a deadline came first; None at the end."""
        if self._in_a_row < _IN_A_ROW_MAX and not self._owes_bytes:
            self._in_a_row += 1
            if not self._waiting:
                self._waiting.extend(at_once())
        elif self._waiting or self._acks:
            self._in_a_row = 0
            await trio.lowlevel.checkpoint()
        batch = self._acks_to_take()
        if not self._waiting and not batch:
            try:
                await self._wait(mailbox)
            except trio.EndOfChannel:
                if not self._acks:
                    return None
                self._is_ending = True
        waited = self._acks_wait or bool(self._acks)
        few_bytes = min(_FEW_ACKS_BYTES, _ACK_BYTES * self._acks_at_once)
        requests = sum([len(mail.requests) for mail in batch])
        size = sum([mail.record_bytes for mail in batch])
        while requests < BATCH_REQUESTS_MAX and size < BATCH_BYTES_MAX:
            if not self._waiting:
                try:
                    self._waiting.append(mailbox.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            mail: Mail | None = self._waiting.popleft()
            if mail is not None and (waited or size + mail.record_bytes > few_bytes):
                mail = self._acks.keep(mail)
            if mail is not None:
                batch.append(mail)
                requests += len(mail.requests)
                size += mail.record_bytes
            elif self._acks.is_full:
                break
        if self._acks and not waited and size < BATCH_BYTES_MAX:
            batch += self._acks_to_take()
        return batch

    async def _wait(self, mailbox: trio.MemoryReceiveChannel[Mail]) -> None:
        """For a mail, until the next deadline.

        Raises:
            trio.EndOfChannel: there will be no more.
        """
        self._in_a_row = 0
        with trio.move_on_after(self._sleep_s()) as scope:
            self._waiting.append(await mailbox.receive())
        if scope.cancelled_caught:
            # With nothing to wait for it did not come to see whether there is an end.
            with suppress(trio.WouldBlock):
                self._waiting.append(mailbox.receive_nowait())

    @property
    def _acks_at_once(self) -> int:
        """How many jobs may be acked in one batch."""
        jobs = self._state.jobs
        live_bytes = jobs.live.total_bytes
        if live_bytes <= FREED_BYTES_MAX:
            return MANY_MAX  # There is not more to free.
        return FREED_BYTES_MAX * jobs.unfinished // live_bytes

    def _acks_to_take(self) -> list[Mail]:
        """Those that need not wait longer."""
        if not self._acks or (self._acks_wait and not self._acks.is_full):
            return []
        return self._acks.take(self._acks_at_once)

    def _say_it_is_well(self, now_ms: int) -> None:
        """To fronts that hear nothing else while acks wait, and would think that it hangs."""
        if self._acks and now_ms >= self._well_until_ms:
            self._well_until_ms = now_ms + _SAY_WELL_MS
            self._push(encode_responses([]), list(self._pipes))

    @property
    def _acks_wait(self) -> bool:
        """Whether acks wait for cleaning; not once the fronts are gone."""
        return self._checkpoints is not None and self._checkpoints.is_owed and not self._is_ending

    @property
    def _owes_bytes(self) -> bool:
        """Whether a socket did not take all of the replies: the rest is sent in others' turns."""
        return any(pipe.backlog_bytes for pipe in self._pipes)

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
        requests_bytes = sum(mail.record_bytes for mail in batch)
        if self._log.reserve(fixed_bytes + requests_bytes):
            return _ALL
        self._spare_bytes = self._log.zeros_bytes - fixed_bytes
        return _Room.RESERVE if self._spare_bytes >= 0 else _Room.NONE

    def _note_room(self, room: _Room, now_ms: int) -> None:
        self._room = room
        if room is not _ALL:
            self._short_of_room_ms = now_ms
            if not self._said_full:
                self._said_full = True
                _logger.error("disk full: new jobs are refused until there is room again")
        elif self._said_full and now_ms - self._short_of_room_ms >= _ROOM_AGAIN_MS:
            self._said_full = False
            _logger.info("disk has room again: new jobs are taken")

    def _answer(self, command: Command, now_ms: int, room: _Room, pipe: Pipe) -> Answer:
        """Apply a command of a front; with what the actor itself owes to that front."""
        answer = self._apply(command, now_ms, room)
        if type(command) is Get:
            if command.watch and type(answer) is JobFound:
                return self._watch(command.job_id, answer, pipe)
        elif type(command) is Unwatch:
            self._stop_watching(command.job_id, pipe)
        return answer

    def _apply(self, command: Command, now_ms: int, room: _Room) -> Answer:
        if room is not _ALL:
            if room is _Room.NONE and isinstance(command, Look):
                return self._state.look(command, now_ms)
            if not self._takes_spare(command, room):
                return StorageFull()
        if self._nearly_full and type(command) in _SUBMITS:
            return StorageFull()
        applied = self._state.apply(command, now_ms, self._log.put)
        self._events.extend(applied.events)
        return applied.reply

    def _takes_spare(self, command: Command, room: _Room) -> bool:
        """Whether the command may go on, and its share of what is left is taken."""
        if room is _Room.NONE or type(command) in _SUBMITS:
            return False
        if type(command) is Tick or type(command) in _READS:
            return True
        size = record_bytes(command)
        if size > self._spare_bytes:
            return False
        self._spare_bytes -= size
        return True

    # Jobs that are waited for -------------------------------------------------------------

    def _watch(self, job_id: bytes, found: JobFound, pipe: Pipe) -> Answer:
        if found.view.finished_at_ms is not None or pipe not in self._pipes:
            return found
        pipes = self._watchers.setdefault(job_id, set())
        if pipe not in pipes:
            if self._watched[pipe] >= WATCHED_JOBS_MAX:
                return TooMany("watched")
            self._watched[pipe] += 1
            pipes.add(pipe)
        return found

    def _stop_watching(self, job_id: bytes, pipe: Pipe) -> None:
        pipes = self._watchers.get(job_id)
        if pipes is None or pipe not in pipes:
            return
        pipes.discard(pipe)
        if not pipes:
            del self._watchers[job_id]
        if pipe in self._watched:
            self._watched[pipe] -= 1

    def _push_over(self) -> None:
        """Tell the fronts that watch them which jobs are finished or gone by now."""
        if not self._watchers:
            return
        jobs = self._state.jobs.by_id
        over: dict[Pipe, list[bytes]] = {}
        for event in self._events:
            job_id = getattr(event, "job_id", None)
            if job_id is None or job_id not in self._watchers:
                continue
            job = jobs.get(job_id)
            if job is None or job.state in FINISHED:
                for pipe in list(self._watchers[job_id]):
                    over.setdefault(pipe, []).append(job_id)
                    self._stop_watching(job_id, pipe)
        for pipe, job_ids in over.items():
            self._push(encode_responses([Response(PUSH_ID, JobsOver(job_ids))]), [pipe])

    # Giving out ---------------------------------------------------------------------------

    async def _deliver(
        self, pipe: Pipe, answers: list[tuple[Request, Answer]], hint: Response | None
    ) -> None:
        """All that a front is owed of a batch, in one frame if they are not many bytes.

        A frame for each of its mails woke it for each: 2.6 times a batch with 16 connections.
        The hint comes last: who hears of a job that was stored and asks for one at once is to be
        sent where it is.
        """
        responses: list[Response] = []
        size = 0
        for request, answer in answers:
            read = self._read
            if type(answer) is LeasesGranted:
                positions = [lease.payload_at for lease in answer.leases if lease.payload_at]
                read = partial(read, known=self._log.read_together(positions))
            reply, text_size = reply_to(answer, read)
            responses.append(Response(request.request_id, reply))
            size += text_size
            if size >= FRAME_BYTES_SOFT:
                await self._send(pipe, responses)
                responses, size = [], 0
        if hint is not None:
            responses.append(hint)
        if responses:
            await self._send(pipe, responses)

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

    def _read(self, answer: TextAnswer, known: Mapping[int, bytes] = _NOTHING) -> tuple[Reply, int]:
        """The reply, with the texts that are ``known`` by their positions, or those on disk."""
        log = self._log
        read = (lambda at: known.get(at) or log.read(at)) if known else log.read
        try:
            return filled(answer, read)
        except BlobUnreadableError as error:
            job_id = answer.view.job_id if isinstance(answer, JobFound) else answer.job_id
            _logger.error("text of job %s is unreadable: %s", job_id.hex(), error)
            return Unreadable(job_id), 0

    def _hint(self, now_ms: int) -> Response | None:
        heads = self._hints.changes(now_ms)
        return Response(PUSH_ID, Hint(heads)) if heads else None

    def _push(self, body: bytes, pipes: Iterable[Pipe]) -> None:
        for pipe in pipes:
            pipe.send(body)
            if pipe.backlog_bytes > 2 * BACKLOG_BYTES_HIGH:
                # It takes nothing, and asks for nothing that ``_send`` would cut it off for.
                _logger.warning("a front took no hints: cut off")
                pipe.close()
