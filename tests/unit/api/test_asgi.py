"""The ASGI adapter: apps right and wrong, and what their clients get to see."""

import logging
from typing import Any

import pytest
import trio

from api.asgi import AppBroke, ClientLeft, Exchange, Lifespan, Receive, Send, http_scope
from api.grammar import Malformed
from api.head import Head
from api.http1 import RequestParser
from api.settings import DoorLimits
from tests.support.door import running_front, say
from tests.support.raw_client import Closed, RawClient


def get(target: str, version: str = "1.1") -> bytes:
    return f"GET {target} HTTP/{version}\r\nHost: a\r\n\r\n".encode()


def head_of(data: bytes) -> Head:
    parser = RequestParser(DoorLimits())
    parser.feed(data)
    head = parser.next_head()
    assert head is not None
    return head


class FakeConnection:
    """A client that sent ``pieces`` and takes everything, until it is ``gone``."""

    scheme = "http"

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = list(pieces)
        self.sent = b""
        self.gone = False
        self.last = False

    @property
    def body_complete(self) -> bool:
        return not self.pieces

    async def read_body(self) -> bytes:
        await trio.lowlevel.checkpoint()
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise OSError("gone")
        self.sent += data

    def answer_start(self) -> tuple[bytes, bool]:
        return b"Date: now\r\n", self.last


def exchange(connection: FakeConnection, data: bytes = get("/")) -> Exchange:
    return Exchange(connection, head_of(data), ("127.0.0.1", 1), ("127.0.0.1", 2))


def test_the_scope_is_what_asgi_says() -> None:
    head = head_of(b"POST /a%20b/%C3%A4?q=%20 HTTP/1.1\r\nHost: h\r\nX-Y: Z\r\n\r\n")
    scope = http_scope(head, "https", ("1.2.3.4", 5), ("5.6.7.8", 9))
    assert scope["type"] == "http"
    assert scope["path"] == "/a b/ä"
    assert scope["raw_path"] == b"/a%20b/%C3%A4"
    assert scope["query_string"] == b"q=%20"
    assert scope["headers"] == [(b"host", b"h"), (b"x-y", b"Z")]
    assert (scope["http_version"], scope["method"], scope["scheme"]) == ("1.1", "POST", "https")
    assert (scope["client"], scope["server"]) == (("1.2.3.4", 5), ("5.6.7.8", 9))


async def test_a_body_comes_in_pieces_and_then_the_client_is_waited_for() -> None:
    connection = FakeConnection(b"one", b"two", b"")
    messages: list[Any] = []
    run = exchange(connection)

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        messages.extend([await receive() for _ in range(3)])
        run.disconnect()
        messages.append(await receive())

    assert await run.run(app) is None
    assert [(m.get("body"), m.get("more_body")) for m in messages] == [
        (b"one", True),
        (b"two", True),
        (b"", False),
        (None, None),
    ]
    assert messages[-1]["type"] == "http.disconnect"
    assert run.broken


async def test_after_the_answer_receive_says_disconnect() -> None:
    run = exchange(FakeConnection(b""))
    last: list[Any] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await say(send, 200, b"x")
        last.append(await receive())

    assert await run.run(app) is None
    assert last == [{"type": "http.disconnect"}]
    assert not run.broken


async def test_a_client_that_leaves_in_its_body_is_a_disconnect() -> None:
    run = exchange(FakeConnection(b"one", OSError("gone")))
    kinds: list[str] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        kinds.extend([(await receive())["type"] for _ in range(3)])
        with pytest.raises(ClientLeft):
            await say(send, 200, b"x")

    assert await run.run(app) is None
    assert kinds == ["http.request", "http.disconnect", "http.disconnect"]
    assert run.broken


async def test_a_malformed_body_stops_the_app_and_the_door_answers() -> None:
    run = exchange(FakeConnection(b"one", Malformed(400, "malformed chunk size")))
    went_on = False

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        nonlocal went_on
        await receive()
        try:
            await receive()
        except Exception:
            went_on = True

    problem = await run.run(app)
    assert problem is not None
    assert problem.status == 400
    assert not went_on


async def test_send_after_the_client_left_raises(caplog: pytest.LogCaptureFixture) -> None:
    connection = FakeConnection()
    run = exchange(connection)

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        connection.gone = True
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    assert await run.run(app) is None
    assert run.broken
    assert caplog.text == ""  # nobody's fault


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([{"type": "http.response.body", "body": b"x"}], "before its start"),
        ([{"type": "http.response.start", "status": 200}] * 2, "a second"),
        ([{"type": "http.response.start", "status": 101}], "status 101"),
        ([{"type": "http.response.start", "status": 999}], "status 999"),
        ([{"type": "http.response.trailers"}], "unexpected message"),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"a b", b"")]}], "a b"),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"a", b"\0")]}], "header"),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"a", b"x\n")]}], "header"),
        (
            [
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-length", b"-")],
                }
            ],
            "Content-Length",
        ),
        (
            [
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-length", b"1"), (b"Content-Length", b"1")],
                }
            ],
            "Content-Length",
        ),
    ],
)
async def test_an_app_that_breaks_the_protocol_is_500(
    messages: list[dict[str, Any]], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = FakeConnection()
    run = exchange(connection)

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    problem = await run.run(app)
    assert problem is not None
    assert problem.status == 500
    assert connection.sent == b""
    assert why in caplog.text


async def test_more_than_the_content_length_never_leaves() -> None:
    connection = FakeConnection()
    run = exchange(connection)

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"four", "more_body": True})
        # To the client this would be the beginning of the next answer.
        await send({"type": "http.response.body", "body": b"HTTP/1.1 200 OK", "more_body": True})

    assert await run.run(app) is None
    assert run.broken
    assert connection.sent.endswith(b"\r\n\r\nfour")


async def test_two_sends_at_once_are_refused() -> None:
    run = exchange(FakeConnection())
    failed = False

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        nonlocal failed
        await send({"type": "http.response.start", "status": 200})

        async def one() -> None:
            nonlocal failed
            try:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            except AppBroke:
                failed = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(one)

    await run.run(app)
    assert failed


async def test_a_draining_front_or_an_unread_expectation_ends_the_connection() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await say(send, 200, b"x")

    connection = FakeConnection()
    connection.last = True
    run = exchange(connection)
    await run.run(app)
    assert run.closes
    assert b"Connection: close\r\n" in connection.sent

    expecting = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    run = exchange(FakeConnection(b"x"), expecting)
    await run.run(app)
    assert run.closes


# ---- The same over a socket: what a client gets to see.


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/app/stream", 200, b"one two three"),
        ("/app/empty", 204, b""),
        ("/app/silent", 500, b'{"error":"internal error: see the node\'s log"}'),
        ("/app/fail", 500, b'{"error":"internal error: see the node\'s log"}'),
        ("/app/crlf", 500, b'{"error":"internal error: see the node\'s log"}'),
        ("/app/headers", 200, b"ok"),
        ("/app/nowhere", 404, b'{"error":"not found"}'),
    ],
)
async def test_the_app_answers(target: str, status: int, body: bytes) -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(get(target))
            reply = await client.reply()
            assert (reply.status, reply.body) == (status, body)
            assert "server" not in reply.headers
            if status < 300:
                # The connection is as good as before, whatever the app said about it.
                await client.send(get("/app"))
                assert (await client.reply()).status == 200


@pytest.mark.parametrize("target", ["/app/late-fail", "/app/short", "/app/long"])
async def test_a_broken_answer_ends_the_connection(
    target: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(get(target) + get("/app"))
            if target == "/app/late-fail":
                with pytest.raises(Closed, match="half"):
                    await client.reply()
            else:
                assert (await client.reply()).status == 500
                assert await client.end() == b""
        assert "the app failed" in caplog.text
        assert len(front.lane.calls) == 1  # the request behind never ran


async def test_http_1_0_gets_a_stream_up_to_the_end_of_the_connection() -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(b"GET /app/stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            reply = await client.reply()
            assert reply.body == b"one two three"
            assert reply.headers["connection"] == "close"


async def test_head_of_a_stream_has_no_body() -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(b"HEAD /app/stream HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.reply("HEAD")).status == 200
            await client.send(get("/app"))
            assert (await client.reply()).status == 200


# ---- Lifespan.


async def test_an_app_without_a_lifespan_is_served() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        raise ValueError(f"what is a {scope['type']}?")

    lifespan = Lifespan(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(lifespan.run)
        lifespan.stop()
        await lifespan.ended.wait()


async def test_an_app_that_can_not_start_stops_the_front() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        await trio.sleep_forever()

    with pytest.RaisesGroup(pytest.RaisesExc(AppBroke, match="no database")):
        async with trio.open_nursery() as nursery:
            await nursery.start(Lifespan(app).run)
