"""The log of one partition: commits that are durable when they return, and blobs to read.

``record`` has the format. This file has the order in which things reach the disk:

* A commit writes one record at the tail, then syncs the file. The bytes there were zeros
  that are on disk already, so the sync changes no metadata.
* Zeros are kept ahead of the tail (an **extent** at a time); making them is the only thing
  here that may fail for want of space and be tried again, because it touches no record.
  While they cannot be made, new jobs are refused, and what is left of them is the reserve
  from which acks and leases go on.
* A full segment is followed by a new one: written beside, synced, renamed, directory
  synced, and only then used. Then the full one is sealed, which costs one more sync.
  Without room for a new one the old one goes on, up to what a position can name.

Any other failure of a write or a sync ends the log: it raises, and the process must end
too, because nobody knows what the disk holds (``recovery`` finds out).

One owner, one thread: nothing here waits for anybody else.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from partitions.disk import Disk, File
from partitions.errors import BlobUnreadableError
from partitions.events import Event, encode_events
from partitions.limits import (
    EXTENT_BYTES,
    RECORD_BYTES_MAX,
    RESERVE_BYTES,
    SEGMENT_BYTES,
    TEXT_BYTES_MAX,
)
from partitions.positions import OFFSET_MAX, make_position, offset_of, segment_of, size_of
from partitions.record import (
    BLOB_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    SEAL_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    decode_blob_header,
    encode_blob,
    encode_record,
    encode_seal,
    encode_segment_header,
    record_parts,
)
from partitions.slots import first_slot

EVENT_BYTES_MAX: Final = 512
"""More than any one event takes, its owner name included (names are at most 256 bytes)."""

_OPEN_FILES_MAX: Final = 64
_BEGUN_SHARE: Final = 4
_FIRST_READ_BYTES: Final = 4096
_TOGETHER_BYTES_MAX: Final = 256 << 10
_GAP_BYTES_MAX: Final = 16 << 10
"""Between two texts that are read together: what stands behind those of a record are its events,
and to read so much more costs less than a call."""
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})


class Identity(msgspec.Struct, frozen=True):
    """Whose log it is; in every segment's header."""

    partition: int
    slot_first: int
    slot_end: int


def identity_of(partition: int, partitions: int) -> Identity:
    """Whose log partition number ``partition`` of ``partitions`` has."""
    return Identity(
        partition, first_slot(partition, partitions), first_slot(partition + 1, partitions)
    )


class Sizes(msgspec.Struct, frozen=True):
    """The limits that shape the files. Tests make them small, so that a few jobs fill many."""

    segment_bytes: int = SEGMENT_BYTES
    extent_bytes: int = EXTENT_BYTES
    reserve_bytes: int = RESERVE_BYTES


class Segment(msgspec.Struct, frozen=True):
    """A segment behind the tail: nothing is written to it any more."""

    header: SegmentHeader
    end_bytes: int
    """Where its records end."""
    file_bytes: int
    """With the zeros behind them."""


class Tail(msgspec.Struct):
    """Where the next record goes."""

    header: SegmentHeader
    file: File
    offset_bytes: int
    zeros_end_bytes: int
    """End of the zeros that are known to be on disk behind ``offset_bytes``."""
    next_lsn: int
    prev_crc: int


def segment_name(number: int) -> str:
    """File name of a segment."""
    return f"{number:010}.seg"


def make_nonce() -> int:
    """For the header of a new segment: random, and not 0 (see ``record``)."""
    return int.from_bytes(os.urandom(4), "little") or 1


def create_segment(
    disk: Disk, directory: Path, header: SegmentHeader, zeros_bytes: int, records: bytes = b""
) -> tuple[File, int]:
    """Make a durable segment with ``records`` and so many zeros behind them.

    Replaces a segment of the same name, atomically. Returns the open file and where its
    zeros end.
    """
    file, zeros_end = write_segment(disk, directory, header, zeros_bytes, records)
    try:
        disk.sync_directory(directory)
    except OSError:
        file.close()
        raise
    return file, zeros_end


def write_segment(
    disk: Disk, directory: Path, header: SegmentHeader, zeros_bytes: int, records: bytes = b""
) -> tuple[File, int]:
    """``create_segment`` but for the name, which a power cut may still take back."""
    temporary = directory / f"{segment_name(header.number)}.tmp"
    content = encode_segment_header(header) + records
    file = disk.create(temporary)
    try:
        file.write(content, 0)
        file.write(bytes(zeros_bytes), len(content))
        file.sync()
        disk.rename(temporary, directory / segment_name(header.number))
    except OSError:
        # On a full disk this is tried again and again: it may keep neither file nor space.
        file.close()
        disk.remove(temporary)
        raise
    return file, len(content) + zeros_bytes


def rewrite_segment(
    disk: Disk, directory: Path, header: SegmentHeader, records: bytes, file_bytes: int
) -> tuple[File, int]:
    """Make a segment of ``file_bytes`` durable in its own place, which takes no room.

    Every byte is written anew, ``records`` as they are and zeros behind them: what a sync
    that failed left undone is done then. A power cut meanwhile leaves each page as it was on
    disk or as it shall be, and what anybody was told is in both. Returns as ``create_segment``.
    """
    content = encode_segment_header(header) + records
    assert len(content) <= file_bytes, "it holds its records"
    file = disk.open(directory / segment_name(header.number), writable=True)
    try:
        file.write(content + bytes(file_bytes - len(content)), 0)
        file.sync()
        # Its name may not be on disk either.
        disk.sync_directory(directory)
    except OSError:
        file.close()
        raise
    return file, file_bytes


def read_text(file: File, path: Path, offset_bytes: int) -> bytes:
    """The text whose blob begins there.

    Raises:
        BlobUnreadableError: it does not read back as it was written.
    """
    try:
        data = file.read(_FIRST_READ_BYTES, offset_bytes)
        if len(data) < BLOB_HEADER_BYTES:
            raise BlobUnreadableError(path, offset_bytes, "the file ends before this blob")
        length, crc = decode_blob_header(data)
        # An empty text has no blob, so a page that the disk lost is none either: its zeros would
        # be the length and the checksum of one.
        if not 0 < length <= TEXT_BYTES_MAX:
            raise BlobUnreadableError(path, offset_bytes, f"blob claims {length} bytes")
        end = BLOB_HEADER_BYTES + length
        if end > len(data):
            data += file.read(end - len(data), offset_bytes + len(data))
    except OSError as error:
        raise BlobUnreadableError(path, offset_bytes, f"cannot be read: {error}") from error
    text = data[BLOB_HEADER_BYTES:end]
    if len(text) != length or crc32(text) != crc:
        raise BlobUnreadableError(path, offset_bytes, "blob does not match its checksum")
    return text


def text_in(data: bytes, start: int) -> bytes | None:
    """The text whose blob begins there; None if it is not all in ``data``, or damaged."""
    if len(data) - start < BLOB_HEADER_BYTES:
        return None
    length, crc = decode_blob_header(data, start)
    start += BLOB_HEADER_BYTES
    text = data[start : start + length]
    return text if 0 < length == len(text) and crc32(text) == crc else None


class Log:
    """An open log; made by ``recovery``."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        identity: Identity,
        tail: Tail,
        sizes: Sizes,
        sealed: Sequence[Segment] = (),
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._identity = identity
        self._tail = tail
        self._sizes = sizes
        self._zeros = bytes(sizes.extent_bytes)
        self._files: dict[int, File] = {tail.header.number: tail.file}
        self._sealed = {segment.header.number: segment for segment in sealed}
        self.sealed_bytes = sum(segment.end_bytes for segment in sealed)
        """Records of the segments behind the tail: counted on, for there may be thousands."""
        self._sealed_files_bytes = sum(segment.file_bytes for segment in sealed)
        self._paths: dict[int, Path] = {}
        """Of segments that were read."""
        self.appended_bytes = 0
        """Bytes of records committed since the log was opened."""
        self._blobs: list[bytes] = []
        self._blobs_bytes = 0

    @property
    def next_lsn(self) -> int:
        """Number of the next record."""
        return self._tail.next_lsn

    @property
    def tail_segment(self) -> int:
        """Number of the segment that is written to."""
        return self._tail.header.number

    @property
    def sealed(self) -> Sequence[Segment]:
        """The segments behind the tail, oldest first."""
        return tuple(self._sealed.values())

    @property
    def tail_first_lsn(self) -> int:
        """Number of the first record in the segment that is written to."""
        return self._tail.header.first_lsn

    @property
    def segment_bytes(self) -> int:
        """How full a segment gets before the next one is begun."""
        return self._sizes.segment_bytes

    @property
    def used_bytes(self) -> int:
        """What the files of the log take."""
        return self._sealed_files_bytes + self._tail.zeros_end_bytes

    @property
    def staged_bytes(self) -> int:
        """Bytes of texts that wait for the next commit."""
        return self._blobs_bytes

    def reserve(self, record_bytes: int, *, keep_bytes: int | None = None) -> bool:
        """Whether a record of so many bytes fits and leaves ``keep_bytes`` (the reserve) of zeros.

        Makes zeros when it does not; False when the disk has no room for them.

        Raises:
            OSError: making them failed for another reason.
        """
        tail = self._tail
        if keep_bytes is None:
            keep_bytes = self._sizes.reserve_bytes
        needed = tail.offset_bytes + record_bytes + keep_bytes
        if needed > OFFSET_MAX:
            # There is room for zeros and, for so long now, none for another file.
            return False
        while tail.zeros_end_bytes < needed:
            try:
                tail.file.write(self._zeros, tail.zeros_end_bytes)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                return False
            tail.file.sync()
            tail.zeros_end_bytes += len(self._zeros)
        return True

    @property
    def zeros_bytes(self) -> int:
        """Zeros behind the tail: what a record may take without the disk being asked."""
        return min(self._tail.zeros_end_bytes, OFFSET_MAX) - self._tail.offset_bytes

    def put(self, text: bytes) -> int:
        """Put a text into the next commit; the position that it will have once committed."""
        assert text, "an empty text has no position"
        tail = self._tail
        offset = tail.offset_bytes + RECORD_HEADER_BYTES + self._blobs_bytes
        blob = encode_blob(text)
        self._blobs.append(blob)
        self._blobs_bytes += len(blob)
        return make_position(tail.header.number, offset, len(blob))

    def commit(self, events: Sequence[Event], now_ms: int) -> None:
        """Write the events and the staged texts as one record; durable on return.

        Raises:
            OSError: it may or may not be on disk. The process must end.
        """
        tail = self._tail
        record, crc = encode_record(
            lsn=tail.next_lsn,
            epoch=0,
            written_ms=now_ms,
            prev_crc=tail.prev_crc,
            nonce=tail.header.nonce,
            blobs=b"".join(self._blobs),
            events=encode_events(events),
        )
        tail.file.write(record, tail.offset_bytes)
        tail.file.sync()
        tail.offset_bytes += len(record)
        tail.zeros_end_bytes = max(tail.zeros_end_bytes, tail.offset_bytes)
        tail.next_lsn += 1
        tail.prev_crc = crc
        self.appended_bytes += len(record)
        self._blobs.clear()
        self._blobs_bytes = 0

    def make_room(self, now_ms: int) -> None:
        """Between commits: begin the next segment, or make zeros, before they are needed.

        A disk without room is no fault here; ``reserve`` reports it to whoever needs some.
        """
        if self._tail.offset_bytes >= self._sizes.segment_bytes:
            self._roll(now_ms)
        else:
            self.reserve(self._sizes.extent_bytes // 2, keep_bytes=0)

    def begin_segment(self, now_ms: int) -> None:
        """Between commits: let the next record go into a new segment, if there is room for one.

        Not when the last one has hardly begun: there would be many that hold little.
        """
        if self._tail.offset_bytes >= self._sizes.segment_bytes // _BEGUN_SHARE:
            self._roll(now_ms)

    def read(self, position: int) -> bytes:
        """The text at a position that a committed event named.

        Raises:
            BlobUnreadableError: it does not read back as it was written.
        """
        number, offset = segment_of(position), offset_of(position)
        path = self._paths.get(number)
        if path is None:
            # To put one together takes as long as the read.
            path = self._paths[number] = self._directory / segment_name(number)
        try:
            file = self._file(number)
        except OSError as error:
            raise BlobUnreadableError(path, offset, f"cannot be read: {error}") from error
        return read_text(file, path, offset)

    def read_together(self, positions: Sequence[int]) -> dict[int, bytes]:
        """``{position: text}`` of those that stand close together, as jobs that came together do.

        A read for all of them costs little more than one of them alone. Those that are missing,
        for whatever reason, are for ``read``.
        """
        texts: dict[int, bytes] = {}
        for run in _runs(positions):
            start = offset_of(run[0])
            size = offset_of(run[-1]) + size_of(run[-1]) - start
            try:
                data = self._file(segment_of(run[0])).read(size, start)
            except OSError:
                continue
            for position in run:
                if (text := text_in(data, offset_of(position) - start)) is not None:
                    texts[position] = text
        return texts

    def read_events(self, number: int, offset_bytes: int) -> tuple[bytes, int] | None:
        """``(events, size in bytes)`` of the record of a sealed segment that begins there.

        None: none does, or it cannot be read. Its texts, which may be most of 48 MiB, are not
        read, so its checksum proves nothing here: hold what the events say against what is known.
        """
        try:
            file = self._file(number)
            parts = record_parts(file.read(RECORD_HEADER_BYTES, offset_bytes))
            if parts is None or RECORD_HEADER_BYTES + sum(parts) > RECORD_BYTES_MAX:
                return None
            blobs_bytes, events_bytes = parts
            events = file.read(events_bytes, offset_bytes + RECORD_HEADER_BYTES + blobs_bytes)
        except OSError:
            # One bad sector in an old segment is no reason to end: nothing is written there.
            return None
        return events, RECORD_HEADER_BYTES + sum(parts)

    def retire(self, numbers: Sequence[int]) -> None:
        """Remove sealed segments, which nothing needs any more, durably."""
        for number in numbers:
            segment = self._sealed.pop(number)
            self.sealed_bytes -= segment.end_bytes
            self._sealed_files_bytes -= segment.file_bytes
            self._paths.pop(number, None)
            if (file := self._files.pop(number, None)) is not None:
                file.close()
            self._disk.remove(self._directory / segment_name(number))
        if numbers:
            self._sync_directory()

    def close_surplus(self) -> None:
        """Close files of old segments that are only kept to save opening them again."""
        self._close_surplus(2)

    def close(self) -> None:
        """Give the files back. Everything committed is on disk already."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _roll(self, now_ms: int) -> None:
        old = self._tail
        header = SegmentHeader(
            partition=self._identity.partition,
            slot_first=self._identity.slot_first,
            slot_end=self._identity.slot_end,
            number=old.header.number + 1,
            first_lsn=old.next_lsn,
            created_ms=now_ms,
            nonce=make_nonce(),
            prev_crc=old.prev_crc,
        )
        try:
            file, zeros_end = write_segment(
                self._disk, self._directory, header, self._sizes.extent_bytes
            )
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                self.close_surplus()
            elif error.errno not in NO_SPACE:
                raise
            return
        # No error is forgiven from here on, not even a lack of space: the new name is there,
        # and one more record in the old segment would make the two overlap.
        self._sync_directory()
        self._seal(old)
        sealed = Segment(old.header, old.offset_bytes, old.zeros_end_bytes)
        self._sealed[old.header.number] = sealed
        self.sealed_bytes += sealed.end_bytes
        self._sealed_files_bytes += sealed.file_bytes
        self._tail = Tail(header, file, SEGMENT_HEADER_BYTES, zeros_end, old.next_lsn, old.prev_crc)
        self._close_surplus(_OPEN_FILES_MAX)
        self._files[header.number] = file

    def _sync_directory(self) -> None:
        try:
            self._disk.sync_directory(self._directory)
        except OSError as error:
            if error.errno not in NO_DESCRIPTOR:
                raise
            # It could not even be opened.
            self.close_surplus()
            self._disk.sync_directory(self._directory)

    @staticmethod
    def _seal(old: Tail) -> None:
        """Say in the segment that another one follows; once it does, durably.

        Only into zeros that are there already: a seal is worth a sync, but no lack of space.
        """
        if old.zeros_end_bytes - old.offset_bytes < SEAL_BYTES:
            return
        seal = encode_seal(prev_crc=old.prev_crc, next_lsn=old.next_lsn, nonce=old.header.nonce)
        old.file.write(seal, old.offset_bytes)
        old.file.sync()

    def _file(self, number: int) -> File:
        file = self._files.get(number)
        if file is None:
            self._close_surplus(_OPEN_FILES_MAX)
            path = self._directory / segment_name(number)
            try:
                file = self._disk.open(path)
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR:
                    raise
                # Make do with fewer: what is open now is only kept to save opening it again.
                self.close_surplus()
                file = self._disk.open(path)
            self._files[number] = file
        return file

    def _close_surplus(self, files_max: int) -> None:
        """Leave room for one more."""
        active = self._tail.header.number
        while len(self._files) >= files_max:
            oldest = next(number for number in self._files if number != active)
            self._files.pop(oldest).close()


def _runs(positions: Sequence[int]) -> list[list[int]]:
    """The positions in runs, each of more than one text and worth a read for all."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and _goes_on(runs[-1], position):
            runs[-1].append(position)
        else:
            runs.append([position])
    return [run for run in runs if len(run) > 1]


def _goes_on(run: list[int], position: int) -> bool:
    last, offset = run[-1], offset_of(position)
    return (
        segment_of(last) == segment_of(position)
        # The size of the last one is rounded up, so this one may begin before its end.
        and 0 < offset - offset_of(last) <= size_of(last) + _GAP_BYTES_MAX
        and offset + size_of(position) - offset_of(run[0]) <= _TOGETHER_BYTES_MAX
    )
