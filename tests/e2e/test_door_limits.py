"""Clients that are slow, greedy or many: what each costs us is bounded, and others are served."""

import errno
import logging
import socket
import struct

import pytest
import trio

from api.settings import DoorLimits
from tests.support.door import WAYS, RunningFront, running_front
from tests.support.polling import until
from tests.support.raw_client import RawClient

pytestmark = pytest.mark.unhurried

QUICK = DoorLimits(
    idle_timeout_ms=200,
    head_timeout_ms=200,
    body_timeout_ms=200,
    write_timeout_ms=200,
    half_close_ms=200,
    linger_ms=200,
    drain_timeout_ms=300,
    body_bytes_max=1 << 20,
)


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


async def trickle(client: RawClient, data: bytes) -> None:
    """One byte after the other, slowly, until the server has enough of it."""
    for i in range(len(data)):
        try:
            await client.send(data[i : i + 1])
        except trio.BrokenResourceError:
            return
        await trio.sleep(0.02)


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with running_front(QUICK) as front:
        for first in (b"", get("/lane"), b"\r\n"):
            client = RawClient(await front.connect())
            async with client.stream:
                await client.send(first)
                if first.startswith(b"GET"):
                    await client.reply()
                started = trio.current_time()
                assert await client.is_closed()
                assert trio.current_time() - started >= 0.19


@pytest.mark.parametrize("behind", [b"", get("/lane"), get("/app")])
async def test_a_slow_head_is_cut_also_behind_an_answer(behind: bytes) -> None:
    async with running_front(QUICK) as front:
        client = RawClient(await front.connect())
        async with client.stream, trio.open_nursery() as nursery:
            if behind:
                await client.send(behind + b"GET /la")
                assert (await client.reply()).status == 200
            nursery.start_soon(trickle, client, b"GET /lane?" + b"x" * 1000)
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (408, "close")
            assert await client.end() == b""
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"], ids=["length", "chunks"]
)
async def test_a_slow_body_is_cut(way: str, framing: str) -> None:
    async with running_front(QUICK) as front:
        client = RawClient(await front.connect())
        async with client.stream, trio.open_nursery() as nursery:
            await client.send(f"POST {way} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode())
            nursery.start_soon(trickle, client, b"1;" + b"x" * 200)
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (408, "close")
            assert await client.end() == b""
            nursery.cancel_scope.cancel()
        assert front.lane.calls == []
        await until(lambda: front.app.running == 0)


async def test_a_body_that_nobody_wants_has_to_arrive_in_time_as_well() -> None:
    async with running_front(QUICK) as front:
        for target in ("/jobs/%00", "/app/early"):
            client = RawClient(await front.connect())
            async with client.stream:
                await client.send(
                    f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n".encode()
                )
                assert (await client.reply()).status in (401, 404)
                assert b"200 OK" not in await client.end()


@pytest.mark.parametrize("target", ["/lane/big", "/app/endless"])
async def test_a_slow_reader_is_cut_and_holds_little(target: str) -> None:
    async with running_front(QUICK) as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(get(target))
            await until(lambda: front.front.connections == 1)
            await until(lambda: front.front.connections == 0)
            # What the kernel holds, and not what an app would like to send.
            assert front.app.sent < 32 << 20
        await until(lambda: front.app.running == 0)


async def test_a_reader_that_is_slow_but_moves_gets_everything() -> None:
    async with running_front(QUICK) as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(get("/lane/big"))
            received = 0
            while received < 8 << 20:
                data = await client.stream.receive_some(256 << 10)
                assert data
                received += len(data)
                await trio.sleep(0.01)


async def test_a_client_that_only_sends_is_not_read_without_end() -> None:
    """Pipelined requests whose answers nobody reads: first we stop to run, then we cut."""
    async with running_front(QUICK) as front:
        client = RawClient(await front.connect())
        async with client.stream:
            with pytest.raises(trio.BrokenResourceError):
                await client.send(get("/lane/big") * 1_000_000)
            assert len(front.lane.calls) < 20


@pytest.mark.parametrize("way", WAYS)
async def test_bodies_in_memory_have_one_budget(way: str) -> None:
    limits = DoorLimits(bodies_bytes_max=600_000)
    head = f"POST {way} HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n".encode()
    async with running_front(limits) as front:
        holder, other = RawClient(await front.connect()), RawClient(await front.connect())
        async with holder.stream, other.stream:
            await holder.send(head + b"x" * 400_000)
            door = front.front._door
            await until(lambda: door.body_bytes == 400_000)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.send, head + b"x" * 400_000)
                reply = await other.reply()
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert reply.headers["connection"] == "close"
            await holder.send(b"x" * 100_000)
            assert (await holder.reply()).status == 200
            assert door.body_bytes == 0


async def test_a_declared_length_takes_nothing_from_the_budget() -> None:
    async with running_front(DoorLimits(bodies_bytes_max=600_000)) as front:
        streams = [await front.connect() for _ in range(20)]
        for stream in streams:
            await stream.send_all(
                b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n"
            )
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n")
            await client.send(b"x" * 500_000)
            assert (await client.reply()).status == 200
        for stream in streams:
            await stream.aclose()


async def test_a_large_upload_is_refused_at_once_and_the_answer_arrives() -> None:
    async with running_front(DoorLimits(body_bytes_max=1000)) as front:
        for framing, body in (
            ("Content-Length: 10000000", b"x" * 10_000_000),
            ("Transfer-Encoding: chunked", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        ):
            client = RawClient(await front.connect())

            async def upload(client: RawClient = client, body: bytes = body) -> None:
                try:
                    await client.send(body)
                except trio.BrokenResourceError:
                    return

            async with client.stream, trio.open_nursery() as nursery:
                await client.send(f"POST /lane HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode())
                nursery.start_soon(upload)
                assert (await client.reply()).status == 413
                nursery.cancel_scope.cancel()


async def test_connections_are_capped_and_a_place_is_given_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_front(DoorLimits(connections_max=3)) as front:
        clients = [RawClient(await front.connect()) for _ in range(3)]
        for client in clients:
            await client.send(get("/lane"))
            assert (await client.reply()).status == 200
        for _ in range(5):
            refused = RawClient(await front.connect())
            assert await refused.end() == b""
            await refused.stream.aclose()
        assert caplog.text.count("connection refused") == 1
        await clients.pop().stream.aclose()
        await until(lambda: front.front.connections == 2)
        clients.append(RawClient(await front.connect()))
        await clients[-1].send(get("/lane"))
        assert (await clients[-1].reply()).status == 200
        for client in clients:
            await client.stream.aclose()


async def test_one_address_does_not_take_all_places() -> None:
    async with running_front(DoorLimits(connections_per_address_max=2)) as front:
        clients = [RawClient(await front.connect()) for _ in range(2)]
        for client in clients:
            await client.send(get("/lane"))
            await client.reply()
        refused = RawClient(await front.connect())
        assert await refused.end() == b""
        elsewhere = trio.socket.socket()
        await elsewhere.bind(("127.0.0.2", 0))
        await elsewhere.connect(("127.0.0.1", front.port))
        other = RawClient(trio.SocketStream(elsewhere))
        await other.send(get("/lane"))
        assert (await other.reply()).status == 200
        for client in (*clients, refused, other):
            await client.stream.aclose()


class ExhaustedListener:
    """A listening socket whose process ran out of descriptors for a while."""

    def __init__(self, listener: socket.socket, failures: int) -> None:
        self._listener = listener
        self.failures = failures

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listener.accept()

    def fileno(self) -> int:
        return self._listener.fileno()

    def close(self) -> None:
        self._listener.close()


async def test_without_descriptors_accepting_pauses_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_front() as front:
        exhausted = ExhaustedListener(front.front._listener, failures=4)
        front.front._listener = exhausted  # type: ignore[assignment]
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(get("/lane"))
            assert (await client.reply()).status == 200
    assert exhausted.failures == 0
    assert caplog.text.count("no descriptor") == 1


@pytest.mark.parametrize("target", ["/lane/wait", "/app/wait"])
async def test_a_client_that_is_gone_ends_its_long_request(target: str) -> None:
    async with running_front(QUICK) as front:
        client = RawClient(await front.connect())
        await client.send(get(target))
        await front.lane.waiting.wait()
        await client.stream.aclose()
        await until(lambda: front.front.connections == 0)
        assert front.app.running == 0
        assert front.app.disconnects == (1 if target.startswith("/app") else 0)


@pytest.mark.parametrize("target", ["/lane/wait", "/app/wait"])
async def test_a_reset_ends_a_long_request_without_grace(target: str) -> None:
    limits = DoorLimits(half_close_ms=1_000_000, head_timeout_ms=100)  # sweeps are frequent
    async with running_front(limits) as front:
        client = RawClient(await front.connect())
        await client.send(get(target))
        await front.lane.waiting.wait()
        sock = client.stream.socket  # type: ignore[attr-defined]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.stream.aclose()
        await until(lambda: front.front.connections == 0)
        assert front.app.running == 0


@pytest.mark.parametrize("target", ["/lane/wait", "/app/wait"])
async def test_half_closed_a_longer_request_has_its_grace(target: str) -> None:
    async with running_front(DoorLimits(half_close_ms=60_000, head_timeout_ms=100)) as front:
        stream = await front.connect()
        client = RawClient(stream)
        async with stream:
            await client.send(get(target))
            await front.lane.waiting.wait()
            await stream.send_eof()
            connection = next(iter(front.front._door.connections))
            await until(lambda: connection._half_closed is not None)  # type: ignore[attr-defined]
            front.lane.release.set()
            assert (await client.reply()).status == 200
            assert await client.is_closed()


# ---- Drain.


async def drained(front: RunningFront) -> None:
    await until(lambda: front.front._door.draining)


@pytest.mark.parametrize("target", ["/lane/wait", "/app/wait"])
async def test_drain_answers_what_is_in_flight_and_closes_the_rest(target: str) -> None:
    async with running_front() as front:
        busy, idle, half = [RawClient(await front.connect()) for _ in range(3)]
        await idle.send(get("/lane"))
        await idle.reply()
        await half.send(b"GET /lane HTTP/1.1\r\nHo")
        await busy.send(get(target) + get("/lane?never"))
        await front.lane.waiting.wait()
        front.front.drain()
        await drained(front)
        assert await idle.is_closed()
        with pytest.raises(OSError, match=r"."):
            await front.connect()
        front.lane.release.set()
        reply = await busy.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await busy.end() == b""
        await half.send(b"st: a\r\n\r\n")
        reply = await half.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        for client in (busy, idle, half):
            await client.stream.aclose()
    assert all("never" not in call[1] for call in front.lane.calls)
    assert front.app.lifespan == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize("target", ["/lane/wait", "/app/wait", "/app/endless", "/lane/big"])
async def test_drain_cuts_what_takes_too_long(target: str) -> None:
    async with running_front(DoorLimits(drain_timeout_ms=200)) as front:
        client = RawClient(await front.connect())
        await client.send(get(target))
        await until(lambda: bool(front.lane.calls))
        front.front.drain()
        await until(lambda: front.front.connections == 0)
        await client.stream.aclose()
    assert front.app.lifespan == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize("target", ["/lane/fail", "/app/fail"])
async def test_a_bug_in_a_handler_is_500_and_logged(
    target: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(get(target))
            reply = await client.reply()
            assert reply.status == 500
            assert b"bug" not in reply.body
    assert "ValueError: a bug in" in caplog.text


async def test_a_header_that_would_be_two_is_never_sent(caplog: pytest.LogCaptureFixture) -> None:
    async with running_front() as front:
        for way in WAYS:
            client = RawClient(await front.connect())
            async with client.stream:
                await client.send(get(way + "/crlf"))
                reply = await client.reply()
                assert reply.status == 500
                assert "b" not in reply.headers
    assert "X-Injected" in caplog.text
