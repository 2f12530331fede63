"""Calls that wait: a lease for a job, a reader for a job's end."""

from collections.abc import Iterator

import pytest

from tests.support.contract import (
    DONE,
    NOBODYS,
    Http,
    Json,
    Stopwatch,
    first_answered,
    ids,
    job,
    new_name,
)
from tests.support.node import RunningNode

LONG = "60s"
"""The longest wait. A test that is answered at the end of it takes too long, and fails."""
SOON_S = 45.0

WORKERS = 200


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    environment = {"LEASE_DURATION": "1h", "RETRY_BACKOFF": "50ms"}
    with RunningNode(tmp_path_factory.mktemp("node"), environment) as node:
        yield Http(node)


@pytest.fixture
def queue() -> str:
    return new_name()


def both_fronts_answer(http: Http, queue: str) -> None:
    """Give what was sent before a good chance to be parked: a front takes requests in turn.

    No test relies on it: one that is parked later is only a weaker test.
    """
    for _ in range(20):
        http.nothing_to_lease(queue)


# Lease -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"max": 10}])
@pytest.mark.parametrize("wait", ["300ms", 0.3])
def test_a_wait_for_nothing_ends_with_404(http: Http, queue: str, wait: object, fields: Json):
    watch = Stopwatch()
    answer = http.lease(queue, wait=wait, **fields)
    assert (answer.status, answer.json) == (404, {"error": "no jobs available"})
    assert watch.has_passed(0.3)
    assert watch.passed_s < SOON_S


def test_a_wait_is_not_waited_when_there_is_work(http: Http, queue: str):
    job_id = http.submitted(queue)
    watch = Stopwatch()
    assert http.leased(queue, wait=LONG)["job_id"] == job_id
    assert watch.passed_s < SOON_S


def test_no_wait_at_all(http: Http, queue: str):
    assert http.lease(queue, wait="0s").status == 404
    assert http.lease(queue, wait=0).status == 404


@pytest.mark.parametrize("wait", ["60.001s", "61s", "1m1s", "1h", 61])
def test_too_long_a_wait_is_refused(http: Http, queue: str, wait: object):
    job_id = http.submitted(queue)
    answer = http.lease(queue, wait=wait)
    assert answer.status == 400
    assert "wait" in answer.error
    answer = http.get(f"/jobs/{job_id}", wait=wait)
    assert answer.status == 400
    assert "wait" in answer.error
    assert http.state(job_id) == "READY"


@pytest.mark.parametrize("number", range(10))
def test_a_submit_wakes_a_parked_lease(http: Http, queue: str, number: int):
    watch = Stopwatch()
    waiting = http.park_lease(queue, wait=LONG)
    if number % 2:
        both_fronts_answer(http, new_name())
    job_id = http.submitted(queue)
    assert waiting.answer().json["job_id"] == job_id
    assert watch.passed_s < SOON_S


def test_a_batch_wakes_a_parked_lease_of_many(http: Http, queue: str):
    waiting = http.park_lease(queue, wait=LONG, max=100)
    both_fronts_answer(http, new_name())
    job_ids = http.submitted_batch([job(queue) for _ in range(50)])
    answer = waiting.answer()
    assert answer.status == 200
    leases = answer.json["jobs"] + http.drained(queue)
    assert sorted(ids(leases)) == sorted(job_ids)


def test_a_lease_is_parked_on_every_queue_that_it_names(http: Http, queue: str):
    other = new_name()
    for name in (queue, other):
        waiting = http.park_lease(queue, other, wait=LONG)
        job_id = http.submitted(name)
        lease = waiting.answer().json
        assert (lease["job_id"], lease["queue"]) == (job_id, name)


def test_another_queues_job_does_not_end_a_wait(http: Http, queue: str):
    other = new_name()
    waiting = http.park_lease(queue, wait=LONG)
    in_other = http.submitted(other)
    in_this = http.submitted(queue)
    assert waiting.answer().json["job_id"] == in_this
    assert http.leased(other)["job_id"] == in_other


def delayed(http: Http, queue: str) -> str:
    return http.submitted(queue, delay="300ms")


def failed(http: Http, queue: str) -> str:
    lease = http.submitted_and_leased(queue)
    http.failed(lease, retry_in="300ms")
    return str(lease["job_id"])


def released(http: Http, queue: str) -> str:
    lease = http.submitted_and_leased(queue)
    assert http.release(lease, delay="300ms").status in DONE
    return str(lease["job_id"])


def expired(http: Http, queue: str) -> str:
    job_id = http.submitted(queue, lease_duration="300ms")
    assert http.leased(queue)["job_id"] == job_id
    return job_id


@pytest.mark.parametrize("by_itself", [delayed, failed, released, expired])
def test_a_job_that_comes_by_itself_wakes_a_parked_lease(http: Http, queue: str, by_itself):
    job_id = by_itself(http, queue)
    watch = Stopwatch()
    assert http.leased(queue, wait=LONG)["job_id"] == job_id
    assert watch.passed_s < SOON_S


def test_a_job_that_is_made_ready_wakes_a_parked_lease(http: Http, queue: str):
    lease = http.submitted_and_leased(queue)
    waiting = http.park_lease(queue, wait=LONG)
    both_fronts_answer(http, new_name())
    assert http.release(lease).status in DONE
    assert waiting.answer().json["job_id"] == lease["job_id"]

    dead = http.in_state("DEAD", other := new_name())
    waiting = http.park_lease(other, wait=LONG)
    both_fronts_answer(http, new_name())
    assert http.retry(dead).status in DONE
    assert waiting.answer().json["job_id"] == dead


def test_the_end_of_a_groups_first_job_wakes_a_lease_for_its_second(http: Http, queue: str):
    first = http.submitted_and_leased(queue, group="g")
    second = http.submitted(queue, group="g")
    waiting = http.park_lease(queue, wait=LONG)
    both_fronts_answer(http, new_name())
    http.acked(first)
    assert waiting.answer().json["job_id"] == second


def test_one_submit_wakes_exactly_one_of_many(http: Http, queue: str):
    waiting = [http.park_lease(queue, wait=LONG) for _ in range(WORKERS)]
    both_fronts_answer(http, new_name())
    job_ids = []
    leased = []
    for _ in range(20):
        job_ids.append(http.submitted(queue))
        # Nobody else can have been answered: the other jobs are not submitted yet.
        (woken,) = first_answered(waiting)
        waiting.remove(woken)
        answer = woken.answer()
        assert answer.status == 200
        leased.append(answer.json["job_id"])
    assert leased == job_ids
    job_ids += http.submitted_batch([job(queue) for _ in waiting])
    answers = [one.answer() for one in waiting]
    assert [answer.status for answer in answers] == [200] * len(waiting)
    leased += [answer.json["job_id"] for answer in answers]
    assert sorted(leased) == sorted(job_ids)
    assert http.counts(queue) == {"RUNNING": WORKERS}


def test_who_hung_up_while_parked_gets_no_job(http: Http, queue: str):
    gone = [http.park_lease(queue, wait=LONG) for _ in range(20)]
    both_fronts_answer(http, new_name())
    for one in gone:
        one.hang_up()
    job_ids = [http.submitted(queue) for _ in range(10)]
    # Their leases would hold for an hour: a job that one of them was given comes back at once.
    leases = [http.leased(queue, wait=LONG) for _ in job_ids]
    assert sorted(ids(leases)) == sorted(job_ids)
    assert {lease["attempt"] for lease in leases} == {1}
    assert http.counts(queue) == {"RUNNING": 10}


# Jobs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "state"),
    [({"result": "r"}, "ACKED"), ({"result_error": "e"}, "DEAD")],
)
def test_a_reader_is_answered_when_the_job_is_finished(
    http: Http, queue: str, outcome: Json, state: str
):
    job_id = http.submitted(queue, max_retries=1)
    watch = Stopwatch()
    waiting = [http.park("GET", f"/jobs/{job_id}?wait={LONG}", key="client") for _ in range(10)]
    lease = http.leased(queue)
    assert not any(one.is_answered for one in waiting)
    http.acked(lease, **outcome)
    for one in waiting:
        answer = one.answer()
        assert answer.status == 200
        assert answer.json == http.job(job_id)
        assert answer.json["state"] == state
        assert outcome.items() <= answer.json.items()
    assert watch.passed_s < SOON_S


def test_a_reader_is_answered_when_the_job_is_cancelled(http: Http, queue: str):
    job_id = http.submitted(queue)
    waiting = http.park("GET", f"/jobs/{job_id}?wait={LONG}", key="client")
    both_fronts_answer(http, new_name())
    assert http.cancel(job_id).status in DONE
    assert waiting.answer().json["state"] == "CANCELLED"


def test_a_reader_is_answered_when_the_job_expires(http: Http, queue: str):
    job_id = http.submitted(queue, ttl="300ms")
    answer = http.get(f"/jobs/{job_id}", wait=LONG)
    assert (answer.json["state"], answer.json["result_error"]) == ("DEAD", "expired")


def test_a_reader_waits_through_a_retry(http: Http, queue: str):
    lease = http.submitted_and_leased(queue)
    waiting = http.park("GET", f"/jobs/{lease['job_id']}?wait={LONG}", key="client")
    both_fronts_answer(http, new_name())
    http.failed(lease, retry_in="100ms")
    assert not waiting.is_answered
    http.acked(http.polled(queue), result="r")
    assert waiting.answer().json["state"] == "ACKED"


def test_the_end_of_the_wait_shows_the_job_as_it_is(http: Http, queue: str):
    lease = http.submitted_and_leased(queue)
    watch = Stopwatch()
    answer = http.get(f"/jobs/{lease['job_id']}", wait="300ms")
    assert watch.has_passed(0.3)
    assert answer.status == 200
    assert answer.json == http.job(lease["job_id"])
    assert answer.json["state"] == "RUNNING"


@pytest.mark.parametrize("state", ["ACKED", "DEAD", "CANCELLED"])
def test_a_finished_job_is_not_waited_for(http: Http, queue: str, state: str):
    job_id = http.in_state(state, queue)
    watch = Stopwatch()
    assert http.get(f"/jobs/{job_id}", wait=LONG).json["state"] == state
    assert watch.passed_s < SOON_S


def test_a_job_that_is_not_there_is_not_waited_for(http: Http):
    watch = Stopwatch()
    answer = http.get(f"/jobs/{NOBODYS}", wait=LONG)
    assert answer.status == 404
    assert watch.passed_s < SOON_S
