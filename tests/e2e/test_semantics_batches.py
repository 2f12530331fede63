"""Many jobs in one call: submit, lease, ack and extend."""

import pytest

from tests.support.contract import (
    DONE,
    NOBODYS,
    Http,
    Json,
    held,
    ids,
    job,
    new_name,
    statuses,
    token,
)
from tests.support.node import RunningNode

MANY = 10_000


@pytest.fixture(scope="module")
def http(node: RunningNode) -> Http:
    return Http(node)


@pytest.fixture
def queue() -> str:
    return new_name()


# Submit ------------------------------------------------------------------------------------


def test_the_ids_are_in_the_order_of_the_jobs(http: Http, queue: str):
    job_ids = http.submitted_batch([job(queue, payload=f"job {n}") for n in range(100)])
    assert http.counts(queue) == {"READY": 100}
    payloads = {lease["job_id"]: lease["payload"] for lease in http.drained(queue)}
    assert [payloads[job_id] for job_id in job_ids] == [f"job {n}" for n in range(100)]


def test_a_batch_of_one(http: Http, queue: str):
    (job_id,) = http.submitted_batch([job(queue)])
    assert http.leased(queue)["job_id"] == job_id


def test_every_job_of_a_batch_has_its_own_fields(http: Http, queue: str):
    other = new_name()
    jobs = [
        job(queue, max_retries=9, tags={"a": "b"}),
        job(other, priority=5),
        job(queue, delay="1h"),
        {"payload": "x", "queue": other, "group": "g"},
    ]
    first, second, third, fourth = http.submitted_batch(jobs)
    (lease,) = http.drained(queue)
    assert (lease["job_id"], lease["max_retries"], lease["tags"]) == (first, 9, {"a": "b"})
    assert http.state(third) == "SCHEDULED"
    assert set(ids(http.drained(other))) == {second, fourth}


def test_the_largest_batch_is_stored_whole_and_worked_on_in_batches(http: Http, queue: str):
    jobs = [job(queue, payload=f"{n:0256}") for n in range(MANY)]
    job_ids = http.submitted_batch(jobs)
    assert http.counts(queue) == {"READY": MANY}
    leases = http.drained(queue)
    assert sorted(ids(leases)) == sorted(job_ids)
    position = {job_id: number for number, job_id in enumerate(job_ids)}
    assert all(int(lease["payload"]) == position[lease["job_id"]] for lease in leases)
    assert http.counts(queue) == {"RUNNING": MANY}
    for start in range(0, MANY, 1000):
        acks = [held(lease, result="r") for lease in leases[start : start + 1000]]
        assert statuses(http.ack_many(acks)) == [200] * 1000
    assert http.counts(queue) == {"ACKED": MANY}


def test_a_job_too_many_refuses_the_batch(http: Http, queue: str):
    answer = http.submit_batch([job(queue)] * (MANY + 1))
    assert answer.status in (400, 413)
    assert answer.error
    assert http.counts(queue) == {}


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"queue": "q"}, "payload"),
        ({"payload": ""}, "payload"),
        ({"payload": 1}, "payload"),
        ({"payload": "x", "max_retries": -1}, "max_retries"),
        ({"payload": "x", "priority": 101}, "priority"),
        ({"payload": "x", "queue": "a b"}, "queue"),
        ({"payload": "x", "delay": "soon"}, "delay"),
        ({"payload": "x", "delay": "1s", "run_at": "2030-01-01T00:00:00Z"}, "run_at"),
        ({"payload": "x", "colour": "red"}, "colour"),
    ],
)
@pytest.mark.parametrize("index", [0, 17, 30])
def test_one_bad_job_refuses_the_batch_with_its_index(
    http: Http, queue: str, bad: Json, field: str, index: int
):
    jobs: list[Json] = [job(queue) for _ in range(31)]
    jobs[index] = bad
    answer = http.submit_batch(jobs)
    assert answer.status == 400
    assert str(index) in answer.error
    assert field in answer.error
    assert http.counts(queue) == {}


def test_a_payload_too_large_refuses_the_batch(http: Http, queue: str):
    jobs = [job(queue), job(queue, payload="x" * ((1 << 20) + 1))]
    answer = http.submit_batch(jobs)
    assert answer.status == 413
    assert answer.error
    assert http.counts(queue) == {}


# Lease -------------------------------------------------------------------------------------


def test_a_lease_of_many_never_has_more(http: Http, queue: str):
    job_ids = http.submitted_batch([job(queue) for _ in range(20)])
    jobs = http.leased(queue, max=5)["jobs"]
    assert 1 <= len(jobs) <= 5
    assert all(lease["attempt"] == 1 and token(lease) >= 0 for lease in jobs)
    rest = http.drained(queue)
    assert sorted(ids(jobs + rest)) == sorted(job_ids)


def test_a_lease_of_at_most_one_is_in_a_list_as_well(http: Http, queue: str):
    job_id = http.submitted(queue)
    assert ids(http.leased(queue, max=1)["jobs"]) == [job_id]


def test_more_is_asked_for_than_there_is(http: Http, queue: str):
    job_ids = http.submitted_batch([job(queue) for _ in range(3)])
    assert sorted(ids(http.drained(queue, most=1000))) == sorted(job_ids)


def test_a_lease_of_many_of_nothing_is_404(http: Http, queue: str):
    answer = http.lease(queue, max=10)
    assert (answer.status, answer.json) == (404, {"error": "no jobs available"})


def test_a_lease_of_many_takes_of_every_queue(http: Http, queue: str):
    other = new_name()
    job_ids = [http.submitted(name) for name in (queue, other, queue, other)]
    leases = http.drained(queue, other)
    assert sorted(ids(leases)) == sorted(job_ids)
    assert sorted(lease["queue"] for lease in leases) == sorted([queue, queue, other, other])


# Ack ---------------------------------------------------------------------------------------


def test_many_acks_with_an_answer_each(http: Http, queue: str):
    http.submitted_batch([job(queue, max_retries=3) for _ in range(8)])
    leases = http.drained(queue)
    done, failed, dead, released, cancelled, again, delayed, both = leases
    assert http.release(released, delay="1h").status in DONE
    assert http.cancel(cancelled["job_id"]).status in DONE
    http.acked(again, result="r")
    answer = http.ack_many(
        [
            held(done, result="r"),
            held(failed, result_error="e", retry_in="1h"),
            held(released, result="r"),
            held(dead, result_error="e", retry=False),
            {"job_id": NOBODYS, "lease_token": "1", "result": "r"},
            held(cancelled, result="r"),
            held(again, result="r"),
            held(again, result="other"),
            held(delayed, result_error="e", retry_in="1h"),
            held(both),
            held(both),
        ]
    )
    assert statuses(answer) == [200, 200, 409, 200, 404, 409, 200, 409, 200, 200, 200]
    for result in answer.json["results"]:
        assert ("error" in result) == (result["status"] >= 400)
    assert answer.json["results"][2]["error"] == "lease lost"
    assert "cancelled" in answer.json["results"][5]["error"]
    assert http.job(done["job_id"])["result"] == "r"
    job_ids = [failed, dead, cancelled, again, delayed, both]
    states = [http.state(lease["job_id"]) for lease in job_ids]
    assert states == ["RETRY", "DEAD", "CANCELLED", "ACKED", "RETRY", "ACKED"]
    assert http.counts(queue) in (
        {"ACKED": 3, "RETRY": 2, "DEAD": 1, "CANCELLED": 1, "SCHEDULED": 1},
        # What a released job is called until its delay is over is left open.
        {"ACKED": 3, "RETRY": 3, "DEAD": 1, "CANCELLED": 1},
        {"ACKED": 3, "RETRY": 2, "DEAD": 1, "CANCELLED": 1, "READY": 1},
    )


@pytest.mark.parametrize(
    "bad",
    [
        5,
        None,
        [],
        {"lease_token": "1"},
        {"job_id": 5, "lease_token": "1"},
        {"job_id": NOBODYS, "lease_token": 1},
        {"job_id": NOBODYS, "lease_token": "x"},
        {"job_id": NOBODYS, "lease_token": "1", "result": 5},
        {"job_id": NOBODYS, "lease_token": "1", "result": "a", "result_error": "b"},
        {"job_id": NOBODYS, "lease_token": "1", "colour": "red"},
    ],
)
def test_a_malformed_ack_refuses_the_whole_call_with_its_index(http: Http, queue: str, bad: object):
    http.submitted_batch([job(queue) for _ in range(4)])
    first, second, *_ = http.drained(queue)
    answer = http.ack_many([held(first), held(second), bad])
    assert answer.status == 400
    assert "2" in answer.error
    assert http.counts(queue) == {"RUNNING": 4}


@pytest.mark.parametrize(
    "bad",
    [
        5,
        {"job_id": NOBODYS},
        {"job_id": NOBODYS, "lease_token": 1},
        {"job_id": NOBODYS, "lease_token": "x"},
        {"job_id": NOBODYS, "lease_token": "1", "lease_duration": "soon"},
        {"job_id": NOBODYS, "lease_token": "1", "progress": 101},
        {"job_id": NOBODYS, "lease_token": "1", "colour": "red"},
    ],
)
def test_a_malformed_extension_refuses_the_whole_call_with_its_index(
    http: Http, queue: str, bad: object
):
    lease = http.submitted_and_leased(queue)
    before = http.job(lease["job_id"])
    answer = http.extend_many([held(lease, progress=9), bad])
    assert answer.status == 400
    assert "1" in answer.error
    assert http.job(lease["job_id"]) == before
    http.acked(lease)
