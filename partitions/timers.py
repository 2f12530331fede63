"""Deadlines in order: a min-heap with lazy deletion. Pure.

A timer is never removed when it becomes pointless (an ack makes a lease's timer so): its
owner recognises it when it comes up. So that acked leases do not pile up until their
deadlines, the owner says how many timers still matter, and the heap is rebuilt from those
when more than half of it is dead.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

_REBUILD_MIN = 4096
"""Below this size dead timers are not worth a rebuild (guess)."""

Timer = tuple[int, bytes]
"""``(deadline_ms, job_id)``."""


class Timers:
    """Deadlines of jobs, the earliest first."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline_ms: int, job_id: bytes) -> None:
        """Come up at ``deadline_ms``."""
        heappush(self._heap, (deadline_ms, job_id))

    def next_deadline_ms(self) -> int | None:
        """The earliest deadline, which may belong to a dead timer."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_ms: int) -> Timer | None:
        """Take the earliest timer when its deadline is not after ``now_ms``."""
        if self._heap and self._heap[0][0] <= now_ms:
            return heappop(self._heap)
        return None

    def shrink(self, live: int, matters: Callable[[Timer], bool]) -> None:
        """Drop dead timers when ``live`` is less than half of all."""
        if len(self._heap) > max(_REBUILD_MIN, 2 * live):
            # Once each: a lease that is extended again and again to the same end has many.
            self._heap = list({timer for timer in self._heap if matters(timer)})
            heapify(self._heap)
