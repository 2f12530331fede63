"""A disk that is full, at every size that it can be full at: refuse, go on, heal, start.

The real actor with its checkpoints on a fake disk that has room for so many bytes, and
not for one more: a write that does not fit leaves the part that does.
"""

import logging
import tempfile
from pathlib import Path

import pytest
import trio
import trio.testing

from api.partition_client import PartitionClient
from partitions import actor as actor_module
from partitions import process as process_module
from partitions import state as state_module
from partitions.actor import Actor
from partitions.checkpoint import Checkpoints
from partitions.log import Sizes
from partitions.mail import Mail
from partitions.messages import (
    PUSH_ID,
    Ack,
    Command,
    Enqueue,
    Enqueued,
    Get,
    JobView,
    Lease,
    Leased,
    Reply,
    Request,
    Response,
    StorageFull,
    decode_responses,
)
from partitions.process import PartitionProcess
from partitions.record import SEGMENT_HEADER_BYTES
from partitions.recovery import recover
from partitions.settings import PartitionSettings
from partitions.state import PartitionState
from tests.crash.test_log_crash import POLICY
from tests.support.driver import (
    DIRECTORY,
    IDENTITY,
    START_MS,
    Driver,
    Ledger,
    enqueue,
    job_id,
)
from tests.support.fake_disk import FakeDisk, Faults, Survival, survivals
from tests.support.points import LONG, Points
from tests.support.polling import until

SIZES = Sizes(segment_bytes=8192, extent_bytes=2048, reserve_bytes=2048)
LOST = Survival("lost", pages=0, entries=0)
LEASE_MS = 600_000
BATCHES = 40


class CollectingPipe:
    """Where the actor's replies go."""

    backlog_bytes = 0

    def __init__(self) -> None:
        self.responses: list[Response] = []

    def send(self, body: bytes) -> None:
        self.responses += decode_responses(body)

    @property
    def answered(self) -> int:
        return sum(each.request_id != PUSH_ID for each in self.responses)


class Clock:
    """The time of the test: three milliseconds a reading."""

    def __init__(self) -> None:
        self._now_ms = START_MS

    def now_ms(self) -> int:
        self._now_ms += 3
        return self._now_ms


class Partition:
    """A real actor on a fake disk, asked one batch at a time."""

    def __init__(self, disk: FakeDisk) -> None:
        disk.make_directory(DIRECTORY)
        self.state = PartitionState(POLICY)
        found = recover(disk, DIRECTORY, IDENTITY, self.state, SIZES)
        checkpoints = Checkpoints(
            disk,
            DIRECTORY,
            IDENTITY,
            self.state.jobs,
            found.log,
            newest=found.snapshot,
            growth_bytes_min=3000,
            step_jobs=10,
            duty=0,
        )
        self._actor = Actor(
            self.state,
            found.log,
            Clock(),
            sleep_ms_max=100,
            partition=0,
            partitions=1,
            checkpoints=checkpoints,
        )
        self._send, self._receive = trio.open_memory_channel[Mail](1)
        self._last_id = 0

    async def run(self) -> None:
        await self._actor.run(self._receive)

    async def ask(self, *commands: Command) -> list[Reply]:
        pipe = CollectingPipe()
        first = self._last_id + 1
        self._last_id += len(commands)
        requests = [Request(first + index, command) for index, command in enumerate(commands)]
        for mail in Mail.of(pipe, requests):  # type: ignore[arg-type]
            self._send.send_nowait(mail)
        with trio.fail_after(60):
            while pipe.answered < len(commands):
                await trio.testing.wait_all_tasks_blocked()
        return [each.reply for each in pipe.responses if each.request_id != PUSH_ID]


@pytest.fixture(autouse=True)
def few_deadlines(monkeypatch):
    """The actor sets bytes aside for each deadline of a tick; here there shall be few of them."""
    monkeypatch.setattr(actor_module, "DUE_PER_TICK_MAX", 4)
    monkeypatch.setattr(state_module, "DUE_PER_TICK_MAX", 4)


class Client:
    """Submits, leases and acks; notes what it was told, and what was refused."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self.ledger = Ledger()
        self.refused: set[bytes] = set()
        self.answers: list[Reply] = []
        self.refused_acks: list[Ack] = []

    async def work(self) -> None:
        held: list[Leased] = []
        for turn in range(BATCHES):
            commands: list[Command] = [enqueue(turn, b"p" * (turn * 37 % 700)), Lease(LEASE_MS)]
            if turn % 3 == 0 and held:
                lease = held.pop(0)
                commands.append(Ack(lease.job_id, lease.lease_token, b"r" * (turn % 50)))
            held += await self._ask(commands)

    async def _ask(self, commands: list[Command]) -> list[Leased]:
        replies = await self._partition.ask(*commands)
        self.answers += replies
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, StorageFull):
                if isinstance(command, Enqueue):
                    self.refused.add(command.job_id)
                elif isinstance(command, Ack):
                    self.refused_acks.append(command)
        # What was refused was not asked for: it must not be there.
        asked = [
            command
            for command, reply in zip(commands, replies, strict=True)
            if not isinstance(reply, StorageFull)
        ]
        self.ledger.ask(asked)
        self.ledger.hear(asked, [reply for reply in replies if not isinstance(reply, StorageFull)])
        return [reply for reply in replies if isinstance(reply, Leased)]

    async def check_reads(self) -> None:
        """Every job that it was told of is there, every one that was refused is not."""
        for each in self.ledger.stored:
            (view,) = await self._partition.ask(Get(each))
            assert isinstance(view, JobView), view
        for each in self.refused:
            (view,) = await self._partition.ask(Get(each))
            assert not isinstance(view, JobView), "refused, and there all the same"
        for ack in self.refused_acks:
            (view,) = await self._partition.ask(Get(ack.job_id))
            assert isinstance(view, JobView)
            assert view.state == "RUNNING"

    async def check_heals(self, number: int) -> None:
        """New jobs are taken again, and what was refused is now done."""
        assert await self._ask([enqueue(number)]) == []
        assert self.answers[-1] == Enqueued(job_id(number))


def losses_on(disk: FakeDisk, ledger: Ledger) -> list[str]:
    return ledger.losses(Driver(disk, POLICY, SIZES))


async def _fill_and_heal(disk: FakeDisk, partition: Partition) -> Client:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partition.run)
        client = Client(partition)
        await client.work()
        await client.check_reads()
        assert losses_on(disk.crash(LOST), client.ledger) == []
        disk.space_bytes = None
        await client.check_heals(1000)
        nursery.cancel_scope.cancel()
    return client


def sizes_to_try() -> range:
    """From too little for one segment to enough for the whole run."""
    return range(0, 80_000, 331 if LONG else 1511)


def test_a_disk_that_is_full_at_any_size_refuses_goes_on_and_heals(points: Points):
    refused = acked_while_full = 0
    for space_bytes in sizes_to_try():
        disk = FakeDisk()
        disk.space_bytes = space_bytes
        if space_bytes < SEGMENT_HEADER_BYTES + SIZES.extent_bytes:
            # No room for a first segment: there is nothing to serve. See the last test.
            with pytest.raises(OSError, match="No space"):
                Partition(disk)
            continue
        partition = Partition(disk)
        client = trio.run(_fill_and_heal, disk, partition)
        for survival in survivals(seed=space_bytes):
            found = Driver(disk.crash(survival), POLICY, SIZES)
            assert client.ledger.losses(found) == [], f"full at {space_bytes}, then {survival}"
            points.add("fake disk: full at a byte, healed, power cut")
        refused += len(client.refused)
        kinds = [type(answer).__name__ for answer in client.answers]
        if "StorageFull" in kinds:
            acked_while_full += "Settled" in kinds[kinds.index("StorageFull") :]
    assert refused > 100
    assert acked_while_full > 5


async def _start_full_and_heal(disk: FakeDisk, ledger: Ledger) -> None:
    async with trio.open_nursery() as nursery:
        partition = Partition(disk)
        nursery.start_soon(partition.run)
        for each in ledger.stored:
            (view,) = await partition.ask(Get(each))
            assert isinstance(view, JobView)
        disk.space_bytes = None
        assert await partition.ask(enqueue(2000)) == [Enqueued(job_id(2000))]
        nursery.cancel_scope.cancel()


def test_a_start_on_a_disk_without_one_free_byte_serves_and_heals(points: Points):
    for space_bytes in sizes_to_try():
        if space_bytes < SEGMENT_HEADER_BYTES + SIZES.extent_bytes:
            continue  # there was no first start
        disk = FakeDisk()
        disk.space_bytes = space_bytes
        client = trio.run(_fill, disk)
        # Everything that a crash left of unsynced writes is there, and fills the disk.
        full = disk.restarted()
        full.space_bytes = full.used_bytes()
        trio.run(_start_full_and_heal, full, client.ledger)
        client.ledger.asked.add(job_id(2000))
        for survival in survivals(seed=space_bytes):
            assert losses_on(full.crash(survival), client.ledger) == []
            points.add("fake disk: started full, healed, power cut")


async def _fill(disk: FakeDisk) -> Client:
    async with trio.open_nursery() as nursery:
        partition = Partition(disk)
        nursery.start_soon(partition.run)
        client = Client(partition)
        await client.work()
        nursery.cancel_scope.cancel()
    return client


def test_a_start_on_a_full_disk_that_is_cut_off_at_any_operation_loses_nothing(points: Points):
    disk = FakeDisk()
    driver = Driver(disk, POLICY)
    ledger = Ledger()
    commands: list[Command] = [enqueue(index, b"p" * 90) for index in range(12)]
    ledger.ask(commands)
    ledger.hear(commands, driver.handle(commands, START_MS))
    # A sync that failed: the process sees bytes that the disk lacks.
    disk.faults = Faults(fail_at=0, fail_kinds=("sync",))
    unanswered: list[Command] = [enqueue(50, b"q" * 200)]
    ledger.ask(unanswered)
    with pytest.raises(OSError, match="Input/output"):
        driver.handle(unanswered, START_MS)
    tried = 0
    for kind in ("write", "sync", "sync_directory"):
        for at in (0, 1):
            started = disk.restarted()
            started.space_bytes = started.used_bytes()
            started.faults = Faults(fail_at=at, fail_kinds=(kind,), written=0.5)
            try:
                found = Driver(started, POLICY)
            except OSError:
                found = None
            for survival in survivals(seed=at):
                crashed = started.crash(survival)
                after = Driver(crashed, POLICY)
                assert ledger.losses(after) == [], f"{kind} {at} failed, then {survival}"
                if found is not None:
                    # It served, so a reader may have seen the job: it must stay.
                    assert job_id(50) in after.state.jobs.by_id, f"{kind} {at}: taken back"
                tried += 1
    points.add("fake disk: started full, failed, power cut", tried)
    assert tried == 30


async def test_a_first_start_on_a_full_disk_waits_for_room(autojump_clock, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(process_module, "told_to_stop", trio.sleep_forever)
    monkeypatch.setattr(process_module, "say_ready", lambda: None)
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    disk.space_bytes = 100
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "p")
        process = PartitionProcess(PartitionSettings(0, 1, str(DIRECTORY), path), disk)
        client = PartitionClient(0, 1, path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.run)
            nursery.start_soon(client.run)
            await until(lambda: client.state.startswith("recovering"))
            await trio.sleep(30)
            assert not client.serving
            disk.space_bytes = None
            # Within 5 s of space returning, without a restart.
            with trio.fail_after(5):
                await client.wait_serving()
            assert await client.call(enqueue(1)) == Enqueued(job_id(1))
            nursery.cancel_scope.cancel()
    full = [record for record in caplog.records if "disk full" in record.message]
    assert len(full) == 1, "said once, not twice a second"
