import pytest
import trio
from trio.testing import MockClock

from api import partition_client, problems
from api.asking import AGAIN_WITHIN_S, ask_each, ask_one, refused
from api.calls import driven
from api.problems import Problem
from partitions.messages import (
    Ack,
    Command,
    Get,
    JobNotFound,
    List,
    NothingReady,
    Reply,
    Settled,
    StorageFull,
    TooMany,
    Unreadable,
    Unwatch,
    ViewQueues,
)
from tests.support.by_hand import HandPartition, Run, partitions_of, settle

ID = b"\1" * 16
FOUND: Reply = JobNotFound(ID)
GET: Command = Get(ID)
HELD: Command = Ack(ID, 1, None)
UNHELD: Command = Ack(ID, None, None)


class Asked:
    """``ask_one`` in a task, and what came of it."""

    def __init__(
        self, nursery: trio.Nursery, partition: HandPartition, command: Command = GET
    ) -> None:
        self.outcome: Reply | Problem | None = None
        self._partition = partition
        self._command = command
        nursery.start_soon(self._ask)

    async def _ask(self) -> None:
        self.outcome = await driven(ask_one(self._partition.client, self._command))


ENDS_OF_LOST = [
    (HELD, problems.OUTCOME_UNKNOWN),
    # Reads have changed nothing.
    (Get(ID), problems.PARTITION_DOWN),
    (List(0, 1), problems.PARTITION_DOWN),
    (ViewQueues(), problems.PARTITION_DOWN),
]
of_what_is_lost = pytest.mark.parametrize(("command", "end"), ENDS_OF_LOST)


def test_what_may_be_sent_again_says_so() -> None:
    assert dict(problems.PARTITION_DOWN.headers)["Retry-After"]
    assert not problems.OUTCOME_UNKNOWN.headers


@pytest.fixture
def partition() -> HandPartition:
    return HandPartition()


blocked = trio.testing.wait_all_tasks_blocked


def test_a_reply_is_what_is_returned(partition: HandPartition) -> None:
    run = Run(ask_one(partition.client, Get(ID)))
    partition.serve()
    assert run.result == FOUND


def test_one_that_is_down_was_not_asked_and_says_when_to_try_again(
    partition: HandPartition,
) -> None:
    partition.lose()
    assert Run(ask_one(partition.client, Get(ID))).result is problems.PARTITION_DOWN


def test_one_with_too_much_in_flight_was_not_asked(
    partition: HandPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 0)
    assert Run(ask_one(partition.client, Get(ID))).result is problems.OVERLOADED
    assert Run(ask_each([(partition.client, Get(ID), 0)])).result == [problems.OVERLOADED]


def test_lost_before_it_was_sent_nothing_has_happened(partition: HandPartition) -> None:
    run = Run(ask_one(partition.client, Get(ID)))
    partition.lose()
    assert run.result is problems.PARTITION_DOWN


def test_lost_on_its_way_nobody_knows_of_what_cannot_be_repeated(partition: HandPartition) -> None:
    run = Run(ask_one(partition.client, UNHELD, repeatable=False))
    partition.take()
    partition.lose()
    assert run.result is problems.OUTCOME_UNKNOWN


@of_what_is_lost
def test_one_that_hangs_is_not_waited_for(
    partition: HandPartition, command: Command, end: Problem
) -> None:
    run = Run(ask_one(partition.client, command))
    partition.take()
    partition.client._hangs = True
    partition.lose()
    assert run.result is end
    assert not run.needs_task


async def test_lost_on_its_way_it_is_asked_again_once_it_is_back(
    partition: HandPartition, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    asked = Asked(nursery, partition)
    await blocked()
    partition.take()
    partition.lose()
    await trio.sleep(AGAIN_WITHIN_S - 1)
    assert asked.outcome is None
    partition.connect()
    await blocked()
    assert partition.asked == [Get(ID)]
    partition.serve()
    await blocked()
    assert asked.outcome == FOUND


@of_what_is_lost
@pytest.mark.parametrize("sent", [False, True])
async def test_lost_twice_it_is_given_up(
    partition: HandPartition, nursery: trio.Nursery, sent: bool, command: Command, end: Problem
) -> None:
    asked = Asked(nursery, partition, command)
    for again in range(2):
        await blocked()
        assert partition.asked == [command]
        if sent or not again:
            partition.take()
        partition.lose()
        partition.connect()
    await blocked()
    assert asked.outcome is end, "of the first time"
    assert partition.asked == []


@of_what_is_lost
async def test_one_that_stays_away_is_not_waited_for_longer_than_clients_wait(
    partition: HandPartition,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    command: Command,
    end: Problem,
) -> None:
    asked = Asked(nursery, partition, command)
    await blocked()
    partition.take()
    partition.lose()
    await trio.sleep(AGAIN_WITHIN_S + 0.1)
    assert asked.outcome is end


@of_what_is_lost
async def test_one_that_is_back_and_answers_nothing_is_given_up_in_the_same_time(
    partition: HandPartition,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    command: Command,
    end: Problem,
) -> None:
    asked = Asked(nursery, partition, command)
    await blocked()
    partition.take()
    partition.lose()
    partition.connect()
    await trio.sleep(AGAIN_WITHIN_S + 0.1)
    assert asked.outcome is end
    assert not partition.client._calls, "nobody waits for it any more"


def test_each_is_asked_before_any_has_answered_and_replies_are_in_order() -> None:
    partitions = partitions_of(3)
    commands: list[Command] = [Get(ID), Unwatch(ID), Get(ID)]
    asked = [(each.client, command, 0) for each, command in zip(partitions, commands, strict=True)]
    run = Run(ask_each(asked))
    assert [each.asked for each in partitions] == [[command] for command in commands]
    for each in reversed(partitions):
        each.serve()
    assert run.result == [FOUND, Settled(ID), FOUND]


def test_what_fails_of_many_costs_no_other() -> None:
    partitions = partitions_of(4)
    partitions[1].lose()
    acks = [(each.client, UNHELD, 0) for each in partitions]
    run = Run(ask_each(acks, repeatable=False))
    partitions[2].take()
    partitions[2].lose()
    partitions[3].lose()
    settle(partitions)
    assert run.result == [
        FOUND,
        problems.PARTITION_DOWN,
        problems.OUTCOME_UNKNOWN,
        problems.PARTITION_DOWN,
    ]


async def test_many_lost_with_one_partition_are_waited_for_together(
    partition: HandPartition, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    outcomes: list[Reply | Problem] = []

    async def ask() -> None:
        outcomes.extend(await driven(ask_each([(partition.client, HELD, 0)] * 10)))

    nursery.start_soon(ask)
    await blocked()
    partition.take()
    partition.lose()
    await trio.sleep(AGAIN_WITHIN_S + 0.1)
    assert outcomes == [problems.OUTCOME_UNKNOWN] * 10


async def test_many_lost_with_one_partition_are_asked_again_in_order(
    partition: HandPartition, nursery: trio.Nursery
) -> None:
    outcomes: list[Reply | Problem] = []
    commands: list[Command] = [Get(ID), Unwatch(ID), Get(b"\2" * 16)]

    async def ask() -> None:
        asked = [(partition.client, command, 0) for command in commands]
        outcomes.extend(await driven(ask_each(asked)))

    nursery.start_soon(ask)
    await blocked()
    partition.take()
    partition.lose()
    partition.connect()
    for _ in range(3):
        await blocked()
        partition.serve()
    await blocked()
    assert outcomes == [FOUND, Settled(ID), JobNotFound(b"\2" * 16)]
    assert partition.commands == commands


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (problems.LEASE_LOST, problems.LEASE_LOST),
        (StorageFull(), problems.STORAGE_FULL),
        (TooMany("jobs"), problems.TOO_MANY_JOBS),
        (TooMany("queues"), problems.TOO_MANY_QUEUES),
        (TooMany("watched"), problems.TOO_MANY_WAITING),
        (Unreadable(ID), problems.unreadable("01010101-0101-0101-0101-010101010101")),
        (NothingReady(), problems.INTERNAL),
    ],
)
def test_what_any_operation_may_hear(reply: Reply | Problem, problem: Problem) -> None:
    assert refused(reply) == problem
