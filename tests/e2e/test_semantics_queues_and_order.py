"""Named queues, the order of leases, and what a job may ask for at its submit.

One partition: order over several holds only as far as what a front knows of them is fresh.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.contract import Http, Stopwatch, ids, job, moment, new_name
from tests.support.node import RunningNode
from tests.support.polling import wait_until

SHORT_RETENTION = "1s"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    environment = {"PARTITIONS": "1", "LEASE_DURATION": "1h", "RETRY_BACKOFF": "50ms"}
    with RunningNode(tmp_path_factory.mktemp("node"), environment) as node:
        yield Http(node)


@pytest.fixture
def queue() -> str:
    return new_name()


@pytest.fixture(scope="module", autouse=True)
def finished_early(http: Http) -> str:
    """A job that is kept for a moment, finished before the first test; the last looks for it."""
    lease = http.submitted_and_leased(new_name(), retention=SHORT_RETENTION)
    http.acked(lease)
    return str(lease["job_id"])


# Queues ------------------------------------------------------------------------------------


def test_a_job_without_a_queue_is_in_the_default_queue(http: Http, queue: str):
    job_id = http.submitted()
    http.submitted(queue)
    lease = http.leased()
    assert (lease["job_id"], lease["queue"]) == (job_id, "default")
    http.acked(lease)
    assert http.nothing_to_lease(), "a lease call without queues takes of the default queue alone"
    named = http.submitted("default")
    lease = http.leased("default")
    assert lease["job_id"] == named
    http.acked(lease)


def test_a_queue_has_only_its_own_jobs(http: Http, queue: str):
    other = new_name()
    job_id = http.submitted(queue)
    assert http.nothing_to_lease(other)
    lease = http.leased(queue)
    assert (lease["job_id"], lease["queue"]) == (job_id, queue)
    assert http.nothing_to_lease(queue)


@pytest.mark.parametrize("name", ["a", "A.b_c:d-9", "0", "x" * 128])
def test_names_of_queues(http: Http, name: str):
    job_id = http.submitted(name)
    assert http.counts(name) == {"READY": 1}
    assert http.leased(name)["job_id"] == job_id


def test_queues_in_order_of_preference(http: Http):
    first, second, third = (new_name() for _ in range(3))
    # The last preferred has the oldest job and the highest priority.
    in_third = http.submitted(third, priority=100)
    in_second = http.submitted(second, priority=50)
    in_first = [http.submitted(first), http.submitted(first)]
    leased = [http.leased(first, second, third)["job_id"] for _ in range(4)]
    assert leased == [*in_first, in_second, in_third]


def test_preference_holds_in_a_lease_of_many(http: Http):
    first, second = new_name(), new_name()
    in_second = [http.submitted(second) for _ in range(3)]
    in_first = [http.submitted(first) for _ in range(3)]
    assert ids(http.drained(first, second)) == in_first + in_second


# Order -------------------------------------------------------------------------------------


def test_the_order_of_submission(http: Http, queue: str):
    job_ids = [http.submitted(queue) for _ in range(10)]
    assert [http.leased(queue)["job_id"] for _ in job_ids] == job_ids


def test_the_order_of_submission_in_a_batch(http: Http, queue: str):
    job_ids = http.submitted_batch([job(queue) for _ in range(50)])
    assert ids(http.drained(queue, most=7)) == job_ids


def test_higher_priority_first_then_submission(http: Http, queue: str):
    priorities = [0, -100, 100, 5, 5, -1, None, 100]
    submitted = [
        (
            -(priority or 0),
            number,
            http.submitted(queue, **({} if priority is None else {"priority": priority})),
        )
        for number, priority in enumerate(priorities)
    ]
    expected = [job_id for _, _, job_id in sorted(submitted)]
    assert [http.leased(queue)["job_id"] for _ in expected] == expected


def test_a_late_job_of_high_priority_overtakes(http: Http, queue: str):
    low = http.submitted(queue)
    high = http.submitted(queue, priority=1)
    assert http.leased(queue)["job_id"] == high
    highest = http.submitted(queue, priority=2)
    assert http.leased(queue)["job_id"] == highest
    assert http.leased(queue)["job_id"] == low


# Delay -------------------------------------------------------------------------------------


def in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("field", ["delay", "run_at"])
def test_a_job_that_is_not_due_is_scheduled(http: Http, queue: str, field: str):
    later = http.submitted(queue, **{field: "1h" if field == "delay" else in_an_hour()})
    assert http.state(later) == "SCHEDULED"
    assert http.counts(queue) == {"SCHEDULED": 1}
    assert http.nothing_to_lease(queue)
    now = http.submitted(queue)
    assert http.leased(queue)["job_id"] == now


@pytest.mark.parametrize("delay", ["300ms", 0.3, "0.3s", "0m0.3s"])
def test_a_delayed_job_comes_when_its_delay_is_over(http: Http, queue: str, delay: object):
    watch = Stopwatch()
    job_id = http.submitted(queue, delay=delay)
    lease = http.polled(queue)
    assert lease["job_id"] == job_id
    assert lease["attempt"] == 1
    assert watch.has_passed(0.3)


def test_a_job_comes_at_its_time(http: Http, queue: str):
    watch = Stopwatch()
    at = datetime.now(UTC) + timedelta(milliseconds=300)
    job_id = http.submitted(queue, run_at=at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    assert http.polled(queue)["job_id"] == job_id
    assert watch.has_passed(0.3)


def test_a_time_that_is_over_is_now(http: Http, queue: str):
    job_id = http.submitted(queue, run_at="2020-01-01T00:00:00Z")
    assert http.leased(queue)["job_id"] == job_id


# Time to live, retention, tags -------------------------------------------------------------


def test_a_job_that_was_not_started_in_time_is_dead(http: Http, queue: str):
    job_id = http.submitted(queue, ttl="200ms")
    found = http.wait_for_state(job_id, "DEAD")
    assert found["result_error"] == "expired"
    assert found["attempts"] == 0
    assert http.counts(queue) == {"DEAD": 1}
    assert http.nothing_to_lease(queue)


def test_a_delayed_job_can_expire_as_well(http: Http, queue: str):
    job_id = http.submitted(queue, ttl="200ms", delay="1h")
    assert http.wait_for_state(job_id, "DEAD")["result_error"] == "expired"


def test_a_job_that_was_started_in_time_goes_on(http: Http, queue: str):
    worker = http.park_lease(queue, wait="60s")
    started = http.submitted(queue, ttl="2s")
    lease = worker.answer().json
    assert lease["job_id"] == started
    # Submitted later, so the other's time is over when this one's is.
    http.wait_for_state(http.submitted(queue, ttl="2s"), "DEAD")
    assert http.state(started) == "RUNNING"
    http.acked(lease, result="r")
    assert http.state(started) == "ACKED"


def test_tags_and_the_rest_come_with_every_lease(http: Http, queue: str):
    tags = {f"key {number}": "välue 😀" for number in range(16)}
    asked_at = datetime.now(UTC) - timedelta(seconds=1)
    job_id = http.submitted(queue, tags=tags, max_retries=7)
    http.submitted(queue)
    lease, plain = http.drained(queue)
    assert (lease["job_id"], lease["queue"], lease["tags"]) == (job_id, queue, tags)
    assert (lease["max_retries"], lease["attempt"]) == (7, 1)
    assert asked_at <= moment(lease["created_at"]) <= datetime.now(UTC) + timedelta(seconds=1)
    assert moment(lease["created_at"]) == moment(http.job(job_id)["created_at"])
    assert {"lease_token", "queue", "max_retries", "tags", "created_at"} <= set(plain)


# Runs last: what it waits for takes up to 20 s, most of which the tests before it have used.
def test_a_finished_job_is_gone_after_its_own_retention(http: Http, finished_early: str):
    kept = http.submitted_and_leased(new_name())["job_id"]
    wait_until(lambda: http.get(f"/jobs/{finished_early}").status == 404)
    assert http.state(kept) == "RUNNING"
