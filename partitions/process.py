"""A partition process from its first byte to its last: listen, recover, serve, drain.

Fronts can connect from the start: they are told how far recovery is, and refuse requests for
this partition themselves, until they are told that it serves.
"""

import errno
import logging
import socket
import time
from functools import partial
from pathlib import Path
from typing import Final

import trio

from partitions.actor import Actor
from partitions.checkpoint import Checkpoints
from partitions.child import say_ready, told_to_stop
from partitions.clock import SystemClock
from partitions.disk import Disk, free_bytes
from partitions.intake import Intake
from partitions.log import NO_SPACE, identity_of
from partitions.made import mark_made
from partitions.memory import give_back
from partitions.messages import (
    PUSH_ID,
    Recovering,
    Response,
    encode_responses,
)
from partitions.pipe import Pipe
from partitions.recovery import Recovered, recovering
from partitions.retry import Backoff
from partitions.settings import PartitionSettings
from partitions.state import PartitionState, Policy
from partitions.watermark import Watermark

_LISTEN_BACKLOG: Final = 128
_PIECE_S: Final = 0.02
"""Recovery looks after its pipes this often."""
_SAY_EVERY_S: Final = 0.2
_NO_ROOM_SLEEP_S: Final = 0.5
"""How often to look for room when the disk has not even enough to start."""
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SCARCE_SLEEP_S: Final = 0.1
_LOG_EVERY_S: Final = 1.0
_CLOCK_MAY_LAG_MS: Final = 1_000
"""What a time server corrects in passing is not worth a line."""

_logger: Final = logging.getLogger("queue_node.partition")


class PartitionProcess:
    """One partition over its Unix socket; the directory's lock is held by the caller."""

    def __init__(self, settings: PartitionSettings, disk: Disk) -> None:
        self._settings = settings
        self._disk = disk
        self._directory = Path(settings.directory)
        self._identity = identity_of(settings.partition, settings.partitions)
        self._intake = Intake()
        self._actor: Actor | None = None
        self._early: set[Pipe] = set()
        """Fronts that connected before the partition serves."""

    async def run(self) -> None:
        """Serve until told to stop; then commit what was received, and return.

        Raises:
            ExceptionGroup: of ``OSError``, the disk failed; of ``CorruptLogError``.
        """
        intake = self._intake
        with _listening_socket(self._settings.socket) as listener:
            async with trio.open_nursery() as nursery, intake.send, trio.open_nursery() as fronts:
                fronts.start_soon(self._until_stopped, fronts.cancel_scope)
                fronts.start_soon(self._accept, listener)
                self._actor = await self._recovered_actor()
                nursery.start_soon(self._actor.run, intake.mailbox, intake.at_once)
                for pipe in self._early:
                    self._actor.greet(pipe)
                self._early.clear()
                say_ready()

    async def _until_stopped(self, fronts: trio.CancelScope) -> None:
        await told_to_stop()
        # Fronts were drained before us, so nobody waits for what is unread.
        fronts.cancel()

    async def _recovered_actor(self) -> Actor:
        """Read the log; the actor that goes on where it ends."""
        settings, identity = self._settings, self._identity
        state, found = await self._recovered()
        give_back()
        clock = self._clock_from(found.newest_ms)
        state.clock_raised_ms = clock.raised_ms
        return Actor(
            state,
            found.log,
            clock,
            sleep_ms_max=settings.lease_check_interval_ms,
            partition=settings.partition,
            partitions=settings.partitions,
            checkpoints=Checkpoints(
                self._disk,
                self._directory,
                identity,
                state.jobs,
                found.log,
                newest=found.snapshot,
                record_bytes=found.record_bytes,
                bad_lsns=found.bad_lsns,
            ),
            watermark=Watermark(partial(free_bytes, self._directory), settings.disk_free_min_bytes),
        )

    async def _recovered(self) -> tuple[PartitionState, Recovered]:
        """The state in the log. A disk without room even to open it is waited for."""
        settings, identity = self._settings, self._identity
        policy = Policy(
            slots=range(identity.slot_first, identity.slot_end),
            backoff=Backoff(settings.retry_backoff_ms, settings.retry_backoff_max_ms),
            retention_ms=settings.retention_ms,
            dead_retention_ms=settings.dead_retention_ms,
            lease_ms=settings.lease_duration_ms,
            jobs_max=settings.jobs_max,
        )
        waiting = False
        while True:
            state = PartitionState(policy)
            try:
                found = await self._recover_in_pieces(state)
                mark_made(self._disk, self._directory)
                return state, found
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                if not waiting:
                    waiting = True
                    _logger.error("disk full: this partition starts when there is room: %s", error)
            # To begin again from the files is what a new process would do, only sooner: the
            # supervisor would let it wait longer and longer.
            await trio.sleep(_NO_ROOM_SLEEP_S)

    def _clock_from(self, newest_ms: int) -> SystemClock:
        clock = SystemClock(newest_ms, ahead_ms=self._settings.clock_ahead_ms)
        if clock.raised_ms > _CLOCK_MAY_LAG_MS:
            _logger.warning(
                "the wall clock was set back: it is %.1f s before the newest time in the log,"
                " from which times go on until it has caught up and the node is started again",
                clock.raised_ms / 1000,
            )
        return clock

    async def _recover_in_pieces(self, state: PartitionState) -> Recovered:
        started = paused = said = logged = time.monotonic()
        steps = recovering(self._disk, self._directory, self._identity, state)
        while True:
            try:
                share = next(steps)
            except StopIteration as end:
                found: Recovered = end.value
                _report(found, state, time.monotonic() - started)
                return found
            now = time.monotonic()
            if now - logged >= _LOG_EVERY_S:
                logged = now
                _logger.info("recovering: %d%%, %d jobs so far", share * 100, len(state))
            if now - said >= _SAY_EVERY_S:
                said = now
                self._say_recovering(int(share * 100))
            if now - paused >= _PIECE_S:
                paused = now
                await trio.lowlevel.checkpoint()

    def _say_recovering(self, done_percent: int) -> None:
        for pipe in self._early:
            pipe.send(_recovering(done_percent))

    async def _accept(self, listener: socket.socket) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno not in _SCARCE:
                        raise
                    # No descriptor left: a front waits longer, and nobody else notices.
                    _logger.warning("a front cannot be let in yet: %s", error)
                    await trio.sleep(_SCARCE_SLEEP_S)
                    continue
                nursery.start_soon(self._serve_front, Pipe(sock))

    async def _serve_front(self, pipe: Pipe) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipe.run)
                if self._actor is None:
                    self._early.add(pipe)
                    pipe.send(_recovering(0))
                else:
                    self._actor.greet(pipe)
                await self._intake.read(pipe)
                nursery.cancel_scope.cancel()
        finally:
            self._early.discard(pipe)
            if self._actor is not None:
                self._actor.forget(pipe)
            pipe.close()


def _recovering(done_percent: int) -> bytes:
    return encode_responses([Response(PUSH_ID, Recovering(done_percent))])


def _listening_socket(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.bind(path)
    listener.listen(_LISTEN_BACKLOG)
    return listener


def _report(found: Recovered, state: PartitionState, took_s: float) -> None:
    for bad in found.bad_snapshots:
        _logger.error("bad snapshot, the one before it or the log stands in for it: %s", bad)
    _logger.info(
        "recovered %d jobs, %d of them ready, from %s and %d records in %d segments, in %.3f s",
        len(state),
        state.ready,
        "no snapshot" if found.snapshot is None else f"the snapshot at {found.snapshot.lsn}",
        found.records,
        found.segments,
        took_s,
    )
    if found.torn_bytes:
        _logger.warning(
            "torn tail: %d bytes that a crash left unfinished were cut off; nobody was told"
            " that they were stored",
            found.torn_bytes,
        )
