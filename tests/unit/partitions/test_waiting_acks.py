"""Acks that outrun cleaning wait for it in the actor; all else goes on."""

from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest
import trio

from partitions import actor
from partitions import mail as module
from partitions.messages import (
    Ack,
    Enqueued,
    Extend,
    Extended,
    Fail,
    Forget,
    Get,
    JobView,
    Lease,
    Leased,
    LeasedMany,
    LeaseMany,
    Many,
    Release,
    Replies,
    Settled,
    Sweep,
    Swept,
)
from partitions.recovery import recover
from partitions.state import PartitionState
from tests.support.driver import DIRECTORY, IDENTITY, enqueue, job_id, jobs_of
from tests.unit.partitions.test_actor import LOST, SIZES, Front, Journal, Partition

if TYPE_CHECKING:
    from partitions.checkpoint import Checkpoints


class Owing:
    """Checkpoints that are owed something until it is said that they are not."""

    def __init__(self) -> None:
        self.is_owed = False
        self.steps = 0
        self.pause_ms = 20
        self.partition: Partition | None = None

    @property
    def next_step_ms(self) -> int | None:
        assert self.partition is not None
        return self.partition.clock.now_ms() + self.pause_ms if self.is_owed else None

    def note_work(self) -> None:
        pass

    def step(self, now_ms: int) -> None:
        self.steps += 1

    def finish(self, now_ms: int, within_ms: int) -> bool:
        return True


@pytest.fixture
def cleaning() -> Owing:
    return Owing()


@pytest.fixture
def disk():
    return Journal()


@pytest.fixture
async def partition(disk, cleaning):
    made = Partition(disk, checkpoints=cast("Checkpoints", cleaning))
    cleaning.partition = made
    yield made
    for front in made.fronts:
        front.close()


@pytest.fixture
async def front(partition):
    return Front(partition)


async def leased(front: Front, *indexes: int) -> list[int]:
    """Store and lease these jobs; their tokens."""
    await front.ask(*(enqueue(index) for index in indexes))
    replies = await front.ask(*(Lease(60_000) for _ in indexes))
    return [reply.lease_token for reply in replies if isinstance(reply, Leased)]


def ack(index: int, token: int) -> Ack:
    return Ack(job_id(index), token, None)


async def no_reply(front: Front, ids: list[int]) -> None:
    """None of these came in a second."""
    with trio.move_on_after(1):
        await front.replies(ids)
        pytest.fail("an ack was taken while cleaning was owed")


async def test_acks_wait_while_cleaning_is_owed_and_nothing_else_does(
    autojump_clock, partition, front, cleaning
):
    async with partition.running():
        first, second, third = await leased(front, 1, 2, 3)
        cleaning.is_owed = True
        acks = front.mail(ack(1, first))
        others = await front.ask(
            enqueue(4),
            Get(job_id(1)),
            Extend(job_id(2), second, 60_000),
            Many([Extend(job_id(3), third, 60_000), Release(job_id(2), second)]),
            Lease(60_000),
        )
        assert [type(each) for each in others] == [Enqueued, JobView, Extended, Replies, Leased]
        await no_reply(front, acks)
        assert cleaning.steps > 10, "and cleaning goes on"
        cleaning.is_owed = False
        assert await front.replies(acks) == [Settled(job_id(1))]


@pytest.mark.parametrize(
    "command",
    [
        lambda token: ack(1, token),
        lambda token: Many([Fail(job_id(2), 99, b"late"), ack(1, token)]),
        lambda _: Forget(job_id(1)),
        lambda _: Sweep("default", "ACKED", "forget"),
    ],
)
async def test_whatever_frees_texts_waits(autojump_clock, partition, front, cleaning, command):
    async with partition.running():
        [token] = await leased(front, 1)
        cleaning.is_owed = True
        waiting = front.mail(command(token))
        await no_reply(front, waiting)
        cleaning.is_owed = False
        await front.replies(waiting)


async def test_a_frame_is_parted_and_its_acks_come_later(
    autojump_clock, partition, front, cleaning
):
    async with partition.running():
        [token] = await leased(front, 1)
        cleaning.is_owed = True
        before, acked, after = front.mail(Get(job_id(1)), ack(1, token), Get(job_id(1)))
        found = await front.replies([before, after])
        assert [each.state for each in found if isinstance(each, JobView)] == ["RUNNING"] * 2
        await no_reply(front, [acked])
        cleaning.is_owed = False
        assert await front.replies([acked]) == [Settled(job_id(1))]


async def test_they_go_on_some_at_a_time_in_order_with_a_look_at_cleaning_between(
    autojump_clock, partition, front, cleaning, disk, monkeypatch
):
    monkeypatch.setattr(actor, "FREED_BYTES_MAX", 1)
    async with partition.running():
        tokens = await leased(front, 1, 2, 3)
        cleaning.is_owed = True
        waiting = [front.mail(ack(index, token)) for index, token in enumerate(tokens, start=1)]
        await no_reply(front, waiting[0])
        disk.lines.clear()
        steps = cleaning.steps
        cleaning.is_owed = False
        for ids in waiting:
            await front.replies(ids)
        assert disk.lines.count("sync") == 3
        assert cleaning.steps - steps >= 3
    acked = sorted(jobs_of(partition.state).values(), key=lambda job: job.lease_token)
    assert [job.job_id for job in acked] == [job_id(1), job_id(2), job_id(3)]


async def test_what_waits_when_the_fronts_are_gone_is_stored(
    autojump_clock, partition, front, cleaning, disk
):
    # Also while there is always something to clean: it is not waited for.
    async with partition.running():
        tokens = await leased(front, 1, 2)
        cleaning.is_owed = True
        waiting = [front.mail(ack(index, token)) for index, token in enumerate(tokens, start=1)]
        await no_reply(front, waiting[0])
        cleaning.pause_ms = 0
    for index, ids in enumerate(waiting, start=1):
        assert await front.replies(ids) == [Settled(job_id(index))]
    state = PartitionState()
    recover(disk.crash(LOST), DIRECTORY, IDENTITY, state, SIZES)
    assert {job.state.name for job in jobs_of(state).values()} == {"ACKED"}


async def test_with_too_many_of_them_the_first_are_taken_and_nobody_else_is_stopped(
    autojump_clock, partition, front, cleaning, monkeypatch
):
    async with partition.running():
        tokens = await leased(front, *range(1, 11))
        monkeypatch.setattr(module, "HELD_BYTES_MAX", 1_000)
        monkeypatch.setattr(actor, "FREED_BYTES_MAX", 1)
        cleaning.is_owed = True
        waiting = [front.mail(ack(index, token)) for index, token in enumerate(tokens, start=1)]
        await front.ask(Get(job_id(1)))
        await front.replies(waiting[0])
        await no_reply(front, waiting[-1])
        cleaning.is_owed = False
        for ids in waiting[1:]:
            await front.replies(ids)


async def test_frames_with_few_acks_each_are_not_taken_all_at_once(
    autojump_clock, partition, front, disk, monkeypatch
):
    async with partition.running():
        await front.ask(*(enqueue(index) for index in range(600)))
        job_bytes = partition.state.jobs.live.total_bytes // 600
        calls = []
        for _ in range(60):
            [many] = await front.ask(LeaseMany(Lease(60_000), 10))
            assert isinstance(many, LeasedMany)
            calls.append(Many([Ack(each.job_id, each.lease_token, None) for each in many.jobs]))
        monkeypatch.setattr(actor, "FREED_BYTES_MAX", 20 * job_bytes)
        disk.lines.clear()
        waiting = [front.mail(call) for call in calls]
        for ids in waiting:
            await front.replies(ids)
        assert disk.lines.count("sync") >= 20


async def test_others_have_their_turns_while_the_line_is_worked_off(
    autojump_clock, partition, front, cleaning, disk, monkeypatch
):
    monkeypatch.setattr(actor, "FREED_BYTES_MAX", 1)
    turns_at: list[int] = []

    async def others() -> None:
        while True:
            turns_at.append(disk.lines.count("sync"))
            await trio.lowlevel.checkpoint()

    async with partition.running():
        tokens = await leased(front, *range(1, 61))
        cleaning.is_owed = True
        waiting = [front.mail(ack(index, token)) for index, token in enumerate(tokens, start=1)]
        await no_reply(front, waiting[0])
        async with trio.open_nursery() as nursery:
            cleaning.is_owed = False
            front.mail(Get(job_id(1)))  # Time stands still from now on: this wakes the actor.
            nursery.start_soon(others)
            for ids in waiting:
                await front.replies(ids)
            nursery.cancel_scope.cancel()
    assert max(b - a for a, b in pairwise(turns_at)) <= 20, "two rounds of nine at worst"


async def test_a_front_whose_acks_wait_hears_something_all_the_same(
    autojump_clock, partition, front, cleaning
):
    partition.actor.greet(front.pipe)
    async with partition.running():
        [token] = await leased(front, 1)
        cleaning.is_owed = True
        waiting = front.mail(ack(1, token))
        frames = front.frames
        with trio.move_on_after(4.5):
            await front.replies(waiting)
        assert front.frames - frames >= 3
        cleaning.is_owed = False
        await front.replies(waiting)


async def test_a_call_for_very_many_is_one_answer(autojump_clock, partition, front, cleaning):
    async with partition.running():
        await front.ask(*(enqueue(index) for index in range(300)))
        [many] = await front.ask(LeaseMany(Lease(60_000), 300))
        assert isinstance(many, LeasedMany)
        cleaning.is_owed = True
        waiting = front.mail(Many([Ack(each.job_id, each.lease_token, None) for each in many.jobs]))
        assert [type(each) for each in await front.ask(Get(job_id(1)))] == [JobView]
        cleaning.is_owed = False
        [replies] = await front.replies(waiting)
        assert isinstance(replies, Replies)
        assert len(replies.replies) == 300


async def test_a_sweep_that_waited_goes_on(autojump_clock, partition, front, cleaning):
    async with partition.running():
        [token] = await leased(front, 1)
        await front.ask(ack(1, token))
        cleaning.is_owed = True
        waiting = front.mail(Sweep("default", "ACKED", "forget"))
        await no_reply(front, waiting)
        cleaning.is_owed = False
        [swept] = await front.replies(waiting)
    assert isinstance(swept, Swept)
    assert not jobs_of(partition.state)


async def test_calls_that_free_much_share_no_batch_even_when_nothing_is_owed(
    autojump_clock, partition, front, disk, monkeypatch
):
    async with partition.running():
        await front.ask(*(enqueue(index) for index in range(1_000)))
        job_bytes = partition.state.jobs.live.total_bytes // 1_000
        monkeypatch.setattr(actor, "FREED_BYTES_MAX", 300 * job_bytes)
        granted = []
        for _ in range(4):
            [many] = await front.ask(LeaseMany(Lease(60_000), 200))
            assert isinstance(many, LeasedMany)
            granted.append(many.jobs)
        disk.lines.clear()
        calls = [
            Many([Ack(each.job_id, each.lease_token, None) for each in jobs]) for jobs in granted
        ]
        waiting = front.mail(*calls, Get(job_id(0)))
        *acked, _ = await front.replies(waiting)
        assert [len(each.replies) for each in acked if isinstance(each, Replies)] == [200] * 4
        assert disk.lines.count("sync") == 2, "two calls each: 200 are less than 300"


async def test_a_frame_with_few_acks_goes_into_a_batch_as_it_is(
    autojump_clock, partition, front, disk, monkeypatch
):
    monkeypatch.setattr(actor, "FREED_BYTES_MAX", 1)
    async with partition.running():
        tokens = await leased(front, 1, 2, 3)
        disk.lines.clear()
        await front.ask(*(ack(index, token) for index, token in enumerate(tokens, start=1)))
        assert disk.lines.count("sync") == 1
