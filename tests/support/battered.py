"""A partition that is hit by one fault after the other, and a client that never forgets.

Each life begins with a start on what the last one left; then the client holds the partition to
everything that it was ever told: of jobs that it leases and finishes (``Ledger``), and of batches
with options and groups that it only cancels, in queues that it pauses.
"""

import copy
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from partitions.job import Own, State
from partitions.kinds import KindKey
from partitions.messages import (
    Ack,
    Cancel,
    Command,
    Enqueue,
    EnqueuedMany,
    EnqueueMany,
    Extend,
    Extended,
    Fail,
    Get,
    JobView,
    Lease,
    Leased,
    Pause,
    Reply,
    Settled,
    StorageFull,
)
from partitions.options import Options, encode_options
from tests.support.driver import DIRECTORY, Driver, Ledger, job_id
from tests.support.fake_disk import FakeDisk
from tests.support.partition_process import PartitionProcess, ProcessFront
from tests.support.polling import wait_until
from tests.support.small_partition import SIZES

SMALL = (sys.executable, "-m", "tests.support.small_partition")
OTHER = encode_options(Options("other", 5, tags=(("of", "the other"),)))
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
        self._cancelled: set[bytes] = set()
        self._paused: dict[str, set[bool]] = {}
        """What each queue may be: both while the answer is out."""
        self._progress: dict[bytes, set[bytes]] = {}
        """The same of the progress of jobs that are held."""

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
            self._ask(commands)
            try:
                replies = front.ask(*commands)
            except EOFError:
                return False
            self._hear(commands, replies)
        return True

    def _ask(self, commands: list[Command]) -> None:
        self.ledger.ask(commands)
        for command in commands:
            match command:
                case EnqueueMany():
                    self.ledger.asked.update(job.job_id for job in command.jobs)
                case Extend():
                    self.ledger.settling.add(command.job_id)
                    before = self._progress.setdefault(command.job_id, {b""})
                    before.add(command.progress)
                case Pause():
                    self._paused.setdefault(command.queue, {False}).add(command.paused)
                case _:
                    pass

    def _hear(self, commands: list[Command], replies: list[Reply]) -> None:
        self.replies += len(replies)
        self.ledger.hear(commands, replies)
        for command, reply in zip(commands, replies, strict=True):
            match command, reply:
                case _, Leased():
                    self._held.append(reply)
                    self._progress[reply.job_id] = {b""}
                case Enqueue(), StorageFull():
                    self._refuse(command)
                case EnqueueMany(), StorageFull():
                    for job in command.jobs:
                        self._refuse(job)
                case EnqueueMany(), EnqueuedMany():
                    self.ledger.stored.update((job.job_id, job) for job in command.jobs)
                case Extend(), Extended():
                    lease = self.ledger.leases[command.job_id]
                    self.ledger.leases[command.job_id] = msgspec.structs.replace(
                        lease, lease_until_ms=reply.lease_until_ms
                    )
                    self.ledger.settling.discard(command.job_id)
                    self._progress[command.job_id] = {command.progress}
                case Pause(), Settled():
                    self._paused[command.queue] = {command.paused}
                case Cancel(), Settled():
                    self._cancelled.add(command.job_id)
                case _:
                    pass

    def _refuse(self, job: Enqueue) -> None:
        # A definite no: it was never asked for, so it must not be there.
        self.ledger.asked.discard(job.job_id)
        self.refused.add(job.job_id)

    def _batch(self) -> list[Command]:
        commands: list[Command] = [self._submit(), Lease(LEASE_MS, worker="worker 1")]
        if self._held and self._random.random() < 0.9:
            held = self._held.pop(self._random.randrange(len(self._held)))
            if self._random.random() < 0.2:
                commands.append(Fail(held.job_id, held.lease_token, b"failed"))
            else:
                commands.append(Ack(held.job_id, held.lease_token, b"done"))
        commands.append(self._another())
        return commands

    def _submit(self, options: bytes = b"", **own: Any) -> Enqueue:
        self._submitted += 1
        text = b"x" * self._random.choice((1, 30, 400))
        return Enqueue(job_id(self._submitted), text, 3, "owner", options, **own)

    def _another(self) -> Command:
        """One of the calls that plain jobs do not know."""
        draw = self._random.random()
        others = [each for each, job in self.ledger.stored.items() if job.options]
        if draw < 0.3 and self._held:
            held = self._held[-1]
            return Extend(held.job_id, held.lease_token, 2 * LEASE_MS, b"%d" % self._submitted)
        if draw < 0.5 and others:
            return Cancel(self._random.choice(others))
        if draw < 0.6:
            return Pause("other", self._random.random() < 0.5)
        first = self._submit(OTHER, group="orders", digest=b"digest %d" % self._submitted)
        return EnqueueMany([first, self._submit(OTHER, expires_at_ms=1 << 50)])

    def check(
        self, partition: PartitionProcess, front: ProcessFront, bad_snapshots: int = 0
    ) -> None:
        """Hold the partition to all that it said, by its replies and by its files.

        So many snapshots may be bad; nothing is to be lost by that.
        """
        stored = list(self.ledger.stored)
        for first in range(0, len(stored), 100):
            some = stored[first : first + 100]
            for reply in front.ask(*(Get(each) for each in some)):
                assert isinstance(reply, JobView), reply
        # It goes on between requests (a roll, a snapshot), and the files must stand still.
        partition.signal(signal.SIGSTOP)
        try:
            wait_until(lambda: _is_stopped(partition.pid), what="it to stand still")
            assert self.losses(bad_snapshots) == []
        finally:
            partition.signal(signal.SIGCONT)

    def losses(self, bad_snapshots: int = 0) -> list[str]:
        """What the log on disk lacks of what clients were told."""
        found = Driver(loaded(self.directory), sizes=SIZES)
        assert len(found.found.bad_snapshots) <= bad_snapshots
        return self.ledger.losses(found) + list(self._other_losses(found))

    def _other_losses(self, found: Driver) -> Iterator[str]:
        jobs = found.state.jobs
        for each, submit in self.ledger.stored.items():
            if (job := jobs.by_id.get(each)) is None:
                continue  # the ledger says so
            own = job.own or Own()
            key = KindKey(submit.options, submit.owner, submit.max_retries)
            said = Own(submit.group, submit.digest, submit.expires_at_ms)
            if jobs.kind(job).key != key or (job.state is State.READY and own != said):
                yield f"job {each.hex()} was submitted otherwise: {job}"
            if each in self._cancelled and job.state is not State.CANCELLED:
                yield f"job {each.hex()} is not cancelled any more: {job}"
            progress = self._progress.get(each)
            if job.state is State.RUNNING and progress is not None:
                assert job.run is not None
                if job.run.progress not in progress or job.run.worker != "worker 1":
                    yield f"job {each.hex()} is {job}, its progress should be of {progress}"
        for name, may_be in self._paused.items():
            queue = jobs.kinds.queues.get(name)
            if (queue is not None and queue.paused) not in may_be:
                yield f"queue {name} is paused, or is not"


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")


def loaded(directory: Path) -> FakeDisk:
    """A partition's files as they are now, in memory: to look into them without a process."""
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    for path in directory.iterdir():
        disk.put(DIRECTORY / path.name, path.read_bytes())
    return disk
