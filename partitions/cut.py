"""The jobs as they were at one moment, handed out a few at a time while they change. Pure.

A job that is about to change before its turn is copied first (``preserve``); one that was
handed out already, or came later, is not. So a snapshot of millions of jobs stops nobody: the
moment costs one list of lists (``Line.share``), and each change in the meantime one copy of a job.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from partitions.job import Job

_PASSED_MAX: Final = 4


class Cut:
    """A consistent cut through the jobs; made at the moment that it shows."""

    def __init__(self, chunks: list[list[Job]], last_number: int) -> None:
        """``chunks`` in order of numbers; the last may get jobs above ``last_number`` later."""
        self._jobs = _up_to(chunks, last_number)
        self._last_number = last_number
        self._done_number = 0
        self._copied: set[bytes] = set()
        self._copies: list[Job] = []

    def preserve(self, job: Job) -> None:
        """The job is about to change: keep it as it was, unless it was handed out already."""
        if self._done_number < job.number <= self._last_number and job.job_id not in self._copied:
            self._copied.add(job.job_id)
            self._copies.append(job.copied())

    def take(self, count: int) -> list[Job]:
        """At most ``count`` jobs more, in no order that matters; empty when all were given.

        Of those that were copied it passes a few times ``count`` at most. They are as many as the
        copies that wait, which are given when nothing else was met: so it need not pass more.
        """
        taken: list[Job] = []
        for job in islice(self._jobs, _PASSED_MAX * count):
            self._done_number = job.number
            if job.job_id in self._copied:
                self._copied.discard(job.job_id)
            else:
                taken.append(job)
                if len(taken) == count:
                    break
        if not taken:
            taken = self._copies[-count:]
            del self._copies[-count:]
        return taken


def _up_to(chunks: list[list[Job]], last_number: int) -> Iterator[Job]:
    for chunk in chunks:
        for job in chunk:
            if job.number > last_number:
                return
            yield job
