"""Jobs in order of submission, from which any can be taken out. Pure.

A list of lists: each holds some hundred jobs in order of their ``number``. To take one from the
front, to append one, to find, to put in or to take out one anywhere: all of it costs about the
same with a thousand jobs as with millions, and 9 bytes of memory each.

``share`` hands out the lists themselves, so that a snapshot need not copy millions of entries;
until ``unshare`` they are replaced instead of changed, but for appending to the last one.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from operator import attrgetter

from partitions.job import Job

_CHUNK = 512

_number_of = attrgetter("number")


def _first_number(chunk: list[Job]) -> int:
    return chunk[0].number


class Line:
    """Jobs by ``number``, no two of which are the same; ``len`` counts them."""

    __slots__ = ("_chunks", "_count", "_shared")

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        """``jobs`` in order."""
        listed = list(jobs)
        self._chunks = [listed[first : first + _CHUNK] for first in range(0, len(listed), _CHUNK)]
        """None is empty."""
        self._count = len(listed)
        self._shared = False

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Job]:
        for chunk in self._chunks:
            yield from chunk

    def append(self, job: Job) -> None:
        """A job whose number is greater than all others."""
        self._count += 1
        if self._chunks and len(chunk := self._chunks[-1]) < _CHUNK:
            chunk.append(job)
        else:
            self._chunks.append([job])

    def add(self, job: Job) -> None:
        """Put a job in its place."""
        self._count += 1
        chunks = self._chunks
        if not chunks:
            chunks.append([job])
            return
        if (last := chunks[-1])[-1].number < job.number:  # A job that was just submitted.
            if len(last) < _CHUNK:
                last.append(job)
            else:
                chunks.append([job])
            return
        at = max(0, bisect_right(self._chunks, job.number, key=_first_number) - 1)
        chunk = self._own(at)
        chunk.insert(bisect_left(chunk, job.number, key=_number_of), job)
        if len(chunk) > 2 * _CHUNK:
            self._chunks[at : at + 1] = [chunk[:_CHUNK], chunk[_CHUNK:]]

    def remove(self, job: Job) -> None:
        """Take out a job that is in here."""
        self._count -= 1
        at, index = self._place(job)
        chunk = self._own(at)
        del chunk[index]
        if not chunk:
            del self._chunks[at]
            if self._shared and at == len(self._chunks) > 0:
                # What is the last one now was not when it was shared: nothing may join it there.
                self._own(at - 1)

    def replace(self, job: Job, by: Job) -> None:
        """Put another job of the same number in the place of one that is in here."""
        at, index = self._place(job)
        self._own(at)[index] = by

    def head(self) -> Job | None:
        """The first job, left in place."""
        return self._chunks[0][0] if self._chunks else None

    def last(self) -> Job | None:
        """The last job, left in place."""
        return self._chunks[-1][-1] if self._chunks else None

    def after(self, number: int) -> Iterator[Job]:
        """The jobs with a greater number, in order; nothing may change meanwhile."""
        at = max(0, bisect_right(self._chunks, number, key=_first_number) - 1)
        for chunk in self._chunks[at : at + 1]:
            yield from chunk[bisect_right(chunk, number, key=_number_of) :]
        for chunk in self._chunks[at + 1 :]:
            yield from chunk

    def share(self) -> list[list[Job]]:
        """The lists as they are; jobs that are appended later may appear in the last one."""
        self._shared = True
        return list(self._chunks)

    def unshare(self) -> None:
        """Nobody looks at them any more."""
        self._shared = False

    def _own(self, at: int) -> list[Job]:
        """The list there, to be changed."""
        if self._shared:
            self._chunks[at] = self._chunks[at].copy()
        return self._chunks[at]

    def _place(self, job: Job) -> tuple[int, int]:
        first = self._chunks[0]
        if first[0] is job:
            return 0, 0
        at = max(0, bisect_right(self._chunks, job.number, key=_first_number) - 1)
        index = bisect_left(self._chunks[at], job.number, key=_number_of)
        assert self._chunks[at][index] is job, "it is not in here"
        return at, index
