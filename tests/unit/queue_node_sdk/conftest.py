"""A fake node, and a client and a worker for it."""

from collections.abc import Callable, Iterator

import pytest

from queue_node_sdk import Client, Worker
from queue_node_sdk.worker import Handler
from tests.support.fake_node import CLIENT_KEY, WORKER_KEY, FakeNode
from tests.support.running_worker import RunningWorker


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode() as fake:
        yield fake


@pytest.fixture
def client(node: FakeNode) -> Iterator[Client]:
    with Client(node.url, CLIENT_KEY, retry_for=10) as made:
        yield made


@pytest.fixture
def start_worker(node: FakeNode) -> Iterator[Callable[..., RunningWorker]]:
    """Starts a worker in a thread; it is stopped at the end of the test."""
    running: list[RunningWorker] = []

    def start(handler: Handler, **options: float) -> RunningWorker:
        worker = Worker(node.url, WORKER_KEY, handler, poll_interval=0.05, **options)  # type: ignore[arg-type]
        running.append(RunningWorker(worker))
        return running[-1]

    yield start
    for each in running:
        each.stop()
