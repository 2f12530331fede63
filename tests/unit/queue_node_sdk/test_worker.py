import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from queue_node_sdk import (
    AuthError,
    ConfigurationError,
    JobContext,
    LeasedJob,
    QueueNodeError,
    UnexpectedAnswer,
    Worker,
)
from tests.support.fake_node import CLIENT_KEY, WORKER_KEY, Answer, FakeNode, HangUp, Stall
from tests.support.polling import wait_until
from tests.support.running_worker import RunningWorker

StartWorker = Callable[..., RunningWorker]
BUSY = Answer(503, b'{"error": "overloaded"}')
SDK = Path(__file__).parents[3] / "sdk"


def state_is(node: FakeNode, job_id: str, state: str) -> Callable[[], bool]:
    return lambda: node.jobs[job_id].state == state


def test_a_handler_sees_the_job_and_its_result_is_kept(node: FakeNode, start_worker: StartWorker):
    seen: list[LeasedJob] = []

    def handle(job: LeasedJob) -> str:
        seen.append(job)
        return "é\x00😀"

    job = node.put("payload", max_retries=2)
    start_worker(handle)
    node.wait_until(state_is(node, job.job_id, "ACKED"))
    assert job.result == "é\x00😀"
    assert (seen[0].payload, seen[0].attempt, seen[0].max_retries) == ("payload", 1, 2)
    assert seen[0].lease_token == "1"
    assert seen[0].created_at is not None


def test_none_is_a_success_without_result(node: FakeNode, start_worker: StartWorker):
    job = node.put("x")
    start_worker(lambda _job: None)
    node.wait_until(state_is(node, job.job_id, "ACKED"))
    assert job.result == ""


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Whole(int):
    pass


class Fraction(float):
    pass


@pytest.mark.parametrize("progress", [Text("half"), Whole(50), Fraction(0.5)])
def test_texts_and_numbers_of_other_libraries_are_taken_for_what_they_are(
    node: FakeNode, start_worker: StartWorker, progress: float | str
):
    def handle(job: JobContext) -> str:
        job.progress(progress)
        wait_until(lambda: node.count("extend") > 0)
        return Text("done")

    job = node.put("x")
    worker = start_worker(handle)
    node.wait_until(state_is(node, job.job_id, "ACKED"))
    worker.stop()
    assert worker.error is None
    assert job.result == "done"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class NotAnException(BaseException):
    pass


@pytest.mark.parametrize(
    ("raised", "reported"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (StopIteration(), "StopIteration"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (NotAnException("odd"), "NotAnException: odd"),
        (Unprintable(), "Unprintable"),
        (ValueError("\udc80 é"), "ValueError: \\udc80 é"),
        (ValueError("x" * 10**6), "ValueError: " + "x" * (4000 - 12)),
    ],
)
def test_whatever_a_handler_raises_is_the_attempts_error(
    node: FakeNode, start_worker: StartWorker, raised: BaseException, reported: str
):
    def handle(job: LeasedJob) -> str:
        if job.payload == "bad":
            raise raised
        return "fine"

    bad, good = node.put("bad", max_retries=1), node.put("good")
    start_worker(handle, concurrency=1)
    node.wait_until(state_is(node, good.job_id, "ACKED"))
    assert (bad.state, bad.result_error) == ("DEAD", reported)


@pytest.mark.parametrize("returned", [b"bytes", 1, {"a": 1}, True, ["x"]])
def test_a_result_that_is_no_text_is_a_failure(
    node: FakeNode, start_worker: StartWorker, returned: object
):
    job = node.put("x", max_retries=1)
    start_worker(lambda _job: returned)
    node.wait_until(state_is(node, job.job_id, "DEAD"))
    assert job.result_error is not None
    assert job.result_error.startswith(f"TypeError: the handler returned {type(returned).__name__}")


def test_a_result_that_cannot_be_sent_is_a_failure(node: FakeNode, start_worker: StartWorker):
    job = node.put("x", max_retries=1)
    start_worker(lambda _job: "\ud800")
    node.wait_until(state_is(node, job.job_id, "DEAD"))
    assert job.result_error is not None
    assert "surrogates" in job.result_error


def test_a_result_that_the_node_refuses_is_a_failure(node: FakeNode, start_worker: StartWorker):
    job = node.put("x", max_retries=1)
    start_worker(lambda _job: "x" * ((1 << 20) + 1))
    node.wait_until(state_is(node, job.job_id, "DEAD"))
    assert job.result_error is not None
    assert job.result_error.startswith("TooLarge: ")


def test_a_failed_attempt_is_tried_again(node: FakeNode, start_worker: StartWorker):
    def handle(job: LeasedJob) -> str:
        if job.attempt < 3:
            raise ValueError("not yet")
        return f"attempt {job.attempt}"

    job = node.put("x", max_retries=3)
    start_worker(handle)
    node.wait_until(state_is(node, job.job_id, "ACKED"))
    assert (job.attempts, job.result) == (3, "attempt 3")


def test_jobs_run_side_by_side_up_to_the_concurrency(node: FakeNode, start_worker: StartWorker):
    # Passes only when three handlers are in their jobs at the same time.
    together = threading.Barrier(3)
    jobs = [node.put("x") for _ in range(6)]
    running, most = 0, 0
    lock = threading.Lock()

    def handle(_job: LeasedJob) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(20)
        with lock:
            running -= 1
        return "done"

    start_worker(handle, concurrency=3)
    node.wait_until(lambda: all(job.state == "ACKED" for job in jobs))
    assert most == 3


def test_no_job_is_leased_before_a_thread_is_free(node: FakeNode, start_worker: StartWorker):
    release = threading.Event()
    together = threading.Barrier(3)
    jobs = [node.put("x") for _ in range(3)]

    def handle(_job: LeasedJob) -> str:
        together.wait(20)
        return "x" if release.wait(20) else "late"

    worker = start_worker(handle, concurrency=2)
    together.wait(20)
    assert [job.state for job in jobs] == ["RUNNING", "RUNNING", "READY"]
    worker.worker.stop()
    release.set()
    worker.join()
    assert [job.state for job in jobs] == ["ACKED", "ACKED", "READY"]


def test_an_ack_whose_answer_was_lost_is_sent_again(node: FakeNode, start_worker: StartWorker):
    job = node.put("x")
    node.fail("ack", HangUp(ran=False), HangUp(ran=True), BUSY)
    start_worker(lambda _job: "r")
    node.wait_until(lambda: node.count("ack") == 4)
    assert (job.state, job.result, job.attempts) == ("ACKED", "r", 1)
    acks = [seen.body for seen in node.seen if seen.what == "ack"]
    assert acks == [acks[0]] * 4


def test_an_ack_that_gets_no_answer_is_given_up_when_the_lease_ends(
    caplog: pytest.LogCaptureFixture,
):
    with FakeNode(lease_duration=timedelta(seconds=1.2)) as node:
        node.fail("ack", *[BUSY] * 1000)
        node.fail("extend", *[BUSY] * 1000)
        job = node.put("x", max_retries=1)
        worker = RunningWorker(Worker(node.url, WORKER_KEY, lambda _job: "r", concurrency=1))
        node.wait_until(lambda: node.count("lease") >= 2)
        worker.stop()
        assert worker.error is None
        assert job.state != "ACKED"
        assert node.count("ack") >= 2
    assert "outcome not reported" in caplog.text


@pytest.mark.parametrize("days", [-1, 1])
def test_a_worker_whose_clock_is_wrong_still_keeps_its_leases(days: int):
    # By the worker's clock every lease ended yesterday, or ends tomorrow.
    with FakeNode(skew=timedelta(days=days), lease_duration=timedelta(seconds=1.5)) as node:
        job = node.put("x")
        lefts: list[float] = []

        def handle(held: JobContext) -> str:
            wait_until(lambda: node.count("extend") >= 3 and time.monotonic() - began_at > 3)
            lefts.append(held.seconds_left)
            return f"{held.lost}"

        began_at = time.monotonic()
        worker = RunningWorker(Worker(node.url, WORKER_KEY, handle))
        node.wait_until(state_is(node, job.job_id, "ACKED"))
        worker.stop()
        assert (job.result, job.attempts) == ("False", 1)
        assert 0 <= lefts[0] <= 1.5


@pytest.mark.parametrize("days", [-1, 1])
def test_a_worker_whose_clock_is_wrong_still_reports(days: int):
    with FakeNode(skew=timedelta(days=days)) as node:
        job = node.put("x")
        node.fail("ack", BUSY, BUSY)
        worker = RunningWorker(Worker(node.url, WORKER_KEY, lambda _job: "r"))
        node.wait_until(state_is(node, job.job_id, "ACKED"))
        worker.stop()


def test_a_lost_lease_is_logged_and_the_outcome_dropped(
    node: FakeNode, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
):
    lost, other = node.put("lost"), node.put("other")

    def handle(job: LeasedJob) -> str:
        if job.job_id == lost.job_id:
            lost.lease_token += 1  # somebody else holds it now
        return "r"

    start_worker(handle, concurrency=1)
    node.wait_until(state_is(node, other.job_id, "ACKED"))
    assert lost.state == "RUNNING"
    assert node.count("ack") == 2
    assert "lease lost" in caplog.text


def test_a_node_that_is_away_is_waited_for_and_said_so_once(
    node: FakeNode, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
):
    start_worker(lambda _job: "r")
    node.wait_until(lambda: node.count("lease") >= 1)
    caplog.clear()
    node.stop()
    deadline = time.monotonic() + 20
    while not caplog.records and time.monotonic() < deadline:
        time.sleep(0.005)
    # Away through several tries: the second and later ones say nothing.
    time.sleep(0.5)
    job = node.put("x")
    node.start()
    node.wait_until(state_is(node, job.job_id, "ACKED"))
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2, texts
    assert "trying until it is back" in texts[0]
    assert texts[1] == f"{node.url} is back"
    assert {record.name for record in caplog.records} == {"queue_node"}


def test_a_worker_may_be_started_before_its_node(node: FakeNode, start_worker: StartWorker):
    node.stop()
    start_worker(lambda _job: "r")
    job = node.put("x")
    node.start()
    node.wait_until(state_is(node, job.job_id, "ACKED"))


def test_a_busy_node_is_asked_again(node: FakeNode, start_worker: StartWorker):
    node.fail("lease", BUSY, Answer(500), Answer(502, b"<html>"), HangUp(ran=False), Answer(429))
    job = node.put("x")
    start_worker(lambda _job: "r")
    node.wait_until(state_is(node, job.job_id, "ACKED"))


@pytest.mark.parametrize("key", ["worker_typo", CLIENT_KEY + "x"])
def test_a_wrong_key_ends_the_run(node: FakeNode, key: str):
    with pytest.raises(AuthError, match="Invalid API key"):
        Worker(node.url, key, lambda _job: "r").run()


def test_a_revoked_key_ends_the_run_after_the_job_in_hand(
    node: FakeNode, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
):
    node.put("x")

    def handle(_job: LeasedJob) -> str:
        node.revoked.add(WORKER_KEY)
        return "r"

    worker = start_worker(handle)
    worker.join()
    assert isinstance(worker.error, AuthError)
    assert "outcome not reported" in caplog.text


def test_a_wrong_url_ends_the_run_and_a_proxys_page_later_does_not(
    node: FakeNode, start_worker: StartWorker
):
    page = Answer(404, b"<html>", content_type="text/html")
    node.fail("lease", page)
    with pytest.raises(UnexpectedAnswer):
        Worker(node.url, WORKER_KEY, lambda _job: "r").run()
    start_worker(lambda _job: "r")
    asked = node.count("lease")
    node.wait_until(lambda: node.count("lease") > asked)
    node.fail("lease", page)
    job = node.put("x")
    node.wait_until(state_is(node, job.job_id, "ACKED"))


def test_an_idle_worker_asks_with_one_thread(node: FakeNode, start_worker: StartWorker):
    release = threading.Event()
    node.fail("lease", Stall(release))
    start_worker(lambda _job: "r", concurrency=32)

    def threads() -> int:
        return sum(each.name.startswith("queue-node-worker-") for each in threading.enumerate())

    wait_until(lambda: threads() == 32 and node.count("lease") == 1)
    # While the one question is open, none of the others asks; had they, it would take them
    # a few ms.
    time.sleep(0.2)
    assert node.count("lease") == 1
    release.set()


def test_a_worker_runs_once(node: FakeNode, start_worker: StartWorker):
    worker = start_worker(lambda _job: "r")
    worker.stop()
    assert worker.error is None
    with pytest.raises(QueueNodeError, match="run already"):
        worker.worker.run()


def test_a_worker_that_was_stopped_before_it_ran_leases_nothing(node: FakeNode):
    worker = Worker(node.url, WORKER_KEY, lambda _job: "r")
    worker.stop()
    worker.run()
    assert not node.seen


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"poll_interval": 0}])
def test_numbers_that_cannot_be_right(options: dict[str, int]):
    with pytest.raises(ConfigurationError):
        Worker("http://127.0.0.1:1", "k", lambda _job: "r", **options)  # type: ignore[arg-type]


def test_the_key_is_in_no_repr():
    assert "k_secret" not in repr(Worker("http://127.0.0.1:1", "k_secret", lambda _job: "r"))


SLOW_WORKER = """
import logging, sys, time
from queue_node_sdk import Worker
logging.basicConfig(stream=sys.stderr)
def handle(job):
    print("holding", flush=True)
    sys.stdin.readline()
    return "finished"
Worker.from_env(handle, concurrency=1).run()
print("returned", flush=True)
"""


def run_slow_worker(node: FakeNode) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_WORKER],
        env=os.environ
        | {"QUEUE_NODE_URL": node.url, "QUEUE_NODE_KEY": WORKER_KEY, "PYTHONPATH": str(SDK)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_job_in_hand_finish(node: FakeNode, number: signal.Signals):
    held, waiting = node.put("held"), node.put("waiting")
    with run_slow_worker(node) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "holding\n"
        process.send_signal(number)
        assert "finishing the jobs in hand" in process.stderr.readline()
        out, err = process.communicate("go\n", timeout=20)
        assert (process.returncode, out, err) == (0, "returned\n", "")
    assert (held.state, held.result, waiting.state) == ("ACKED", "finished", "READY")


def test_a_second_signal_ends_the_process_at_once(node: FakeNode):
    held = node.put("held")
    with run_slow_worker(node) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "holding\n"
        process.send_signal(signal.SIGTERM)
        assert "finishing the jobs in hand" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
    assert held.state == "RUNNING"


def test_logging_leaves_the_root_logger_alone():
    assert not logging.getLogger("queue_node").handlers
