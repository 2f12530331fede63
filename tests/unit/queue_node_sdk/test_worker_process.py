"""Handlers in processes: what a test with a real node cannot bring about."""

import errno
import logging
import multiprocessing
from multiprocessing.context import SpawnProcess

import pytest

from queue_node_sdk import JobContext, Worker
from tests.support.fake_node import WORKER_KEY, FakeNode
from tests.support.polling import wait_until
from tests.support.running_worker import RunningWorker


def handle(_job: JobContext) -> str:
    return multiprocessing.current_process().name


def test_a_job_for_which_no_process_can_be_started_is_given_back(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    failing = [True]
    start = SpawnProcess.start

    def start_or_fail(process: SpawnProcess) -> None:
        if failing[0]:
            raise OSError(errno.EAGAIN, "no process is left")
        start(process)

    monkeypatch.setattr(SpawnProcess, "start", start_or_fail)
    job = node.put("x", max_retries=1)
    running = RunningWorker(Worker(node.url, WORKER_KEY, handle, process=True, concurrency=1))
    with caplog.at_level(logging.ERROR, "queue_node"):
        wait_until(lambda: node.count("release") > 0)
    failing[0] = False
    node.wait_until(lambda: job.state == "ACKED")
    running.stop()
    assert running.error is None
    assert job.result == "queue-node-handler"
    assert "no process for the handler" in caplog.text
