"""Lease tokens, how long a lease holds, retries, release, and leases that expire."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.contract import (
    CLOCK_STEP,
    DONE,
    NOBODYS,
    Answer,
    Http,
    Json,
    Stopwatch,
    held,
    moment,
    new_name,
    statuses,
    token,
)
from tests.support.node import RunningNode

SERVERS = timedelta(hours=1)
SHORT = "250ms"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    environment = {"LEASE_DURATION": "1h", "RETRY_BACKOFF": "50ms"}
    with RunningNode(tmp_path_factory.mktemp("node"), environment) as node:
        yield Http(node)


@pytest.fixture
def queue() -> str:
    return new_name()


def assert_lasts(answer: Callable[[], Json], duration: timedelta) -> None:
    """The ``lease_until`` of the answer is so far from now."""
    asked_at = datetime.now(UTC)
    until = moment(answer()["lease_until"])
    assert asked_at - CLOCK_STEP <= until - duration <= datetime.now(UTC) + CLOCK_STEP


# How long a lease holds --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "calls", "lasts"),
    [
        (None, None, SERVERS),
        ("10m", None, timedelta(minutes=10)),
        (None, "20m", timedelta(minutes=20)),
        ("10m", "20m", timedelta(minutes=20)),
        ("2h", 90, timedelta(seconds=90)),
    ],
)
def test_the_calls_duration_wins_over_the_jobs_over_the_servers(
    http: Http, queue: str, jobs: object, calls: object, lasts: timedelta
):
    job_id = http.submitted(queue, **({} if jobs is None else {"lease_duration": jobs}))
    wanted = {} if calls is None else {"lease_duration": calls}
    assert_lasts(lambda: http.leased(queue, **wanted), lasts)
    assert http.state(job_id) == "RUNNING"


def test_every_job_of_a_lease_of_many_has_its_own_duration(http: Http, queue: str):
    short = http.submitted(queue, lease_duration="10m")
    plain = http.submitted(queue)
    until = {lease["job_id"]: moment(lease["lease_until"]) for lease in http.drained(queue)}
    gap = until[plain] - until[short]
    slack = timedelta(minutes=5)
    assert timedelta(minutes=50) - slack < gap < timedelta(minutes=50) + slack


def test_an_extension_counts_from_now(http: Http, queue: str):
    http.submitted(queue)
    lease = http.leased(queue, lease_duration="10m")

    def extended(**fields: object) -> Json:
        answer = http.extend(lease, **fields)
        assert answer.status == 200, answer
        assert http.job(lease["job_id"])["lease_until"] == answer.json["lease_until"]
        extension: Json = answer.json
        return extension

    # Without a duration: the one of the lease.
    assert_lasts(extended, timedelta(minutes=10))
    assert_lasts(lambda: extended(lease_duration="30m"), timedelta(minutes=30))
    assert_lasts(lambda: extended(lease_duration="1m"), timedelta(minutes=1))
    http.acked(lease)


def test_an_extended_lease_outlives_its_first_end(http: Http, queue: str):
    other = new_name()
    http.submitted(queue)
    http.submitted(other)
    lease = http.leased(queue, lease_duration="2s")
    assert http.extend(lease, lease_duration="1h").status == 200
    # Leased later for as long, so the first end of the other is over when this one's is.
    expires = http.leased(other, lease_duration="2s")
    http.wait_for_state(expires["job_id"], "RETRY", "READY")
    assert http.state(lease["job_id"]) == "RUNNING"
    http.acked(lease, result="r")


@pytest.mark.parametrize("progress", [0, 42, 100, "copying é 😀"])
def test_progress_shows_in_the_job(http: Http, queue: str, progress: object):
    lease = http.submitted_and_leased(queue)
    assert http.job(lease["job_id"]).get("progress") is None
    assert http.extend(lease, progress=progress).status == 200
    assert http.job(lease["job_id"])["progress"] == progress


def test_many_are_extended_with_progress(http: Http, queue: str):
    leases = [http.submitted_and_leased(queue, lease_duration="10m") for _ in range(6)]
    lost = leases[5]
    assert http.release(lost).status in DONE
    extends = [held(one, lease_duration="2h", progress=10 * n) for n, one in enumerate(leases)]
    answer = http.extend_many([*extends, {"job_id": NOBODYS, "lease_token": "1"}])
    assert statuses(answer) == [200, 200, 200, 200, 200, 409, 404]
    assert all(result["error"] for result in answer.json["results"][5:])
    for number, lease in enumerate(leases[:5]):
        job = http.job(lease["job_id"])
        assert job["progress"] == 10 * number
        assert moment(job["lease_until"]) > moment(lease["lease_until"]) + timedelta(hours=1)
    assert http.state(lost["job_id"]) == "READY"


# Tokens ------------------------------------------------------------------------------------


def test_a_token_grows_with_every_lease_of_the_job(http: Http, queue: str):
    job_id = http.submitted(queue, max_retries=10)
    tokens = []
    for number in range(6):
        lease = http.polled(queue)
        assert lease["job_id"] == job_id
        tokens.append(token(lease))
        if number % 2:
            assert http.release(lease).status in DONE
        else:
            http.failed(lease)
    assert tokens == sorted(set(tokens))


Call = Callable[[Http, Json], int]


def one(answer: Answer) -> int:
    if answer.status >= 400:
        assert answer.error
    return answer.status


CALLS: dict[str, Call] = {
    "ack": lambda http, lease: one(http.ack(lease, result="r")),
    "fail": lambda http, lease: one(http.ack(lease, result_error="e")),
    "fail for good": lambda http, lease: one(http.ack(lease, result_error="e", retry=False)),
    "extend": lambda http, lease: one(http.extend(lease)),
    "extend with progress": lambda http, lease: one(http.extend(lease, progress=9)),
    "release": lambda http, lease: one(http.release(lease)),
    "ack many": lambda http, lease: statuses(http.ack_many([held(lease, result="r")]))[0],
    "fail many": lambda http, lease: statuses(http.ack_many([held(lease, result_error="e")]))[0],
    "extend many": lambda http, lease: statuses(http.extend_many([held(lease)]))[0],
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_stale_token_is_refused_and_changes_nothing(http: Http, queue: str, call: Call):
    stale = http.submitted_and_leased(queue)
    assert http.release(stale).status in DONE
    waiting = http.job(stale["job_id"])
    assert call(http, stale) == 409
    assert http.job(stale["job_id"]) == waiting

    live = http.leased(queue)
    assert live["job_id"] == stale["job_id"]
    running = http.job(stale["job_id"])
    assert call(http, stale) == 409
    assert http.job(stale["job_id"]) == running

    http.acked(live, result="the other's")
    finished = http.job(stale["job_id"])
    assert call(http, stale) == 409
    assert http.job(stale["job_id"]) == finished


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_token_that_was_never_given_is_refused(http: Http, queue: str, call: Call):
    lease = http.submitted_and_leased(queue)
    ahead = {**lease, "lease_token": str(token(lease) + 1)}
    running = http.job(lease["job_id"])
    assert call(http, ahead) == 409
    assert http.job(lease["job_id"]) == running
    http.acked(lease)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_token_of_an_expired_lease_is_refused(http: Http, queue: str, call: Call):
    http.submitted(queue)
    expired = http.leased(queue, lease_duration=SHORT)
    http.wait_for_state(expired["job_id"], "RETRY", "READY")
    assert call(http, expired) == 409
    live = http.polled(queue)
    assert call(http, expired) == 409
    http.acked(live)


def test_lost_in_these_words(http: Http, queue: str):
    stale = http.submitted_and_leased(queue)
    assert http.release(stale).status in DONE
    assert http.ack(stale).error == "lease lost"
    assert http.ack_many([held(stale)]).json == {
        "results": [{"status": 409, "error": "lease lost"}]
    }


# The same ack again ------------------------------------------------------------------------


def test_the_same_success_again_changes_nothing(http: Http, queue: str):
    lease = http.submitted_and_leased(queue)
    http.acked(lease, result="r")
    finished = http.job(lease["job_id"])
    for _ in range(2):
        http.acked(lease, result="r")
        assert statuses(http.ack_many([held(lease, result="r")])) == [200]
    assert http.job(lease["job_id"]) == finished
    assert http.counts(queue) == {"ACKED": 1}


@pytest.mark.parametrize(("max_retries", "state"), [(1, "DEAD"), (3, "RETRY")])
def test_the_same_failure_again_changes_nothing(
    http: Http, queue: str, max_retries: int, state: str
):
    backoff = {"initial": "1h", "factor": 1, "max": "1h", "jitter": 0}
    lease = http.submitted_and_leased(queue, max_retries=max_retries, backoff=backoff)
    http.failed(lease, "e")
    failed = http.job(lease["job_id"])
    http.failed(lease, "e")
    assert http.job(lease["job_id"]) == failed
    assert (failed["state"], failed["attempts"]) == (state, 1)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"result": "r"}, {"result": "other"}),
        ({"result": "r"}, {"result_error": "r"}),
        ({"result_error": "e"}, {"result": "e"}),
        ({"result_error": "e"}, {"result_error": "other"}),
    ],
)
def test_another_outcome_is_refused(http: Http, queue: str, first: Json, then: Json):
    lease = http.submitted_and_leased(queue, max_retries=1)
    http.acked(lease, **first)
    finished = http.job(lease["job_id"])
    answer = http.ack(lease, **then)
    assert answer.status == 409
    assert answer.error
    assert http.job(lease["job_id"]) == finished


def test_after_the_next_lease_the_first_ack_is_not_the_same_any_more(http: Http, queue: str):
    first = http.submitted_and_leased(queue)
    http.failed(first, "e", retry_in="10ms")
    second = http.polled(queue)
    assert http.ack(first, result_error="e").status == 409
    http.acked(second)


# Failures ----------------------------------------------------------------------------------


def test_backoff_grows_by_its_factor(http: Http, queue: str):
    backoff = {"initial": "300ms", "factor": 2, "max": "1h", "jitter": 0}
    job_id = http.submitted(queue, backoff=backoff, max_retries=5)
    lease = http.leased(queue)
    for attempt, least_s in ((1, 0.3), (2, 0.6)):
        assert (lease["job_id"], lease["attempt"]) == (job_id, attempt)
        watch = Stopwatch()
        http.failed(lease)
        lease = http.polled(queue)
        assert watch.has_passed(least_s)
    http.acked(lease, result="r")
    job = http.job(job_id)
    assert (job["state"], job["attempts"], job["result"]) == ("ACKED", 3, "r")


def test_a_failed_job_waits_for_its_next_attempt(http: Http, queue: str):
    backoff = {"initial": "1h", "factor": 1, "max": "1h", "jitter": 0}
    lease = http.submitted_and_leased(queue, backoff=backoff)
    http.failed(lease, "why")
    job = http.job(lease["job_id"])
    assert (job["state"], job["attempts"], job["result_error"]) == ("RETRY", 1, "why")
    assert "lease_until" not in job
    assert http.nothing_to_lease(queue)
    assert http.counts(queue) == {"RETRY": 1}


def test_backoff_never_exceeds_its_max(http: Http, queue: str):
    # Without the max the second delay would be of a day.
    backoff = {"initial": "100ms", "factor": 1_000_000, "max": "200ms", "jitter": 0}
    job_id = http.submitted(queue, backoff=backoff)
    http.failed(http.leased(queue))
    watch = Stopwatch()
    http.failed(http.polled(queue))
    assert http.polled(queue)["job_id"] == job_id
    assert watch.has_passed(0.2)


def test_retry_in_wins_over_the_backoff(http: Http, queue: str):
    backoff = {"initial": "1h", "factor": 1, "max": "1h", "jitter": 0}
    lease = http.submitted_and_leased(queue, backoff=backoff)
    watch = Stopwatch()
    http.failed(lease, retry_in="300ms")
    assert http.polled(queue)["attempt"] == 2
    assert watch.has_passed(0.3)

    lease = http.submitted_and_leased(new_name())
    http.failed(lease, retry_in="1h")
    assert http.state(lease["job_id"]) == "RETRY"
    assert http.nothing_to_lease(lease["queue"])


def test_without_a_retry_the_job_is_dead(http: Http, queue: str):
    lease = http.submitted_and_leased(queue, max_retries=5)
    http.failed(lease, "hopeless", retry=False)
    job = http.job(lease["job_id"])
    assert (job["state"], job["attempts"], job["max_retries"]) == ("DEAD", 1, 5)
    assert job["result_error"] == "hopeless"
    assert http.nothing_to_lease(queue)


def test_a_failure_with_a_retry_is_a_failure_without_a_word_of_it(http: Http, queue: str):
    lease = http.submitted_and_leased(queue, max_retries=2)
    http.failed(lease, retry=True)
    lease = http.polled(queue)
    assert lease["attempt"] == 2
    http.failed(lease, retry=True)
    assert http.state(lease["job_id"]) == "DEAD", "no attempts are left"


# Release -----------------------------------------------------------------------------------


def test_a_released_job_has_its_attempt_back(http: Http, queue: str):
    lease = http.submitted_and_leased(queue, max_retries=1)
    for _ in range(3):
        assert http.release(lease).status in DONE
        job = http.job(lease["job_id"])
        assert (job["state"], job["attempts"]) == ("READY", 0)
        assert "lease_until" not in job
        assert "result_error" not in job
        lease = http.leased(queue)
        assert lease["attempt"] == 1
    http.failed(lease)
    assert http.state(lease["job_id"]) == "DEAD"


def test_a_release_after_a_failure_gives_one_attempt_back(http: Http, queue: str):
    http.failed(http.submitted_and_leased(queue, max_retries=2))
    second = http.polled(queue)
    assert second["attempt"] == 2
    assert http.release(second).status in DONE
    assert http.job(second["job_id"])["attempts"] == 1
    assert http.polled(queue)["attempt"] == 2


def test_a_job_can_be_released_for_later(http: Http, queue: str):
    lease = http.submitted_and_leased(queue)
    watch = Stopwatch()
    assert http.release(lease, delay="300ms").status in DONE
    again = http.polled(queue)
    assert watch.has_passed(0.3)
    assert http.release(again, delay="1h").status in DONE
    assert http.nothing_to_lease(queue)
    assert http.job(lease["job_id"])["attempts"] == 0


# Leases that expire ------------------------------------------------------------------------


def test_an_expired_lease_counts_as_an_attempt_and_as_a_crash(http: Http, queue: str):
    job_id = http.submitted(queue, max_retries=2, lease_duration=SHORT)
    first = http.leased(queue)
    job = http.wait_for_state(job_id, "RETRY", "READY")
    assert (job["attempts"], job["crashes"]) == (1, 1)
    assert job["result_error"] == "lease expired"
    assert "lease_until" not in job
    second = http.polled(queue)
    assert (second["job_id"], second["attempt"]) == (job_id, 2)
    assert token(second) > token(first)
    job = http.wait_for_state(job_id, "DEAD")
    assert (job["attempts"], job["crashes"]) == (2, 2)
    assert job["result_error"] == "lease expired"
    assert http.nothing_to_lease(queue)


def test_a_failure_that_was_reported_is_no_crash(http: Http, queue: str):
    job_id = http.submitted(queue, max_retries=3, lease_duration=SHORT)
    http.leased(queue)
    http.wait_for_state(job_id, "RETRY", "READY")
    # The next lease is long, so that it is reported and does not expire.
    http.failed(http.polled(queue, lease_duration="1h"), retry=False)
    job = http.job(job_id)
    assert (job["attempts"], job["crashes"], job["result_error"]) == (2, 1, "boom")


def test_an_expired_lease_needs_no_backoff(http: Http, queue: str):
    backoff = {"initial": "1h", "factor": 1, "max": "1h", "jitter": 0}
    job_id = http.submitted(queue, lease_duration=SHORT, backoff=backoff)
    http.leased(queue)
    assert http.polled(queue)["job_id"] == job_id


def test_a_lease_survives_a_restart(http: Http, queue: str):
    lease = http.submitted_and_leased(queue)
    http.node.restart()
    assert http.nothing_to_lease(queue)
    assert http.state(lease["job_id"]) == "RUNNING"
    assert http.extend(lease).status == 200
    http.acked(lease, result="r")
    http.node.restart()
    http.acked(lease, result="r")
    assert http.ack(lease, result="other").status == 409
