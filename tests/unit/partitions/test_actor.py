"""The actor: one commit for all that waits, and no reply before it."""

import errno
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path

import pytest
import trio
import trio.testing

from partitions import actor as module
from partitions.actor import Actor
from partitions.checkpoint import Checkpoints
from partitions.limits import (
    BATCH_BYTES_MAX,
    BATCH_REQUESTS_MAX,
    FRAME_BYTES_SOFT,
    LEASE_JOBS_MAX,
    TEXT_BYTES_MAX,
    WORKER_CHARS_MAX,
)
from partitions.log import Sizes, segment_name
from partitions.mail import Mail
from partitions.messages import (
    NUMBER_SHIFT,
    PUSH_ID,
    Ack,
    Cancel,
    Command,
    Enqueue,
    Enqueued,
    EnqueuedMany,
    EnqueueMany,
    Extend,
    Extended,
    Fail,
    Get,
    Head,
    Hello,
    Hint,
    JobNotFound,
    JobsOver,
    JobView,
    Lease,
    Leased,
    LeasedMany,
    LeaseLost,
    LeaseMany,
    List,
    Many,
    NothingReady,
    Page,
    Pause,
    QueueViews,
    Release,
    Replies,
    Reply,
    Request,
    Response,
    Retry,
    Settled,
    StorageFull,
    Sweep,
    Swept,
    TooMany,
    Unreadable,
    Unwatch,
    ViewQueues,
    decode_responses,
)
from partitions.options import Options, encode_options
from partitions.pipe import BACKLOG_BYTES_HIGH, Pipe
from partitions.recovery import recover
from partitions.state import PartitionState, Policy
from tests.support.driver import DIRECTORY, IDENTITY, START_MS, enqueue, job_id
from tests.support.fake_disk import FakeDisk, Faults, Survival

SIZES = Sizes(segment_bytes=8 << 20, extent_bytes=1 << 20, reserve_bytes=64 << 10)
LOST = Survival("lost", pages=0, entries=0)


class TrioClock:
    """The time of the test, which stands still while anybody has something to do."""

    def __init__(self) -> None:
        self.started = trio.current_time()
        self.readings = 0
        self.readings_max = 1_000_000

    def now_ms(self) -> int:
        self.readings += 1
        assert self.readings < self.readings_max, "the actor spins"
        return START_MS + round((trio.current_time() - self.started) * 1000)


class Journal(FakeDisk):
    """A disk whose operations stand in one list with the frames that are sent."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def note(self, kind: str, path: Path, size: int = 0) -> None:
        super().note(kind, path, size)
        self.lines.append(kind)


class WatchedPipe(Pipe):
    def __init__(self, sock: socket.socket, lines: list[str]) -> None:
        super().__init__(sock)
        self._lines = lines

    def send(self, body: bytes) -> None:
        self._lines.append("send")
        super().send(body)


class Front:
    """One front: sends mails, and reads what its pipe brings."""

    def __init__(self, partition: "Partition") -> None:
        ours, theirs = socket.socketpair()
        self.pipe = WatchedPipe(theirs, partition.disk.lines)
        self._ours = Pipe(ours)
        self._partition = partition
        self._last_id = 0
        self._responses: dict[int, Reply] = {}
        self.pushes: list[Reply] = []
        self.frames = 0
        partition.fronts.append(self)

    def mail(self, *commands: Command) -> list[int]:
        """Put one mail into the mailbox; returns the ids of its requests."""
        ids = list(range(self._last_id + 1, self._last_id + 1 + len(commands)))
        self._last_id += len(commands)
        requests = [Request(each, command) for each, command in zip(ids, commands, strict=True)]
        for mail in Mail.of(self.pipe, requests):
            self._partition.send.send_nowait(mail)
        return ids

    async def replies(self, ids: list[int]) -> list[Reply]:
        """What came for these requests."""
        while not all(each in self._responses for each in ids):
            await self.read()
        return [self._responses.pop(each) for each in ids]

    async def read(self) -> None:
        """The next frames."""
        bodies = await self._ours.receive()
        assert bodies, "the pipe was closed"
        self.frames += len(bodies)
        for body in bodies:
            for response in decode_responses(body):
                self.take(response)

    def take(self, response: Response) -> None:
        if response.request_id == PUSH_ID:
            self.pushes.append(response.reply)
        else:
            assert response.request_id not in self._responses
            self._responses[response.request_id] = response.reply

    async def ask(self, *commands: Command) -> list[Reply]:
        return await self.replies(self.mail(*commands))

    async def next_push(self) -> Reply:
        while not self.pushes:
            await self.read()
        return self.pushes.pop(0)

    def hang_up(self) -> None:
        self._ours.close()

    def close(self) -> None:
        self._ours.close()
        self.pipe.close()


class Partition:
    """An actor on a fake disk, with fronts."""

    def __init__(
        self, disk: Journal, sleep_ms_max: int = 5_000, checkpoints: Checkpoints | None = None
    ) -> None:
        self.disk = disk
        disk.make_directory(DIRECTORY)
        self.state = PartitionState(Policy(retention_ms=60_000))
        self.log = recover(disk, DIRECTORY, IDENTITY, self.state, SIZES).log
        self.clock = TrioClock()
        self.actor = Actor(
            self.state,
            self.log,
            self.clock,
            sleep_ms_max=sleep_ms_max,
            partition=3,
            partitions=8,
            checkpoints=checkpoints,
        )
        self.send, self.receive = trio.open_memory_channel[Mail](64)
        self.fronts: list[Front] = []
        disk.lines.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        with trio.fail_after(300):
            async with trio.open_nursery() as pipes:
                for front in self.fronts:
                    pipes.start_soon(front.pipe.run)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.actor.run, self.receive)
                    yield
                    self.send.close()
                pipes.cancel_scope.cancel()


@pytest.fixture
def disk():
    return Journal()


@pytest.fixture
async def partition(disk):
    made = Partition(disk)
    yield made
    for front in made.fronts:
        front.close()


@pytest.fixture
async def front(partition):
    return Front(partition)


# Commit, then reply -------------------------------------------------------------------------


@pytest.mark.parametrize("owes", [False, True])
@pytest.mark.parametrize("requests", [1, 5 * BATCH_REQUESTS_MAX])
async def test_others_have_their_turns_however_much_there_is_to_do(
    requests, owes, partition, front
):
    batches = turns = 0

    def at_once() -> list[Mail]:
        nonlocal batches
        if batches >= 200:
            partition.send.close()
            return []
        batches += -(-requests // BATCH_REQUESTS_MAX)
        size = min(requests, BATCH_REQUESTS_MAX)
        mail = Mail(front.pipe, [Request(1, Get(job_id(1)))] * size, 0)
        return [mail] * (requests // size)

    async def read() -> None:
        """What a reader does when it has its turn."""
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1
            if partition.receive.statistics().current_buffer_used == 0 and (mails := at_once()):
                for mail in mails:
                    partition.send.send_nowait(mail)

    if owes:
        slow = Front(partition)
        partition.actor.greet(slow.pipe)
        slow.pipe.send(bytes(BACKLOG_BYTES_HIGH // 2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await partition.actor.run(partition.receive, at_once)
        nursery.cancel_scope.cancel()
    assert batches >= 200
    assert turns >= (batches if owes else batches // 10)


async def test_all_that_waits_is_one_commit_and_is_answered_only_after_it(
    autojump_clock, partition, front
):
    other = Front(partition)
    mails = [front.mail(enqueue(1), enqueue(2)), front.mail(Lease(1_000))]
    others = other.mail(enqueue(3))
    async with partition.running():
        first, second = await front.replies(mails[0]), await front.replies(mails[1])
        third = await other.replies(others)
    assert first == [Enqueued(job_id(1)), Enqueued(job_id(2))]
    assert second == [Leased(job_id(1), b"payload", START_MS + 1_000, 1, 1, 3, START_MS)]
    assert third == [Enqueued(job_id(3))]
    each_front_once = ["send", "send"]
    assert partition.disk.lines == ["write", "sync", *each_front_once]
    assert partition.log.next_lsn == 2


async def test_reads_and_refusals_cost_no_commit(autojump_clock, partition, front):
    async with partition.running():
        assert await front.ask(Get(job_id(1)), Lease(5), Ack(job_id(1), None, None)) == [
            JobNotFound(job_id(1)),
            NothingReady(),
            JobNotFound(job_id(1)),
        ]
    assert partition.disk.lines == ["send"]


@pytest.mark.parametrize("kind", ["write", "sync"])
async def test_a_failed_commit_ends_the_actor_without_a_reply(
    autojump_clock, partition, front, kind
):
    partition.disk.faults = Faults(fail_at=0, fail_kinds=(kind,))
    front.mail(enqueue(1), Get(job_id(1)))
    with pytest.raises(OSError, match="Input/output"):
        await partition.actor.run(partition.receive)
    assert "send" not in partition.disk.lines


async def test_what_was_answered_survives_a_power_cut(autojump_clock, partition, front):
    async with partition.running():
        await front.ask(*(enqueue(index, b"%d" % index) for index in range(50)))
        await front.ask(Lease(60_000), Ack(job_id(0), 1, b"result"))
        crashed = partition.disk.crash(LOST)
    state = PartitionState()
    recover(crashed, DIRECTORY, IDENTITY, state, SIZES)
    assert (len(state), state.ready) == (50, 49)


async def test_a_batch_has_a_bound(autojump_clock, partition, front):
    each = BATCH_REQUESTS_MAX // 2
    mails = [
        front.mail(*(enqueue(mail * each + index) for index in range(each))) for mail in range(5)
    ]
    async with partition.running():
        for mail in mails:
            assert len(await front.replies(mail)) == each
    commits = [kind for kind in partition.disk.lines if kind in ("sync", "send")]
    assert commits == ["sync", "send"] * 3


async def test_text_has_a_bound_too(autojump_clock, partition, front, monkeypatch):
    monkeypatch.setattr(module, "BATCH_BYTES_MAX", 1_000)
    mails = [front.mail(enqueue(index, bytes(600))) for index in range(4)]
    async with partition.running():
        for mail in mails:
            await front.replies(mail)
    assert partition.log.next_lsn == 3


async def test_what_waits_when_the_mailbox_ends_is_answered(autojump_clock, partition, front):
    ids = front.mail(enqueue(1))
    partition.send.close()
    with trio.fail_after(5):
        await partition.actor.run(partition.receive)
        assert await front.replies(ids) == [Enqueued(job_id(1))]


async def test_replies_to_a_front_that_is_gone_go_nowhere(autojump_clock, partition, front):
    gone = Front(partition)
    partition.actor.greet(gone.pipe)
    gone.mail(enqueue(1))
    gone.hang_up()
    async with partition.running():
        (view,) = await front.ask(Get(job_id(1)))
        assert isinstance(view, JobView)
        partition.actor.forget(gone.pipe)
        gone.pipe.close()
        await front.ask(Lease(1_000))


# Texts --------------------------------------------------------------------------------------


async def test_texts_come_back_byte_for_byte(autojump_clock, partition, front):
    payload, result, error = ("ä\0€😀'\"" * 100).encode(), b"\0", "fehlgeschlagen €".encode()
    async with partition.running():
        await front.ask(enqueue(1, payload), enqueue(2, b"x"))
        leased, other = await front.ask(Lease(60_000), Lease(60_000))
        assert isinstance(leased, Leased)
        assert isinstance(other, Leased)
        assert leased.payload == payload
        await front.ask(Ack(job_id(1), 1, result), Fail(job_id(2), 2, error))
        first, second = await front.ask(Get(job_id(1)), Get(job_id(2)))
    assert first == JobView(
        job_id(1),
        "ACKED",
        1,
        3,
        START_MS,
        None,
        result,
        None,
        "owner",
        number=START_MS << NUMBER_SHIFT,
        finished_at_ms=START_MS,
    )
    assert isinstance(second, JobView)
    assert (second.state, second.result, second.result_error) == ("RETRY", None, error)


async def test_a_text_is_there_for_a_read_in_the_same_batch(autojump_clock, partition, front):
    async with partition.running():
        replies = await front.ask(
            enqueue(1, b"p"), Lease(60_000), Ack(job_id(1), 1, b"r"), Get(job_id(1))
        )
    assert [type(reply) for reply in replies] == [Enqueued, Leased, Settled, JobView]
    assert isinstance(replies[3], JobView)
    assert replies[3].result == b"r"
    assert partition.log.next_lsn == 2


async def test_an_empty_payload_comes_back_empty(autojump_clock, partition, front):
    async with partition.running():
        _, leased = await front.ask(enqueue(1, b""), Lease(1_000))
    assert isinstance(leased, Leased)
    assert leased.payload == b""


@pytest.mark.parametrize("text", [None, b"", b"r"])
async def test_the_same_ack_again_is_settled_and_another_is_refused(
    autojump_clock, partition, front, text
):
    async with partition.running():
        await front.ask(enqueue(1), Lease(60_000))
        acks = Ack(job_id(1), 1, text), Ack(job_id(1), 1, text), Ack(job_id(1), 1, b"other")
        assert await front.ask(*acks) == [
            Settled(job_id(1)),
            Settled(job_id(1)),
            LeaseLost(job_id(1)),
        ]


async def test_a_damaged_text_is_reported_and_costs_nobody_else(
    autojump_clock, partition, front, caplog
):
    async with partition.running():
        await front.ask(enqueue(1, b"to be damaged"), enqueue(2, b"healthy"))
        inode = partition.disk._inode(DIRECTORY / segment_name(1))
        inode.seen[inode.seen.index(b"to be damaged")] ^= 1
        bad, good = await front.ask(Lease(60_000), Lease(60_000))
    assert bad == Unreadable(job_id(1))
    assert isinstance(good, Leased)
    assert good.payload == b"healthy"
    assert job_id(1).hex() in caplog.text


async def test_long_replies_are_spread_over_frames(autojump_clock, partition, front):
    text = bytes(TEXT_BYTES_MAX // 2)
    async with partition.running():
        await front.ask(*(enqueue(index, text) for index in range(6)))
        before = front.frames
        leased = await front.ask(*[Lease(60_000)] * 6)
    assert [len(each.payload) for each in leased if isinstance(each, Leased)] == [len(text)] * 6
    # And one in which the queue is said to be empty.
    assert front.frames - before == 6 * len(text) // FRAME_BYTES_SOFT + 1


# Hints --------------------------------------------------------------------------------------


async def test_a_front_is_greeted_with_who_we_are_and_whether_there_is_work(
    autojump_clock, partition, front
):
    partition.actor.greet(front.pipe)
    assert await front.next_push() == Hello(3, 8)
    # With nothing to give there is nothing to hint at.
    partition.actor.greet(front.pipe)
    assert await front.next_push() == Hello(3, 8)


async def test_a_partition_that_recovered_ready_jobs_says_so(
    autojump_clock, partition, front, disk
):
    async with partition.running():
        await front.ask(enqueue(1))
    assert priorities(await front.next_push()) == {"default": 0}
    again = Partition(Journal())
    again.state.evolve(PartitionState().apply(enqueue(1), START_MS, lambda _: 64).events[0])
    actor = Actor(again.state, again.log, again.clock, sleep_ms_max=1, partition=0, partitions=1)
    actor.greet(front.pipe)
    assert await front.next_push() == Hello(0, 1)
    assert await front.next_push() == Hint([Head("default", 0, 1)])


async def test_what_recovery_found_is_hinted_at_when_it_is_gone(
    autojump_clock, partition, front, disk
):
    async with partition.running():
        await front.ask(enqueue(1))
    again = Partition(disk)
    other = Front(again)
    again.actor.greet(other.pipe)
    async with again.running():
        assert await other.next_push() == Hello(3, 8)
        assert priorities(await other.next_push()) == {"default": 0}
        await other.ask(Lease(60_000))
        assert priorities(await other.next_push()) == {"default": None}
    other.close()


async def test_hints_go_to_every_front_when_readiness_changes_and_only_then(
    autojump_clock, partition, front
):
    other = Front(partition)
    for each in (front, other):
        partition.actor.greet(each.pipe)
    async with partition.running():
        await front.ask(enqueue(1))
        await front.ask(enqueue(2))
        await front.ask(Lease(60_000))
        await front.ask(Lease(60_000))
        for each in (front, other):
            assert await each.next_push() == Hello(3, 8)
            line = (0, 1, START_MS, START_MS)
            assert await each.next_push() == Hint([Head("default", 0, 1, (line,))])
            # So few that a front cannot reckon with them itself are told of one by one.
            assert priorities(await each.next_push()) == {"default": 0}
            assert priorities(await each.next_push()) == {"default": 0}
            assert await each.next_push() == Hint([Head("default", None)])
        partition.actor.forget(other.pipe)
        await front.ask(enqueue(3))
        assert priorities(await front.next_push()) == {"default": 0}
    assert other.pushes == []


async def test_a_hint_is_told_again_when_the_priority_of_the_next_job_is_another(
    autojump_clock, partition, front
):
    partition.actor.greet(front.pipe)
    async with partition.running():
        for index, priority in enumerate([0, 0, 5, 5, 3]):
            await front.ask(of_queue(index, "q", priority))
        for _ in range(5):
            await front.ask(Lease(60_000, ("q",)))
        assert await front.next_push() == Hello(3, 8)
        told = [priorities(await front.next_push())]
        while told[-1] != {"q": None}:
            told.append(priorities(await front.next_push()))
    # Of so few jobs each change is told, of whatever priority.
    assert [each for each, _ in groupby(told)] == [
        {"q": 0},
        {"q": 5},
        {"q": 3},
        {"q": 0},
        {"q": None},
    ]
    assert front.pushes == []


async def test_the_queues_that_changed_in_one_batch_are_in_one_hint(
    autojump_clock, partition, front
):
    partition.actor.greet(front.pipe)
    async with partition.running():
        await front.ask(of_queue(1, "a", 1), of_queue(2, "b", 2), enqueue(3))
        assert await front.next_push() == Hello(3, 8)
        assert priorities(await front.next_push()) == {"a": 1, "b": 2, "default": 0}
        # One that came and went within a batch is none.
        await front.ask(of_queue(4, "c", 0), Lease(60_000, ("c",)))
        await front.ask(Pause("a", True))
        assert priorities(await front.next_push()) == {"a": None}
        await front.ask(Pause("a", False))
        assert priorities(await front.next_push()) == {"a": 1}


def of_queue(index: int, queue: str, priority: int) -> Enqueue:
    options = encode_options(Options(queue, priority))
    return Enqueue(job_id(index), b"payload", 3, "owner", options)


def priorities(push: Reply) -> dict[str, int | None]:
    assert isinstance(push, Hint)
    return {head.queue: head.priority for head in push.heads}


async def test_a_hint_is_sent_after_the_commit_that_made_it_true(autojump_clock, partition, front):
    partition.actor.greet(front.pipe)
    partition.disk.lines.clear()
    async with partition.running():
        await front.ask(enqueue(1))
        assert await front.next_push() == Hello(3, 8)
    assert partition.disk.lines == ["write", "sync", "send"]


async def test_hints_to_a_front_that_reads_nothing_do_not_pile_up(autojump_clock, partition, front):
    stuck = Front(partition)
    partition.actor.greet(stuck.pipe)
    stuck.pipe.send(bytes(2 * BACKLOG_BYTES_HIGH + (4 << 20)))
    async with partition.running():
        await front.ask(enqueue(1))
    assert stuck.pipe.backlog_bytes == 0


# Jobs that are waited for -------------------------------------------------------------------


async def test_a_front_that_watches_a_job_is_told_once_when_it_is_finished(
    autojump_clock, partition, front
):
    other = Front(partition)
    for each in (front, other):
        partition.actor.greet(each.pipe)
    async with partition.running():
        await front.ask(enqueue(1), enqueue(2), enqueue(3))
        (view, missing) = await front.ask(Get(job_id(1), watch=True), Get(job_id(9), watch=True))
        assert isinstance(view, JobView)
        assert missing == JobNotFound(job_id(9))
        await front.ask(Get(job_id(1), watch=True), Get(job_id(2), watch=True))
        await other.ask(Get(job_id(2), watch=True), Get(job_id(3)))
        await other.ask(*[Lease(60_000)] * 3)
        await other.ask(*(Ack(job_id(index), index, b"r") for index in (1, 2, 3)))
        assert sorted(await over(front)) == [job_id(1), job_id(2)]
        assert await over(other) == [job_id(2)]
        assert partition.actor._watchers == {}
        assert set(partition.actor._watched.values()) == {0}
        # What is finished already is not waited for.
        await front.ask(Get(job_id(1), watch=True))
        assert partition.actor._watchers == {}


@pytest.mark.parametrize(
    "end",
    [
        Cancel(job_id(1)),
        Fail(job_id(1), 1, b"e", retry=False),
        Many([Ack(job_id(1), 1, None)]),
        Sweep("default", "RETRY", "forget"),
    ],
    ids=lambda end: type(end).__name__,
)
async def test_however_a_job_ends_whoever_watches_it_is_told(autojump_clock, partition, front, end):
    partition.actor.greet(front.pipe)
    async with partition.running():
        await front.ask(enqueue(1), Lease(60_000), Get(job_id(1), watch=True))
        if isinstance(end, Sweep):
            await front.ask(Fail(job_id(1), 1, b"not the end"))
        await front.ask(end)
        assert await over(front) == [job_id(1)]


async def test_a_job_that_dies_by_itself_is_told_of_too(autojump_clock, partition, front):
    partition.actor.greet(front.pipe)
    async with partition.running():
        await front.ask(enqueue(1, max_retries=1), Lease(2_000), Get(job_id(1), watch=True))
        assert await over(front) == [job_id(1)]
        assert partition.clock.now_ms() == START_MS + 2_000


async def test_whoever_waits_no_more_or_is_gone_is_not_told(autojump_clock, partition, front):
    gone = Front(partition)
    for each in (front, gone):
        partition.actor.greet(each.pipe)
    async with partition.running():
        await front.ask(enqueue(1), Get(job_id(1), watch=True))
        await gone.ask(Get(job_id(1), watch=True))
        assert await front.ask(Unwatch(job_id(1))) == [Settled(job_id(1))]
        await front.ask(Unwatch(job_id(1)), Unwatch(job_id(9)))
        partition.actor.forget(gone.pipe)
        assert partition.actor._watchers == {}
        await front.ask(Cancel(job_id(1)), enqueue(2))
        await front.ask(Get(job_id(2)))
    for each in (front, gone):
        assert not [push for push in each.pushes if isinstance(push, JobsOver)]


async def test_a_front_watches_a_bounded_number_of_jobs(
    autojump_clock, partition, front, monkeypatch
):
    monkeypatch.setattr(module, "WATCHED_JOBS_MAX", 2)
    partition.actor.greet(front.pipe)
    async with partition.running():
        await front.ask(*(enqueue(index) for index in range(4)))
        watch = [Get(job_id(index), watch=True) for index in range(4)]
        replies = await front.ask(watch[0], watch[1], watch[2], watch[0])
        assert [type(reply) for reply in replies] == [JobView, JobView, TooMany, JobView]
        await front.ask(Unwatch(job_id(0)))
        assert isinstance((await front.ask(watch[3]))[0], JobView)


async def over(front: Front) -> list[bytes]:
    """The jobs that the next push of that kind names."""
    while not isinstance(push := await front.next_push(), JobsOver):
        pass
    return push.job_ids


# Many at once -------------------------------------------------------------------------------


async def test_a_batch_is_one_commit_and_one_answer_in_order(autojump_clock, partition, front):
    async with partition.running():
        jobs = [enqueue(index, b"%d" % index) for index in range(500)]
        assert await front.ask(EnqueueMany(jobs)) == [EnqueuedMany(bytes(500))]
        (leased,) = await front.ask(LeaseMany(Lease(60_000, worker="w"), 500))
        assert isinstance(leased, LeasedMany)
        assert [each.payload for each in leased.jobs] == [job.payload for job in jobs]
        acks = [Ack(each.job_id, each.lease_token, each.payload) for each in leased.jobs]
        lost = Ack(job_id(0), 99_999, None)
        (replies,) = await front.ask(Many([*acks, acks[0], lost]))
        assert isinstance(replies, Replies)
        assert replies.replies == [
            *(Settled(each.job_id) for each in acks),
            Settled(job_id(0)),
            LeaseLost(job_id(0)),
        ]
        assert partition.log.next_lsn == 4
        (page,) = await front.ask(List(0, 2))
    assert isinstance(page, Page)
    assert [(view.job_id, view.state, view.result) for view in page.jobs] == [
        (job_id(0), "ACKED", None),
        (job_id(1), "ACKED", None),
    ]


async def test_of_many_leases_one_that_cannot_be_read_costs_no_other(
    autojump_clock, partition, front, caplog
):
    async with partition.running():
        await front.ask(enqueue(1), enqueue(2, b"to be damaged"), enqueue(3))
        inode = partition.disk._inode(DIRECTORY / segment_name(1))
        inode.seen[inode.seen.index(b"to be damaged")] ^= 1
        (leased,) = await front.ask(LeaseMany(Lease(60_000), 3))
        assert isinstance(leased, LeasedMany)
        assert [each.job_id for each in leased.jobs] == [job_id(1), job_id(3)]
        assert job_id(2).hex() in caplog.text
        await trio.sleep(61)
        # All three came back; alone it is an answer of its own.
        await front.ask(Cancel(job_id(1)), Cancel(job_id(3)))
        assert await front.ask(LeaseMany(Lease(60_000), 3)) == [Unreadable(job_id(2))]


async def test_an_error_that_cannot_be_read_is_missing_from_a_page_and_no_more(
    autojump_clock, partition, front
):
    async with partition.running():
        await front.ask(enqueue(1), enqueue(2), Lease(60_000), Lease(60_000))
        await front.ask(Fail(job_id(1), 1, b"to be damaged"), Fail(job_id(2), 2, b"healthy"))
        inode = partition.disk._inode(DIRECTORY / segment_name(1))
        inode.seen[inode.seen.index(b"to be damaged")] ^= 1
        (page,) = await front.ask(List(0, 10))
    assert isinstance(page, Page)
    assert [view.result_error for view in page.jobs] == [None, b"healthy"]


# Time ---------------------------------------------------------------------------------------


async def test_an_expired_lease_is_noticed_at_its_deadline_without_a_request(
    autojump_clock, partition, front
):
    partition.actor.greet(front.pipe)
    async with partition.running():
        await front.ask(enqueue(1), Lease(1_234))
        front.pushes.clear()
        assert priorities(await front.next_push()) == {"default": 0}
        assert partition.clock.now_ms() == START_MS + 1_234
        (view,) = await front.ask(Get(job_id(1)))
    assert isinstance(view, JobView)
    assert (view.state, view.result_error) == ("RETRY", b"lease expired")


async def test_a_job_is_leasable_the_moment_its_backoff_is_over(autojump_clock, partition, front):
    partition.actor.greet(front.pipe)
    async with partition.running():
        await front.ask(enqueue(1), Lease(600), Fail(job_id(1), 1, b"e"))
        front.pushes.clear()
        delay_ms = Policy().backoff.delay_ms(job_id(1), 1)
        assert priorities(await front.next_push()) == {"default": 0}
        assert partition.clock.now_ms() == START_MS + delay_ms
        (leased,) = await front.ask(Lease(600))
        assert isinstance(leased, Leased)
        assert leased.attempt == 2


async def test_finished_jobs_are_forgotten_without_a_request(autojump_clock, partition, front):
    async with partition.running():
        await front.ask(enqueue(1), Lease(600), Ack(job_id(1), 1, None))
        await trio.sleep(70)
        assert len(partition.state) == 0
    assert len(partition.state) == 0


async def test_it_sleeps_while_there_is_nothing_to_do(autojump_clock, partition, front):
    async with partition.running():
        await front.ask(enqueue(1))
        before = partition.clock.readings
        await trio.sleep(100)
        assert partition.clock.readings - before < 100


# Disk full ----------------------------------------------------------------------------------


def fill_up(partition: Partition) -> None:
    """From now on there is no space for more zeros."""
    partition.disk.space_bytes = partition.disk.used_bytes()


def use_up_the_reserve(partition: Partition) -> None:
    """Make the log believe that no zeros are left ahead of it."""
    fill_up(partition)
    partition.log._tail.zeros_end_bytes = partition.log._tail.offset_bytes


BIG = enqueue(1_000, bytes(TEXT_BYTES_MAX))


async def test_a_full_disk_refuses_new_jobs_and_goes_on_with_the_rest(
    autojump_clock, partition, front, caplog
):
    caplog.set_level(logging.INFO)
    async with partition.running():
        await front.ask(enqueue(1), enqueue(2))
        fill_up(partition)
        assert await front.ask(BIG, Lease(60_000), enqueue(3)) == [
            StorageFull(),
            Leased(job_id(1), b"payload", START_MS + 60_000, 1, 1, 3, START_MS),
            StorageFull(),
        ]
        assert await front.ask(BIG, Ack(job_id(1), 1, b"r"), Get(job_id(3))) == [
            StorageFull(),
            Settled(job_id(1)),
            JobNotFound(job_id(3)),
        ]
        # A batch that just fits is no sign of room.
        await front.ask(Get(job_id(1)))
        assert "has room again" not in caplog.text
        partition.disk.space_bytes = None
        assert await front.ask(BIG) == [Enqueued(BIG.job_id)]
        await trio.sleep(2)
        await front.ask(Get(job_id(1)))
        crashed = partition.disk.crash(LOST)
    words = [record.message for record in caplog.records]
    assert [word for word in words if "disk" in word] == [
        "disk full: new jobs are refused until there is room again",
        "disk has room again: new jobs are taken",
    ]
    state = PartitionState()
    recover(crashed, DIRECTORY, IDENTITY, state, SIZES)
    assert len(state) == 3


async def test_hundreds_of_acks_fit_the_reserve(autojump_clock, partition, front):
    async with partition.running():
        await front.ask(*(enqueue(index) for index in range(400)))
        tokens = await front.ask(*[Lease(60_000)] * 400)
        fill_up(partition)
        assert await front.ask(BIG) == [StorageFull()]
        for index, lease in enumerate(tokens):
            assert isinstance(lease, Leased)
            assert await front.ask(Ack(lease.job_id, lease.lease_token, b"r")) == [
                Settled(job_id(index))
            ]


async def test_batches_go_on_from_the_reserve_when_they_fit_and_submits_do_not(
    autojump_clock, partition, front
):
    async with partition.running():
        await front.ask(EnqueueMany([enqueue(index) for index in range(40)]))
        fill_up(partition)
        assert await front.ask(BIG, EnqueueMany([enqueue(50)])) == [StorageFull()] * 2
        _, leased = await front.ask(BIG, LeaseMany(Lease(60_000), 40))
        assert isinstance(leased, LeasedMany)
        assert len(leased.jobs) == 40
        acks: list[Ack | Fail | Extend | Release] = [
            Ack(each.job_id, each.lease_token, b"r") for each in leased.jobs
        ]
        large = Many([Ack(acks[0].job_id, 1, bytes(TEXT_BYTES_MAX)), *acks[1:]])
        refused, settled = (await front.ask(BIG, large, Many(acks[:20])))[1:]
        assert refused == StorageFull()
        assert settled == Replies([Settled(each.job_id) for each in acks[:20]])
        held = acks[20]
        replies = await front.ask(
            BIG,
            Extend(held.job_id, 21, 90_000),
            Release(held.job_id, 21),
            Cancel(held.job_id),
            Retry(held.job_id),
            Pause("default", True),
            Sweep("default", "READY", "forget", scan=50),
        )
        assert [type(reply) for reply in replies] == [
            StorageFull, Extended, Settled, Settled, Settled, Settled, Swept,
        ]  # fmt: skip
        (_, page, queues) = await front.ask(BIG, List(0, 100), ViewQueues())
        assert isinstance(page, Page)
        assert isinstance(queues, QueueViews)
        assert queues.queues[0].counts == {"ACKED": 20, "RUNNING": 19}
        assert len(page.jobs) == 39


async def test_without_even_the_reserve_only_reads_are_answered(autojump_clock, partition, front):
    async with partition.running():
        await front.ask(enqueue(1), Lease(60_000))
        use_up_the_reserve(partition)
        before = len(partition.disk.operations)
        ack, lease, submit, view, page, queues = await front.ask(
            Ack(job_id(1), 1, b"r"),
            Lease(5),
            enqueue(2),
            Get(job_id(1)),
            List(0, 10),
            ViewQueues(),
        )
        assert [ack, lease, submit] == [StorageFull()] * 3
        assert isinstance(view, JobView)
        assert view.state == "RUNNING"
        page, queues, one, unwatched = await front.ask(
            List(0, 100), ViewQueues(), ViewQueues("default"), Unwatch(job_id(1))
        )
        assert isinstance(page, Page)
        assert [each.state for each in page.jobs] == ["RUNNING"]
        assert isinstance(queues, QueueViews)
        assert queues == one
        assert queues.queues[0].counts == {"RUNNING": 1}
        assert unwatched == Settled(job_id(1))
        assert "sync" not in [each.kind for each in partition.disk.operations[before:]]
        partition.disk.space_bytes = None
        assert await front.ask(Ack(job_id(1), 1, b"r")) == [Settled(job_id(1))]


async def test_a_deadline_that_there_is_no_room_for_is_awaited_and_not_spun_on(
    autojump_clock, partition, front
):
    partition.actor.greet(front.pipe)
    async with partition.running():
        await front.ask(enqueue(1), Lease(1_000))
        front.pushes.clear()
        use_up_the_reserve(partition)
        partition.clock.readings_max = partition.clock.readings + 200
        await trio.sleep(20)
        assert front.pushes == []
        partition.disk.space_bytes = None
        # It heals within seconds, without a request.
        with trio.fail_after(5):
            assert priorities(await front.next_push()) == {"default": 0}


async def test_a_log_that_cannot_make_zeros_for_another_reason_ends_the_actor(
    autojump_clock, partition, front
):
    front.mail(BIG, Get(job_id(1)))
    partition.disk.faults = Faults(fail_at=0, fail_kinds=("write",), error=errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        await partition.actor.run(partition.receive)
    assert "send" not in partition.disk.lines


# Stuck fronts -------------------------------------------------------------------------------


async def test_a_front_that_takes_no_replies_is_cut_off_and_the_others_go_on(
    autojump_clock, partition, front
):
    stuck = Front(partition)
    started = trio.current_time()
    async with partition.running():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stuck.pipe.receive)
            await front.ask(*(enqueue(index, bytes(TEXT_BYTES_MAX)) for index in range(14)))
            stuck.mail(*[Lease(600_000)] * 14)
            assert await front.ask(Get(job_id(99))) == [JobNotFound(job_id(99))]
            assert 4 <= trio.current_time() - started <= 8
            # Cut off: whoever waits for its requests learns it, and nothing is kept for it.
        assert stuck.pipe.backlog_bytes == 0
        assert await front.ask(enqueue(50)) == [Enqueued(job_id(50))]


async def test_a_front_that_is_slow_but_reads_is_waited_for(autojump_clock, partition, front):
    async with partition.running():
        await front.ask(*(enqueue(index, bytes(TEXT_BYTES_MAX)) for index in range(14)))
        ids = front.mail(*[Lease(600_000)] * 14)
        await trio.sleep(3)
        assert all(isinstance(reply, Leased) for reply in await front.replies(ids))


async def test_replies_that_are_long_without_texts_are_spread_over_frames_too(
    autojump_clock, partition, front
):
    options = encode_options(Options(tags=(("k", "v" * 4_000),)))
    jobs = [Enqueue(job_id(index), b"p", 3, "owner", options) for index in range(300)]
    async with partition.running():
        await front.ask(EnqueueMany(jobs))
        before = front.frames
        pages = await front.ask(*[List(0, 300)] * 4)
        assert [len(page.jobs) for page in pages if isinstance(page, Page)] == [300] * 4
        assert front.frames - before == 4
        before = front.frames
        leased = await front.ask(*[LeaseMany(Lease(60_000), 150)] * 2, ViewQueues())
        assert [len(each.jobs) for each in leased if isinstance(each, LeasedMany)] == [150] * 2
        assert front.frames - before == 2


def test_what_no_record_could_hold_is_more_than_one_mail():
    worker = "\U0001f600" * WORKER_CHARS_MAX
    many = LeaseMany(Lease(None, ("default",), worker), LEASE_JOBS_MAX)
    requests = [Request(number, many) for number in range(1, 129)]
    mails = Mail.of(None, requests)  # type: ignore[arg-type]
    assert [each for mail in mails for each in mail.requests] == requests
    assert len(mails) > 1
    assert all(mail.record_bytes <= BATCH_BYTES_MAX for mail in mails)
    assert len(Mail.of(None, requests[:2])) == 1  # type: ignore[arg-type]
