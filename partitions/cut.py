"""The jobs as they were at one moment, handed out a few at a time while they change. Pure.

A job that is about to change before its turn is copied first (``preserve``); one that was
handed out already, or came later, is not. So a snapshot of millions of jobs stops nobody: the
moment costs one copy of the list, and each change in the meantime one copy of a job.
"""

from copy import copy

from partitions.job import Job


class Cut:
    """A consistent cut through the jobs; made at the moment that it shows."""

    def __init__(self, jobs: list[Job], last_number: int) -> None:
        """``jobs`` in order of their numbers, the last of which is at most ``last_number``."""
        self._jobs = jobs
        self._next = 0
        self._last_number = last_number
        self._done_number = 0
        self._copied: set[bytes] = set()
        self._copies: list[Job] = []

    def preserve(self, job: Job) -> None:
        """The job is about to change: keep it as it was, unless it was handed out already."""
        if self._done_number < job.number <= self._last_number and job.job_id not in self._copied:
            self._copied.add(job.job_id)
            self._copies.append(copy(job))

    def take(self, count: int) -> list[Job]:
        """At most ``count`` jobs more, in no order that matters; empty when all were given."""
        taken = self._copies[-count:]
        del self._copies[-count:]
        while len(taken) < count and self._next < len(self._jobs):
            job = self._jobs[self._next]
            self._next += 1
            self._done_number = job.number
            if job.job_id in self._copied:
                self._copied.discard(job.job_id)
            else:
                taken.append(job)
        return taken
