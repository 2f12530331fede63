"""The bytes of the log: what was written reads back, and damage never passes for data."""

from functools import partial
from zlib import crc32

import msgspec
import pytest

from partitions import record as module
from partitions.limits import RECORD_BYTES_MAX
from partitions.record import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    End,
    LogEnd,
    Record,
    SegmentHeader,
    decode_blob_header,
    decode_segment_header,
    encode_blob,
    encode_record,
    encode_segment_header,
    is_zero,
    read_record,
    scan,
)

NONCE = 0xDEADBEEF
HEADER = SegmentHeader(3, 100, 200, 7, 41, 1_800_000_000_000, NONCE, 0x12345678)
EVENTS = [b"one", b"events of two", b"3" * 70, b"four"]


def segment(events: list[bytes] = EVENTS, zeros: int = 100, **changes: int) -> bytes:
    """A segment with a record for each of ``events``."""
    header = msgspec.structs.replace(HEADER, **changes)
    data, prev_crc = encode_segment_header(header), header.prev_crc
    for index, each in enumerate(events):
        record, prev_crc = encode_record(
            lsn=header.first_lsn + index,
            epoch=0,
            written_ms=1000 + index,
            prev_crc=prev_crc,
            nonce=header.nonce,
            blobs=encode_blob(b"text of " + each),
            events=each,
        )
        data += record
    return data + bytes(zeros)


def scanned(data: bytes, header: SegmentHeader = HEADER) -> tuple[list[Record], LogEnd]:
    *found, end = scan(data, header)
    records = [each for each in found if isinstance(each, Record)]
    assert isinstance(end, LogEnd)
    assert len(records) == len(found)
    return records, end


def header_fault(data: bytes) -> str:
    fault = decode_segment_header(data)
    assert isinstance(fault, str)
    return fault


def record_fault(data: bytes, offset: int, nonce: int) -> str:
    fault = read_record(data, offset, nonce)
    assert isinstance(fault, str)
    return fault


# Segment headers ----------------------------------------------------------------------------


def test_a_segment_header_is_64_bytes_and_reads_back():
    data = encode_segment_header(HEADER)
    assert len(data) == SEGMENT_HEADER_BYTES == 64
    assert decode_segment_header(data) == HEADER


def test_a_segment_header_with_any_bit_flipped_is_refused():
    data = encode_segment_header(HEADER)
    for bit in range(len(data) * 8):
        damaged = flipped(data, bit)
        assert isinstance(decode_segment_header(damaged), str), f"bit {bit}"


def test_a_segment_header_that_is_cut_is_refused():
    for size in range(64):
        assert "cut" in header_fault(encode_segment_header(HEADER)[:size])


def test_zeros_and_other_files_are_no_segment():
    assert "magic" in header_fault(bytes(64))
    assert "magic" in header_fault(b"#!/bin/sh\n" * 10)


def test_a_segment_of_a_later_version_is_refused_by_its_version(monkeypatch):
    monkeypatch.setattr(module, "VERSION", 2)
    data = encode_segment_header(HEADER)
    monkeypatch.undo()
    assert "version 2" in header_fault(data)


def test_the_header_stands_as_the_format_says():
    data = encode_segment_header(HEADER)
    assert data[:8] == b"QNODE\xff\xfe\x01"
    assert data[8:12] == b"\x01\0\x40\0"
    numbers = [
        int.from_bytes(data[start:end], "little")
        for start, end in [(12, 16), (16, 20), (20, 24), (24, 32), (32, 40), (40, 48), (48, 52)]
    ]
    assert numbers == [3, 100, 200, 7, 41, 1_800_000_000_000, NONCE]
    assert int.from_bytes(data[52:56], "little") == 0x12345678
    assert int.from_bytes(data[60:], "little") == crc32(data[:60])


# Blobs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"", b"a", "é€😀\0".encode(), bytes(100_000)])
def test_a_blob_is_its_length_its_checksum_and_its_text(text):
    blob = encode_blob(text)
    assert decode_blob_header(blob[:8]) == (len(text), crc32(text))
    assert blob[8:] == text


# Records ------------------------------------------------------------------------------------


def test_a_record_reads_back_with_its_place():
    data, crc = encode_record(
        lsn=9, epoch=2, written_ms=3, prev_crc=4, nonce=5, blobs=encode_blob(b"x"), events=b"ev"
    )
    assert read_record(b"??" + data, 2, 5) == Record(9, 2, 3, crc, 4, 2, 2 + len(data), b"ev")
    assert len(data) == RECORD_HEADER_BYTES + 9 + 2


def test_a_record_of_another_segment_does_not_check():
    data, _ = encode_record(
        lsn=9, epoch=0, written_ms=3, prev_crc=4, nonce=5, blobs=b"", events=b"ev"
    )
    assert isinstance(read_record(data, 0, 5), Record)
    assert "checksum" in record_fault(data, 0, 6)


def test_a_record_that_claims_more_than_any_record_has_is_refused_unread():
    data = bytearray(segment())
    start = SEGMENT_HEADER_BYTES
    data[start + 36 : start + 40] = (RECORD_BYTES_MAX + 1).to_bytes(4, "little")
    assert "at most" in record_fault(bytes(data), start, NONCE)


def test_a_record_beyond_the_bound_is_never_written(monkeypatch):
    # Written, it would be taken for a torn tail at the next start, and cut off.
    monkeypatch.setattr(module, "RECORD_BYTES_MAX", 100)
    encode = partial(encode_record, lsn=1, epoch=0, written_ms=0, prev_crc=0, nonce=0, blobs=b"")
    encode(events=bytes(60))
    with pytest.raises(AssertionError):
        encode(events=bytes(61))


def test_a_scan_gives_every_record_in_order_and_a_clean_end():
    records, end = scanned(segment())
    assert [record.events for record in records] == EVENTS
    assert [record.lsn for record in records] == [41, 42, 43, 44]
    assert [record.written_ms for record in records] == [1000, 1001, 1002, 1003]
    assert (end.kind, end.offset_bytes) == (End.CLEAN, records[-1].end_bytes)


def test_a_segment_without_records_or_zeros_ends_cleanly():
    assert scanned(segment([], zeros=0)) == ([], LogEnd(End.CLEAN, 64, "end of the log"))
    records, end = scanned(segment(zeros=0))
    assert (len(records), end.kind) == (4, End.CLEAN)


def test_any_flipped_bit_is_corruption_and_in_the_last_record_at_worst_a_torn_tail():
    data = segment(zeros=0)
    last = scanned(data)[0][-1]
    for bit in range(SEGMENT_HEADER_BYTES * 8, len(data) * 8):
        records, end = scanned(flipped(data, bit))
        place = bit // 8
        hit = [place < record.end_bytes for record in scanned(data)[0]].index(True)
        assert len(records) == hit, f"bit {bit}"
        expected = End.TORN if place >= last.offset_bytes else End.CORRUPT
        assert end.kind is expected, f"bit {bit}: {end}"


def test_any_byte_set_to_zero_is_found_too():
    data = segment(zeros=0)
    for place in range(SEGMENT_HEADER_BYTES, len(data)):
        damaged = data[:place] + b"\0" + data[place + 1 :]
        if damaged != data:
            records, end = scanned(damaged)
            assert len(records) < len(EVENTS)
            assert end.kind is not End.CLEAN


def test_a_tail_cut_anywhere_gives_the_longest_valid_prefix():
    data = segment(zeros=0)
    ends = [SEGMENT_HEADER_BYTES, *(record.end_bytes for record in scanned(data)[0])]
    for cut in range(SEGMENT_HEADER_BYTES, len(data) + 1):
        whole = max(end for end in ends if end <= cut)
        for zeros in (0, 50):
            records, end = scanned(data[:cut] + bytes(zeros))
            assert len(records) == ends.index(whole)
            assert end.offset_bytes == whole
            assert end.kind is (End.CLEAN if cut == whole else End.TORN)


def test_zeros_in_the_middle_are_corruption_and_name_the_record_behind_them():
    data = bytearray(segment())
    second = scanned(bytes(data))[0][1]
    data[second.offset_bytes : second.end_bytes] = bytes(second.end_bytes - second.offset_bytes)
    records, end = scanned(bytes(data))
    assert len(records) == 1
    assert (end.kind, end.offset_bytes) == (End.CORRUPT, second.offset_bytes)
    assert "43" in end.what


def test_a_record_that_is_missing_swapped_or_doubled_is_corruption():
    data = segment()
    records = scanned(data)[0]
    parts = [data[record.offset_bytes : record.end_bytes] for record in records]
    head = data[:SEGMENT_HEADER_BYTES]
    for order in ([0, 2, 3], [0, 2, 1, 3], [0, 1, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3, 0]):
        found, end = scanned(head + b"".join(parts[each] for each in order) + bytes(20))
        assert end.kind is End.CORRUPT, order
        assert len(found) < len(order)


def test_a_record_that_continues_another_chain_is_corruption():
    data = segment()
    first = scanned(data)[0][0]
    other = segment([b"other", *EVENTS[1:]])
    other_first = scanned(other)[0][0]
    mixed = data[: first.end_bytes] + other[other_first.end_bytes :]
    records, end = scanned(mixed)
    assert len(records) == 1
    assert end.kind is End.CORRUPT
    assert "does not continue" in end.what


def test_a_segment_continues_the_checksum_of_the_one_before():
    header = msgspec.structs.replace(HEADER, prev_crc=1)
    records, end = scanned(segment(), header)
    assert (records, end.kind) == ([], End.CORRUPT)


def test_a_stale_record_of_a_file_used_before_is_a_torn_tail_and_no_record():
    stale = segment(EVENTS, nonce=1)[SEGMENT_HEADER_BYTES:]
    records, end = scanned(segment(zeros=0) + stale)
    assert len(records) == 4
    assert end.kind is End.TORN


def test_the_words_of_an_end_say_what_was_found():
    data = segment(zeros=0)
    assert "checksum" in scanned(data[:-1] + b"?")[1].what
    assert "file ends" in scanned(data[:-1])[1].what


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_is_zero_looks_at_every_byte(size):
    assert is_zero(bytes(size), 0)
    assert is_zero(b"x" + bytes(size), 1)
    assert not is_zero(bytes(size) + b"x", 0)
    assert not is_zero(b"x" + bytes(size), 0)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
