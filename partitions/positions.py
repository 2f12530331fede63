"""Where a text stands on disk, and about how long it is, in one integer. Pure.

A position is ``segment number << 34 | size class << 27 | offset in the file``; 0 is none.
Up to segment 2**26 it is below 2**60, which Python keeps in 32 bytes: at one segment of
64 MiB every 5 seconds that lasts ten years, and goes on working after that.

The **size class** (7 bits) is the smallest of 128 sizes that holds the blob, each 9 % larger
than the one before. It says how many live bytes a segment has without a length being kept
for every job.
"""

from bisect import bisect_left
from typing import Final

from partitions.limits import TEXT_BYTES_MAX

OFFSET_BITS: Final = 27
CLASS_BITS: Final = 7
_SEGMENT_SHIFT: Final = OFFSET_BITS + CLASS_BITS
_CLASS_MASK: Final = (1 << CLASS_BITS) - 1
_SMALLEST_BYTES: Final = 16
_BLOB_BYTES_MAX: Final = TEXT_BYTES_MAX + 8  # its header included (``record``)

OFFSET_MAX: Final = (1 << OFFSET_BITS) - 1
"""A segment is at most 128 MiB long."""

_RATIO: Final[float] = pow(_BLOB_BYTES_MAX / _SMALLEST_BYTES, 1 / _CLASS_MASK)
_SIZES: Final[tuple[int, ...]] = (
    *(
        min(int(_SMALLEST_BYTES * _RATIO**index) + 1, _BLOB_BYTES_MAX)
        for index in range(_CLASS_MASK)
    ),
    _BLOB_BYTES_MAX,
)

_SMALL_CLASSES: Final = bytes([bisect_left(_SIZES, size) for size in range(4096)])
"""Of the sizes that most blobs have, looked up once."""


def make_position(segment: int, offset_bytes: int, blob_bytes: int) -> int:
    """The position of a blob of ``blob_bytes`` (header included, at most 1 MiB + 8)."""
    assert offset_bytes <= OFFSET_MAX, "its bits would be taken for those of the size"
    if blob_bytes < len(_SMALL_CLASSES):
        size_class = _SMALL_CLASSES[blob_bytes]
    else:
        size_class = bisect_left(_SIZES, blob_bytes)
    return (segment << _SEGMENT_SHIFT) | (size_class << OFFSET_BITS) | offset_bytes


def segment_of(position: int) -> int:
    """The number of the segment."""
    return position >> _SEGMENT_SHIFT


def offset_of(position: int) -> int:
    """The place of the blob's header in the segment's file."""
    return position & OFFSET_MAX


def size_of(position: int) -> int:
    """Bytes of the blob, header included; at most 9 % more than it really has."""
    return _SIZES[(position >> OFFSET_BITS) & _CLASS_MASK]


def segment_and_size_of(position: int) -> tuple[int, int]:
    """Both at once: it is asked twice for each job."""
    return position >> _SEGMENT_SHIFT, _SIZES[(position >> OFFSET_BITS) & _CLASS_MASK]
