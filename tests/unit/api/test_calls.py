"""Operations in a task of trio's: their calls, their traps, their ends."""

from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

import pytest
import trio
import trio.testing

from api.calls import Call, Drive, driven, in_task
from partitions.messages import NothingReady, Reply, Settled

SETTLED = Settled(b"j" * 16)


class Partition:
    """Hands out calls, which the test answers; ``given_up`` are those that were abandoned."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.given_up: list[Call] = []

    @coroutine
    def ask(self) -> Generator[Call, None, Reply]:
        call = Call(len(self.calls) + 1, 0)
        self.calls.append(call)
        try:
            yield call
        except BaseException:
            self.given_up.append(call)
            raise
        return call.result()


def nothing() -> None:
    """Nobody asks to be told of a wait."""


async def at_once() -> str:
    return "done"


async def broken() -> str:
    raise ValueError("broken")


async def test_what_does_not_wait_is_not_noticed():
    waits: list[int] = []
    assert await Drive(at_once(), on_wait=lambda: waits.append(1)) == "done"
    with pytest.raises(ValueError, match="broken"):
        await Drive(broken(), on_wait=lambda: waits.append(1))
    assert waits == []


async def test_a_wait_is_noticed_once_before_it_begins():
    event = trio.Event()
    waits: list[int] = []

    async def after() -> str:
        await event.wait()
        await trio.lowlevel.checkpoint()
        return "done"

    def notice() -> None:
        waits.append(1)
        event.set()  # or the wait would be for ever

    assert await Drive(after(), on_wait=notice) == "done"
    assert waits == [1]


async def test_a_reply_and_a_failure_end_a_call():
    partition = Partition()

    async def twice() -> tuple[Reply, Reply]:
        first = await partition.ask()
        try:
            await partition.ask()
        except OSError:
            return first, NothingReady()
        return first, first

    async with trio.open_nursery() as nursery:
        results: list[object] = []

        async def run() -> None:
            results.append(await driven(twice()))

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        partition.calls[0].answer(SETTLED)
        await trio.testing.wait_all_tasks_blocked()
        assert results == []
        partition.calls[1].fail(OSError("gone"))
    assert results == [(SETTLED, NothingReady())]
    assert partition.given_up == []


async def test_a_cancelled_call_is_given_up_and_its_reply_goes_nowhere():
    partition = Partition()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driven, partition.ask())
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert partition.given_up == partition.calls
    partition.calls[0].answer(SETTLED)
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("outcome", ["a reply", "a failure"])
async def test_an_outcome_between_a_cancellation_and_its_task_wakes_nobody_twice(outcome: str):
    partition = Partition()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driven, partition.ask())
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            (call,) = partition.calls
            call.answer(SETTLED) if outcome == "a reply" else call.fail(OSError("gone"))
    assert scope.cancelled_caught
    assert partition.given_up == partition.calls


async def test_a_cancelled_trap_runs_what_cleans_up():
    cleaned = False

    async def waits() -> None:
        nonlocal cleaned
        try:
            await trio.sleep_forever()
        finally:
            cleaned = True

    with trio.move_on_after(0.01) as scope:
        await driven(waits())
    assert scope.cancelled_caught
    assert cleaned


async def test_what_was_begun_elsewhere_is_driven_to_its_end():
    partition = Partition()

    async def operation() -> tuple[Reply, str]:
        reply = await partition.ask()
        await in_task()
        with trio.move_on_after(60):
            await trio.lowlevel.checkpoint()
        return reply, trio.lowlevel.current_task().name

    steps: Coroutine[Any, Any, tuple[Reply, str]] = operation()
    call = steps.send(None)
    assert call is partition.calls[0]
    partition.calls[0].answer(SETTLED)
    trap = steps.send(None)
    assert not isinstance(trap, Call)
    reply, name = await Drive(steps, trap, nothing)
    assert reply == SETTLED
    assert name == trio.lowlevel.current_task().name
