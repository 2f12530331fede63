"""TLS: HTTP/1.1 through our door, HTTP/2 by ALPN through Hypercorn's protocol, and bad clients."""

import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from api.front import tls_context
from api.settings import DoorLimits
from tests.support.door import APP, WAYS, RunningFront, running_front
from tests.support.h2_client import Certificates, H2Client, connect_tls
from tests.support.polling import until
from tests.support.raw_client import RawClient
from tests.support.requests import GOOD, HOSTILE, LIMITS, UNADDRESSABLE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"

pytestmark = pytest.mark.unhurried

QUICK = DoorLimits(
    idle_timeout_ms=200,
    head_timeout_ms=200,
    body_timeout_ms=200,
    write_timeout_ms=200,
    handshake_timeout_ms=200,
    half_close_ms=100,
    linger_ms=100,
    body_bytes_max=1 << 20,
)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(str(tmp_path_factory.mktemp("tls")))


def now_open() -> tuple[int, int]:
    """(descriptors, tasks) of this process."""
    return len(os.listdir("/proc/self/fd")), trio.lowlevel.current_statistics().tasks_living


@asynccontextmanager
async def tls_front(
    certificates: Certificates, limits: DoorLimits | None = None
) -> AsyncIterator[RunningFront]:
    """A front over TLS that leaves nothing behind."""
    async with running_front(limits, certificates.server()) as front:
        descriptors, tasks = now_open()
        yield front
        await until(lambda: front.front.connections == 0)
        # Fewer when the test has drained it.
        await until(lambda: now_open()[0] <= descriptors and now_open()[1] <= tasks)
        assert front.front._door.body_bytes == 0
        assert front.app.running == 0


@asynccontextmanager
async def h2_client(front: RunningFront, certificates: Certificates) -> AsyncIterator[H2Client]:
    stream = await connect_tls(front.port, certificates.client("h2", "http/1.1"))
    assert stream.selected_alpn_protocol() == "h2"
    client = H2Client(stream)
    async with stream:
        await client.start()
        yield client


# ---- HTTP/1.1 over TLS.


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)], ids=["no alpn", "alpn"])
async def test_http_1_over_tls_goes_through_our_door(
    certificates: Certificates, protocols: tuple[str, ...]
) -> None:
    async with tls_front(certificates) as front:
        client = RawClient(await connect_tls(front.port, certificates.client(*protocols)))
        async with client.stream:
            for way in WAYS:
                for _ in range(20):
                    await client.send(
                        f"POST {way} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".encode()
                    )
                    assert b'"bytes":5' in (await client.reply()).body
            await client.send(b"GET /lane/big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert len((await client.reply()).body) == 8 << 20
            assert await client.is_closed()


@pytest.mark.parametrize("way", WAYS)
async def test_the_table_over_tls(certificates: Certificates, way: str) -> None:
    async with tls_front(certificates, msgspec.structs.replace(LIMITS, linger_ms=20)) as front:
        context = certificates.client()
        for case in HOSTILE + GOOD:
            client = RawClient(await connect_tls(front.port, context))
            async with client.stream, trio.open_nursery() as nursery:
                nursery.start_soon(client.send, case.data.replace(b"%s", way.encode()))
                for _ in range(case.ran):
                    assert (await client.reply()).status == 200
                if case.status != 200:
                    assert (await client.reply()).status == case.status
                    assert await client.end() == b""
                nursery.cancel_scope.cancel()


async def test_over_tls_an_answer_does_not_wait_for_the_request_behind_it(
    certificates: Certificates,
) -> None:
    async with tls_front(certificates) as front:
        client = RawClient(await connect_tls(front.port, certificates.client()))
        async with client.stream:
            await client.send(
                b"GET /lane HTTP/1.1\r\nHost: a\r\n\r\nGET /lane/wait HTTP/1.1\r\nHost: a\r\n\r\n"
            )
            assert (await client.reply()).status == 200
            front.lane.release.set()
            assert (await client.reply()).status == 200


async def test_slow_clients_over_tls_are_cut(certificates: Certificates) -> None:
    async with tls_front(certificates, QUICK) as front:
        silent = await trio.open_tcp_stream("127.0.0.1", front.port)  # no handshake
        assert await silent.receive_some() == b""
        await silent.aclose()
        for first, status in (
            (b"", None),
            (b"GET /la", 408),
            (b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", 408),
        ):
            client = RawClient(await connect_tls(front.port, certificates.client()))
            async with client.stream:
                await client.send(first)
                if status is not None:
                    assert (await client.reply()).status == status
                assert await client.is_closed()
        reader = RawClient(await connect_tls(front.port, certificates.client()))
        await reader.send(b"GET /app/endless HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: front.app.running == 1)
        await until(lambda: front.front.connections == 0)
        await trio.aclose_forcefully(reader.stream)


async def test_plain_http_on_a_tls_port_is_told_and_not_run(certificates: Certificates) -> None:
    async with tls_front(certificates) as front:
        for body in (b"", b"x" * 500_000):
            client = RawClient(await front.connect())
            async with client.stream:
                head = b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
                await client.send(head + body)
                reply = await client.reply()
                assert (reply.status, reply.headers["connection"]) == (400, "close")
                assert reply.body == b'{"error":"this port speaks HTTPS: use https://"}'
                assert await client.end() == b""
        assert front.lane.calls == []


@pytest.mark.parametrize("data", [b"\x00GET / HTTP/1.1\r\n\r\n", b"\x16nonsense" * 100])
async def test_what_is_neither_tls_nor_http_is_closed(
    certificates: Certificates, data: bytes
) -> None:
    async with tls_front(certificates) as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(data)
            assert b"HTTP" not in await client.end()


async def test_plain_http_that_stays_is_cut(certificates: Certificates) -> None:
    async with tls_front(certificates, QUICK) as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(b"GET /lane HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.reply()).status == 400
            await until(lambda: front.front.connections == 0)


@pytest.mark.parametrize("cut", [0, 1, 5, 50, 200])
async def test_hanging_up_in_the_handshake(certificates: Certificates, cut: int) -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300)
    async with tls_front(certificates) as front:
        for _ in range(10):
            stream = await front.connect()
            await stream.send_all(hello[:cut])
            await stream.aclose()


# ---- HTTP/2.


async def test_http_2_is_answered_by_the_app(certificates: Certificates) -> None:
    async with tls_front(certificates) as front, h2_client(front, certificates) as client:
        first = await client.request(APP, method="POST", body=b"hello")
        second = await client.request(APP, headers=(("authorization", "Bearer k"),))
        third = await client.request("/app/stream")
        assert (await client.reply(third)).body == b"one two three"
        assert b'"bytes":5' in (await client.reply(first)).body
        reply = await client.reply(second)
        assert reply.body == b'{"authorization":"Bearer k","bytes":0}'
        assert "server" not in reply.headers
        assert "date" in reply.headers


async def test_a_large_body_and_a_large_answer(certificates: Certificates) -> None:
    async with tls_front(certificates) as front, h2_client(front, certificates) as client:
        reply = await client.get(APP, method="POST", body=b"x" * 3_000_000)
        assert b'"bytes":3000000' in reply.body


async def test_an_http_2_connection_lasts_for_any_number_of_requests(
    certificates: Certificates,
) -> None:
    async with tls_front(certificates) as front, h2_client(front, certificates) as client:
        for _ in range(1200):
            assert (await client.get(APP)).status == 200


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        (APP, "TRACE", (), 405),
        (APP, "GET", (("authorization", "a"), ("authorization", "b")), 400),
        (APP, "GET", tuple(("x", "y") for _ in range(101)), 431),
        (APP + "?" + "x" * 9000, "GET", (), 414),
        ("*", "GET", (), 400),
        (APP, "POST", (("content-length", "10000000"),), 413),
        ("/app/fail", "GET", (), 500),
        ("/app/silent", "GET", (), 500),
        *((path, "GET", (), 404) for path in UNADDRESSABLE),
    ],
)
async def test_the_doors_rules_hold_for_http_2(
    certificates: Certificates,
    path: str,
    method: str,
    headers: tuple[tuple[str, str], ...],
    status: int,
) -> None:
    limits = DoorLimits(body_bytes_max=1 << 20)
    async with tls_front(certificates, limits) as front, h2_client(front, certificates) as client:
        end = not headers or headers[0][0] != "content-length"
        stream_id = await client.request(path, method=method, headers=headers, end=end)
        reply = await client.reply(stream_id)
        assert reply.status == status
        assert path == "/app/silent" or reply.headers["content-type"] == "application/json"
        assert (await client.get(APP)).status == 200


async def test_a_body_over_the_limit_is_413(certificates: Certificates) -> None:
    limits = DoorLimits(body_bytes_max=100_000)
    async with tls_front(certificates, limits) as front, h2_client(front, certificates) as client:
        reply = await client.get(APP, method="POST", body=b"x" * 200_000)
        assert reply.status == 413
        assert (await client.get(APP)).status == 200


async def test_a_slow_body_is_408(certificates: Certificates) -> None:
    async with tls_front(certificates, QUICK) as front, h2_client(front, certificates) as client:
        stream_id = await client.request(APP, method="POST", body=b"x", end=False)
        assert (await client.reply(stream_id)).status == 408


async def test_idle_silent_and_slow_http_2_clients_are_cut(certificates: Certificates) -> None:
    async with tls_front(certificates, QUICK) as front:
        async with h2_client(front, certificates) as client:
            while await client.receive():
                pass  # closed by the server
        silent = await connect_tls(front.port, certificates.client("h2"))
        assert await silent.receive_some(9) != b""  # its settings
        while await silent.receive_some(100):
            pass
        await silent.aclose()
        async with h2_client(front, certificates) as client:
            await client.request("/app/endless")  # nobody reads
            await until(lambda: front.app.running == 1)
            await until(lambda: front.front.connections == 0)


async def test_an_http_2_head_that_comes_byte_by_byte_is_cut(certificates: Certificates) -> None:
    headers = b"\x82\x84\x87\x41\x01x"  # GET / https, :authority x (HPACK, RFC 7541)
    frame = len(headers).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big") + headers
    async with tls_front(certificates, QUICK) as front:
        stream = await connect_tls(front.port, certificates.client("h2"))
        await stream.send_all(PREFACE + SETTINGS)
        sent = 0
        with contextlib.suppress(trio.BrokenResourceError):
            while sent < len(frame) - 1 and front.front.connections:
                await stream.send_all(frame[sent : sent + 1])
                sent += 1
                # Each byte comes well within the time that a silent client is given.
                await trio.sleep(QUICK.idle_timeout_ms / 1000 / 3)
        assert sent < len(frame) - 1
        await until(lambda: front.front.connections == 0)
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("path", [APP, "/app/wait", "/app/endless", "/app/stream"])
async def test_hanging_up_while_a_stream_is_answered(
    certificates: Certificates, path: str, how: str
) -> None:
    async with tls_front(certificates) as front:
        for _ in range(15):
            stream = await connect_tls(front.port, certificates.client("h2"))
            client = H2Client(stream)
            await client.start()
            for _ in range(3):
                await client.request(path)
            await client.request(path, method="POST", body=b"x", end=False)
            tcp = stream.transport_stream
            if how == "reset":
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(stream)


async def test_hanging_up_at_every_byte_of_the_start(certificates: Certificates) -> None:
    async with tls_front(certificates) as front:
        data = PREFACE + SETTINGS
        for cut in range(len(data) + 1):
            stream = await connect_tls(front.port, certificates.client("h2"))
            await stream.send_all(data[:cut])
            await trio.aclose_forcefully(stream)


OPEN = PREFACE + SETTINGS
HEADERS_WITHOUT_PATH = b"\x00\x00\x02\x01\x05\x00\x00\x00\x01\x82\x87"
BAD = {
    "http/1.1": b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n",
    "wrong preface": b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    "frame too large": OPEN + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "data on stream 0": OPEN + b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x",
    "data on an idle stream": OPEN + b"\x00\x00\x01\x00\x00\x00\x00\x00\x01x",
    "settings of 1 byte": PREFACE + b"\x00\x00\x01\x04\x00\x00\x00\x00\x00x",
    "garbage header block": OPEN + b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff",
    "headers without a path": OPEN + HEADERS_WITHOUT_PATH,
    "even stream id": OPEN + b"\x00\x00\x02\x01\x05\x00\x00\x00\x02\x82\x87",
    "window overflow": OPEN + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff",
    "zero window": OPEN + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    "push promise": OPEN + b"\x00\x00\x04\x05\x04\x00\x00\x00\x01\x00\x00\x00\x02",
    "continuation alone": OPEN + b"\x00\x00\x00\x09\x04\x00\x00\x00\x01",
    "goaway": OPEN + b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(8),
    "priority on itself": OPEN + b"\x00\x00\x05\x02\x00\x00\x00\x00\x01" + b"\x00\x00\x00\x01\x10",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_frames_end_their_connection_and_nothing_else(
    certificates: Certificates, name: str
) -> None:
    async with tls_front(certificates, QUICK) as front:
        stream = await connect_tls(front.port, certificates.client("h2"))
        await stream.send_all(BAD[name])
        try:
            while await stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)
        async with h2_client(front, certificates) as client:
            assert (await client.get(APP)).status == 200


async def test_connect_and_websockets_are_refused(certificates: Certificates) -> None:
    async with tls_front(certificates, QUICK) as front:
        async with h2_client(front, certificates) as client:
            stream_id = client.connection.get_next_available_stream_id()
            client.connection.send_headers(
                stream_id,
                [
                    (":method", "CONNECT"),
                    (":protocol", "websocket"),
                    (":scheme", "https"),
                    (":path", APP),
                    (":authority", "a"),
                    ("sec-websocket-version", "13"),
                ],
            )
            await client.flush()
            assert (await client.reply(stream_id)).status >= 400
        async with h2_client(front, certificates) as client:
            stream_id = client.connection.get_next_available_stream_id()
            client.connection.send_headers(
                stream_id, [(":method", "CONNECT"), (":authority", "a:80")]
            )
            await client.flush()
            while await client.receive():
                pass
            assert client.replies[stream_id].status != 200
        assert front.lane.calls == []


async def test_an_answer_without_end_stops_when_its_stream_is_reset(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with tls_front(certificates) as front, h2_client(front, certificates) as client:
        stream_id = await client.request("/app/endless")
        while not client.replies[stream_id].body:
            await client.receive()
        assert front.app.running == 1
        client.connection.reset_stream(stream_id)
        await client.flush()
        await until(lambda: front.app.running == 0)
        # The connection and its other streams go on.
        assert (await client.get(APP)).status == 200
    assert "the app failed" not in caplog.text


async def reset_for_ever(client: H2Client) -> None:
    while True:
        stream_id = await client.request("/app/wait")
        client.connection.reset_stream(stream_id)
        await client.flush()


async def test_rapid_resets_end_the_connection(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with tls_front(certificates) as front:
        async with h2_client(front, certificates) as client:
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                await reset_for_ever(client)
        assert "resets its streams too often" in caplog.text
        await until(lambda: front.app.running == 0)


async def test_http_2_streams_are_bounded(certificates: Certificates) -> None:
    async with tls_front(certificates) as front, h2_client(front, certificates) as client:
        while client.connection.remote_settings.max_concurrent_streams > 1000:
            await client.receive()
        assert client.connection.remote_settings.max_concurrent_streams == 100
        assert client.connection.remote_settings.max_header_list_size == 16 << 10


async def test_drain_answers_the_streams_in_flight(certificates: Certificates) -> None:
    async with (
        tls_front(certificates) as front,
        h2_client(front, certificates) as busy,
        h2_client(front, certificates) as idle,
    ):
        assert (await idle.get(APP)).status == 200
        stream_id = await busy.request("/app/wait")
        await front.lane.waiting.wait()
        front.front.drain()
        while await idle.receive():
            pass  # closed by the server
        front.lane.release.set()
        assert (await busy.reply(stream_id)).body == b"waited"
        while await busy.receive():
            pass


# ---- HTTP/2 in clear does not exist.


async def test_http_2_in_clear_is_refused() -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(PREFACE + SETTINGS)
            assert (await client.reply()).status == 505
            assert await client.end() == b""
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(
                b"POST /lane HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
                b"Content-Length: 5\r\n\r\nhello"
            )
            reply = await client.reply()
            assert (reply.status, b'"bytes":5' in reply.body) == (200, True)
            await client.send(PREFACE + SETTINGS)
            assert (await client.reply()).status == 505
        assert len(front.lane.calls) == 1


def test_a_bad_certificate_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    for path in ("bad.pem", "missing.pem"):
        with pytest.raises(OSError, match=r"."):
            tls_context(str(tmp_path / path), str(tmp_path / path))
