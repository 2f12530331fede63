"""``AsyncClient`` on both event loops, over an answerer in the process."""

import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import httpx2
import pytest

from queue_node_sdk import (
    AsyncClient,
    JobState,
    NotFound,
    OutcomeUnknown,
    QueueNodeError,
    Timeout,
    TooLarge,
    Unreachable,
)
from tests.support.fake_node import CLIENT_KEY, FakeNode, HangUp

Answerer = Callable[[httpx2.Request], Coroutine[None, None, httpx2.Response]]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs an async function on one of the loops."""
    return lambda main: anyio.run(main, backend=request.param)


class Node:
    """Stores what it is sent, by idempotency key; a gate holds requests back."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self.batches: list[int] = []
        self.gate: anyio.Event | None = None
        self.faults: list[httpx2.Response | Exception] = []
        self.down: Callable[[dict[str, Any]], bool] = lambda _job: False

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(await request.aread())
        jobs = body.get("jobs", [body])
        self.batches.append(len(jobs))
        if self.gate is not None:
            await self.gate.wait()
        await anyio.lowlevel.checkpoint()
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, httpx2.Response):
            return fault
        for index, job in enumerate(jobs):
            if len(job["payload"]) > 100:
                where = f"jobs[{index}]: " if "jobs" in body else ""
                return httpx2.Response(413, json={"error": f"{where}payload too large"})
        if any(self.down(job) for job in jobs):
            words = {"error": "partition unavailable"}
            return httpx2.Response(503, json=words, headers={"Retry-After": "0"})
        for job in jobs:
            self.stored.setdefault(job["idempotency_key"], job)
        if isinstance(fault, Exception):
            raise fault
        ids = [job["idempotency_key"] for job in jobs]
        if "jobs" in body:
            return httpx2.Response(201, json={"job_ids": ids})
        return httpx2.Response(201, json={"job_id": ids[0]})


def client_of(answer: Answerer, retry_for: float = 30) -> AsyncClient:
    transport = httpx2.MockTransport(answer)
    return AsyncClient("http://node", CLIENT_KEY, http_transport=transport, retry_for=retry_for)


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not holds():
            await anyio.lowlevel.checkpoint()


def test_the_first_goes_at_once_and_the_others_together(run):
    async def main() -> None:
        node = Node()
        node.gate = anyio.Event()
        ids: list[str] = []
        async with client_of(node) as client, anyio.create_task_group() as tasks:

            async def submit() -> None:
                ids.append(await client.submit("x"))

            tasks.start_soon(submit)
            await until(lambda: node.batches == [1])
            for _ in range(5):
                tasks.start_soon(submit)
            await until(lambda: len(client._batching._waiting) == 5)
            node.gate.set()
        assert node.batches == [1, 5]
        assert sorted(ids) == sorted(node.stored)

    run(main)


def test_a_cancelled_leader_leaves_its_followers_to_another(run):
    async def main() -> None:
        node = Node()
        node.gate = anyio.Event()
        ids: dict[str, str] = {}
        scopes: dict[str, anyio.CancelScope] = {}
        async with client_of(node) as client, anyio.create_task_group() as tasks:

            async def submit(payload: str) -> None:
                with anyio.CancelScope() as scopes[payload]:
                    ids[payload] = await client.submit(payload)

            tasks.start_soon(submit, "first")
            await until(lambda: node.batches == [1])
            for number, payload in enumerate("abcd"):
                tasks.start_soon(submit, payload)
                await until(lambda: len(client._batching._waiting) == number + 1)  # noqa: B023 - awaited
            scopes["first"].cancel()
            # "a" leads the four now; it and one that follows are cancelled under way.
            await until(lambda: node.batches == [1, 4])
            scopes["c"].cancel()
            await anyio.lowlevel.checkpoint()
            scopes["a"].cancel()
            await until(lambda: node.batches == [1, 4, 2])
            node.gate.set()
        assert sorted(ids) == ["b", "d"]
        assert sorted(job["payload"] for job in node.stored.values()) == ["b", "d"]

    run(main)


def test_one_that_waits_and_is_cancelled_is_not_sent(run):
    async def main() -> None:
        node = Node()
        node.gate = anyio.Event()
        async with client_of(node) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.submit, "first")
            await until(lambda: node.batches == [1])
            with anyio.move_on_after(0.01):
                await client.submit("second")
            node.gate.set()
        assert [job["payload"] for job in node.stored.values()] == ["first"]

    run(main)


def test_lost_answers_make_no_second_job(run):
    async def main() -> None:
        node = Node()
        node.faults = [httpx2.ReadError("cut"), httpx2.ReadError("cut"), httpx2.Response(502)]
        async with client_of(node) as client, anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(client.submit, "x")
        assert len(node.stored) == 10

    run(main)


def test_one_refused_job_harms_no_other(run):
    async def main() -> None:
        node = Node()
        refused: list[int] = []
        async with client_of(node) as client, anyio.create_task_group() as tasks:

            async def submit(number: int) -> None:
                try:
                    await client.submit("x" * (101 if number % 10 == 3 else 1))
                except TooLarge:
                    refused.append(number)

            for number in range(40):
                tasks.start_soon(submit, number)
        assert sorted(refused) == [3, 13, 23, 33]
        assert len(node.stored) == 36

    run(main)


def test_a_partition_that_is_away_holds_up_only_its_own_jobs(run):
    async def main() -> None:
        node = Node()
        node.down = lambda job: job["payload"] == "its own"
        stored: list[str] = []
        async with client_of(node) as client:
            with anyio.move_on_after(20) as scope:
                async with anyio.create_task_group() as tasks:

                    async def submit(payload: str) -> None:
                        await client.submit(payload)
                        stored.append(payload)
                        if stored.count("other") == 30:
                            scope.cancel()

                    for number in range(40):
                        tasks.start_soon(submit, "its own" if number % 4 == 0 else "other")
        assert stored == ["other"] * 30

    run(main)


def test_the_patience_is_for_all_tries_together(run):
    async def main() -> None:
        async def away(_request: httpx2.Request) -> httpx2.Response:
            raise httpx2.ConnectError("refused")

        async def mute(_request: httpx2.Request) -> httpx2.Response:
            raise httpx2.ReadError("cut")

        began = time.monotonic()
        async with client_of(away, retry_for=0.2) as client:
            with pytest.raises(Unreachable):
                await client.submit("x")
        async with client_of(mute, retry_for=0.2) as client:
            with pytest.raises(OutcomeUnknown):
                await client.submit("x")
        assert time.monotonic() - began < 10

    run(main)


def test_a_wait_lets_the_node_keep_it(run):
    async def main() -> None:
        asked: list[str] = []

        async def answer(request: httpx2.Request) -> httpx2.Response:
            asked.append(request.url.raw_path.decode())
            if "nope" in asked[-1]:
                return httpx2.Response(404, json={"error": "job not found: nope"})
            await anyio.sleep(0.02)
            state = "ACKED" if len(asked) == 3 else "RUNNING"
            job = {"job_id": "j", "state": state, "attempts": 1, "max_retries": 3}
            return httpx2.Response(200, json=job | {"created_at": "2026-01-02T12:00:00Z"})

        async with client_of(answer) as client:
            assert (await client.wait("j", timeout=20)).state is JobState.ACKED
            assert len(asked) == 3
            assert asked[0].startswith("/jobs/j?wait=2")
            with pytest.raises(Timeout, match=r"RUNNING after 0\.05 s"):
                await client.wait("j", timeout=0.05)
            with pytest.raises(NotFound):
                await client.get("nope")

    run(main)


def test_a_list_is_an_async_iterator(run):
    async def main() -> None:
        job = {"job_id": "j", "state": "DEAD", "attempts": 1, "max_retries": 1,
               "created_at": "2026-01-02T12:00:00Z"}  # fmt: skip
        pages = [{"jobs": [job, job], "next_cursor": "c"}, {"jobs": [job], "next_cursor": None}]

        async def answer(_request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, json=pages.pop(0))

        async with client_of(answer) as client:
            assert [each.job_id async for each in client.jobs(state="DEAD")] == ["j"] * 3

    run(main)


def test_a_closed_client_says_so(run):
    async def main() -> None:
        client = client_of(Node())
        await client.aclose()
        with pytest.raises(QueueNodeError, match="closed"):
            await client.submit("x")
        assert CLIENT_KEY not in repr(client)

    run(main)


def test_over_a_socket_as_well(run, node: FakeNode):
    async def main() -> None:
        node.fail("submit", HangUp(ran=True))
        node.fail("batch", HangUp(ran=True), HangUp(ran=False))
        async with AsyncClient(node.url, CLIENT_KEY) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(30):
                    tasks.start_soon(client.submit, "x")
            await client.submit_many(["y"] * 3)
        assert len(node.jobs) == 33

    run(main)
