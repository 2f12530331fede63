"""The books of a soak: quiet about a node that is right, loud about each single wrong, and bounded.

Every violation is a story that ends with a node that breaks a promise; the same story without
that end is told as well.
"""

from collections.abc import Callable

import pytest

from queue_node.soak.history import Kind, Lease, View
from queue_node.soak.ledger import (
    DOUBT_MS,
    GONE_AFTER_MS,
    GONE_WITHIN_MS,
    HOLD_MS,
    KEPT_VIOLATIONS,
    Ledger,
    fingerprint,
    lines_of,
)

LEASE_MS = 1_000
RETENTION_MS = 30_000
PAYLOAD = "0.1 hello"


class Story:
    """A ledger and a clock, with verbs short enough to tell a job's life in a line."""

    def __init__(self) -> None:
        self.ledger = Ledger(lease_ms=LEASE_MS, retention_ms=RETENTION_MS)
        self.now = 1_000_000

    def wait(self, ms: int) -> None:
        self.now += ms

    def submit(self, job_id: str | None = "a", payload: str = PAYLOAD, retries: int = 3) -> None:
        self.ledger.submitting(payload, retries, self.now)
        self.wait(1)
        if job_id is not None:
            self.ledger.submitted(payload.split(" ")[0], job_id, self.now)

    def lease(
        self, token: int = 1, attempt: int = 1, job_id: str = "a", payload: str = PAYLOAD
    ) -> None:
        self.wait(1)
        self.ledger.leased(Lease(job_id, token, attempt, payload, self.now + LEASE_MS), self.now)

    def report(
        self,
        text: str = "done",
        token: int = 1,
        status: int | None = 200,
        *,
        failed: bool = False,
        refused: bool = False,
    ) -> None:
        self.wait(1)
        number = self.ledger.reporting("a", token, text, self.now, failed=failed)
        self.wait(1)
        self.ledger.reported("a", number, status, self.now, refused=refused)

    def view(self, state: str | None = "ACKED", attempts: int = 1, **texts: str) -> None:
        self.wait(1)
        if state == "ACKED":
            texts.setdefault("result", "done")
        view = View("a", state, attempts, texts.get("result"), texts.get("result_error"))
        self.ledger.viewed(view, self.now, self.now)

    def done(self) -> None:
        """The job from its submit to its first sight of the end."""
        self.submit()
        self.lease()
        self.report()
        self.view()

    def gone(self) -> None:
        self.wait(RETENTION_MS + GONE_AFTER_MS)
        self.view(None)

    def kinds(self) -> list[Kind]:
        return [each.kind for each in self.ledger.violations]


def done_and_seen_again(story: Story) -> None:
    story.done()
    story.wait(HOLD_MS)
    story.view()


def failed_then_done(story: Story) -> None:
    story.submit()
    story.lease()
    story.report("no", failed=True)
    story.view("RETRY", 1, result_error="no")
    story.lease(4, 2)
    story.report(token=4)
    story.view(attempts=2)


def expired_then_done(story: Story) -> None:
    story.submit()
    story.lease()
    story.wait(LEASE_MS)
    story.lease(2, 2)
    story.report("late", 1, 409)
    story.report(token=2)
    story.view(attempts=2)


def out_of_attempts(story: Story) -> None:
    story.submit(retries=1)
    story.lease()
    story.wait(LEASE_MS)
    story.view("DEAD", 1, result_error="lease expired")


def answers_lost(story: Story) -> None:
    story.submit(None)
    story.lease()
    story.report(status=None)
    story.report(status=503)
    story.view()


def sent_again(story: Story) -> None:
    story.submit()
    story.lease()
    story.report()
    story.report()
    story.report("done?", status=409)
    story.view()


def leased_before_the_201(story: Story) -> None:
    story.ledger.submitting(PAYLOAD, 3, story.now)
    story.lease()
    story.ledger.submitted("0.1", "a", story.now)
    story.report()
    story.view()


def sent_again_under_its_key(story: Story) -> None:
    story.done()
    story.ledger.replayed("0.1", "a", "a")


RIGHT = [
    done_and_seen_again,
    failed_then_done,
    expired_then_done,
    out_of_attempts,
    answers_lost,
    sent_again,
    leased_before_the_201,
    sent_again_under_its_key,
]


@pytest.mark.parametrize("tell", RIGHT)
def test_a_right_life_is_verified_and_forgotten(tell: Callable[[Story], None]):
    story = Story()
    tell(story)
    assert len(story.ledger) == 1
    story.gone()
    assert story.ledger.violations == []
    counts = story.ledger.counts
    assert (counts.finished, counts.verified, counts.seen_gone) == (1, 1, 1)
    assert (len(story.ledger), story.ledger.open, story.ledger.live_bytes) == (0, 0, 0)


def lost(story: Story) -> None:
    story.submit()
    story.view(None)


def lost_after_its_ack(story: Story) -> None:
    story.done()
    story.wait(HOLD_MS)
    story.view(None)


def ack_lost(story: Story) -> None:
    story.submit()
    story.lease()
    story.report()
    story.wait(LEASE_MS)
    story.view("DEAD", 1, result_error="lease expired")
    story.gone()


def ack_taken_back(story: Story) -> None:
    story.done()
    story.wait(HOLD_MS)
    story.view("READY", 1)


def resent_ack_refused(story: Story) -> None:
    story.submit()
    story.lease()
    story.report()
    story.report(status=409)
    story.view()
    story.gone()


def two_live_leases(story: Story) -> None:
    story.submit()
    story.lease()
    story.lease(2, 2)
    story.report(token=2)
    story.view(attempts=2)
    story.gone()


def leased_after_its_ack(story: Story) -> None:
    story.done()
    story.lease(2, 2)
    story.gone()


def leased_after_it_was_forgotten(story: Story) -> None:
    done_and_seen_again(story)
    story.gone()
    story.lease(2, 2)


def leased_though_never_submitted(story: Story) -> None:
    story.lease(payload="9.9 what is this")


def one_submit_two_jobs(story: Story) -> None:
    story.submit()
    story.lease()
    story.lease(2, job_id="b")


def two_ids_for_a_submit(story: Story) -> None:
    story.ledger.submitting(PAYLOAD, 3, story.now)
    story.lease(job_id="b")
    story.ledger.submitted("0.1", "a", story.now)


def one_id_for_two_submits(story: Story) -> None:
    story.submit()
    story.submit(payload="0.2 other")


def one_key_two_jobs(story: Story) -> None:
    story.done()
    story.ledger.replayed("0.1", "a", "b")


def refused_submit_is_a_job(story: Story) -> None:
    story.submit(None)
    story.ledger.not_submitted("0.1")
    story.lease()


def refused_submit_was_a_job_before(story: Story) -> None:
    story.submit(None)
    story.lease()
    story.ledger.not_submitted("0.1")


def token_twice(story: Story) -> None:
    story.submit()
    story.lease()
    story.wait(LEASE_MS)
    story.lease(1, 2)
    story.report()
    story.view(attempts=2)
    story.gone()


def tokens_go_back(story: Story) -> None:
    story.submit()
    story.lease(7)
    story.wait(LEASE_MS)
    story.lease(3, 2)
    story.report(token=3)
    story.view(attempts=2)
    story.gone()


def attempts_over_the_limit(story: Story) -> None:
    story.submit(retries=2)
    for number in (1, 2, 3):
        story.lease(number, number)
        story.wait(LEASE_MS)
    story.view("DEAD", 3, result_error="lease expired")
    story.gone()


def dead_too_early(story: Story) -> None:
    story.submit(retries=3)
    story.lease()
    story.wait(LEASE_MS)
    story.view("DEAD", 1, result_error="lease expired")
    story.gone()


def another_payload(story: Story) -> None:
    story.submit()
    story.lease(payload=PAYLOAD + "\0")
    story.report()
    story.view()
    story.gone()


def another_result(story: Story) -> None:
    story.submit()
    story.lease()
    story.report(status=None)
    story.view(result="done\n")
    story.gone()


def refused_ack_worked(story: Story) -> None:
    story.submit()
    story.lease()
    story.report(status=503, refused=True)
    story.view()
    story.gone()


def another_error(story: Story) -> None:
    story.submit(retries=1)
    story.lease()
    story.report("no", failed=True)
    story.view("DEAD", 1, result_error="yes")
    story.gone()


def never_forgotten(story: Story) -> None:
    story.done()
    story.wait(RETENTION_MS + GONE_WITHIN_MS)
    story.view()


def attempts_go_back(story: Story) -> None:
    story.submit()
    story.lease()
    story.view("RUNNING", 1)
    story.wait(LEASE_MS)
    story.view("RETRY", 0)
    story.lease(2, 2)
    story.report(token=2)
    story.view(attempts=2)
    story.gone()


WRONG = {
    lost: Kind.LOST,
    lost_after_its_ack: Kind.LOST,
    ack_lost: Kind.LOST,
    ack_taken_back: Kind.LOST,
    resent_ack_refused: Kind.LOST,
    two_live_leases: Kind.DOUBLED,
    leased_after_its_ack: Kind.DOUBLED,
    leased_after_it_was_forgotten: Kind.DOUBLED,
    leased_though_never_submitted: Kind.DOUBLED,
    one_submit_two_jobs: Kind.DOUBLED,
    two_ids_for_a_submit: Kind.DOUBLED,
    one_id_for_two_submits: Kind.DOUBLED,
    one_key_two_jobs: Kind.DOUBLED,
    refused_submit_is_a_job: Kind.DOUBLED,
    refused_submit_was_a_job_before: Kind.WRONG,
    token_twice: Kind.DOUBLED,
    tokens_go_back: Kind.WRONG,
    attempts_over_the_limit: Kind.WRONG,
    dead_too_early: Kind.WRONG,
    another_payload: Kind.WRONG,
    another_result: Kind.WRONG,
    refused_ack_worked: Kind.WRONG,
    another_error: Kind.WRONG,
    never_forgotten: Kind.WRONG,
    attempts_go_back: Kind.WRONG,
}


@pytest.mark.parametrize(("tell", "kind"), WRONG.items())
def test_each_broken_promise_is_found(tell: Callable[[Story], None], kind: Kind):
    story = Story()
    tell(story)
    assert kind in story.kinds(), story.ledger.violations
    assert story.ledger.counts.by_kind[kind] >= 1


def test_a_job_that_never_ends_is_found_at_the_close():
    story = Story()
    story.submit()
    story.view("READY", 0)
    assert story.ledger.unfinished() == ["a"]
    story.ledger.close(0)
    assert "a: never finished, its state is READY" in map(str, story.ledger.violations)


@pytest.mark.parametrize("allowed", [0, 1])
def test_attempts_that_nobody_saw_are_held_against_the_answers_that_were_lost(allowed: int):
    story = Story()
    story.submit()
    story.lease(2, 2)
    story.report(token=2)
    story.view(attempts=2)
    story.ledger.close(allowed)
    assert story.kinds() == ([] if allowed else [Kind.DOUBLED])


def test_a_job_that_was_read_too_late_is_counted_and_not_called_lost():
    story = Story()
    story.submit()
    story.lease()
    story.report()
    story.wait(RETENTION_MS)
    story.view(None)
    assert story.ledger.violations == []
    assert (story.ledger.counts.unverified, len(story.ledger)) == (1, 0)


def test_a_job_is_not_judged_while_a_report_on_it_is_under_way():
    story = Story()
    story.submit()
    story.lease()
    number = story.ledger.reporting("a", 1, "done", story.now, failed=False)
    story.view()
    story.gone()
    assert len(story.ledger) == 1
    story.ledger.reported("a", number, 200, story.now)
    story.view(None)
    assert (story.ledger.violations, len(story.ledger)) == ([], 0)


def test_the_agenda_reads_a_job_again_and_again_and_at_once_after_its_ack():
    story = Story()
    story.submit()
    assert story.ledger.next_to_read(story.now) is None
    story.wait(3_000)
    assert story.ledger.next_to_read(story.now) == "a"
    story.view("READY", 0)
    assert story.ledger.next_to_read(story.now) is None
    story.lease()
    story.report()
    assert story.ledger.next_to_read(story.now) == "a"
    story.ledger.not_viewed("a", story.now)
    assert story.ledger.next_to_read(story.now) is None
    story.wait(200)
    assert story.ledger.next_to_read(story.now) == "a"


def test_a_run_without_end_takes_no_more_memory_than_one_retention():
    story = Story()
    kept = []
    for turn in range(3_000):
        story.submit(f"job {turn}", f"0.{turn} {'x' * 100}")
        story.submit(None, f"1.{turn} never answered")
        story.lease(turn, 1, f"job {turn}", f"0.{turn} {'x' * 100}")
        number = story.ledger.reporting(f"job {turn}", turn, "done", story.now, failed=False)
        story.ledger.reported(f"job {turn}", number, 200, story.now)
        story.wait(1_000)
        while (job_id := story.ledger.next_to_read(story.now)) is not None:
            ended_ms = story.now - 1_000 * (turn - int(job_id[4:]))
            forgotten = story.now > ended_ms + RETENTION_MS
            view = View(job_id, None) if forgotten else View(job_id, "ACKED", 1, "done")
            story.ledger.viewed(view, story.now, story.now)
        story.ledger.forget_old_doubts(story.now)
        kept.append(len(story.ledger))
    assert story.ledger.violations == []
    assert story.ledger.counts.verified > 2_900
    bound = (RETENTION_MS + GONE_AFTER_MS + DOUBT_MS) // 1_000
    assert max(kept) < bound + 20


def test_violations_are_counted_but_not_all_kept():
    story = Story()
    for turn in range(KEPT_VIOLATIONS + 5):
        story.ledger.strange(f"job {turn}", "read: 500")
    assert len(story.ledger.violations) == KEPT_VIOLATIONS
    assert story.ledger.counts.by_kind[Kind.WRONG] == KEPT_VIOLATIONS + 5
    lines = list(lines_of(story.ledger.violations, 2))
    assert lines[0] == "wrong: job 0: read: 500"
    assert lines[2] == f"and {KEPT_VIOLATIONS - 2} more"


def test_a_fingerprint_tells_texts_apart_that_differ_in_one_character():
    texts = ["k a", "k a ", "k \u00e4", "k A", "k a\0", "l a"]
    assert len({fingerprint(text) for text in texts}) == len(texts)
    assert all(fingerprint(text).startswith(text[0] + " ") for text in texts)
