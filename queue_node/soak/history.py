"""What clients saw of one job, and whether it may be so. Pure.

Clients note what they asked for and what they heard. ``judge`` holds that against the
promises of the node, and never blames it for what a client cannot know: an answer that was
lost with its connection (``status`` None) or was a 503 may stand for anything.

Two clocks: when a lease was granted is reckoned by the server's (``lease_until_ms`` less the
duration), when a report was sent by the client's. They run on one machine; ``SLACK_MS`` is what
they may differ by.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

SLACK_MS: Final = 50

DONE: Final = "ACKED"
DEAD: Final = "DEAD"


class Kind(Enum):
    """Which promise was broken."""

    LOST = "lost"
    """A job, or its ack, that was answered with success is not there."""
    DOUBLED = "doubled"
    """A job was given to two at a time, or again after it was done, or became two jobs."""
    WRONG = "wrong"
    """Anything else: another text, an attempt too many, an answer that makes no sense."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be."""

    kind: Kind
    job_id: str
    what: str

    def __str__(self) -> str:
        """As a line for people."""
        return f"{self.job_id}: {self.what}"


@dataclass(frozen=True, slots=True)
class Submit:
    """A submit; ``job_id`` is None unless it was answered with 201. Payloads are unique."""

    payload: str
    max_retries: int
    job_id: str | None


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was answered with 200."""

    job_id: str
    token: int
    attempt: int
    payload: str
    lease_until_ms: int


@dataclass(frozen=True, slots=True)
class Report:
    """An ack (``failed`` False) or a failure report under a token.

    The text is unique, but for a report that is sent again.
    """

    job_id: str
    token: int
    failed: bool
    text: str
    asked_ms: int
    status: int | None
    """None: no answer yet, or it was lost."""
    refused: bool = False
    """The answer says that nothing happened, whatever the status (503 with Retry-After)."""

    @property
    def may_have_worked(self) -> bool:
        """Whether it may be what ended the attempt."""
        return self.status in (None, 200, 503) and not self.refused


@dataclass(frozen=True, slots=True)
class View:
    """A job as it was read; ``state`` None: 404."""

    job_id: str
    state: str | None
    attempts: int = 0
    result: str | None = None
    result_error: str | None = None

    @property
    def final(self) -> bool:
        """Whether the job has ended, for good."""
        return self.state in (DONE, DEAD)


@dataclass(slots=True)
class JobHistory:
    """All that was seen of one job; ``views`` in the order in which they were read."""

    job_id: str
    submit: Submit | None = None
    leases: list[Lease] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    views: list[View] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of looking at one job."""

    violations: list[Violation]
    unseen_leases: int
    """Attempts that were used up by leases that nobody saw."""


def judge(job: JobHistory, *, lease_ms: int) -> Judgement:
    """Hold a job against the promises; it must have been read when all work on it was over.

    Args:
        job: with a view at least; without one, it counts as lost.
        lease_ms: how long each lease was.
    """
    judge_of_job = _Judge(job, lease_ms)
    violations = list(judge_of_job.run())
    return Judgement(violations, judge_of_job.unseen_leases)


class _Judge:
    def __init__(self, job: JobHistory, lease_ms: int) -> None:
        self._job = job
        self._lease_ms = lease_ms
        self._leases = sorted(job.leases, key=lambda each: each.token)
        self._view = job.views[-1] if job.views else None
        self.unseen_leases = 0

    def run(self) -> Iterable[Violation]:
        yield from self._payloads()
        yield from self._tokens()
        yield from self._live_leases()
        yield from self._acks()
        yield from self._views()
        yield from self._end()

    def _lost(self, what: str) -> Violation:
        return Violation(Kind.LOST, self._job.job_id, what)

    def _doubled(self, what: str) -> Violation:
        return Violation(Kind.DOUBLED, self._job.job_id, what)

    def _wrong(self, what: str) -> Violation:
        return Violation(Kind.WRONG, self._job.job_id, what)

    def _payloads(self) -> Iterable[Violation]:
        submit = self._job.submit
        for lease in self._leases:
            if submit is None:
                yield self._wrong(f"nobody submitted its payload {lease.payload[:20]!r}")
            elif lease.payload != submit.payload:
                yield self._wrong(
                    f"submitted {submit.payload[:20]!r}, leased {lease.payload[:20]!r}"
                )

    def _tokens(self) -> Iterable[Violation]:
        for before, after in itertools.pairwise(self._leases):
            if before.token == after.token:
                yield self._doubled(f"token {after.token} was given twice")
            elif self._granted_ms(after) < self._granted_ms(before) - SLACK_MS:
                yield self._wrong(f"token {after.token} is greater than the later {before.token}")
            if after.attempt <= before.attempt:
                yield self._wrong(f"attempt {after.attempt} after attempt {before.attempt}")
            elif after.attempt - before.attempt > after.token - before.token:
                yield self._wrong(f"more attempts than tokens up to token {after.token}")
        attempts = [0, *(lease.attempt for lease in self._leases)]
        for seen, following in itertools.pairwise(attempts):
            self.unseen_leases += max(following - seen - 1, 0)

    def _live_leases(self) -> Iterable[Violation]:
        for before, after in itertools.pairwise(self._leases):
            granted_ms = self._granted_ms(after)
            if granted_ms >= before.lease_until_ms or before.token == after.token:
                continue
            ended = any(
                report.token == before.token
                and report.may_have_worked
                and report.asked_ms <= granted_ms + SLACK_MS
                for report in self._job.reports
            )
            if not ended:
                yield self._doubled(
                    f"leased under token {after.token}"
                    f" {before.lease_until_ms - granted_ms} ms before the end of lease"
                    f" {before.token}"
                )

    def _acks(self) -> Iterable[Violation]:
        view = self._view
        acked: set[tuple[int, str]] = set()
        for report in self._job.reports:
            if report.failed:
                continue
            if report.status == 409 and (report.token, report.text) in acked:
                yield self._lost(f"its ack {report.text!r} got 200, and 409 when sent again")
            if report.status != 200:
                continue
            acked.add((report.token, report.text))
            if view is None or (view.state, view.result) != (DONE, report.text):
                yield self._lost(f"its ack {report.text!r} got 200, but it is {view}")
            for lease in self._leases:
                if lease.token > report.token:
                    yield self._doubled(
                        f"leased under {lease.token} after the ack of {report.token}"
                    )

    def _views(self) -> Iterable[Violation]:
        for before, after in itertools.pairwise(self._job.views):
            if before.final and after != before:
                yield self._lost(f"it ended as {before}, and was then {after}")
            elif after.attempts < before.attempts and after.state is not None:
                yield self._wrong(f"{before.attempts} attempts, then {after.attempts}")

    def _end(self) -> Iterable[Violation]:
        view = self._view
        if view is None or view.state is None:
            yield self._lost("lost")
            return
        if not view.final:
            yield self._wrong(f"never finished, its state is {view.state}")
        yield from self._attempts(view)
        yield from self._outcome(view)

    def _attempts(self, view: View) -> Iterable[Violation]:
        seen = max((lease.attempt for lease in self._leases), default=0)
        self.unseen_leases += max(view.attempts - seen, 0)
        if view.attempts < seen:
            yield self._wrong(f"{view.attempts} attempts, but attempt {seen} was leased")
        if self._job.submit is None:
            return
        attempts_max = max(1, self._job.submit.max_retries)
        if view.attempts > attempts_max:
            yield self._wrong(f"{view.attempts} attempts, at most {attempts_max} were allowed")
        if view.state == DEAD and view.attempts < attempts_max:
            yield self._wrong(f"DEAD after {view.attempts} of {attempts_max} attempts")

    def _outcome(self, view: View) -> Iterable[Violation]:
        reports = self._job.reports
        if view.state == DONE:
            sent = {each.text for each in reports if not each.failed and each.may_have_worked}
            if view.result not in sent:
                yield self._wrong(f"nobody's ack that may have worked said {view.result!r}")
        if view.state == DEAD and view.result_error != "lease expired":
            sent = {each.text for each in reports if each.failed and each.may_have_worked}
            if view.result_error not in sent:
                yield self._wrong(f"nobody reported {view.result_error!r}")

    def _granted_ms(self, lease: Lease) -> int:
        return lease.lease_until_ms - self._lease_ms
