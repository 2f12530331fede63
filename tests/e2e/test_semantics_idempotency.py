"""The same submit twice makes one job."""

import functools

import pytest

from tests.support.contract import (
    DONE,
    Answer,
    Http,
    at_once,
    ids,
    job,
    new_name,
)
from tests.support.node import RunningNode

HEADER = "Idempotency-Key"


@pytest.fixture(scope="module")
def http(node: RunningNode) -> Http:
    return Http(node)


@pytest.fixture
def queue() -> str:
    return new_name()


def assert_replayed(answer: Answer, job_id: str) -> None:
    assert answer.status == 200, answer
    assert answer.json["job_id"] == job_id
    assert answer.headers["idempotent-replay"] == "true"


def test_the_same_submit_again_is_the_first_job(http: Http, queue: str):
    first = http.submit(queue, idempotency_key="k")
    assert first.status == 201
    assert "idempotent-replay" not in first.headers
    for _ in range(4):
        assert_replayed(http.submit(queue, idempotency_key="k"), first.json["job_id"])
    assert http.counts(queue) == {"READY": 1}


def test_jobs_without_a_key_are_as_many_as_submits(http: Http, queue: str):
    assert http.submitted(queue) != http.submitted(queue)
    assert http.counts(queue) == {"READY": 2}


def test_header_and_field_are_the_same_key(http: Http, queue: str):
    job_id = http.submitted(queue, headers={HEADER: "k"})
    assert_replayed(http.submit(queue, headers={HEADER: "k"}), job_id)
    assert_replayed(http.submit(queue, idempotency_key="k"), job_id)
    both = http.submit(queue, headers={HEADER: "k"}, idempotency_key="k")
    assert_replayed(both, job_id)

    other = http.submitted(queue, idempotency_key="other")
    assert_replayed(http.submit(queue, headers={HEADER.lower(): "other"}), other)
    assert http.counts(queue) == {"READY": 2}


@pytest.mark.parametrize(
    "fields",
    [
        {"payload": "another"},
        {"max_retries": 9},
        {"priority": 5},
        {"tags": {"a": "b"}},
        {"delay": "1h"},
        {"ttl": "1h"},
        {"retention": "1h"},
        {"lease_duration": "1h"},
        {"backoff": {"initial": "1s", "factor": 2, "max": "1m", "jitter": 0}},
    ],
)
def test_another_body_under_the_same_key_is_refused(http: Http, queue: str, fields):
    job_id = http.submitted(queue, idempotency_key="k")
    answer = http.submit(queue, idempotency_key="k", **fields)
    assert answer.status == 422
    assert answer.error
    assert "idempotent-replay" not in answer.headers
    assert http.counts(queue) == {"READY": 1}
    assert_replayed(http.submit(queue, idempotency_key="k"), job_id)


def test_the_same_key_in_another_group_is_another_body(http: Http, queue: str):
    grouped = http.submitted(queue, idempotency_key="k", group="g")
    again = http.submit(queue, idempotency_key="k", group="g")
    assert (again.status, again.json["job_id"]) == (200, grouped)
    assert http.submit(queue, idempotency_key="k", group="g", priority=1).status == 422
    assert http.submit(queue, idempotency_key="k", group="h").status == 422
    assert http.submit(queue, idempotency_key="k").status == 422


def test_bodies_are_compared_as_parsed(http: Http, queue: str):
    name = queue.encode()
    first = b'{"payload":"\xc3\xa9","queue":"' + name + b'","tags":{"a":"1","b":"2"}}'
    again = (
        b' { "tags" : {"b":"2", "a":"\\u0031"},\n"queue":"'
        + name
        + b'", "payload": "\\u00e9", "idempotency_key": "k" } '
    )
    answer = http.call("POST", "/jobs", first, key="client", headers={HEADER: "k"})
    assert answer.status == 201
    job_id = answer.json["job_id"]
    assert_replayed(http.call("POST", "/jobs", again, key="client"), job_id)


def test_every_queue_has_keys_of_its_own(http: Http, queue: str):
    other = new_name()
    job_ids = {http.submitted(name, idempotency_key="k") for name in (queue, other)}
    assert len(job_ids) == 2
    assert http.counts(queue) == http.counts(other) == {"READY": 1}


def test_every_owner_has_keys_of_its_own(http: Http, queue: str):
    def key_of(owner: str) -> str:
        wanted = {"name": "n", "owner_id": owner, "type": "client"}
        made = http.call("POST", "/admin/keys", wanted)
        assert made.status == 201, made
        return str(made.json["key"])

    one, another, others = key_of("one"), key_of("one"), key_of("other")
    first = http.submitted(queue, key=one, idempotency_key="k")
    second = http.submitted(queue, key=others, idempotency_key="k")
    assert first != second
    assert_replayed(http.submit(queue, key=another, idempotency_key="k"), first)
    # What is another's is no conflict either.
    assert http.submit(queue, key="admin", payload="y", idempotency_key="k").status == 201
    assert http.counts(queue) == {"READY": 3}


@pytest.mark.parametrize("round_", range(5))
def test_of_concurrent_submits_one_makes_a_job(http: Http, queue: str, round_: int):
    submit = functools.partial(http.submit, queue, idempotency_key=f"k{round_}")
    answers = at_once([submit] * 16)
    assert sorted(answer.status for answer in answers) == [200] * 15 + [201]
    assert len({answer.json["job_id"] for answer in answers}) == 1
    assert http.counts(queue) == {"READY": 1}
    assert len(http.drained(queue)) == 1


def test_of_concurrent_submits_of_two_bodies_one_body_wins(http: Http, queue: str):
    submits = [
        functools.partial(http.submit, queue, payload=f"{n % 2}", idempotency_key="k")
        for n in range(16)
    ]
    answers = at_once(submits)
    made = [answer for answer in answers if answer.status < 400]
    assert sorted(answer.status for answer in answers) == [200] * 7 + [201] + [422] * 8
    assert len({answer.json["job_id"] for answer in made}) == 1
    assert http.counts(queue) == {"READY": 1}


@pytest.mark.parametrize("state", ["RUNNING", "RETRY", "ACKED", "DEAD", "CANCELLED"])
def test_a_key_holds_whatever_became_of_the_job(http: Http, queue: str, state: str):
    job_id = http.in_state(state, queue, idempotency_key="k")
    assert_replayed(http.submit(queue, idempotency_key="k"), job_id)
    assert http.submit(queue, payload="y", idempotency_key="k").status == 422
    assert http.counts(queue) == {state: 1}


def test_a_key_is_free_when_its_job_is_deleted(http: Http, queue: str):
    job_id = http.in_state("ACKED", queue, idempotency_key="k")
    assert http.delete(job_id).status in DONE
    answer = http.submit(queue, payload="y", idempotency_key="k")
    assert answer.status == 201
    lease = http.leased(queue)
    assert (lease["payload"], lease["attempt"]) == ("y", 1)


# Batches -----------------------------------------------------------------------------------


def test_a_batch_again_is_the_same_jobs(http: Http, queue: str):
    jobs = [job(queue, payload=f"{n}", idempotency_key=f"k{n}") for n in range(20)]
    job_ids = http.submitted_batch(jobs)
    again = http.submit_batch(jobs)
    assert again.status in (200, 201)
    assert again.json["job_ids"] == job_ids
    assert http.counts(queue) == {"READY": 20}


def test_a_batch_has_no_key_of_its_own(http: Http, queue: str):
    body = {"jobs": [job(queue, idempotency_key="k")]}
    answer = http.call("POST", "/jobs/batch", body, key="client", headers={HEADER: "k"})
    assert answer.status == 400
    assert HEADER in answer.error
    assert http.counts(queue) == {}


def test_a_batch_may_hold_a_job_that_exists(http: Http, queue: str):
    known = http.submitted(queue, idempotency_key="k")
    jobs = [job(queue), job(queue, idempotency_key="k"), job(queue, idempotency_key="l")]
    job_ids = http.submitted_batch(jobs)
    assert job_ids[1] == known
    assert http.counts(queue) == {"READY": 3}
    assert sorted(ids(http.drained(queue))) == sorted(job_ids)


@pytest.mark.parametrize("index", [0, 13, 29])
def test_a_conflict_refuses_the_batch_with_its_index(http: Http, queue: str, index: int):
    known = http.submitted(queue, idempotency_key="k")
    jobs = [job(queue, idempotency_key=f"new {n}") for n in range(30)]
    jobs[index] = job(queue, payload="y", idempotency_key="k")
    answer = http.submit_batch(jobs)
    assert answer.status == 422
    assert str(index) in answer.error
    assert http.counts(queue) == {"READY": 1}
    # Nothing is left of the others' keys either.
    other = (index + 1) % 30
    assert http.submit(queue, payload="z", idempotency_key=f"new {other}").status == 201
    assert_replayed(http.submit(queue, idempotency_key="k"), known)


def test_a_batch_that_is_in_conflict_with_itself_is_refused(http: Http, queue: str):
    jobs = [job(queue, payload=payload, idempotency_key="k") for payload in "xy"]
    answer = http.submit_batch([job(queue), *jobs])
    assert answer.status == 422
    assert http.counts(queue) == {}


# Last, because it stops the node ------------------------------------------------------------


def test_a_key_holds_over_a_restart(http: Http, queue: str):
    job_id = http.submitted(queue, idempotency_key="k")
    finished = http.in_state("ACKED", other := new_name(), idempotency_key="k")
    http.node.restart()
    assert_replayed(http.submit(queue, idempotency_key="k"), job_id)
    assert_replayed(http.submit(other, idempotency_key="k"), finished)
    assert http.submit(queue, payload="y", idempotency_key="k").status == 422
    assert http.counts(queue) == {"READY": 1}
