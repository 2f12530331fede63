"""Workers of every kind against a real node."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
import trio

from queue_node_sdk import (
    Client,
    ConfigurationError,
    JobCancelled,
    JobContext,
    JobState,
    Reject,
    Release,
    Retry,
    Worker,
    current_job,
)
from tests.e2e import worker_handlers
from tests.support.node import RunningNode
from tests.support.polling import DEADLINE_S, wait_until
from tests.support.running_worker import RunningWorker

BACKENDS: tuple[Literal["asyncio", "trio"], ...] = ("asyncio", "trio")


@pytest.fixture
def client(node: RunningNode) -> Iterator[Client]:
    with Client(node.url, node.keys["client"]) as made:
        yield made


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Literal["asyncio", "trio"]:
    return request.param  # type: ignore[no-any-return]


@contextmanager
def working(node: RunningNode, handler: Any, **options: Any) -> Iterator[RunningWorker]:
    running = RunningWorker(Worker(node.url, node.keys["worker"], handler, **options))
    try:
        yield running
    finally:
        running.stop()
    assert running.error is None


def short_leases(make_node: Callable[..., RunningNode]) -> RunningNode:
    return make_node(LEASE_DURATION="1s", LEASE_CHECK_INTERVAL="100ms").start()


def is_running(client: Client, job_id: str) -> Callable[[], bool]:
    return lambda: client.get_status(job_id).state is JobState.RUNNING


# The kinds of handlers


def test_async_handlers_run_side_by_side(node: RunningNode, client: Client, backend: Any):
    inside = 0

    async def handle(job: JobContext) -> str:
        nonlocal inside
        inside += 1
        with anyio.fail_after(DEADLINE_S):
            while inside < 3:
                await anyio.sleep(0.01)
        assert current_job() is job
        return job.payload.upper()

    with working(node, handle, backend=backend, concurrency=3):
        ids = [client.submit(text) for text in "abc"]
        assert [client.wait_for_completion(each).result for each in ids] == ["A", "B", "C"]


async def test_a_worker_in_a_loop_that_runs_already(node: RunningNode):
    async def handle(job: JobContext) -> str:
        return job.payload * 2

    worker = Worker(node.url, node.keys["worker"], handle)
    with Client(node.url, node.keys["client"]) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run_async)
            job = await trio.to_thread.run_sync(client.submit_and_wait, "ab")
            worker.stop()
    assert job.result == "abab"


async def test_a_cancelled_worker_gives_its_jobs_back_at_once(node: RunningNode):
    begun = trio.Event()

    async def handle(job: JobContext) -> None:
        begun.set()
        await trio.sleep_forever()

    worker = Worker(node.url, node.keys["worker"], handle)
    with Client(node.url, node.keys["client"]) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run_async)
            job_id = await trio.to_thread.run_sync(client.submit, "x")
            await begun.wait()
            nursery.cancel_scope.cancel()
        job = client.get_status(job_id)
        assert (job.state, job.attempts) == (JobState.READY, 0)
        client.cancel(job_id)


def test_processes(node: RunningNode, client: Client):
    # Without a grace time the worker ends only when its handlers do, and one sleeps a minute.
    with working(node, worker_handlers.handle, process=True, concurrency=2, grace=None):
        job = client.submit_and_wait("x")
        assert job.result == "x True"
        died = client.submit_and_wait("die 7", max_retries=1)
        assert died.result_error == "the handler's process ended: exit status 7"
        raised = client.submit_and_wait("raise", max_retries=1)
        assert raised.result_error == "ValueError: no"
        assert client.submit_and_wait("y").succeeded
        assert client.submit_and_wait("text").result == "a text"
        # A process whose job is cancelled is killed at the next heartbeat, after 10 s.
        job_id = client.submit("progress")
        wait_until(lambda: client.get_status(job_id).progress == 42)
        began_at = time.monotonic()
        client.cancel(job_id)
    assert time.monotonic() - began_at < 45


def test_a_handler_that_no_process_can_import_is_refused_at_once():
    with pytest.raises(ConfigurationError, match="import"):
        Worker("http://127.0.0.1:1", "k", lambda _job: "x", process=True)


# Leases


def test_a_thread_that_works_longer_than_its_lease_keeps_it(make_node: Callable[..., RunningNode]):
    node = short_leases(make_node)

    def handle(job: JobContext) -> str:
        time.sleep(3)
        return f"attempt {job.attempt}, lost: {job.lost}"

    with Client(node.url, node.keys["client"]) as client, working(node, handle):
        job = client.submit_and_wait("x", timeout=DEADLINE_S)
    assert (job.result, job.crashes) == ("attempt 1, lost: False", 0)


def test_a_handler_that_blocks_its_event_loop_keeps_its_lease(
    make_node: Callable[..., RunningNode], backend: Any
):
    node = short_leases(make_node)

    async def handle(job: JobContext) -> str:
        time.sleep(3)  # noqa: ASYNC251 - the point of it
        return f"attempt {job.attempt}"

    with Client(node.url, node.keys["client"]) as client, working(node, handle, backend=backend):
        job = client.submit_and_wait("x", timeout=DEADLINE_S)
    assert (job.result, job.crashes) == ("attempt 1", 0)


def test_a_handler_that_never_lets_go_of_a_core_keeps_its_lease(
    make_node: Callable[..., RunningNode],
):
    node = short_leases(make_node)
    handle = worker_handlers.handle
    with Client(node.url, node.keys["client"]) as client, working(node, handle, concurrency=1):
        job = client.submit_and_wait("busy 3", timeout=DEADLINE_S)
    assert (job.succeeded, job.attempts, job.crashes) == (True, 1, 0)


def test_a_cancelled_job_ends_its_async_handler(
    make_node: Callable[..., RunningNode], backend: Any
):
    node = short_leases(make_node)
    ended = threading.Event()

    async def handle(_job: JobContext) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    with Client(node.url, node.keys["client"]) as client, working(node, handle, backend=backend):
        job_id = client.submit("x")
        wait_until(is_running(client, job_id))
        client.cancel(job_id)
        assert ended.wait(DEADLINE_S)
        assert client.get_status(job_id).state is JobState.CANCELLED


def test_a_cancelled_job_tells_its_thread(make_node: Callable[..., RunningNode]):
    node = short_leases(make_node)
    raised: list[BaseException] = []

    def handle(job: JobContext) -> str:
        wait_until(lambda: job.lost)
        try:
            job.progress(1)
        except JobCancelled as error:
            raised.append(error)
        return "too late"

    with Client(node.url, node.keys["client"]) as client, working(node, handle):
        job_id = client.submit("x")
        wait_until(is_running(client, job_id))
        client.cancel(job_id)
        wait_until(lambda: bool(raised))
    assert "cancelled" in str(raised[0])


def test_progress_and_extend_reach_the_node(node: RunningNode, client: Client):
    told = threading.Event()

    def handle(job: JobContext) -> None:
        assert 20 < job.seconds_left <= 30
        job.progress("half of it")
        job.extend(600)
        assert told.wait(DEADLINE_S)

    with working(node, handle, name="the worker"):
        job_id = client.submit("x")
        wait_until(lambda: client.get_status(job_id).progress == "half of it")
        job = client.get_status(job_id)
        told.set()
        assert client.wait_for_completion(job_id).succeeded
    assert job.worker == "the worker"
    assert job.lease_until is not None
    assert (job.lease_until - job.created_at).total_seconds() > 500


# Endings


def test_retry_reject_and_release(node: RunningNode, client: Client):
    seen: list[tuple[str, int]] = []

    def handle(job: JobContext) -> str:
        seen.append((job.payload, job.attempt))
        first = seen.count((job.payload, job.attempt)) == 1
        if job.payload == "retry" and job.attempt == 1:
            raise Retry("busy elsewhere", in_=0.1)
        if job.payload == "reject":
            raise Reject("not an image")
        if job.payload == "release" and first:
            raise Release(0.1)
        return f"attempt {job.attempt}"

    with working(node, handle):
        assert client.submit_and_wait("retry").result == "attempt 2"
        rejected = client.submit_and_wait("reject", max_retries=5)
        assert client.submit_and_wait("release").result == "attempt 1"
    assert (rejected.state, rejected.attempts) == (JobState.DEAD, 1)
    assert rejected.result_error == "not an image"
    assert seen.count(("release", 1)) == 2


class Odd(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def test_an_async_handler_that_raises_something_odd(
    node: RunningNode, client: Client, backend: Any
):
    async def handle(job: JobContext) -> str:
        match job.payload:
            case "odd":
                raise Odd
            case "exit":
                raise SystemExit(3)
            case "group":
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_raise_reject)
            case "huge":
                return "x" * (1 << 20) + "x"
        return "fine"

    with working(node, handle, backend=backend):
        texts = ["odd", "exit", "group", "huge"]
        errors = [client.submit_and_wait(text, max_retries=1).result_error for text in texts]
        assert client.submit_and_wait("x").result == "fine"
    assert errors[:3] == ["Odd", "SystemExit: 3", "in a nursery"]
    assert errors[3] is not None
    assert errors[3].startswith(("TooLarge: ", "BadRequest: "))


async def _raise_reject() -> None:
    raise Reject("in a nursery")


def test_a_result_that_is_too_large_leaves_the_others_of_its_request_alone(
    node: RunningNode, client: Client
):
    together = threading.Barrier(8)

    def handle(job: JobContext) -> str:
        together.wait(DEADLINE_S)
        return "x" * ((1 << 20) + 1) if job.payload == "huge" else "fine"

    ids = [client.submit(text, max_retries=1) for text in ["a", "b", "huge", *"cdefg"]]
    with working(node, handle, concurrency=8):
        jobs = [client.wait_for_completion(job_id) for job_id in ids]
    assert [job.result for job in jobs] == ["fine", "fine", None, *["fine"] * 5]


# The node


def test_a_node_that_restarts_in_the_middle_costs_no_attempt(
    make_node: Callable[..., RunningNode],
):
    node = make_node(LEASE_DURATION="30s").start()
    begun, restarted = threading.Event(), threading.Event()

    def handle(job: JobContext) -> str:
        begun.set()
        assert restarted.wait(DEADLINE_S)
        return f"attempt {job.attempt}"

    with Client(node.url, node.keys["client"]) as client, working(node, handle):
        job_id = client.submit("x")
        assert begun.wait(DEADLINE_S)
        node.stop()
        restarted.set()
        node.start()
        assert client.wait_for_completion(job_id, timeout=DEADLINE_S).result == "attempt 1"


def test_many_short_jobs_with_prefetch_run_once_each(node: RunningNode, client: Client):
    seen: list[str] = []
    ids = [client.submit(str(number)) for number in range(200)]
    with working(node, lambda job: seen.append(job.payload), concurrency=4, prefetch=4):
        jobs = [client.wait_for_completion(job_id, timeout=DEADLINE_S) for job_id in ids]
    assert {(job.state, job.attempts) for job in jobs} == {(JobState.ACKED, 1)}
    assert sorted(seen, key=int) == [str(number) for number in range(200)]


# The end

PROGRAM = """
import sys, time
from queue_node_sdk import Worker
def handle(job):
    sys.stdout.write("begun\\n")  # in one piece: two threads print
    sys.stdout.flush()
    if job.payload == "long":
        time.sleep(600)
    time.sleep(1)
    return "finished"
Worker.from_env(handle, concurrency=2, prefetch=2, grace=3.0, queues=["ending"]).run()
print("returned", flush=True)
"""


def test_sigterm_finishes_what_it_can_and_releases_the_rest(node: RunningNode, client: Client):
    texts = ["short", "long", "waiting", "waiting"]
    short, long, *waiting = [client.submit(text, queue="ending") for text in texts]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                env=os.environ
                | {"QUEUE_NODE_URL": node.url, "QUEUE_NODE_KEY": node.keys["worker"]},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == process.stdout.readline() == "begun\n"
        began_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        # What had not begun is free long before the grace time is over.
        ready = functools.partial(_states, client, waiting)
        wait_until(lambda: ready() == [JobState.READY, JobState.READY])
        out, _ = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (0, "returned\n")
    assert time.monotonic() - began_at < 20
    assert _states(client, [short, long]) == [JobState.ACKED, JobState.READY]
    assert client.get_status(long).attempts == 0


DEAF = """
import signal, sys, threading
from queue_node_sdk import Worker
def tell():
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
def in_thread(job):
    tell()
async def in_loop(job):
    threading.Timer(1, tell).start()
Worker.from_env({handler}, queues=["deaf"]).run()
"""


@pytest.mark.parametrize("handler", ["in_thread", "in_loop"])
def test_a_signal_that_does_not_wake_the_main_thread_is_heard(
    node: RunningNode, client: Client, handler: str
):
    job_id = client.submit("x", queue="deaf")
    done = subprocess.run(
        [sys.executable, "-c", DEAF.format(handler=handler)],
        env=os.environ | {"QUEUE_NODE_URL": node.url, "QUEUE_NODE_KEY": node.keys["worker"]},
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0
    assert _states(client, [job_id]) == [JobState.ACKED]


PROCESSES = """
from queue_node_sdk import Worker
from tests.e2e.worker_handlers import handle
if __name__ == "__main__":
    Worker.from_env(handle, concurrency=1, process=True, queues=["orphans"]).run()
"""


def test_processes_end_with_a_worker_that_was_killed(
    node: RunningNode, client: Client, tmp_path: Path
):
    program, told = tmp_path / "program.py", tmp_path / "told"
    program.write_text(PROCESSES)
    job_id = client.submit(f"tell {told}", queue="orphans")
    environment = {
        "QUEUE_NODE_URL": node.url,
        "QUEUE_NODE_KEY": node.keys["worker"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with subprocess.Popen([sys.executable, program], env=os.environ | environment) as process:
        wait_until(lambda: told.exists() and told.read_text().endswith(" "))
        process.kill()
    pid = int(told.read_text())
    wait_until(lambda: not _is_alive(pid))
    client.cancel(job_id)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _states(client: Client, job_ids: list[str]) -> list[JobState]:
    return [client.get_status(job_id).state for job_id in job_ids]
