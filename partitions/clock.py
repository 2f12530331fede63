"""The time: milliseconds since 1970 that never go back. The only reader of the wall clock.

**One reading for a node.** The supervisor reads the wall clock once, when the node starts, and
tells every process that it starts, now or in a month, how far the wall clock was ahead of the
monotonic one, which all processes of a machine share. From then on everybody adds monotonic
time to that. So while a node runs, no step of the wall clock moves a lease, not even when a
partition or front is started again after it; and fronts (the ``Date`` of an answer, the times
in job ids) agree with partitions (leases, ``created_at``).

**A floor for a partition.** Its clock begins no earlier than the newest time in its log. A lease
ends its duration after a time in the log, so with a wall clock that was set back between two
runs none lasts longer than its duration from the start on, and no record, ``created_at`` or
retention goes back.

**What a start cannot tell** is a wall clock that was set forward from real time that passed while
the node was down. It believes the wall clock: leases that it says are over end, all at once;
each costs its job one attempt, and the token refuses the worker that was cut off.

**What it costs.** Times that are shown stay wrong by a step until the node is started again, and
after a step back until the wall clock has caught up. A partition whose floor counted is ahead of
its fronts by as much, and says so in the log: a worker that reckons its lease by ``Date`` then
believes that it is longer than it is, and a late report of it is refused. Time in which
the whole machine is suspended is not counted while the node runs.
"""

import time
from typing import Protocol


def wall_ms() -> int:
    """The wall clock, milliseconds since 1970; it may be set forward and back at any time."""
    return time.time_ns() // 1_000_000  # noqa: TID251 - the one place


def wall_ahead_ms() -> int:
    """How far the wall clock is ahead of the monotonic one now; what a node's processes share."""
    return wall_ms() - time.monotonic_ns() // 1_000_000


class Clock(Protocol):
    """Whoever tells a process the time."""

    def now_ms(self) -> int:
        """Milliseconds since 1970; never less than the last answer."""


class SystemClock:
    """The clock of a real process.

    Args:
        floor_ms: the newest time in the log; the clock begins no earlier.
        ahead_ms: what ``wall_ahead_ms`` was when the node started; None reads it now.
    """

    def __init__(self, floor_ms: int = 0, *, ahead_ms: int | None = None) -> None:
        if ahead_ms is None:
            ahead_ms = wall_ahead_ms()
        floor_ahead_ms = floor_ms - time.monotonic_ns() // 1_000_000
        self.raised_ms = max(0, floor_ahead_ms - ahead_ms)
        """By how much the floor is above what the clock would have said."""
        self._ahead_ms = max(ahead_ms, floor_ahead_ms)

    def now_ms(self) -> int:
        """See ``Clock.now_ms``."""
        return time.monotonic_ns() // 1_000_000 + self._ahead_ms
