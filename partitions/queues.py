"""The queues of one partition: order of leasing, groups, counts. Pure.

Ready jobs are leased by priority, the higher first, then by submission. A job that comes back
for another attempt, or whose time has come, has its old place.

**Groups.** Of the jobs of one group only one can be leased, or is running: the one that runs, or
else the first by submission, once it is ready. So a first job that waits holds back the rest.
"""

from bisect import insort
from collections.abc import Iterator
from operator import neg

import msgspec

from partitions.job import Job, State
from partitions.line import Line
from partitions.rates import Rate


class Head(msgspec.Struct, frozen=True, gc=False):
    """The job that a queue would give next: what leasing over partitions goes by."""

    priority: int
    number: int


class ReadyJobs:
    """Jobs of one queue that can be leased now; ``len`` counts them."""

    __slots__ = ("_count", "_lines", "_priorities")

    def __init__(self) -> None:
        self._lines: dict[int, Line] = {}
        """By priority, none of them empty but that of 0."""
        self._priorities: list[int] = []
        """Of the lines, highest first."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, job: Job, priority: int) -> None:
        """Put a job in its place."""
        line = self._lines.get(priority)
        if line is None:
            line = self._lines[priority] = Line()
            insort(self._priorities, priority, key=neg)
        line.add(job)
        self._count += 1

    def fill(self, jobs: list[Job], priority: int) -> None:
        """Many jobs at once, in order of their numbers, where there are none of that priority."""
        assert priority not in self._lines, "not the first of this priority"
        self._lines[priority] = Line(jobs)
        insort(self._priorities, priority, key=neg)
        self._count += len(jobs)

    def remove(self, job: Job, priority: int) -> None:
        """Take out a job that is in here."""
        line = self._lines[priority]
        line.remove(job)
        self._count -= 1
        if not line and priority:
            del self._lines[priority]
            self._priorities.remove(priority)

    def head(self) -> Job | None:
        """The next job to lease, left in place."""
        for priority in self._priorities:
            if (job := self._lines[priority].head()) is not None:
                return job
        return None

    def top(self) -> Head | None:
        """What is known of that job."""
        for priority in self._priorities:
            if (job := self._lines[priority].head()) is not None:
                return Head(priority, job.number)
        return None

    def lines(self, most: int) -> list[tuple[int, Line]]:
        """The jobs of each of the highest priorities that have some."""
        found = [(each, self._lines[each]) for each in self._priorities[: most + 1]]
        return [(priority, line) for priority, line in found if line][:most]

    def oldest(self) -> int | None:
        """The number of the job that was submitted first, whatever its priority."""
        return min(
            (job.number for line in self._lines.values() if (job := line.head()) is not None),
            default=None,
        )

    def __iter__(self) -> Iterator[Job]:
        for priority in self._priorities:
            yield from self._lines[priority]


class Group:
    """The unfinished jobs of one group."""

    __slots__ = ("members", "offered", "running")

    def __init__(self) -> None:
        self.members = Line()
        self.offered: Job | None = None
        """The one that is among the ready jobs of the queue."""
        self.running: Job | None = None


class Queue:
    """One queue."""

    __slots__ = (
        "acked", "counts", "failed", "groups", "kinds", "leased", "name", "paused", "ready",
        "submitted",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.kinds = 0
        """How many kinds of jobs it has: with none it can go."""
        self.ready = ReadyJobs()
        self.groups: dict[str, Group] = {}
        self.counts = [0] * len(State)
        """Jobs by state."""
        self.submitted = Rate()
        self.leased = Rate()
        self.acked = Rate()
        self.failed = Rate()

    @property
    def top(self) -> Head | None:
        """The job that it would give next; None: it gives none."""
        return None if self.paused else self.ready.top()

    @property
    def jobs(self) -> int:
        """All of them, finished ones too."""
        return sum(self.counts)
