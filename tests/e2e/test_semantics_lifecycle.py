"""Cancel, retry and delete."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.contract import (
    DONE,
    NOBODYS,
    Answer,
    Http,
    Json,
    held,
    ids,
    new_name,
    statuses,
    token,
)
from tests.support.node import RunningNode

WAITING = ["READY", "SCHEDULED", "RETRY"]
UNFINISHED = [*WAITING, "RUNNING"]
FINISHED = ["ACKED", "DEAD", "CANCELLED"]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    environment = {"LEASE_DURATION": "1h", "RETRY_BACKOFF": "50ms"}
    with RunningNode(tmp_path_factory.mktemp("node"), environment) as node:
        yield Http(node)


@pytest.fixture
def queue() -> str:
    return new_name()


# Cancel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", UNFINISHED)
def test_an_unfinished_job_is_cancelled_at_once_and_for_good(http: Http, queue: str, state: str):
    job_id = http.in_state(state, queue)
    for _ in range(3):
        assert http.cancel(job_id).status == 200
        job = http.job(job_id)
        assert job["state"] == "CANCELLED"
        assert "lease_until" not in job
        assert http.counts(queue) == {"CANCELLED": 1}
    assert http.nothing_to_lease(queue)


@pytest.mark.parametrize("state", ["ACKED", "DEAD"])
def test_a_finished_job_cannot_be_cancelled(http: Http, queue: str, state: str):
    job_id = http.in_state(state, queue)
    before = http.job(job_id)
    answer = http.cancel(job_id)
    assert answer.status == 409
    assert answer.error
    assert http.job(job_id) == before


CALLS: dict[str, Callable[[Http, Json], Answer]] = {
    "ack": lambda http, lease: http.ack(lease, result="r"),
    "fail": lambda http, lease: http.ack(lease, result_error="e"),
    "extend": lambda http, lease: http.extend(lease),
    "release": lambda http, lease: http.release(lease),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_worker_of_a_cancelled_job_learns_it(
    http: Http, queue: str, call: Callable[[Http, Json], Answer]
):
    lease = http.submitted_and_leased(queue)
    assert http.cancel(lease["job_id"]).status == 200
    before = http.job(lease["job_id"])
    for _ in range(2):
        answer = call(http, lease)
        assert answer.status == 409
        assert "cancelled" in answer.error
    assert http.job(lease["job_id"]) == before


def test_workers_of_many_learn_it_as_well(http: Http, queue: str):
    cancelled = http.submitted_and_leased(queue)
    live = http.submitted_and_leased(queue)
    assert http.cancel(cancelled["job_id"]).status == 200
    for many in (http.extend_many, http.ack_many):
        answer = many([held(live), held(cancelled)])
        assert statuses(answer) == [200, 409]
        assert "cancelled" in answer.json["results"][1]["error"]
    assert http.state(cancelled["job_id"]) == "CANCELLED"


# Retry -------------------------------------------------------------------------------------


def test_a_dead_job_starts_again_with_all_its_attempts(http: Http, queue: str):
    job_id = http.submitted(queue, max_retries=2)
    first = http.leased(queue)
    http.failed(first)
    http.failed(http.polled(queue))
    assert http.state(job_id) == "DEAD"

    assert http.retry(job_id).status == 200
    job = http.job(job_id)
    assert (job["state"], job["attempts"], job["max_retries"]) == ("READY", 0, 2)
    assert http.counts(queue) == {"READY": 1}
    again = http.leased(queue)
    assert (again["job_id"], again["attempt"]) == (job_id, 1)
    assert token(again) > token(first)
    http.failed(again)
    assert http.state(job_id) == "RETRY"
    last = http.polled(queue)
    assert last["attempt"] == 2
    http.acked(last, result="r")
    assert http.state(job_id) == "ACKED"


def test_a_cancelled_job_starts_again_and_its_old_worker_is_refused(http: Http, queue: str):
    old = http.submitted_and_leased(queue)
    assert http.cancel(old["job_id"]).status == 200
    assert http.retry(old["job_id"]).status == 200
    job = http.job(old["job_id"])
    assert (job["state"], job["attempts"]) == ("READY", 0)
    new = http.leased(queue)
    assert (new["job_id"], new["attempt"]) == (old["job_id"], 1)
    assert token(new) > token(old)
    assert http.ack(old, result="r").status == 409
    assert http.extend(old).status == 409
    http.acked(new)


def test_a_job_that_was_cancelled_before_its_time_can_be_retried(http: Http, queue: str):
    job_id = http.submitted(queue, delay="1h")
    assert http.cancel(job_id).status == 200
    assert http.retry(job_id).status == 200
    assert http.state(job_id) in ("READY", "SCHEDULED")


@pytest.mark.parametrize("state", [*UNFINISHED, "ACKED"])
def test_only_a_dead_or_cancelled_job_can_be_retried(http: Http, queue: str, state: str):
    job_id = http.in_state(state, queue)
    before = http.job(job_id)
    answer = http.retry(job_id)
    assert answer.status == 409
    assert answer.error
    assert http.job(job_id) == before
    assert http.counts(queue) == {state: 1}


# Delete ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", FINISHED)
def test_a_finished_job_is_forgotten(http: Http, queue: str, state: str):
    job_id = http.in_state(state, queue)
    other = http.submitted(queue)
    assert http.delete(job_id).status in DONE
    assert http.get(f"/jobs/{job_id}").status == 404
    assert http.delete(job_id).status == 404
    assert http.cancel(job_id).status == 404
    assert http.retry(job_id).status == 404
    assert http.listed(queue=queue) == [other]
    assert http.counts(queue) == {"READY": 1}


@pytest.mark.parametrize("state", UNFINISHED)
def test_an_unfinished_job_is_not_forgotten(http: Http, queue: str, state: str):
    job_id = http.in_state(state, queue)
    before = http.job(job_id)
    answer = http.delete(job_id)
    assert answer.status == 409
    assert answer.error.endswith(f"is not finished, its state is {state}: cancel it first")
    assert http.job(job_id) == before
    assert http.cancel(job_id).status in DONE
    assert http.delete(job_id).status in DONE


def test_an_ack_of_a_job_that_was_deleted_is_refused(http: Http, queue: str):
    lease = http.submitted_and_leased(queue)
    http.acked(lease, result="r")
    assert http.delete(lease["job_id"]).status in DONE
    assert statuses(http.ack_many([held(lease, result="r")])) == [404]
    assert 400 <= http.ack(lease, result="r").status < 500


@pytest.mark.parametrize("key", ["client", "worker"])
def test_only_an_admin_deletes(http: Http, queue: str, key: str):
    job_id = http.in_state("ACKED", queue)
    assert http.call("DELETE", f"/jobs/{job_id}", key=key).status == 403
    assert http.state(job_id) == "ACKED"


# All of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("job_id", [NOBODYS, "nope", NOBODYS.upper()])
@pytest.mark.parametrize("call", [Http.cancel, Http.retry, Http.delete])
def test_a_job_that_is_not_there(http: Http, job_id: str, call: Callable[[Http, str], Answer]):
    answer = call(http, job_id)
    assert answer.status == 404
    assert answer.error


# Last, because it stops the node ------------------------------------------------------------


def test_what_was_done_holds_over_a_restart(http: Http, queue: str):
    running = http.submitted_and_leased(queue)
    assert http.cancel(running["job_id"]).status == 200
    deleted = http.in_state("ACKED", queue)
    assert http.delete(deleted).status in DONE
    retried = http.in_state("DEAD", queue)
    assert http.retry(retried).status == 200
    http.node.restart()
    assert http.ack(running).status == 409
    assert http.state(running["job_id"]) == "CANCELLED"
    assert http.get(f"/jobs/{deleted}").status == 404
    assert ids(http.drained(queue)) == [retried]
    assert http.counts(queue) == {"RUNNING": 1, "CANCELLED": 1}
