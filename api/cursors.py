"""Where the next page of a list begins, as text that clients give back. Pure.

A CRC-32 (4 bytes, big-endian) of what follows: a MessagePack array with a number for each
partition, or nil. All of it in base64 for URLs, without padding. Lists give cursors and take them
back, so both directions are here and nowhere else.
"""

import base64
import zlib
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from api.problems import Problem

_Position = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_positions_decoder: Final = msgspec.msgpack.Decoder(tuple[_Position | None, ...])
_msgpack: Final = msgspec.msgpack.Encoder().encode
_CHECKSUM_BYTES: Final = 4
_BAD_CURSOR: Final = Problem(400, "cursor is none that a page of this list gave")


def encode_cursor(positions: Sequence[int | None]) -> str:
    """Where the next page begins: a number for each partition, None where there is no more.

    Text that means nothing to clients and is safe in a URL. The checksum is against accidents: who
    forges a cursor sees what another cursor would have shown.
    """
    packed = _msgpack(tuple(positions))
    checksum = zlib.crc32(packed).to_bytes(_CHECKSUM_BYTES, "big")
    return base64.urlsafe_b64encode(checksum + packed).rstrip(b"=").decode()


def decode_cursor(text: str, partitions: int) -> tuple[int | None, ...] | Problem:
    """What ``encode_cursor`` was given by a node of so many partitions, or the problem."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        positions = _positions_decoder.decode(raw[_CHECKSUM_BYTES:])
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return _BAD_CURSOR
    # Decoders are lenient, and a cursor has one spelling.
    if len(positions) != partitions or encode_cursor(positions) != text:
        return _BAD_CURSOR
    return positions
