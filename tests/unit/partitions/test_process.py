"""A partition from its first byte: fronts are told how far recovery is, then served."""

import socket
import tempfile
from pathlib import Path

import pytest
import trio

from partitions import process as module
from partitions.messages import (
    PUSH_ID,
    Command,
    Enqueued,
    Get,
    Hello,
    Hint,
    JobView,
    Recovering,
    Reply,
    Request,
    Response,
    decode_responses,
    encode_requests,
)
from partitions.pipe import Pipe
from partitions.process import PartitionProcess
from partitions.settings import PartitionSettings
from tests.support.driver import DIRECTORY, Driver, enqueue, job_id
from tests.support.fake_disk import FakeDisk


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
    process = PartitionProcess(PartitionSettings(0, 1, str(DIRECTORY), socket_path), disk)
    original = process._recover_in_pieces

    async def held_back(state):
        await seen.wait()
        return await original(state)

    monkeypatch.setattr(process, "_recover_in_pieces", held_back)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.run)
            front = await Front.connected(socket_path)
            assert await front.next() == Response(PUSH_ID, Recovering(0))
            seen.set()
            shares, reply = [0], (await front.next()).reply
            while isinstance(reply, Recovering):
                shares.append(reply.done_percent)
                reply = (await front.next()).reply
            assert shares == sorted(shares)
            assert shares[-1] > 50
            assert reply == Hello(0, 1)
            hint = (await front.next()).reply
            assert isinstance(hint, Hint)
            assert [(head.queue, head.priority) for head in hint.heads] == [("default", 0)]
            assert isinstance(await front.ask(Get(job_id(5))), JobView)
            assert await front.ask(enqueue(7_000)) == Enqueued(job_id(7_000))
            front.close()
            nursery.cancel_scope.cancel()


class Front:
    """One front, one request at a time."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._responses: list[Response] = []

    @classmethod
    async def connected(cls, path: str) -> "Front":
        """Connect, as soon as somebody listens."""
        while True:
            ours = socket.socket(socket.AF_UNIX)
            try:
                ours.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                ours.close()
                await trio.sleep(0.001)
            else:
                return cls(Pipe(ours))

    async def next(self) -> Response:
        while not self._responses:
            bodies = await self._pipe.receive()
            assert bodies, "the pipe was closed"
            self._responses = [each for body in bodies for each in decode_responses(body)]
        return self._responses.pop(0)

    async def ask(self, command: Command) -> Reply:
        """The reply; pushes that come before it are passed by."""
        self._pipe.send(encode_requests([Request(1, command)]))
        while (response := await self.next()).request_id == PUSH_ID:
            pass
        return response.reply

    def close(self) -> None:
        self._pipe.close()
