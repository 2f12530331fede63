"""A figure of a micro benchmark, and how to time one.

The best of a few turns counts: what disturbs a turn (another process, a page fault) only
ever makes it slower.
"""

import gc
import time
from collections.abc import Callable

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One line of the table."""

    what: str
    per_second: float
    note: str = ""

    @property
    def us_each(self) -> float:
        """Microseconds for one."""
        return 1e6 / self.per_second


def seconds_of(work: Callable[[], object]) -> float:
    """How long ``work`` takes, with garbage from before out of the way."""
    gc.collect()
    before_ns = time.perf_counter_ns()
    work()
    # A clock that did not move would make a rate of infinity.
    return max(1, time.perf_counter_ns() - before_ns) / 1e9


def best_rate(count: int, work: Callable[[], object], turns: int = 5) -> float:
    """Rate of ``work``, which does ``count`` things and can be repeated."""
    return count / min(seconds_of(work) for _ in range(turns))
