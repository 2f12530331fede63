"""Each request of the table through both ways in, over real sockets."""

import pytest
import trio

from tests.support.door import APP, LANE, WAYS, RunningFront, running_front
from tests.support.raw_client import RawClient
from tests.support.requests import GOOD, HOSTILE, LIMITS, UNADDRESSABLE, Case, pieces_of


async def send_slowly(client: RawClient, data: bytes) -> None:
    """Byte by byte; the server may close before the end."""
    try:
        for piece in pieces_of(data, 1):
            await client.send(piece)
            await trio.lowlevel.checkpoint()
    except trio.BrokenResourceError:
        return


async def check(front: RunningFront, case: Case, way: str, *, slowly: bool) -> None:
    """One request of the table: its answers, in order, and what was run."""
    before = len(front.lane.calls)
    data = case.data.replace(b"%s", way.encode())
    client = RawClient(await front.connect())
    async with client.stream, trio.open_nursery() as nursery:
        if slowly:
            nursery.start_soon(send_slowly, client, data)
        else:
            nursery.start_soon(client.send, data)
        for _ in range(case.ran):
            reply = await client.reply()
            assert reply.status == 200
            assert b'"authorization":null' in reply.body
        if case.status != 200:
            reply = await client.reply()
            assert reply.status == case.status
            assert reply.headers["connection"] == "close"
            assert reply.headers["content-type"] == "application/json"
            assert reply.body.startswith(b'{"error":"')
            assert await client.end() == b""
        nursery.cancel_scope.cancel()
    assert len(front.lane.calls) - before == case.ran
    assert all(target.startswith(way) for _, target, _, _ in front.lane.calls[before:])


@pytest.mark.parametrize("way", WAYS)
async def test_every_hostile_request_is_refused_and_ends_the_connection(way: str) -> None:
    async with running_front(LIMITS) as front:
        for case in HOSTILE:
            await check(front, case, way, slowly=False)


@pytest.mark.parametrize("way", WAYS)
async def test_every_good_request_is_answered(way: str) -> None:
    async with running_front(LIMITS) as front:
        for case in GOOD:
            await check(front, case, way, slowly=False)


@pytest.mark.parametrize("way", WAYS)
async def test_they_are_answered_the_same_byte_by_byte(way: str) -> None:
    async with running_front(LIMITS) as front:
        for case in HOSTILE + GOOD:
            if len(case.data) < 1_000:
                await check(front, case, way, slowly=True)


async def test_a_path_with_two_spellings_is_404_before_any_look_up() -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            for target in UNADDRESSABLE:
                await client.send(f"POST {target} HTTP/1.1\r\nHost: a\r\n".encode())
                await client.send(b"Content-Length: 5\r\n\r\nhello")
                reply = await client.reply()
                assert (reply.status, reply.body) == (404, b'{"error":"not found"}'), target
        assert front.lane.calls == []


async def test_both_ways_see_the_same_request() -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            for way in WAYS:
                await client.send(
                    f"POST {way}?x=%20 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k\r\n"
                    f"Content-Length: 5\r\n\r\nhello".encode()
                )
                reply = await client.reply()
                assert reply.body == b'{"authorization":"Bearer k","bytes":5}'
        assert [(m, a, b) for m, _, a, b in front.lane.calls] == [
            ("POST", "Bearer k", b"hello")
        ] * 2


async def test_trace_is_405_and_options_of_everything_is_answered() -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(b"TRACE /lane HTTP/1.1\r\nHost: a\r\nX-Secret: y\r\n\r\n")
            reply = await client.reply()
            assert (reply.status, b"X-Secret" in reply.body) == (405, False)
            await client.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
            reply = await client.reply()
            assert reply.status == 204
            assert "GET" in reply.headers["allow"]
        assert front.lane.calls == []


@pytest.mark.parametrize("way", WAYS)
async def test_answers_have_length_and_date_and_name_no_server(way: str) -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(f"GET {way} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            reply = await client.reply()
            assert reply.headers["content-length"] == str(len(reply.body))
            assert reply.headers["date"].endswith(" GMT")
            assert reply.headers["content-type"] == "application/json"
            assert "server" not in reply.headers
            assert "connection" not in reply.headers


@pytest.mark.parametrize("way", WAYS)
async def test_head_has_the_headers_of_get_and_no_body(way: str) -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            for _ in range(2):
                await client.send(f"HEAD {way} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                reply = await client.reply("HEAD")
                assert reply.status == 200
                assert int(reply.headers["content-length"]) > 0


@pytest.mark.parametrize("way", WAYS)
async def test_connection_close_is_answered_and_nothing_behind_it_runs(way: str) -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(
                f"POST {way} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
                f"helloGET {way}?second HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            )
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await client.end() == b""
        assert len(front.lane.calls) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_http_1_0_keeps_the_connection_only_when_asked(way: str) -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(f"GET {way} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode())
            assert (await client.reply()).headers["connection"] == "keep-alive"
            await client.send(f"GET {way} HTTP/1.0\r\n\r\n".encode())
            assert (await client.reply()).headers["connection"] == "close"
            assert await client.is_closed()


@pytest.mark.parametrize("way", WAYS)
async def test_a_connection_lasts_for_any_number_of_requests(way: str) -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            for _ in range(1500):
                await client.send(f"GET {way} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert (await client.reply()).status == 200


@pytest.mark.parametrize("way", WAYS)
async def test_continue_is_said_when_the_body_is_wanted(way: str) -> None:
    async with running_front(LIMITS) as front:
        client = RawClient(await front.connect())
        async with client.stream:
            for _ in range(2):
                await client.send(
                    f"POST {way} HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n"
                    f"Content-Length: 5\r\n\r\n".encode()
                )
                assert (await client.reply()).status == 100
                await client.send(b"hello")
                reply = await client.reply()
                assert (reply.status, b'"bytes":5' in reply.body) == (200, True)


async def test_continue_is_not_said_when_the_body_came_along() -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(
                b"POST /lane HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                b"Content-Length: 5\r\n\r\nhello"
            )
            assert (await client.reply()).status == 200


async def test_who_answers_without_wanting_the_body_closes_an_expecting_client() -> None:
    async with running_front() as front:
        for target in ("/jobs/%00", "/app/early"):
            client = RawClient(await front.connect())
            async with client.stream:
                await client.send(
                    f"POST {target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                    f"Content-Length: 5\r\n\r\n".encode()
                )
                reply = await client.reply()
                assert (reply.status in (401, 404), reply.headers["connection"]) == (True, "close")
                assert await client.is_closed()


@pytest.mark.parametrize("target", ["/jobs/%00", "/app/early"])
async def test_a_body_that_nobody_wants_is_passed_over(target: str) -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            for size in (5, 1_000_000):
                await client.send(
                    f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
                )
                assert (await client.reply()).status in (401, 404)
                await client.send(b"x" * size)
            await client.send(b"GET /lane HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.reply()).status == 200


@pytest.mark.parametrize("way", WAYS)
async def test_pipelined_requests_are_answered_in_order(way: str) -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        other = APP if way == LANE else LANE
        data = b""
        for i in range(300):
            head = f"POST {way if i % 3 else other} HTTP/1.1\r\nHost: a\r\nContent-Length: {i}"
            data += head.encode() + b"\r\n\r\n" + b"x" * i
        async with client.stream, trio.open_nursery() as nursery:
            nursery.start_soon(client.send, data)
            for i in range(300):
                assert b'"bytes":%d}' % i in (await client.reply()).body
        assert len(front.lane.calls) == 300


async def test_an_answer_does_not_wait_for_the_request_behind_it() -> None:
    async with running_front() as front:
        client = RawClient(await front.connect())
        async with client.stream:
            await client.send(
                b"GET /lane HTTP/1.1\r\nHost: a\r\n\r\nGET /lane/wait HTTP/1.1\r\nHost: a\r\n\r\n"
            )
            assert (await client.reply()).status == 200
            front.lane.release.set()
            assert (await client.reply()).status == 200


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_closed_its_side_is_still_answered(way: str) -> None:
    async with running_front() as front:
        stream = await front.connect()
        client = RawClient(stream)
        async with stream:
            await client.send(
                f"POST {way} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
                f"GET {way} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            )
            await stream.send_eof()
            assert b'"bytes":5' in (await client.reply()).body
            assert b'"bytes":0' in (await client.reply()).body
            assert await client.is_closed()
