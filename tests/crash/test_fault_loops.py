"""The n-th file operation fails, for every n: in a run with snapshots, and in a start.

What ``test_log_crash`` and ``test_checkpoint_crash`` leave out: reads that fail, writes that
leave a part of their data behind, and everything that can happen to a start: to be stopped
at each operation, to fail at each, and to fail again at the next try.
"""

import errno
from functools import cache

import pytest

from partitions import log as log_module
from partitions.errors import CorruptLogError
from tests.crash.test_checkpoint_crash import AnyRun, MixedRun, Run, driver_on, losses_on, played
from tests.support.driver import DIRECTORY
from tests.support.fake_disk import (
    CHANGES,
    READS,
    FakeDisk,
    Faults,
    Halted,
    Survival,
    survivals,
)
from tests.support.points import LONG, Points

STEP = 1 if LONG else 17
"""In the short form each n-th run is stopped; the operations of a start are tried one by one."""

ERRORS = pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
FOR_GOOD = pytest.mark.parametrize("for_good", [False, True], ids=["once", "from then on"])
LOST = Survival("lost", pages=0, entries=0)


@cache
def left_by_power_cuts() -> list[tuple[FakeDisk, AnyRun]]:
    """Disks that power cuts left in the middle of a run, and the run."""
    return _left_of(Run) + _left_of(MixedRun)


def _left_of(kind_of_run: type[AnyRun]) -> list[tuple[FakeDisk, AnyRun]]:
    length = len(played(kind_of_run=kind_of_run).disk.operations)
    # Some with a torn tail, some with a snapshot that is written, some just after a roll.
    places = range(length // 2, length, length // 6)
    runs = [played(Faults(halt_at=at), kind_of_run) for at in places]
    parts = [Survival("part", pages=0.5, entries=1, seed=at) for at in places]
    return [(run.disk.crash(part), run) for run, part in zip(runs, parts, strict=True)]


def copy_of(disk: FakeDisk, faults: Faults) -> FakeDisk:
    """The same files, all of them durable, on a disk with these faults."""
    copy = disk.crash(LOST)
    copy.faults = faults
    return copy


def start_on(disk: FakeDisk) -> bool:
    """Whether a partition starts there; if not, the disk is to blame and not the log."""
    try:
        driver_on(disk)
    except (OSError, Halted):
        return False
    return True


def check_all(disk: FakeDisk, run: AnyRun, what: str, seed: int) -> int:
    """Nothing is lost after a restart, or after a power cut of any kind; how many were tried."""
    assert losses_on(disk.restarted(), run) == [], f"{what}, then a restart"
    cuts = survivals(seed)
    for survival in cuts:
        lost = losses_on(disk.crash(survival), run)
        assert lost == [], f"{what}, then a power cut, unsynced: {survival}"
    return len(cuts) + 1


def test_a_start_that_is_stopped_at_any_operation_loses_nothing(points: Points):
    tried = 0
    for number, (disk, run) in enumerate(left_by_power_cuts()):
        whole = copy_of(disk, Faults())
        assert start_on(whole)
        for at in range(len(whole.operations)):
            cut = copy_of(disk, Faults(halt_at=at))
            assert not start_on(cut)
            tried += check_all(cut, run, f"start {number} stopped before {at}", seed=at)
    points.add("fake disk: a start, stopped before an operation", tried)
    assert tried >= 100


@FOR_GOOD
@ERRORS
@pytest.mark.parametrize("kind", CHANGES + READS)
def test_a_start_whose_nth_operation_fails_blames_the_disk_and_loses_nothing(
    kind, error, for_good, points: Points
):
    tried = 0
    for number, (disk, run) in enumerate(left_by_power_cuts()):
        at = 0
        while True:
            faults = Faults(fail_at=at, fail_kinds=(kind,), error=error, for_good=for_good)
            faulty = copy_of(disk, faults)
            # A CorruptLogError here would keep the partition down for a fault that may pass.
            start_on(faulty)
            if not faults.hits:
                break
            what = f"{kind} {at} of start {number} failed"
            tried += check_all(faulty, run, what, seed=at)
            at += 1
    points.add(f"fake disk: a start, {kind} failed", tried)
    # What a start removes are left-overs, which not every power cut leaves.
    assert tried >= (0 if kind == "remove" else 6)


@FOR_GOOD
@pytest.mark.parametrize("kind", READS)
def test_a_read_that_fails_in_a_run_never_takes_back_what_a_client_was_told(
    kind, for_good, points: Points, monkeypatch
):
    # So few that old segments are opened again.
    monkeypatch.setattr(log_module, "_OPEN_FILES_MAX", 2)
    healthy = played()
    count = sum(operation.kind == kind for operation in healthy.disk.reads)
    assert count
    tried = 0
    for at in range(0, count, STEP):
        faults = Faults(fail_at=at, fail_kinds=(kind,), for_good=for_good)
        run = played(faults)
        assert faults.hits > 0
        tried += check_all(run.disk, run, f"{kind} {at} failed", seed=at)
    points.add(f"fake disk: a run, {kind} failed", tried)


@FOR_GOOD
@ERRORS
@pytest.mark.parametrize("written", [0.4, 1.0], ids=["in part", "whole"])
def test_a_failing_write_that_leaves_data_behind_takes_back_nothing(
    written, error, for_good, points: Points
):
    count = sum(operation.kind == "write" for operation in played().disk.operations)
    tried = 0
    for at in range(0, count, STEP):
        faults = Faults(
            fail_at=at, fail_kinds=("write",), error=error, for_good=for_good, written=written
        )
        run = played(faults)
        assert faults.hits > 0
        tried += check_all(run.disk, run, f"write {at} was cut short", seed=at)
    points.add("fake disk: a run, write cut short", tried)
    assert tried > 40


def test_an_unreadable_snapshot_is_a_bad_one_and_not_the_end():
    run = played()
    newest = max(name for name in run.disk.names(DIRECTORY) if name.endswith(".snap"))
    disk = run.disk.restarted()
    disk.faults = Faults(fail_at=0, fail_kinds=("read",))  # the first read is of the newest
    found = driver_on(disk)
    assert [bad.path.name for bad in found.found.bad_snapshots] == [newest]
    assert run.losses(found) == []


def test_a_start_that_can_read_no_snapshot_blames_the_disk_and_not_the_log():
    run = played()
    disk = run.disk.restarted()
    disk.faults = Faults(fail_at=0, fail_kinds=("read",), for_good=True)
    with pytest.raises(OSError, match="Input/output"):
        driver_on(disk)
    assert losses_on(run.disk.restarted(), run) == []


def test_a_log_that_is_damaged_is_refused_even_by_this_arrangement():
    # The control: a damaged log is not taken for a disk that failed.
    disk, _ = left_by_power_cuts()[-1]
    broken = copy_of(disk, Faults())
    name = max(name for name in broken.names(DIRECTORY) if name.endswith(".seg"))
    broken.remove(DIRECTORY / name)
    with pytest.raises(CorruptLogError):
        start_on(broken)
