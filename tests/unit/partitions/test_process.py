"""A partition from its first byte: fronts are told how far recovery is, then served."""

import tempfile
from pathlib import Path

import pytest
import trio

from api.partition_client import PartitionClient
from partitions import process as module
from partitions.messages import Enqueue, Enqueued, Get, JobView
from partitions.process import PartitionProcess
from partitions.settings import PartitionSettings
from tests.support.driver import DIRECTORY, Driver, enqueue, job_id
from tests.support.fake_disk import FakeDisk
from tests.support.polling import until


@pytest.fixture
def socket_path():
    with tempfile.TemporaryDirectory() as directory:
        yield str(Path(directory) / "p")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """The test's own process is no child of a supervisor."""
    monkeypatch.setattr(module, "told_to_stop", trio.sleep_forever)
    monkeypatch.setattr(module, "say_ready", lambda: None)


async def test_a_front_that_connects_early_hears_of_recovery_and_then_is_served(
    socket_path, monkeypatch
):
    disk = FakeDisk()
    driver = Driver(disk)
    for index in range(600):
        driver.handle([enqueue(index)], 1)
    driver.close()
    # Every step of recovery is told, and waits until the test has seen one of them.
    monkeypatch.setattr(module, "_PIECE_S", 0.0)
    monkeypatch.setattr(module, "_SAY_EVERY_S", 0.0)
    seen = trio.Event()
    states: list[str] = []
    process = PartitionProcess(PartitionSettings(0, 1, str(DIRECTORY), socket_path), disk)
    original = process._recover_in_pieces

    async def held_back(state):
        await seen.wait()
        return await original(state)

    monkeypatch.setattr(process, "_recover_in_pieces", held_back)
    client = PartitionClient(0, 1, socket_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.run)
        nursery.start_soon(client.run)
        await until(lambda: client.state.startswith("recovering"))
        states.append(client.state)
        assert not client.serving
        seen.set()
        with trio.fail_after(10):
            await client.wait_serving()
        assert client.state == "serving"
        view = await client.call(Get(job_id(5)))
        assert isinstance(view, JobView)
        new = Enqueue(job_id(7_000), b"text", 3, "owner")
        assert await client.call(new) == Enqueued(new.job_id)
        nursery.cancel_scope.cancel()
    assert states == ["recovering (0%)"]
