import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import trio

from api import asking, partition_client, problems
from api.caller import SCOPES_OF, Caller
from api.calls import driven
from api.lease_schemas import Ack, Extend, LeaseRequest, Release
from api.operations import Operations
from api.submit_schemas import Submit
from api.submitting import Accepted
from api.views import JobStatus, LeasedJob, QueueBody, QueuesBody
from partitions.messages import (
    Cancel,
    Command,
    Enqueue,
    Enqueued,
    Forget,
    Get,
    Hello,
    Hint,
    Lease,
    Many,
    QueueView,
    QueueViews,
    Reply,
    Retry,
    StorageFull,
    Tick,
    Unreadable,
    WrongPartition,
)
from partitions.messages import Release as ReleaseJob
from partitions.options import Options, encode_options
from partitions.slots import format_job_id, parse_job_id, partition_of, slot_of
from tests.support.by_hand import partitions_of, settle
from tests.support.fake_partition import Fault
from tests.support.partitions import Fleet, fleet_of
from tests.support.polling import until

CALLER = Caller("client_12345678", "owner-a", "admin", frozenset(SCOPES_OF["admin"]))
JOB = Submit(b"payload", 3, "default", b"")
UNKNOWN_ID = "01234567-89ab-7def-8123-456789abcdef"
LEASE_MS = 30_000


def operations_of(fleet: Fleet) -> Operations:
    return Operations(fleet.clients)


async def submitted(operations: Operations, job: Submit = JOB) -> str:
    done = await driven(operations.submit(CALLER, job))
    assert isinstance(done, Accepted)
    return format_job_id(done.job_id)


def lease_one(operations: Operations) -> Coroutine[Any, Any, object]:
    return operations.lease(CALLER, LeaseRequest(), there)


def there() -> bool:
    return False


async def leased(operations: Operations) -> LeasedJob:
    done = await driven(lease_one(operations))
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
        job_id = await submitted(operations, Submit("päylöad".encode(), 5, "default", b""))
        lease = await leased(operations)
        assert lease == LeasedJob(
            job_id,
            "päylöad",
            "2023-11-14T22:13:50Z",
            1,
            "1",
            5,
            "2023-11-14T22:13:20Z",
            "default",
            {},
        )
        running = await shown(operations, job_id)
        assert (running.state, running.attempts, running.lease_until) == (
            "RUNNING",
            1,
            "2023-11-14T22:13:50Z",
        )
        assert await driven(operations.ack(CALLER, job_id, Ack(1, b"result"))) is None
        assert await shown(operations, job_id) == JobStatus(
            job_id,
            "ACKED",
            1,
            5,
            "2023-11-14T22:13:20Z",
            "default",
            result="result",
            finished_at="2023-11-14T22:13:20Z",
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
        assert await driven(lease_one(operations_of(fleet))) == problems.NO_JOBS


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
        missing = problems.job_not_found(job_id)
        assert await driven(operations.extend(CALLER, job_id, Extend(7))) == missing
        assert await driven(operations.release(CALLER, job_id, Release(7))) == missing
        assert await driven(operations.change(CALLER, job_id, "cancel")) == missing
        assert await driven(operations.change(CALLER, job_id, "retry")) == missing
        assert await driven(operations.forget(CALLER, job_id)) == missing
        assert await driven(operations.ack_many(CALLER, [(job_id, Ack(7))])) == [missing]
        assert await driven(operations.extend_many(CALLER, [(job_id, Extend(7))])) == [missing]
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
            await driven(lease_one(operations)),
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
        assert await driven(lease_one(operations)) == problems.PARTITION_DOWN
        assert len(sent(fleet, Lease)) == 1


async def test_lost_twice_is_outcome_unknown_but_of_a_read(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        await leased(operations)
        partition = fleet.partitions[0]
        for operation, end in (
            (lambda: driven(operations.submit(CALLER, JOB)), problems.OUTCOME_UNKNOWN),
            (
                lambda: driven(operations.ack(CALLER, job_id, Ack(1, b"r"))),
                problems.OUTCOME_UNKNOWN,
            ),
            (lambda: driven(operations.get(CALLER, job_id)), problems.PARTITION_DOWN),
        ):
            partition.faults = [Fault.LOST_BEFORE, Fault.LOST_BEFORE]
            assert await operation() == end
            with trio.fail_after(5):
                await fleet.clients[0].wait_serving()


async def test_a_partition_that_stays_away_is_outcome_unknown_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "AGAIN_WITHIN_S", 0.05)
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
    monkeypatch.setattr(asking, "AGAIN_WITHIN_S", 1e6)
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        for operation, end in (
            (lambda: driven(operations.submit(CALLER, JOB)), problems.OUTCOME_UNKNOWN),
            (
                lambda: driven(operations.ack(CALLER, job_id, Ack(1, b"r"))),
                problems.OUTCOME_UNKNOWN,
            ),
            (lambda: driven(operations.get(CALLER, job_id)), problems.PARTITION_DOWN),
        ):
            with fleet.partitions[0].deaf(), trio.fail_after(60):
                assert await operation() == end
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
            await driven(lease_one(operations)),
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
        assert await driven(lease_one(operations)) == problems.unreadable(UNKNOWN_ID)


@pytest.mark.parametrize(
    "reply", [Hello(0, 1), Hint([]), WrongPartition(b"\0" * 16), Enqueued(b"\0" * 16)]
)
async def test_a_reply_that_does_not_fit_claims_nothing(tmp_path: Path, reply: Reply) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        fleet.partitions[0].answer = lambda command: reply
        operations = operations_of(fleet)
        if not isinstance(reply, Enqueued):
            assert await driven(operations.submit(CALLER, JOB)) == problems.INTERNAL
        assert await driven(lease_one(operations)) == problems.INTERNAL
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


# Many at once --------------------------------------------------------------------------------


async def test_many_acks_go_in_one_message_to_each_partition_and_come_back_in_order(
    tmp_path: Path,
) -> None:
    async with fleet_of(tmp_path, 3) as (fleet, _):
        operations = operations_of(fleet)
        for _ in range(30):
            await submitted(operations)
        held = [await leased(operations) for _ in range(30)]
        acks = [(each.job_id, Ack(int(each.lease_token), b"r")) for each in held]
        lost = (held[3].job_id, Ack(999, b"r"))
        asked = [*acks[:10], lost, (UNKNOWN_ID, Ack(1)), ("x", Ack(1)), *acks[10:]]
        outcomes = await driven(operations.ack_many(CALLER, asked))
        missing = [problems.job_not_found(UNKNOWN_ID), problems.job_not_found("x")]
        assert outcomes == [None] * 10 + [problems.LEASE_LOST, *missing] + [None] * 20
        assert len(sent(fleet, Many)) == 3
        # Once more: the same, changes nothing.
        assert await driven(operations.ack_many(CALLER, acks)) == [None] * 30


async def test_very_many_go_in_pieces(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        extends = [(UNKNOWN_ID, Extend(1))] * 2_001
        outcomes = await driven(operations.extend_many(CALLER, extends))
        assert outcomes == [problems.job_not_found(UNKNOWN_ID)] * 2_001
        sizes = [len(each.commands) for each in sent(fleet, Many) if isinstance(each, Many)]
        assert sizes == [1_000, 1_000, 1]
        large = [(UNKNOWN_ID, Ack(1, b"x" * (1 << 20)))] * 9
        await driven(operations.ack_many(CALLER, large))
        sizes = [len(each.commands) for each in sent(fleet, Many) if isinstance(each, Many)]
        assert sizes[3:] == [4, 4, 1]


async def test_with_a_partition_down_the_acks_of_others_are_settled(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        operations = operations_of(fleet)
        for _ in range(20):
            await submitted(operations)
        held = [await leased(operations) for _ in range(20)]
        await fleet.kill(0)
        acks = [(each.job_id, Ack(int(each.lease_token))) for each in held]
        outcomes = await driven(operations.ack_many(CALLER, acks))
        homes = [partition_of(slot_of(raw(each.job_id)), 2) for each in held]
        assert outcomes == [problems.PARTITION_DOWN if home == 0 else None for home in homes]
        assert set(homes) == {0, 1}


async def test_an_ack_without_a_token_keeps_its_message_from_being_given_again(
    tmp_path: Path,
) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        await leased(operations)
        fleet.partitions[0].faults = [Fault.LOST_AFTER]
        outcomes = await driven(operations.ack_many(CALLER, [(job_id, Ack(None, b"r"))]))
        assert outcomes == [problems.OUTCOME_UNKNOWN]
        assert len(sent(fleet, Many)) == 1


async def test_many_whose_partition_was_lost_are_given_again(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        await leased(operations)
        fleet.partitions[0].faults = [Fault.LOST_AFTER]
        assert await driven(operations.ack_many(CALLER, [(job_id, Ack(1, b"r"))])) == [None]


# What is not to be done twice ------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER])
async def test_what_would_be_another_thing_the_second_time_is_not_given_again(
    tmp_path: Path, fault: Fault
) -> None:
    # A retry that was carried out would be called impossible, a deleted job unknown.
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        partition = fleet.partitions[0]
        partition.carry_out(Cancel(raw(job_id)))
        for operation, kind in (
            (lambda: driven(operations.change(CALLER, job_id, "retry")), Retry),
            (lambda: driven(operations.release(CALLER, job_id, Release(1))), ReleaseJob),
            (lambda: driven(operations.forget(CALLER, job_id)), Forget),
        ):
            partition.faults = [fault]
            assert await operation() == problems.OUTCOME_UNKNOWN
            with trio.fail_after(5):
                await fleet.clients[0].wait_serving()
            assert len(sent(fleet, kind)) == 1


async def test_a_cancel_whose_partition_was_lost_is_given_again(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        fleet.partitions[0].faults = [Fault.LOST_AFTER]
        done = await driven(operations.change(CALLER, job_id, "cancel"))
        assert isinstance(done, JobStatus)
        assert done.state == "CANCELLED"


async def test_the_worker_of_a_cancelled_job_learns_it(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        operations = operations_of(fleet)
        job_id = await submitted(operations)
        await leased(operations)
        await driven(operations.change(CALLER, job_id, "cancel"))
        for operation in (
            operations.extend(CALLER, job_id, Extend(1)),
            operations.release(CALLER, job_id, Release(1)),
            operations.ack(CALLER, job_id, Ack(1)),
        ):
            assert await driven(operation) == problems.CANCELLED


# Queues ----------------------------------------------------------------------------------------


async def test_queues_are_summed_over_partitions_and_silent_ones_named(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 3) as (fleet, _):
        operations = operations_of(fleet)
        mail = Submit(b"x", 3, "mail", encode_options(Options("mail")))
        for _ in range(30):
            await submitted(operations)
            await submitted(operations, mail)
        whole = await driven(operations.queues(CALLER))
        assert isinstance(whole, QueuesBody)
        assert [(each.queue, each.counts["READY"]) for each in whole.queues] == [
            ("default", 30),
            ("mail", 30),
        ]
        assert whole.unavailable == []
        await fleet.kill(1)
        part = await driven(operations.queue(CALLER, "mail"))
        assert isinstance(part, QueueBody)
        assert part.unavailable == [1]
        assert part.counts["READY"] < 30
        for number in (0, 2):
            await fleet.kill(number)
        assert await driven(operations.queues(CALLER)) == problems.PARTITION_DOWN
        assert await driven(operations.queue(CALLER, "mail")) == problems.PARTITION_DOWN


async def test_thousands_of_queues_are_shown_while_others_have_their_turns() -> None:
    # Each was once looked for among all: minutes in which the front answered nobody.
    partitions = partitions_of(4)
    views = [QueueView(f"q{n}", False, {"READY": 1}, None, 0, {}) for n in range(10_000)]
    for partition in partitions:
        partition.answer = lambda command: QueueViews(views)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        found: list[object] = []

        async def show() -> None:
            operations = Operations([each.client for each in partitions])
            found.append(await driven(operations.queues(CALLER)))

        nursery.start_soon(show)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(other)
        began = time.process_time()
        settle(partitions)
        while not found:
            await trio.lowlevel.checkpoint()
        assert time.process_time() - began < 8
        nursery.cancel_scope.cancel()
    (shown,) = found
    assert isinstance(shown, QueuesBody)
    assert len(shown.queues) == 10_000
    assert turns > 50
