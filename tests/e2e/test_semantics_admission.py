"""``MAX_JOBS``: a node that is full refuses jobs before it stores anything.

One partition, because the bound is kept by each for its share.
"""

from collections.abc import Iterator

import pytest

from tests.support.contract import DONE, Answer, Http, job, new_name
from tests.support.node import RunningNode
from tests.support.polling import wait_until

MAX_JOBS = 20


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    environment = {"PARTITIONS": "1", "MAX_JOBS": str(MAX_JOBS), "LEASE_DURATION": "1h"}
    with RunningNode(tmp_path_factory.mktemp("node"), environment) as node:
        yield Http(node)


@pytest.fixture
def full(http: Http) -> Iterator[str]:
    """A queue with as many jobs as the node takes; empty again after the test."""
    queue = new_name()
    http.submitted_batch([job(queue) for _ in range(MAX_JOBS)])
    yield queue
    for name in http.all_counts():
        for lease in http.drained(name):
            http.acked(lease)
        for state in ("ACKED", "DEAD", "CANCELLED", "SCHEDULED", "RETRY"):
            assert http.of_queue("DELETE", name, f"jobs?state={state}").status == 200
    assert http.all_counts() == {}


def assert_full(answer: Answer) -> None:
    assert answer.status == 429, answer
    assert answer.error
    assert int(answer.headers["retry-after"]) >= 0


def test_a_job_too_many_is_refused_and_not_stored(http: Http, full: str):
    other = new_name()
    for queue in (full, other):
        assert_full(http.submit(queue))
        assert_full(http.submit(queue, delay="1h"))
        assert_full(http.submit(queue, idempotency_key="k"))
    assert http.all_counts() == {full: {"READY": MAX_JOBS}}


def test_a_batch_too_many_is_refused_whole(http: Http, full: str):
    assert_full(http.submit_batch([job(full) for _ in range(3)]))
    assert http.all_counts() == {full: {"READY": MAX_JOBS}}


def test_a_full_node_goes_on_with_what_it_has(http: Http, full: str):
    lease = http.leased(full)
    assert http.extend(lease).status == 200
    http.acked(lease, result="r")
    assert http.state(lease["job_id"]) == "ACKED"
    lease = http.leased(full)
    assert http.release(lease).status in DONE
    lease = http.leased(full)
    http.failed(lease, retry=False)
    assert http.retry(lease["job_id"]).status in DONE
    assert http.cancel(lease["job_id"]).status in DONE


def test_a_full_node_knows_the_jobs_that_it_has(http: Http, full: str):
    lease = http.leased(full)
    http.acked(lease)
    assert http.delete(lease["job_id"]).status in DONE
    wait_until(lambda: http.submit(full, idempotency_key="k").status in (200, 201))
    assert_full(http.submit(full))
    # Nothing is to be stored for a repeat.
    assert http.submit(full, idempotency_key="k").status == 200


def test_a_full_node_takes_jobs_again_when_there_is_room(http: Http, full: str):
    assert_full(http.submit(full))
    lease = http.leased(full)
    http.acked(lease)
    assert http.delete(lease["job_id"]).status in DONE
    wait_until(lambda: http.submit(full).status == 201)
    assert_full(http.submit(full))


def test_a_batch_that_does_not_fit_as_a_whole(http: Http, full: str):
    lease = http.leased(full)
    http.acked(lease)
    assert http.delete(lease["job_id"]).status in DONE
    before = http.all_counts()
    assert_full(http.submit_batch([job(full) for _ in range(2)]))
    assert http.all_counts() == before
