"""Deadlines in order: a min-heap with lazy deletion. Pure.

A timer is never removed when it becomes pointless (an ack makes a lease's timer so): its
owner recognises it when it comes up. So that acked leases do not pile up until their
deadlines, the owner says how many timers still matter, and the heap is rebuilt from those
when more than half of it is dead.

A large heap is gone through a few timers at a time: a million at once stopped the partition for
1.2 s. Meanwhile there are two, and what still matters moves from the old one to the new one.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

_REBUILD_MIN = 4096
"""Below this size dead timers are not worth the while (guess)."""

_AT_ONCE_MAX = 8192
"""Up to this size it is rebuilt at once, in about 10 ms: that costs less in all, and is what
happens with a few thousand leases. (Always in steps: 155,000 lease + ack/s, not 176,000.)"""

_STEP = 4
"""Timers of a large heap that are looked at in one call. Each call is of one timer that died, so
of as many dead as live ones the old heap is through when half as many more have."""

Timer = tuple[int, bytes]
"""``(deadline_ms, job_id)``."""


class Timers:
    """Deadlines of jobs, the earliest first."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._old: list[Timer] = []
        """What is being gone through, in order; mostly empty."""
        self._moved: Timer | None = None
        """The last timer of the old heap that still mattered."""

    def __len__(self) -> int:
        return len(self._heap) + len(self._old)

    def add(self, deadline_ms: int, job_id: bytes) -> None:
        """Come up at ``deadline_ms``."""
        heappush(self._heap, (deadline_ms, job_id))

    def next_deadline_ms(self) -> int | None:
        """The earliest deadline, which may belong to a dead timer."""
        if self._old:
            return self._first()[0][0]
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_ms: int) -> Timer | None:
        """Take the earliest timer when its deadline is not after ``now_ms``."""
        first = self._first()
        if first and first[0][0] <= now_ms:
            return heappop(first)
        return None

    def shrink(self, live: int, matters: Callable[[Timer], bool]) -> None:
        """One timer died, ``live`` are left: drop some dead ones when that is less than half."""
        if self._old:
            self._move_some(matters)
        elif (size := len(self._heap)) <= max(_REBUILD_MIN, 2 * live):
            return
        elif size <= _AT_ONCE_MAX:
            # Once each: a lease that is extended again and again to the same end has many.
            self._heap = list({timer for timer in self._heap if matters(timer)})
            heapify(self._heap)
        else:
            self._old, self._heap, self._moved = self._heap, [], None

    def _move_some(self, matters: Callable[[Timer], bool]) -> None:
        old = self._old
        for _ in range(min(_STEP, len(old))):
            timer = heappop(old)
            if timer != self._moved and matters(timer):
                heappush(self._heap, timer)
                self._moved = timer

    def _first(self) -> list[Timer]:
        """The heap with the earliest timer."""
        if not self._old or (self._heap and self._heap[0] <= self._old[0]):
            return self._heap
        return self._old
