"""From the files of a partition to its state and an open log.

1. Left-over ``*.tmp`` files go: they were never part of the log. Any other foreign name,
   a gap in the numbers, a segment of another partition: corruption, nothing is touched.
2. Every record of every segment is replayed through ``PartitionState.evolve``. Only the
   last segment may end in a torn tail.
3. The valid part of the last segment is copied into a new file, synced, and put in its
   place, at **every** start: after a sync that failed, the page cache may show bytes that
   the disk lacks, so reading them back proves nothing; writing them anew does. Offsets stay
   the same, and so do all positions.

Only then does the partition serve.
"""

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from partitions.disk import Disk
from partitions.errors import CorruptLogError
from partitions.events import decode_events
from partitions.log import Identity, Log, Sizes, Tail, create_segment, segment_name
from partitions.record import (
    SEGMENT_HEADER_BYTES,
    End,
    LogEnd,
    Record,
    SegmentHeader,
    decode_segment_header,
    scan,
)
from partitions.state import PartitionState

_SEGMENT_NAME: Final = re.compile(r"(\d{10})\.seg")
_SIZES: Final = Sizes()
_TEMPORARY_NAME: Final = re.compile(r"\d{10}\.seg\.tmp")


class Recovered(msgspec.Struct, frozen=True):
    """What a start found."""

    log: Log
    records: int
    segments: int
    torn_bytes: int
    """Bytes of a torn tail that were cut off; 0 after a quiet end."""
    newest_ms: int
    """Newest time in the log: the clock must not go below it."""


class _Segment(msgspec.Struct, frozen=True):
    path: Path
    header: SegmentHeader
    data: bytes


def recover(
    disk: Disk,
    directory: Path,
    identity: Identity,
    state: PartitionState,
    sizes: Sizes = _SIZES,
) -> Recovered:
    """Bring ``state``, which is fresh, to where the log ends, and open the log there.

    Raises:
        CorruptLogError: the log does not check; nothing was changed.
        OSError: a file could not be read, or the copy not written.
    """
    numbers = _segment_numbers(disk, directory)
    next_lsn, prev_crc, newest_ms, records = 1, 0, 0, 0
    last: _Segment | None = None
    end: LogEnd | None = None
    for number in numbers:
        last = _load(disk, directory, number, identity)
        _check_continues(last, next_lsn, prev_crc)
        newest_ms = max(newest_ms, last.header.created_ms)
        for item in _replay(last, state, is_last=number == numbers[-1]):
            if isinstance(item, LogEnd):
                end = item
            else:
                next_lsn, prev_crc = item.lsn + 1, item.crc
                newest_ms = max(newest_ms, item.written_ms)
                records += 1
    if last is None or end is None:
        tail = _first_tail(disk, directory, identity, sizes)
        return Recovered(Log(disk, directory, identity, tail, sizes), 0, 0, 0, 0)
    tail = _copied_tail(disk, directory, last, end, next_lsn, prev_crc, sizes)
    log = Log(disk, directory, identity, tail, sizes)
    return Recovered(log, records, len(numbers), _torn_bytes(last, end), newest_ms)


def _segment_numbers(disk: Disk, directory: Path) -> list[int]:
    numbers: list[int] = []
    leftovers: list[Path] = []
    for name in disk.names(directory):
        if match := _SEGMENT_NAME.fullmatch(name):
            numbers.append(int(match[1]))
        elif _TEMPORARY_NAME.fullmatch(name):
            leftovers.append(directory / name)
        else:
            raise CorruptLogError(
                directory / name, 0, "not a file of the log; move it away if you put it there"
            )
    for before, after in itertools.pairwise(numbers):
        if after != before + 1:
            raise CorruptLogError(
                directory / segment_name(before + 1), 0, "segment is missing between its neighbours"
            )
    if numbers and numbers[0] != 1:
        raise CorruptLogError(directory / segment_name(1), 0, "first segment is missing")
    for path in leftovers:
        disk.remove(path)
    return numbers


def _load(disk: Disk, directory: Path, number: int, identity: Identity) -> _Segment:
    path = directory / segment_name(number)
    file = disk.open(path)
    try:
        data = file.read(file.size(), 0)
    finally:
        file.close()
    header = decode_segment_header(data[:SEGMENT_HEADER_BYTES])
    if isinstance(header, str):
        raise CorruptLogError(path, 0, header)
    if header.number != number:
        raise CorruptLogError(path, 0, f"this is segment {header.number} under another name")
    owner = Identity(header.partition, header.slot_first, header.slot_end)
    if owner != identity:
        raise CorruptLogError(
            path,
            0,
            f"segment of partition {owner.partition} (slots {owner.slot_first}.."
            f"{owner.slot_end - 1}), not of partition {identity.partition}",
        )
    return _Segment(path, header, data)


def _check_continues(segment: _Segment, next_lsn: int, prev_crc: int) -> None:
    header = segment.header
    if header.first_lsn != next_lsn or header.prev_crc != prev_crc:
        raise CorruptLogError(
            segment.path,
            0,
            f"segment begins at lsn {header.first_lsn} and does not continue record {next_lsn - 1},"
            " the last one before it",
        )


def _replay(
    segment: _Segment, state: PartitionState, *, is_last: bool
) -> Iterator[Record | LogEnd]:
    for item in scan(segment.data, segment.header):
        if isinstance(item, LogEnd):
            if item.kind is End.CORRUPT or (item.kind is End.TORN and not is_last):
                raise CorruptLogError(segment.path, item.offset_bytes, item.what)
        else:
            try:
                events = decode_events(item.events)
            except msgspec.MsgspecError as error:
                what = f"record {item.lsn} holds events that cannot be read: {error}"
                raise CorruptLogError(segment.path, item.offset_bytes, what) from error
            for event in events:
                state.evolve(event)
        yield item


def _first_tail(disk: Disk, directory: Path, identity: Identity, sizes: Sizes) -> Tail:
    header = SegmentHeader(
        partition=identity.partition,
        slot_first=identity.slot_first,
        slot_end=identity.slot_end,
        number=1,
        first_lsn=1,
        created_ms=0,
        nonce=int.from_bytes(os.urandom(4), "little"),
        prev_crc=0,
    )
    file, zeros_end = create_segment(disk, directory, header, sizes.extent_bytes)
    return Tail(header, file, SEGMENT_HEADER_BYTES, zeros_end, 1, 0)


def _copied_tail(
    disk: Disk,
    directory: Path,
    last: _Segment,
    end: LogEnd,
    next_lsn: int,
    prev_crc: int,
    sizes: Sizes,
) -> Tail:
    records = last.data[SEGMENT_HEADER_BYTES : end.offset_bytes]
    file, zeros_end = create_segment(disk, directory, last.header, sizes.extent_bytes, records)
    return Tail(last.header, file, end.offset_bytes, zeros_end, next_lsn, prev_crc)


def _torn_bytes(last: _Segment, end: LogEnd) -> int:
    if end.kind is not End.TORN:
        return 0
    return len(last.data[end.offset_bytes :].rstrip(b"\0"))
