"""What a partition promised survives: stops at every operation, torn writes, failing disks.

A recorded run of a partition on a fake disk is repeated, and each time the disk stops, or
fails, one operation later. After that a new partition starts from what is left, and a
ledger of all replies says whether anything that a client was told is gone. There are two runs:
one of plain jobs, and one of every call that there is, whose partition must be the same in
every respect (``witness``).
"""

import contextlib
import errno
import os
import random
from pathlib import Path

import pytest

from partitions.disk import RealDisk, RealFile
from partitions.errors import CorruptLogError
from partitions.job import State
from partitions.limits import EXTENT_BYTES
from partitions.log import segment_name
from partitions.messages import Ack, Command, Fail, Lease, Leased, Pause, Settled
from partitions.recovery import recover
from partitions.retry import Backoff
from partitions.state import PartitionState, Policy
from tests.support.driver import (
    DIRECTORY,
    IDENTITY,
    START_MS,
    Driver,
    Ledger,
    enqueue,
    job_id,
    snapshot,
)
from tests.support.fake_disk import FakeDisk, Faults, Halted, Survival, survivals
from tests.support.mixed import Mixed
from tests.support.points import Points
from tests.support.witness import Witness, replayed, whole

LEASE_MS = 10_000
# Backoffs end within a run; leases do not, so the ledger can hold the partition to each one.
POLICY = Policy(backoff=Backoff(5, 20))


class Run:
    """A run of plain jobs: its client remembers what it was told."""

    def __init__(self, disk: FakeDisk, seed: int = 7, batches: int = 40) -> None:
        self.disk = disk
        self.ledger = Ledger()
        self.batches_failed = 0
        self._random = random.Random(seed)
        self._batches = batches
        self._submitted = 0
        self._held: list[Leased] = []

    def play(self) -> None:
        """Until the end, or until the machine halts or the disk fails."""
        now_ms = START_MS
        try:
            driver = Driver(self.disk, POLICY)
            for _ in range(self._batches):
                now_ms += 3
                commands = self._batch()
                self.ledger.ask(commands)
                replies = driver.handle(commands, now_ms)
                self.ledger.hear(commands, replies)
                self._held += [reply for reply in replies if isinstance(reply, Leased)]
                driver.make_room(now_ms)
        except Halted:
            pass
        except OSError:
            self.batches_failed += 1

    def losses(self, found: Driver) -> list[str]:
        """What is gone of it."""
        return self.ledger.losses(found)

    @property
    def last_token(self) -> int:
        """The highest that was given, as far as anybody was told."""
        return max(self.ledger.tokens, default=0)

    def _batch(self) -> list[Command]:
        commands: list[Command] = []
        for _ in range(self._random.randint(1, 4)):
            draw = self._random.random()
            if draw < 0.5 or (draw > 0.75 and not self._held):
                self._submitted += 1
                commands.append(enqueue(self._submitted, self._text(), self._random.randint(1, 3)))
            elif draw < 0.75:
                commands.append(Lease(LEASE_MS))
            else:
                held = self._held.pop(self._random.randrange(len(self._held)))
                commands.append(self._settling(held))
        return commands

    def _settling(self, held: Leased) -> Command:
        if self._random.random() < 0.4:
            return Fail(held.job_id, held.lease_token, self._text())
        result = self._text() if self._random.random() < 0.7 else None
        return Ack(held.job_id, held.lease_token, result)

    def _text(self) -> bytes:
        size = self._random.choice((1, 5, 40, 300))
        return "".join(self._random.choice("aé€") for _ in range(size)).encode()


class MixedRun:
    """A run of every call that there is."""

    def __init__(self, disk: FakeDisk) -> None:
        self.disk = disk
        self.witness = Witness()
        self.batches_failed = 0
        self.last_token = 0
        self.client = Mixed(8, LEASE_MS)

    def play(self) -> None:
        """Until the end, or until the machine halts or the disk fails."""
        now_ms = START_MS
        try:
            driver = Driver(self.disk, POLICY)
            self.witness.watch(driver.log)
            for _ in range(50):
                now_ms += 3
                self.client.hear(driver.handle(self.client.batch(now_ms), now_ms))
                self.last_token = driver.state.jobs.last_token
                driver.make_room(now_ms)
        except Halted:
            pass
        except OSError:
            self.batches_failed += 1

    def losses(self, found: Driver) -> list[str]:
        """What is gone of it, or is otherwise."""
        return self.witness.losses(found)


AnyRun = Run | MixedRun
KINDS = pytest.mark.parametrize("kind_of_run", [Run, MixedRun], ids=["plain", "mixed"])


def played(faults: Faults | None = None, kind_of_run: type[AnyRun] = Run) -> AnyRun:
    run = kind_of_run(FakeDisk(faults))
    run.play()
    return run


def losses_after_crash(run: AnyRun, survival: Survival) -> list[str]:
    """What a partition that starts from the crashed disk has lost."""
    return losses_on(run.disk.crash(survival), run)


def losses_on(disk: FakeDisk, run: AnyRun) -> list[str]:
    try:
        found = Driver(disk, POLICY)
    except CorruptLogError as error:
        return [f"refused to start: {error}"]
    return run.losses(found) + failures_to_work(found, run)


def failures_to_work(found: Driver, run: AnyRun) -> list[str]:
    """A recovered partition takes, leases and finishes jobs; tokens go on growing."""
    new = enqueue(1_000_000)
    later_ms = START_MS + 1_000
    found.handle([new, Pause("default", False)], later_ms)
    replies = found.handle([Lease(LEASE_MS)], later_ms)
    leased = replies[0]
    if not isinstance(leased, Leased):
        return [f"nothing to lease after a submit: {leased}"]
    if leased.lease_token <= run.last_token:
        return [f"lease token {leased.lease_token} was given before"]
    settled = found.handle([Ack(leased.job_id, leased.lease_token, b"r")], later_ms)[0]
    return [] if settled == Settled(leased.job_id) else [f"its lease cannot be acked: {settled}"]


def test_the_recorded_run_has_every_kind_of_operation_and_rolls_several_times():
    run = played()
    assert isinstance(run, Run)
    kinds = {operation.kind for operation in run.disk.operations}
    assert kinds == {"create", "write", "sync", "rename", "sync_directory"}
    assert len(run.disk.names(DIRECTORY)) >= 4
    assert len(run.ledger.stored) > 30
    assert len(run.ledger.acked) > 5
    assert len(run.ledger.failed) > 3
    assert losses_on(run.disk.restarted(), run) == []


def test_the_mixed_run_has_every_call_and_every_event():
    run = played(kind_of_run=MixedRun)
    assert isinstance(run, MixedRun)
    assert len(run.disk.names(DIRECTORY)) >= 4
    assert set(run.client.calls) == {
        "Ack", "Cancel", "Enqueue", "EnqueueMany", "Extend", "Fail", "Forget", "Lease",
        "LeaseMany", "Many", "Pause", "Release", "Retry",
    }  # fmt: skip
    events = {type(event).__name__ for events in run.witness.records for event in events}
    assert events == {
        "BackoffOver", "JobAcked", "JobCancelled", "JobEnqueued", "JobExpired", "JobFailed",
        "JobForgotten", "JobLeased", "JobReleased", "JobRetried", "LeaseExpired",
        "LeaseExtended", "QueuePaused",
    }  # fmt: skip
    state = whole(replayed(run.witness.records))
    assert {job.state for _, job in state.jobs.values()} == set(State) - {State.GONE}
    assert sum(len(members) > 1 for members, *_ in state.groups.values()) >= 2
    assert losses_on(run.disk.restarted(), run) == []


@KINDS
def test_a_power_cut_at_any_operation_loses_nothing_that_a_client_was_told(
    kind_of_run, points: Points
):
    length = len(played(kind_of_run=kind_of_run).disk.operations)
    tried = set()
    for at in range(length + 1):
        run = played(Faults(halt_at=at), kind_of_run)
        for survival in survivals(seed=at):
            lost = losses_after_crash(run, survival)
            assert lost == [], f"stopped before operation {at}, unsynced: {survival}"
            tried.add((at, survival.name))
    points.add("fake disk: a run, power cut before an operation", len(tried))
    assert len(tried) > 500


@KINDS
def test_a_power_cut_during_recovery_loses_nothing_either(kind_of_run, points: Points):
    before = played(Faults(halt_at=150), kind_of_run)
    length = len(_start(before, Faults()).operations)
    tried = 0
    for at in range(length + 1):
        disk = _start(before, Faults(halt_at=at))
        for survival in survivals(seed=at):
            lost = losses_on(disk.crash(survival), before)
            assert lost == [], f"stopped before operation {at} of recovery, unsynced: {survival}"
            tried += 1
    points.add("fake disk: a start, stopped before an operation", tried)
    assert tried >= 30


def _start(before: AnyRun, faults: Faults) -> FakeDisk:
    """The disk after a start, cut short by ``faults``, on what a torn run left."""
    disk = before.disk.crash(Survival("part", pages=0.5, entries=1, seed=3))
    disk.faults = faults
    with contextlib.suppress(Halted):
        Driver(disk, POLICY)
    return disk


@KINDS
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "sync_directory"])
def test_a_failing_operation_never_takes_back_what_a_client_was_told(
    kind, error, for_good, kind_of_run, points: Points
):
    operations = played(kind_of_run=kind_of_run).disk.operations
    count = sum(operation.kind == kind for operation in operations)
    failed = 0
    for at in range(count):
        faults = Faults(fail_at=at, fail_kinds=(kind,), error=error, for_good=for_good)
        run = played(faults, kind_of_run)
        assert faults.hits > 0
        failed += run.batches_failed
        for survival in survivals(seed=at):
            lost = losses_after_crash(run, survival)
            assert lost == [], f"{kind} {at} failed, then a power cut, unsynced: {survival}"
        # A new process on the running machine, whose page cache shows what was never written;
        # and after it a power cut, which takes the page cache away.
        points.add(f"fake disk: a run, {kind} failed", 11)
        restarted = run.disk.restarted()
        lost = run.losses(Driver(restarted, POLICY))
        assert lost == [], f"{kind} {at} failed, then a restart"
        for survival in survivals(seed=at):
            lost = losses_on(restarted.crash(survival), run)
            assert lost == [], f"{kind} {at} failed, restart, power cut, unsynced: {survival}"
    if error == errno.EIO or kind == "sync_directory":
        assert failed == count, "a partition went on after its disk had failed"


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_batch_whose_commit_failed_gets_no_reply(kind):
    disk = FakeDisk()
    driver = Driver(disk, POLICY)
    driver.handle([enqueue(1)], START_MS)
    disk.faults = Faults(fail_at=0, fail_kinds=(kind,))
    with pytest.raises(OSError, match="Input/output error"):
        driver.handle([enqueue(2), enqueue(3)], START_MS)


def test_a_failed_sync_is_made_good_by_the_restart_and_not_by_the_next_sync():
    disk = FakeDisk()
    driver = Driver(disk, POLICY)
    driver.handle([enqueue(1)], START_MS)
    disk.faults = Faults(fail_at=0, fail_kinds=("sync",))
    with pytest.raises(OSError, match="Input/output error"):
        driver.handle([enqueue(2)], START_MS)
    # The page cache shows job 2, so the new process has it, and may tell a reader so.
    restarted = disk.restarted()
    assert job_id(2) in snapshot(Driver(restarted, POLICY).state).jobs
    # Then it must have put the bytes there again: a power cut takes the page cache away.
    after_cut = restarted.crash(Survival("lost", pages=0, entries=0))
    assert job_id(2) in snapshot(Driver(after_cut, POLICY).state).jobs


def test_the_checker_finds_losses_on_a_disk_whose_syncs_do_nothing():
    lost = 0
    for at in range(20, 200, 20):
        run = Run(FakeDisk(Faults(halt_at=at), lies=True))
        run.play()
        lost += len(losses_after_crash(run, Survival("lost", pages=0, entries=0)))
    assert lost > 0


def test_the_checker_of_mixed_runs_finds_losses_on_such_a_disk_too():
    lost = 0
    for at in range(20, 200, 20):
        run = MixedRun(FakeDisk(Faults(halt_at=at), lies=True))
        run.play()
        lost += bool(losses_after_crash(run, Survival("lost", pages=0, entries=0)))
    assert lost > 5


def test_the_checker_finds_a_reply_that_was_sent_before_the_sync():
    run = played()
    assert isinstance(run, Run)
    driver = Driver(run.disk, POLICY)
    run.disk.faults = Faults(fail_at=0, fail_kinds=("sync",))
    submit = enqueue(999_999)
    told: list[Command] = [submit]
    with pytest.raises(OSError, match="Input/output error"):
        driver.handle(told, START_MS)
    run.ledger.ask(told)
    assert losses_after_crash(run, Survival("lost", pages=0, entries=0)) == []
    run.ledger.stored[job_id(999_999)] = submit
    lost = losses_after_crash(run, Survival("lost", pages=0, entries=0))
    assert lost == [f"job {job_id(999_999).hex()} is lost"]


# The torn tail, in real files ---------------------------------------------------------------


def _real_log(directory: Path, jobs: int) -> list[int]:
    """Write one record for each job; returns where each begins, and where the last ends."""
    state = PartitionState()
    log = recover(RealDisk(), directory, IDENTITY, state).log
    places = [log._tail.offset_bytes]
    for index in range(jobs):
        command = enqueue(index, f"payload {index}".encode())
        applied = state.apply(command, START_MS, log.put)
        log.commit(applied.events, START_MS)
        places.append(log._tail.offset_bytes)
    log.close()
    return places


class _QuickFile(RealFile):
    def sync(self) -> None:
        pass


class _QuickDisk(RealDisk):
    """Real files whose syncs are left out: nothing here depends on them, and they are slow."""

    def create(self, path: Path):
        super().create(path).close()
        return _QuickFile(os.open(path, os.O_RDWR), path)

    def sync_directory(self, path: Path) -> None:
        pass


@pytest.mark.parametrize("behind", ["zeros", "end of file"])
def test_a_tail_torn_at_any_byte_leaves_exactly_the_records_before_it(
    tmp_path, behind, points: Points
):
    whole = tmp_path / "whole"
    whole.mkdir()
    places = _real_log(whole, jobs=5)
    content = (whole / segment_name(1)).read_bytes()
    start, end = places[-2:]
    assert len(content) >= EXTENT_BYTES
    torn = tmp_path / "torn"
    torn.mkdir()
    points.add("real files: the last record cut at a byte", end + 1 - start)
    for cut in range(start, end + 1):
        zeros = bytes(4096) if behind == "zeros" else b""
        (torn / segment_name(1)).write_bytes(content[:cut] + zeros)
        state = PartitionState()
        found = recover(_QuickDisk(), torn, IDENTITY, state)
        found.log.close()
        if cut == end:
            assert (found.records, len(state), found.torn_bytes) == (5, 5, 0)
            continue
        assert (found.records, len(state)) == (4, 4), f"torn {cut - start} bytes into it"
        assert found.torn_bytes == len(content[start:cut].rstrip(b"\0"))
        # Cut off for good: the next start finds a clean end.
        again = recover(_QuickDisk(), torn, IDENTITY, PartitionState())
        again.log.close()
        assert (again.records, again.torn_bytes) == (4, 0)


def test_a_tail_torn_in_any_pages_leaves_exactly_the_records_before_it():
    disk = FakeDisk()
    driver = Driver(disk, POLICY)
    driver.handle([enqueue(1)], START_MS)
    disk.faults = Faults(halt_at=len(disk.operations) + 1)
    with pytest.raises(Halted):
        driver.handle([enqueue(2, "é€".encode() * 60)], START_MS)
    seen = set()
    for seed in range(300):
        found = Driver(disk.crash(Survival("part", pages=0.5, entries=0, seed=seed)), POLICY)
        jobs = snapshot(found.state).jobs
        assert set(jobs) in ({job_id(1)}, {job_id(1), job_id(2)})
        seen.add((len(jobs), found.found.torn_bytes))
    assert len(seen) > 5
    assert any(count == 1 for count, _ in seen)


def test_a_start_on_a_log_with_a_hole_in_its_middle_changes_nothing(tmp_path):
    places = _real_log(tmp_path, jobs=4)
    path = tmp_path / segment_name(1)
    with path.open("r+b") as file:
        file.seek(places[1] + 50)
        file.write(b"\xff")
    before = path.read_bytes()
    with pytest.raises(CorruptLogError) as caught:
        recover(RealDisk(), tmp_path, IDENTITY, PartitionState())
    assert (caught.value.path, caught.value.offset_bytes) == (path, places[1])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
