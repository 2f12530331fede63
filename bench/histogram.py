"""Latencies in log-linear buckets: exact below 256, then 128 buckets for every doubling. Pure.

The scheme of HdrHistogram: a quantile read back is never below the true one and at most
1/128 (0.8 %) above it, whatever the range, and merging histograms loses nothing. So each
load process keeps its own and the figures of all are those of one.
"""

import math
from typing import Final

import msgspec

_SUB_BITS: Final = 7
RELATIVE_ERROR: Final = 1 / (1 << _SUB_BITS)
"""A reported quantile exceeds the true one by at most this share of it."""


def bucket_of(value: int) -> int:
    """The index of the bucket that holds ``value`` (>= 0); indexes grow with values."""
    shift = value.bit_length() - _SUB_BITS - 1
    if shift <= 0:
        return value
    return (shift << _SUB_BITS) + (value >> shift)


def highest_in(bucket: int) -> int:
    """The largest value that lands in ``bucket``."""
    if bucket < 2 << _SUB_BITS:
        return bucket
    shift = (bucket >> _SUB_BITS) - 1
    mantissa = bucket - (shift << _SUB_BITS)
    return ((mantissa + 1) << shift) - 1


class Histogram(msgspec.Struct):
    """Counts of values (nanoseconds here, but any integers >= 0 do)."""

    counts: dict[int, int] = {}
    highest: int = 0
    total: int = 0

    def record(self, value: int) -> None:
        """Count one value."""
        # bucket_of, written out: this runs for every request, a call is a third of its cost.
        shift = value.bit_length() - _SUB_BITS - 1
        bucket = value if shift <= 0 else (shift << _SUB_BITS) + (value >> shift)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.total += value
        if value > self.highest:
            self.highest = value

    def merge(self, other: "Histogram") -> None:
        """Count everything that ``other`` counted."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.total += other.total
        self.highest = max(self.highest, other.highest)

    def __len__(self) -> int:
        """How many values were recorded."""
        return sum(self.counts.values())

    def mean(self) -> float:
        """The mean, exact; 0 when nothing was recorded."""
        count = len(self)
        return self.total / count if count else 0.0

    def quantile(self, fraction: float) -> int:
        """The smallest value with at least ``fraction`` of all at or below it, rounded up.

        Raises:
            ValueError: nothing was recorded, or ``fraction`` is not within 0..1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"a quantile is a fraction from 0 to 1, not {fraction}")
        count = len(self)
        if not count:
            raise ValueError("an empty histogram has no quantiles")
        rank = max(1, math.ceil(fraction * count))
        for bucket in sorted(self.counts):
            rank -= self.counts[bucket]
            if rank <= 0:
                return min(highest_in(bucket), self.highest)
        raise AssertionError("ranks end with the last bucket")
