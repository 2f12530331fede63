"""Whether jobs were leased in their order, judged afterwards from what was seen outside. Pure.

Requests overlap, so only what is sure counts. A job was **surely ready** before a lease, and
surely left behind by it, when the answer to its submit had come before the lease was sent, and
the lease that gave it was sent only after this one was answered (or it was never leased). A
leased job is

- an **inversion** when a job of higher priority was surely left behind. It had been waiting since
  the answer to its submit; of several, the one that had waited longest counts.
- **overtaking** when one of the same priority was, that is surely older: the answer to its submit
  had come before this job's submit was sent, and that distance is how much.

The times must be of one clock, that of a request from just before it is sent, that of an answer
from just after it came: so a doubt is always in favour of the node.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

import msgspec

from bench.errors import MalformedAnswerError

ABOVE_MS: Final = (0, 1, 5, 20, 100, 500)
"""Inversions are counted by these: how many of them by more than so much; 0 is all."""

_NEVER_NS: Final = 1 << 63


class Order(msgspec.Struct):
    """How many jobs were leased, and how many of them out of order."""

    leases: int = 0
    """Jobs, however many a request asked for."""
    inversions: dict[int, int] = {}
    """``{ms: how many}`` while a better job had been waiting for more than so long."""
    overtaking: dict[int, int] = {}
    """``{ms: how many}`` before a job of the same priority older by more than so much."""

    def extend(self, other: "Order") -> None:
        """Add what another phase saw."""
        self.leases += other.leases
        for own, more in (
            (self.inversions, other.inversions),
            (self.overtaking, other.overtaking),
        ):
            for above_ms, count in more.items():
                own[above_ms] = own.get(above_ms, 0) + count


class _Submit(msgspec.Struct, frozen=True, gc=False):
    priority: int
    sent_ns: int
    answered_ns: int


class _Lease(msgspec.Struct, frozen=True, gc=False):
    sent_ns: int
    answered_ns: int


class History:
    """Every submit and every lease of a run."""

    def __init__(self) -> None:
        """Start with none seen."""
        self._submits: dict[str, _Submit] = {}
        self._leases: dict[str, _Lease] = {}

    def submitted(self, job_id: str, priority: int, sent_ns: int, answered_ns: int) -> None:
        """A job was submitted."""
        self._submits[job_id] = _Submit(priority, sent_ns, answered_ns)

    def leased(self, job_ids: Iterable[str], sent_ns: int, answered_ns: int) -> None:
        """One answer gave these jobs. The answer to the submit of one may be yet to come.

        Raises:
            MalformedAnswerError: one was leased before.
        """
        lease = _Lease(sent_ns, answered_ns)
        for job_id in job_ids:
            if self._leases.setdefault(job_id, lease) is not lease:
                raise MalformedAnswerError(f"job {job_id} was leased twice")

    @property
    def waiting(self) -> int:
        """Jobs that were not leased yet."""
        return len(self._submits) - len(self._leases)

    def judge(self, since_ns: int) -> Order:
        """The order of the leases sent from ``since_ns`` on; nothing is in flight.

        Raises:
            MalformedAnswerError: a job was leased that was not submitted here.
        """
        lines = self._lines()
        inversions: list[int] = []
        overtaking: list[int] = []
        leases = 0
        for job_id, lease in self._leases.items():
            if lease.sent_ns < since_ns:
                continue
            leases += 1
            job = self._submits.get(job_id)
            if job is None:
                raise MalformedAnswerError(f"job {job_id} was leased, and not submitted by us")
            better = (line for priority, line in lines.items() if priority > job.priority)
            if (oldest_ns := _earliest(line.oldest_left_ns(lease) for line in better)) is not None:
                inversions.append(lease.sent_ns - oldest_ns)
            oldest_ns = lines[job.priority].oldest_left_ns(lease)
            if oldest_ns is not None and oldest_ns < job.sent_ns:
                overtaking.append(job.sent_ns - oldest_ns)
        return Order(leases, _counts_above(inversions), _counts_above(overtaking))

    def _lines(self) -> dict[int, "_Line"]:
        by_priority: dict[int, list[tuple[int, int]]] = {}
        for job_id, submit in self._submits.items():
            lease = self._leases.get(job_id)
            leased_ns = _NEVER_NS if lease is None else lease.sent_ns
            by_priority.setdefault(submit.priority, []).append((submit.answered_ns, leased_ns))
        return {priority: _Line(jobs) for priority, jobs in by_priority.items()}


class _Line:
    """The jobs of one priority, in the order in which their submits were answered."""

    def __init__(self, jobs: list[tuple[int, int]]) -> None:
        """Of pairs: when the submit was answered, when the lease was sent."""
        jobs.sort()
        self._answered_ns = [answered_ns for answered_ns, _ in jobs]
        # It only grows, so the first job leased after a moment can be found by bisection.
        self._latest_lease_ns = list(accumulate((leased_ns for _, leased_ns in jobs), max))

    def oldest_left_ns(self, lease: _Lease) -> int | None:
        """Since when the job was ready that the lease surely left behind; of many, the oldest."""
        index = bisect_right(self._latest_lease_ns, lease.answered_ns)
        if index == len(self._answered_ns) or self._answered_ns[index] >= lease.sent_ns:
            return None
        return self._answered_ns[index]


def _earliest(times: Iterator[int | None]) -> int | None:
    return min((time for time in times if time is not None), default=None)


def _counts_above(durations_ns: list[int]) -> dict[int, int]:
    durations_ns.sort()
    many = len(durations_ns)
    return {ms: many - bisect_right(durations_ns, ms * 1_000_000) for ms in ABOVE_MS}
