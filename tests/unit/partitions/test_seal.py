"""A segment that another one follows says so: a newest segment that is gone is missed."""

import pytest

from partitions.errors import CorruptLogError
from partitions.log import segment_name
from partitions.record import (
    SEAL_BYTES,
    SEGMENT_HEADER_BYTES,
    End,
    LogEnd,
    Record,
    SegmentHeader,
    decode_segment_header,
    encode_seal,
    scan,
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
    jobs_of,
)
from tests.support.fake_disk import FakeDisk, Faults, Halted, survivals


def path_of(number: int):
    return DIRECTORY / segment_name(number)


def scanned(disk: FakeDisk, number: int) -> tuple[SegmentHeader, list[Record], LogEnd]:
    content = disk.content(path_of(number))
    header = decode_segment_header(content[:SEGMENT_HEADER_BYTES])
    assert isinstance(header, SegmentHeader)
    *records, end = scan(content, header)
    assert isinstance(end, LogEnd)
    return header, [each for each in records if isinstance(each, Record)], end


def rolled(disk: FakeDisk, segments: int) -> Driver:
    """A partition whose log has just begun its segment number ``segments``; that is empty."""
    driver = Driver(disk)
    index = 0
    while driver.log.tail_segment < segments:
        driver.handle([enqueue(index)], START_MS)
        driver.make_room(START_MS)
        index += 1
    return driver


def refusal(disk: FakeDisk) -> CorruptLogError:
    with pytest.raises(CorruptLogError) as caught:
        recover(disk, DIRECTORY, IDENTITY, PartitionState(), SMALL)
    return caught.value


def test_every_segment_but_the_last_ends_in_a_seal_that_names_the_next_record():
    disk = FakeDisk()
    rolled(disk, 4)
    for number in (1, 2, 3):
        _, records, end = scanned(disk, number)
        assert end.kind is End.SEALED
        assert end.offset_bytes == records[-1].end_bytes
        assert scanned(disk, number + 1)[0].first_lsn == records[-1].lsn + 1
    assert scanned(disk, 4)[2].kind is End.CLEAN


def test_the_next_segment_is_durable_before_the_seal_and_the_seal_before_a_record():
    disk = FakeDisk()
    driver = rolled(disk, 2)
    kinds = [(each.kind, each.path.name.removesuffix(".tmp")) for each in disk.operations[-3:]]
    one, two = segment_name(1), segment_name(2)
    assert kinds == [("sync_directory", DIRECTORY.name), ("write", one), ("sync", one)]
    driver.handle([enqueue(1000)], START_MS)
    assert disk.operations[-1].path.name.removesuffix(".tmp") == two


def test_without_the_newest_segment_there_is_no_start():
    disk = FakeDisk()
    driver = rolled(disk, 3)
    driver.handle([enqueue(1000)], START_MS)
    disk.remove(path_of(3))
    error = refusal(disk)
    assert error.path == path_of(3)
    assert "segment is missing" in error.what
    assert segment_name(2) in error.what


def test_without_the_two_newest_segments_there_is_no_start_either():
    disk = FakeDisk()
    rolled(disk, 3)
    disk.remove(path_of(3))
    disk.remove(path_of(2))
    assert refusal(disk).path == path_of(2)


def test_any_bit_flipped_in_a_seal_is_refused_once_a_record_is_behind_it():
    disk = FakeDisk()
    driver = rolled(disk, 2)
    driver.handle([enqueue(1000)], START_MS)
    offset = scanned(disk, 1)[2].offset_bytes
    whole = disk.content(path_of(1))
    for bit in range(offset * 8, (offset + SEAL_BYTES) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        disk.put(path_of(1), bytes(damaged))
        error = refusal(disk)
        assert (error.path, error.offset_bytes) == (path_of(1), offset)


def test_a_damaged_last_record_of_a_sealed_segment_is_no_torn_tail():
    disk = FakeDisk()
    rolled(disk, 2)
    disk.remove(path_of(2))
    _, records, _ = scanned(disk, 1)
    content = bytearray(disk.content(path_of(1)))
    content[records[-1].offset_bytes + 50] ^= 1
    disk.put(path_of(1), bytes(content))
    _, _, end = scanned(disk, 1)
    assert end.kind is End.CORRUPT
    assert "sealed" in end.what


def test_a_crash_at_any_operation_of_a_roll_and_of_the_start_after_it_is_made_good():
    whole = FakeDisk()
    rolled(whole, 2)
    length = len(whole.operations)
    seals: set[End] = set()
    for at in range(length - 8, length + 1):
        disk = FakeDisk(Faults(halt_at=at))
        with pytest.raises(Halted):
            rolled(disk, 3)
        for survival in survivals(seed=at):
            _start_cut_short(disk.crash(survival), seals)
    assert {End.CLEAN, End.SEALED} <= seals


def _start_cut_short(left: FakeDisk, seals: set[End]) -> None:
    """Stop the start at each of its operations, too; the next one finds every job."""
    for again in range(12):
        disk = left.crash(survivals(seed=again)[1])
        disk.faults = Faults(halt_at=again)
        try:
            Driver(disk)
        except Halted:
            disk = disk.crash(survivals(seed=again)[4])
        else:
            again = 12
        disk.faults = Faults()
        found = Driver(disk)
        found.handle([enqueue(2000)], START_MS)
        jobs = set(jobs_of(found.state))
        assert jobs == {job_id(index) for index in range(len(jobs) - 1)} | {job_id(2000)}
        if len(disk.names(DIRECTORY)) == 2:
            assert scanned(disk, 1)[2].kind is End.SEALED
        seals.add(scanned(disk, 1)[2].kind)
        found.close()
        assert set(jobs_of(Driver(disk).state)) == jobs


def test_a_log_without_seals_starts_and_gets_its_last_one():
    disk = FakeDisk()
    driver = rolled(disk, 4)
    driver.handle([enqueue(1000)], START_MS)
    jobs = len(driver.state)
    for number in (1, 2, 3):
        _, records, _ = scanned(disk, number)
        content = disk.content(path_of(number))
        end = records[-1].end_bytes
        disk.put(path_of(number), content[:end] + bytes(len(content) - end))
        assert scanned(disk, number)[2].kind is End.CLEAN
    assert len(Driver(disk).state) == jobs
    assert [scanned(disk, number)[2].kind for number in (2, 3)] == [End.CLEAN, End.SEALED]


def test_a_segment_without_zeros_to_spare_is_left_without_a_seal():
    disk = FakeDisk()
    driver = rolled(disk, 2)
    tail = driver.log._tail
    while tail.offset_bytes < SMALL.segment_bytes:
        driver.handle([enqueue(1000 + driver.log.next_lsn)], START_MS)
    tail.zeros_end_bytes = tail.offset_bytes + SEAL_BYTES - 1
    driver.make_room(START_MS)
    assert driver.log.tail_segment == 3
    assert scanned(disk, 2)[2].kind is End.CLEAN
    assert len(Driver(disk).state) == len(driver.state)


def test_a_seal_of_another_chain_or_with_something_behind_it_is_none():
    disk = FakeDisk()
    rolled(disk, 2)
    header, records, end = scanned(disk, 1)
    content = disk.content(path_of(1))
    last = records[-1]
    for prev_crc, next_lsn in ((last.crc ^ 1, last.lsn + 1), (last.crc, last.lsn + 2)):
        seal = encode_seal(prev_crc=prev_crc, next_lsn=next_lsn, nonce=header.nonce)
        changed = content[: end.offset_bytes] + seal
        *_, found = scan(changed, header)
        assert isinstance(found, LogEnd)
        assert found.kind is End.CORRUPT
    *_, found = scan(content[: end.offset_bytes + SEAL_BYTES] + b"x", header)
    assert isinstance(found, LogEnd)
    assert found.kind is End.CORRUPT
