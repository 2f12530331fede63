from datetime import UTC, datetime, timedelta

import pytest

from queue_node_sdk.models import LeasedJob
from queue_node_sdk.worker_core import (
    ACK_BYTES_MAX,
    ACKS_MAX,
    DATE_ERROR_SECONDS,
    UNREPORTED_BYTES_MAX,
    Done,
    Ending,
    Failed,
    GivenBack,
    Held,
    Loss,
    NodeClock,
    Phase,
    Span,
    WorkerCore,
)

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
LEASE_SECONDS = 30.0


def leased_job(job_id: str = "a", token: str | None = "1") -> LeasedJob:
    return LeasedJob(job_id=job_id, payload="x", lease_until=EPOCH, attempt=1, lease_token=token)


def lease(
    core: WorkerCore, job_id: str = "a", *, now: float = 0.0, token: str | None = "1"
) -> Held:
    end = now + LEASE_SECONDS
    return core.leased(leased_job(job_id, token), Span(end - 1, end + 1), now)


def beat_at(core: WorkerCore) -> float:
    due_at = core.next_beat_at()
    assert due_at is not None
    return due_at


# The node's clock


def test_one_date_tells_a_moment_to_within_the_error_of_dates():
    clock = NodeClock()
    clock.observe(EPOCH, received_at=100.0)
    assert clock.ours(EPOCH + timedelta(seconds=30)) == Span(130 - DATE_ERROR_SECONDS, 130.0)


def test_dates_from_elsewhere_in_a_second_narrow_it_down():
    clock = NodeClock()
    clock.observe(EPOCH, received_at=100.0)
    clock.observe(EPOCH + timedelta(seconds=2), received_at=101.4)
    # The first alone would allow the node to be up to the error ahead; it is 0.6 s at least.
    ours = clock.ours(EPOCH)
    assert ours.earliest == pytest.approx(100 - DATE_ERROR_SECONDS)
    assert ours.latest == pytest.approx(99.4)


def test_a_clock_that_was_set_is_believed_at_once():
    clock = NodeClock()
    clock.observe(EPOCH, received_at=100.0)
    clock.observe(EPOCH + timedelta(days=1), received_at=101.0)
    assert clock.ours(EPOCH + timedelta(days=1)).latest == 101.0


# Leasing


def test_no_more_is_asked_for_than_can_run():
    core = WorkerCore(concurrency=2)
    assert core.wanted == 2
    first = lease(core, "a")
    assert core.wanted == 1
    lease(core, "b")
    assert core.wanted == 0
    core.ended(first, Done("r"))
    assert core.wanted == 1  # before its report is through


def test_prefetch_comes_on_top():
    core = WorkerCore(concurrency=2, prefetch=3)
    assert core.wanted == 5


def test_nothing_is_leased_while_draining():
    core = WorkerCore(concurrency=2)
    core.drain()
    assert core.wanted == 0


def test_nothing_is_leased_while_outcomes_clog():
    core = WorkerCore(concurrency=100)
    text = "x" * (1 << 20)
    for number in range(UNREPORTED_BYTES_MAX // (6 << 20) + 1):
        core.ended(lease(core, str(number)), Done(text))
    assert core.wanted == 0
    for held in core.due_reports(now=1).acks:
        core.reported(held)
    assert core.wanted == 100


# Heartbeats


def test_a_heartbeat_is_due_after_a_third_of_the_shortest_possible_lease():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    due_at = beat_at(core)
    assert due_at == pytest.approx(29 / 3)
    assert core.due_beats(due_at - 0.01) == []
    (beat,) = core.due_beats(due_at)
    assert (beat.held, beat.lease_seconds, beat.progress) == (held, None, None)
    # While it is out there is no second one.
    assert core.due_beats(due_at + 5) == []
    core.beaten(beat, Span(39, 41), due_at)
    assert core.next_beat_at() == pytest.approx(due_at + (39 - due_at) / 3)


def test_a_lease_that_may_be_over_already_is_extended_at_once():
    core = WorkerCore(concurrency=1)
    core.leased(leased_job(), Span(-1.7, 0.3), now=0.0)
    assert core.next_beat_at() == 0.05


def test_jobs_leased_about_the_same_time_share_a_heartbeat():
    core = WorkerCore(concurrency=3)
    together = [lease(core, "a", now=0.0), lease(core, "b", now=1.0)]
    lease(core, "later", now=8.0)
    due_at = beat_at(core)
    assert [beat.held for beat in core.due_beats(due_at)] == together


def test_heartbeats_go_on_until_the_report_is_through():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    core.ended(held, Done("r"))
    assert len(core.due_beats(10)) == 1


@pytest.mark.parametrize("loss", [Loss.LEASE_LOST, Loss.CANCELLED])
def test_a_refused_heartbeat_is_a_lost_job(loss: Loss):
    core = WorkerCore(concurrency=1)
    held = lease(core)
    (beat,) = core.due_beats(10)
    assert core.beat_refused(beat, loss)
    assert (held.loss, held.phase, core.empty) == (loss, Phase.CLOSED, True)
    # Its handler still has the only thread.
    assert core.wanted == 0
    assert not core.ended(held, Done("too late"))
    assert core.wanted == 1
    assert core.due_reports(11).acks == []


def test_a_heartbeat_refused_after_the_end_leaves_the_word_to_the_ack():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    (beat,) = core.due_beats(10)
    core.ended(held, Done("r"))
    assert not core.beat_refused(beat, Loss.LEASE_LOST)
    assert core.due_reports(11).acks == [held]


def test_a_failed_heartbeat_is_sent_again_soon_with_its_progress():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    core.tell_progress(held, 50, now=9.0)
    beats = core.due_beats(10)
    assert beats[0].progress == 50
    core.beats_failed(beats, now=10)
    assert core.next_beat_at() == 11
    (again,) = core.due_beats(11)
    assert again.progress == 50


def test_newer_progress_is_not_undone_by_a_failed_heartbeat():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    core.tell_progress(held, 50, now=9.0)
    beats = core.due_beats(10)
    core.tell_progress(held, 60, now=10.0)
    core.beats_failed(beats, now=10.1)
    (again,) = core.due_beats(12)
    assert again.progress == 60


def test_progress_goes_out_soon_but_not_with_every_call():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    core.tell_progress(held, 1, now=0.1)
    core.tell_progress(held, 2, now=0.2)
    assert core.due_beats(0.4) == []
    (beat,) = core.due_beats(0.5)
    assert beat.progress == 2
    core.beaten(beat, Span(29.5, 31.5), now=0.5)
    core.tell_progress(held, "half", now=3.0)
    (beat,) = core.due_beats(3.0)
    assert beat.progress == "half"


def test_progress_told_while_a_heartbeat_is_out_follows_it():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    (beat,) = core.due_beats(10)
    core.tell_progress(held, 3, now=10.1)
    core.beaten(beat, Span(39, 41), now=10.2)
    (beat,) = core.due_beats(10.7)
    assert beat.progress == 3


def test_what_a_handler_asked_for_is_not_cut_short_by_the_next_heartbeat():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    core.ask(held, 600, now=1.0)
    (beat,) = core.due_beats(1.0)
    assert beat.lease_seconds == 600
    core.beaten(beat, Span(600, 602), now=1.1)
    due_at = beat_at(core)
    assert due_at == pytest.approx(1.1 + (600 - 1.1) / 3)
    (beat,) = core.due_beats(due_at)
    assert beat.lease_seconds == pytest.approx(601 - due_at)
    core.beaten(beat, Span(600, 602), now=due_at)
    (beat,) = core.due_beats(590)
    assert beat.lease_seconds is None


def test_a_lease_that_surely_ended_is_lost():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    core.beats_failed(core.due_beats(10), now=10)
    assert core.run_out(30.9) == []
    assert core.run_out(31.0) == [held]
    assert (held.loss, core.empty) == (Loss.RUN_OUT, True)


def test_an_outcome_that_waits_is_given_up_with_its_lease():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    core.ended(held, Done("r"))
    core.reports_failed(core.due_reports(1).acks, now=1, draw=1)
    assert core.run_out(31) == [held]
    assert core.empty


def test_without_a_token_there_is_nothing_to_extend_and_the_outcome_is_told_late():
    core = WorkerCore(concurrency=1)
    held = lease(core, token=None)
    assert core.due_beats(20) == []
    assert core.run_out(100) == []
    core.ended(held, Done("r"))
    assert core.due_reports(100).acks == [held]


# Reports


def test_outcomes_travel_together_and_once():
    core = WorkerCore(concurrency=3)
    helds = [lease(core, name) for name in "abc"]
    endings: list[Ending] = [Done("r"), Failed("e"), GivenBack(5)]
    for held, ending in zip(helds, endings, strict=True):
        assert core.ended(held, ending)
    work = core.due_reports(1)
    assert (work.acks, work.releases) == (helds[:2], helds[2:])
    assert core.due_reports(2).acks == []
    for held in helds:
        core.reported(held)
    assert core.empty


def test_what_ends_while_a_report_is_out_makes_the_next_one():
    core = WorkerCore(concurrency=2)
    first, second = lease(core, "a"), lease(core, "b")
    core.ended(first, Done("r"))
    core.due_reports(1)
    assert core.report_at() is None
    core.ended(second, Done("r"))
    assert core.report_at() is not None
    assert core.due_reports(1).acks == [second]


def test_a_failed_report_is_repeated_with_what_came_meanwhile_after_a_growing_pause():
    core = WorkerCore(concurrency=2)
    first, second = lease(core, "a"), lease(core, "b")
    core.ended(first, Done("r"))
    core.reports_failed(core.due_reports(1).acks, now=1, draw=1)
    core.ended(second, Done("r"))
    assert core.report_at() == 1.1
    assert core.due_reports(1.05).acks == []
    work = core.due_reports(1.1)
    assert work.acks == [first, second]
    core.reports_failed(work.acks, now=2, draw=1)
    assert core.report_at() == 2.2
    core.reports_failed(core.due_reports(3).acks, now=3, draw=1, retry_after=7)
    assert core.report_at() == 3 + 7 + 0.4


def test_a_success_ends_the_growing_of_pauses():
    core = WorkerCore(concurrency=2)
    first, second = lease(core, "a"), lease(core, "b")
    core.ended(first, Done("r"))
    core.reports_failed(core.due_reports(1).acks, now=1, draw=1)
    core.reported(core.due_reports(2).acks[0])
    core.ended(second, Done("r"))
    core.reports_failed(core.due_reports(3).acks, now=3, draw=1)
    assert core.report_at() == 3.1


def test_a_report_that_comes_too_late_is_a_loss():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    core.ended(held, Done("r"))
    core.due_reports(1)
    core.report_lost(held, Loss.LEASE_LOST)
    assert (held.loss, core.empty) == (Loss.LEASE_LOST, True)


def test_a_refused_request_is_taken_apart_and_the_bad_result_becomes_a_failure():
    core = WorkerCore(concurrency=2)
    bad, good = lease(core, "bad"), lease(core, "good")
    core.ended(bad, Done("too large"))
    core.ended(good, Done("r"))
    acks = core.due_reports(1).acks
    assert core.report_refused(acks, "TooLarge: no") == []
    acks = core.due_reports(1).acks
    assert acks == [bad]
    assert core.report_refused(acks, "TooLarge: no") == []
    assert bad.ending == Failed("TooLarge: no")
    (again,) = core.due_reports(1).acks
    assert again is bad
    core.reported(bad)
    assert core.due_reports(1).acks == [good]


def test_an_outcome_that_is_refused_whatever_it_says_is_given_up():
    core = WorkerCore(concurrency=1)
    held = lease(core)
    core.ended(held, Failed("e"))
    core.report_refused(core.due_reports(1).acks, "no")
    assert core.report_refused(core.due_reports(1).acks, "no") == [held]
    assert core.empty


@pytest.mark.parametrize(
    ("jobs", "text", "expected"),
    [
        (ACKS_MAX + 5, "", ACKS_MAX),
        (5, "x" * (ACK_BYTES_MAX // 12), 2),
        (2, "x" * ACK_BYTES_MAX, 1),
    ],
    ids=["count", "bytes", "one is always sent"],
)
def test_a_request_is_bounded(jobs: int, text: str, expected: int):
    core = WorkerCore(concurrency=jobs)
    for number in range(jobs):
        core.ended(lease(core, str(number)), Done(text))
    assert len(core.due_reports(1).acks) == expected


def test_the_same_job_under_a_newer_token_is_another():
    core = WorkerCore(concurrency=2)
    old = lease(core, token="1")
    new = lease(core, token="2")
    core.ended(old, Done("old"))
    core.report_lost(old, Loss.LEASE_LOST)
    assert core.running == [new]


# The end


def test_what_is_given_back_runs_no_more_and_is_released():
    core = WorkerCore(concurrency=2)
    running, ended = lease(core, "running"), lease(core, "ended")
    core.ended(ended, Done("r"))
    assert core.give_back([running, ended], Loss.SHUTDOWN) == [running]
    assert running.loss is Loss.SHUTDOWN
    assert not core.ended(running, Done("too late"))
    work = core.due_reports(1)
    assert (work.acks, work.releases) == ([ended], [running])
