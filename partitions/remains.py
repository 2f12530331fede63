"""What is left of a damaged partition: its jobs, and where the log has gaps. Only read.

The newest snapshot that checks is the beginning, so damage behind it costs no knowledge of any
job (a text may still be unreadable: ``rebuild`` finds out). From there every record that is
proven (``salvage``) is followed (``rescue``); where lsns are missing, there is a **gap**.

Files count by what their headers say, not by their names: a segment under another name is put
in its place, one of another partition is set aside. A disk that cannot read a sector gives
zeros for it.

Where a log without damage ends, a start would cut a torn tail; so it is here. The log is known
to have gone on, and then has an open gap at its end, when its last segment is sealed or has no
readable header, or a snapshot covers more than there is.
"""

from collections.abc import Generator, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final

import msgspec

from partitions.disk import Disk, File
from partitions.events import decode_events
from partitions.files import Files, list_files
from partitions.job import Job
from partitions.kinds import NumberedKind
from partitions.log import Identity, segment_name
from partitions.record import (
    SEGMENT_HEADER_BYTES,
    Record,
    SegmentHeader,
    decode_segment_header,
    find_seal,
    is_zero,
)
from partitions.rescue import Rescue
from partitions.salvage import guess_nonce, records_in
from partitions.snapshot import (
    BadSnapshotError,
    SnapshotHead,
    check_whole,
    frames,
    snapshot_name,
)

_PIECE_BYTES: Final = 1 << 20
_SECTOR_BYTES: Final = 4096
_RECORDS_PER_STEP: Final = 256


class Gap(msgspec.Struct, frozen=True):
    """Records that are missing, and where they should be."""

    first_lsn: int
    last_lsn: int | None
    """None: nobody knows how many there were."""
    file: str
    offset: int


class Remains(msgspec.Struct):
    """A partition as far as it can still be read."""

    identity: Identity
    rescue: Rescue
    gaps: list[Gap]
    notes: list[str]
    """What was found and left out, in words."""
    paths: dict[int, Path]
    """Segments by their numbers."""
    last_lsn: int = 0
    """The highest that any file knows of."""
    last_segment: int = 0
    newest_ms: int = 0
    torn_bytes: int = 0


class _Segment(msgspec.Struct, frozen=True):
    number: int
    path: Path
    header: SegmentHeader | None
    """None: damaged."""


def gathering(disk: Disk, directory: Path, identity: Identity) -> Generator[float, None, Remains]:
    """Read all that is left; yields how much is done, from 0 to 1."""
    remains = Remains(identity, Rescue(), [], [], {})
    try:
        files = list_files(disk, directory)
    except FileNotFoundError:
        files = Files([], [], [], [])
        remains.notes.append(f"{directory.name}: the directory is missing")
    remains.notes += [f"{path.name}: not a file of the log, left out" for path in files.foreign]
    snapshot = _restore(disk, directory, files, remains)
    segments = _segments(disk, directory, files, remains)
    remains.paths = {segment.number: segment.path for segment in segments}
    remains.last_segment = max([0, *files.segments, *remains.paths])
    yield from _Follower(disk, directory, remains, snapshot).run(segments)
    return remains


# Snapshots ----------------------------------------------------------------------------------


def _restore(disk: Disk, directory: Path, files: Files, remains: Remains) -> SnapshotHead | None:
    """Begin with the newest snapshot that checks."""
    for lsn in reversed(files.snapshots):
        # A bad one still says by its name how far the log went.
        path = directory / snapshot_name(lsn)
        try:
            head, kinds, jobs, claims = _whole_snapshot(disk, path)
        except (BadSnapshotError, OSError) as error:
            remains.last_lsn = max(remains.last_lsn, lsn)
            remains.notes.append(f"{path.name}: bad snapshot, left out: {_words(error)}")
            continue
        if Identity(head.partition, head.slot_first, head.slot_end) != remains.identity:
            remains.notes.append(f"{path.name}: of partition {head.partition}, left out")
            continue
        remains.last_lsn = max(remains.last_lsn, head.lsn)
        remains.newest_ms = head.newest_ms
        remains.rescue.restore(head.state, kinds, jobs, claims)
        return head
    return None


def _whole_snapshot(
    disk: Disk, path: Path
) -> tuple[SnapshotHead, list[NumberedKind], list[Job], dict[bytes, int]]:
    kinds: list[NumberedKind] = []
    jobs: list[Job] = []
    claims: dict[bytes, int] = {}
    parts = frames(disk, path)
    head, _ = next(parts)
    for _, piece in parts:
        kinds += piece.kinds
        jobs += piece.jobs
        claims |= piece.claims
    check_whole(path, head.state, len(jobs), len(claims))
    return head, kinds, jobs, claims


def _words(error: BadSnapshotError | OSError) -> str:
    return error.what if isinstance(error, BadSnapshotError) else str(error.strerror)


# Segments -----------------------------------------------------------------------------------


def _segments(disk: Disk, directory: Path, files: Files, remains: Remains) -> list[_Segment]:
    """The segments of this partition in order; a name is believed where a header cannot be."""
    found: dict[int, _Segment] = {}
    nameless: list[_Segment] = []
    for number in files.segments:
        path = directory / segment_name(number)
        header = decode_segment_header(_read(disk, path, SEGMENT_HEADER_BYTES))
        if isinstance(header, str):
            remains.notes.append(f"{path.name}: {header}")
            nameless.append(_Segment(number, path, None))
        elif Identity(header.partition, header.slot_first, header.slot_end) != remains.identity:
            remains.notes.append(f"{path.name}: of partition {header.partition}, left out")
        else:
            if header.number != number:
                remains.notes.append(f"{path.name}: this is segment {header.number}")
            if header.number == number or header.number not in found:
                found[header.number] = _Segment(header.number, path, header)
    for segment in nameless:
        found.setdefault(segment.number, segment)
    return [found[number] for number in sorted(found)]


def _read(disk: Disk, path: Path, size: int | None = None) -> bytes:
    """The file, or its first bytes; zeros where the disk cannot read it."""
    file = disk.open(path)
    try:
        wanted = min(file.size(), size or file.size())
        parts = []
        for start in range(0, wanted, _PIECE_BYTES):
            length = min(_PIECE_BYTES, wanted - start)
            try:
                parts.append(file.read(length, start))
            except OSError:
                parts += [
                    _sector(file, min(_SECTOR_BYTES, start + length - at), at)
                    for at in range(start, start + length, _SECTOR_BYTES)
                ]
        return b"".join(parts)
    finally:
        file.close()


def _sector(file: File, size: int, offset: int) -> bytes:
    try:
        return file.read(size, offset)
    except OSError:
        return bytes(size)


class _Follower:
    """Follows the records, segment by segment."""

    def __init__(
        self, disk: Disk, directory: Path, remains: Remains, snapshot: SnapshotHead | None
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._remains = remains
        self._snapshot_lsn = remains.last_lsn
        self._next_lsn = 1 if snapshot is None else snapshot.lsn + 1
        self._prev_crc = 0 if snapshot is None else None
        self._number = 0 if snapshot is None else snapshot.segment - 1
        """The segment that was read last; the one before the first that is needed."""
        self._offset = 0
        """Where the last record in it ended."""
        self._seen_lsn = 0

    def run(self, segments: list[_Segment]) -> Iterator[float]:
        needed = [
            segment
            for segment, later in zip_longest(segments, segments[1:])
            if not self._is_covered(later)
        ]
        first, went_on = self._number + 1, False
        for index, segment in enumerate(needed):
            data = _read(self._disk, segment.path)
            yield index / len(needed)
            is_last = segment is needed[-1]
            nonce = self._enter(segment, data)
            if nonce is not None:
                self._read_records(data, nonce, is_last=is_last)
            went_on = is_last and self._goes_on(segment, data, nonce)
        if not needed or needed[-1].number < first:
            self._number, self._offset, went_on = first, 0, True
        if went_on or self._seen_lsn < self._snapshot_lsn:
            self._gap(None)
        self._remains.last_lsn = max(self._remains.last_lsn, self._next_lsn - 1)

    def _is_covered(self, later: _Segment | None) -> bool:
        """Whether the segment before ``later`` has nothing that is not known already."""
        if later is None or later.header is None:
            return False
        return later.header.first_lsn <= self._next_lsn and self._prev_crc is None

    def _enter(self, segment: _Segment, data: bytes) -> int | None:
        """Go on in the next segment; its nonce, None when nobody knows it."""
        header = segment.header
        if header is None:
            expected = None if self._prev_crc is None else (self._next_lsn, self._prev_crc)
            nonce = guess_nonce(data, expected)
            if nonce is None:
                self._remains.notes.append(f"{segment.path.name}: none of its records is proven")
        else:
            nonce = header.nonce
            self._remains.newest_ms = max(self._remains.newest_ms, header.created_ms)
            self._seen_lsn = max(self._seen_lsn, header.first_lsn - 1)
            if header.first_lsn > self._next_lsn:
                if segment.number > self._number + 1:
                    self._number, self._offset = self._number + 1, 0
                self._gap(header.first_lsn - 1)
                self._prev_crc = header.prev_crc
        self._number, self._offset = segment.number, SEGMENT_HEADER_BYTES
        return nonce

    def _read_records(self, data: bytes, nonce: int, *, is_last: bool) -> None:
        for record in records_in(data, nonce, is_last=is_last):
            self._follow(record)
            self._offset = record.end_bytes

    def _follow(self, record: Record) -> None:
        remains = self._remains
        self._seen_lsn = max(self._seen_lsn, record.lsn)
        remains.newest_ms = max(remains.newest_ms, record.written_ms)
        if record.lsn >= self._next_lsn:
            if record.lsn > self._next_lsn or self._prev_crc not in (None, record.prev_crc):
                self._gap(record.lsn - 1)
            try:
                for event in decode_events(record.events):
                    remains.rescue.evolve(event)
            except msgspec.MsgspecError:
                self._gap(record.lsn)
            self._next_lsn = record.lsn + 1
        if record.lsn == self._next_lsn - 1:
            self._prev_crc = record.crc

    def _goes_on(self, segment: _Segment, data: bytes, nonce: int | None) -> bool:
        """Whether there was more behind what could be read of the last segment."""
        if nonce is None:
            # A header that is damaged and no more is that of a segment just begun.
            whole = is_zero(data, SEGMENT_HEADER_BYTES) and not is_zero(data, 0)
            return not whole
        if find_seal(data, self._offset, nonce) is not None:
            self._number, self._offset = segment.number + 1, 0
            return True
        self._remains.torn_bytes = len(data[self._offset :].rstrip(b"\0"))
        return False

    def _gap(self, last_lsn: int | None) -> None:
        """Records are missing from the next one on; where they should be is ``_number``."""
        remains = self._remains
        path = remains.paths.get(self._number, self._directory / segment_name(self._number))
        remains.gaps.append(Gap(self._next_lsn, last_lsn, str(path), self._offset))
        remains.rescue.gap()
        if last_lsn is not None:
            self._next_lsn = last_lsn + 1
