from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from api import problems
from api.calls import driven
from api.parking import Deadlines
from api.watching import Watching
from partitions.messages import (
    Ack,
    Cancel,
    Enqueue,
    Forget,
    Get,
    JobNotFound,
    JobView,
    Lease,
    Leased,
    Retry,
    TooMany,
    Unwatch,
)
from partitions.slots import first_slot, make_job_id
from tests.support.by_hand import HandPartition, Run, partitions_of, settle
from tests.support.stateful import START_MS


class Watched:
    """A job of the second of two partitions, and reads of it."""

    def __init__(self) -> None:
        self.partitions = partitions_of(2)
        self.deadlines = Deadlines()
        self.watching = Watching([each.client for each in self.partitions], self.deadlines)
        self.job_id = make_job_id(START_MS, 1, first_slot(1, 2))
        self.home.carry_out(Enqueue(self.job_id, b"x", 3, "me"))

    @property
    def home(self) -> HandPartition:
        return self.partitions[1]

    def get(self, wait_ms: int = 30_000) -> Run:
        run = Run(self.watching.get(self.home.client, self.job_id, wait_ms))
        self.settle()
        return run

    def settle(self) -> None:
        settle(self.partitions)

    def finish(self) -> None:
        """The job is done; the partition has not said so yet."""
        lease = self.home.carry_out(Lease(1000))
        assert isinstance(lease, Leased)
        self.home.carry_out(Ack(self.job_id, lease.lease_token, b"result"))

    @property
    def is_clean(self) -> bool:
        """Nobody watches anything any more, here or there."""
        return not (self.watching._waiting or len(self.deadlines) or self.home.watched)


@pytest.fixture
async def watched(autojump_clock: MockClock, nursery: trio.Nursery) -> AsyncIterator[Watched]:
    watched = Watched()
    nursery.start_soon(watched.deadlines.run)
    yield watched
    nursery.cancel_scope.cancel()


def state_of(run: Run) -> str:
    assert isinstance(run.result, JobView)
    return run.result.state


async def test_without_a_wait_a_job_is_shown_as_it_is_and_not_watched(watched: Watched) -> None:
    assert state_of(watched.get(0)) == "READY"
    assert watched.home.commands == [Get(watched.job_id)]
    assert watched.is_clean


async def test_a_finished_job_is_shown_at_once(watched: Watched) -> None:
    watched.finish()
    run = watched.get()
    assert (state_of(run), run.result.result) == ("ACKED", b"result")
    assert watched.is_clean


async def test_a_job_that_is_not_there_is_not_waited_for(watched: Watched) -> None:
    watched.job_id = make_job_id(START_MS, 2, first_slot(1, 2))
    assert watched.get().result == JobNotFound(watched.job_id)
    assert watched.is_clean


@pytest.mark.parametrize("state", ["ACKED", "CANCELLED"])
async def test_the_end_of_the_job_ends_the_wait(watched: Watched, state: str) -> None:
    run = watched.get()
    assert not run.done
    if state == "ACKED":
        watched.finish()
    else:
        watched.home.carry_out(Cancel(watched.job_id))
    watched.home.tell()
    watched.settle()
    assert state_of(run) == state
    assert watched.is_clean


async def test_a_job_that_is_deleted_ends_the_wait(watched: Watched) -> None:
    run = watched.get()
    watched.home.carry_out(Cancel(watched.job_id))
    watched.home.carry_out(Forget(watched.job_id))
    watched.home.tell()
    watched.settle()
    assert run.result == JobNotFound(watched.job_id)
    assert watched.is_clean


async def test_all_who_wait_for_a_job_hear_of_its_end(watched: Watched) -> None:
    runs = [watched.get() for _ in range(5)]
    watched.finish()
    watched.home.tell()
    watched.settle()
    assert [state_of(run) for run in runs] == ["ACKED"] * 5
    assert watched.is_clean


async def test_at_the_end_of_the_wait_the_job_is_shown_as_it_is(watched: Watched) -> None:
    run = watched.get(2_000)
    watched.home.carry_out(Lease(60_000))
    watched.home.tell()
    await trio.sleep(1.9)
    watched.settle()
    assert not run.done
    await trio.sleep(0.3)
    watched.settle()
    assert state_of(run) == "RUNNING"
    assert watched.is_clean
    assert watched.home.commands[-2:] == [Get(watched.job_id), Unwatch(watched.job_id)]


async def test_the_partition_is_told_when_the_last_one_leaves(watched: Watched) -> None:
    first, second = watched.get(), watched.get()
    first.hang_up()
    watched.settle()
    assert Unwatch(watched.job_id) not in watched.home.commands
    second.hang_up()
    watched.settle()
    assert watched.home.commands[-1] == Unwatch(watched.job_id)
    assert watched.is_clean


async def test_who_comes_as_the_last_one_leaves_is_told_all_the_same(watched: Watched) -> None:
    first = watched.get()
    first.hang_up()
    second = Run(watched.watching.get(watched.home.client, watched.job_id, 30_000))
    watched.settle()
    watched.finish()
    watched.home.tell()
    watched.settle()
    assert state_of(second) == "ACKED"
    assert watched.is_clean


async def test_an_end_right_behind_the_reply_is_not_missed_in_place(watched: Watched) -> None:
    run = Run(watched.watching.get(watched.home.client, watched.job_id, 30_000))
    responses = watched.home.carry_out_all(watched.home.take())
    watched.finish()
    watched.home.say(responses)
    watched.settle()
    assert state_of(run) == "ACKED"


async def test_an_end_right_behind_the_reply_is_not_missed_in_a_task(
    watched: Watched, nursery: trio.Nursery
) -> None:
    views: list[object] = []

    async def get() -> None:
        views.append(await driven(watched.watching.get(watched.home.client, watched.job_id, 9_000)))

    nursery.start_soon(get)
    await trio.testing.wait_all_tasks_blocked()
    responses = watched.home.carry_out_all(watched.home.take())
    watched.finish()
    watched.home.say(responses)  # both are here before the task has run
    await trio.testing.wait_all_tasks_blocked()
    watched.settle()
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(views[0], JobView)
    assert views[0].state == "ACKED"


async def test_a_job_that_begins_anew_before_it_was_looked_at_is_waited_for_again(
    watched: Watched,
) -> None:
    run = watched.get()
    watched.home.carry_out(Cancel(watched.job_id))
    pushes = watched.home.pushes()
    watched.home.carry_out(Retry(watched.job_id))
    for push in pushes:
        watched.home.client._take_push(push)
    watched.settle()
    assert not run.done
    watched.finish()
    watched.home.tell()
    watched.settle()
    assert state_of(run) == "ACKED"


async def test_a_partition_that_went_away_and_is_back_is_asked_anew(watched: Watched) -> None:
    run = watched.get()
    watched.home.lose()
    watched.settle()
    assert not run.done
    watched.home.connect()
    watched.settle()
    assert watched.home.watched == {watched.job_id}
    watched.finish()
    watched.home.tell()
    watched.settle()
    assert state_of(run) == "ACKED"
    assert watched.is_clean


async def test_a_job_that_finished_while_its_partition_was_away_ends_the_wait(
    watched: Watched,
) -> None:
    run = watched.get()
    watched.home.lose()
    watched.finish()
    watched.home.connect()
    watched.settle()
    assert state_of(run) == "ACKED"


async def test_another_partition_that_went_away_is_nothing_to_it(watched: Watched) -> None:
    run = watched.get()
    asked = len(watched.home.commands)
    watched.partitions[0].lose()
    watched.partitions[0].connect()
    watched.settle()
    assert not run.done
    assert len(watched.home.commands) == asked


async def test_a_partition_that_is_down_is_waited_for(watched: Watched) -> None:
    watched.home.lose()
    run = watched.get()
    assert not run.done
    watched.finish()
    watched.home.connect()
    watched.settle()
    assert state_of(run) == "ACKED"


async def test_a_partition_that_stays_away_is_503_at_the_end_of_the_wait(watched: Watched) -> None:
    watched.home.lose()
    run = watched.get(1_000)
    await trio.sleep(1.3)
    assert run.result is problems.PARTITION_DOWN
    assert watched.is_clean


async def test_too_many_who_wait_are_refused(watched: Watched) -> None:
    watched.home.answer = lambda command: TooMany("watched")
    assert watched.get().result == TooMany("watched")
    assert not watched.watching._waiting


async def test_nobody_waits_after_the_drain(watched: Watched) -> None:
    run = watched.get()
    watched.deadlines.close()
    watched.settle()
    assert state_of(run) == "READY"
    assert state_of(watched.get()) == "READY"
    assert watched.is_clean
