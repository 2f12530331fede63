"""What a connection does that no client can see: how it waits, and what is swept."""

import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from math import inf
from types import coroutine
from typing import Any

import pytest
import trio
import trio.testing

from api.answer import TEXT, Answer
from api.calls import Call, in_task
from api.connection import Connection
from api.door import Door, Request
from api.parking import Deadlines, Parked
from api.readiness import Readiness
from api.settings import DoorLimits
from api.transport import Gone, PlainTransport
from partitions.messages import NothingReady, Reply, Settled
from tests.support.door import SmallApp, SmallLane


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


class AskingLane:
    """Every request asks a partition, which is the test's, once or ``asks`` times."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.given_up: list[Call] = []
        self.asks = 1
        self.trio_in_place = False
        self.trio_first = False
        self.then_trio = False

    @coroutine
    def _ask(self) -> Generator[Call, None, Reply]:
        call = Call(len(self.calls), 0)
        self.calls.append(call)
        try:
            yield call
        except BaseException:
            self.given_up.append(call)
            raise
        return call.result()

    def route(self, method: str, target: str):
        del method

        async def handler(request: Request) -> Answer:
            del request
            if self.trio_in_place:
                await trio.lowlevel.checkpoint()
            if self.trio_first:
                await in_task()
                await trio.lowlevel.checkpoint()
            for _ in range(self.asks):
                reply = await self._ask()
            if self.then_trio:
                await in_task()
                with trio.move_on_after(60):
                    await trio.lowlevel.checkpoint()
            text = f"{target} {type(reply).__name__}"
            return Answer(200, text.encode(), TEXT)

        return handler


ASK = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
SETTLED = Settled(b"j" * 16)


@asynccontextmanager
async def asking(limits: DoorLimits | None = None) -> AsyncIterator[tuple[Client, AskingLane]]:
    client, lane = Client(), AskingLane()
    client.door = Door(limits or DoorLimits(), lane, SmallApp(client.lane))
    client.door.sweep()
    client.readiness.forget(client.ours)
    client.connection = client.connected()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            yield client, lane
            client.theirs.close()
    assert client.door.body_bytes == 0
    assert not client.door.connections


async def said(client: Client, *bodies: bytes) -> bytes:
    """All that the client gets until the last of ``bodies`` ends it."""
    got = b""
    while not got.endswith(bodies[-1]):
        data = await client.theirs.recv(65536)
        assert data, got
        got += data
    places = [got.index(body) for body in bodies]
    assert places == sorted(places)
    return got


@asynccontextmanager
async def known(limits: DoorLimits | None = None) -> AsyncIterator[tuple[Client, AskingLane]]:
    """A connection that has answered one request, so that its head is known."""
    async with asking(limits) as (client, lane):
        await client.theirs.send(ASK % b"/a")
        await until_waiting()
        lane.calls.pop().answer(SETTLED)
        await said(client, b"/a Settled")
        await until_waiting()
        yield client, lane


class Steps(trio.abc.Instrument):
    """Which tasks ran."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.names.append(task.name)


async def test_a_whole_request_in_a_known_head_is_begun_and_ended_in_place():
    async with known() as (client, lane):
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for turn in range(2):
            await client.theirs.send(ASK % b"/a")
            await until_waiting()
            assert len(lane.calls) == turn + 1
            assert not client.connection.idle
            assert client.connection.read_deadline == inf
            assert client.connection.running_since is not None
            assert client.door.body_bytes == 3
            lane.calls[turn].answer(SETTLED)
            assert client.connection.idle
            assert client.connection.read_deadline < inf
            assert client.door.body_bytes == 0
            await said(client, b"/a Settled")
        trio.lowlevel.remove_instrument(steps)
        assert any("Readiness.run" in name for name in steps.names)
        assert not any("Client.run" in name for name in steps.names)


async def test_nothing_there_is_dealt_with_in_place():
    async with known() as (client, _):
        assert client.connection._serve_in_place()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (ASK.replace(b"POST %s", b"GET /app"), 200),
        (ASK.replace(b"Host: a", b"Host : a") % b"/a", 400),
        (ASK.replace(b"Host: a", b"Host: b") % b"/unknown-head", None),
        ((ASK % b"/a")[:-2] + b"c" * 3, None),
    ],
)
async def test_all_else_is_left_to_the_connections_task(data, status):
    async with known() as (client, lane):
        await client.theirs.send(data)
        await until_waiting()
        for call in lane.calls:
            call.answer(SETTLED)
        if status is None:
            assert b" 200 " in await said(client, b"Settled")
        else:
            assert (b" %d " % status) in await client.theirs.recv(1000)


async def test_no_room_for_a_body_is_said_by_the_connections_task():
    async with known(DoorLimits(bodies_bytes_max=3)) as (client, lane):
        client.door.body_bytes += 1
        await client.theirs.send(ASK % b"/a")
        assert b" 503 " in await said(client, b"}")
        assert lane.calls == []
        client.door.body_bytes -= 1


async def test_a_bug_before_the_first_call_is_answered_in_place():
    async with known() as (client, lane):
        lane.asks = 0
        await client.theirs.send(ASK % b"/a")
        assert client.connection._serve_in_place()
        assert b" 500 " in await said(client, b"}")


async def test_trio_before_in_task_is_a_bug_and_ends_nothing_but_the_request():
    async with known() as (client, lane):
        lane.asks = 0
        lane.trio_in_place = True
        await client.theirs.send(ASK % b"/a")
        assert b" 500 " in await said(client, b"}")
        lane.trio_in_place = False
        lane.asks = 1
        await client.theirs.send(ASK % b"/a")
        await until_waiting()
        lane.calls[0].answer(SETTLED)
        await said(client, b"/a Settled")


async def test_a_request_that_needs_trio_at_once_is_begun_in_place_and_ended_in_the_task():
    async with known() as (client, lane):
        lane.trio_first = True
        await client.theirs.send(ASK % b"/a")
        await until_waiting()
        lane.calls[0].answer(SETTLED)
        await said(client, b"/a Settled")


async def test_a_reply_is_answered_without_waking_the_connections_task():
    async with asking() as (client, lane):
        for turn in range(3):
            await client.theirs.send(ASK % b"/a")
            await until_waiting()
            assert len(lane.calls) == turn + 1
            assert not client.connection.idle
            assert client.connection.running_since is not None
            lane.calls[turn].answer(SETTLED)
            # Nothing was awaited since: the answer is in the socket, the deadlines are set.
            assert client.connection.idle
            assert client.connection.running_since is None
            assert client.connection.read_deadline < inf
            assert client.door.body_bytes == 0
            await said(client, b"/a Settled")


async def test_several_calls_of_one_request_and_a_failed_one():
    async with asking() as (client, lane):
        lane.asks = 2
        await client.theirs.send(ASK % b"/a")
        await until_waiting()
        lane.calls[0].answer(SETTLED)
        assert len(lane.calls) == 2
        lane.calls[1].answer(NothingReady())
        await said(client, b"/a NothingReady")
        await client.theirs.send(ASK % b"/b")
        await until_waiting()
        lane.calls[2].fail(ValueError("a bug"))
        assert b" 500 " in await said(client, b"}")


async def test_what_needs_trio_goes_on_in_the_connections_task():
    async with asking() as (client, lane):
        lane.then_trio = True
        for turn in range(2):
            await client.theirs.send(ASK % b"/a")
            await until_waiting()
            lane.calls[turn].answer(SETTLED)
            await said(client, b"/a Settled")


@pytest.mark.parametrize("then_trio", [False, True])
async def test_a_request_that_comes_before_the_answer_waits_for_its_turn(then_trio):
    async with asking() as (client, lane):
        lane.then_trio = then_trio
        await client.theirs.send(ASK % b"/1")
        await until_waiting()
        await client.theirs.send(ASK % b"/2" + ASK % b"/3")
        await until_waiting()
        assert len(lane.calls) == 1
        lane.calls[0].answer(SETTLED)
        await said(client, b"/1 Settled")
        await until_waiting()
        lane.calls[1].answer(NothingReady())
        await said(client, b"/2 NothingReady")
        await until_waiting()
        lane.calls[2].answer(SETTLED)
        await said(client, b"/3 Settled")


async def test_half_a_request_before_the_answer_has_a_deadline_after_it():
    async with asking() as (client, lane):
        await client.theirs.send(ASK % b"/1")
        await until_waiting()
        await client.theirs.send(b"POST /2 HT")
        await until_waiting()
        assert client.connection.read_deadline == inf
        lane.calls[0].answer(SETTLED)
        await said(client, b"/1 Settled")
        await until_waiting()
        assert not client.connection.idle
        assert client.connection.read_deadline < inf


async def test_who_closes_its_sending_side_still_gets_the_answer():
    async with asking() as (client, lane):
        await client.theirs.send(ASK % b"/1")
        await until_waiting()
        client.theirs.shutdown(socket.SHUT_WR)
        await until_waiting()
        lane.calls[0].answer(SETTLED)
        await said(client, b"/1 Settled")
        assert await client.theirs.recv(10) == b""


@pytest.mark.parametrize("seen", [False, True])
async def test_who_is_cut_while_it_waits_gives_its_call_up(seen):
    async with asking() as (client, lane):
        await client.theirs.send(ASK % b"/1")
        await until_waiting()
        if seen:
            await client.theirs.send(b"POST")  # the connection's own task has taken over
            await until_waiting()
        client.connection.cut()
        await until_waiting()
        assert lane.given_up == lane.calls
        assert not client.door.connections
        lane.calls[0].answer(SETTLED)  # goes nowhere


async def test_the_last_answer_of_a_drain_closes_the_connection():
    async with asking() as (client, lane):
        await client.theirs.send(ASK % b"/1")
        await until_waiting()
        client.door.drain()
        await until_waiting()
        lane.calls[0].answer(SETTLED)
        assert b"Connection: close\r\n" in await said(client, b"/1 Settled")
        assert await client.theirs.recv(10) == b""


async def test_an_answer_that_does_not_fit_is_sent_as_the_client_reads():
    async with asking() as (client, lane):
        target = b"/" + b"x" * 3000
        client.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        filled = 0
        try:
            while True:
                filled += client.ours.send(b"." * 100)
        except BlockingIOError:
            pass
        await client.theirs.send(ASK % target)
        await until_waiting()
        lane.calls[0].answer(SETTLED)
        await until_waiting()
        assert client.connection.write_deadline < inf
        got = await said(client, target + b" Settled")
        assert got.startswith(b"." * filled + b"HTTP/1.1 200 OK\r\n")
        await until_waiting()
        assert client.connection.write_deadline == inf
        await client.theirs.send(ASK % b"/2")
        await until_waiting()
        lane.calls[1].answer(SETTLED)
        await said(client, b"/2 Settled")


async def test_pipelined_requests_are_answered_in_order_each_when_its_reply_is_here():
    async with asking() as (client, lane):
        await client.theirs.send(b"".join(ASK % b"/%d" % turn for turn in range(3)))
        for turn in range(3):
            await until_waiting()
            assert len(lane.calls) == turn + 1
            lane.calls[turn].answer(SETTLED)
            await said(client, b"/%d Settled" % turn)


# Long polls ------------------------------------------------------------------------------------


class Poll:
    """A lane whose one route is parked until it is woken."""

    def __init__(self, client: Client) -> None:
        self.deadlines = Deadlines()
        self.parked: list[Parked] = []
        self.requests: list[Request] = []
        self.left = 0
        client.door.lane = self  # type: ignore[misc]  # of the test's own door

    def route(self, method: str, target: str) -> Any:
        return self.wait

    async def wait(self, request: Request) -> Answer:
        parked = self.deadlines.park(60)
        self.parked.append(parked)
        self.requests.append(request)
        try:
            await parked.wait()
        finally:
            self.deadlines.leave(parked)
            self.left += 1
        return Answer(200, str(request.gone()).encode(), TEXT)


POLL = b"POST /jobs/lease HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n\r\n"


@pytest.mark.parametrize("times", [1, 3])
async def test_who_is_parked_is_answered_when_he_is_woken(times: int) -> None:
    client = Client()
    poll = Poll(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        for number in range(times):  # the first is begun in the task, the others in place
            await client.theirs.send(POLL)
            await until_waiting()
            assert len(poll.parked) == number + 1
            poll.parked[-1].wake()
            answer = await client.theirs.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"False")
        nursery.cancel_scope.cancel()
    client.theirs.close()
    assert {request.idempotency_key for request in poll.requests} == {"k"}
    assert len(poll.deadlines) == 0


async def test_a_parked_request_is_known_to_be_gone_when_its_client_is() -> None:
    client = Client()
    poll = Poll(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.theirs.send(POLL)
        await until_waiting()
        assert not poll.requests[0].gone()
        client.theirs.shutdown(socket.SHUT_WR)
        assert poll.requests[0].gone()
        nursery.cancel_scope.cancel()
    client.theirs.close()


@pytest.mark.parametrize("times", [1, 2])
async def test_who_hangs_up_while_parked_leaves_nothing_parked(times: int) -> None:
    client = Client()
    poll = Poll(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        for _ in range(times):
            await client.theirs.send(POLL)
            await until_waiting()
            if len(poll.parked) < times:
                poll.parked[-1].wake()
                await client.theirs.recv(1000)
        client.theirs.close()
        await until_waiting()
        for _ in range(2):
            await trio.sleep(0.01)
            client.door.sweep()
        await until_waiting()
        assert poll.left == times
        assert len(poll.deadlines) == 0
        assert not client.door.connections
