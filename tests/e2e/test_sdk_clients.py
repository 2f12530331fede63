"""``Client`` and ``AsyncClient`` against a real node: every route, and lost answers."""

import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
import pytest

from queue_node_sdk import (
    AsyncClient,
    Client,
    IdempotencyConflict,
    JobState,
    NotFound,
    Submit,
    TooLarge,
    Worker,
    WrongState,
)
from queue_node_sdk.answers import extended_of, leases_of, results_of
from queue_node_sdk.calls import (
    AckItem,
    ExtendItem,
    acks_call,
    extends_call,
    lease_call,
    release_call,
)
from queue_node_sdk.errors import JobCancelled
from queue_node_sdk.transport import Transport
from tests.support.answer_dropper import AnswerDropper
from tests.support.node import RunningNode
from tests.support.running_worker import RunningWorker


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda main: anyio.run(main, backend=request.param)


@pytest.fixture
def admin(node: RunningNode) -> Iterator[Client]:
    with Client(node.url, node.keys["admin"]) as made:
        yield made


@pytest.fixture
def leasing(node: RunningNode) -> Iterator[Transport]:
    made = Transport(node.url, node.keys["worker"], request_timeout=10, verify=True)
    yield made
    made.close()


@pytest.fixture
def dropper(node: RunningNode) -> Iterator[AnswerDropper]:
    parts = urlsplit(node.url)
    assert parts.hostname is not None
    assert parts.port is not None
    with AnswerDropper(parts.hostname, parts.port, drop_every=3) as made:
        yield made


def test_lost_answers_never_make_a_second_job(
    node: RunningNode, admin: Client, dropper: AnswerDropper
):
    """Threads that share a client, each third answer lost: what came back is what is stored."""
    ids: list[str] = []

    def submit(number: int) -> None:
        for turn in range(25):
            ids.append(client.submit(f"{number}/{turn}", queue="threads"))  # noqa: PERF401

    with Client(dropper.url, node.keys["client"], retry_for=60) as client:
        threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        many = client.submit_many(["a", "b", "c"] * 500, queue="many")
    assert dropper.dropped > 5
    assert sorted(ids) == sorted(job.job_id for job in admin.jobs(queue="threads"))
    assert len(set(ids)) == 200
    assert sorted(many) == sorted(job.job_id for job in admin.jobs(queue="many", page_size=1000))


def test_lost_answers_never_make_a_second_job_of_tasks(
    run, node: RunningNode, admin: Client, dropper: AnswerDropper
):
    queue = f"tasks-{uuid4()}"  # both loops have the same node
    ids: list[str] = []

    async def main() -> None:
        async with (
            AsyncClient(dropper.url, node.keys["client"], retry_for=60) as client,
            anyio.create_task_group() as tasks,
        ):

            async def submit() -> None:
                for _ in range(10):
                    ids.append(await client.submit("x", queue=queue))  # noqa: PERF401

            for _ in range(50):
                tasks.start_soon(submit)

    run(main)
    assert dropper.dropped > 1
    assert len(set(ids)) == 500
    assert sorted(ids) == sorted(job.job_id for job in admin.jobs(queue=queue, page_size=1000))


def test_one_refused_job_harms_none_that_travel_with_it(run, node: RunningNode):
    async def main() -> None:
        outcomes: list[bool] = []
        async with (
            AsyncClient(node.url, node.keys["client"]) as client,
            anyio.create_task_group() as tasks,
        ):

            async def submit(number: int) -> None:
                try:
                    await client.submit("x" * ((1 << 20) + 1 if number % 5 == 0 else 9))
                    outcomes.append(True)
                except TooLarge:
                    outcomes.append(False)

            for number in range(40):
                tasks.start_soon(submit, number)
        assert (outcomes.count(True), outcomes.count(False)) == (32, 8)

    run(main)


def test_a_wait_ends_when_the_job_does(run, node: RunningNode):
    worker = Worker(node.url, node.keys["worker"], lambda job: job.payload.upper())
    running = RunningWorker(worker)
    try:

        async def main() -> None:
            async with AsyncClient(node.url, node.keys["client"]) as client:
                job = await client.submit_and_wait("x", timeout=30)
                assert (job.state, job.result) == (JobState.ACKED, "X")

        run(main)
    finally:
        running.stop()


def test_every_option_of_a_submit_is_the_nodes(admin: Client):
    at = datetime.now(UTC) + timedelta(hours=1)
    job_id = admin.submit(
        "x", queue="q1", priority=7, run_at=at, ttl="3h", lease_duration=5.5, group="g",
        backoff={"initial": timedelta(seconds=1), "factor": 2, "max": "1m", "jitter": 0.5},
        retention=timedelta(days=1), tags={"a": "b c"}, max_retries=9, idempotency_key="k",
    )  # fmt: skip
    job = admin.get(job_id)
    assert (job.state, job.queue, job.priority, job.group) == (JobState.SCHEDULED, "q1", 7, "g")
    assert (job.tags, job.max_retries) == ({"a": "b c"}, 9)
    assert job.run_at is not None
    assert abs(job.run_at - at) < timedelta(seconds=1)
    with pytest.raises(IdempotencyConflict):
        admin.submit("y", queue="q1", group="g", idempotency_key="k")
    assert [each.job_id for each in admin.jobs(queue="q1", tag={"a": "b c"}, group="g")] == [job_id]


def test_every_route_of_jobs_and_queues(admin: Client):
    ids = admin.submit_many(["a", Submit("b", queue="q3"), "c"], queue="q2")
    # Each has a key, so they are in several partitions, whose moments are not in their order.
    assert {job.job_id for job in admin.jobs(queue="q2", page_size=1)} == {ids[0], ids[2]}
    with pytest.raises(WrongState):
        admin.retry(ids[0])
    assert admin.cancel(ids[0]).state is JobState.CANCELLED
    assert admin.retry(ids[0]).state is JobState.READY
    assert admin.pause("q2").paused
    assert not admin.resume("q2").paused
    assert admin.queue("q2").counts["READY"] == 2
    assert {"q2", "q3"} <= {queue.queue for queue in admin.queues()}
    admin.cancel(ids[1])
    admin.delete(ids[1])
    with pytest.raises(NotFound):
        admin.get(ids[1])
    assert admin.purge("q2", JobState.READY) == 2
    assert admin.retry_dead("q2") == 0


def test_what_a_worker_says_of_many(admin: Client, leasing: Transport):
    ids = admin.submit_many(["a", "b", "c", "d"], queue="w")
    assert leases_of(leasing.exchange(lease_call(["empty"], 5, 0.01), 0)) == []
    leased = leases_of(leasing.exchange(lease_call(["w"], 10, 5, 60, "me"), 0))
    assert sorted(job.job_id for job in leased) == sorted(ids)
    tokens = {job.job_id: job.lease_token or "" for job in leased}
    a, b, c, d = ids
    beats = [ExtendItem(each, tokens[each], 90.0, 50) for each in (a, b)]
    extended = extended_of(leasing.exchange(extends_call([*beats, ExtendItem(c, "1")]), 5))
    assert [each.status for each in extended] == [200, 200, 409]
    assert extended[0].lease_until is not None
    assert extended[0].lease_until > leased[0].lease_until
    shown = admin.get(a)
    assert (shown.progress, shown.worker, shown.state) == (50, "me", JobState.RUNNING)
    leasing.exchange(release_call(c, tokens[c], "1h"), 5)
    admin.cancel(d)
    acks = [
        AckItem(a, tokens[a], result="done"),
        AckItem(b, tokens[b], result_error="no", retry=False),
        AckItem(c, tokens[c]),
        AckItem(d, tokens[d]),
    ]
    results = results_of(leasing.exchange(acks_call(acks), 5))
    assert [(each.status, each.error) for each in results] == [
        (200, ""), (200, ""), (409, "lease lost"), (409, "cancelled"),
    ]  # fmt: skip
    assert [admin.get(each).state for each in ids] == ["ACKED", "DEAD", "SCHEDULED", "CANCELLED"]
    with pytest.raises(JobCancelled):
        leasing.exchange(release_call(d, tokens[d]), 5)
