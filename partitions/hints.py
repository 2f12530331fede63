"""What fronts are told of the queues of a partition, and when. Pure.

A hint names a queue when it begins or ceases to have jobs that can be leased. Where there are more
partitions to choose from, it also tells of the highest priorities, how many jobs each has and since
when, and again when that changes: at once when a front cannot reckon with the change itself, else
now and then.
"""

from typing import Final

from partitions.job import CREATED_SHIFT
from partitions.jobs import Jobs
from partitions.line import Line
from partitions.messages import Head
from partitions.queues import Queue

AGAIN_MS: Final = 50
"""A hint that was told is told again this often at most because of a change that fronts can reckon
with themselves: a job less or more among many."""
_LINES_MAX: Final = 3
"""Of how many priorities a hint tells."""
_FEW_JOBS: Final = 16
"""Of so few of a priority each change is told at once: a front with some leases on their way is
about to use them up. Guess: two fronts with eight each."""


class Hints:
    """What was told of each queue, and what is to be told next."""

    def __init__(self, jobs: Jobs, partitions: int) -> None:
        self._jobs = jobs
        self._alone = partitions == 1
        self._told: dict[str, tuple[Head, int]] = {}
        """``{queue: (what was told, when)}`` of those that have something to give."""

    def all(self, now_ms: int) -> list[Head]:
        """What a front that greets us has to know."""
        queues = self._jobs.kinds.queues.values()
        heads = [self._head(queue) for queue in queues if queue.top is not None]
        for head in heads:
            # After a start nobody else told it; that it is no longer so must be told too.
            self._told.setdefault(head.queue, (head, now_ms))
        return heads

    def changes(self, now_ms: int) -> list[Head]:
        """What all fronts have to know now."""
        changed = self._jobs.changed
        heads: list[Head] = []
        waiting: set[Queue] = set()
        queues = self._jobs.kinds.queues
        for queue in changed:
            if queues.get(queue.name, queue) is not queue:
                continue  # It went, and another of its name came: that one is told of.
            head, told = self._head(queue), self._told.get(queue.name)
            if head.priority is None:
                if told is None:
                    continue
                del self._told[queue.name]
            else:
                if told is not None and _can_wait(head, told[0], now_ms - told[1]):
                    if head != told[0] and not self._alone:
                        waiting.add(queue)
                    continue
                self._told[queue.name] = head, now_ms
            heads.append(head)
        changed.clear()
        changed |= waiting
        return heads

    def _head(self, queue: Queue) -> Head:
        top = queue.top
        if top is None:
            return Head(queue.name, None)
        ready = queue.ready
        if self._alone:
            # There is nothing to choose from.
            return Head(queue.name, top.priority, len(ready))
        lines = tuple([_told_of(*each) for each in ready.lines(_LINES_MAX)])
        return Head(queue.name, top.priority, len(ready), lines)


def _told_of(priority: int, line: Line) -> tuple[int, int, int, int]:
    oldest, newest = line.head(), line.last()
    assert oldest is not None, "a line that is told of has jobs"
    assert newest is not None, "a line that is told of has jobs"
    return (
        priority,
        len(line),
        oldest.number >> CREATED_SHIFT,
        newest.number >> CREATED_SHIFT,
    )


def _can_wait(head: Head, told: Head, since_ms: int) -> bool:
    """Whether fronts do well with what they were told."""
    if head.priority != told.priority:
        return False
    if since_ms < AGAIN_MS:
        return _roughly(head) == _roughly(told)
    return head.lines == told.lines


def _roughly(head: Head) -> list[tuple[int, ...]]:
    return [
        line if line[1] <= _FEW_JOBS else (line[0], line[1].bit_length()) for line in head.lines
    ]
