"""What a front knows of a queue of one partition: what it was told, less what it took since. Pure.

A hint is true when it is told. Until the next one comes, this front alone may have asked for ten
jobs: if each of them went by the hint as it was, all ten would go where one job of the highest
priority waits, and nine would get what lies below it there, past better ones elsewhere. So a
front reckons with what it asked for. What other fronts take, it learns with the next hint.
"""

from collections.abc import Sequence

from partitions.limits import PRIORITY_MAX
from partitions.messages import Head

Rank = tuple[int, int]
"""The less, the better the next job: minus its priority, and when it was submitted (ms)."""


class KnownHead:
    """One queue of one partition."""

    __slots__ = ("_in_flight", "_taken", "head")

    def __init__(self, head: Head) -> None:
        self.head = head
        self._in_flight = 0
        """Jobs asked for and not answered: the partition may have counted without them."""
        self._taken = 0
        """Jobs that the head still counts, and that are taken."""

    def told(self, head: Head) -> None:
        """A hint came. What was answered before it is in it."""
        self.head = head
        self._taken = self._in_flight

    def ask(self, jobs: int) -> None:
        """So many are asked for."""
        self._in_flight += jobs
        self._taken += jobs

    def answered(self, jobs: int) -> None:
        """Those are answered, or never will be."""
        self._in_flight -= jobs

    def rank(self) -> Rank:
        """Of the job that the next lease would get, as far as that can be told.

        Jobs of one priority are taken to have come evenly between the oldest and the newest.
        """
        ahead = self._taken
        lowest = -PRIORITY_MAX
        for priority, count, oldest_ms, newest_ms in self.head.lines:
            if ahead < count:
                return -priority, oldest_ms + (newest_ms - oldest_ms) * ahead // count
            ahead -= count
            lowest = priority
        # Of lower priority than all that was told of, or none at all.
        return 1 - lowest, ahead

    def lines(self) -> list[tuple[Rank, int]]:
        """What is left of what was told, the best first: ``[(rank, jobs)]``."""
        ahead, lowest, told = self._taken, -PRIORITY_MAX, 0
        left: list[tuple[Rank, int]] = []
        for priority, count, oldest_ms, newest_ms in self.head.lines:
            lowest = priority
            told += count
            if ahead < count:
                age_ms = oldest_ms + (newest_ms - oldest_ms) * ahead // count
                left.append(((-priority, age_ms), count - ahead))
            ahead = max(ahead - count, 0)
        if (rest := self.head.ready - told - ahead) > 0:
            left.append(((1 - lowest, 0), rest))
        return left


def shares(known: Sequence[KnownHead], wanted: int) -> list[int]:
    """How many of the best ``wanted`` jobs each partition has, as far as that can be told.

    All in all fewer when the hints know of fewer. Of jobs of one priority those go first whose
    oldest is older.
    """
    found = [0] * len(known)
    lines = sorted(
        (rank, index, jobs) for index, each in enumerate(known) for rank, jobs in each.lines()
    )
    for _, index, jobs in lines:
        found[index] += min(jobs, wanted)
        wanted -= min(jobs, wanted)
    return found
