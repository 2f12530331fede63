r"""The bytes of the log: segment header, records, blobs; and where a log ends. Pure.

All numbers are little-endian. A **segment** is one file, named by its number, ten digits
and ``.seg``. It begins with a header of 64 bytes::

    8  magic        b"QNODE\xff\xfe\x01"
    2  version      1
    2  header size  64
    4  partition    whose log this is
    4  first slot   of the slots that the partition owns
    4  end slot     one behind its last slot
    8  number       of this segment, from 1, without gaps
    8  first lsn    of the first record in it
    8  created_ms   wall clock, ms since 1970
    4  nonce        random, never 0; seeds every crc in the segment
    4  prev crc     crc of the last record of the segment before, 0 in the first
    4  reserved     0
    4  crc          CRC-32 of the 60 bytes before it

and goes on with records, one for each committed batch, then zeros to its end. A record::

    4  magic        b"\xff\xfeQR"
    4  crc          CRC-32, seeded with the nonce, of all that follows in the record
    4  prev crc     crc of the record before, so a stale or swapped record shows
    4  epoch        fences an owner from its successor; 0 until there is a cluster
    8  lsn          number of the record in the partition's log, from 1, without gaps
    8  written_ms   wall clock of the commit, ms since 1970; never goes back
    4  blobs size   bytes
    4  events size  bytes
    .. blobs        each: 4 bytes of length, 4 bytes of CRC-32 (seed 0), then the text; an
                    empty text has none
    .. events       one msgpack array (``events``)

A **seal** stands behind the last record of a segment that another one follows, so that a
newest segment that is gone is missed. It is written when the next segment is durable, so a
crash, or a lack of room, can leave a segment without one::

    4  magic        b"\xff\xfeQS"
    4  crc          CRC-32, seeded with the nonce, of all that follows in the seal
    4  prev crc     crc of the last record
    8  next lsn     first lsn of the next segment

Blobs come before the events so that a blob's place in the file is known before the events
that name it are encoded. The magic of a record is no UTF-8 and every text is UTF-8, so no
payload can look like a record; the nonce, which no client learns, guards against the rest.
Seeded with 0, the CRC-32 of four bytes of ones and any number of zeros is four bytes of ones: noise
that would check. So a nonce is never 0, and an lsn of 0 is refused.

**Where a log ends.** A crash can cut only the write that was under way: the last record.
So from the first place that is no valid record:

* nothing but zeros follows: a clean end;
* a seal that continues the chain, then zeros: a **sealed** end, there is a next segment;
* something follows, but no valid record anywhere behind: a **torn tail**, to be cut off;
* a valid record or seal follows further on, or one whose lsn or prev crc does not continue the
  chain: **corruption**. Nothing may be skipped.
"""

import struct
from collections.abc import Iterator
from enum import Enum
from typing import Final
from zlib import crc32

import msgspec

from partitions.limits import RECORD_BYTES_MAX

SEGMENT_MAGIC: Final = b"QNODE\xff\xfe\x01"
RECORD_MAGIC: Final = b"\xff\xfeQR"
SEAL_MAGIC: Final = b"\xff\xfeQS"
VERSION: Final = 1

_SEGMENT: Final = struct.Struct("<8sHHIIIQQQIII")
_RECORD: Final = struct.Struct("<4sIIIQQII")
_AFTER_CRC: Final = struct.Struct("<IIQQII")
_BLOB: Final = struct.Struct("<II")
_SEAL: Final = struct.Struct("<4sIIQ")
_SEAL_AFTER_CRC: Final = struct.Struct("<IQ")
_CRC: Final = struct.Struct("<I")

SEGMENT_HEADER_BYTES: Final = _SEGMENT.size + _CRC.size
RECORD_HEADER_BYTES: Final = _RECORD.size
BLOB_HEADER_BYTES: Final = _BLOB.size
SEAL_BYTES: Final = _SEAL.size
assert SEGMENT_HEADER_BYTES == 64
assert RECORD_HEADER_BYTES == 40

FIRST_LSN: Final = 1
"""Of a partition's first record."""

_ZEROS: Final = bytes(1 << 16)


class SegmentHeader(msgspec.Struct, frozen=True):
    """What a segment says of itself; see the module for each field."""

    partition: int
    slot_first: int
    slot_end: int
    number: int
    first_lsn: int
    created_ms: int
    nonce: int
    prev_crc: int


class Record(msgspec.Struct, frozen=True):
    """A record that checked. ``offset_bytes`` and ``end_bytes`` are places in its file."""

    lsn: int
    epoch: int
    written_ms: int
    crc: int
    prev_crc: int
    offset_bytes: int
    end_bytes: int
    events: bytes


class Seal(msgspec.Struct, frozen=True):
    """What stands at the end of a segment that another one follows."""

    prev_crc: int
    next_lsn: int
    offset_bytes: int

    @property
    def end_bytes(self) -> int:
        """The place behind it."""
        return self.offset_bytes + SEAL_BYTES


class End(Enum):
    """How the records of a segment end."""

    CLEAN = "clean"
    SEALED = "sealed"
    TORN = "torn"
    CORRUPT = "corrupt"


class LogEnd(msgspec.Struct, frozen=True):
    """Where the valid records end, and what is behind them."""

    kind: End
    offset_bytes: int
    what: str


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The 64 bytes at the start of a segment."""
    body = _SEGMENT.pack(
        SEGMENT_MAGIC,
        VERSION,
        SEGMENT_HEADER_BYTES,
        header.partition,
        header.slot_first,
        header.slot_end,
        header.number,
        header.first_lsn,
        header.created_ms,
        header.nonce,
        header.prev_crc,
        0,
    )
    return body + _CRC.pack(crc32(body))


def decode_segment_header(data: bytes) -> SegmentHeader | str:
    """The header, or what is wrong with it in words."""
    if len(data) < SEGMENT_HEADER_BYTES:
        return f"segment header is cut: {len(data)} of {SEGMENT_HEADER_BYTES} bytes"
    body = bytes(data[: _SEGMENT.size])
    magic, version, size, *fields, _reserved = _SEGMENT.unpack(body)
    if magic != SEGMENT_MAGIC:
        return "not a segment: the magic bytes are missing"
    (crc,) = _CRC.unpack_from(data, _SEGMENT.size)
    if crc != crc32(body):
        return "segment header is damaged: its checksum does not match"
    if version != VERSION or size != SEGMENT_HEADER_BYTES:
        return f"segment format version {version} is not one this program reads ({VERSION})"
    return SegmentHeader(*fields)


def encode_blob(text: bytes) -> bytes:
    """A text as it stands in a record."""
    return _BLOB.pack(len(text), crc32(text)) + text


def decode_blob_header(data: bytes, start: int = 0) -> tuple[int, int]:
    """``(length_bytes, crc)`` of the blob that begins at ``start``, by its first 8 bytes."""
    length, crc = _BLOB.unpack_from(data, start)
    return length, crc


def encode_record(
    *,
    lsn: int,
    epoch: int,
    written_ms: int,
    prev_crc: int,
    nonce: int,
    blobs: bytes,
    events: bytes,
) -> tuple[bytes, int]:
    """``(bytes of the record, its crc)``; ``blobs`` is encoded blobs, one behind the other."""
    # A longer one would be taken for a torn tail when it is read, and cut off.
    assert RECORD_HEADER_BYTES + len(blobs) + len(events) <= RECORD_BYTES_MAX
    rest = b"".join(
        (
            _AFTER_CRC.pack(prev_crc, epoch, lsn, written_ms, len(blobs), len(events)),
            blobs,
            events,
        )
    )
    crc = crc32(rest, nonce)
    return b"".join((RECORD_MAGIC, _CRC.pack(crc), rest)), crc


def encode_seal(*, prev_crc: int, next_lsn: int, nonce: int) -> bytes:
    """What stands behind the last record of a segment that another one follows."""
    rest = _SEAL_AFTER_CRC.pack(prev_crc, next_lsn)
    return SEAL_MAGIC + _CRC.pack(crc32(rest, nonce)) + rest


def read_seal(data: bytes | memoryview, offset: int, nonce: int) -> Seal | None:
    """The seal at ``offset``, if there is one that checks."""
    if len(data) - offset < SEAL_BYTES:
        return None
    magic, crc, prev_crc, next_lsn = _SEAL.unpack_from(data, offset)
    if magic != SEAL_MAGIC or crc32(_SEAL_AFTER_CRC.pack(prev_crc, next_lsn), nonce) != crc:
        return None
    if next_lsn < FIRST_LSN:
        return None
    return Seal(prev_crc, next_lsn, offset)


def record_parts(header: bytes) -> tuple[int, int] | None:
    """``(blobs size, events size)`` of the record whose first 40 bytes these claim to be.

    None: they are none.
    """
    if len(header) < RECORD_HEADER_BYTES or header[:4] != RECORD_MAGIC:
        return None
    *_, blobs_bytes, events_bytes = _RECORD.unpack_from(header)
    return int(blobs_bytes), int(events_bytes)


def record_bytes(header: bytes) -> int | None:
    """Size of the record whose first 40 bytes these claim to be; None: they are none."""
    parts = record_parts(header)
    return None if parts is None else RECORD_HEADER_BYTES + sum(parts)


def read_record(data: bytes | memoryview, offset: int, nonce: int) -> Record | str:
    """The record at ``offset``, or why there is none that checks."""
    if len(data) - offset < RECORD_HEADER_BYTES:
        return "no room for a record header"
    magic, crc, prev_crc, epoch, lsn, written_ms, blobs_bytes, events_bytes = _RECORD.unpack_from(
        data, offset
    )
    if magic != RECORD_MAGIC:
        return "no record begins here"
    size = RECORD_HEADER_BYTES + blobs_bytes + events_bytes
    if size > RECORD_BYTES_MAX:
        return f"record claims {size} bytes, at most {RECORD_BYTES_MAX} are written"
    end = offset + size
    if end > len(data):
        return f"record claims {size} bytes, the file ends after {len(data) - offset}"
    view = memoryview(data)
    if crc32(view[offset + 8 : end], nonce) != crc:
        return "record does not match its checksum"
    if lsn < FIRST_LSN:
        return f"record claims the number {lsn}, the first one is {FIRST_LSN}"
    events = bytes(view[end - events_bytes : end])
    return Record(lsn, epoch, written_ms, crc, prev_crc, offset, end, events)


def scan(data: bytes | memoryview, header: SegmentHeader) -> Iterator[Record | LogEnd]:
    """Every valid record of a segment in order, then one ``LogEnd``.

    ``data`` is the whole file, header included.
    """
    offset = SEGMENT_HEADER_BYTES
    lsn = header.first_lsn
    prev_crc = header.prev_crc
    while True:
        found = read_record(data, offset, header.nonce)
        if isinstance(found, str):
            seal = Seal(prev_crc, lsn, offset)
            if read_seal(data, offset, header.nonce) == seal and is_zero(data, seal.end_bytes):
                yield LogEnd(End.SEALED, offset, "sealed: the next segment follows")
            else:
                yield _end_at(data, offset, header.nonce, found)
            return
        if found.lsn != lsn or found.prev_crc != prev_crc:
            what = f"record has lsn {found.lsn} where {lsn} must follow"
            if found.lsn == lsn:
                what = f"record {lsn} does not continue the record before it"
            yield LogEnd(End.CORRUPT, offset, what)
            return
        yield found
        offset = found.end_bytes
        lsn += 1
        prev_crc = found.crc


def _end_at(data: bytes | memoryview, offset: int, nonce: int, what: str) -> LogEnd:
    if is_zero(data, offset):
        return LogEnd(End.CLEAN, offset, "end of the log")
    later = find_record(data, offset + 1, nonce)
    if later is not None:
        behind = f"yet record {later.lsn} is valid at offset {later.offset_bytes}"
    elif (seal := find_seal(data, offset, nonce)) is not None:
        behind = f"yet the segment is sealed at offset {seal.offset_bytes}"
    else:
        return LogEnd(End.TORN, offset, what)
    return LogEnd(End.CORRUPT, offset, f"{what}, {behind}")


def is_zero(data: bytes | memoryview, offset: int) -> bool:
    """Whether nothing but zeros follows from ``offset``."""
    view = memoryview(data)
    for start in range(offset, len(view), len(_ZEROS)):
        part = view[start : start + len(_ZEROS)]
        if part != memoryview(_ZEROS)[: len(part)]:
            return False
    return True


def find_record(data: bytes | memoryview, offset: int, nonce: int) -> Record | None:
    """The first record at or behind ``offset`` that checks by itself."""
    whole = data if isinstance(data, bytes) else bytes(data)
    while (offset := whole.find(RECORD_MAGIC, offset)) >= 0:
        found = read_record(whole, offset, nonce)
        if isinstance(found, Record):
            return found
        offset += 1
    return None


def find_seal(data: bytes | memoryview, offset: int, nonce: int) -> Seal | None:
    """The first seal at or behind ``offset`` that checks by itself."""
    whole = data if isinstance(data, bytes) else bytes(data)
    while (offset := whole.find(SEAL_MAGIC, offset)) >= 0:
        if (seal := read_seal(whole, offset, nonce)) is not None:
            return seal
        offset += 1
    return None
