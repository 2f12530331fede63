"""An edge is told once: nothing that a client sends may be waited for in vain."""

import select
import socket
from typing import ClassVar

import pytest
import trio
import trio.testing

from api.readiness import Readiness, Watch


class Pair:
    """A watched socket, and the client's end."""

    opened: ClassVar[list[socket.socket]] = []

    def __init__(self, readiness: Readiness) -> None:
        self.ours, self.theirs = socket.socketpair()
        Pair.opened.extend((self.ours, self.theirs))
        self.ours.setblocking(False)
        self.watch: Watch = readiness.watch(self.ours)


@pytest.fixture
async def readiness():
    readiness = Readiness()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.run)
        yield readiness
        nursery.cancel_scope.cancel()
    while Pair.opened:
        Pair.opened.pop().close()


async def waited(watch: Watch) -> bool:
    """Whether the watch says that there is something, before long."""
    with trio.move_on_after(0.05) as scope:
        await watch.wait()
    return not scope.cancelled_caught


async def test_bytes_that_come_while_somebody_waits_wake_them(readiness):
    pair = Pair(readiness)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.watch.wait)
        await trio.testing.wait_all_tasks_blocked()
        pair.theirs.send(b"x")


async def test_bytes_that_came_before_are_not_forgotten(readiness):
    pair = Pair(readiness)
    pair.theirs.send(b"x")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert await waited(pair.watch)


async def test_bytes_that_were_there_before_the_watch_count(readiness):
    ours, theirs = socket.socketpair()
    theirs.send(b"x")
    assert await waited(readiness.watch(ours))
    theirs.close()
    ours.close()


async def test_what_was_told_is_told_once(readiness):
    pair = Pair(readiness)
    pair.theirs.send(b"x")
    assert await waited(pair.watch)
    assert not await waited(pair.watch)
    pair.theirs.send(b"y")
    assert await waited(pair.watch)


async def test_a_full_buffer_may_be_asked_for_again(readiness):
    pair = Pair(readiness)
    pair.theirs.send(b"x")
    assert await waited(pair.watch)
    pair.watch.again()
    assert await waited(pair.watch)


async def test_an_end_that_came_with_the_last_bytes_is_never_waited_for(readiness):
    pair = Pair(readiness)
    pair.theirs.send(b"x")
    pair.theirs.close()
    for _ in range(3):
        assert await waited(pair.watch)
    assert pair.ours.recv(9) == b"x"
    assert await waited(pair.watch)
    assert pair.ours.recv(9) == b""


async def test_a_wait_that_was_given_up_loses_nothing(readiness):
    pair = Pair(readiness)
    assert not await waited(pair.watch)
    pair.theirs.send(b"x")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert await waited(pair.watch)


async def test_a_number_that_is_used_again_is_another_socket(readiness):
    first = Pair(readiness)
    number = first.ours.fileno()
    readiness.forget(first.ours)
    first.ours.close()
    second = Pair(readiness)
    assert second.ours.fileno() == number
    first.theirs.close()
    assert not await waited(second.watch)
    second.theirs.send(b"x")
    assert await waited(second.watch)


async def test_many_at_once_are_all_woken(readiness):
    pairs = [Pair(readiness) for _ in range(700)]
    for pair in pairs:
        pair.theirs.send(b"x")
    for pair in pairs:
        assert await waited(pair.watch)
        pair.ours.close()
        pair.theirs.close()


async def test_an_edge_that_is_dealt_with_in_place_does_not_end_the_wait(readiness):
    pair = Pair(readiness)
    offered: list[bytes] = []

    def in_place() -> bool:
        offered.append(pair.ours.recv(10))
        return offered[-1] != b"end"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.watch.wait, in_place)
        for data in (b"a", b"b", b"end"):
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            pair.theirs.send(data)
    assert offered == [b"a", b"b", b"end"]


async def test_an_end_is_never_offered_in_place(readiness):
    pair = Pair(readiness)

    def in_place() -> bool:
        raise AssertionError("offered")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.watch.wait, in_place)
        await trio.testing.wait_all_tasks_blocked()
        pair.theirs.close()


async def test_a_wake_ends_the_wait_or_the_next_one(readiness):
    pair = Pair(readiness)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.watch.wait, lambda: True)
        await trio.testing.wait_all_tasks_blocked()
        pair.watch.wake()
    pair.watch.wake()
    assert await waited(pair.watch)
    pair.watch.reading()
    assert not await waited(pair.watch)


async def test_bytes_that_come_before_a_woken_task_runs_are_not_forgotten(readiness):
    pair = Pair(readiness)

    def in_place() -> bool:
        pair.watch.reading()
        assert pair.ours.recv(10) == b"a"
        return False

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.watch.wait, in_place)
        await trio.testing.wait_all_tasks_blocked()
        # Both before the task has a turn: the first wakes it, the second must be remembered.
        pair.theirs.send(b"a")
        pair.watch.happened(select.EPOLLIN)
        pair.theirs.send(b"b")
        pair.watch.happened(select.EPOLLIN)
    assert await waited(pair.watch)
    pair.watch.reading()
    assert not await waited(pair.watch)


async def test_what_in_place_left_unread_wakes_the_task(readiness):
    pair = Pair(readiness)

    def in_place() -> bool:
        pair.watch.again()
        return True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.watch.wait, in_place)
        await trio.testing.wait_all_tasks_blocked()
        pair.theirs.send(b"a")
