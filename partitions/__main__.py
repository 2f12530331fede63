"""Entry point of a partition process; the supervisor starts it (``child`` has the protocol).

Exit codes: 0 drained; 1 a fault, start me again; 3 the log is corrupt, starting me again
will not help.
"""

import gc
import logging
import socket
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import trio
from setproctitle import setproctitle

from partitions import logs
from partitions.actor import Actor, Mail
from partitions.child import read_settings, say_ready, told_to_stop
from partitions.clock import SystemClock
from partitions.disk import RealDisk
from partitions.errors import CorruptLogError, DirectoryInUseError, PipeError
from partitions.limits import LOCK_WAIT_S, MAILBOX_MAILS_MAX
from partitions.log import Identity
from partitions.messages import decode_requests
from partitions.pipe import Pipe
from partitions.recovery import Recovered, recover
from partitions.retry import Backoff
from partitions.settings import PartitionSettings
from partitions.slots import first_slot
from partitions.state import PartitionState, Policy

EXIT_FAULT: Final = 1
EXIT_CORRUPT: Final = 3

_LISTEN_BACKLOG: Final = 128
_logger: Final = logging.getLogger("queue_node.partition")


class PartitionProcess:
    """A recovered partition that serves fronts over its Unix socket."""

    def __init__(
        self, settings: PartitionSettings, state: PartitionState, found: Recovered
    ) -> None:
        self._socket_path = settings.socket
        self._log = found.log
        self._actor = Actor(
            state,
            found.log,
            SystemClock(found.newest_ms),
            sleep_ms_max=settings.lease_check_interval_ms,
            partition=settings.partition,
            partitions=settings.partitions,
        )

    async def run(self) -> None:
        """Serve until told to stop; then commit what was received and return.

        Raises:
            ExceptionGroup: of ``OSError``: the log could not be written.
        """
        send, receive = trio.open_memory_channel[Mail](MAILBOX_MAILS_MAX)
        with _listening_socket(self._socket_path) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._actor.run, receive)
                async with send, trio.open_nursery() as intake:
                    intake.start_soon(self._accept, listener, send)
                    say_ready()
                    await told_to_stop()
                    # Fronts were drained before us, so nobody waits for what is unread.
                    intake.cancel_scope.cancel()
        self._log.close()

    async def _accept(self, listener: socket.socket, send: trio.MemorySendChannel[Mail]) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    continue
                nursery.start_soon(self._serve_front, Pipe(sock), send)

    async def _serve_front(self, pipe: Pipe, send: trio.MemorySendChannel[Mail]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipe.run)
                self._actor.greet(pipe)
                await self._read_front(pipe, send)
                nursery.cancel_scope.cancel()
        finally:
            self._actor.forget(pipe)
            pipe.close()

    async def _read_front(self, pipe: Pipe, send: trio.MemorySendChannel[Mail]) -> None:
        try:
            while bodies := await pipe.receive():
                for body in bodies:
                    mail = Mail(pipe, decode_requests(body))
                    try:
                        send.send_nowait(mail)  # costs no pass of the scheduler
                    except trio.WouldBlock:
                        await send.send(mail)
        except (PipeError, msgspec.MsgspecError) as error:
            # A front is inside the node, but what it sends is still input from outside.
            _logger.error("a front sent what is no request; its pipe is closed: %s", error)
        except trio.BrokenResourceError:
            # The actor died while the mailbox was full; its own fault is what is reported.
            return


def _listening_socket(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.bind(path)
    listener.listen(_LISTEN_BACKLOG)
    return listener


def _lock(disk: RealDisk, directory: Path) -> object:
    """The directory's lock; waits for a partition that lost its supervisor to end."""
    give_up_at = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return disk.lock_directory(directory)
        except DirectoryInUseError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


def _identity(settings: PartitionSettings) -> Identity:
    return Identity(
        settings.partition,
        first_slot(settings.partition, settings.partitions),
        first_slot(settings.partition + 1, settings.partitions),
    )


def _policy(settings: PartitionSettings) -> Policy:
    identity = _identity(settings)
    return Policy(
        slots=range(identity.slot_first, identity.slot_end),
        backoff=Backoff(settings.retry_backoff_ms, settings.retry_backoff_max_ms),
        retention_ms=settings.retention_ms,
        dead_retention_ms=settings.dead_retention_ms,
    )


def _recover(settings: PartitionSettings, state: PartitionState) -> Recovered:
    started = time.monotonic()
    found = recover(RealDisk(), Path(settings.directory), _identity(settings), state)
    _logger.info(
        "recovered %d jobs, %d of them ready, from %d records in %d segments, in %.3f s",
        len(state),
        state.ready,
        found.records,
        found.segments,
        time.monotonic() - started,
    )
    if found.torn_bytes:
        _logger.warning(
            "torn tail: %d bytes that a crash left unfinished were cut off; nobody was told"
            " that they were stored",
            found.torn_bytes,
        )
    # The jobs that recovery made are no garbage; the collector need not walk them.
    gc.collect()
    gc.freeze()
    return found


def _serve(settings: PartitionSettings) -> None:
    disk, directory = RealDisk(), Path(settings.directory)
    disk.make_directory(directory)
    lock = _lock(disk, directory)
    state = PartitionState(_policy(settings))
    found = _recover(settings, state)
    trio.run(PartitionProcess(settings, state, found).run, strict_exception_groups=True)
    del lock  # held until here


def main() -> int:
    """Recover, serve, drain; returns the exit code."""
    settings = read_settings(PartitionSettings)
    name = f"partition {settings.partition}"
    setproctitle(f"queue-node: {name}")
    logs.configure(settings.log_format, settings.log_level, name)
    try:
        _serve(settings)
    except CorruptLogError as error:
        _logger.critical("the log is corrupt, this partition does not start: %s", error)
        return EXIT_CORRUPT
    except DirectoryInUseError as error:
        _logger.critical("this partition does not start: %s", error)
        return EXIT_FAULT
    except OSError as error:
        _logger.critical("the disk failed, this partition does not start: %s", error)
        return EXIT_FAULT
    except ExceptionGroup as group:
        faults, rest = group.split(OSError)
        if rest is not None:
            raise
        _logger.critical("the disk failed, this partition stops: %s", _words(faults))
        return EXIT_FAULT
    return 0


def _words(group: BaseException | None) -> str:
    if isinstance(group, BaseExceptionGroup):
        return "; ".join(_words(each) for each in group.exceptions)
    return str(group)


if __name__ == "__main__":
    sys.exit(main())
