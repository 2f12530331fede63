"""A pipe: whole frames in order, a sender that never waits, an end that everybody hears."""

import socket

import pytest
import trio
import trio.testing

from partitions.errors import PipeError
from partitions.framing import frame
from partitions.limits import FRAME_BYTES_MAX
from partitions.pipe import BACKLOG_BYTES_HIGH, Pipe

BIG = bytes(4 << 20)
"""More than a socket takes at once."""


@pytest.fixture
def ends():
    """A pipe, and the raw socket at its other end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        yield Pipe(ours), theirs


@pytest.fixture
def pipes():
    one, other = socket.socketpair()
    with one, other:
        yield Pipe(one), Pipe(other)


async def within_a_second(call):
    """The result of something that must not hang."""
    with trio.fail_after(1):
        return await call()


async def read_all(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        await trio.lowlevel.wait_readable(sock)
        part = sock.recv(size - len(data))
        assert part
        data += part
    return data


async def test_frames_arrive_whole_and_in_order(pipes):
    one, other = pipes
    for body in (b"a", b"", b"ccc"):
        one.send(body)
    received: list[bytes] = []
    while len(received) < 3:
        received += await within_a_second(other.receive)
    assert received == [b"a", b"", b"ccc"]


async def test_a_frame_that_arrives_in_pieces_is_waited_for(ends):
    pipe, theirs = ends
    data = frame(b"body")
    async with trio.open_nursery() as nursery:

        async def trickle():
            for byte in data:
                theirs.send(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()

        nursery.start_soon(trickle)
        assert await within_a_second(pipe.receive) == [b"body"]


async def test_a_small_send_is_on_its_way_before_anybody_waits(ends):
    pipe, theirs = ends
    pipe.send(b"now")
    assert theirs.recv(100) == frame(b"now")
    assert pipe.backlog_bytes == 0


async def test_a_send_that_the_socket_does_not_take_is_kept_and_not_waited_for(ends):
    pipe, _ = ends
    for _ in range(3):
        pipe.send(BIG)
    assert pipe.backlog_bytes > BACKLOG_BYTES_HIGH // 2


async def test_a_slow_reader_gets_everything_in_order_and_the_backlog_ends(pipes, nursery):
    one, other = pipes
    nursery.start_soon(one.run)
    bodies = [bytes([number]) * (number * 50_000) for number in range(20)]
    for body in bodies:
        one.send(body)
    assert one.backlog_bytes > 0
    received: list[bytes] = []
    while len(received) < len(bodies):
        received += await within_a_second(other.receive)
    assert received == bodies
    await within_a_second(one.drained)
    assert one.backlog_bytes == 0
    one.close()


async def test_the_backlog_can_grow_and_end_again_and_again(ends, nursery):
    pipe, theirs = ends
    nursery.start_soon(pipe.run)
    for _ in range(3):
        pipe.send(BIG)
        pipe.send(b"behind it")
        expected = frame(BIG) + frame(b"behind it")
        assert pipe.backlog_bytes > 0
        with trio.fail_after(5):
            assert await read_all(theirs, len(expected)) == expected
        await within_a_second(pipe.drained)
    pipe.close()


async def test_a_send_goes_behind_the_backlog_though_the_socket_has_room_again(ends, nursery):
    pipe, theirs = ends
    pipe.send(BIG)
    expected = frame(BIG) + frame(b"after")
    received = theirs.recv(1 << 20)
    pipe.send(b"after")
    nursery.start_soon(pipe.run)
    with trio.fail_after(5):
        received += await read_all(theirs, len(expected) - len(received))
    assert received == expected
    pipe.close()


async def test_drained_waits_for_the_reader(ends, nursery, autojump_clock):
    pipe, _ = ends
    nursery.start_soon(pipe.run)
    pipe.send(BIG)
    with trio.move_on_after(10) as scope:
        await pipe.drained()
    assert scope.cancelled_caught
    pipe.close()


async def test_drained_returns_at_once_when_nothing_waits(ends):
    pipe, _ = ends
    pipe.send(b"x")
    await within_a_second(pipe.drained)


async def test_the_end_of_the_stream_is_no_frames(ends):
    pipe, theirs = ends
    theirs.send(frame(b"last"))
    theirs.close()
    assert await within_a_second(pipe.receive) == [b"last"]
    assert await within_a_second(pipe.receive) == []


async def test_a_frame_cut_by_the_end_of_the_stream_is_dropped(ends):
    pipe, theirs = ends
    theirs.send(frame(b"last")[:-1])
    theirs.close()
    assert await within_a_second(pipe.receive) == []


async def test_a_reset_is_an_end_too():
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    pipe = Pipe(ours)
    # Linger of 0 s: close sends a reset.
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    assert await within_a_second(pipe.receive) == []
    pipe.close()
    listener.close()


async def test_bytes_that_are_no_frame_are_a_fault(ends):
    pipe, theirs = ends
    theirs.send((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(PipeError):
        await within_a_second(pipe.receive)


async def test_sending_to_an_end_that_is_gone_closes_quietly(ends):
    pipe, theirs = ends
    theirs.close()
    pipe.send(b"x")
    pipe.send(b"y")
    assert pipe.backlog_bytes == 0
    assert await within_a_second(pipe.receive) == []


@pytest.mark.parametrize("waiting", ["receive", "run", "drained"])
async def test_close_wakes_whoever_waits(ends, waiting):
    pipe, _ = ends
    pipe.send(BIG)
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(getattr(pipe, waiting))
            await trio.testing.wait_all_tasks_blocked()
            pipe.close()


async def test_close_wakes_an_idle_run(ends):
    pipe, _ = ends
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.run)
            await trio.testing.wait_all_tasks_blocked()
            pipe.close()


async def test_the_end_of_the_other_side_ends_a_run_that_has_a_backlog(ends):
    pipe, theirs = ends
    pipe.send(BIG)
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.run)
            nursery.start_soon(pipe.drained)
            await trio.testing.wait_all_tasks_blocked()
            theirs.close()


async def test_a_closed_pipe_takes_and_gives_nothing(ends):
    pipe, theirs = ends
    theirs.send(frame(b"unread"))
    pipe.close()
    pipe.close()
    pipe.send(b"x")
    assert pipe.backlog_bytes == 0
    assert await within_a_second(pipe.receive) == []
    await within_a_second(pipe.drained)
    await within_a_second(pipe.run)
