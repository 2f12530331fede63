"""What a connection does that no client can see: how it waits, and what is swept."""

import socket

import pytest
import trio
import trio.testing

from api.answer import Answer
from api.connection import Connection, _Watched
from api.door import Door, Request
from api.readiness import Readiness
from api.settings import DoorLimits
from api.transport import Gone, PlainTransport
from tests.support.door import SmallApp, SmallLane


async def at_once() -> str:
    return "done"


async def after(event: trio.Event) -> str:
    await event.wait()
    await trio.lowlevel.checkpoint()
    return "done"


async def broken() -> str:
    raise ValueError("broken")


async def test_what_does_not_wait_is_not_noticed() -> None:
    waits: list[int] = []
    assert await _Watched(at_once(), lambda: waits.append(1)) == "done"
    with pytest.raises(ValueError, match="broken"):
        await _Watched(broken(), lambda: waits.append(1))
    assert waits == []


async def test_a_wait_is_noticed_once_before_it_begins() -> None:
    event = trio.Event()
    waits: list[int] = []

    def notice() -> None:
        waits.append(1)
        event.set()  # or the wait would be for ever

    assert await _Watched(after(event), notice) == "done"
    assert waits == [1]


async def test_a_watched_wait_can_be_cancelled() -> None:
    cleaned = False

    async def waits() -> None:
        nonlocal cleaned
        try:
            await trio.sleep_forever()
        finally:
            cleaned = True

    with trio.move_on_after(0.01) as scope:
        await _Watched(waits(), lambda: None)
    assert scope.cancelled_caught
    assert cleaned


class Client:
    """A connected pair: our end is served, theirs is the test's."""

    def __init__(self, limits: DoorLimits | None = None) -> None:
        self.lane = SmallLane()
        self.door = Door(limits or DoorLimits(), self.lane, SmallApp(self.lane))
        self.door.sweep()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.ours, self.theirs = ours, trio.socket.from_stdlib_socket(theirs)
        self.readiness = Readiness()
        self.connection = self.connected()

    def connected(self) -> Connection:
        """A connection through the door as it is now."""
        transport = PlainTransport(self.ours, self.readiness)
        return Connection(self.door, transport, None, None, "http")

    async def run(self) -> None:
        """Serve the connection to its end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.readiness.run)
            await self.connection.run()
            nursery.cancel_scope.cancel()


async def until_waiting() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_deadlines_are_written_down_for_the_sweeper() -> None:
    client = Client(DoorLimits(idle_timeout_ms=1000, head_timeout_ms=2000, body_timeout_ms=4000))
    now = client.door.now
    connection = client.connection
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await until_waiting()
        assert (connection.idle, connection.read_deadline) == (True, now + 1)
        await client.theirs.send(b"GET ")
        await until_waiting()
        assert (connection.idle, connection.read_deadline) == (False, now + 2)
        await client.theirs.send(b"/lane HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n")
        await until_waiting()
        assert connection.read_deadline == now + 8  # two MiB begun
        client.theirs.close()
    assert client.ours.fileno() == -1
    assert client.door.connections == set()


async def test_a_request_that_runs_has_no_read_deadline() -> None:
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.theirs.send(b"GET /lane/wait HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.lane.waiting.wait()
        assert client.connection.read_deadline == float("inf")
        assert client.connection.running_since == client.door.now
        client.lane.release.set()
        await until_waiting()
        assert client.connection.running_since is None
        client.theirs.close()


async def test_answers_that_came_together_leave_in_one_send() -> None:
    client = Client()
    sends: list[int] = []

    class Counting(PlainTransport):
        def send_now(self, data: bytes | memoryview) -> int:
            sends.append(len(data))
            return super().send_now(data)

    client.readiness.forget(client.ours)
    transport = Counting(client.ours, client.readiness)
    client.connection = Connection(client.door, transport, None, None, "http")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.theirs.send(b"GET /lane HTTP/1.1\r\nHost: a\r\n\r\n" * 10)
        await until_waiting()
        assert len(sends) == 1
        client.theirs.close()


async def test_the_lane_gets_turns_not_all_of_the_time() -> None:
    client = Client(DoorLimits(pipelined_max=3))
    turns: list[int] = []

    class Eager(SmallLane):
        def route(self, method: str, target: str):
            async def answer(request: Request) -> Answer:
                self.calls.append((method, target, None, b""))
                return Answer(200)

            return answer

    client.door = Door(DoorLimits(pipelined_max=3), Eager(), SmallApp(client.lane))
    client.readiness.forget(client.ours)
    client.connection = client.connected()

    async def other() -> None:
        while len(turns) < 5:
            turns.append(len(client.door.lane.calls))  # type: ignore[attr-defined]
            await trio.lowlevel.checkpoint()

    await client.theirs.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 9)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        nursery.start_soon(other)
        await until_waiting()
        client.theirs.close()
    assert any(0 < count < 9 for count in turns)


async def test_a_client_that_left_is_gone_whatever_is_tried() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    readiness = Readiness()
    transport = PlainTransport(ours, readiness)
    theirs.close()
    with pytest.raises(Gone):
        transport.send_now(b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.run)
        assert await transport.receive() == b""
        nursery.cancel_scope.cancel()
    await transport.close()
    await transport.close()


def test_the_sweep_is_short_against_every_timeout() -> None:
    lane = SmallLane()
    for limits in (DoorLimits(), DoorLimits(write_timeout_ms=100), DoorLimits(half_close_ms=8)):
        period = Door(limits, lane, SmallApp(lane))._period
        assert 0.01 <= period <= 0.5
        assert period <= max(0.01, min(limits.write_timeout_ms, limits.half_close_ms) / 4000)
