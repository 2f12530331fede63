"""Leasing and acking without a worker, through both clients, against the real engine."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx2
import pytest

from queue_node_sdk import (
    AsyncClient,
    BadRequest,
    Client,
    JobCancelled,
    LeasedJob,
    LeaseLost,
    NotFound,
    PermissionDenied,
)
from queue_node_sdk.testing import LocalNode

Ask = Callable[..., Any]

_THEN = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def local() -> Iterator[LocalNode]:
    with LocalNode() as node:
        yield node


@pytest.fixture(params=["threads", "asyncio", "trio"])
def ask(request: pytest.FixtureRequest, local: LocalNode) -> Iterator[Ask]:
    """``ask("lease", ...)``: that method of one of the clients, with a worker key."""
    if request.param == "threads":
        with local.make_client("worker") as client:
            yield lambda method, *positional, **named: getattr(client, method)(*positional, **named)
        return

    def once(method: str, *positional: Any, **named: Any) -> Any:
        async def main() -> Any:
            async with local.make_async_client("worker") as client:
                return await getattr(client, method)(*positional, **named)

        return anyio.run(main, backend=request.param)

    yield once


def test_a_job_is_leased_and_acked(local: LocalNode, ask: Ask):
    job_id = local.client.submit("work", queue="mail", tags={"to": "ada"})
    assert ask("lease") is None  # it is in another queue
    job = ask("lease", queues=["mail"], lease_duration="1m", worker="me")
    assert isinstance(job, LeasedJob)
    assert (job.job_id, job.payload, job.tags, job.attempt) == (job_id, "work", {"to": "ada"}, 1)
    assert abs(job.lease_until - local.now - timedelta(minutes=1)) < timedelta(seconds=1)
    assert local.client.get(job_id).worker == "me"
    ask("ack", job, "done")
    ask("ack", job, "done")
    found = local.client.get(job_id)
    assert (found.succeeded, found.result) == (True, "done")
    with pytest.raises(LeaseLost):
        ask("ack", job, "another outcome")


def test_many_are_leased_at_once(local: LocalNode, ask: Ask):
    job_ids = local.client.submit_many(["a", "b", "c"])
    first = ask("lease_many", 2)
    assert len(first) == 2
    assert {job.job_id for job in [*first, *ask("lease_many", 10)]} == set(job_ids)
    assert ask("lease_many", 10) == []


def test_a_failure_has_another_attempt_or_none(local: LocalNode, ask: Ask):
    job_id = local.client.submit("work")
    ask("fail", ask("lease"), "too early", retry_in="1h")
    assert local.client.get(job_id).state == "RETRY"
    local.advance("59m")
    assert ask("lease") is None
    local.advance("2m")
    ask("fail", ask("lease"), "hopeless", retry=False)
    found = local.client.get(job_id)
    assert (found.state, found.attempts, found.result_error) == ("DEAD", 2, "hopeless")


def test_a_failure_without_words_is_not_sent(local: LocalNode, ask: Ask):
    local.client.submit("work")
    job = ask("lease")
    with pytest.raises(BadRequest, match="success"):
        ask("fail", job, "")
    assert local.client.get(job.job_id).state == "RUNNING"


def test_a_lease_is_extended_and_shows_its_progress(local: LocalNode, ask: Ask):
    local.client.submit("work")
    job = ask("lease", lease_duration=10)
    local.advance(8)
    until = ask("extend", job, timedelta(seconds=20), progress=40)
    assert abs(until - local.now - timedelta(seconds=20)) < timedelta(seconds=1)
    local.advance(15)
    found = local.client.get(job.job_id)
    assert (found.state, found.progress) == ("RUNNING", 40)
    local.advance(6)
    with pytest.raises(LeaseLost):
        ask("extend", job)


def test_a_job_is_given_back_without_an_attempt(local: LocalNode, ask: Ask):
    local.client.submit("work")
    ask("release", ask("lease"))
    job = ask("lease")
    assert job.attempt == 1
    ask("release", job, 60)
    assert ask("lease") is None
    local.advance(61)
    assert ask("lease").attempt == 1


def test_a_cancelled_job_is_told_from_a_lost_one(local: LocalNode, ask: Ask):
    local.client.submit("work")
    job = ask("lease")
    local.client.cancel(job.job_id)
    for method in ("extend", "release", "ack"):
        with pytest.raises(JobCancelled):
            ask(method, job)


def test_a_client_key_may_not_lease(local: LocalNode):
    with local.make_client("client") as client, pytest.raises(PermissionDenied):
        client.lease()


def test_a_job_that_is_gone_is_said_to_be(local: LocalNode, ask: Ask):
    local.client.submit("work")
    job = ask("lease")
    ask("ack", job)
    local.client.delete(job.job_id)
    with pytest.raises((NotFound, BadRequest), match="not found"):
        ask("ack", job)


def test_without_a_token_there_is_nothing_to_extend_or_release():
    job = LeasedJob(job_id="j", payload="p", lease_until=_THEN, attempt=1)
    with Client("http://127.0.0.1:9", "worker_x", retry_for=0) as client:
        with pytest.raises(BadRequest, match="no lease token"):
            client.extend(job)
        with pytest.raises(BadRequest, match="no lease token"):
            client.release(job)


def test_a_wait_at_the_node_is_not_impatience():
    asked: list[tuple[float, dict[str, Any]]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append((request.extensions["timeout"]["read"], json.loads(request.content)))
        return httpx2.Response(404, json={"error": "no jobs available"})

    transport = httpx2.MockTransport(answer)
    with Client("http://node", "worker_x", retry_for=5, http_transport=transport) as client:
        assert client.lease(wait=60) is None
    [(read_seconds, body)] = asked
    assert body == {"max": 1, "wait": 60}
    assert read_seconds >= 60


def test_the_asynchronous_client_waits_as_long():
    limits: list[float] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        limits.append(request.extensions["timeout"]["read"])
        return httpx2.Response(404, json={"error": "no jobs available"})

    async def main() -> None:
        transport = httpx2.MockTransport(answer)
        async with AsyncClient("http://node", "w", retry_for=5, http_transport=transport) as client:
            assert await client.lease(wait=60) is None

    anyio.run(main, backend="trio")
    assert limits[0] >= 60
