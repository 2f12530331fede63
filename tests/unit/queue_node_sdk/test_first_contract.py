"""Against a node that knows the first part of the contract only."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import anyio
import pytest

from queue_node_sdk import (
    AsyncClient,
    Client,
    JobContext,
    OutcomeUnknown,
    QueueNodeError,
    Reject,
    TooLarge,
    Worker,
)
from tests.support.first_node import FirstNode
from tests.support.polling import wait_until
from tests.support.running_worker import RunningWorker


@pytest.fixture(params=[404, 405])
def node(request: pytest.FixtureRequest) -> Iterator[FirstNode]:
    with FirstNode(unknown=request.param) as first:
        yield first


@pytest.fixture
def client(node: FirstNode) -> Iterator[Client]:
    with Client(node.url, "client_x", retry_for=5) as made:
        yield made


def test_many_go_one_by_one_in_order_and_the_log_says_so_once(
    node: FirstNode, client: Client, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING, "queue_node")
    for _ in range(2):
        job_ids = client.submit_many(["a", "b", "c"])
        assert [node.jobs[job_id].payload for job_id in job_ids] == ["a", "b", "c"]
    assert node.seen == ["POST /jobs/batch", *["POST /jobs"] * 6]
    assert [record.message for record in caplog.records if "no batches" in record.message] == [
        "the node knows no batches and no idempotency keys: jobs go one by one, and one whose "
        "answer is lost is not sent again"
    ]


def test_threads_that_submit_at_once_do_so_side_by_side(node: FirstNode, client: Client):
    payloads = [f"job {number}" for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        job_ids = list(pool.map(client.submit, payloads))
    assert [node.jobs[job_id].payload for job_id in job_ids] == payloads
    assert len(node.jobs) == len(payloads)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_tasks_that_submit_at_once_do_so_too(node: FirstNode, backend: str):
    async def main() -> None:
        async with AsyncClient(node.url, "client_x") as client, anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(client.submit, f"job {number}")

    anyio.run(main, backend=backend)
    assert sorted(job.payload for job in node.jobs.values()) == sorted(
        f"job {number}" for number in range(50)
    )


def test_a_refused_one_of_many_is_named_and_the_next_are_not_sent(node: FirstNode, client: Client):
    with pytest.raises(TooLarge, match=r"jobs\[1\]: payload too large"):
        client.submit_many(["a", "too large", "c"])
    assert [job.payload for job in node.jobs.values()] == ["a"]


def test_a_lost_answer_makes_no_second_job_where_keys_are_not_known(
    node: FirstNode, client: Client
):
    client.submit_many(["a", "b"])
    node.lose_answers = 1
    with pytest.raises(OutcomeUnknown):
        client.submit("c")
    assert [job.payload for job in node.jobs.values()] == ["a", "b", "c"]


def test_a_wrong_url_is_not_taken_for_such_a_node(
    node: FirstNode, caplog: pytest.LogCaptureFixture
):
    with Client(f"{node.url}/elsewhere", "client_x") as client:
        for _ in range(2):
            with pytest.raises(QueueNodeError, match="method not allowed"):
                client.submit_many(["a", "b"])
    # Had it been believed, the second would not have tried a batch.
    assert node.seen.count("POST /elsewhere/jobs/batch") == 2
    assert not caplog.records


def test_what_it_does_not_know_is_an_error(client: Client):
    with pytest.raises(QueueNodeError, match="method not allowed"):
        client.queues()


def test_a_worker_takes_jobs_one_by_one_and_polls(
    node: FirstNode, client: Client, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING, "queue_node")

    def handle(job: JobContext) -> str:
        if job.payload == "bad":
            raise Reject("not this one")
        return job.payload.upper()

    worker = Worker(node.url, "worker_x", handle, concurrency=4, poll_interval=0.05)
    running = RunningWorker(worker)
    try:
        job_ids = client.submit_many(["a", "b", "bad"], max_retries=1)
        a, b, bad = (client.wait(job_id, timeout=20) for job_id in job_ids)
        assert (a.result, b.result, bad.state, bad.result_error) == (
            "A", "B", "DEAD", "not this one",
        )  # fmt: skip
        before = len(node.seen)
        wait_until(lambda: len(node.seen) > before + 2, what="it asks again")
    finally:
        running.stop()
    assert running.error is None
    assert not any("extend" in what or "release" in what for what in node.seen)
    assert sum("gives no lease tokens" in record.message for record in caplog.records) == 1


def test_a_worker_that_gets_a_job_again_which_it_still_has_goes_on():
    runs: list[int] = []

    def handle(job: JobContext) -> str:
        runs.append(job.attempt)
        if job.payload == "slow" and job.attempt == 1:
            wait_until(lambda: len(runs) > 1, what="the job came back")
        return f"attempt {job.attempt}"

    with FirstNode(lease=timedelta(milliseconds=300)) as node, Client(node.url, "x") as client:
        worker = Worker(node.url, "worker_x", handle, concurrency=2, poll_interval=0.05)
        running = RunningWorker(worker)
        try:
            job = client.submit_and_wait("slow", timeout=20)
            assert client.submit_and_wait("quick", timeout=20).succeeded
        finally:
            running.stop()
    assert running.error is None
    assert job.succeeded
    assert runs[:2] == [1, 2]
