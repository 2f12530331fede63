"""The SDK against a real node: what it promises, its README's code, its examples."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from queue_node_sdk import (
    AuthError,
    Client,
    JobState,
    LeasedJob,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    QueueNodeError,
    ServerError,
    TooLarge,
    Worker,
)
from queue_node_sdk.worker import Handler
from tests.support.node import RunningNode
from tests.support.polling import DEADLINE_S, wait_until
from tests.support.running_worker import RunningWorker

SDK = Path(__file__).parents[2] / "sdk"
MIB = 1 << 20


@pytest.fixture
def client(node: RunningNode) -> Iterator[Client]:
    with Client(node.url, node.keys["client"]) as made:
        yield made


@contextmanager
def working(node: RunningNode, handler: Handler, concurrency: int = 4) -> Iterator[RunningWorker]:
    worker = Worker(
        node.url, node.keys["worker"], handler, concurrency=concurrency, poll_interval=0.05
    )
    running = RunningWorker(worker)
    try:
        yield running
    finally:
        running.stop()


def echo(job: LeasedJob) -> str:
    return job.payload


@pytest.mark.parametrize(
    "text", ["x", 'q"\\\u0000\u2028é漢😀', "é" * (MIB // 2), "\u0000" * MIB], ids=str.__len__
)
def test_any_text_goes_there_and_back(node: RunningNode, client: Client, text: str):
    with working(node, echo):
        job = client.submit_and_wait(text)
    assert job.state is JobState.ACKED
    assert job.result == text


def test_a_text_over_a_mib_is_too_large_both_ways(node: RunningNode, client: Client):
    with pytest.raises(TooLarge):
        client.submit("x" * (MIB + 1))
    with working(node, lambda _job: "x" * (MIB + 1)):
        job = client.submit_and_wait("x", max_retries=1)
    assert job.state is JobState.DEAD
    assert job.result_error is not None
    assert job.result_error.startswith("TooLarge: ")


def test_what_the_handler_sees_is_what_was_submitted(node: RunningNode, client: Client):
    seen: list[LeasedJob] = []
    began_at = datetime.now(UTC)
    job_id = client.submit("x", max_retries=2)
    before = client.get_status(job_id)
    assert (before.state, before.attempts, before.max_retries) == (JobState.READY, 0, 2)
    with working(node, lambda job: seen.append(job)):
        client.wait_for_completion(job_id)
    (leased,) = seen
    assert (leased.job_id, leased.payload, leased.attempt) == (job_id, "x", 1)
    assert (leased.max_retries, leased.created_at) == (2, before.created_at)
    assert leased.lease_token is not None
    granted_at = leased.lease_until - timedelta(seconds=30)
    step = timedelta(seconds=1)  # between the two clocks, and to a whole second
    assert began_at - step <= granted_at <= datetime.now(UTC) + step


def test_a_handler_that_fails_ends_in_dead_with_its_error(node: RunningNode, client: Client):
    def fail(job: LeasedJob) -> str:
        raise ValueError(f"attempt {job.attempt} é\x00")

    with working(node, fail):
        job = client.submit_and_wait("x", max_retries=2)
    assert (job.state, job.attempts) == (JobState.DEAD, 2)
    assert job.result_error == "ValueError: attempt 2 é\x00"


STOPPED_WORKER = """
import logging, sys
from queue_node_sdk import Worker
logging.basicConfig(stream=sys.stderr)
def handle(job):
    print("begun", flush=True)
    sys.stdin.readline()
    return "too late"
Worker.from_env(handle, concurrency=1).run()
"""


def test_a_worker_that_stood_still_loses_its_lease_and_not_the_job(
    make_node: Callable[..., RunningNode],
):
    node = make_node(LEASE_DURATION="1s", LEASE_CHECK_INTERVAL="100ms").start()
    with (
        Client(node.url, node.keys["client"]) as client,
        subprocess.Popen(
            [sys.executable, "-c", STOPPED_WORKER],
            env=environment(node, "worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as stopped,
    ):
        job_id = client.submit("x", max_retries=1000)
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "begun\n"
        stopped.send_signal(signal.SIGSTOP)
        with working(node, lambda job: f"attempt {job.attempt}"):
            job = client.wait_for_completion(job_id, timeout=DEADLINE_S)
        stopped.send_signal(signal.SIGCONT)
        assert stopped.stderr is not None
        # The node said so, or it was too long ago to ask.
        assert "the lease" in (words := stopped.stderr.readline()) or "lease lost" in words
        stopped.send_signal(signal.SIGTERM)
        _, err = stopped.communicate("go\n", timeout=DEADLINE_S)
        assert (stopped.returncode, job.crashes) == (0, job.attempts - 1), err
        assert job.result == f"attempt {job.attempts}"
        assert client.get_status(job_id) == job


def test_keys_are_told_apart(node: RunningNode, client: Client):
    with Client(node.url, node.keys["worker"]) as wrong, pytest.raises(PermissionDenied):
        wrong.submit("x")
    with Client(node.url, "client_typo") as unknown, pytest.raises(AuthError, match="Invalid"):
        unknown.submit("x")
    with pytest.raises(PermissionDenied, match="jobs:lease"):
        Worker(node.url, node.keys["client"], echo).run()
    with pytest.raises(NotFound):
        client.get_status("00000000-0000-7000-8000-000000000000")


def test_a_worker_whose_key_is_revoked_ends(node: RunningNode):
    body = {"name": "n", "owner_id": "o", "type": "worker"}
    key = node.request("POST", "/admin/keys", key="admin", json_body=body).json["key"]
    worker = RunningWorker(Worker(node.url, key, echo, poll_interval=0.05))
    assert node.request("DELETE", f"/keys/{key}", key="admin").status == 200
    worker.join()
    assert isinstance(worker.error, AuthError)


def test_nothing_is_lost_when_processes_are_killed(make_node: Callable[..., RunningNode]):
    """Submits and work go on while partitions and fronts are killed one by one."""
    node = make_node(LEASE_DURATION="2s", LEASE_CHECK_INTERVAL="200ms").start()
    job_ids: list[str] = []
    unknown: list[QueueNodeError] = []
    enough = threading.Event()

    with (
        Client(node.url, node.keys["client"]) as client,
        working(node, lambda job: job.payload.upper(), concurrency=4),
    ):

        def submit_until_told() -> None:
            while not enough.is_set():
                try:
                    job_ids.append(client.submit("a job", max_retries=10))
                except (OutcomeUnknown, ServerError) as error:
                    unknown.append(error)

        thread = threading.Thread(target=submit_until_told)
        thread.start()
        try:
            for kill in (node.kill_partition, node.kill_front):
                for number in (0, 1):
                    before = len(job_ids)
                    node.wait_restarted(kill(number))
                    wait_until(lambda before=before: len(job_ids) > before)  # type: ignore[misc]
        finally:
            enough.set()
            thread.join()
        jobs = [client.wait_for_completion(job_id, timeout=DEADLINE_S) for job_id in job_ids]
    assert {(job.state, job.result) for job in jobs} == {(JobState.ACKED, "A JOB")}
    # One submitter: each kill can have hit at most the one submit that was under way.
    assert len(unknown) <= 4


def test_a_client_and_a_worker_outlive_a_restart_of_the_node(
    make_node: Callable[..., RunningNode], caplog: pytest.LogCaptureFixture
):
    node = make_node().start()
    with Client(node.url, node.keys["client"]) as client, working(node, echo):
        first = client.submit_and_wait("first")
        node.stop()
        wait_until(lambda: "trying until it is back" in caplog.text)
        node.start()
        assert client.submit_and_wait("second").result == "second"
        assert client.get_status(first.job_id) == first
        assert " is back" in caplog.text


# What users copy -------------------------------------------------------------------------


def environment(node: RunningNode, kind: str) -> dict[str, str]:
    return os.environ | {"QUEUE_NODE_URL": node.url, "QUEUE_NODE_KEY": node.keys[kind]}


@contextmanager
def worker_program(node: RunningNode, *command: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, *command],
        env=environment(node, "worker"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, out + err


def test_the_examples_work(node: RunningNode):
    with worker_program(node, str(SDK / "examples" / "simple_worker.py")):
        done = subprocess.run(
            [sys.executable, str(SDK / "examples" / "simple_client.py"), "hello", "é world"],
            env=environment(node, "client"),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "'hello': ACKED HELLO\n'é world': ACKED É WORLD\n"


def test_the_examples_say_what_is_wrong(node: RunningNode):
    for name, kind in (("simple_client.py", "worker"), ("simple_worker.py", "client")):
        done = subprocess.run(
            [sys.executable, str(SDK / "examples" / name)],
            env=environment(node, kind),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("PermissionDenied: ")


def test_the_readmes_code_works(node: RunningNode, tmp_path: Path):
    """Its two programs as they stand there, but for the URL and the keys."""
    blocks = re.findall(r"```python\n(.*?)```", (SDK / "README.md").read_text(), re.DOTALL)
    client_code, worker_code = (
        block.replace("http://127.0.0.1:8080", node.url)
        .replace("client_...", node.keys["client"])
        .replace("worker_...", node.keys["worker"])
        for block in blocks
    )
    worker_file = tmp_path / "worker.py"
    worker_file.write_text(worker_code)
    with worker_program(node, str(worker_file)):
        done = subprocess.run(
            [sys.executable, "-c", client_code], capture_output=True, text=True, timeout=DEADLINE_S
        )
    assert (done.returncode, done.stdout) == (0, "PROCESS THIS DATA\n"), done.stderr
