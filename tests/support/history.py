"""What clients saw of a node that was killed again and again, and whether it may be so. Pure.

Clients note what they asked for and what they heard. ``violations`` holds that against the
promises of the node, and never blames it for what a client cannot know: an answer that was
lost with its connection (``status`` None) or was a 503 may stand for anything.

Two clocks: when a lease was granted is reckoned by the server's (``lease_until_ms`` less the
duration), when a report was sent by the client's. They run on one machine; ``SLACK_MS`` is what
they may differ by.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SLACK_MS = 50

DONE = "ACKED"
DEAD = "DEAD"


@dataclass(frozen=True)
class Submit:
    """A submit; ``job_id`` is None unless it was answered with 201. Payloads are unique."""

    payload: str
    max_retries: int
    job_id: str | None


@dataclass(frozen=True)
class Lease:
    """A lease that was answered with 200."""

    job_id: str
    token: int
    attempt: int
    payload: str
    lease_until_ms: int


@dataclass(frozen=True)
class Report:
    """An ack (``failed`` False) or a failure report under a token; ``text`` is unique."""

    job_id: str
    token: int
    failed: bool
    text: str
    asked_ms: int
    status: int | None

    @property
    def may_have_worked(self) -> bool:
        return self.status in (None, 200, 503)


@dataclass(frozen=True)
class View:
    """A job as it was read when all work was done; ``state`` None: 404."""

    job_id: str
    state: str | None
    attempts: int = 0
    result: str | None = None
    result_error: str | None = None


@dataclass
class History:
    """Everything that was noted; several threads may add to it."""

    submits: list[Submit]
    leases: list[Lease]
    reports: list[Report]
    views: list[View]

    @classmethod
    def empty(cls) -> "History":
        return cls([], [], [], [])


def violations(history: History, *, lease_ms: int, lost_leases_max: int) -> list[str]:
    """What must not be, in words; empty when the node kept its promises.

    Args:
        history: with a view of every job that was submitted or leased.
        lease_ms: how long each lease was.
        lost_leases_max: leases whose answer may have been lost: they use up an attempt
            that nobody saw.
    """
    return [*_Checker(history, lease_ms, lost_leases_max).run()]


class _Checker:
    def __init__(self, history: History, lease_ms: int, lost_leases_max: int) -> None:
        self._lease_ms = lease_ms
        self._lost_leases_max = lost_leases_max
        self._lost_leases = 0
        self._submits = {each.payload: each for each in history.submits}
        self._submit_of = {each.job_id: each for each in history.submits if each.job_id}
        self._views = {each.job_id: each for each in history.views}
        self._ids_answered = [each.job_id for each in history.submits if each.job_id]
        self._leases: dict[str, list[Lease]] = defaultdict(list)
        self._reports: dict[str, list[Report]] = defaultdict(list)
        for lease in history.leases:
            self._leases[lease.job_id].append(lease)
        for report in history.reports:
            self._reports[report.job_id].append(report)

    def run(self) -> Iterable[str]:
        yield from self._ids()
        for job_id in sorted({*self._ids_answered, *self._leases}):
            leases = sorted(self._leases[job_id], key=lambda each: each.token)
            yield from self._payloads(job_id, leases)
            yield from self._tokens(job_id, leases)
            yield from self._live_leases(job_id, leases)
            yield from self._acks(job_id, leases)
            yield from self._end(job_id, leases)
        if self._lost_leases > self._lost_leases_max:
            yield (
                f"{self._lost_leases} attempts were used up by leases that nobody saw,"
                f" at most {self._lost_leases_max} answers were lost"
            )

    def _ids(self) -> Iterable[str]:
        for job_id, count in Counter(self._ids_answered).items():
            if count > 1:
                yield f"{job_id}: {count} submits got this id"
        jobs_of_payload = defaultdict(set)
        for leases in self._leases.values():
            for lease in leases:
                jobs_of_payload[lease.payload].add(lease.job_id)
        for payload, job_ids in jobs_of_payload.items():
            if len(job_ids) > 1:
                yield f"{sorted(job_ids)}: one submit ({payload[:20]!r}) became several jobs"

    def _payloads(self, job_id: str, leases: Sequence[Lease]) -> Iterable[str]:
        submit = self._submit_of.get(job_id)
        for lease in leases:
            if submit is not None and lease.payload != submit.payload:
                yield f"{job_id}: submitted {submit.payload[:20]!r}, leased {lease.payload[:20]!r}"
            elif lease.payload not in self._submits:
                yield f"{job_id}: nobody submitted its payload {lease.payload[:20]!r}"

    def _tokens(self, job_id: str, leases: Sequence[Lease]) -> Iterable[str]:
        for before, after in itertools.pairwise(leases):
            if before.token == after.token:
                yield f"{job_id}: token {after.token} was given twice"
            elif self._granted_ms(after) < self._granted_ms(before) - SLACK_MS:
                yield f"{job_id}: token {after.token} is greater than the later {before.token}"
            if after.attempt <= before.attempt:
                yield f"{job_id}: attempt {after.attempt} after attempt {before.attempt}"
            elif after.attempt - before.attempt > after.token - before.token:
                yield f"{job_id}: more attempts than tokens up to token {after.token}"
        attempts = [0, *(lease.attempt for lease in leases)]
        for seen, following in itertools.pairwise(attempts):
            self._lost_leases += max(following - seen - 1, 0)

    def _live_leases(self, job_id: str, leases: Sequence[Lease]) -> Iterable[str]:
        for before, after in itertools.pairwise(leases):
            granted_ms = self._granted_ms(after)
            if granted_ms >= before.lease_until_ms or before.token == after.token:
                continue
            ended = any(
                report.token == before.token
                and report.may_have_worked
                and report.asked_ms <= granted_ms + SLACK_MS
                for report in self._reports[job_id]
            )
            if not ended:
                yield (
                    f"{job_id}: leased under token {after.token}"
                    f" {before.lease_until_ms - granted_ms} ms before the end of lease"
                    f" {before.token}"
                )

    def _acks(self, job_id: str, leases: Sequence[Lease]) -> Iterable[str]:
        view = self._views.get(job_id)
        for report in self._reports[job_id]:
            if report.status != 200 or report.failed:
                continue
            if view is None or (view.state, view.result) != (DONE, report.text):
                yield f"{job_id}: its ack {report.text!r} got 200, but it is {view}"
            for lease in leases:
                if lease.token > report.token:
                    yield f"{job_id}: leased under {lease.token} after the ack of {report.token}"

    def _end(self, job_id: str, leases: Sequence[Lease]) -> Iterable[str]:
        view = self._views.get(job_id)
        if view is None or view.state is None:
            yield f"{job_id}: lost"
            return
        if view.state not in (DONE, DEAD):
            yield f"{job_id}: never finished, its state is {view.state}"
        yield from self._attempts(view, leases)
        yield from self._outcome(view)

    def _attempts(self, view: View, leases: Sequence[Lease]) -> Iterable[str]:
        seen = max((lease.attempt for lease in leases), default=0)
        self._lost_leases += max(view.attempts - seen, 0)
        if view.attempts < seen:
            yield f"{view.job_id}: {view.attempts} attempts, but attempt {seen} was leased"
        submit = self._submit_of.get(view.job_id)
        if submit is None and leases:
            submit = self._submits.get(leases[0].payload)
        if submit is None:
            return
        attempts_max = max(1, submit.max_retries)
        if view.attempts > attempts_max:
            yield f"{view.job_id}: {view.attempts} attempts, at most {attempts_max} were allowed"
        if view.state == DEAD and view.attempts < attempts_max:
            yield f"{view.job_id}: DEAD after {view.attempts} of {attempts_max} attempts"

    def _outcome(self, view: View) -> Iterable[str]:
        reports = self._reports[view.job_id]
        if view.state == DONE:
            sent = {each.text for each in reports if not each.failed and each.may_have_worked}
            if view.result not in sent:
                yield f"{view.job_id}: nobody's ack that may have worked said {view.result!r}"
        if view.state == DEAD and view.result_error != "lease expired":
            sent = {each.text for each in reports if each.failed and each.may_have_worked}
            if view.result_error not in sent:
                yield f"{view.job_id}: nobody reported {view.result_error!r}"

    def _granted_ms(self, lease: Lease) -> int:
        return lease.lease_until_ms - self._lease_ms
