"""Queues as an operator sees and handles them: counts, pause, dead letters in bulk."""

from collections.abc import Iterator

import pytest

from tests.support.contract import DONE, Http, ids, job, new_name
from tests.support.node import RunningNode

EVERY_STATE = ["READY", "SCHEDULED", "RUNNING", "RETRY", "ACKED", "DEAD", "CANCELLED"]
BULK = 30


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    environment = {"LEASE_DURATION": "1h", "RETRY_BACKOFF": "50ms"}
    with RunningNode(tmp_path_factory.mktemp("node"), environment) as node:
        yield Http(node)


@pytest.fixture
def queue() -> str:
    return new_name()


# Counts ------------------------------------------------------------------------------------


def test_counts_are_true_when_the_call_has_answered(http: Http, queue: str):
    http.submitted(queue)
    assert http.counts(queue) == {"READY": 1}
    http.submitted_batch([job(queue) for _ in range(9)])
    assert http.counts(queue) == {"READY": 10}
    leases = http.drained(queue)
    assert http.counts(queue) == {"RUNNING": 10}
    http.acked(leases[0])
    assert http.counts(queue) == {"RUNNING": 9, "ACKED": 1}
    http.failed(leases[1], retry_in="1h")
    assert http.counts(queue) == {"RUNNING": 8, "ACKED": 1, "RETRY": 1}
    http.failed(leases[2], retry=False)
    assert http.counts(queue) == {"RUNNING": 7, "ACKED": 1, "RETRY": 1, "DEAD": 1}
    assert http.cancel(leases[3]["job_id"]).status in DONE
    expected = {"RUNNING": 6, "ACKED": 1, "RETRY": 1, "DEAD": 1, "CANCELLED": 1}
    assert http.counts(queue) == expected
    assert http.release(leases[4]).status in DONE
    assert http.counts(queue) == expected | {"RUNNING": 5, "READY": 1}
    assert http.delete(leases[0]["job_id"]).status in DONE
    del expected["ACKED"]
    assert http.counts(queue) == expected | {"RUNNING": 5, "READY": 1}
    assert http.retry(leases[2]["job_id"]).status in DONE
    del expected["DEAD"]
    assert http.counts(queue) == expected | {"RUNNING": 5, "READY": 2}


@pytest.mark.parametrize("state", EVERY_STATE)
def test_a_job_is_counted_in_its_state_alone(http: Http, queue: str, state: str):
    http.in_state(state, queue)
    assert http.counts(queue) == {state: 1}
    assert http.all_counts()[queue] == {state: 1}


def test_a_delayed_job_that_is_due_is_counted_as_ready(http: Http, queue: str):
    # Counted right, that is, by whoever asks and before anybody leases.
    job_id = http.submitted(queue, delay="100ms")
    http.wait_for_state(job_id, "READY")
    assert http.counts(queue) == {"READY": 1}


def test_the_list_has_every_queue_once_when_there_are_very_many(http: Http, queue: str):
    names = [f"{queue}-{number}" for number in range(600)]
    http.submitted_batch([job(name) for name in names])
    answer = http.call("GET", "/queues")
    listed = [each["queue"] for each in answer.json["queues"]]
    assert sorted(each for each in listed if each.startswith(f"{queue}-")) == sorted(names)
    assert len(listed) == len(set(listed))
    for name in names:
        assert http.call("DELETE", f"/queues/{name}/jobs?state=READY").json == {"count": 1}


def test_what_a_queue_shows(http: Http, queue: str):
    http.submitted(queue)
    found = http.queue(queue)
    assert found["queue"] == queue
    assert {"counts", "oldest_ready_age", "rates", "paused", "dead_letters"} <= set(found)
    assert found["paused"] is False
    assert found["oldest_ready_age"] is not None
    assert found["rates"]
    assert all(type(count) is int for count in found["counts"].values())


def test_the_list_of_queues_has_all_and_shows_the_same(http: Http, queue: str):
    other = new_name()
    http.submitted(queue)
    http.in_state("SCHEDULED", other)
    listed = http.queues()
    assert {queue, other} <= set(listed)
    for name in (queue, other):
        assert set(listed[name]) == set(http.queue(name))
        assert listed[name]["counts"] == http.queue(name)["counts"]


def test_a_queue_that_nobody_used_has_nothing(http: Http, queue: str):
    assert http.counts(queue) == {}
    assert queue not in http.all_counts()


# Pause -------------------------------------------------------------------------------------


def test_a_paused_queue_takes_jobs_and_gives_none(http: Http, queue: str):
    http.submitted_batch([job(queue) for _ in range(10)])
    http.pause(queue)
    http.pause(queue)
    job_id = http.submitted(queue)
    http.submitted_batch([job(queue) for _ in range(9)])
    for _ in range(5):
        assert http.nothing_to_lease(queue)
        assert http.lease(queue, max=10).status == 404
        assert http.queue(queue)["paused"] is True
        assert http.queues()[queue]["paused"] is True
    assert http.state(job_id) == "READY"
    assert http.counts(queue) == {"READY": 20}

    http.resume(queue)
    http.resume(queue)
    assert http.queue(queue)["paused"] is False
    assert len(http.drained(queue)) == 20


def test_a_worker_of_a_paused_queue_can_finish(http: Http, queue: str):
    lease = http.submitted_and_leased(queue)
    http.pause(queue)
    assert http.extend(lease).status == 200
    http.acked(lease, result="r")
    assert http.state(lease["job_id"]) == "ACKED"


def test_a_pause_is_of_one_queue(http: Http, queue: str):
    other = new_name()
    http.submitted(queue)
    job_id = http.submitted(other)
    http.pause(queue)
    lease = http.leased(queue, other)
    assert (lease["job_id"], lease["queue"]) == (job_id, other)


def test_a_queue_can_be_paused_before_its_first_job(http: Http, queue: str):
    http.pause(queue)
    job_id = http.submitted(queue)
    assert http.nothing_to_lease(queue)
    http.resume(queue)
    assert http.leased(queue)["job_id"] == job_id


def test_a_parked_lease_gets_a_job_when_the_queue_goes_on(http: Http, queue: str):
    http.pause(queue)
    waiting = http.park_lease(queue, wait="60s")
    job_id = http.submitted(queue)
    assert http.state(job_id) == "READY"
    assert not waiting.is_answered
    http.resume(queue)
    assert waiting.answer().json["job_id"] == job_id


@pytest.mark.parametrize("key", ["client", "worker"])
@pytest.mark.parametrize(
    ("method", "verb"),
    [
        ("POST", "pause"),
        ("POST", "resume"),
        ("POST", "retry-dead"),
        ("DELETE", "jobs?state=READY"),
    ],
)
def test_only_an_admin_handles_queues(http: Http, queue: str, method: str, verb: str, key: str):
    job_id = http.submitted(queue)
    assert http.of_queue(method, queue, verb, key=key).status == 403
    assert http.leased(queue)["job_id"] == job_id


# Bulk --------------------------------------------------------------------------------------


def dead_letters(http: Http, queue: str, count: int = BULK) -> list[str]:
    job_ids = http.submitted_batch([job(queue, max_retries=2) for _ in range(count)])
    for lease in http.drained(queue):
        http.failed(lease, retry=False)
    assert http.counts(queue) == {"DEAD": count}
    return job_ids


def test_the_dead_start_again_in_bulk(http: Http, queue: str):
    job_ids = dead_letters(http, queue)
    cancelled = http.in_state("CANCELLED", queue)
    others = new_name()
    dead_letters(http, others, 2)
    answer = http.of_queue("POST", queue, "retry-dead")
    assert (answer.status, answer.json) == (200, {"count": BULK})
    assert http.counts(queue) == {"READY": BULK, "CANCELLED": 1}
    leases = http.drained(queue)
    assert sorted(ids(leases)) == sorted(job_ids)
    assert {lease["attempt"] for lease in leases} == {1}
    assert http.state(cancelled) == "CANCELLED"
    assert http.counts(others) == {"DEAD": 2}
    assert http.of_queue("POST", queue, "retry-dead").json == {"count": 0}


def test_a_queue_without_dead_letters_has_none_to_retry(http: Http, queue: str):
    http.submitted(queue)
    assert http.of_queue("POST", queue, "retry-dead").json == {"count": 0}
    assert http.counts(queue) == {"READY": 1}


def test_the_dead_are_deleted_in_bulk(http: Http, queue: str):
    job_ids = dead_letters(http, queue)
    kept = http.submitted(queue)
    answer = http.of_queue("DELETE", queue, "jobs?state=DEAD")
    assert (answer.status, answer.json) == (200, {"count": BULK})
    assert http.counts(queue) == {"READY": 1}
    assert {http.get(f"/jobs/{job_id}").status for job_id in job_ids} == {404}
    assert http.listed(queue=queue) == [kept]
    assert http.of_queue("DELETE", queue, "jobs?state=DEAD").json == {"count": 0}


@pytest.mark.parametrize("state", [state for state in EVERY_STATE if state != "RUNNING"])
def test_jobs_of_a_state_are_deleted(http: Http, queue: str, state: str):
    running = http.submitted_and_leased(queue)["job_id"]
    deleted = http.in_state(state, queue)
    answer = http.of_queue("DELETE", queue, f"jobs?state={state}")
    assert (answer.status, answer.json) == (200, {"count": 1})
    assert http.get(f"/jobs/{deleted}").status == 404
    assert http.counts(queue) == {"RUNNING": 1}
    assert http.state(running) == "RUNNING"
    assert http.nothing_to_lease(queue)


@pytest.mark.parametrize("state", ["RUNNING", "DONE", ""])
def test_running_jobs_and_unknown_states_are_not_deleted(http: Http, queue: str, state: str):
    http.submitted_and_leased(queue)
    answer = http.of_queue("DELETE", queue, f"jobs?state={state}")
    assert answer.status == 400
    assert "state" in answer.error
    assert http.counts(queue) == {"RUNNING": 1}


def test_a_purge_of_many(http: Http, queue: str):
    http.submitted_batch([job(queue) for _ in range(10_000)])
    answer = http.of_queue("DELETE", queue, "jobs?state=READY")
    assert (answer.status, answer.json) == (200, {"count": 10_000})
    assert http.counts(queue) == {}
    assert http.nothing_to_lease(queue)


# Last, because it stops the node ------------------------------------------------------------


def test_pause_and_counts_survive_a_restart(http: Http, queue: str):
    other = new_name()
    dead_letters(http, queue, 5)
    http.in_state("SCHEDULED", queue)
    job_id = http.submitted(queue)
    http.in_state("ACKED", other)
    http.pause(queue)
    before = http.all_counts()
    http.node.restart()
    assert http.all_counts() == before
    assert http.queue(queue)["paused"] is True
    assert http.nothing_to_lease(queue)
    http.resume(queue)
    assert http.leased(queue)["job_id"] == job_id
    http.node.restart()
    assert http.queue(queue)["paused"] is False
