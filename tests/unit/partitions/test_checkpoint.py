"""Checkpoints: when, what they keep, and which faults they may forgive."""

import errno
import os
import random
from collections.abc import Callable

import pytest

from partitions import checkpoint
from partitions.checkpoint import Checkpoints
from partitions.log import Log, Sizes
from partitions.messages import Ack, Command, Lease, Leased, Reply
from partitions.snapshot import snapshot_lsns
from tests.support.driver import DIRECTORY, IDENTITY, START_MS, Driver, enqueue
from tests.support.fake_disk import FakeDisk, Faults

TINY = Sizes(segment_bytes=1024, extent_bytes=512, reserve_bytes=256)


def snapshots(disk: FakeDisk) -> list[str]:
    return [name for name in disk.names(DIRECTORY) if name.endswith(".snap")]


def finished(driver: Driver) -> bool:
    assert driver.checkpoints is not None
    return driver.checkpoints.finish(START_MS, 60_000)


def test_several_snapshots_of_a_log_with_one_segment_are_taken_and_two_kept():
    disk = FakeDisk()
    driver = Driver(disk, checkpoint_bytes=1 << 30)
    for index in range(4):
        driver.handle([enqueue(index)], START_MS)
        assert finished(driver)
    assert len(snapshots(disk)) == 2
    assert Driver(disk.restarted(), checkpoint_bytes=1 << 30).found.records == 0


def test_growth_within_one_segment_brings_one_snapshot_after_the_other():
    disk = FakeDisk()
    driver = Driver(disk, sizes=Sizes(1 << 20, 512, 256), checkpoint_bytes=300)
    for index in range(60):
        driver.handle([enqueue(index, b"x" * 50)], START_MS)
        for _ in range(8):
            driver.make_room(START_MS)
    assert len(snapshots(disk)) == 2


def test_a_partition_that_is_killed_early_again_and_again_takes_its_snapshots_all_the_same():
    disk = FakeDisk()
    sizes = Sizes(4096, 512, 256)
    for life in range(60):
        driver = Driver(disk, sizes=sizes, checkpoint_bytes=1000)
        driver.handle([enqueue(life, b"x" * 100)], START_MS)
        leased = driver.handle([Lease(1000)], START_MS)[0]
        assert isinstance(leased, Leased)
        driver.handle([Ack(leased.job_id, leased.lease_token, None)], START_MS)
        for _ in range(30):
            driver.make_room(START_MS)
        disk = disk.restarted()
    assert len(snapshots(disk)) == 2
    found = Driver(disk, sizes=sizes, checkpoint_bytes=1000).found
    assert found.record_bytes < 10_000
    assert found.segments <= 4


def test_nothing_new_needs_no_snapshot_at_the_end():
    disk = FakeDisk()
    driver = Driver(disk, checkpoint_bytes=1 << 30)
    driver.handle([enqueue(1)], START_MS)
    assert finished(driver)
    before = len(disk.operations)
    assert finished(driver)
    assert len(disk.operations) == before


def test_a_snapshot_that_takes_too_long_at_the_end_is_given_up_without_a_trace():
    disk = FakeDisk()
    driver = Driver(disk, checkpoint_bytes=1 << 30)
    driver.handle([enqueue(index) for index in range(100)], START_MS)
    assert driver.checkpoints is not None
    assert not driver.checkpoints.finish(START_MS, within_ms=-1)
    assert [name for name in disk.names(DIRECTORY) if "snap" in name] == []


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename"])
def test_a_disk_without_room_for_a_snapshot_is_forgiven_and_leaves_nothing(kind):
    disk = FakeDisk()
    driver = Driver(disk, checkpoint_bytes=100, sizes=Sizes(1 << 20, 1 << 16, 256))
    driver.handle([enqueue(index) for index in range(10)], START_MS)
    disk.faults = Faults(fail_at=0, fail_kinds=(kind,), error=errno.ENOSPC, for_good=True)
    steps(driver)
    assert [name for name in disk.names(DIRECTORY) if "snap" in name] == []
    disk.faults = Faults()
    steps(driver, START_MS + 60_000)
    assert len(snapshots(disk)) == 1


def steps(driver: Driver, now_ms: int = START_MS) -> None:
    assert driver.checkpoints is not None
    for _ in range(300):
        driver.checkpoints.step(now_ms)


def copying(disk: FakeDisk) -> Driver:
    """A partition that is about to copy texts forward: its log is mostly garbage."""
    driver = Driver(disk, sizes=TINY, checkpoint_bytes=1 << 30)
    for index in range(40):
        replies = driver.handle([enqueue(index, b"x" * 60), Lease(1_000_000)], START_MS)
        leases = [reply for reply in replies if isinstance(reply, Leased)]
        acks: list[Command] = [
            Ack(each.job_id, each.lease_token, None) for each in leases if index % 4
        ]
        driver.handle(acks, START_MS)
        driver.make_room(START_MS)
    # Only what two snapshots cover is copied.
    for index in range(2):
        driver.handle([enqueue(100 + index)], START_MS)
        assert finished(driver)
    assert driver.checkpoints is not None
    assert driver.checkpoints.next_step_ms is not None, "nothing to copy"
    return driver


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failed_sync_of_the_log_is_never_forgiven_while_texts_are_copied(error):
    disk = FakeDisk()
    driver = copying(disk)
    assert driver.checkpoints is not None
    disk.faults = Faults(fail_at=0, fail_kinds=("sync",), error=error, for_good=True)
    with pytest.raises(OSError, match=os.strerror(error)):
        steps(driver)


def test_copying_forward_frees_the_segments_and_keeps_every_text():
    disk = FakeDisk()
    driver = copying(disk)
    sealed = {each.header.number for each in driver.log.sealed}
    for _ in range(300):
        driver.make_room(START_MS)
    assert len(sealed & {each.header.number for each in driver.log.sealed}) < len(sealed) // 2
    again = Driver(disk.restarted(), sizes=TINY)
    for index in range(0, 40, 4):
        assert again.payload(enqueue(index).job_id) == b"x" * 60


def test_what_segments_hold_is_counted_as_they_come_and_go():
    disk = FakeDisk()
    driver = copying(disk)
    retired = len(driver.log.sealed)
    for _ in range(300):
        driver.make_room(START_MS)
        assert driver.log.sealed_bytes == sum(each.end_bytes for each in driver.log.sealed)
    assert len(driver.log.sealed) < retired
    again = Driver(disk.restarted(), sizes=TINY).log
    assert again.sealed_bytes == sum(each.end_bytes for each in again.sealed)


def test_a_batch_costs_no_look_at_each_segment(monkeypatch):
    # 100 KB each for a million jobs are 1,600 segments: looked at four times, 0.8 ms a batch.
    driver = Driver(FakeDisk(), sizes=TINY, checkpoint_bytes=2_000)
    for index in range(40):
        driver.handle([enqueue(index, b"x" * 60)], START_MS)
        driver.make_room(START_MS)
    for _ in range(20):
        driver.make_room(START_MS)
    assert len(driver.log.sealed) > 1
    checkpoints = driver.checkpoints
    assert checkpoints is not None
    while checkpoints.next_step_ms is None:
        driver.handle([enqueue(1_000 + driver.log.next_lsn, b"x" * 60)], START_MS)
        driver.log.make_room(START_MS)
    monkeypatch.setattr(Log, "sealed", property(lambda _: pytest.fail("all were looked at")))
    assert checkpoints.next_step_ms is not None
    checkpoints.step(START_MS + 60_000)


def test_a_segment_that_cannot_be_read_is_left_alone():
    disk = FakeDisk()
    driver = copying(disk)
    assert driver.checkpoints is not None
    numbers = {each.header.number for each in driver.log.sealed}
    original = driver.log._file

    def unreadable(number: int):
        if number in numbers:
            raise OSError(errno.EIO, "Input/output error")
        return original(number)

    # mypy forbids to replace a method; the fake disk cannot fail the reads of chosen files.
    driver.log._file = unreadable  # type: ignore[method-assign]
    steps(driver)
    assert numbers - {each.header.number for each in driver.log.sealed} == set()


def test_a_bad_snapshot_is_not_counted_and_goes_when_two_good_ones_are_there():
    disk = FakeDisk()
    driver = Driver(disk, checkpoint_bytes=1 << 30)
    for index in range(2):
        driver.handle([enqueue(index)], START_MS)
        assert finished(driver)
    good, bad = snapshots(disk)
    disk.put(DIRECTORY / bad, b"rotten")
    driver = Driver(disk.restarted(), checkpoint_bytes=1 << 30)
    driver.handle([enqueue(2)], START_MS)
    assert finished(driver)
    newest = snapshots(driver.disk)[-1]
    assert snapshots(driver.disk) == [good, newest], "the good old one must outlive the bad"
    # The newest goes bad as well: what is left must be enough.
    driver.disk.put(DIRECTORY / newest, b"rotten")
    again = Driver(driver.disk.restarted(), checkpoint_bytes=1 << 30)
    assert again.found.snapshot is not None
    assert len(again.state) == 3


def test_a_good_snapshot_may_take_the_name_of_a_bad_one():
    disk = FakeDisk()
    driver = Driver(disk, checkpoint_bytes=1 << 30)
    for index in range(2):
        driver.handle([enqueue(index)], START_MS)
        assert finished(driver)
    names = snapshots(disk)
    disk.put(DIRECTORY / names[1], b"rotten")
    driver = Driver(disk.restarted(), checkpoint_bytes=1 << 30)
    assert finished(driver)
    assert snapshots(driver.disk) == names
    assert Driver(driver.disk.restarted()).found.bad_snapshots == []


@pytest.mark.parametrize("text_bytes", [1, 10, 60, 300])
def test_an_idle_partition_comes_to_rest_whatever_the_size_of_its_texts(text_bytes):
    disk = FakeDisk()
    sizes = Sizes(segment_bytes=4096, extent_bytes=2048, reserve_bytes=512)
    driver = Driver(disk, sizes=sizes, checkpoint_bytes=8192)
    for index in range(400):
        driver.handle([enqueue(index, b"x" * text_bytes)], START_MS)
        driver.make_room(START_MS)
    assert driver.checkpoints is not None
    steps_taken = 0
    while driver.checkpoints.next_step_ms is not None:
        driver.make_room(START_MS)
        steps_taken += 1
        assert steps_taken < 5_000, f"{driver.log.appended_bytes} bytes of log, and no rest"
    again = Driver(disk.restarted(), sizes=sizes)
    for index in range(400):
        assert again.payload(enqueue(index).job_id) == b"x" * text_bytes


def test_segments_go_when_their_last_text_dies_without_another_snapshot():
    disk = FakeDisk()
    driver = Driver(disk, sizes=TINY, checkpoint_bytes=1 << 30)
    for index in range(40):
        driver.handle([enqueue(index, b"x" * 60)], START_MS)
        driver.make_room(START_MS)
    for index in range(2):
        driver.handle([enqueue(100 + index)], START_MS)
        assert finished(driver)
    steps(driver)
    before = {each.header.number for each in driver.log.sealed}
    leases = driver.handle([Lease(1_000_000)] * 42, START_MS)
    for lease in leases:
        assert isinstance(lease, Leased)
        driver.handle([Ack(lease.job_id, lease.lease_token, None)], START_MS)
    steps(driver, START_MS + 10_000)
    assert not before & {each.header.number for each in driver.log.sealed}
    assert len(snapshots(disk)) == 2
    assert len(Driver(disk.restarted()).state) == 42


@pytest.mark.parametrize("text_bytes", [256, 1000])
def test_disk_use_follows_live_data_when_a_backlog_is_acked_at_random(text_bytes):
    segment_bytes = 64 << 10
    sizes = Sizes(segment_bytes, extent_bytes=4096, reserve_bytes=1024)
    disk = FakeDisk()
    driver = Driver(disk, sizes=sizes, checkpoint_bytes=24 << 10, step_jobs=1000)
    now_ms, worst = START_MS, 0.0
    jobs = list(range(1000))
    batches = [jobs[first : first + 10] for first in range(0, len(jobs), 10)]

    def pass_time() -> None:
        nonlocal now_ms
        now_ms += 1_000
        for _ in range(8):
            driver.make_room(now_ms)

    for batch in batches:
        driver.handle([enqueue(index, b"x" * text_bytes) for index in batch], now_ms)
        pass_time()
    leases: list[Leased] = []
    for _ in batches:
        replies = driver.handle([Lease(1 << 40)] * 10, now_ms)
        leases += [reply for reply in replies if isinstance(reply, Leased)]
        pass_time()
    random.Random(1).shuffle(leases)
    for first in range(0, len(leases), 10):
        some = leases[first : first + 10]
        driver.handle([Ack(each.job_id, each.lease_token, None) for each in some], now_ms)
        pass_time()
        used = sum(
            len(disk.content(DIRECTORY / name))
            for name in disk.names(DIRECTORY)
            if name.endswith(".seg")
        )
        worst = max(worst, (used - 1.5 * driver.state.jobs.live.total_bytes) / segment_bytes)
    # The promise is two segments, kept at full size (``bench micro storage``: 1.7). Here one holds
    # few jobs, so that what events take beside texts counts for more; without copying it is 6.
    assert worst < 3


class Timer:
    """Each reading is a millisecond later: a step takes one, whatever the machine does."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


class FastLoad:
    """Five million jobs at a scale of 1 to 1,250, acked at random as fast as they can be.

    As there, a million of them hold four segments of texts, a snapshot of all takes as much as
    four segments and as long as the acks of 7 % of them.
    """

    JOBS = 4000
    SEGMENT_BYTES = 64 << 10
    SECONDS_PER_JOB = 0.0008

    def __init__(self, text_bytes: int, acks: int, jobs: int = JOBS) -> None:
        self._jobs = jobs
        self._text = b"x" * text_bytes
        self._acks = acks
        self.disk = FakeDisk()
        self._timer = Timer()
        sizes = Sizes(self.SEGMENT_BYTES, extent_bytes=2048, reserve_bytes=512)
        self.driver = driver = Driver(self.disk, sizes=sizes)
        driver.checkpoints = Checkpoints(
            self.disk,
            DIRECTORY,
            IDENTITY,
            driver.state.jobs,
            driver.log,
            growth_bytes_min=24 << 10,
            step_jobs=20,
            timer=self._timer,
        )
        self.excess_segments = -99.0
        self.seconds_of_acks = 0.0

    def play(self) -> None:
        jobs = range(self._jobs)
        for first in jobs[::10]:
            self._batch([enqueue(index, self._text) for index in jobs[first : first + 10]])
        leases: list[Leased] = []
        for _ in jobs[::10]:
            replies = self._batch([Lease(1 << 40)] * 10)
            leases += [reply for reply in replies if isinstance(reply, Leased)]
        random.Random(1).shuffle(leases)
        began_s = self._timer.now_s
        for first in jobs[:: self._acks]:
            some = leases[first : first + self._acks]
            self._wait_as_acks_do()
            self._batch([Ack(each.job_id, each.lease_token, None) for each in some])
        self.seconds_of_acks = self._timer.now_s - began_s

    def _batch(self, commands: list[Command]) -> list[Reply]:
        driver, checkpoints = self.driver, self.driver.checkpoints
        assert checkpoints is not None
        checkpoints.note_work()
        replies = driver.handle(commands, self._now_ms())
        self._timer.now_s += self.SECONDS_PER_JOB * len(commands)
        driver.make_room(self._now_ms())
        self._look()
        return replies

    def _wait_as_acks_do(self) -> None:
        checkpoints = self.driver.checkpoints
        assert checkpoints is not None
        while checkpoints.is_owed:
            self.driver.make_room(self._now_ms())
            self._look()

    def _look(self) -> None:
        driver = self.driver
        used = log_bytes(self.disk)
        live = driver.state.jobs.live.total_bytes
        assert used == driver.log.used_bytes
        self.excess_segments = max(self.excess_segments, (used - 1.5 * live) / self.SEGMENT_BYTES)

    def _now_ms(self) -> int:
        return START_MS + int(self._timer.now_s * 1000)


def log_bytes(disk: FakeDisk) -> int:
    names = disk.names(DIRECTORY)
    return sum(len(disk.content(DIRECTORY / name)) for name in names if name.endswith(".seg"))


@pytest.fixture
def small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step copies a text or two: at that scale about as much as it has time for."""
    monkeypatch.setattr(checkpoint, "_STEP_BYTES", 300)


@pytest.mark.usefixtures("small_copies")
@pytest.mark.parametrize(
    ("text_bytes", "acks"),
    [(256, 1), (256, 2), (400, 1), (256, 8), (256, 40), (1_000, 1), (1_000, 8)],
)
def test_acks_that_outrun_cleaning_are_slowed_down_before_the_log_takes_more_than_it_may(
    text_bytes: int, acks: int
):
    load = FastLoad(text_bytes, acks)
    load.play()
    # It was 5.2 with 256 bytes while cleaning took half of the time at most, and 2.3 with many acks
    # at once while it was done between two batches or not at all.
    assert load.excess_segments < 2
    assert load.driver.checkpoints is not None
    assert load.driver.checkpoints.longest_step_ms < 22, "no more than that in a row"
    again = Driver(load.disk.restarted(), sizes=Sizes(load.SEGMENT_BYTES, 2048, 512))
    assert len(again.state) == load.JOBS


def test_large_texts_that_go_bring_a_snapshot_however_little_log_they_leave():
    # All acks together are less log than what a checkpoint is due after: none came, and nothing
    # could go before the end, with all the texts of 24 segments dead.
    load = FastLoad(4_000, 4, jobs=400)
    load.play()
    assert load.excess_segments < 2


@pytest.mark.usefixtures("small_copies")
def test_what_acks_wait_for_cleaning_is_bounded():
    load = FastLoad(256, 8)
    load.play()
    # 3.3 without pressure: most of it is what copying and snapshots take in any case.
    assert load.seconds_of_acks < 4.5 * load.JOBS * load.SECONDS_PER_JOB


def noting(taken: list[int]) -> Callable[[Checkpoints, int], bool]:
    """A step that only notes its time, and would always like to go on."""

    def do_something(_: Checkpoints, now_ms: int) -> bool:
        taken.append(now_ms)
        return True

    return do_something


def test_without_pressure_there_is_one_step_at_a_time_and_then_a_pause(monkeypatch):
    taken: list[int] = []
    monkeypatch.setattr(Checkpoints, "_do_something", noting(taken))
    timer = Timer()
    driver = Driver(FakeDisk(), sizes=TINY)
    checkpoints = Checkpoints(
        driver.disk, DIRECTORY, IDENTITY, driver.state.jobs, driver.log, timer=timer
    )
    for now_ms in range(START_MS, START_MS + 100):
        checkpoints.step(now_ms)
    assert taken == list(range(START_MS, START_MS + 100, 4)), "1 ms each"


@pytest.fixture
def pressed(monkeypatch: pytest.MonkeyPatch) -> tuple[Checkpoints, Timer, list[int]]:
    """Checkpoints under full pressure, their clock, and when they took a step."""
    taken: list[int] = []
    monkeypatch.setattr(Checkpoints, "_do_something", noting(taken))
    monkeypatch.setattr(Checkpoints, "_is_due", lambda _: True)
    monkeypatch.setattr(Checkpoints, "_pressure", lambda _: 1.0)
    timer = Timer()
    driver = Driver(FakeDisk(), sizes=TINY)
    checkpoints = Checkpoints(
        driver.disk, DIRECTORY, IDENTITY, driver.state.jobs, driver.log, timer=timer
    )
    return checkpoints, timer, taken


def test_under_full_pressure_steps_follow_each_other_for_a_bounded_time(pressed):
    checkpoints, timer, taken = pressed
    checkpoints.note_work()
    timer.now_s += 60
    checkpoints.step(START_MS)
    assert 18 <= len(taken) <= 21


def test_what_work_brought_beyond_that_is_owed_and_acks_wait_for_it(pressed):
    checkpoints, timer, taken = pressed
    checkpoints.note_work()
    timer.now_s += 0.010
    checkpoints.step(START_MS)
    while checkpoints.is_owed:
        checkpoints.step(START_MS)
    # 11 ms of work, 16 times as much; a step is 1 ms, and so is each look at the clock.
    assert 60 <= len(taken) <= 190


def test_time_in_which_nothing_was_done_is_not_owed(pressed):
    checkpoints, timer, taken = pressed
    for now_ms in (START_MS, START_MS + 60_000):
        timer.now_s += 60
        checkpoints.step(now_ms)
        assert not checkpoints.is_owed
    assert len(taken) == 2


def test_acks_never_wait_longer_than_a_front_is_patient(pressed):
    checkpoints, timer, _ = pressed
    checkpoints.note_work()
    timer.now_s += 60
    began_s = timer.now_s
    checkpoints.step(START_MS)
    while checkpoints.is_owed:
        checkpoints.step(START_MS)
    assert timer.now_s - began_s < 3


def test_acks_do_not_wait_for_what_cannot_go_on_now(pressed, monkeypatch):
    checkpoints, timer, _ = pressed

    def no_room(self: Checkpoints, now_ms: int) -> bool:
        self._next_ms = now_ms + 10_000
        return True

    monkeypatch.setattr(Checkpoints, "_do_something", no_room)
    checkpoints.note_work()
    timer.now_s += 60
    checkpoints.step(START_MS)
    assert not checkpoints.is_owed
    monkeypatch.setattr(Checkpoints, "_do_something", lambda *_: False)
    checkpoints.note_work()
    timer.now_s += 60
    checkpoints.step(START_MS + 20_000)
    assert not checkpoints.is_owed


def test_a_segment_that_can_never_be_copied_makes_no_pressure():
    driver = copying(FakeDisk())
    checkpoints = driver.checkpoints
    assert checkpoints is not None
    assert checkpoints._pressure() >= 1
    checkpoints._stuck = {each.header.number: each.file_bytes for each in driver.log.sealed}
    assert checkpoints._pressure() < 1


def test_what_a_snapshot_covers_ends_with_a_segment_while_the_log_is_too_large():
    # Else the segment that it begins in would stay for another snapshot.
    disk = FakeDisk()
    driver = Driver(disk, sizes=TINY, checkpoint_bytes=600)
    for index in range(60):
        leases = driver.handle([enqueue(index, b"x" * 60), Lease(1_000_000)], START_MS)
        acks: list[Command] = [
            Ack(each.job_id, each.lease_token, None) for each in leases if isinstance(each, Leased)
        ]
        driver.handle(acks, START_MS)
        for _ in range(20):
            driver.make_room(START_MS)
    older, newer = snapshot_lsns(disk.names(DIRECTORY))
    firsts = [each.header.first_lsn for each in driver.log.sealed] + [driver.log.tail_first_lsn]
    assert older + 1 == firsts[0], "all that it covers is gone"
    assert newer + 1 in firsts


def test_a_last_snapshot_that_is_given_up_is_said(caplog):
    disk = FakeDisk()
    driver = Driver(disk, checkpoint_bytes=1 << 30)
    driver.handle([enqueue(index) for index in range(100)], START_MS)
    assert driver.checkpoints is not None
    assert not driver.checkpoints.finish(START_MS, within_ms=-1)
    assert [each.message for each in caplog.records if each.levelname == "WARNING"] == [
        "the last snapshot, of 100 jobs, was not done in -1 ms and is given up: the next start"
        " reads more log, and loses nothing"
    ]
    caplog.clear()
    disk.faults = Faults(fail_at=0, fail_kinds=("create",), error=errno.ENOSPC, for_good=True)
    assert not driver.checkpoints.finish(START_MS, 60_000)
    assert "no room on the disk for the last snapshot" in caplog.text


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_a_snapshot_without_a_descriptor_is_tried_again_later(error):
    disk = FakeDisk()
    driver = Driver(disk, sizes=TINY, checkpoint_bytes=1)
    driver.handle([enqueue(1)], START_MS)
    disk.faults = Faults(fail_at=0, fail_kinds=("create",), error=error, for_good=True)
    steps(driver)
    assert snapshots(disk) == []
    disk.faults = Faults()
    steps(driver, START_MS + 20_000)
    assert len(snapshots(disk)) >= 1
