"""What can still be read of a damaged segment: every record that is proven, and no other. Pure.

A record counts when a CRC-32 says so. Three kinds of damage leave a proof all the same:

* **Some records are damaged.** Those behind them are found by their magic and checked by
  themselves (``record.find_record``).
* **A text is damaged**, the rest of its record is not. The text's own checksum, which stands
  beside it, takes the part of its bytes in the checksum of the record: ``crc32`` of a whole
  follows from those of its parts. So one flipped bit in a payload costs that payload, and not
  the hundred other jobs of the same commit. The same where a record's own magic or checksum is
  damaged and the record behind names the checksum that it had.
* **The segment's header is damaged**, and with it the nonce that seeds every checksum. A seed
  is one solution of linear equations over GF(2) for each record; it is taken when a second
  record, or the seal, confirms it.

Of all three, only bytes that check come out; a text that is damaged fails its own checksum when
it is read.
"""

import struct
from collections.abc import Iterator
from typing import Final
from zlib import crc32

from partitions.record import (
    BLOB_HEADER_BYTES,
    FIRST_LSN,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    SEAL_MAGIC,
    SEGMENT_HEADER_BYTES,
    Record,
    decode_blob_header,
    find_record,
    find_seal,
    read_record,
    read_seal,
    record_bytes,
)

_RECORD: Final = struct.Struct("<4sIIIQQII")
_MAGICS: Final = (RECORD_MAGIC, SEAL_MAGIC)
_GUESSES_MAX: Final = 1_000
_SOLVED_BYTES_MAX: Final = 16 << 20
"""Solving for the nonce reads the record's length 64 times over."""


def records_in(data: bytes, nonce: int, *, is_last: bool) -> Iterator[Record]:
    """Every record of a segment that is proven, in order of their places.

    ``is_last``: nothing follows the segment, so what stands behind its last record may be
    what a crash tore, and nobody was told of it; it is left out, as a start leaves it out.
    """
    offset = SEGMENT_HEADER_BYTES
    while True:
        found = read_record(data, offset, nonce)
        if isinstance(found, Record):
            yield found
            offset = found.end_bytes
            continue
        later = find_record(data, offset, nonce)
        if later is not None:
            yield from _mended(data, offset, later.offset_bytes, nonce, later.prev_crc)
            offset = later.offset_bytes
            continue
        seal = find_seal(data, offset, nonce)
        if seal is not None:
            yield from _mended(data, offset, seal.offset_bytes, nonce, seal.prev_crc)
        elif not is_last:
            yield from _mended(data, offset, len(data), nonce, None)
        return


def _mended(
    data: bytes, offset: int, limit: int, nonce: int, follow_crc: int | None
) -> Iterator[Record]:
    """The records from ``offset`` to ``limit`` of which only texts or checksums are damaged."""
    while offset < limit:
        found = _mend(data, offset, limit, nonce, follow_crc)
        if found is None:
            return
        yield found
        offset = found.end_bytes


def _mend(
    data: bytes, offset: int, limit: int, nonce: int, follow_crc: int | None
) -> Record | None:
    """The record at ``offset``; ``follow_crc`` is its crc as what begins at ``limit`` says."""
    if limit - offset < RECORD_HEADER_BYTES:
        return None
    magic, crc, prev_crc, epoch, lsn, written_ms, blobs_bytes, events_bytes = _RECORD.unpack_from(
        data, offset
    )
    end = offset + RECORD_HEADER_BYTES + blobs_bytes + events_bytes
    if end > limit or lsn < FIRST_LSN:
        return None
    claims = {crc} if magic == RECORD_MAGIC else set()
    if end == limit and follow_crc is not None:
        claims.add(follow_crc)
    proofs = {
        crc32(memoryview(data)[offset + 8 : end], nonce),
        _crc_by_texts(data, offset, end - events_bytes, end, nonce),
    }
    proven = claims & proofs
    if not proven:
        return None
    events = data[end - events_bytes : end]
    return Record(lsn, epoch, written_ms, proven.pop(), prev_crc, offset, end, events)


def _crc_by_texts(data: bytes, offset: int, blobs_end: int, end: int, nonce: int) -> int | None:
    """The crc that the record has if each of its texts is what the text's checksum says."""
    place = offset + RECORD_HEADER_BYTES
    crc = crc32(data[offset + 8 : place], nonce)
    while place < blobs_end:
        if blobs_end - place < BLOB_HEADER_BYTES:
            return None
        header = data[place : place + BLOB_HEADER_BYTES]
        length, text_crc = decode_blob_header(header)
        place += BLOB_HEADER_BYTES + length
        if place > blobs_end:
            return None
        crc = _followed_by(crc32(header, crc), text_crc, length)
    return crc32(data[blobs_end:end], crc)


def _followed_by(crc: int, next_crc: int, next_bytes: int) -> int:
    """The CRC-32 of a whole, from that of its first part and that of the rest by itself.

    The crc of some bytes is the sum over GF(2) of a part that depends on the seed and the
    length only, and one that does not depend on the seed.
    """
    return _shifted(crc, bytes(next_bytes)) ^ next_crc


def _shifted(seed: int, zeros: bytes) -> int:
    return crc32(zeros, seed) ^ crc32(zeros)


def guess_nonce(data: bytes, expected: tuple[int, int] | None) -> int | None:
    """The nonce of a segment whose header is damaged, if something confirms it.

    ``expected`` is the lsn and prev crc that its first record has, when that is known.
    """
    offset = SEGMENT_HEADER_BYTES - 1
    for _ in range(_GUESSES_MAX):
        offset = data.find(RECORD_MAGIC, offset + 1)
        if offset < 0:
            return None
        size = record_bytes(data[offset : offset + RECORD_HEADER_BYTES])
        if size is None or size > _SOLVED_BYTES_MAX or offset + size > len(data):
            continue
        _, _, prev_crc, _, lsn, *_ = _RECORD.unpack_from(data, offset)
        if (lsn, prev_crc) != expected and not data.startswith(_MAGICS, offset + size):
            continue  # nothing there that could confirm it
        crc = int.from_bytes(data[offset + 4 : offset + 8], "little")
        nonce = _seed_of(data[offset + 8 : offset + size], crc)
        found = read_record(data, offset, nonce)
        if isinstance(found, Record) and _is_confirmed(data, found, nonce, expected):
            return nonce
    return None


def _is_confirmed(data: bytes, found: Record, nonce: int, expected: tuple[int, int] | None) -> bool:
    """Any bytes have a nonce that makes them a record; one that fits two things is the one."""
    if (found.lsn, found.prev_crc) == expected:
        return True
    after = (found.lsn + 1, found.crc)
    later = read_record(data, found.end_bytes, nonce)
    if isinstance(later, Record):
        return (later.lsn, later.prev_crc) == after
    seal = read_seal(data, found.end_bytes, nonce)
    return seal is not None and (seal.next_lsn, seal.prev_crc) == after


def _seed_of(data: bytes, crc: int) -> int:
    """The one seed with which ``data`` has this crc: ``_shifted`` inverted, by elimination."""
    wanted = crc ^ crc32(data)
    zeros = bytes(len(data))
    pivots: list[tuple[int, int, int]] = []  # highest bit, value, seed that leads to it
    seed = 0
    for bit in range(32):
        value, source = _shifted(1 << bit, zeros), 1 << bit
        for high, other, its_source in pivots:
            if value >> high & 1:
                value, source = value ^ other, source ^ its_source
        pivots.append((value.bit_length() - 1, value, source))
    for high, value, source in sorted(pivots, reverse=True):
        if wanted >> high & 1:
            wanted, seed = wanted ^ value, seed ^ source
    assert wanted == 0, "the map is one to one"
    return seed
