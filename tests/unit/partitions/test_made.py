"""A partition that once had a log and has none any more is not taken for a new one."""

import errno

import pytest

from partitions.errors import CorruptLogError
from partitions.made import is_made, mark_made, mark_of, refuse_lost
from tests.support.driver import DIRECTORY, START_MS, Driver, enqueue
from tests.support.fake_disk import FakeDisk, Faults, Survival


def test_a_new_partition_is_not_refused_and_has_no_mark():
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    refuse_lost(disk, DIRECTORY)
    assert not is_made(disk, DIRECTORY)


def test_one_whose_files_are_gone_is_refused_and_one_that_has_them_is_not():
    disk = FakeDisk()
    Driver(disk).handle([enqueue(1)], START_MS)
    mark_made(disk, DIRECTORY)
    refuse_lost(disk, DIRECTORY)
    for name in disk.names(DIRECTORY):
        disk.remove(DIRECTORY / name)
    with pytest.raises(CorruptLogError, match="has run before") as caught:
        refuse_lost(disk, DIRECTORY)
    assert caught.value.path == DIRECTORY / "0000000001.seg"


def test_the_mark_is_beside_the_directory_and_outlasts_a_power_cut():
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    mark_made(disk, DIRECTORY)
    assert mark_of(DIRECTORY) == DIRECTORY.parent / "p-0000.made"
    assert is_made(disk.crash(Survival("lost", pages=0, entries=0)), DIRECTORY)


def test_it_is_made_once():
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    mark_made(disk, DIRECTORY)
    operations = len(disk.operations)
    mark_made(disk, DIRECTORY)
    assert len(disk.operations) == operations


@pytest.mark.parametrize("kind", ["create", "sync", "sync_directory"])
def test_a_full_disk_is_put_up_with_and_a_broken_one_is_not(kind):
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    disk.faults = Faults(fail_at=0, fail_kinds=(kind,), error=errno.ENOSPC)
    mark_made(disk, DIRECTORY)
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    disk.faults = Faults(fail_at=0, fail_kinds=(kind,))
    with pytest.raises(OSError, match="Input/output"):
        mark_made(disk, DIRECTORY)
    assert disk.open_files == 0
