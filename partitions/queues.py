"""The order in which ready jobs are leased. Pure.

First come, first served by submission. Fresh jobs arrive in order, so they only need a
queue; a job that comes back for another attempt keeps its old place, so those few are in a
heap, and the head is the older of the two heads.
"""

from collections import deque
from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from partitions.job import Job


class ReadyQueue:
    """Jobs that can be leased now; ``len`` counts them."""

    def __init__(self) -> None:
        self._fresh: deque[Job] = deque()
        self._returned: list[tuple[int, Job]] = []

    def __len__(self) -> int:
        return len(self._fresh) + len(self._returned)

    def add_fresh(self, job: Job) -> None:
        """A job whose ``number`` is greater than that of every job before it."""
        self._fresh.append(job)

    def add_all_fresh(self, jobs: Iterable[Job]) -> None:
        """Many fresh jobs, in order of their numbers."""
        self._fresh.extend(jobs)

    def add_returned(self, job: Job) -> None:
        """A job that waits for another attempt."""
        heappush(self._returned, (job.number, job))

    def head(self) -> Job | None:
        """The next job to lease, left in place."""
        fresh, returned = self._fresh, self._returned
        if returned and (not fresh or returned[0][0] < fresh[0].number):
            return returned[0][1]
        return fresh[0] if fresh else None

    def remove(self, job: Job) -> None:
        """Take out a job that is in here: at once at the head, slowly anywhere else."""
        fresh, returned = self._fresh, self._returned
        if returned and returned[0][1] is job:
            heappop(returned)
        elif fresh and fresh[0] is job:
            fresh.popleft()
        elif (entry := (job.number, job)) in returned:
            returned.remove(entry)
            heapify(returned)
        else:
            fresh.remove(job)
