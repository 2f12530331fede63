"""The log: what is committed is on disk, zeros ahead of it, texts read back."""

import errno
import itertools
import os
import random
from pathlib import Path

import msgspec
import pytest

from partitions import log as module
from partitions.disk import File, RealDisk
from partitions.errors import BlobUnreadableError
from partitions.events import BackoffOver, Event, decode_events
from partitions.limits import TEXT_BYTES_MAX
from partitions.log import Identity, Log, Sizes, segment_name
from partitions.positions import OFFSET_MAX, make_position, offset_of, segment_of
from partitions.record import (
    BLOB_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    End,
    LogEnd,
    Record,
    SegmentHeader,
    decode_segment_header,
    encode_blob,
    scan,
)
from partitions.recovery import recover
from partitions.state import PartitionState
from tests.support.fake_disk import FakeDisk, FakeFile, Faults, Survival

DIRECTORY = Path("/data/p-0003")
IDENTITY = Identity(3, 100, 200)
SIZES = Sizes(segment_bytes=4096, extent_bytes=1024, reserve_bytes=256)
EVENT = BackoffOver(bytes(16))
LOST = Survival("lost", pages=0, entries=0)


@pytest.fixture
def disk() -> FakeDisk:
    made = FakeDisk()
    made.make_directory(DIRECTORY)
    return made


@pytest.fixture
def log(disk) -> Log:
    return opened(disk)


def opened(disk: FakeDisk, sizes: Sizes = SIZES) -> Log:
    """The log, past the events in it: these tests commit some that no state could replay."""

    class Anything(PartitionState):
        def evolve(self, event: Event) -> None:
            pass

    return recover(disk, DIRECTORY, IDENTITY, Anything(), sizes).log


def committed(log: Log, text: bytes, now_ms: int = 1) -> int:
    """One text in a record of its own; returns its position."""
    position = log.put(text)
    log.commit([EVENT], now_ms)
    return position


def kinds(disk: FakeDisk, since: int) -> list[str]:
    return [operation.kind for operation in disk.operations[since:]]


def segments(disk: FakeDisk) -> list[tuple[list[Record], LogEnd]]:
    """What each segment holds: its records, and its end."""
    found = []
    for number in range(1, len(disk.names(DIRECTORY)) + 1):
        data = disk.content(DIRECTORY / segment_name(number))
        *records, end = scan(data, header_of(disk, number))
        assert isinstance(end, LogEnd)
        found.append(([each for each in records if isinstance(each, Record)], end))
    return found


def header_of(disk: FakeDisk, number: int) -> SegmentHeader:
    data = disk.content(DIRECTORY / segment_name(number))
    header = decode_segment_header(data[:SEGMENT_HEADER_BYTES])
    assert isinstance(header, SegmentHeader)
    return header


def test_a_segment_is_begun_on_demand_unless_the_last_one_has_hardly_begun(disk, log):
    committed(log, b"x" * 500)
    log.begin_segment(2)
    assert log.tail_segment == 1
    committed(log, b"x" * 500)
    log.begin_segment(2)
    assert log.tail_segment == 2
    log.begin_segment(3)
    assert log.tail_segment == 2
    position = committed(log, b"y")
    assert segment_of(position) == 2
    assert opened(disk.restarted()).read(position) == b"y"


def test_a_segment_is_not_begun_without_room_for_it(disk, log):
    committed(log, b"x" * 2000)
    disk.space_bytes = disk.used_bytes()
    log.begin_segment(2)
    assert log.tail_segment == 1
    assert disk.names(DIRECTORY) == [segment_name(1)]


@pytest.mark.parametrize("kind", ["create", "sync_directory"])
def test_a_segment_is_begun_later_or_all_the_same_without_a_descriptor(disk, log, kind):
    committed(log, b"x" * 2000)
    disk.faults = Faults(fail_at=0, fail_kinds=(kind,), error=errno.EMFILE)
    log.begin_segment(2)
    log.begin_segment(2)
    assert log.tail_segment == 2
    position = committed(log, b"y")
    assert opened(disk.crash(LOST)).read(position) == b"y"


def test_what_its_files_take_is_known(disk, log):
    def taken(disk: FakeDisk) -> int:
        return sum(len(disk.content(DIRECTORY / name)) for name in disk.names(DIRECTORY))

    assert log.used_bytes == taken(disk)
    for _ in range(40):
        committed(log, b"x" * 500)
        log.make_room(1)
        assert log.used_bytes == taken(disk)
    left = disk.restarted()
    again = opened(left)
    assert len(again.sealed) > 2
    assert again.used_bytes == taken(left)
    again.retire([each.header.number for each in again.sealed])
    assert again.sealed_bytes == 0
    assert again.used_bytes == again._tail.zeros_end_bytes


# Making -------------------------------------------------------------------------------------


def test_a_new_log_is_one_durable_segment_with_zeros_in_it(disk, log):
    assert disk.names(DIRECTORY) == [segment_name(1)] == ["0000000001.seg"]
    data = disk.crash(LOST).content(DIRECTORY / segment_name(1))
    assert len(data) == SEGMENT_HEADER_BYTES + SIZES.extent_bytes
    header = header_of(disk, 1)
    assert header == msgspec.structs.replace(
        header, partition=3, slot_first=100, slot_end=200, number=1, first_lsn=1, prev_crc=0
    )
    assert log.next_lsn == 1


def test_a_segment_gets_its_name_only_when_it_is_whole_on_disk(disk, log):
    assert kinds(disk, 0) == ["create", "write", "write", "sync", "rename", "sync_directory"]
    assert disk.operations[0].path.name == "0000000001.seg.tmp"


def test_every_segment_has_a_nonce_of_its_own(disk, log):
    nonces = set()
    for _ in range(8):
        other = FakeDisk()
        other.make_directory(DIRECTORY)
        opened(other)
        nonces.add(header_of(other, 1).nonce)
    assert len(nonces) == 8


# Committing ---------------------------------------------------------------------------------


def test_a_commit_is_one_write_and_one_sync_and_nothing_else(disk, log):
    before = len(disk.operations)
    committed(log, b"text")
    assert kinds(disk, before) == ["write", "sync"]


def test_a_commit_that_returned_survives_a_power_cut_with_its_text(disk, log):
    position = committed(log, "é€😀".encode(), now_ms=77)
    again = opened(disk.crash(LOST))
    assert again.next_lsn == 2
    assert again.read(position).decode() == "é€😀"


def test_records_are_numbered_without_gaps_and_hold_their_events(disk, log):
    for number in range(1, 4):
        assert log.next_lsn == number
        log.commit([EVENT] * number, now_ms=number * 10)
    ((records, end),) = segments(disk)
    assert [record.lsn for record in records] == [1, 2, 3]
    assert [record.written_ms for record in records] == [10, 20, 30]
    assert [len(decode_events(record.events)) for record in records] == [1, 2, 3]
    assert end.kind is End.CLEAN


def test_a_commit_stays_within_the_zeros_that_are_on_disk(disk, log):
    size = len(disk.content(DIRECTORY / segment_name(1)))
    committed(log, b"x" * 200)
    assert len(disk.content(DIRECTORY / segment_name(1))) == size


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_failed_commit_raises_what_the_disk_said(disk, log, kind):
    disk.faults = Faults(fail_at=0, fail_kinds=(kind,))
    with pytest.raises(OSError, match="Input/output") as caught:
        log.commit([EVENT], 1)
    assert caught.value.errno == errno.EIO


# Positions ----------------------------------------------------------------------------------


def test_texts_stand_where_they_were_promised_to(disk, log):
    texts = [b"one", b"2", b"three" * 50, "vier€".encode()]
    positions = [log.put(text) for text in texts]
    log.commit([EVENT], 1)
    assert [log.read(position) for position in positions] == texts
    assert all(segment_of(position) == 1 for position in positions)
    content = disk.content(DIRECTORY / segment_name(1))
    for position, text in zip(positions, texts, strict=True):
        start = offset_of(position)
        assert content[start : start + BLOB_HEADER_BYTES + len(text)] == encode_blob(text)


def test_positions_begin_anew_with_each_commit(log):
    positions = [committed(log, text) for text in (b"a", b"bb", b"ccc")]
    assert [log.read(position) for position in positions] == [b"a", b"bb", b"ccc"]


@pytest.mark.parametrize("size", [1, 4087, 4088, 4089, 4096, 100_000, TEXT_BYTES_MAX])
def test_a_text_of_any_length_reads_back(log, size):
    text = bytes(range(256)) * (size // 256 + 1)
    position = committed(log, text[:size])
    assert log.read(position) == text[:size]


def test_any_damage_to_a_text_is_found_when_it_is_read(disk, log):
    text = b"a text of some length"
    position = committed(log, text)
    path = DIRECTORY / segment_name(1)
    start = offset_of(position)
    whole = disk.content(path)
    inode = disk._inode(path)
    for place in range(start, start + BLOB_HEADER_BYTES + len(text)):
        inode.seen[:] = whole
        inode.seen[place] ^= 0x10
        with pytest.raises(BlobUnreadableError) as caught:
            log.read(position)
        assert (caught.value.path, caught.value.offset_bytes) == (path, start)


def test_a_page_of_zeros_is_no_empty_text(disk, log):
    position = committed(log, b"short")
    start = offset_of(position)
    disk._inode(DIRECTORY / segment_name(1)).seen[start : start + 13] = bytes(13)
    with pytest.raises(BlobUnreadableError, match="claims 0 bytes"):
        log.read(position)


def test_a_text_behind_the_end_or_in_a_segment_that_is_gone_is_unreadable(log):
    with pytest.raises(BlobUnreadableError, match="file ends"):
        log.read(make_position(1, 1_000_000, 9))
    with pytest.raises(BlobUnreadableError, match="cannot be read"):
        log.read(make_position(9, SEGMENT_HEADER_BYTES, 9))
    with pytest.raises(BlobUnreadableError, match="cannot be read"):
        log.read(0)


@pytest.mark.parametrize("seed", range(30))
def test_texts_read_together_are_those_read_one_by_one(log, seed):
    draws = random.Random(seed)
    positions: list[int] = []
    for _ in range(draws.randint(1, 8)):
        sizes = [draws.choice([1, 30, 300, 20_000]) for _ in range(draws.randint(1, 5))]
        positions += [log.put(draws.randbytes(size)) for size in sizes]
        log.commit([EVENT] * draws.choice([1, 500]), 1)
        log.make_room(1)  # the segments of these tests are small
    asked = draws.sample(positions, draws.randint(1, len(positions)))
    if draws.random() < 0.5:
        asked.sort()
    together = log.read_together(asked)
    assert together == {position: log.read(position) for position in together}
    assert set(together) <= set(asked)


def test_neighbours_are_read_together_in_one_read(disk, log, monkeypatch):
    positions = [log.put(b"text %d" % number) for number in range(100)]
    log.commit([EVENT], 1)
    reads = counted_reads(monkeypatch)
    assert list(log.read_together(positions)) == positions
    assert len(reads) == 1
    # Alone, backwards, and in another segment there is nothing to be gained.
    assert log.read_together(positions[:1]) == {}
    assert log.read_together(positions[:3][::-1]) == {}
    assert log.read_together([positions[0], make_position(2, offset_of(positions[1]), 14)]) == {}
    assert len(reads) == 1


def test_what_is_read_together_is_bounded(log, monkeypatch):
    positions = [log.put(bytes([number]) * 100_000) for number in range(9)]
    log.commit([EVENT], 1)
    reads = counted_reads(monkeypatch)
    assert len(log.read_together(positions)) == 8  # two at a time, and one that is left
    assert max(reads) <= module._TOGETHER_BYTES_MAX


def test_damage_among_texts_read_together_is_left_to_be_told(disk, log):
    positions = [log.put(b"text %d" % number) for number in range(5)]
    log.commit([EVENT], 1)
    disk._inode(DIRECTORY / segment_name(1)).seen[offset_of(positions[2]) + 9] ^= 0x10
    texts = log.read_together(positions)
    assert list(texts) == [*positions[:2], *positions[3:]]
    with pytest.raises(BlobUnreadableError):
        log.read(positions[2])


def test_texts_of_a_segment_that_cannot_be_read_are_left_to_be_told(disk, log):
    gone = [make_position(9, SEGMENT_HEADER_BYTES + offset, 9) for offset in (0, 9)]
    assert log.read_together(gone) == {}
    behind = [make_position(1, 1_000_000 + offset, 9) for offset in (0, 9)]
    assert log.read_together(behind) == {}


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the reads from now on."""
    sizes: list[int] = []
    read = FakeFile.read

    def counting(self: FakeFile, size: int, offset: int) -> bytes:
        sizes.append(size)
        return read(self, size, offset)

    monkeypatch.setattr(FakeFile, "read", counting)
    return sizes


# Room ---------------------------------------------------------------------------------------


def test_reserve_makes_zeros_until_a_record_and_the_reserve_fit(disk, log):
    before = len(disk.operations)
    assert log.reserve(100)
    assert kinds(disk, before) == []
    assert log.reserve(SIZES.extent_bytes * 2)
    assert kinds(disk, before) == ["write", "sync"] * 2
    assert disk.operations[-2].size == SIZES.extent_bytes
    assert log.reserve(SIZES.extent_bytes * 2)
    assert len(disk.operations) == before + 4


def test_zeros_ahead_are_durable_before_they_are_counted_on(disk, log):
    log.reserve(2_000)
    content = disk.crash(LOST).content(DIRECTORY / segment_name(1))
    assert len(content) >= SEGMENT_HEADER_BYTES + 2_000 + SIZES.reserve_bytes


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_without_space_there_is_no_room_for_more_but_the_reserve_can_be_used(disk, log, error):
    disk.faults = Faults(fail_at=0, fail_kinds=("write",), error=error, for_good=True)
    assert not log.reserve(SIZES.extent_bytes)
    assert log.reserve(SIZES.extent_bytes - SIZES.reserve_bytes)
    assert not log.reserve(SIZES.extent_bytes - SIZES.reserve_bytes + 1)
    assert log.reserve(SIZES.extent_bytes, keep_bytes=0)


def test_room_is_found_again_as_soon_as_there_is_space(disk, log):
    disk.space_bytes = disk.used_bytes() + 10
    assert not log.reserve(SIZES.extent_bytes)
    assert log.reserve(100, keep_bytes=0)
    position = committed(log, b"from the reserve")
    disk.space_bytes = None
    assert log.reserve(SIZES.extent_bytes)
    second = committed(log, b"x" * 900)
    again = opened(disk.crash(LOST))
    assert again.next_lsn == 3
    assert again.read(position) == b"from the reserve"
    assert again.read(second) == b"x" * 900


def test_zeros_that_cannot_be_synced_end_the_log(disk, log):
    for error in (errno.EIO, errno.ENOSPC):
        disk.faults = Faults(fail_at=0, fail_kinds=("sync",), error=error)
        with pytest.raises(OSError, match=os.strerror(error)) as caught:
            log.reserve(SIZES.extent_bytes)
        assert caught.value.errno == error


def test_another_failure_than_lack_of_space_ends_the_log(disk, log):
    disk.faults = Faults(fail_at=0, fail_kinds=("write",), error=errno.EROFS)
    with pytest.raises(OSError, match="Read-only"):
        log.reserve(SIZES.extent_bytes)


def test_make_room_keeps_zeros_ahead_so_that_commits_need_not_make_them(disk, log):
    for _ in range(10):
        log.make_room(1)
        before = len(disk.operations)
        assert log.reserve(SIZES.extent_bytes // 4)
        committed(log, b"x" * 150)
        assert kinds(disk, before) == ["write", "sync"]


def test_make_room_without_space_is_no_fault(disk, log):
    committed(log, b"x" * 900)
    disk.space_bytes = disk.used_bytes()
    log.make_room(1)
    assert not log.reserve(100)


# Rolling ------------------------------------------------------------------------------------


def filled_up(log: Log) -> None:
    """Commit until the segment has had its fill."""
    while log._tail.offset_bytes < SIZES.segment_bytes:
        log.commit([EVENT] * 5, 5)


def test_a_full_segment_is_followed_by_the_next_one_which_continues_it(disk, log):
    position = committed(log, b"in the first")
    filled_up(log)
    log.make_room(now_ms=99)
    second = committed(log, b"in the second")
    assert disk.names(DIRECTORY) == [segment_name(1), segment_name(2)]
    assert (segment_of(position), segment_of(second)) == (1, 2)
    assert (log.read(position), log.read(second)) == (b"in the first", b"in the second")
    (first, _), (rest, _) = segments(disk)
    assert rest[0].lsn == first[-1].lsn + 1
    assert rest[0].prev_crc == first[-1].crc
    header = header_of(disk, 2)
    assert (header.number, header.first_lsn, header.created_ms) == (2, rest[0].lsn, 99)
    assert header.prev_crc == first[-1].crc


def test_a_segment_that_is_not_full_is_not_left(disk, log):
    while log._tail.offset_bytes < SIZES.segment_bytes - 60:
        log.commit([EVENT], 5)
        log.make_room(5)
    assert disk.names(DIRECTORY) == [segment_name(1)]


def test_nothing_is_committed_to_a_segment_before_its_name_is_durable(disk, log):
    filled_up(log)
    before = len(disk.operations)
    log.make_room(1)
    assert kinds(disk, before) == ["create", "write", "write", "sync", "rename", "sync_directory"]


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename"])
def test_a_roll_that_finds_no_space_goes_on_in_the_old_segment_and_tries_again(disk, log, kind):
    filled_up(log)
    open_files = disk.open_files
    disk.faults = Faults(fail_at=0, fail_kinds=(kind,), error=errno.ENOSPC, for_good=True)
    for _ in range(3):
        log.make_room(1)
        assert disk.names(DIRECTORY) == [segment_name(1)]
    assert disk.open_files == open_files
    disk.faults = Faults()
    position = committed(log, b"still in the first")
    log.make_room(1)
    assert (segment_of(position), log.tail_segment) == (1, 2)
    assert opened(disk.crash(LOST)).read(position) == b"still in the first"


def test_a_segment_that_cannot_be_left_takes_no_more_than_a_position_can_name(tmp_path):
    # A file system without a free inode has room for zeros, and none for the next segment.
    disk = NoMoreFiles()
    disk.make_directory(tmp_path)
    sizes = Sizes(segment_bytes=4096, extent_bytes=1 << 20, reserve_bytes=512 << 10)
    log = recover(disk, tmp_path, IDENTITY, PartitionState(), sizes).log
    disk.is_full = True
    # As after 128 MiB of records, but for half an extent.
    log._tail.offset_bytes = log._tail.zeros_end_bytes = OFFSET_MAX - (1 << 19) - 100_000
    taken: dict[int, bytes] = {}
    while log.reserve(20_000) or log.zeros_bytes > 20_000:
        text = b"%d" % len(taken) * 9_000
        taken[log.put(text)] = text
        log.commit([EVENT], 1)
        log.make_room(1)
    assert 20 < len(taken) < 40
    assert max(offset_of(at) for at in taken) < OFFSET_MAX
    assert {at: log.read(at) for at in taken} == taken
    assert not log.reserve(20_000, keep_bytes=0)
    disk.is_full = False
    log.make_room(1)
    assert log.tail_segment == 2
    assert log.reserve(20_000)


class NoMoreFiles(RealDisk):
    """A file system on which, once told, no file can be made."""

    is_full = False

    def create(self, path: Path) -> File:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return super().create(path)


def test_a_roll_whose_name_may_not_be_durable_ends_the_log_even_for_lack_of_space(disk, log):
    # The next record would go to the old segment, and the new one's header would be wrong.
    filled_up(log)
    disk.faults = Faults(fail_at=0, fail_kinds=("sync_directory",), error=errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        log.make_room(1)


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "sync_directory"])
def test_a_roll_that_fails_otherwise_ends_the_log(disk, log, kind):
    filled_up(log)
    disk.faults = Faults(fail_at=0, fail_kinds=(kind,))
    with pytest.raises(OSError, match="Input/output"):
        log.make_room(1)


# Open files ---------------------------------------------------------------------------------


def test_files_stay_open_up_to_a_bound_and_the_active_one_always(disk, log, monkeypatch):
    monkeypatch.setattr(module, "_OPEN_FILES_MAX", 4)
    positions = []
    for number in range(1, 11):
        positions.append(committed(log, b"text %d" % number))
        filled_up(log)
        log.make_room(1)
        assert disk.open_files <= 4
    for number, position in itertools.chain(enumerate(positions, 1), enumerate(positions, 1)):
        assert log.read(position) == b"text %d" % number
        assert disk.open_files <= 4
    committed(log, b"the active one is open still")
    log.close()
    assert disk.open_files == 0


def test_without_a_free_descriptor_old_segments_take_turns(disk, log):
    positions = []
    for number in range(1, 6):
        positions.append(committed(log, b"text %d" % number))
        filled_up(log)
        log.make_room(1)
    log._close_surplus(2)
    assert log.read(positions[0]) == b"text 1"
    open_files = disk.open_files
    for number, position in enumerate(positions[1:], 2):
        # The first try fails; what is open and not needed now makes room for the second.
        disk.faults = Faults(fail_at=0, fail_kinds=("open",), error=errno.EMFILE)
        assert log.read(position) == b"text %d" % number
        assert disk.faults.hits == 1
        assert disk.open_files == open_files
    disk.faults = Faults(fail_at=0, fail_kinds=("open",), error=errno.EMFILE, for_good=True)
    with pytest.raises(BlobUnreadableError, match="Too many open files"):
        log.read(positions[0])


def test_a_nonce_is_never_0(monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    assert module.make_nonce() == 1
