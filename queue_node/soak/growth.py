"""Whether memory and disk use grow, from samples of a run of any length. Pure.

**Memory.** The first third of a run is warm-up. Of the other two thirds the medians are
compared: the last may be above the middle one by ``ALLOWED_SHARE`` or ``ALLOWED_BYTES``,
whichever is more. Medians, because a process that was just started is small and one that
recovers is large; a leak moves the median all the same.

**Disk.** At no sample behind the warm-up may the partitions' files take more than 1.5 times the
live data and two segments of each partition. The copy of a segment that a start makes for a moment
is not counted.
"""

from dataclasses import dataclass
from statistics import median
from typing import Final

ALLOWED_SHARE: Final = 0.1
ALLOWED_BYTES: Final = 8 << 20
"""What an allocator may do to a process of 40 MiB (guess)."""
SAMPLES_MAX: Final = 4_096
SAMPLES_MIN: Final = 30
"""Fewer say nothing."""
LIVE_FACTOR: Final = 1.5
SEGMENTS: Final = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured at one moment, in bytes."""

    memory: dict[str, int]
    """Resident, by kind of process; of several of a kind the largest."""
    disk: int
    """Files of all partitions."""
    live: int
    """Texts that the node has to keep."""


class Samples:
    """Evenly spaced samples of the whole run, never more than ``SAMPLES_MAX``."""

    def __init__(self) -> None:
        self.kept: list[Sample] = []
        self._every = 1
        self._skipped = 0

    def add(self, sample: Sample) -> None:
        """Take one; as a run gets longer, ever fewer are kept."""
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        self.kept.append(sample)
        if len(self.kept) >= SAMPLES_MAX:
            self.kept = self.kept[::2]
            self._every *= 2


@dataclass(frozen=True, slots=True)
class MemoryVerdict:
    """One kind of process."""

    kind: str
    middle_bytes: int
    last_bytes: int

    @property
    def grows(self) -> bool:
        """More than it may."""
        allowed = max(ALLOWED_BYTES, self.middle_bytes * ALLOWED_SHARE)
        return self.last_bytes - self.middle_bytes > allowed


@dataclass(frozen=True, slots=True)
class DiskVerdict:
    """The sample that came closest to its limit, or went furthest beyond."""

    disk_bytes: int
    live_bytes: int
    limit_bytes: int

    @property
    def too_much(self) -> bool:
        """More than it may be."""
        return self.disk_bytes > self.limit_bytes


def memory_verdicts(samples: list[Sample]) -> list[MemoryVerdict]:
    """One for each kind that was there all along; none when there are too few samples."""
    if len(samples) < SAMPLES_MIN:
        return []
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    kinds = sorted({kind for sample in middle for kind in sample.memory})
    return [
        MemoryVerdict(kind, _median(middle, kind), _median(last, kind))
        for kind in kinds
        if any(kind in sample.memory for sample in last)
    ]


def disk_verdict(
    samples: list[Sample], *, partitions: int, segment_bytes: int
) -> DiskVerdict | None:
    """None when there are too few samples."""
    if len(samples) < SAMPLES_MIN:
        return None
    verdicts = [
        DiskVerdict(
            sample.disk,
            sample.live,
            int(LIVE_FACTOR * sample.live) + SEGMENTS * segment_bytes * partitions,
        )
        for sample in samples[len(samples) // 3 :]
    ]
    return max(verdicts, key=lambda each: each.disk_bytes - each.limit_bytes)


def _median(samples: list[Sample], kind: str) -> int:
    return int(median(sample.memory[kind] for sample in samples if kind in sample.memory))
