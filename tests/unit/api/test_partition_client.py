import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from api import partition_client
from api.calls import driven
from api.errors import OverloadedError, PartitionUnavailableError
from api.partition_client import PartitionClient
from partitions.limits import FRAME_REQUESTS_MAX
from partitions.messages import (
    PUSH_ID,
    Command,
    Enqueue,
    Enqueued,
    Get,
    Head,
    Hello,
    Hint,
    JobNotFound,
    JobsOver,
    Lease,
    NothingReady,
    Reply,
    Response,
    Tick,
    Unwatch,
    encode_responses,
)
from partitions.slots import make_job_id
from tests.support.by_hand import HandPartition
from tests.support.fake_partition import FakePartition, Fault
from tests.support.polling import until
from tests.support.stateful import START_MS

HEAD = Head("default", 0, 1)


def told(client: PartitionClient) -> dict[str, Head]:
    return {queue: known.head for queue, known in client.heads.items()}


def job_id(number: int, slot: int = 0) -> bytes:
    return make_job_id(START_MS, number, slot)


class Calls:
    """Calls that run at the same time, and what became of each."""

    def __init__(self, client: PartitionClient, nursery: trio.Nursery) -> None:
        self._client = client
        self._nursery = nursery
        self.started = 0
        self.replies: list[Reply] = []
        self.errors: list[Exception] = []
        self.scope = trio.CancelScope()

    def start(self, commands: Sequence[Command], text_bytes: int = 0) -> None:
        for command in commands:
            self._nursery.start_soon(self._call, command, text_bytes)

    async def _call(self, command: Command, text_bytes: int) -> None:
        self.started += 1
        with trio.CancelScope() as scope:
            self.scope = scope
            try:
                self.replies.append(await self._client.call(command, text_bytes))
            except (OverloadedError, PartitionUnavailableError) as error:
                self.errors.append(error)

    @property
    def ended(self) -> int:
        return len(self.replies) + len(self.errors)


@pytest.fixture
def partition(tmp_path: Path) -> FakePartition:
    return FakePartition(tmp_path / "p.sock")


@pytest.fixture
async def running(partition: FakePartition, nursery: trio.Nursery) -> FakePartition:
    await nursery.start(partition.run)
    return partition


@pytest.fixture
async def client(running: FakePartition, nursery: trio.Nursery) -> PartitionClient:
    client = PartitionClient(0, 1, running.path)
    nursery.start_soon(client.run)
    with trio.fail_after(5):
        await client.wait_serving()
    return client


@pytest.fixture
def calls(client: PartitionClient, nursery: trio.Nursery) -> Calls:
    return Calls(client, nursery)


@asynccontextmanager
async def second_life(partition: FakePartition) -> AsyncIterator[None]:
    """The partition serves inside the block only."""
    async with trio.open_nursery() as nursery:
        await nursery.start(partition.run)
        yield
        nursery.cancel_scope.cancel()


async def test_a_call_returns_the_partitions_reply(client: PartitionClient) -> None:
    assert await client.call(Enqueue(job_id(1), b"text", 3, "me"), 4) == Enqueued(job_id(1))
    assert await client.call(Get(job_id(2))) == JobNotFound(job_id(2))


async def test_calls_of_one_scheduler_pass_travel_in_one_frame(
    running: FakePartition, calls: Calls
) -> None:
    calls.start([Enqueue(job_id(n), b"x", 3, "me") for n in range(50)], text_bytes=1)
    await until(lambda: calls.ended == 50)
    assert [len(frame) for frame in running.frames] == [50]
    assert sorted(calls.replies, key=repr) == sorted(
        (Enqueued(job_id(n)) for n in range(50)), key=repr
    )


async def test_calls_of_two_passes_travel_in_two_frames(
    running: FakePartition, client: PartitionClient
) -> None:
    await client.call(Lease(1000))
    await client.call(Lease(1000))
    assert [len(frame) for frame in running.frames] == [1, 1]


async def test_each_reply_reaches_the_caller_that_asked(
    running: FakePartition, client: PartitionClient
) -> None:
    answered: dict[int, Reply] = {}

    async def ask(number: int) -> None:
        answered[number] = await client.call(Get(job_id(number)))

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(ask, number)
    assert answered == {number: JobNotFound(job_id(number)) for number in range(200)}
    # As few frames as their bound allows: one pass of the scheduler made all the calls.
    assert [len(frame) for frame in running.frames] == [
        FRAME_REQUESTS_MAX,
        200 - FRAME_REQUESTS_MAX,
    ]


async def test_large_texts_travel_in_frames_of_their_own(
    running: FakePartition, calls: Calls
) -> None:
    text = b"x" * (1 << 20)
    calls.start([Enqueue(job_id(n), text, 3, "me") for n in range(20)], text_bytes=len(text))
    await until(lambda: calls.ended == 20)
    assert len(calls.replies) == 20
    assert [len(frame) for frame in running.frames] == [1] * 20


async def test_beyond_the_bound_of_requests_a_call_is_refused_and_nothing_is_sent(
    running: FakePartition, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 3)
    running.faults = [Fault.MUTE]
    calls.start([Lease(1000)] * 5)
    await until(lambda: len(calls.errors) == 2)
    assert [type(error) for error in calls.errors] == [OverloadedError, OverloadedError]
    await until(lambda: len(running.commands) == 3)


async def test_beyond_the_bound_of_bytes_a_call_is_refused(
    running: FakePartition, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_client, "IN_FLIGHT_BYTES_MAX", 100)
    running.faults = [Fault.MUTE]
    calls.start([Lease(1000)] * 3, text_bytes=40)
    await until(lambda: len(calls.errors) == 1)
    assert isinstance(calls.errors[0], OverloadedError)
    calls.start([Lease(1000)], text_bytes=0)
    await until(lambda: calls.ended == 2)
    assert calls.replies == [NothingReady()], "what needs no bytes is not refused for bytes"


async def test_replies_make_room_again(
    client: PartitionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 1)
    monkeypatch.setattr(partition_client, "IN_FLIGHT_BYTES_MAX", 10)
    for number in range(20):
        reply = await client.call(Enqueue(job_id(number), b"x" * 10, 3, "me"), 10)
        assert reply == Enqueued(job_id(number))


async def test_a_cancelled_caller_leaves_nothing_in_flight(
    running: FakePartition, client: PartitionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 1)
    monkeypatch.setattr(partition_client, "IN_FLIGHT_BYTES_MAX", 10)
    for _ in range(5):
        running.faults = [Fault.MUTE]
        with trio.move_on_after(0) as scope:
            await client.call(Lease(1000), 10)
        assert scope.cancelled_caught
        await until(lambda: not running.faults or not client._outgoing)
        running.faults = []
        assert await client.call(Lease(1000), 10) == NothingReady()


async def test_a_late_reply_to_a_cancelled_caller_is_dropped(
    running: FakePartition, client: PartitionClient
) -> None:
    running.faults = [Fault.MUTE]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.call, Lease(1000))
        await until(lambda: len(running.frames) == 1)
        nursery.cancel_scope.cancel()
    late = running.frames[0][0].request_id
    await running.send(encode_responses([Response(late, NothingReady())]))
    await running.send(encode_responses([Response(late + 1000, NothingReady())]))
    assert await client.call(Get(job_id(1))) == JobNotFound(job_id(1))
    assert running.connections == 1


async def test_callers_that_gave_up_do_not_pile_up_before_a_partition_that_reads_nothing(
    running: FakePartition, client: PartitionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A client that submits and hangs up, again and again, while the partition's disk hangs.
    monkeypatch.setattr(partition_client, "BACKLOG_BYTES_HIGH", 1 << 20)
    text = b"x" * (1 << 20)
    with running.deaf():
        for number in range(100):
            with trio.move_on_after(0.002):
                await client.call(Enqueue(job_id(number), text, 3, "me"), len(text))
    await client.call(Get(job_id(1)))
    received = sum(isinstance(command, Enqueue) for command in running.commands)
    assert received < 20, f"{received} MiB were kept for callers that are gone"


async def test_a_disconnect_wakes_every_waiter_and_says_that_it_was_sent(
    running: FakePartition, calls: Calls
) -> None:
    running.faults = [Fault.MUTE]
    calls.start([Lease(1000)] * 10)
    await until(lambda: len(running.commands) == 10)
    running.hang_up()
    await until(lambda: calls.ended == 10)
    assert [error.sent for error in calls.errors if isinstance(error, PartitionUnavailableError)]
    assert all(
        isinstance(error, PartitionUnavailableError) and error.sent for error in calls.errors
    )


async def test_a_call_that_never_left_the_front_says_that_it_was_not_sent(
    running: FakePartition, client: PartitionClient, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_client, "BACKLOG_BYTES_HIGH", 1 << 20)
    text = b"x" * (1 << 20)
    with running.deaf():
        # More than the socket takes: the sender waits, and what comes next stays with us.
        calls.start([Enqueue(job_id(n), text, 3, "me") for n in range(8)], text_bytes=len(text))
        await until(lambda: calls.started == 8 and not client._outgoing)
        calls.start([Lease(1000)])
        await until(lambda: calls.started == 9)
        running.hang_up()
        await until(lambda: calls.ended == 9)
    errors = [error for error in calls.errors if isinstance(error, PartitionUnavailableError)]
    assert sorted(error.sent for error in errors) == [False] + [True] * 8


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set up before the client, which reads it as soon as it is connected."""
    monkeypatch.setattr(partition_client, "_SILENCE_S", 0.2)
    monkeypatch.setattr(partition_client, "_HELLO_WITHIN_S", 0.2)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like ``impatient``, with room for a machine that stalls."""
    monkeypatch.setattr(partition_client, "_SILENCE_S", 1.0)


@pytest.mark.usefixtures("impatient")
async def test_a_partition_that_hangs_is_cut_off_and_taken_back_when_it_answers_again(
    running: FakePartition, client: PartitionClient, calls: Calls
) -> None:
    with running.deaf():
        calls.start([Lease(1000)] * 3)
        await until(lambda: calls.ended == 3)
        assert all(
            isinstance(error, PartitionUnavailableError) and error.sent and error.hangs
            for error in calls.errors
        )
        await until(lambda: running.connections >= 3)
        assert not client.serving
    with trio.fail_after(5):
        await client.wait_serving()
    assert await client.call(Lease(1000)) == NothingReady()


@pytest.mark.usefixtures("impatient")
async def test_a_hang_is_noticed_though_every_caller_gives_up_early(
    running: FakePartition, client: PartitionClient
) -> None:
    with running.deaf(), trio.fail_after(5):
        while client.serving:
            with trio.move_on_after(0.005), contextlib.suppress(PartitionUnavailableError):
                await client.call(Lease(1000))


@pytest.mark.usefixtures("patient")
async def test_a_slow_partition_that_still_answers_is_not_cut_off(
    running: FakePartition, client: PartitionClient, calls: Calls
) -> None:
    running.faults = [Fault.MUTE]
    calls.start([Lease(1000)] * 12)
    await until(lambda: len(running.commands) == 12)
    for request in running.frames[0]:
        # All answers together take longer than it may say nothing.
        await trio.sleep(0.12)
        await running.send(encode_responses([Response(request.request_id, NothingReady())]))
    await until(lambda: calls.ended == 12)
    assert calls.errors == []
    assert running.connections == 1


@pytest.mark.usefixtures("impatient")
async def test_a_partition_that_owes_nothing_may_be_silent(
    running: FakePartition, client: PartitionClient
) -> None:
    await client.call(Lease(1000))
    before = running.connections
    await trio.sleep(0.6)
    assert client.serving
    assert running.connections == before


@pytest.mark.usefixtures("impatient")
async def test_a_partition_that_answers_acks_late_owes_nothing_afterwards(
    running: FakePartition, client: PartitionClient, calls: Calls
) -> None:
    running.faults = [Fault.MUTE]
    calls.start([Lease(1000)] * 3)
    await until(lambda: len(running.commands) == 3)
    requests = [request for frame in running.frames for request in frame]
    for request in reversed(requests):
        await running.send(encode_responses([Response(request.request_id, NothingReady())]))
    await until(lambda: calls.ended == 3)
    assert calls.errors == []
    before = running.connections
    await trio.sleep(0.6)
    assert client.serving
    assert running.connections == before


async def test_without_a_connection_a_call_is_refused_as_not_sent(
    partition: FakePartition,
) -> None:
    client = PartitionClient(0, 1, partition.path)
    assert not client.serving
    with pytest.raises(PartitionUnavailableError) as caught:
        await client.call(Tick())
    assert not caught.value.sent


async def test_it_connects_when_the_partition_appears_and_again_after_every_loss(
    partition: FakePartition, nursery: trio.Nursery
) -> None:
    client = PartitionClient(0, 1, partition.path)
    nursery.start_soon(client.run)
    for life in range(3):
        async with second_life(partition):
            with trio.fail_after(5):
                await client.wait_serving()
            assert await client.call(Get(job_id(life))) == JobNotFound(job_id(life))
        await until(lambda: not client.serving)
        with pytest.raises(PartitionUnavailableError):
            await client.call(Tick())


class ExhaustedSockets:
    """The ``socket`` module in a process that has no descriptor left, at first."""

    AF_UNIX, SOCK_STREAM = socket.AF_UNIX, socket.SOCK_STREAM

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def socket(self, family: int, kind: int) -> socket.socket:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return socket.socket(family, kind)


async def test_without_a_descriptor_it_tries_again_and_does_not_end_the_front(
    running: FakePartition, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = ExhaustedSockets(failures=3)
    monkeypatch.setattr(partition_client, "socket", sockets)
    client = PartitionClient(0, 1, running.path)
    nursery.start_soon(client.run)
    with trio.fail_after(5):
        await client.wait_serving()
    assert sockets.failures == 0


async def test_whoever_waits_for_a_partition_outlasts_its_failed_greetings(
    running: FakePartition, nursery: trio.Nursery
) -> None:
    right, running.greeting = running.greeting, b""
    client = PartitionClient(0, 1, running.path)
    served = trio.Event()

    async def wait() -> None:
        await client.wait_serving()
        served.set()

    nursery.start_soon(wait)
    nursery.start_soon(client.run)
    await until(lambda: running.connections >= 2)
    running.greeting = right
    await until(served.is_set)


async def test_after_a_loss_requests_of_the_old_connection_are_not_sent_on_the_new(
    running: FakePartition, client: PartitionClient, calls: Calls
) -> None:
    running.faults = [Fault.LOST_BEFORE]
    calls.start([Lease(1), Lease(2)])
    await until(lambda: calls.ended == 2)
    with trio.fail_after(5):
        await client.wait_serving()
    await client.call(Lease(3))
    assert sorted(running.commands, key=repr) == [Lease(1), Lease(2), Lease(3)]
    assert [len(frame) for frame in running.frames] == [2, 1]


@pytest.mark.parametrize(
    "greeting",
    [
        encode_responses([Response(PUSH_ID, Hello(1, 2))]),
        encode_responses([Response(PUSH_ID, Hello(0, 2))]),
        encode_responses([Response(PUSH_ID, Hint([HEAD]))]),
        encode_responses([Response(1, NothingReady())]),
        encode_responses([]),
        b"",
        b"\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_wrong_greeting_is_never_served_and_does_not_end_the_front(
    running: FakePartition, nursery: trio.Nursery, greeting: bytes
) -> None:
    right, running.greeting = running.greeting, greeting
    client = PartitionClient(0, 1, running.path)
    nursery.start_soon(client.run)
    await until(lambda: running.connections >= 2)
    assert not client.serving
    running.greeting = right
    with trio.fail_after(5):
        await client.wait_serving()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",  # a frame of 4 GiB
        b"\x00\x00\x00\x01\xc1",  # a byte that msgpack never uses
        b"\x00\x00\x00\x00",  # an empty frame
        b"\x00\x00\x00\x03\x91\x01\x02",  # not an array of pairs
        b"\x00\x00\x00\x07\x91\x92\x01\x92\x63\xa1\xff",  # an unknown tag, text not UTF-8
        b"\x00\x00\x10\x05\x91\x93\x01\x91\x03" + b"\x91" * 4096,  # nested 4096 deep
        b"\x00\x00\x00\x08\x91\x92\x01\x93\x06\xc4\x00\xa1",  # cut short inside
        b"\x00\x00\x00\x09\x91\x92\x01\x93\x06\xc4\x00\xa1\xff",  # a state that is not UTF-8
    ],
)
async def test_garbage_breaks_the_connection_and_the_next_one_serves(
    running: FakePartition, client: PartitionClient, calls: Calls, garbage: bytes
) -> None:
    running.faults = [Fault.MUTE]
    calls.start([Lease(1000)])
    await until(lambda: len(running.frames) == 1)
    await running.send_raw(garbage)
    await until(lambda: calls.ended == 1)
    assert isinstance(calls.errors[0], PartitionUnavailableError)
    await until(lambda: running.connections == 2 and client.serving)
    assert await client.call(Lease(1000)) == NothingReady()


async def test_hints_are_remembered_until_the_connection_is_lost(
    running: FakePartition, client: PartitionClient
) -> None:
    other = Head("mail", -3, 1)
    await running.push(Hint([HEAD, other]))
    await until(lambda: told(client) == {"default": HEAD, "mail": other})
    better = Head("mail", 5, 2)
    await running.push(Hint([Head("default", None), Head("unknown", None), better]))
    await until(lambda: told(client) == {"mail": better})
    running.hang_up()
    await until(lambda: running.connections == 2 and client.serving)
    assert client.heads == {}


async def test_a_hint_in_the_frame_of_the_greeting_counts(
    running: FakePartition, nursery: trio.Nursery
) -> None:
    running.greeting = encode_responses(
        [Response(PUSH_ID, Hello(0, 1)), Response(PUSH_ID, Hint([HEAD]))]
    )
    client = PartitionClient(0, 1, running.path)
    nursery.start_soon(client.run)
    await until(lambda: client.serving and told(client) == {"default": HEAD})


async def test_pushes_are_passed_on_and_so_is_that_it_went_and_came_back(
    running: FakePartition, client: PartitionClient
) -> None:
    told: list[object] = []
    client.on_heads = told.append
    client.on_over = told.append
    client.on_change = lambda: told.append(client.serving)
    await running.push(Hint([HEAD]))
    await running.push(JobsOver([job_id(1)]))
    await until(lambda: len(told) == 2)
    running.hang_up()
    await until(lambda: len(told) >= 4)
    assert told[:4] == [[HEAD], [job_id(1)], False, True]


async def test_what_is_posted_arrives_also_beyond_the_bound_but_for_very_many(
    running: FakePartition, client: PartitionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 0)
    monkeypatch.setattr(partition_client, "_POSTS_MAX", 2)
    with pytest.raises(OverloadedError):
        await client.call(Lease(1000))
    posted = [Unwatch(job_id(number)) for number in range(3)]
    for command in posted:
        client.post(command)
    await until(lambda: running.commands == posted[:2])
    monkeypatch.undo()
    assert await client.call(Lease(1000)) == NothingReady()
    assert running.commands == [*posted[:2], Lease(1000)]


def test_what_is_posted_while_the_partition_is_down_is_dropped() -> None:
    partition = HandPartition()
    partition.lose()
    partition.client.post(Unwatch(job_id(1)))
    partition.connect()
    assert not partition.serve()


async def test_a_reply_to_somebody_who_is_gone_goes_to_whoever_takes_it_for_him(
    running: FakePartition, client: PartitionClient
) -> None:
    orphans: list[Reply] = []
    running.faults = [Fault.MUTE]
    with trio.move_on_after(0.05):
        await driven(client.ask(Lease(1000), 0, orphans.append))
    request_id = running.frames[0][0].request_id
    assert orphans == []
    await running.send(encode_responses([Response(request_id, NothingReady())]))
    await until(lambda: orphans == [NothingReady()])


def test_a_reply_that_came_in_the_moment_of_leaving_is_not_lost() -> None:
    # It is there, but whoever asked was not brought on by it yet.
    partition = HandPartition()
    orphans: list[Reply] = []
    waiting = partition.client.ask(Lease(1000), 0, orphans.append)
    waiting.send(None)
    partition.serve()
    waiting.close()
    assert orphans == [NothingReady()]


def test_a_command_that_was_not_sent_yet_is_not_sent_for_somebody_who_is_gone() -> None:
    partition = HandPartition()
    orphans: list[Reply] = []
    waiting = partition.client.ask(Lease(1000), 0, orphans.append)
    waiting.send(None)
    waiting.close()
    assert not partition.serve()
    assert orphans == []


async def test_ending_the_client_wakes_its_callers(running: FakePartition) -> None:
    client = PartitionClient(0, 1, running.path)
    running.faults = [Fault.MUTE]
    async with trio.open_nursery() as outer:
        calls = Calls(client, outer)
        async with trio.open_nursery() as inner:
            inner.start_soon(client.run)
            await client.wait_serving()
            calls.start([Lease(1000)])
            await until(lambda: len(running.frames) == 1)
            inner.cancel_scope.cancel()
        await until(lambda: calls.ended == 1)
    assert isinstance(calls.errors[0], PartitionUnavailableError)
