from collections import Counter
from pathlib import Path

import pytest
import trio

from api import operations as operations_module
from api import partition_client, problems
from api.caller import SCOPES_OF, Caller
from api.calls import driven
from api.operations import Operations
from api.schemas import Ack, JobCreated, JobStatus, LeasedJob, LeaseJob, Submit
from partitions.messages import (
    Command,
    Enqueue,
    Enqueued,
    Get,
    Hello,
    Hint,
    Lease,
    Reply,
    StorageFull,
    Tick,
    Unreadable,
    WrongPartition,
)
from partitions.slots import parse_job_id, partition_of, slot_of
from tests.support.fake_partition import Fault
from tests.support.partitions import Fleet, fleet_of
from tests.support.polling import until

CALLER = Caller("client_12345678", "owner-a", "admin", frozenset(SCOPES_OF["admin"]))
JOB = Submit(b"payload", 3)
UNKNOWN_ID = "01234567-89ab-7def-8123-456789abcdef"
LEASE_MS = 30_000


def operations_of(fleet: Fleet) -> Operations:
    return Operations(fleet.clients, lease_duration_ms=LEASE_MS)


async def submitted(operations: Operations, job: Submit = JOB) -> str:
    done = await driven(operations.submit(CALLER, job))
    assert isinstance(done, JobCreated)
    return done.job_id


async def leased(operations: Operations) -> LeasedJob:
    done = await driven(operations.lease(CALLER, LeaseJob()))
    assert isinstance(done, LeasedJob)
    return done


async def shown(operations: Operations, job_id: str) -> JobStatus:
    done = await driven(operations.get(CALLER, job_id))
    assert isinstance(done, JobStatus)
    return done


def raw(job_id: str) -> bytes:
    parsed = parse_job_id(job_id)
    assert parsed is not None
    return parsed


def sent(fleet: Fleet, kind: type[Command]) -> list[Command]:
    return [each for part in fleet.partitions for each in part.commands if isinstance(each, kind)]


# A job's life ----------------------------------------------------------------------------


async def test_a_job_goes_from_submit_to_acked(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations, Submit("päylöad".encode(), 5))
        lease = await leased(operations)
        assert lease == LeasedJob(
            job_id,
            "päylöad",
            "2023-11-14T22:13:50Z",
            1,
            "1",
            5,
            "2023-11-14T22:13:20Z",
        )
        running = await shown(operations, job_id)
        assert (running.state, running.attempts, running.lease_until) == (
            "RUNNING",
            1,
            "2023-11-14T22:13:50Z",
        )
        assert await driven(operations.ack(CALLER, job_id, Ack(1, b"result"))) is None
        assert await shown(operations, job_id) == JobStatus(
            job_id, "ACKED", 1, 5, "2023-11-14T22:13:20Z", result="result"
        )


async def test_the_owner_of_the_key_owns_the_job(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        await submitted(operations_of(fleet))
        (command,) = sent(fleet, Enqueue)
        assert isinstance(command, Enqueue)
        assert command.owner == "owner-a"


async def test_a_failure_report_is_kept_and_the_job_waits_for_its_retry(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        await leased(operations)
        assert await driven(operations.ack(CALLER, job_id, Ack(1, None, b"boom"))) is None
        job = await shown(operations, job_id)
        assert (job.state, job.result_error, job.result) == ("RETRY", "boom", None)


async def test_a_lease_that_ran_out_says_so_and_its_token_is_lost(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        await leased(operations)
        fleet.partitions[0].now_ms += LEASE_MS
        second = await leased(operations)
        assert (second.job_id, second.attempt, second.lease_token) == (job_id, 2, "2")
        assert await driven(operations.ack(CALLER, job_id, Ack(1, b"late"))) == problems.LEASE_LOST
        job = await shown(operations, job_id)
        assert (job.state, job.result_error) == ("RUNNING", "lease expired")


async def test_the_same_ack_again_is_fine_and_another_outcome_is_not(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        await leased(operations)
        assert await driven(operations.ack(CALLER, job_id, Ack(1, b"a"))) is None
        assert await driven(operations.ack(CALLER, job_id, Ack(1, b"a"))) is None
        assert await driven(operations.ack(CALLER, job_id, Ack(1, b"b"))) == problems.LEASE_LOST
        assert (
            await driven(operations.ack(CALLER, job_id, Ack(1, None, b"a"))) == problems.LEASE_LOST
        )


async def test_an_ack_without_a_token_needs_a_running_job(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        problem = await driven(operations.ack(CALLER, job_id, Ack()))
        assert problem == problems.ack_not_running(job_id, "READY")
        await leased(operations)
        assert await driven(operations.ack(CALLER, job_id, Ack())) is None
        problem = await driven(operations.ack(CALLER, job_id, Ack()))
        assert problem == problems.ack_not_running(job_id, "ACKED")


async def test_nothing_to_lease_is_a_404_in_the_contracts_words(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        assert await driven(operations_of(fleet).lease(CALLER, LeaseJob())) == problems.NO_JOBS


@pytest.mark.parametrize(
    "job_id",
    [
        UNKNOWN_ID,
        UNKNOWN_ID.upper(),
        "",
        "x",
        "{" + UNKNOWN_ID + "}",
        UNKNOWN_ID + "\n",
        "\u0661" * 36,
        UNKNOWN_ID.replace("-", ""),
        "\x00",
        "a" * 8000,
    ],
)
async def test_an_id_that_names_no_job_is_not_found_under_the_name_it_was_given(
    tmp_path: Path, job_id: str
) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        operations = operations_of(fleet)
        assert await driven(operations.get(CALLER, job_id)) == problems.job_not_found(job_id)
        assert await driven(operations.ack(CALLER, job_id, Ack(7))) == problems.ack_unknown(job_id)
        if job_id != UNKNOWN_ID:
            assert not sent(fleet, Get), "what is no id is not looked up"


# Which partition -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7])
async def test_a_jobs_slot_belongs_to_the_partition_that_stores_it(
    tmp_path: Path, count: int
) -> None:
    async with fleet_of(tmp_path, count) as (fleet, _):
        operations = operations_of(fleet)
        ids = [await submitted(operations) for _ in range(60)]
        assert len(set(ids)) == 60
        for partition in fleet.partitions:
            stored = [each.job_id for each in partition.commands if isinstance(each, Enqueue)]
            assert stored or count > 3
            assert all(partition_of(slot_of(each), count) == partition.partition for each in stored)
            assert len(partition.state) == len(stored), "the partition agreed"


async def test_new_jobs_spread_over_all_slots(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        operations = operations_of(fleet)
        ids = [await submitted(operations) for _ in range(400)]
        sixteenths = Counter(slot_of(raw(each)) >> 12 for each in ids)
        assert len(sixteenths) == 16
        assert max(sixteenths.values()) < 80  # 25 expected: a dozen standard deviations


async def test_ids_are_version_7_of_now_and_sort_by_time(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        ids = []
        for _ in range(5):
            ids.append(await submitted(operations))
            await trio.sleep(0.003)
        assert ids == sorted(ids)
        assert all(each[14] == "7" and each[19] in "89ab" for each in ids)


async def test_a_partition_that_is_down_gets_no_new_jobs(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, nursery):
        operations = operations_of(fleet)
        await fleet.kill(0)
        assert operations.partition_states() == {0: "down", 1: "serving"}
        for _ in range(40):
            assert partition_of(slot_of(raw(await submitted(operations))), 2) == 1
        await fleet.start(0, nursery)
        await until(lambda: fleet.clients[0].serving)
        assert operations.partition_states() == {0: "serving", 1: "serving"}
        homes = {partition_of(slot_of(raw(await submitted(operations))), 2) for _ in range(40)}
        assert homes == {0, 1}


@pytest.mark.parametrize("count", [1, 2])
async def test_with_every_partition_down_all_is_503_and_to_be_tried_again(
    tmp_path: Path, count: int
) -> None:
    async with fleet_of(tmp_path, count) as (fleet, _):
        operations = operations_of(fleet)
        for number in range(count):
            await fleet.kill(number)
        outcomes = [
            await driven(operations.submit(CALLER, JOB)),
            await driven(operations.lease(CALLER, LeaseJob())),
            await driven(operations.get(CALLER, UNKNOWN_ID)),
            await driven(operations.ack(CALLER, UNKNOWN_ID, Ack())),
            await driven(operations.ack(CALLER, UNKNOWN_ID, Ack(1))),
        ]
        assert outcomes == [problems.PARTITION_DOWN] * 5
        assert problems.PARTITION_DOWN.status == 503
        assert problems.PARTITION_DOWN.headers == (("Retry-After", "1"),)


async def test_a_job_of_a_partition_that_is_down_is_503_never_404(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        operations = operations_of(fleet)
        ids = [await submitted(operations) for _ in range(20)]
        await fleet.kill(0)
        for job_id in ids:
            done = await driven(operations.get(CALLER, job_id))
            if partition_of(slot_of(raw(job_id)), 2) == 0:
                assert done == problems.PARTITION_DOWN
            else:
                assert isinstance(done, JobStatus)


# A partition that dies under an operation --------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER])
async def test_a_submit_whose_partition_was_lost_is_given_again_under_the_same_id(
    tmp_path: Path, fault: Fault
) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        fleet.partitions[0].faults = [fault]
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        first, second = sent(fleet, Enqueue)
        assert first == second
        assert len(fleet.partitions[0].state) == 1, "stored once"
        assert (await shown(operations, job_id)).state == "READY"


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER])
@pytest.mark.parametrize("ack", [Ack(1, b"done"), Ack(1), Ack(1, None, b"failed")])
async def test_an_ack_with_a_token_whose_partition_was_lost_is_given_again(
    tmp_path: Path, fault: Fault, ack: Ack
) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        await leased(operations)
        fleet.partitions[0].faults = [fault]
        assert await driven(operations.ack(CALLER, job_id, ack)) is None
        job = await shown(operations, job_id)
        assert job.state == ("RETRY" if ack.error else "ACKED")
        assert job.attempts == 1


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER])
async def test_an_ack_without_a_token_is_not_given_again(tmp_path: Path, fault: Fault) -> None:
    # A second one could end an attempt of somebody else that began in between.
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        await leased(operations)
        fleet.partitions[0].faults = [fault]
        problem = await driven(operations.ack(CALLER, job_id, Ack(None, b"done")))
        assert problem == problems.OUTCOME_UNKNOWN
        assert problem.status == 503
        assert (
            len([each for each in fleet.partitions[0].commands if each.__class__ is not Get]) == 3
        )


async def test_a_read_whose_partition_was_lost_is_given_again(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        fleet.partitions[0].faults = [Fault.LOST_AFTER]
        assert (await shown(operations, job_id)).state == "READY"


async def test_a_lease_whose_partition_was_lost_is_503_and_not_given_again(
    tmp_path: Path,
) -> None:
    # The job may be leased by now, to nobody: it comes back when that lease ends.
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        await submitted(operations)
        fleet.partitions[0].faults = [Fault.LOST_AFTER]
        assert await driven(operations.lease(CALLER, LeaseJob())) == problems.PARTITION_DOWN
        assert len(sent(fleet, Lease)) == 1


async def test_lost_twice_is_outcome_unknown(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        await leased(operations)
        partition = fleet.partitions[0]
        for operation in (
            lambda: driven(operations.submit(CALLER, JOB)),
            lambda: driven(operations.ack(CALLER, job_id, Ack(1, b"r"))),
            lambda: driven(operations.get(CALLER, job_id)),
        ):
            partition.faults = [Fault.LOST_BEFORE, Fault.LOST_BEFORE]
            assert await operation() == problems.OUTCOME_UNKNOWN
            with trio.fail_after(5):
                await fleet.clients[0].wait_serving()


async def test_a_partition_that_stays_away_is_outcome_unknown_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations_module, "_AGAIN_WITHIN_S", 0.05)
    async with fleet_of(tmp_path, 1) as (fleet, nursery):
        operations = operations_of(fleet)
        partition = fleet.partitions[0]
        partition.faults = [Fault.MUTE]
        outcomes: list[object] = []

        async def submit() -> None:
            outcomes.append(await driven(operations.submit(CALLER, JOB)))

        nursery.start_soon(submit)
        await until(lambda: len(partition.frames) == 1)
        await fleet.kill(0)
        await until(lambda: bool(outcomes))
        assert outcomes == [problems.OUTCOME_UNKNOWN]


async def test_a_partition_that_hangs_is_not_waited_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_client, "_SILENCE_S", 0.2)
    monkeypatch.setattr(operations_module, "_AGAIN_WITHIN_S", 1e6)
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        for operation in (
            lambda: driven(operations.submit(CALLER, JOB)),
            lambda: driven(operations.ack(CALLER, job_id, Ack(1, b"r"))),
            lambda: driven(operations.get(CALLER, job_id)),
        ):
            with fleet.partitions[0].deaf(), trio.fail_after(60):
                assert await operation() == problems.OUTCOME_UNKNOWN
            await fleet.clients[0].wait_serving()


# What a partition may say ------------------------------------------------------------------


async def test_a_full_disk_is_507_for_submits(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        fleet.partitions[0].answer = lambda command: StorageFull()
        problem = await driven(operations_of(fleet).submit(CALLER, JOB))
        assert problem == problems.STORAGE_FULL
        assert (problem.status, problem.headers) == (507, (("Retry-After", "5"),))


async def test_too_much_in_flight_is_503_to_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 0)
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        outcomes = [
            await driven(operations.submit(CALLER, JOB)),
            await driven(operations.lease(CALLER, LeaseJob())),
            await driven(operations.get(CALLER, UNKNOWN_ID)),
            await driven(operations.ack(CALLER, UNKNOWN_ID, Ack(1))),
        ]
        assert outcomes == [problems.OVERLOADED] * 4
        assert not fleet.partitions[0].commands


async def test_a_text_that_the_disk_does_not_give_back_is_500_with_the_job_named(
    tmp_path: Path,
) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        fleet.partitions[0].answer = lambda command: Unreadable(raw(UNKNOWN_ID))
        operations = operations_of(fleet)
        assert await driven(operations.get(CALLER, UNKNOWN_ID)) == problems.unreadable(UNKNOWN_ID)
        assert await driven(operations.lease(CALLER, LeaseJob())) == problems.unreadable(UNKNOWN_ID)


@pytest.mark.parametrize(
    "reply", [Hello(0, 1), Hint(ready=True), WrongPartition(b"\0" * 16), Enqueued(b"\0" * 16)]
)
async def test_a_reply_that_does_not_fit_claims_nothing(tmp_path: Path, reply: Reply) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        fleet.partitions[0].answer = lambda command: reply
        operations = operations_of(fleet)
        if not isinstance(reply, Enqueued):
            assert await driven(operations.submit(CALLER, JOB)) == problems.INTERNAL
        assert await driven(operations.lease(CALLER, LeaseJob())) == problems.INTERNAL
        assert await driven(operations.get(CALLER, UNKNOWN_ID)) == problems.INTERNAL
        assert await driven(operations.ack(CALLER, UNKNOWN_ID, Ack(1))) == problems.INTERNAL


async def test_a_hung_partition_costs_no_more_than_its_own_jobs(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, nursery):
        operations = operations_of(fleet)
        ids = [await submitted(operations) for _ in range(20)]
        others = [each for each in ids if partition_of(slot_of(raw(each)), 2) == 1]
        assert others
        with fleet.partitions[0].deaf():
            nursery.start_soon(fleet.clients[0].call, Tick())
            for job_id in others:
                assert (await shown(operations, job_id)).state == "READY"
