"""Recovery: the state is back, or the log is refused and left as it was."""

from pathlib import Path

import msgspec
import pytest

from partitions.errors import CorruptLogError
from partitions.events import (
    BackoffOver,
    JobAcked,
    JobEnqueued,
    JobExpired,
    JobFailed,
    JobForgotten,
    JobLeased,
    JobReleased,
    JobRetried,
    LeaseExpired,
    LeaseExtended,
    OutcomeMoved,
)
from partitions.log import Identity, Sizes, segment_name
from partitions.messages import Ack, Get, JobView, Lease, Leased
from partitions.record import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    decode_segment_header,
    encode_record,
    encode_segment_header,
)
from partitions.recovery import recover
from partitions.state import PartitionState
from tests.support.driver import (
    DIRECTORY,
    IDENTITY,
    SMALL,
    START_MS,
    Driver,
    enqueue,
    job_id,
    snapshot,
)
from tests.support.fake_disk import FakeDisk, Faults, Survival

LOST = Survival("lost", pages=0, entries=0)


JOBS = 90


def filled_disk(jobs: int = JOBS) -> FakeDisk:
    """Some segments with jobs, one batch for each three."""
    disk = FakeDisk()
    driver = Driver(disk)
    for index in range(0, jobs, 3):
        driver.handle(
            [enqueue(index + n, b"p" * (index + n + 1)) for n in range(3)], START_MS + index
        )
        driver.make_room(START_MS + index)
    driver.close()
    assert len(disk.names(DIRECTORY)) >= 4
    return disk


def path_of(number: int) -> Path:
    return DIRECTORY / segment_name(number)


def header_of(disk: FakeDisk, number: int) -> SegmentHeader:
    header = decode_segment_header(disk.content(path_of(number))[:SEGMENT_HEADER_BYTES])
    assert isinstance(header, SegmentHeader)
    return header


def content_of(disk: FakeDisk) -> dict[str, bytes]:
    return {name: disk.content(DIRECTORY / name) for name in disk.names(DIRECTORY)}


def refusal(disk: FakeDisk, identity: Identity = IDENTITY) -> CorruptLogError:
    """The fault of a start, which must not have touched the disk."""
    before, operations = content_of(disk), len(disk.operations)
    with pytest.raises(CorruptLogError) as caught:
        recover(disk, DIRECTORY, identity, PartitionState(), SMALL)
    assert content_of(disk) == before
    assert len(disk.operations) == operations
    assert disk.open_files == 0
    return caught.value


def changed(disk: FakeDisk, number: int, offset: int, data: bytes) -> None:
    content = bytearray(disk.content(path_of(number)))
    content[offset : offset + len(data)] = data
    disk.put(path_of(number), bytes(content))


# What comes back ----------------------------------------------------------------------------


def test_an_empty_directory_becomes_an_empty_log():
    disk = FakeDisk()
    driver = Driver(disk)
    assert (len(driver.state), driver.log.next_lsn) == (0, 1)
    assert driver.found == msgspec.structs.replace(
        driver.found, records=0, segments=0, torn_bytes=0, newest_ms=0
    )


def test_all_segments_are_replayed_in_order():
    disk = filled_disk()
    segments = len(disk.names(DIRECTORY))
    driver = Driver(disk)
    assert len(driver.state) == driver.state.ready == JOBS
    assert driver.found.records == JOBS // 3
    assert driver.found.segments == segments
    assert driver.log.next_lsn == JOBS // 3 + 1
    for index in range(JOBS):
        assert driver.payload(job_id(index)) == b"p" * (index + 1)
    replies = driver.handle([Lease(10)] * JOBS, START_MS + 100)
    leased = [reply.job_id for reply in replies if isinstance(reply, Leased)]
    assert leased == [job_id(index) for index in range(JOBS)]


def test_the_newest_time_is_that_of_the_last_record_or_of_a_younger_segment():
    driver = Driver(filled_disk())
    assert driver.found.newest_ms == START_MS + JOBS - 3
    disk = FakeDisk()
    first = Driver(disk)
    while first.log._tail.offset_bytes < SMALL.segment_bytes:
        first.handle([enqueue(first.log.next_lsn)], START_MS)
    first.make_room(START_MS + 1_000)
    assert Driver(disk).found.newest_ms == START_MS + 1_000


def test_starting_again_and_again_changes_nothing():
    disk = filled_disk()
    first = snapshot(Driver(disk).state)
    content = content_of(disk)
    for _ in range(3):
        assert snapshot(Driver(disk).state) == first
        assert content_of(disk) == content


def test_what_is_written_after_a_start_continues_what_was_there_before():
    disk = filled_disk()
    for start in range(5):
        driver = Driver(disk)
        driver.handle([enqueue(1000 + start)], START_MS + 200)
        driver.make_room(START_MS + 200)
    assert len(Driver(disk).state) == JOBS + 5


def test_a_lease_and_an_ack_are_there_after_a_start():
    disk = FakeDisk()
    driver = Driver(disk)
    driver.handle([enqueue(1, b"p1"), enqueue(2, b"p2")], START_MS)
    first, second = driver.handle([Lease(10_000), Lease(10_000)], START_MS)
    assert isinstance(first, Leased)
    assert isinstance(second, Leased)
    driver.handle([Ack(first.job_id, first.lease_token, b"done")], START_MS)
    again = Driver(disk.crash(LOST))
    views = again.handle([Get(job_id(1)), Get(job_id(2))], START_MS + 1)
    assert [
        (view.state, view.result, view.lease_until_ms)
        for view in views
        if isinstance(view, JobView)
    ] == [
        ("ACKED", b"done", None),
        ("RUNNING", None, START_MS + 10_000),
    ]


# The copy of the tail -----------------------------------------------------------------------


def test_every_start_writes_the_last_segment_anew_before_it_serves():
    disk = filled_disk()
    before = len(disk.operations)
    last = disk.names(DIRECTORY)[-1]
    old = disk._inode(DIRECTORY / last)
    Driver(disk)
    kinds = [operation.kind for operation in disk.operations[before:]]
    assert kinds == ["create", "write", "write", "sync", "rename", "sync_directory"]
    assert disk._inode(DIRECTORY / last) is not old


def test_the_copy_holds_the_same_bytes_at_the_same_places_and_zeros_behind_them():
    disk = filled_disk()
    path = DIRECTORY / disk.names(DIRECTORY)[-1]
    before = disk.content(path)
    end = len(before.rstrip(b"\0"))
    driver = Driver(disk)
    after = disk.content(path)
    assert after[:end] == before[:end]
    assert after[driver.log._tail.offset_bytes :] == bytes(SMALL.extent_bytes)


def test_a_start_that_cannot_write_the_copy_does_not_serve():
    disk = filled_disk()
    for kind in ("create", "write", "sync", "rename", "sync_directory"):
        disk.faults = Faults(fail_at=0, fail_kinds=(kind,))
        with pytest.raises(OSError, match="Input/output"):
            Driver(disk)
    disk.faults = Faults()
    assert len(Driver(disk).state) == JOBS


def test_left_over_temporary_files_go():
    disk = filled_disk()
    disk.put(DIRECTORY / "0000000099.seg.tmp", b"half")
    assert len(Driver(disk).state) == JOBS
    assert all(name.endswith(".seg") for name in disk.names(DIRECTORY))


def test_a_torn_tail_is_counted_and_gone_at_the_next_start():
    disk = filled_disk()
    number = len(disk.names(DIRECTORY))
    end = Driver(disk).log._tail.offset_bytes
    changed(disk, number, end, b"\xff\xfeQR torn")
    driver = Driver(disk)
    assert driver.found.torn_bytes == 9
    assert len(driver.state) == JOBS
    assert Driver(disk).found.torn_bytes == 0


# Refusals -----------------------------------------------------------------------------------


def test_a_gap_in_the_numbers_is_refused():
    disk = filled_disk()
    disk.remove(path_of(3))
    error = refusal(disk)
    assert error.path == path_of(3)
    assert "missing" in error.what


def test_a_missing_first_segment_is_refused():
    disk = filled_disk()
    disk.remove(path_of(1))
    error = refusal(disk)
    assert error.path == path_of(1)
    assert "first segment is missing" in error.what


@pytest.mark.parametrize(
    "name", ["notes.txt", "1.seg", "0000000001.seg.bak", "00000000001.seg", ".seg", "core"]
)
def test_a_foreign_file_is_refused(name):
    disk = filled_disk()
    disk.put(DIRECTORY / name, b"?")
    error = refusal(disk)
    assert error.path == DIRECTORY / name
    assert "not a file of the log" in error.what


@pytest.mark.parametrize("identity", [Identity(1, 0, 65_536), Identity(0, 0, 32_768)])
def test_a_segment_of_another_partition_is_refused(identity):
    error = refusal(filled_disk(), identity)
    assert "segment of partition 0 (slots 0..65535)" in error.what


def test_a_segment_under_another_name_is_refused():
    disk = filled_disk()
    disk.put(path_of(3), disk.content(path_of(2)))
    assert "under another name" in refusal(disk).what


def test_a_segment_that_does_not_continue_the_one_before_it_is_refused():
    disk, other = filled_disk(), filled_disk(JOBS + 30)
    disk.put(path_of(3), other.content(path_of(3)))
    error = refusal(disk)
    assert error.path == path_of(3)
    assert "does not continue" in error.what


@pytest.mark.parametrize("place", [0, 9, 13, 20, 30, 45, 62])
@pytest.mark.parametrize("number", [1, 2, -1])
def test_a_damaged_segment_header_is_refused_in_any_segment(number, place):
    disk = filled_disk()
    number = number if number > 0 else len(disk.names(DIRECTORY))
    content = disk.content(path_of(number))
    changed(disk, number, place, bytes([content[place] ^ 1]))
    error = refusal(disk)
    assert (error.path, error.offset_bytes) == (path_of(number), 0)


@pytest.mark.parametrize("size", [0, 1, 63])
def test_a_segment_cut_within_its_header_is_refused(size):
    disk = filled_disk()
    disk.put(path_of(2), disk.content(path_of(2))[:size])
    assert "cut" in refusal(disk).what


def test_a_torn_tail_in_any_segment_but_the_last_is_refused():
    disk = filled_disk()
    content = disk.content(path_of(2))
    end = len(content.rstrip(b"\0"))
    changed(disk, 2, end - 5, bytes(5))
    error = refusal(disk)
    assert error.path == path_of(2)
    assert SEGMENT_HEADER_BYTES < error.offset_bytes < end


def test_a_whole_record_missing_from_the_end_of_a_segment_is_refused():
    disk = filled_disk()
    content = disk.content(path_of(2))
    start = content.rindex(b"\xff\xfeQR")
    changed(disk, 2, start, bytes(len(content) - start))
    error = refusal(disk)
    assert error.path == path_of(3)
    assert "does not continue" in error.what


def test_any_byte_flipped_in_any_record_before_the_last_is_refused():
    disk = FakeDisk()
    driver = Driver(disk)
    for index in range(4):
        last = driver.log._tail.offset_bytes
        driver.handle([enqueue(index)], START_MS)
    whole = disk.content(path_of(1))
    for place in range(SEGMENT_HEADER_BYTES, last):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        other = FakeDisk()
        other.make_directory(DIRECTORY)
        other.put(path_of(1), bytes(damaged))
        assert refusal(other).offset_bytes <= place


@pytest.mark.parametrize(
    "events",
    [
        b"",
        b"\xc1",
        b"\x91\x92\x7f\x01",
        b"\x90\x90",
        b"\x91\x96\x01\xc4\x10" + bytes(16) + b"\x01\x01\x01\xa1\xff",
    ],
    ids=["nothing", "no msgpack", "unknown event", "two arrays", "owner is not UTF-8"],
)
def test_a_valid_record_whose_events_are_none_of_ours_is_refused(events):
    disk = FakeDisk()
    Driver(disk).close()
    header = header_of(disk, 1)
    record, _ = encode_record(
        lsn=1, epoch=0, written_ms=0, prev_crc=0, nonce=header.nonce, blobs=b"", events=events
    )
    changed(disk, 1, SEGMENT_HEADER_BYTES, record)
    error = refusal(disk)
    assert error.offset_bytes == SEGMENT_HEADER_BYTES
    assert "cannot be read" in error.what


def test_a_later_version_is_refused_by_its_number(monkeypatch):
    disk = filled_disk()
    header = header_of(disk, 1)
    monkeypatch.setattr("partitions.record.VERSION", 9)
    later = encode_segment_header(header)
    monkeypatch.undo()
    changed(disk, 1, 0, later)
    assert "version 9" in refusal(disk).what


def test_default_sizes_are_those_of_the_limits():
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    recover(disk, DIRECTORY, IDENTITY, PartitionState())
    assert len(disk.content(path_of(1))) == SEGMENT_HEADER_BYTES + Sizes().extent_bytes


@pytest.mark.parametrize(
    "event",
    [
        JobAcked(job_id(7), START_MS, 0),
        JobForgotten(job_id(7)),
        JobLeased(job_id(7), 1, START_MS),
        LeaseExtended(job_id(7), START_MS, b""),
        # It is there, and is neither running nor finished.
        LeaseExtended(job_id(1), START_MS, b"1"),
        JobReleased(job_id(1), 0),
        JobRetried(job_id(1)),
        JobAcked(job_id(1), START_MS, 0),
        JobFailed(job_id(1), START_MS, 0, 0),
        LeaseExpired(job_id(1), START_MS, dead=False),
        BackoffOver(job_id(1)),
        JobExpired(job_id(1), START_MS),
        JobEnqueued(job_id(1), 0, 3, START_MS, "", b""),
        OutcomeMoved(job_id(1), 1 << 40),
    ],
)
def test_a_record_that_cannot_have_happened_is_refused_and_named(event):
    disk = FakeDisk()
    driver = Driver(disk)
    driver.handle([enqueue(1)], START_MS)
    driver.log.commit([event], START_MS)
    driver.close()
    before = content_of(disk)
    with pytest.raises(CorruptLogError, match="record 2 does not fit the jobs that are there"):
        Driver(disk.restarted())
    assert content_of(disk) == before
