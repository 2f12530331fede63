"""The disk: the real one and its fake behave alike; locks and permissions of the real one."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from partitions import disk as disk_module
from partitions.disk import RealDisk
from partitions.errors import DirectoryInUseError
from tests.support.fake_disk import FakeDisk, Faults, Survival

LOST = Survival("lost", pages=0, entries=0)


@pytest.fixture(params=[RealDisk, FakeDisk])
def disk(request):
    return request.param()


@pytest.fixture
def directory(disk, tmp_path):
    path = tmp_path / "a" / "b"
    disk.make_directory(path)
    return path


# What both do -------------------------------------------------------------------------------


def test_a_file_gives_back_what_was_written_where_it_was_written(disk, directory):
    file = disk.create(directory / "f")
    file.write(b"hello", 0)
    file.write(b"J", 0)
    file.write(b"end", 10)
    file.sync()
    assert file.read(100, 0) == b"Jello\0\0\0\0\0end"
    assert file.read(3, 10) == b"end"
    assert file.read(5, 11) == b"nd"
    assert file.read(5, 13) == b""
    assert file.size() == 13
    file.close()


def test_another_opening_of_the_file_sees_the_same(disk, directory):
    written = disk.create(directory / "f")
    written.write(b"abc", 0)
    opened = disk.open(directory / "f")
    assert opened.read(10, 0) == b"abc"
    with pytest.raises(OSError, match="Bad file descriptor"):
        opened.write(b"x", 0)
    writable = disk.open(directory / "f", writable=True)
    writable.write(b"x", 1)
    assert written.read(10, 0) == b"axc"
    for file in (written, opened, writable):
        file.close()


def test_creating_a_file_again_empties_it(disk, directory):
    first = disk.create(directory / "f")
    first.write(b"abc", 0)
    first.close()
    again = disk.create(directory / "f")
    assert again.size() == 0
    again.close()


def test_names_are_sorted_and_follow_renames_and_removals(disk, directory):
    for name in ("c", "a", "b"):
        disk.create(directory / name).close()
    assert disk.names(directory) == ["a", "b", "c"]
    disk.rename(directory / "c", directory / "a")
    disk.remove(directory / "b")
    disk.sync_directory(directory)
    assert disk.names(directory) == ["a"]


def test_a_rename_replaces_the_file_there_and_leaves_the_old_one_readable_to_its_owner(
    disk, directory
):
    old, new = disk.create(directory / "old"), disk.create(directory / "new")
    old.write(b"old", 0)
    new.write(b"new", 0)
    disk.rename(directory / "new", directory / "old")
    assert old.read(3, 0) == b"old"
    found = disk.open(directory / "old")
    assert found.read(3, 0) == b"new"
    for file in (old, new, found):
        file.close()


def test_a_file_that_is_not_there_is_an_oserror(disk, directory):
    for call in (disk.open, disk.remove):
        with pytest.raises(FileNotFoundError):
            call(directory / "none")
    with pytest.raises(FileNotFoundError):
        disk.names(directory / "none")


def test_making_a_directory_that_exists_is_fine(disk, directory):
    disk.make_directory(directory)
    assert disk.names(directory) == []


def test_a_directory_is_locked_once_until_the_lock_is_dropped(disk, directory):
    lock = disk.lock_directory(directory)
    with pytest.raises(DirectoryInUseError) as caught:
        disk.lock_directory(directory)
    assert caught.value.path == directory
    del lock
    again = disk.lock_directory(directory)
    del again


# The real one -------------------------------------------------------------------------------


def test_files_and_directories_are_for_their_owner_alone(tmp_path):
    mask = os.umask(0)
    try:
        disk = RealDisk()
        disk.make_directory(tmp_path / "a" / "b")
        disk.create(tmp_path / "a" / "b" / "f").close()
    finally:
        os.umask(mask)
    modes = [stat.S_IMODE(os.stat(tmp_path / path).st_mode) for path in ("a", "a/b", "a/b/f")]
    assert modes == [0o700, 0o700, 0o600]


def test_every_new_directory_is_made_durable_in_its_parent(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(RealDisk, "sync_directory", lambda _, path: synced.append(path))
    RealDisk().make_directory(tmp_path / "a" / "b")
    assert synced[:2] == [tmp_path, tmp_path / "a"]


def test_a_directory_that_exists_is_made_durable_too(tmp_path, monkeypatch):
    # Whoever made it may have been killed before the sync.
    (tmp_path / "a").mkdir()
    synced = []
    monkeypatch.setattr(RealDisk, "sync_directory", lambda _, path: synced.append(path))
    RealDisk().make_directory(tmp_path / "a")
    assert synced == [tmp_path]


def test_another_process_cannot_take_the_lock_and_a_killed_one_lets_go_of_it(tmp_path):
    held = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    with held:
        assert held.stdout is not None
        assert held.stdout.readline() == b"held\n"
        with pytest.raises(DirectoryInUseError):
            RealDisk().lock_directory(tmp_path)
        held.kill()
    lock = RealDisk().lock_directory(tmp_path)
    del lock


_HOLD = """
import sys, time
from pathlib import Path
from partitions.disk import RealDisk
lock = RealDisk().lock_directory(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_reads_and_writes_that_the_kernel_cuts_are_finished(tmp_path, monkeypatch):
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 3), offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    file = RealDisk().create(tmp_path / "f")
    file.write(b"0123456789", 5)
    assert file.read(10, 5) == b"0123456789"
    assert file.read(100, 5) == b"0123456789"
    file.close()


def test_a_full_disk_is_an_oserror():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    file = RealDisk().open(full, writable=True)
    with pytest.raises(OSError, match=r"No space.*'/dev/full'"):
        file.write(b"x", 0)
    file.close()


def test_a_fault_of_a_file_names_the_file(tmp_path):
    file = RealDisk().create(tmp_path / "f")
    file.close()
    for call in (lambda: file.read(1, 0), lambda: file.write(b"x", 0), file.sync):
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            call()
        assert caught.value.filename == str(tmp_path / "f")


@pytest.mark.parametrize("threads", [True, False], ids=["beside", "at once"])
def test_the_room_of_a_large_file_is_freed_by_whoever_can(tmp_path, monkeypatch, threads):
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        if not threads:
            raise RuntimeError("can't start new thread")
        started.append(thread)

    monkeypatch.setattr(disk_module, "_LARGE_BYTES", 10)
    monkeypatch.setattr(threading.Thread, "start", start)
    path = tmp_path / "f"
    path.write_bytes(bytes(10))
    before = open_files()
    RealDisk().remove(path)
    assert not path.exists()
    assert len(open_files() - before) == len(started) == threads
    for each in started:
        each.run()
    assert open_files() == before


def test_a_small_file_needs_no_thread_and_leaves_no_descriptor(tmp_path, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread"))
    path = tmp_path / "f"
    path.write_bytes(bytes(10))
    before = open_files()
    RealDisk().remove(path)
    assert open_files() == before


def test_without_a_descriptor_files_are_removed_all_the_same(tmp_path, monkeypatch):
    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    path = tmp_path / "f"
    path.write_bytes(bytes(10))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", none_left)
        RealDisk().remove(path)
    assert not path.exists()


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


# The fake one: it must lose what a power cut may take --------------------------------------


def made(disk: FakeDisk, *, sync: bool, sync_directory: bool) -> None:
    disk.make_directory(Path("/d"))
    file = disk.create(Path("/d/f"))
    file.write(b"abc", 0)
    if sync:
        file.sync()
    if sync_directory:
        disk.sync_directory(Path("/d"))


def test_a_crash_keeps_what_was_synced_with_its_name():
    disk = FakeDisk()
    made(disk, sync=True, sync_directory=True)
    assert disk.crash(LOST).content(Path("/d/f")) == b"abc"


def test_a_crash_takes_bytes_that_were_not_synced_and_names_that_were_not():
    disk = FakeDisk()
    made(disk, sync=False, sync_directory=True)
    assert disk.crash(LOST).content(Path("/d/f")) == b""
    disk = FakeDisk()
    made(disk, sync=True, sync_directory=False)
    assert disk.crash(LOST).names(Path("/d")) == []


def test_a_disk_that_lies_keeps_nothing():
    disk = FakeDisk(lies=True)
    made(disk, sync=True, sync_directory=True)
    assert disk.crash(LOST).names(Path("/d")) == []


def test_a_failed_sync_forgets_its_bytes_though_the_next_one_says_that_all_is_well():
    disk = FakeDisk(Faults(fail_at=0, fail_kinds=("sync",)))
    disk.make_directory(Path("/d"))
    file = disk.create(Path("/d/f"))
    file.write(b"abc", 0)
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    file.sync()
    disk.sync_directory(Path("/d"))
    assert file.read(3, 0) == b"abc"
    assert disk.crash(LOST).content(Path("/d/f")) == b""


def test_a_full_fake_disk_takes_the_part_that_fits():
    disk = FakeDisk()
    disk.make_directory(Path("/d"))
    file = disk.create(Path("/d/f"))
    disk.space_bytes = 4
    with pytest.raises(OSError, match="No space"):
        file.write(b"abcdef", 0)
    assert file.read(10, 0) == b"abcd"
    file.write(b"ABCD", 0)
    assert file.read(10, 0) == b"ABCD"
