"""The intake: every request once, in the order of its front, whichever way it was read."""

import random
import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from partitions.framing import frame
from partitions.intake import Intake
from partitions.limits import FRAME_BYTES_MAX
from partitions.mail import Mail
from partitions.messages import Get, Request, encode_requests
from partitions.pipe import Pipe


class Front:
    """The other end of a pipe, and its requests."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair()
        self.pipe = Pipe(theirs)
        self._last_id = 0

    def frame(self) -> bytes:
        """Of its next request."""
        self._last_id += 1
        return frame(encode_requests([Request(self._last_id, Get(bytes(16)))]))

    def ask(self, frames: int = 1) -> None:
        self.ours.sendall(b"".join(self.frame() for _ in range(frames)))

    def close(self) -> None:
        self.ours.close()
        self.pipe.close()


@pytest.fixture
async def fronts() -> AsyncIterator[list[Front]]:
    made = [Front(), Front()]
    yield made
    for front in made:
        front.close()


def ids(mails: list[Mail], front: Front) -> list[int]:
    """Of the requests of that front."""
    mine = [mail for mail in mails if mail.pipe is front.pipe]
    return [request.request_id for mail in mine for request in mail.requests]


async def test_what_is_here_is_taken_without_a_turn_of_the_readers(fronts: list[Front]):
    intake = Intake()
    async with trio.open_nursery() as nursery:
        for front in fronts:
            nursery.start_soon(intake.read, front.pipe)
        await trio.testing.wait_all_tasks_blocked()
        assert intake.at_once() == []
        fronts[0].ask(2)
        fronts[1].ask()
        mails = intake.at_once()
        assert (ids(mails, fronts[0]), ids(mails, fronts[1])) == ([1, 2], [1])
        # The readers, which were woken for it, find nothing and wait on.
        await trio.testing.wait_all_tasks_blocked()
        assert intake.at_once() == []
        fronts[0].ask()
        await trio.testing.wait_all_tasks_blocked()
        assert ids(intake.at_once(), fronts[0]) == [3]
        nursery.cancel_scope.cancel()


async def test_nothing_is_read_past_a_front_whose_mails_still_wait_for_room(fronts: list[Front]):
    intake = Intake(1)
    front, _ = fronts
    async with trio.open_nursery() as nursery:
        nursery.start_soon(intake.read, front.pipe)
        front.ask(4)
        await trio.testing.wait_all_tasks_blocked()
        front.ask()
        taken: list[int] = []
        while mails := intake.at_once():
            taken += ids(mails, front)
        assert taken == [1, 2]  # in the mailbox, and at its door; more are behind that
        while len(taken) < 5:
            await trio.lowlevel.checkpoint()
            taken += ids(intake.at_once(), front)
        assert taken == [1, 2, 3, 4, 5]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(20))
async def test_every_request_comes_once_and_in_order(seed: int, fronts: list[Front]):
    draws = random.Random(seed)
    intake = Intake(draws.randint(1, 3))
    taken: dict[Front, list[int]] = {front: [] for front in fronts}

    async def ask(front: Front) -> None:
        for _ in range(60):
            data = b"".join(front.frame() for _ in range(draws.randint(1, 5)))
            for piece in (data[: (cut := draws.randrange(len(data)))], data[cut:]):
                front.ours.sendall(piece)
                if draws.random() < 0.3:
                    await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for front in fronts:
            nursery.start_soon(intake.read, front.pipe)
        async with trio.open_nursery() as asking:
            for front in fronts:
                asking.start_soon(ask, front)
            for _ in range(2_000):
                for mail in intake.at_once():
                    for front in fronts:
                        taken[front] += ids([mail], front)
                if draws.random() < 0.5:
                    await trio.lowlevel.checkpoint()
        while mails := intake.at_once():
            for front in fronts:
                taken[front] += ids(mails, front)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    for front in fronts:
        assert taken[front] == list(range(1, front._last_id + 1))


@pytest.mark.parametrize(
    "data", [(FRAME_BYTES_MAX + 1).to_bytes(4, "big"), frame(b"no request")], ids=["length", "body"]
)
@pytest.mark.parametrize("by", ["the reader", "the actor"])
async def test_a_front_that_sends_what_is_no_request_is_cut_off_and_the_other_is_heard(
    by: str, data: bytes, fronts: list[Front], caplog: pytest.LogCaptureFixture
):
    intake = Intake()
    bad, good = fronts
    ended = trio.Event()

    async def read_bad() -> None:
        await intake.read(bad.pipe)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_bad)
        nursery.start_soon(intake.read, good.pipe)
        await trio.testing.wait_all_tasks_blocked()
        bad.ours.sendall(data)
        good.ask()
        if by == "the reader":
            await trio.testing.wait_all_tasks_blocked()
        assert ids(intake.at_once(), good) == [1]
        with trio.fail_after(5):
            await ended.wait()
        assert intake.at_once() == []
        nursery.cancel_scope.cancel()
    assert ["what is no request" in line for line in caplog.messages] == [True]


async def test_a_front_that_left_ends_its_reader_and_nothing_else(fronts: list[Front]):
    intake = Intake()
    gone, here = fronts
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as reading:
            reading.start_soon(intake.read, gone.pipe)
            await trio.testing.wait_all_tasks_blocked()
            gone.ask()
            gone.ours.close()
            assert ids(intake.at_once(), gone) == [1]
            assert intake.at_once() == []
        nursery.start_soon(intake.read, here.pipe)
        await trio.testing.wait_all_tasks_blocked()
        here.ask()
        assert ids(intake.at_once(), here) == [1]
        nursery.cancel_scope.cancel()


async def test_a_front_that_waits_for_the_mailbox_of_an_actor_that_died_is_no_fault_of_its_own(
    fronts: list[Front],
):
    # Else the disk's fault would come up among others, as a traceback instead of one line.
    intake = Intake(0)
    front, _ = fronts
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(intake.read, front.pipe)
            front.ask()
            await trio.testing.wait_all_tasks_blocked()
            intake.mailbox.close()
