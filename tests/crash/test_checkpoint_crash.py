"""Snapshots, retired segments and texts copied forward, stopped at every operation.

The recorded runs of ``test_log_crash`` with a partition that takes a checkpoint every few
batches, in segments of a few hundred bytes, so that most of them are retired on the way.
"""

import errno
import random

import pytest

from partitions.errors import CorruptLogError
from partitions.job import State
from partitions.log import Sizes
from partitions.messages import Ack, Command, Lease, Leased, Pause
from partitions.snapshot import snapshot_name
from tests.crash.test_log_crash import POLICY
from tests.support.driver import DIRECTORY, START_MS, Driver, Ledger, enqueue, snapshot
from tests.support.fake_disk import FakeDisk, Faults, Halted, survivals
from tests.support.mixed import Mixed
from tests.support.points import Points
from tests.support.witness import Witness, differences, replayed, whole

TINY = Sizes(segment_bytes=1024, extent_bytes=512, reserve_bytes=256)
GROWTH_BYTES = 700
LEASE_MS = 10_000
BATCHES = 60


def driver_on(disk: FakeDisk) -> Driver:
    return Driver(disk, POLICY, TINY, GROWTH_BYTES)


class Run:
    """A run of plain jobs; most of what is leased is acked, so that the live ones stay few."""

    def __init__(self, disk: FakeDisk) -> None:
        self.disk = disk
        self.ledger = Ledger()
        self.failed = False
        self._random = random.Random(3)
        self._submitted = 0
        self._held: list[Leased] = []

    def play(self) -> None:
        now_ms = START_MS
        try:
            driver = driver_on(self.disk)
            for _ in range(BATCHES):
                now_ms += 3
                commands = self._batch()
                self.ledger.ask(commands)
                replies = driver.handle(commands, now_ms)
                self.ledger.hear(commands, replies)
                self._held += [reply for reply in replies if isinstance(reply, Leased)]
                for _ in range(3):
                    driver.make_room(now_ms)
            assert driver.checkpoints is not None
            driver.checkpoints.finish(now_ms, 60_000)
        except Halted:
            pass
        except OSError:
            self.failed = True

    def losses(self, found: Driver) -> list[str]:
        """What is gone of it."""
        return self.ledger.losses(found)

    def _batch(self) -> list[Command]:
        self._submitted += 1
        text = b"x" * self._random.choice((1, 30, 200))
        commands: list[Command] = [enqueue(self._submitted, text), Lease(LEASE_MS)]
        if self._held and self._random.random() < 0.9:
            held = self._held.pop(self._random.randrange(len(self._held)))
            commands.append(Ack(held.job_id, held.lease_token, b"done"))
        return commands


class MixedRun:
    """A run of every call that there is. Finished jobs are soon forgotten: there are few."""

    def __init__(self, disk: FakeDisk) -> None:
        self.disk = disk
        self.witness = Witness()
        self.failed = False
        self._client = Mixed(4, LEASE_MS, (1, 30, 100))

    def play(self) -> None:
        now_ms = START_MS
        try:
            driver = driver_on(self.disk)
            self.witness.watch(driver.log)
            driver.handle([Pause("closed", True)], now_ms)
            for _ in range(BATCHES):
                now_ms += 3
                self._client.hear(driver.handle(self._client.batch(now_ms), now_ms))
                for _ in range(3):
                    driver.make_room(now_ms)
            assert driver.checkpoints is not None
            driver.checkpoints.finish(now_ms, 60_000)
        except Halted:
            pass
        except OSError:
            self.failed = True

    def losses(self, found: Driver) -> list[str]:
        """What is gone of it, or is otherwise."""
        return self.witness.losses(found)


AnyRun = Run | MixedRun
KINDS = pytest.mark.parametrize("kind_of_run", [Run, MixedRun], ids=["plain", "mixed"])


def played(faults: Faults | None = None, kind_of_run: type[AnyRun] = Run) -> AnyRun:
    run = kind_of_run(FakeDisk(faults))
    run.play()
    return run


def losses_on(disk: FakeDisk, run: AnyRun) -> list[str]:
    try:
        found = driver_on(disk)
    except CorruptLogError as error:
        return [f"refused to start: {error}"]
    return run.losses(found)


@KINDS
def test_the_recorded_run_takes_snapshots_copies_texts_and_retires_segments(kind_of_run):
    run = played(kind_of_run=kind_of_run)
    kinds = {operation.kind for operation in run.disk.operations}
    assert kinds == {"create", "write", "sync", "rename", "sync_directory", "remove"}
    names = run.disk.names(DIRECTORY)
    assert sum(name.endswith(".snap") for name in names) == 2
    segments = [int(name[:10]) for name in names if name.endswith(".seg")]
    assert min(segments) > 3, "the first segments are still there"
    removed = [op.path.name for op in run.disk.operations if op.kind == "remove"]
    assert sum(name.endswith(".seg") for name in removed) > 3
    if isinstance(run, Run):
        assert len(run.ledger.stored) == BATCHES
        assert len(run.ledger.acked) > BATCHES // 2
    else:
        moved = [type(event).__name__ for events in run.witness.records for event in events]
        assert moved.count("PayloadMoved") > 3
        assert moved.count("OutcomeMoved") > 1
        state = whole(replayed(run.witness.records))
        assert state.groups
        assert "closed" in state.rest["paused"]
    assert losses_on(run.disk.restarted(), run) == []


@KINDS
def test_a_power_cut_at_any_operation_loses_nothing_that_a_client_was_told(
    kind_of_run, points: Points
):
    operations = len(played(kind_of_run=kind_of_run).disk.operations)
    tried = 0
    for at in range(operations):
        run = played(Faults(halt_at=at), kind_of_run)
        for survival in survivals(seed=at):
            lost = losses_on(run.disk.crash(survival), run)
            assert lost == [], f"stopped before operation {at}, unsynced: {survival}"
            tried += 1
    points.add("fake disk: a run, power cut before an operation", tried)
    assert tried > 1_000


@KINDS
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "sync_directory", "remove"])
def test_a_failing_operation_never_takes_back_what_a_client_was_told(
    kind, error, for_good, kind_of_run, points: Points
):
    operations = played(kind_of_run=kind_of_run).disk.operations
    count = sum(operation.kind == kind for operation in operations)
    for at in range(count):
        faults = Faults(fail_at=at, fail_kinds=(kind,), error=error, for_good=for_good)
        run = played(faults, kind_of_run)
        assert faults.hits > 0
        assert losses_on(run.disk.restarted(), run) == [], f"{kind} {at} failed, restart"
        for survival in survivals(seed=at)[:2]:
            lost = losses_on(run.disk.crash(survival), run)
            assert lost == [], f"{kind} {at} failed, then a power cut, unsynced: {survival}"
        points.add(f"fake disk: a run, {kind} failed", 3)


def test_a_start_from_a_snapshot_and_one_from_the_log_alone_find_the_same():
    disk = FakeDisk()
    driver = Driver(disk, POLICY)  # the log is whole: nothing is retired
    held: list[Leased] = []
    for index in range(50):
        replies = driver.handle(
            [enqueue(index, b"p" * (index + 1)), Lease(LEASE_MS)], START_MS + index
        )
        held += [reply for reply in replies if isinstance(reply, Leased)]
        if index % 3 == 0:
            lease = held.pop(0)
            driver.handle([Ack(lease.job_id, lease.lease_token, b"r")], START_MS + index)
    from_log = driver_on(disk.restarted())
    expected = snapshot(from_log.state)
    assert from_log.checkpoints is not None
    assert from_log.checkpoints.finish(START_MS + 99, 60_000)
    from_snapshot = driver_on(from_log.disk.restarted())
    assert from_snapshot.found.snapshot is not None
    assert from_snapshot.found.records == 0
    assert snapshot(from_snapshot.state) == expected
    assert from_snapshot.state.jobs.live.by_segment == from_log.state.jobs.live.by_segment


def test_a_snapshot_brings_back_all_that_there_can_be_of_a_job():
    disk = FakeDisk()
    driver = Driver(disk, POLICY)  # the log is whole: nothing is retired
    client = Mixed(5, LEASE_MS)
    for now_ms in range(START_MS, START_MS + 600, 3):
        client.hear(driver.handle(client.batch(now_ms), now_ms))
    from_log = driver_on(disk.restarted())
    expected = whole(from_log.state)
    assert expected == whole(driver.state)
    assert from_log.checkpoints is not None
    assert from_log.checkpoints.finish(START_MS + 999, 60_000)
    from_snapshot = driver_on(from_log.disk.restarted())
    assert from_snapshot.found.records == 0
    assert differences(whole(from_snapshot.state), expected) == []


@KINDS
def test_a_bad_snapshot_falls_back_to_the_one_before_and_says_so(kind_of_run):
    run = played(kind_of_run=kind_of_run)
    name = max(name for name in run.disk.names(DIRECTORY) if name.endswith(".snap"))
    content = run.disk.content(DIRECTORY / name)
    for place in range(0, len(content), 7):
        disk = run.disk.restarted()
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        disk.put(DIRECTORY / name, bytes(damaged))
        found = driver_on(disk)
        assert [bad.path.name for bad in found.found.bad_snapshots] == [name]
        assert found.found.snapshot is not None
        assert snapshot_name(found.found.snapshot.lsn) < name
        assert run.losses(found) == []


def test_a_snapshot_that_is_cut_at_any_byte_is_bad():
    run = played()
    name = max(name for name in run.disk.names(DIRECTORY) if name.endswith(".snap"))
    content = run.disk.content(DIRECTORY / name)
    for length in range(0, len(content), 11):
        disk = run.disk.restarted()
        disk.put(DIRECTORY / name, content[:length])
        assert len(driver_on(disk).found.bad_snapshots) == 1


def test_a_missing_segment_that_a_live_text_is_in_is_refused():
    run = played()
    found = driver_on(run.disk.restarted())
    needed = min(found.state.jobs.live.by_segment)
    disk = run.disk.restarted()
    disk.remove(DIRECTORY / f"{needed:010}.seg")
    with pytest.raises(CorruptLogError, match="missing"):
        driver_on(disk)


def test_what_changes_while_a_snapshot_is_written_is_in_it_as_it_was():
    disk = FakeDisk()
    driver = driver_on(disk)
    driver.handle([enqueue(index) for index in range(40)], START_MS)
    before = snapshot(driver.state)
    jobs = driver.state.jobs
    head = jobs.begin_snapshot()
    assert [numbered.key.owner for numbered in jobs.next_for_snapshot(5).kinds] == ["owner"]
    taken = list(jobs.next_for_snapshot(5).jobs)
    leases = driver.handle([Lease(LEASE_MS)] * 20, START_MS + 1)
    acks: list[Command] = [
        Ack(lease.job_id, lease.lease_token, None) for lease in leases if isinstance(lease, Leased)
    ]
    driver.handle([*acks[:10], enqueue(99)], START_MS + 2)
    while some := jobs.next_for_snapshot(5).jobs:
        taken += some
    assert head.jobs == len(taken) == len({job.job_id for job in taken}) == 40
    # The first five were handed out before they changed; they are the same objects, and the
    # caller has encoded them by then.
    unchanged = taken[5:]
    assert all(job == before.jobs[job.job_id] for job in unchanged)
    assert all(job.state is State.READY for job in unchanged)
