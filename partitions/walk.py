"""Every record of a partition that is only looked at, in order, each checked against the last.

What can be told without a state: segment headers, checksums, the chain of records within a
segment and over segments, seals. Nothing is written, no lock is taken, and one segment is in
memory at a time; so it can be done beside a running node, whose files may then change or go
in the middle (``verify`` looks twice).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from partitions.disk import Disk
from partitions.errors import CorruptLogError
from partitions.files import LoadedSegment, load_segment
from partitions.log import Identity, segment_name
from partitions.record import SEAL_BYTES, End, LogEnd, Record, SegmentHeader, is_zero, scan


def walk(
    disk: Disk, directory: Path, identity: Identity, numbers: Sequence[int]
) -> Iterator[tuple[LoadedSegment, Record | LogEnd]]:
    """Every record of the segments with these ``numbers``, and the end of each segment.

    A number that is left out stands for a segment that was retired: whether that is so, the
    caller must know.

    Raises:
        CorruptLogError: the first thing that does not check.
    """
    chain = _Chain()
    for number in numbers:
        segment = load_segment(disk, directory, number, identity)
        chain.enter(segment)
        for item in scan(segment.data, segment.header):
            if isinstance(item, Record):
                chain.follow(item)
            else:
                chain.leave(segment, item, is_last=number == numbers[-1])
            yield segment, item


class _Chain:
    """Where the next record must continue."""

    def __init__(self) -> None:
        self._before: SegmentHeader | None = None
        self._next_lsn = 1
        self._prev_crc = 0
        self._torn_seal: CorruptLogError | None = None

    def enter(self, segment: LoadedSegment) -> None:
        header, before = segment.header, self._before
        if before is None:
            continues = header.number != 1 or (header.first_lsn, header.prev_crc) == (1, 0)
        elif header.number == before.number + 1:
            continues = (header.first_lsn, header.prev_crc) == (self._next_lsn, self._prev_crc)
        else:
            continues = header.first_lsn >= self._next_lsn
        if not continues:
            what = (
                f"segment begins at lsn {header.first_lsn} and does not continue record"
                f" {self._next_lsn - 1}, the last one before it"
            )
            raise CorruptLogError(segment.path, 0, what)
        self._before = header
        self._next_lsn, self._prev_crc = header.first_lsn, header.prev_crc

    def follow(self, record: Record) -> None:
        if self._torn_seal is not None:
            raise self._torn_seal
        self._next_lsn, self._prev_crc = record.lsn + 1, record.crc

    def leave(self, segment: LoadedSegment, end: LogEnd, *, is_last: bool) -> None:
        fault = CorruptLogError(segment.path, end.offset_bytes, end.what)
        if end.kind is End.CORRUPT:
            raise fault
        if is_last and end.kind is End.SEALED:
            path = segment.path.with_name(segment_name(segment.header.number + 1))
            what = (
                f"segment is missing: {segment.path.name} is sealed, so it was followed by this one"
            )
            raise CorruptLogError(path, 0, what)
        if self._torn_seal is not None and not is_last:
            raise self._torn_seal
        if end.kind is End.TORN and not is_last:
            if not is_zero(segment.data, end.offset_bytes + SEAL_BYTES):
                raise fault
            # A crash may have cut a seal; then nothing was written behind it yet.
            self._torn_seal = fault
