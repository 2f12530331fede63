"""A partition in the process of whoever asks it: the real state, log, actor and pipe, no socket.

For ``queue_node.engine``. What is missing beside a partition process: the supervisor, the Unix
socket (front and partition hold the two ends of a socket pair), and the syncs of the disk, for
the log lasts as long as the process does anyway.
"""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from api.partition_client import PartitionClient
from partitions.actor import Actor
from partitions.clock import Clock
from partitions.disk import File, RealDisk, RealFile
from partitions.intake import Intake
from partitions.log import Log, identity_of
from partitions.pipe import Pipe
from partitions.recovery import recover
from partitions.state import PartitionState, Policy

_SLEEP_MS_MAX: Final = 5_000
_CONNECTIONS_MAX: Final = 8
"""Sockets that wait to be served; there is one front, and it connects once."""


class _UnsyncedFile(RealFile):
    """A file that a power cut may take: a sync is a third of what a submit costs, or far more."""

    def sync(self) -> None:
        """Nothing is to outlast the process."""


class UnsyncedDisk(RealDisk):
    """The file system, without the promise that anything is on disk."""

    def create(self, path: Path) -> File:
        """See ``Disk.create``."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return _UnsyncedFile(os.open(path, flags, 0o600), path)

    def open(self, path: Path, *, writable: bool = False) -> File:
        """See ``Disk.open``."""
        mode = os.O_RDWR if writable else os.O_RDONLY
        return _UnsyncedFile(os.open(path, mode | os.O_CLOEXEC), path)

    def sync_directory(self, path: Path) -> None:
        """Nothing is to outlast the process."""


class InProcessPartition:
    """One partition; ``run`` serves whoever ``connect`` gave a socket to."""

    def __init__(
        self, partition: int, partitions: int, directory: Path, clock: Clock, policy: Policy
    ) -> None:
        """Recover what is in ``directory``.

        Raises:
            CorruptLogError: of recovery.
            OSError: of the disk.
        """
        disk = UnsyncedDisk()
        disk.make_directory(directory)
        self.state = PartitionState(policy)
        identity = identity_of(partition, partitions)
        self._log: Log = recover(disk, directory, identity, self.state).log
        self._actor = Actor(
            self.state,
            self._log,
            clock,
            sleep_ms_max=_SLEEP_MS_MAX,
            partition=partition,
            partitions=partitions,
        )
        self._sockets_in, self._sockets = trio.open_memory_channel[socket.socket](_CONNECTIONS_MAX)

    def connect(self) -> socket.socket | None:
        """The front's end of a new connection; None: nobody serves any more.

        A front that hears of the end before its own is cancelled asks once more.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        theirs.setblocking(False)
        try:
            self._sockets_in.send_nowait(ours)
        except trio.BrokenResourceError:
            ours.close()
            theirs.close()
            return None
        return theirs

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            OSError: of the disk.
        """
        intake = Intake()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._actor.run, intake.mailbox, intake.at_once)
                async for sock in self._sockets:
                    nursery.start_soon(self._serve_front, Pipe(sock), intake)
        finally:
            self._hang_up()

    def close(self) -> None:
        """Give back the log's files; ``run`` has ended."""
        self._log.close()

    def _hang_up(self) -> None:
        """Close what nobody will serve, and take nothing more."""
        with suppress(trio.WouldBlock):
            while True:
                self._sockets.receive_nowait().close()
        self._sockets.close()

    async def _serve_front(self, pipe: Pipe, intake: Intake) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipe.run)
                self._actor.greet(pipe)
                await intake.read(pipe)
                nursery.cancel_scope.cancel()
        finally:
            pipe.close()
            self._actor.forget(pipe)


class InProcessClient(PartitionClient):
    """A front's client to a partition in the same process."""

    def __init__(self, partition: InProcessPartition, number: int, partitions: int) -> None:
        super().__init__(number, partitions, "")
        self._in_process = partition

    def _connect(self) -> socket.socket | None:
        return self._in_process.connect()
