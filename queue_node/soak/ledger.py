"""The books of a run without end: what each job is known to be, as long as that matters. Pure.

A test can keep all it saw; a run of months cannot. So a job is read until it has ended, read
again a while later (what has ended stays so), and once more when its retention is over: then it
must be gone, is judged as a whole, and forgotten here too. What is kept is bounded by the jobs
of one retention and the few that submitters leave unfinished.

A payload begins with a word of its own, its **key**, and is kept as a fingerprint (its key,
length and digest), so the size of texts does not matter either. A submit is noted before it is
sent. When its answer is lost it is in doubt: it becomes a job when a lease shows its payload, or
is forgotten after ``DOUBT_MS``. A lease of a payload that nobody submitted, or of a job that was
forgotten, is a violation.

Times are the client's, ``now_ms`` an argument; one caller at a time.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Final

from queue_node.soak.history import (
    SLACK_MS,
    JobHistory,
    Kind,
    Lease,
    Report,
    Submit,
    View,
    Violation,
    judge,
)

DOUBT_MS: Final = 600_000
"""A submit without an answer whose job nobody has leased by then was not stored: far longer
than any job waits here."""

OPEN_EVERY_MS: Final = 3_000
"""How often a job that has not ended is read."""
HOLD_MS: Final = 8_000
"""From the first sight of a job's end to the second."""
GONE_AFTER_MS: Final = 15_000
"""Beyond its retention: forgetting is done in bunches, five seconds apart, and may be late."""
GONE_WITHIN_MS: Final = 120_000
"""Beyond its retention and through all that is done to the node, a job must be gone by then."""

KEPT_VIOLATIONS: Final = 1_000


def fingerprint(text: str) -> str:
    """Stands for ``text``, byte for byte; begins with its first word."""
    digest = blake2b(text.encode(), digest_size=12).hexdigest()
    return f"{key_of(text)} {len(text)} {digest}"


def key_of(text: str) -> str:
    """The first word of a payload, or of its fingerprint."""
    return text.split(" ", 1)[0]


@dataclass(slots=True)
class _Job:
    history: JobHistory
    payload_bytes: int = 0
    result_bytes: int = 0
    begun_ms: int = 0
    """It cannot have ended before."""
    ended_ms: int | None = None
    """When it was first seen to have ended."""
    pending: int = 0
    """Reports under way."""
    turn: int = 0
    """Of its next reading; an older one in the agenda is void."""


@dataclass(slots=True)
class _Doubt:
    submit: Submit
    payload_bytes: int
    asked_ms: int


@dataclass(slots=True)
class Counts:
    """What came of everything so far."""

    accepted: int = 0
    """Submits that were answered with 201, or under a key with 200."""
    keyed: int = 0
    """Jobs with an idempotency key and a group whose submits had an answer."""
    replayed: int = 0
    """Submits under a key that were answered with 200."""
    conflicts: int = 0
    """Other bodies under the key of a job that were answered with 422."""
    full: int = 0
    """Submits that were answered with 507."""
    finished: int = 0
    """Jobs that were seen to have ended."""
    verified: int = 0
    """Jobs that were judged as a whole, and forgotten."""
    seen_gone: int = 0
    """Of those, the ones that were seen to be gone after their retention."""
    unverified: int = 0
    """Jobs that were read too late: their retention was over."""
    leases: int = 0
    retries: int = 0
    """Leases of an attempt after the first."""
    settled: int = 0
    """Reports that were answered with 200."""
    refused: int = 0
    """Reports that were answered with 409: the lease was over."""
    resent: int = 0
    """Acks that were sent again after a 200."""
    unseen_leases: int = 0
    lost_leases: int = 0
    """Lease calls without a definite answer."""
    by_kind: Counter[Kind] = field(default_factory=Counter)
    """Violations."""


class Ledger:
    """All jobs that matter now, and the counts of all that ever were."""

    def __init__(self, *, lease_ms: int, retention_ms: int) -> None:
        self._lease_ms = lease_ms
        self._retention_ms = retention_ms
        self._jobs: dict[str, _Job] = {}
        self._doubts: dict[str, _Doubt] = {}
        self._job_of: dict[str, str] = {}
        self._agenda: list[tuple[int, int, str]] = []
        self._turns = itertools.count(1)
        self.counts = Counts()
        self.violations: list[Violation] = []
        """The first ``KEPT_VIOLATIONS``; all are counted."""
        self.live_bytes = 0
        """Texts that the node has to keep."""
        self.open = 0
        """Jobs that are known and have not ended."""

    def __len__(self) -> int:
        return len(self._jobs) + len(self._doubts)

    # Submits ------------------------------------------------------------------------------

    def submitting(self, payload: str, max_retries: int, now_ms: int) -> None:
        """A submit is about to be sent."""
        submit = Submit(fingerprint(payload), max_retries, None)
        self._doubts[key_of(payload)] = _Doubt(submit, len(payload.encode()), now_ms)

    def submitted(self, key: str, job_id: str, now_ms: int) -> None:
        """It was answered with 201, or under a key with 200."""
        self.counts.accepted += 1
        doubt = self._doubts.get(key)
        if doubt is None:
            # A worker was quicker to see the job.
            known = self._job_of.get(key)
            if known != job_id:
                self._note(Kind.DOUBLED, job_id, f"its submit {key} became job {known} before")
            return
        if job_id in self._jobs:
            self._note(Kind.DOUBLED, job_id, f"two submits got this id, the later one is {key}")
            del self._doubts[key]
            return
        self._settle_doubt(key, job_id, now_ms)

    def replayed(self, key: str, job_id: str, answered_id: str) -> None:
        """It was sent again under its key, after it had become a job, and answered with 200."""
        self.counts.replayed += 1
        if answered_id != job_id:
            self._note(Kind.DOUBLED, job_id, f"its key {key} was answered with {answered_id}")

    def not_submitted(self, key: str) -> None:
        """It was refused for certain: no job may come of it."""
        if self._doubts.pop(key, None) is None:
            job_id = self._job_of.get(key, key)
            self._note(Kind.WRONG, job_id, f"the submit {key} was refused, and is a job")

    # Work ---------------------------------------------------------------------------------

    def leased(self, lease: Lease, now_ms: int) -> None:
        """A lease was answered with 200; its payload as it came."""
        self.counts.leases += 1
        self.counts.retries += lease.attempt > 1
        key = key_of(lease.payload)
        lease = replace(lease, payload=fingerprint(lease.payload))
        job = self._jobs.get(lease.job_id)
        if job is None:
            if key not in self._doubts:
                self._note_stray(lease, key)
                return
            job = self._settle_doubt(key, lease.job_id, now_ms)
        job.history.leases.append(lease)
        job.begun_ms = max(job.begun_ms, lease.lease_until_ms - self._lease_ms)

    def reporting(self, job_id: str, token: int, text: str, now_ms: int, *, failed: bool) -> int:
        """A report is about to be sent; returns its number, for ``reported``."""
        job = self._jobs.get(job_id)
        if job is None:
            return -1  # its lease was a violation, and is noted
        job.pending += 1
        job.result_bytes = max(job.result_bytes, len(text))
        job.history.reports.append(
            Report(job_id, token, failed, fingerprint(text), now_ms, status=None)
        )
        return len(job.history.reports) - 1

    def reported(
        self, job_id: str, number: int, status: int | None, now_ms: int, *, refused: bool = False
    ) -> None:
        """The report was answered, or its connection broke (``status`` None)."""
        self.counts.settled += status == 200
        self.counts.refused += status == 409
        job = self._jobs.get(job_id)
        if job is None or number < 0:
            return
        job.pending -= 1
        reports = job.history.reports
        reports[number] = replace(reports[number], status=status, refused=refused)
        if job.ended_ms is None and status == 200:
            self._plan(job, now_ms)

    def strange(self, job_id: str, what: str) -> None:
        """An answer that the contract does not know."""
        self._note(Kind.WRONG, job_id, what)

    # Reading ------------------------------------------------------------------------------

    def next_to_read(self, now_ms: int) -> str | None:
        """A job that is due to be read; ``viewed`` must follow."""
        while self._agenda and self._agenda[0][0] <= now_ms:
            _, turn, job_id = heapq.heappop(self._agenda)
            job = self._jobs.get(job_id)
            if job is not None and job.turn == turn:
                return job_id
        return None

    def not_viewed(self, job_id: str, now_ms: int) -> None:
        """Reading it led to nothing; it is due again soon."""
        if job := self._jobs.get(job_id):
            self._plan(job, now_ms + 200)

    def viewed(self, view: View, asked_ms: int, now_ms: int) -> None:
        """A job was read, between ``asked_ms`` and ``now_ms``; its texts as they came."""
        job = self._jobs.get(view.job_id)
        if job is None:
            return
        result, error = view.result, view.result_error
        view = replace(
            view,
            result=None if result is None else fingerprint(result),
            result_error=error if error in (None, "lease expired") else fingerprint(error),
        )
        if view.state is None and now_ms >= job.begun_ms + self._retention_ms - SLACK_MS:
            self._gone(job, now_ms)
        elif job.ended_ms is not None:
            self._seen_again(job, view, job.ended_ms, now_ms)
        elif view.final:
            job.history.views.append(view)
            job.ended_ms = now_ms
            self.open -= 1
            self.live_bytes -= job.payload_bytes - job.result_bytes
            self.counts.finished += 1
            self._plan(job, now_ms + HOLD_MS)
        elif view.state is None:
            job.history.views.append(view)
            self._judge(job)
        else:
            self._keep_last(job, view)
            job.begun_ms = max(job.begun_ms, asked_ms)
            self._plan(job, now_ms + OPEN_EVERY_MS)

    def forget_old_doubts(self, now_ms: int) -> None:
        """Submits without an answer that became no job in all this time."""
        old = [key for key, each in self._doubts.items() if each.asked_ms < now_ms - DOUBT_MS]
        for key in old:
            del self._doubts[key]

    # The end ------------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        """Jobs that have not been seen to end."""
        return [job_id for job_id, job in self._jobs.items() if job.ended_ms is None]

    def finished(self) -> list[str]:
        """Jobs that have ended and are still kept here."""
        return [job_id for job_id, job in self._jobs.items() if job.ended_ms is not None]

    def close(self, unseen_leases_max: int) -> None:
        """Judge all that is left; every job must have been read, and all work be over.

        A job that nobody has read since its ack counts as lost.
        """
        for job in list(self._jobs.values()):
            self._judge(job)
        if self.counts.unseen_leases > unseen_leases_max:
            self._note(
                Kind.DOUBLED,
                "all jobs",
                f"{self.counts.unseen_leases} attempts were used up by leases that nobody saw,"
                f" at most {unseen_leases_max} answers were lost",
            )

    # --------------------------------------------------------------------------------------

    def _note(self, kind: Kind, job_id: str, what: str) -> None:
        self._keep(Violation(kind, job_id, what))

    def _keep(self, violation: Violation) -> None:
        self.counts.by_kind[violation.kind] += 1
        if len(self.violations) < KEPT_VIOLATIONS:
            self.violations.append(violation)

    def _note_stray(self, lease: Lease, key: str) -> None:
        other = self._job_of.get(key)
        if other is not None:
            self._note(Kind.DOUBLED, lease.job_id, f"one submit ({key}) became job {other} too")
        else:
            what = "leased, but was forgotten after its end, or nobody submitted it"
            self._note(Kind.DOUBLED, lease.job_id, f"{what} ({key})")

    def _settle_doubt(self, key: str, job_id: str, now_ms: int) -> _Job:
        doubt = self._doubts.pop(key)
        history = JobHistory(job_id, replace(doubt.submit, job_id=job_id))
        job = _Job(history, payload_bytes=doubt.payload_bytes, begun_ms=doubt.asked_ms)
        self._jobs[job_id] = job
        self._job_of[key] = job_id
        self.live_bytes += job.payload_bytes
        self.open += 1
        self._plan(job, now_ms + OPEN_EVERY_MS)
        return job

    def _plan(self, job: _Job, at_ms: int) -> None:
        job.turn = next(self._turns)
        heapq.heappush(self._agenda, (at_ms, job.turn, job.history.job_id))

    @staticmethod
    def _keep_last(job: _Job, view: View) -> None:
        """A job may wait for long: only the last view of its waiting is kept, and a lapse."""
        views = job.history.views
        if views and not views[-1].final and view.attempts >= views[-1].attempts:
            views[-1] = view
        else:
            views.append(view)

    def _seen_again(self, job: _Job, view: View, ended_ms: int, now_ms: int) -> None:
        views = job.history.views
        if view != views[-1]:
            views.append(view)
            self._judge(job)
            return
        gone_ms = ended_ms + self._retention_ms + GONE_AFTER_MS
        if now_ms > ended_ms + self._retention_ms + GONE_WITHIN_MS:
            late_ms = now_ms - ended_ms - self._retention_ms
            self._note(Kind.WRONG, view.job_id, f"still there {late_ms} ms after its retention")
            self._judge(job)
        else:
            self._plan(job, max(gone_ms, now_ms + OPEN_EVERY_MS))

    def _gone(self, job: _Job, now_ms: int) -> None:
        if job.pending:
            self._plan(job, now_ms + OPEN_EVERY_MS)
            return
        if job.ended_ms is None:
            # It ended, and its retention too, before it was read: that is no loss.
            self.counts.unverified += 1
            self._drop(job)
            return
        self.counts.seen_gone += 1
        self._judge(job)

    def _judge(self, job: _Job) -> None:
        judgement = judge(job.history, lease_ms=self._lease_ms)
        for violation in judgement.violations:
            self._keep(violation)
        self.counts.unseen_leases += judgement.unseen_leases
        self.counts.verified += 1
        self._drop(job)

    def _drop(self, job: _Job) -> None:
        history = job.history
        del self._jobs[history.job_id]
        if history.submit is not None:
            self._job_of.pop(key_of(history.submit.payload), None)
        if job.ended_ms is None:
            self.open -= 1
            self.live_bytes -= job.payload_bytes
        else:
            self.live_bytes -= job.result_bytes


def lines_of(violations: list[Violation], most: int) -> Iterator[str]:
    """The first ``most`` of them for people."""
    for violation in violations[:most]:
        yield f"{violation.kind.value}: {violation}"
    if len(violations) > most:
        yield f"and {len(violations) - most} more"
