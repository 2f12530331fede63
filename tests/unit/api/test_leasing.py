from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from api import partition_client
from api.calls import driven
from api.errors import OverloadedError, PartitionUnavailableError
from api.lease_schemas import LeaseRequest
from api.leasing import Leasing, UnexpectedReplyError
from api.parking import Deadlines
from partitions.limits import LEASE_BYTES_MAX
from partitions.messages import (
    Ack,
    Enqueue,
    Head,
    Hint,
    Lease,
    Leased,
    LeasedMany,
    LeaseMany,
    Many,
    NothingReady,
    Pause,
    Release,
    Reply,
    StorageFull,
    Unreadable,
)
from partitions.options import Options, encode_options
from partitions.slots import first_slot, make_job_id
from tests.support.by_hand import HandPartition, Run, partitions_of, settle
from tests.support.fake_partition import Fault
from tests.support.partitions import fleet_of
from tests.support.polling import until
from tests.support.stateful import START_MS, Stateful

ANY = LeaseRequest()
PATIENT = LeaseRequest(wait_ms=30_000)


def there() -> bool:
    return False


class Client:
    """Somebody at the other end, who may hang up."""

    def __init__(self) -> None:
        self.gone = False
        self.looks = 0

    def __call__(self) -> bool:
        self.looks += 1
        return self.gone


def store_job(
    partition: Stateful,
    number: int,
    count: int,
    queue: str = "default",
    priority: int = 0,
    payload: bytes = b"payload",
    group: str = "",
) -> bytes:
    job_id = make_job_id(START_MS, number, first_slot(partition.partition, count))
    options = encode_options(Options(queue, priority))
    partition.carry_out(Enqueue(job_id, payload, 3, "me", options, group=group))
    return job_id


def leasing_of(partitions: list[HandPartition]) -> Leasing:
    return Leasing([each.client for each in partitions], Deadlines())


def asked(partition: HandPartition) -> int:
    return sum(isinstance(command, Lease | LeaseMany) for command in partition.commands)


def lease(
    leasing: Leasing,
    partitions: list[HandPartition],
    request: LeaseRequest = ANY,
    gone: Callable[[], bool] = there,
) -> Run:
    """A lease call, and all that it leads to now."""
    run = Run(leasing.lease(request, gone))
    settle(partitions)
    return run


def job_of(run: Run) -> bytes:
    assert isinstance(run.result, Leased)
    return run.result.job_id


def jobs_of(run: Run) -> list[bytes]:
    assert isinstance(run.result, LeasedMany)
    return [each.job_id for each in run.result.jobs]


# Which partition -------------------------------------------------------------------------------


def test_nothing_is_ready_only_after_every_partition_said_so() -> None:
    partitions = partitions_of(3)
    assert lease(leasing_of(partitions), partitions).result == NothingReady()
    assert [asked(partition) for partition in partitions] == [1, 1, 1]


def test_a_job_is_found_wherever_it_is_without_any_hint() -> None:
    partitions = partitions_of(3)
    leasing = leasing_of(partitions)
    for partition in partitions:
        job_id = store_job(partition, 1, 3)
        assert not partition.client.heads
        run = lease(leasing, partitions, LeaseRequest(duration_ms=5000))
        assert (job_of(run), run.result.lease_until_ms) == (job_id, START_MS + 5000)


def test_the_partition_that_said_it_has_jobs_is_asked_first() -> None:
    partitions = partitions_of(3)
    leasing = leasing_of(partitions)
    for number in range(4):
        store_job(partitions[1], number, 3)
    partitions[1].tell()
    for _ in range(4):
        job_of(lease(leasing, partitions))
    assert [asked(partition) for partition in partitions] == [0, 4, 0]


def test_the_partition_with_the_best_next_job_is_asked_first() -> None:
    partitions = partitions_of(3)
    low, high = store_job(partitions[0], 1, 3, priority=-1), store_job(partitions[1], 1, 3)
    partitions[2].now_ms += 1
    late = store_job(partitions[2], 1, 3)
    for partition in partitions:
        partition.tell()
    leasing = leasing_of(partitions)
    assert [job_of(lease(leasing, partitions)) for _ in range(3)] == [high, late, low]


def test_a_hint_that_is_no_longer_true_costs_a_question_and_no_job() -> None:
    partitions = partitions_of(2)
    stale = store_job(partitions[0], 1, 2)
    partitions[0].tell()
    assert isinstance(partitions[0].carry_out(Lease(1000)), Leased)
    job_id = store_job(partitions[1], 2, 2)
    run = lease(leasing_of(partitions), partitions)
    assert job_of(run) == job_id != stale
    assert asked(partitions[0]) == 1


def test_partitions_that_all_have_jobs_take_turns() -> None:
    partitions = partitions_of(3)
    for partition in partitions:
        for number in range(10):
            store_job(partition, number, 3)
        partition.tell()
    leasing = leasing_of(partitions)
    for _ in range(9):
        lease(leasing, partitions)
    assert [asked(partition) for partition in partitions] == [3, 3, 3]


# Several queues, several jobs --------------------------------------------------------------------


def test_queues_are_emptied_in_order_of_preference() -> None:
    partitions = partitions_of(2)
    second = [store_job(partitions[0], number, 2, "second", priority=9) for number in range(2)]
    first = [store_job(partitions[1], number, 2, "first", priority=-9) for number in range(2)]
    store_job(partitions[1], 7, 2, "third")
    for partition in partitions:
        partition.tell()
    leasing = leasing_of(partitions)
    both = LeaseRequest(("first", "second"))
    assert [job_of(lease(leasing, partitions, both)) for _ in range(4)] == [*first, *second]
    assert lease(leasing, partitions, both).result == NothingReady()


def test_several_jobs_are_gathered_over_partitions_the_best_first() -> None:
    partitions = partitions_of(3)
    ids = [
        [store_job(partition, number, 3, priority=partition.partition) for number in range(2)]
        for partition in partitions
    ]
    for partition in partitions:
        partition.tell()
    leasing = leasing_of(partitions)
    assert jobs_of(lease(leasing, partitions, LeaseRequest(max=5))) == [*ids[2], *ids[1], ids[0][0]]
    counts = [
        each.count for part in partitions for each in part.commands if isinstance(each, LeaseMany)
    ]
    assert sorted(counts) == [1, 2, 2], "from each its share"
    assert jobs_of(lease(leasing, partitions, LeaseRequest(max=5))) == [ids[0][1]]
    assert lease(leasing, partitions, LeaseRequest(max=5)).result == NothingReady()


def test_several_jobs_come_from_several_queues_in_order_of_preference() -> None:
    partitions = partitions_of(2)
    one = store_job(partitions[0], 1, 2, "a")
    other = store_job(partitions[1], 1, 2, "b")
    for partition in partitions:
        partition.tell()
    run = lease(leasing_of(partitions), partitions, LeaseRequest(("b", "a"), max=10))
    assert jobs_of(run) == [other, one]


def test_large_payloads_are_not_gathered_beyond_what_an_answer_may_hold() -> None:
    partitions = partitions_of(8)
    for partition in partitions:
        for number in range(9):
            store_job(partition, number, 8, payload=b"x" * (1 << 20))
        partition.tell()
    run = lease(leasing_of(partitions), partitions, LeaseRequest(max=1000))
    size = sum(len(each.payload) for each in run.result.jobs)
    assert size >= LEASE_BYTES_MAX
    assert sum(asked(partition) for partition in partitions) == 1


# Partitions that fail --------------------------------------------------------------------------


async def test_a_partition_that_is_down_does_not_hide_the_jobs_of_others(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        leasing = Leasing(fleet.clients, Deadlines())
        await fleet.kill(0)
        for number in range(4):
            store_job(fleet.partitions[1], number, 2)
            assert isinstance(await driven(leasing.lease(ANY, there)), Leased)


async def test_with_a_partition_down_nobody_can_say_that_there_is_no_job(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        leasing = Leasing(fleet.clients, Deadlines())
        await fleet.kill(1)
        for _ in range(2):  # whichever is asked first
            with pytest.raises(PartitionUnavailableError) as caught:
                await driven(leasing.lease(ANY, there))
            assert caught.value.partition == 1


async def test_a_partition_lost_while_asked_is_passed_over(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        await fleet.partitions[0].push(Hint([Head("default", 0, 1)]))
        await until(lambda: bool(fleet.clients[0].heads))
        fleet.partitions[0].faults = [Fault.LOST_AFTER]
        job_id = store_job(fleet.partitions[1], 1, 2)
        reply = await driven(Leasing(fleet.clients, Deadlines()).lease(ANY, there))
        assert isinstance(reply, Leased)
        assert reply.job_id == job_id


def test_an_overloaded_partition_does_not_hide_the_jobs_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 1)
    partitions = partitions_of(2)
    leasing = leasing_of(partitions)
    partitions[0].client.begin(Lease(1000))
    for number in range(4):
        store_job(partitions[1], number, 2)
        run = Run(leasing.lease(ANY, there))
        partitions[1].serve()
        job_of(run)
    run = Run(leasing.lease(ANY, there))
    partitions[1].serve()
    assert isinstance(run.error, OverloadedError)


def test_a_full_disk_of_one_partition_is_told_when_no_other_has_jobs() -> None:
    partitions = partitions_of(2)
    partitions[0].answer = lambda command: StorageFull()
    leasing = leasing_of(partitions)
    assert lease(leasing, partitions).result == StorageFull()
    job_id = store_job(partitions[1], 1, 2)
    assert job_of(lease(leasing, partitions)) == job_id


def test_what_was_found_is_given_back_when_a_partition_says_what_nobody_understands() -> None:
    partitions = partitions_of(2)
    for partition in partitions:
        store_job(partition, 1, 2, priority=-partition.partition)
        partition.tell()
    partitions[1].answer = lambda command: Unreadable(b"\0" * 16)
    run = lease(leasing_of(partitions), partitions, LeaseRequest(max=2))
    assert isinstance(run.error, UnexpectedReplyError)
    assert partitions[0].state.ready == 1


async def test_a_cancelled_lease_asks_nobody_else(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        for partition in fleet.partitions:
            partition.faults = [Fault.MUTE]
        with trio.move_on_after(0.05) as scope:
            await driven(Leasing(fleet.clients, Deadlines()).lease(ANY, there))
        assert scope.cancelled_caught
        assert sum(len(partition.commands) for partition in fleet.partitions) == 1


# Waiting ---------------------------------------------------------------------------------------


class Waiting:
    """Leasing that waits, by trio's clock."""

    def __init__(self, count: int) -> None:
        self.partitions = partitions_of(count)
        self.deadlines = Deadlines()
        self.leasing = Leasing([each.client for each in self.partitions], self.deadlines)

    def park(self, request: LeaseRequest = PATIENT, gone: Callable[[], bool] = there) -> Run:
        """Somebody who finds nothing, and waits."""
        run = lease(self.leasing, self.partitions, request, gone)
        assert not run.done
        return run

    def settle(self) -> None:
        settle(self.partitions)

    def tell(self) -> None:
        """The partitions say what they have; all that it leads to."""
        for partition in self.partitions:
            partition.tell()
        self.settle()

    @property
    def ready(self) -> int:
        return sum(partition.state.ready for partition in self.partitions)

    @property
    def is_clean(self) -> bool:
        """Nothing is kept for anybody."""
        return not self.leasing._waiters and not len(self.deadlines)


@pytest.fixture
async def waiting(autojump_clock: MockClock, nursery: trio.Nursery) -> AsyncIterator[Waiting]:
    waiting = Waiting(3)
    nursery.start_soon(waiting.deadlines.run)
    yield waiting
    nursery.cancel_scope.cancel()


async def test_who_may_wait_gets_a_job_as_soon_as_there_is_one(waiting: Waiting) -> None:
    run = waiting.park()
    job_id = store_job(waiting.partitions[2], 1, 3)
    waiting.tell()
    assert job_of(run) == job_id
    assert waiting.is_clean


async def test_who_may_wait_and_finds_a_job_leaves_nothing_behind(waiting: Waiting) -> None:
    # Else every lease of the last minute would be kept until its deadline.
    for number in range(100):
        store_job(waiting.partitions[0], number, 3)
        job_of(lease(waiting.leasing, waiting.partitions, PATIENT))
        assert waiting.is_clean


async def test_a_wait_ends_at_its_end_after_one_last_question(waiting: Waiting) -> None:
    run = waiting.park(LeaseRequest(wait_ms=2_000))
    before = sum(asked(partition) for partition in waiting.partitions)
    await trio.sleep(1.9)
    assert not run.done
    await trio.sleep(0.3)
    waiting.settle()
    assert run.result == NothingReady()
    assert sum(asked(partition) for partition in waiting.partitions) == before + 3
    assert waiting.is_clean


async def test_a_job_wakes_the_one_who_waits_longest_and_nobody_else(waiting: Waiting) -> None:
    runs = [waiting.park() for _ in range(5)]
    for expected in range(1, 6):
        before = sum(asked(partition) for partition in waiting.partitions)
        store_job(waiting.partitions[expected % 3], expected, 3)
        waiting.tell()
        assert [run.done for run in runs] == [True] * expected + [False] * (5 - expected)
        # Whoever gets it wakes one more: that there is nothing left is heard behind the job.
        asks = sum(asked(partition) for partition in waiting.partitions) - before
        assert asks == (1 if expected == 5 else 1 + 3)


async def test_several_jobs_wake_so_many(waiting: Waiting) -> None:
    runs = [waiting.park() for _ in range(6)]
    for number in range(4):
        store_job(waiting.partitions[number % 2], number, 3)
    waiting.tell()
    assert [run.done for run in runs] == [True] * 4 + [False] * 2
    assert len({job_of(run) for run in runs[:4]}) == 4


async def test_who_was_woken_wakes_the_next_as_long_as_there_is_more(waiting: Waiting) -> None:
    # The partition tells of the first job only: it does not tell of each.
    runs = [waiting.park() for _ in range(4)]
    partition = waiting.partitions[0]
    store_job(partition, 0, 3)
    partition.tell()
    for number in range(1, 4):
        store_job(partition, number, 3)
    waiting.settle()
    assert [run.done for run in runs] == [True] * 4
    assert waiting.is_clean


async def test_jobs_of_one_group_come_one_after_the_other(waiting: Waiting) -> None:
    partition = waiting.partitions[1]
    runs = [waiting.park() for _ in range(2)]
    ids = [store_job(partition, number, 3, group="g") for number in range(2)]
    waiting.tell()
    assert [run.done for run in runs] == [True, False]
    partition.carry_out(Ack(ids[0], None, None))
    waiting.tell()
    assert job_of(runs[1]) == ids[1]


async def test_a_job_in_the_moment_between_no_and_the_wait_is_not_missed(waiting: Waiting) -> None:
    run = Run(waiting.leasing.lease(PATIENT, there))
    store_job(waiting.partitions[0], 1, 3)
    for partition in waiting.partitions[1:]:
        partition.serve()
    # Its hint comes with the last no.
    requests = waiting.partitions[0].take()
    assert len(requests) == 1
    waiting.partitions[0].carry_out(Pause("default", True))
    responses = waiting.partitions[0].carry_out_all(requests)
    waiting.partitions[0].carry_out(Pause("default", False))
    waiting.partitions[0].say(responses)
    waiting.settle()
    job_of(run)


async def test_a_waiter_in_a_task_does_not_miss_the_hint_behind_its_no(
    waiting: Waiting, nursery: trio.Nursery
) -> None:
    replies: list[Reply] = []

    async def wait() -> None:
        replies.append(await driven(waiting.leasing.lease(PATIENT, there)))

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    for partition in waiting.partitions[:2]:
        partition.serve()
        await trio.testing.wait_all_tasks_blocked()
    responses = waiting.partitions[2].carry_out_all(waiting.partitions[2].take())
    store_job(waiting.partitions[2], 1, 3)
    waiting.partitions[2].say(responses)  # the task is told, and has not run yet
    await trio.testing.wait_all_tasks_blocked()
    waiting.settle()
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(replies[0], Leased)


async def test_a_resumed_queue_wakes_those_who_wait_for_it(waiting: Waiting) -> None:
    for partition in waiting.partitions:
        partition.carry_out(Pause("default", True))
    job_id = store_job(waiting.partitions[0], 1, 3)
    run = waiting.park()
    waiting.tell()
    assert not run.done
    waiting.partitions[0].carry_out(Pause("default", False))
    waiting.tell()
    assert job_of(run) == job_id


async def test_only_those_who_wait_for_the_queue_are_woken(waiting: Waiting) -> None:
    mail = waiting.park(LeaseRequest(("mail", "default"), wait_ms=30_000))
    other = waiting.park(LeaseRequest(("other",), wait_ms=30_000))
    store_job(waiting.partitions[0], 1, 3, "other")
    waiting.tell()
    assert (mail.done, other.done) == (False, True)
    store_job(waiting.partitions[0], 2, 3, "default")
    waiting.tell()
    assert mail.done
    assert waiting.is_clean


async def test_who_wants_several_gets_what_there_is_and_does_not_wait_for_the_rest(
    waiting: Waiting,
) -> None:
    run = waiting.park(LeaseRequest(max=10, wait_ms=30_000))
    ids = {store_job(waiting.partitions[0], number, 3) for number in range(3)}
    waiting.tell()
    assert set(jobs_of(run)) == ids


async def test_who_has_hung_up_is_not_asked_for(waiting: Waiting) -> None:
    client = Client()
    gone, here = waiting.park(gone=client), waiting.park()
    client.gone = True
    before = sum(asked(partition) for partition in waiting.partitions)
    job_id = store_job(waiting.partitions[0], 1, 3)
    waiting.tell()
    assert job_of(here) == job_id
    assert not gone.done
    assert sum(asked(partition) for partition in waiting.partitions) == before + 1


async def test_a_job_for_who_hangs_up_on_its_way_goes_to_the_next_at_once(
    waiting: Waiting,
) -> None:
    client = Client()
    gone, here = waiting.park(gone=client), waiting.park()
    job_id = store_job(waiting.partitions[0], 1, 3)
    waiting.partitions[0].tell()  # now it is asked for
    client.gone = True
    waiting.settle()
    assert gone.result == NothingReady()
    assert job_of(here) == job_id
    assert here.result.attempt == 1, "the other did not use one up"
    assert waiting.is_clean


@pytest.mark.parametrize("sent", [False, True])
async def test_a_job_for_who_is_cut_off_on_its_way_goes_to_the_next_at_once(
    waiting: Waiting, sent: bool
) -> None:
    first, second = waiting.park(), waiting.park()
    job_id = store_job(waiting.partitions[0], 1, 3)
    waiting.partitions[0].tell()
    requests = waiting.partitions[0].take() if sent else []
    first.hang_up()
    if sent:
        waiting.partitions[0].say(waiting.partitions[0].carry_out_all(requests))
    waiting.settle()
    assert job_of(second) == job_id
    assert second.result.attempt == 1
    assert waiting.is_clean


async def test_what_was_gathered_for_who_is_cut_off_is_given_back(waiting: Waiting) -> None:
    for partition in waiting.partitions:
        store_job(partition, 1, 3)
        partition.tell()
    run = Run(waiting.leasing.lease(LeaseRequest(max=3), there))
    served = [partition.serve() for partition in waiting.partitions]
    assert served.count(True) >= 1
    assert waiting.ready < 3
    run.hang_up()
    waiting.settle()
    assert waiting.ready == 3


async def test_who_is_cut_off_while_parked_leaves_nothing_behind(waiting: Waiting) -> None:
    run = waiting.park(LeaseRequest(("a", "b"), wait_ms=30_000))
    run.hang_up()
    assert waiting.is_clean


async def test_a_partition_that_is_down_is_waited_for_and_its_jobs_come_with_it(
    waiting: Waiting,
) -> None:
    partition = waiting.partitions[1]
    partition.lose()
    run = waiting.park()
    job_id = store_job(partition, 1, 3)
    partition.connect()
    waiting.settle()
    assert job_of(run) == job_id


async def test_a_partition_that_goes_down_while_somebody_is_parked_ends_no_wait(
    waiting: Waiting,
) -> None:
    run = waiting.park()
    waiting.partitions[0].lose()
    waiting.settle()
    assert not run.done
    job_id = store_job(waiting.partitions[1], 1, 3)
    waiting.tell()
    assert job_of(run) == job_id


async def test_a_partition_lost_under_the_question_of_a_waiter_is_waited_for(
    waiting: Waiting,
) -> None:
    run = waiting.park()
    partition = waiting.partitions[0]
    job_id = store_job(partition, 1, 3)
    partition.tell()
    partition.take()
    partition.lose()
    waiting.settle()
    assert not run.done
    partition.connect()
    waiting.settle()
    assert job_of(run) == job_id


async def test_with_a_partition_down_to_the_end_of_the_wait_nobody_says_that_there_is_nothing(
    waiting: Waiting,
) -> None:
    waiting.partitions[0].lose()
    run = waiting.park(LeaseRequest(wait_ms=1_000))
    await trio.sleep(1.5)
    waiting.settle()
    assert isinstance(run.error, PartitionUnavailableError)
    assert waiting.is_clean


async def test_one_overloaded_and_one_down_is_no_reason_to_ask_for_ever(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing would have been awaited in between: the whole front would have stood still.
    store_job(waiting.partitions[2], 1, 3)
    waiting.partitions[2].tell()
    waiting.partitions[0].lose()
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 0)
    run = Run(waiting.leasing.lease(PATIENT, there))
    await trio.sleep(29)
    assert not run.done
    await trio.sleep(3)
    assert isinstance(run.error, OverloadedError)
    assert waiting.is_clean


async def test_thousands_who_wait_are_told_in_a_row_and_not_one_inside_the_other(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [waiting.park() for _ in range(3_000)]
    job_id = store_job(waiting.partitions[0], 1, 3)
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 0)
    waiting.partitions[0].tell()
    assert not any(run.done for run in runs)
    monkeypatch.undo()
    await trio.sleep(1)
    waiting.settle()
    assert [job_of(run) for run in runs if run.done] == [job_id]


async def test_who_meets_too_much_in_flight_asks_again_within_its_wait(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = store_job(waiting.partitions[1], 1, 3)
    waiting.partitions[1].tell()
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 0)
    run = Run(waiting.leasing.lease(PATIENT, there))
    await trio.sleep(10)
    assert not run.done
    assert not run.needs_task, "thousands may be brought on by the one task of the deadlines"
    monkeypatch.undo()
    await trio.sleep(3)
    waiting.settle()
    assert job_of(run) == job_id
    assert waiting.is_clean


async def test_who_meets_too_much_in_flight_to_the_end_is_refused_then(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 0)
    brief = Run(waiting.leasing.lease(LeaseRequest(wait_ms=500), there))
    left = Run(waiting.leasing.lease(PATIENT, there))
    drained = Run(waiting.leasing.lease(PATIENT, there))
    await trio.sleep(2.5)
    assert isinstance(brief.error, OverloadedError)
    assert not drained.done
    left.hang_up()
    waiting.deadlines.close()
    assert isinstance(drained.error, OverloadedError)
    assert waiting.is_clean


async def test_an_unwanted_lease_is_given_back_however_much_is_in_flight(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    gone = waiting.park(gone=client)
    store_job(waiting.partitions[0], 1, 3)
    waiting.partitions[0].tell()
    client.gone = True
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 0)
    waiting.settle()
    assert gone.result == NothingReady()
    assert waiting.ready == 1


async def test_nobody_waits_after_the_drain(waiting: Waiting) -> None:
    runs = [waiting.park() for _ in range(3)]
    waiting.deadlines.close()
    waiting.settle()
    assert [run.result for run in runs] == [NothingReady()] * 3
    late = lease(waiting.leasing, waiting.partitions, PATIENT)
    assert late.result == NothingReady()
    assert waiting.is_clean


async def test_a_job_that_is_there_is_leased_during_the_drain(waiting: Waiting) -> None:
    waiting.deadlines.close()
    job_id = store_job(waiting.partitions[1], 1, 3)
    assert job_of(lease(waiting.leasing, waiting.partitions, PATIENT)) == job_id


async def test_the_release_of_an_unwanted_lease_names_its_token(waiting: Waiting) -> None:
    client = Client()
    waiting.park(gone=client)
    job_id = store_job(waiting.partitions[0], 1, 3)
    waiting.partitions[0].tell()
    client.gone = True
    waiting.settle()
    assert waiting.partitions[0].commands[-1] == Many([Release(job_id, 1)])
    assert waiting.ready == 1
