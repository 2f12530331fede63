"""The clients of a soak against a fake node: one that is right, and some that break a promise."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from queue_node.errors import NodeError
from queue_node.soak.history import Kind
from queue_node.soak.ledger import Ledger
from queue_node.soak.load import Crew, Load, Target
from tests.support.fake_node import (
    CLIENT_KEY,
    WORKER_KEY,
    Answer,
    FakeJob,
    FakeNode,
    HangUp,
    Seen,
    Stall,
)
from tests.support.polling import wait_until

LEASE_MS = 300
CREW = Crew(rate=200, submitters=2, workers=4, readers=2, lease_ms=LEASE_MS)
ENOUGH = 50


@dataclass
class SoakedNode(FakeNode):
    """A fake that ends what is out of attempts, as a real node does."""

    lease_duration: timedelta = field(default=timedelta(milliseconds=LEASE_MS))

    def _expire(self) -> None:
        before = [job for job in self.jobs.values() if job.state == "RUNNING"]
        super()._expire()
        for job in before:
            if job.state == "RETRY":
                job.result_error = "lease expired"
                if job.attempts >= job.max_retries:
                    job.state = "DEAD"


class LosesJobs(SoakedNode):
    """Every tenth job is answered with 201, and is nowhere."""

    def _put(self, payload: str, max_retries: int) -> FakeJob:
        job = super()._put(payload, max_retries)
        if len(self.jobs) % 10 == 0:
            del self.jobs[job.job_id]
            self.jobs[f"{job.job_id} is gone"] = FakeJob("", "", 0, job.created_at, state="ACKED")
        return job


class LosesAcks(SoakedNode):
    """Every tenth ack is answered with 200, and its job runs again."""

    def _ack(self, seen: Seen) -> Answer:
        answer = super()._ack(seen)
        job = self.jobs.get(seen.headers["x-job"])
        if job is not None and job.state == "ACKED" and self.count("ack") % 10 == 0:
            job.state, job.result, job.settled = "READY", None, None
        return answer


class LeasesTwice(SoakedNode):
    """Every tenth lease is of a job that somebody holds."""

    def _lease(self) -> Answer:
        running = [job for job in self.jobs.values() if job.state == "RUNNING"]
        if running and self.count("lease") % 10 == 0:
            running[-1].state = "READY"
            self.jobs = {running[-1].job_id: running[-1], **self.jobs}
        return super()._lease()


class ChangesResults(SoakedNode):
    """A result loses its last character."""

    def _ack(self, seen: Seen) -> Answer:
        answer = super()._ack(seen)
        job = self.jobs.get(seen.headers["x-job"])
        if job is not None and job.result is not None and not job.result.endswith("cut"):
            job.result = job.result[:-1]
        return answer


class ChangesPayloads(SoakedNode):
    """A payload comes back without its last character."""

    def _put(self, payload: str, max_retries: int) -> FakeJob:
        return super()._put(payload[:-1], max_retries)


class DoublesSubmits(SoakedNode):
    """Every tenth submit becomes two jobs."""

    def _put(self, payload: str, max_retries: int) -> FakeJob:
        if len(self.jobs) % 10 == 0:
            super()._put(payload, max_retries)
        return super()._put(payload, max_retries)


class ForgetsKeys(SoakedNode):
    """A submit under a key makes another job each time."""

    def _carry_out(self, seen: Seen, key: str) -> Answer:
        self.submitted.clear()
        return super()._carry_out(seen, key)


class MixesUpKeys(SoakedNode):
    """A submit that is sent again under its key is answered with another job."""

    def _submit(self, body: dict[str, Any]) -> Answer:
        answer = super()._submit(body)
        if answer.status == 200:
            other = next(iter(self.jobs))
            return replace(answer, body=json.dumps({"job_id": other}).encode())
        return answer


def soak(node: FakeNode, enough: Callable[[Ledger], bool]) -> Ledger:
    """Load on the node until there was enough; then all work is finished."""
    ledger = Ledger(lease_ms=LEASE_MS, retention_ms=CREW.retention_ms)
    port = urlsplit(node.url).port
    assert port is not None
    load = Load(Target(port, CLIENT_KEY, WORKER_KEY), ledger, CREW)
    with load:
        wait_until(lambda: bool(load.faults) or load.with_ledger(enough), what="enough of the soak")
        load.stop_submitting()
        if not ledger.violations:
            wait_until(
                lambda: bool(load.faults) or load.with_ledger(lambda books: books.open) == 0,
                what="the end of all jobs",
            )
    assert not load.faults, load.faults
    if not ledger.violations:
        load.finish(60)
    return ledger


def test_a_node_that_is_right_passes():
    with SoakedNode() as node:

        def enough(books: Ledger) -> bool:
            counts = books.counts
            rare = (counts.resent, counts.keyed, counts.replayed, counts.conflicts)
            return counts.finished >= ENOUGH and all(rare)

        ledger = soak(node, enough)
        ledger.close(0)
    assert ledger.violations == []
    counts = ledger.counts
    assert counts.verified == counts.accepted == counts.finished >= ENOUGH
    assert counts.retries > 0


def test_answers_that_get_lost_are_not_held_against_the_node():
    with SoakedNode() as node:
        for what in ("submit", "lease", "ack", "get"):
            node.fail(what, *[HangUp(ran=turn % 2 == 0) for turn in range(6)])
        ledger = soak(node, lambda books: books.counts.finished >= ENOUGH)
        ledger.close(ledger.counts.lost_leases)
    assert ledger.violations == []
    assert ledger.counts.lost_leases > 0


def test_a_submit_under_a_key_is_sent_again_until_its_outcome_is_known(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("queue_node.soak.load._KEYED", 1.0)
    refused = Answer(503, headers=(("Retry-After", "1"),))
    with SoakedNode() as node:
        node.fail("submit", *(HangUp(ran=True), refused, Answer(503), HangUp(ran=False)) * 10)
        ledger = soak(node, lambda books: books.counts.accepted >= ENOUGH)
        assert ledger.counts.accepted == ledger.counts.keyed == len(node.jobs)
        assert len(ledger) == len(node.jobs), "nothing is in doubt"
        ledger.close(0)
    assert ledger.violations == []
    assert ledger.counts.replayed > 0


def test_a_refusal_that_was_none_is_found():
    class Refuses(SoakedNode):
        def _carry_out(self, seen: Seen, key: str) -> Answer:
            answer = super()._carry_out(seen, key)
            return Answer(507) if answer.status == 201 else answer

    with Refuses() as refusing:
        ledger = soak(refusing, lambda books: bool(books.violations))
    assert "nobody submitted it" in str(ledger.violations[0])


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (LosesJobs, Kind.LOST),
        (LosesAcks, Kind.LOST),
        (LeasesTwice, Kind.DOUBLED),
        (DoublesSubmits, Kind.DOUBLED),
        (ForgetsKeys, Kind.DOUBLED),
        (MixesUpKeys, Kind.DOUBLED),
        (ChangesResults, Kind.LOST),
        (ChangesPayloads, Kind.WRONG),
    ],
)
def test_a_node_that_breaks_a_promise_is_found_out(broken: type[FakeNode], kind: Kind):
    def enough(books: Ledger) -> bool:
        return books.counts.finished >= 3 * ENOUGH or books.counts.by_kind[kind] > 0

    with broken() as node:
        ledger = soak(node, enough)
        ledger.close(ledger.counts.lost_leases)
    assert ledger.counts.by_kind[kind] > 0, ledger.violations


def test_an_answer_that_the_contract_does_not_know_is_found():
    with SoakedNode() as node:
        node.fail("lease", Answer(500))
        ledger = soak(node, lambda books: bool(books.violations))
    assert "500" in str(ledger.violations[0])


def load_on(node: FakeNode, ledger: Ledger, **crew: int) -> Load:
    port = urlsplit(node.url).port
    assert port is not None
    return Load(Target(port, CLIENT_KEY, WORKER_KEY), ledger, replace(CREW, **crew))


def test_nobody_waits_for_the_end_of_jobs_while_a_submit_is_under_way():
    released = threading.Event()
    ledger = Ledger(lease_ms=LEASE_MS, retention_ms=CREW.retention_ms)
    with SoakedNode() as node:
        node.fail("submit", Stall(released))
        load = load_on(node, ledger, submitters=1)
        with load:
            node.wait_until(lambda: node.count("submit") == 1)
            assert ledger.open == 0, "not a job that is known"
            release = threading.Timer(0.2, released.set)
            release.start()
            load.stop_submitting()
            assert ledger.counts.accepted == 1
            wait_until(lambda: load.with_ledger(lambda books: books.open) == 0)
            release.join()
        load.finish(0)
        ledger.close(0)
    assert not load.faults
    assert ledger.violations == []
    assert ledger.counts.finished == 1


def test_a_job_that_comes_to_light_in_the_last_moment_is_finished_and_read():
    ledger = Ledger(lease_ms=LEASE_MS, retention_ms=CREW.retention_ms)
    with SoakedNode() as node:
        # Stored, and nobody knows.
        node.fail("submit", *[HangUp(ran=True)] * 20)
        load = load_on(node, ledger, submitters=1, workers=0, readers=0)
        with load:
            node.wait_until(lambda: node.count("submit") == 20)
            load.stop_submitting()
        assert ledger.unfinished() == []
        load = load_on(node, ledger, submitters=0, workers=1, readers=0)
        with load:
            node.wait_until(lambda: node.count("ack") > 0)
        assert ledger.unfinished() != [], "leased by a worker, and never read"
        load.finish(60)
        ledger.close(ledger.counts.lost_leases)
    assert not load.faults
    assert ledger.violations == []
    assert ledger.counts.finished > 0


def test_a_job_that_cannot_be_read_is_said_and_not_waited_for():
    ledger = Ledger(lease_ms=LEASE_MS, retention_ms=CREW.retention_ms)
    with SoakedNode() as node:
        node.fail("get", *[Answer(503)] * 1_000)
        with pytest.raises(NodeError, match="job a cannot be read: 503"):
            load_on(node, ledger).read_all(["a"], within_s=0)
