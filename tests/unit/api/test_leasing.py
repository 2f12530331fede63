from pathlib import Path

import pytest
import trio

from api import partition_client
from api.calls import driven
from api.errors import OverloadedError, PartitionUnavailableError
from api.leasing import Leasing
from partitions.messages import Enqueue, Hint, Lease, Leased, NothingReady
from partitions.slots import first_slot, make_job_id
from tests.support.fake_partition import START_MS, FakePartition, Fault
from tests.support.partitions import fleet_of
from tests.support.polling import until


def store_job(partition: FakePartition, number: int, count: int) -> bytes:
    job_id = make_job_id(START_MS, number, first_slot(partition.partition, count))
    partition.carry_out(Enqueue(job_id, b"payload", 3, "me"))
    return job_id


def asked(partition: FakePartition) -> int:
    return sum(isinstance(command, Lease) for command in partition.commands)


async def test_nothing_is_ready_only_after_every_partition_said_so(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 3) as (fleet, _):
        assert await driven(Leasing(fleet.clients).lease(1000)) == NothingReady()
        assert [asked(partition) for partition in fleet.partitions] == [1, 1, 1]


async def test_a_job_is_found_wherever_it_is_without_any_hint(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 3) as (fleet, _):
        leasing = Leasing(fleet.clients)
        for partition in fleet.partitions:
            job_id = store_job(partition, 1, 3)
            reply = await driven(leasing.lease(5000))
            assert isinstance(reply, Leased)
            assert (reply.job_id, reply.lease_until_ms) == (job_id, START_MS + 5000)


async def test_the_partition_that_said_it_has_jobs_is_asked_first(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 3) as (fleet, _):
        leasing = Leasing(fleet.clients)
        await fleet.partitions[1].push(Hint(ready=True))
        await until(lambda: fleet.clients[1].ready_hint)
        for number in range(4):
            store_job(fleet.partitions[1], number, 3)
            assert isinstance(await driven(leasing.lease(1000)), Leased)
        assert [asked(partition) for partition in fleet.partitions] == [0, 4, 0]


async def test_a_hint_that_is_no_longer_true_costs_a_question_and_no_job(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        await fleet.partitions[0].push(Hint(ready=True))
        await until(lambda: fleet.clients[0].ready_hint)
        store_job(fleet.partitions[1], 1, 2)
        assert isinstance(await driven(Leasing(fleet.clients).lease(1000)), Leased)


async def test_partitions_that_all_have_jobs_take_turns(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 3) as (fleet, _):
        for partition in fleet.partitions:
            for number in range(10):
                store_job(partition, number, 3)
        leasing = Leasing(fleet.clients)
        for _ in range(9):
            await driven(leasing.lease(1000))
        assert [asked(partition) for partition in fleet.partitions] == [3, 3, 3]


async def test_a_partition_that_is_down_does_not_hide_the_jobs_of_others(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        leasing = Leasing(fleet.clients)
        await fleet.kill(0)
        for number in range(4):
            store_job(fleet.partitions[1], number, 2)
            assert isinstance(await driven(leasing.lease(1000)), Leased)


async def test_with_a_partition_down_nobody_can_say_that_there_is_no_job(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        leasing = Leasing(fleet.clients)
        await fleet.kill(1)
        for _ in range(2):  # whichever is asked first
            with pytest.raises(PartitionUnavailableError) as caught:
                await driven(leasing.lease(1000))
            assert caught.value.partition == 1


async def test_a_partition_lost_while_asked_is_passed_over(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        await fleet.partitions[0].push(Hint(ready=True))
        await until(lambda: fleet.clients[0].ready_hint)
        fleet.partitions[0].faults = [Fault.LOST_AFTER]
        job_id = store_job(fleet.partitions[1], 1, 2)
        reply = await driven(Leasing(fleet.clients).lease(1000))
        assert isinstance(reply, Leased)
        assert reply.job_id == job_id


async def test_an_overloaded_partition_does_not_hide_the_jobs_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 1)
    async with fleet_of(tmp_path, 2) as (fleet, nursery):
        leasing = Leasing(fleet.clients)
        fleet.partitions[0].faults = [Fault.MUTE]
        nursery.start_soon(fleet.clients[0].call, Lease(1000))
        await until(lambda: asked(fleet.partitions[0]) == 1)
        for number in range(4):
            store_job(fleet.partitions[1], number, 2)
            assert isinstance(await driven(leasing.lease(1000)), Leased)
        with pytest.raises(OverloadedError):
            await driven(leasing.lease(1000))


async def test_a_cancelled_lease_asks_nobody_else(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        for partition in fleet.partitions:
            partition.faults = [Fault.MUTE]
        with trio.move_on_after(0.05) as scope:
            await driven(Leasing(fleet.clients).lease(1000))
        assert scope.cancelled_caught
        assert sum(asked(partition) for partition in fleet.partitions) == 1
