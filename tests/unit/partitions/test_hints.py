"""What a partition tells its fronts of its queues, and when."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from partitions.actor import Actor
from partitions.log import Sizes
from partitions.mail import Mail
from partitions.messages import (
    PUSH_ID,
    Command,
    Enqueue,
    Head,
    Hello,
    Hint,
    Lease,
    Leased,
    Request,
    Response,
    decode_responses,
)
from partitions.options import Options, encode_options
from partitions.pipe import Pipe
from partitions.recovery import recover
from partitions.state import PartitionState, Policy
from tests.support.driver import DIRECTORY, IDENTITY, START_MS, job_id
from tests.support.fake_disk import FakeDisk

SIZES = Sizes(segment_bytes=8 << 20, extent_bytes=1 << 20, reserve_bytes=64 << 10)
LEASE = Lease(30_000)


class Clock:
    """Stands still unless told otherwise."""

    now = START_MS

    def now_ms(self) -> int:
        return self.now


class Front:
    def __init__(self, node: "Node") -> None:
        ours, theirs = socket.socketpair()
        self._node, self.pipe, self.ours = node, Pipe(theirs), Pipe(ours)
        self._last_id = 0

    async def frames(self) -> list[list[Response]]:
        return [decode_responses(body) for body in await self.ours.receive()]

    async def ask(self, command: Command) -> list[Response]:
        """The frame that has the reply."""
        self._last_id += 1
        [mail] = Mail.of(self.pipe, [Request(self._last_id, command)])
        self._node.send.send_nowait(mail)
        while True:
            for frame in await self.frames():
                if any(response.request_id == self._last_id for response in frame):
                    return frame


class Node:
    """An actor over a disk that may have jobs on it."""

    def __init__(self, disk: FakeDisk, partitions: int) -> None:
        disk.make_directory(DIRECTORY)
        state = PartitionState(Policy())
        log = recover(disk, DIRECTORY, IDENTITY, state, SIZES).log
        self.clock = Clock()
        self.actor = Actor(
            state, log, self.clock, sleep_ms_max=60_000, partition=0, partitions=partitions
        )
        self.send, self.receive = trio.open_memory_channel[Mail](64)

    @asynccontextmanager
    async def running(self, fronts: int = 1) -> AsyncIterator[list[Front]]:
        made = [Front(self) for _ in range(fronts)]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.actor.run, self.receive)
                for front in made:
                    self.actor.greet(front.pipe)
                yield made
                self.send.close()
        for front in made:
            front.ours.close()
            front.pipe.close()


def submit(index: int, priority: int = 0) -> Enqueue:
    options = encode_options(Options(priority=priority))
    return Enqueue(job_id(index), b"payload", 3, "owner", options)


def hint_in(frame: list[Response]) -> list[Head] | None:
    """The hint that is the last of a frame."""
    assert all(response.request_id != PUSH_ID for response in frame[:-1])
    push = frame[-1].reply
    return push.heads if isinstance(push, Hint) else None


async def test_a_hint_ends_the_replies_that_it_belongs_to() -> None:
    async with Node(FakeDisk(), 2).running(fronts=2) as (front, other):
        frame = await front.ask(submit(1, priority=5))
        head = Head("default", 5, 1, ((5, 1, START_MS, START_MS),))
        assert hint_in(frame) == [head]
        greeting, told = await other.frames()
        assert greeting == [Response(PUSH_ID, Hello(0, 2))]
        assert told == [Response(PUSH_ID, Hint([head]))]


async def test_a_hint_tells_of_the_best_three_priorities() -> None:
    async with Node(FakeDisk(), 2).running() as (front,):
        for index, priority in enumerate([0, 3, -1, 3, -2]):
            heads = hint_in(await front.ask(submit(index, priority)))
            if heads is not None:
                last = heads
        assert [line[:2] for line in last[0].lines] == [(3, 2), (0, 1), (-1, 1)]
        assert (last[0].priority, last[0].ready) == (3, 4), "the fifth changes none of them"


async def test_with_one_partition_only_the_next_priority_is_told() -> None:
    async with Node(FakeDisk(), 1).running() as (front,):
        assert hint_in(await front.ask(submit(1))) == [Head("default", 0, 1)]
        assert hint_in(await front.ask(submit(2))) is None
        assert hint_in(await front.ask(submit(3, priority=1))) == [Head("default", 1, 3)]


async def test_of_many_jobs_one_more_or_less_is_told_after_a_while() -> None:
    node = Node(FakeDisk(), 2)
    async with node.running() as (front,):
        for index in range(40):
            await front.ask(submit(index))
        assert hint_in(await front.ask(LEASE)) is None
        node.clock.now += 50
        heads = hint_in(await front.ask(LEASE))
        assert heads is not None
        assert heads[0].ready == 38


async def test_that_the_only_job_of_a_partition_just_started_is_gone_is_told() -> None:
    disk = FakeDisk()
    async with Node(disk, 1).running() as (front,):
        await front.ask(submit(1))
    async with Node(disk, 1).running() as (front,):
        _, hint = await front.frames()
        assert hint_in(hint) == [Head("default", 0, 1)]
        frame = await front.ask(LEASE)
        assert isinstance(frame[0].reply, Leased)
        assert hint_in(frame) == [Head("default", None)]
