import pytest
import trio
from trio.testing import MockClock

from api.calls import driven
from api.parking import Deadlines, Parked
from tests.support.by_hand import Run


async def wait(parked: Parked, times: int = 1) -> None:
    for _ in range(times):
        await parked.wait()


async def test_who_is_woken_goes_on_there_and_then() -> None:
    parked = Deadlines().park(10)
    run = Run(wait(parked))
    assert (run.done, parked.waits) == (False, True)
    parked.wake()
    assert (run.done, parked.waits, parked.over) == (True, False, False)


async def test_a_wake_up_before_the_wait_ends_the_next_one_and_no_other() -> None:
    parked = Deadlines().park(10)
    parked.wake()
    parked.wake()
    run = Run(wait(parked, 2))
    assert not run.done
    parked.wake()
    assert run.done


async def test_who_gives_up_waits_no_more_and_a_late_wake_up_meets_nobody() -> None:
    parked = Deadlines().park(10)
    run = Run(wait(parked))
    run.hang_up()
    assert not parked.waits
    parked.wake()


async def test_a_task_can_wait_too_and_can_be_cancelled(autojump_clock: MockClock) -> None:
    parked = Deadlines().park(10)
    with trio.move_on_after(1) as scope:
        await driven(wait(parked))
    assert scope.cancelled_caught
    assert not parked.waits


async def test_waits_end_at_their_deadlines_and_never_before(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)
    ended: dict[float, float] = {}

    async def ends(wait_s: float) -> None:
        began = trio.current_time()
        parked = deadlines.park(wait_s)
        await driven(wait(parked))
        assert parked.over
        ended[wait_s] = trio.current_time() - began

    waits = [0.0, 0.01, 0.1, 0.15, 1.0, 1.05, 30.0, 60.0]
    async with trio.open_nursery() as inner:
        for wait_s in waits:
            inner.start_soon(ends, wait_s)
    assert all(wait_s <= ended[wait_s] <= wait_s + 0.3 for wait_s in waits)
    assert len(deadlines) == 0
    # Again, after all were over.
    await ends(0.5)


async def test_after_its_end_nothing_is_waited_for(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)
    parked = deadlines.park(0.5)
    await trio.sleep(1)
    assert parked.over
    assert Run(wait(parked, 5)).done


async def test_who_leaves_early_is_kept_no_longer() -> None:
    deadlines = Deadlines()
    parked = [deadlines.park(60) for _ in range(100)]
    assert len(deadlines) == 100
    for each in parked:
        deadlines.leave(each)
        deadlines.leave(each)
    assert len(deadlines) == 0
    assert not deadlines._parked


async def test_who_leaves_as_another_ends_does_not_disturb_the_rest(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)
    parked = [deadlines.park(1) for _ in range(4)]

    async def leave_all(own: Parked) -> None:
        await own.wait()
        for each in parked:
            deadlines.leave(each)

    runs = [Run(leave_all(each)) for each in parked]
    await trio.sleep(2)
    assert all(run.done for run in runs)


@pytest.mark.parametrize("again", [False, True])
async def test_after_the_close_nobody_waits(again: bool) -> None:
    deadlines = Deadlines()
    runs = [Run(wait(deadlines.park(wait_s))) for wait_s in (1, 1, 60)]
    deadlines.close()
    if again:
        deadlines.close()
    assert all(run.done for run in runs)
    late = deadlines.park(60)
    assert late.over
    assert Run(wait(late)).done
    assert len(deadlines) == 0
