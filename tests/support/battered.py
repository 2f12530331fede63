"""A partition that is hit by one fault after the other, and a client that never forgets.

Each life begins with a start on what the last one left; then the client holds the partition to
everything that it was ever told.
"""

import copy
import random
import shutil
import signal
import sys
from pathlib import Path

from partitions.messages import (
    Ack,
    Command,
    Enqueue,
    Fail,
    Get,
    JobView,
    Lease,
    Leased,
    Reply,
    StorageFull,
)
from tests.support.driver import DIRECTORY, Driver, Ledger, enqueue
from tests.support.fake_disk import FakeDisk
from tests.support.partition_process import PartitionProcess, ProcessFront
from tests.support.polling import wait_until
from tests.support.small_partition import SIZES

SMALL = (sys.executable, "-m", "tests.support.small_partition")
LEASE_MS = 3_600_000
"""No lease ends within a test, so each can be held against the partition."""


class Battered:
    """One partition's directory through all its lives."""

    def __init__(self, path: Path, command: tuple[str, ...] = SMALL, seed: int = 5) -> None:
        self.path = path
        self.ledger = Ledger()
        self.refused: set[bytes] = set()
        self.replies = 0
        self._command = command
        self._random = random.Random(seed)
        self._submitted = 0
        self._held: list[Leased] = []

    @property
    def directory(self) -> Path:
        """Where the log is."""
        return self.path / "p-0000"

    def copy(self, path: Path) -> "Battered":
        """Another one below ``path``, with the same past. This one must not be running."""
        twin = copy.deepcopy(self)
        twin.path = path
        shutil.copytree(self.directory, twin.directory)
        return twin

    def start(self, *, held: bool = False) -> PartitionProcess:
        """A new life. Its failed jobs wait for an hour, so that nothing changes by itself."""
        return PartitionProcess(
            self.path,
            command=self._command,
            held=held,
            retry_backoff_ms=3_600_000,
            retry_backoff_max_ms=3_600_000,
        )

    def work(self, front: ProcessFront, batches: int) -> bool:
        """Submit, lease, ack; whether the partition lived to answer all of it."""
        for _ in range(batches):
            commands = self._batch()
            self.ledger.ask(commands)
            try:
                replies = front.ask(*commands)
            except EOFError:
                return False
            self._hear(commands, replies)
        return True

    def _hear(self, commands: list[Command], replies: list[Reply]) -> None:
        self.replies += len(replies)
        self.ledger.hear(commands, replies)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Leased):
                self._held.append(reply)
            elif isinstance(reply, StorageFull) and isinstance(command, Enqueue):
                # A definite no: it was never asked for, so it must not be there.
                self.ledger.asked.discard(command.job_id)
                self.refused.add(command.job_id)

    def _batch(self) -> list[Command]:
        self._submitted += 1
        text = b"x" * self._random.choice((1, 30, 400))
        commands: list[Command] = [enqueue(self._submitted, text), Lease(LEASE_MS)]
        if self._held and self._random.random() < 0.9:
            held = self._held.pop(self._random.randrange(len(self._held)))
            if self._random.random() < 0.2:
                commands.append(Fail(held.job_id, held.lease_token, b"failed"))
            else:
                commands.append(Ack(held.job_id, held.lease_token, b"done"))
        return commands

    def check(self, partition: PartitionProcess, front: ProcessFront) -> None:
        """Hold the partition to all that it said, by its replies and by its files."""
        stored = list(self.ledger.stored)
        for first in range(0, len(stored), 100):
            some = stored[first : first + 100]
            for reply in front.ask(*(Get(each) for each in some)):
                assert isinstance(reply, JobView), reply
        # It goes on between requests (a roll, a snapshot), and the files must stand still.
        partition.signal(signal.SIGSTOP)
        try:
            wait_until(lambda: _is_stopped(partition.pid), what="it to stand still")
            assert self.losses() == []
        finally:
            partition.signal(signal.SIGCONT)

    def losses(self) -> list[str]:
        """What the log on disk lacks of what clients were told."""
        found = Driver(loaded(self.directory), sizes=SIZES)
        assert found.found.bad_snapshots == []
        return self.ledger.losses(found)


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")


def loaded(directory: Path) -> FakeDisk:
    """A partition's files as they are now, in memory: to look into them without a process."""
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    for path in directory.iterdir():
        disk.put(DIRECTORY / path.name, path.read_bytes())
    return disk
