"""The time: milliseconds since 1970 that never go back. The only reader of the wall clock.

The wall clock is read once, at the start; from then on monotonic time is added to it. So a
step of the wall clock while the process runs moves no lease, and what is stored still reads
as a date. ``floor_ms`` is the newest time found in the log: a wall clock that was set back
between two runs cannot make a record older than the one before it.
"""

import time
from typing import Protocol


def wall_ms() -> int:
    """The wall clock, milliseconds since 1970; it may be set forward and back at any time."""
    return time.time_ns() // 1_000_000


class Clock(Protocol):
    """Whoever tells a partition the time."""

    def now_ms(self) -> int:
        """Milliseconds since 1970; never less than the last answer."""


class SystemClock:
    """The clock of a real partition."""

    def __init__(self, floor_ms: int = 0) -> None:
        wall_ms = time.time_ns() // 1_000_000
        self._offset_ns = max(wall_ms, floor_ms) * 1_000_000 - time.monotonic_ns()

    def now_ms(self) -> int:
        """See ``Clock.now_ms``."""
        return (time.monotonic_ns() + self._offset_ns) // 1_000_000
