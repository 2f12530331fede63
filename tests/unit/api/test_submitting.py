from collections.abc import Sequence

import pytest
import trio

from api import partition_client, problems
from api.calls import driven
from api.placement import Placement
from api.problems import Problem
from api.submit_schemas import Submit
from api.submitting import Accepted, Submitting
from partitions.clock import SystemClock
from partitions.messages import (
    Command,
    Enqueue,
    EnqueueMany,
    Lease,
    Leased,
    Reply,
    StorageFull,
)
from partitions.options import Options, encode_options
from tests.support.by_hand import HandPartition, Run, partitions_of, settle

JOB = Submit(b"payload", 3, "default", b"")


def job(payload: bytes = b"x", key: str = "", digest: bytes = b"", group: str = "") -> Submit:
    digest = digest or payload[:16]
    return Submit(
        payload,
        3,
        "default",
        b"",
        group=group,
        idempotency_key=key,
        digest=digest if key else b"",
    )


class Front:
    """Submits over partitions by hand."""

    def __init__(self, count: int) -> None:
        self.partitions = partitions_of(count)
        clients = [each.client for each in self.partitions]
        self.placement = Placement(clients, SystemClock())
        self.submitting = Submitting(clients, self.placement)

    def submit(self, job: Submit = JOB) -> Accepted | Problem:
        run = Run(self.submitting.submit("me", job))
        settle(self.partitions)
        assert isinstance(run.result, Accepted | Problem)
        return run.result

    def submit_many(self, jobs: Sequence[Submit]) -> list[bytes | Problem] | Problem:
        run = Run(self.submitting.submit_many("me", jobs))
        settle(self.partitions)
        assert isinstance(run.result, list | Problem)
        return run.result

    def group_of(self, partition: HandPartition) -> str:
        """The name of a group that lies there."""
        return next(
            name
            for name in map(str, range(1000))
            if self.placement.owner_of(self.placement.mint_bound("me", job(group=name)))
            is partition.client
        )

    def key_of(self, partition: HandPartition) -> str:
        """An idempotency key that lies there."""
        return next(
            key
            for key in map(str, range(1000))
            if self.placement.owner_of(self.placement.mint_bound("me", job(key=key)))
            is partition.client
        )

    @property
    def stored(self) -> list[int]:
        return [len(partition.state) for partition in self.partitions]

    @property
    def batches(self) -> list[EnqueueMany]:
        return [
            command
            for partition in self.partitions
            for command in partition.commands
            if isinstance(command, EnqueueMany)
        ]


def ids_of(outcome: list[bytes | Problem] | Problem) -> list[bytes]:
    assert isinstance(outcome, list)
    ids = [each for each in outcome if isinstance(each, bytes)]
    assert len(ids) == len(outcome)
    return ids


def payloads(partitions: Sequence[HandPartition]) -> dict[bytes, bytes]:
    """``{job id: payload}`` of all jobs, leased for it."""
    found = {}
    for partition in partitions:
        while isinstance(lease := partition.carry_out(Lease(1000)), Leased):
            found[lease.job_id] = lease.payload
    return found


# One -------------------------------------------------------------------------------------------


def test_a_job_is_accepted_once_it_is_stored() -> None:
    front = Front(2)
    run = Run(front.submitting.submit("me", JOB))
    assert not run.done
    settle(front.partitions)
    assert isinstance(run.result, Accepted)
    assert not run.result.replayed
    assert payloads(front.partitions) == {run.result.job_id: b"payload"}


def test_the_same_key_and_body_is_the_same_job_and_another_body_a_conflict() -> None:
    front = Front(3)
    first = front.submit(job(b"x", "k"))
    assert isinstance(first, Accepted)
    assert front.submit(job(b"x", "k")) == Accepted(first.job_id, replayed=True)
    assert front.submit(job(b"y", "k")) is problems.IDEMPOTENCY_CONFLICT
    assert sum(front.stored) == 1


def test_a_key_is_its_owners_own() -> None:
    front = Front(1)
    runs = [Run(front.submitting.submit(owner, job(b"x", "k"))) for owner in ("me", "you")]
    settle(front.partitions)
    assert [run.result.replayed for run in runs] == [False, False]
    assert front.stored == [2]


def test_a_plain_job_that_one_partition_has_no_room_for_goes_to_another() -> None:
    front = Front(3)
    front.partitions[0].limit(jobs_max=0)
    front.partitions[2].limit(jobs_max=1)
    front.partitions[1].limit(jobs_max=29)
    for _ in range(30):
        assert isinstance(front.submit(), Accepted)
    assert front.stored == [0, 29, 1]
    assert front.submit() is problems.TOO_MANY_JOBS
    front.partitions[1].lose()
    assert front.submit() is problems.TOO_MANY_JOBS


def test_a_job_of_a_group_goes_nowhere_else() -> None:
    front = Front(2)
    front.partitions[0].limit(jobs_max=0)
    group = front.group_of(front.partitions[0])
    assert front.submit(job(group=group)) is problems.TOO_MANY_JOBS
    front.partitions[0].lose()
    assert front.submit(job(group=group)) is problems.PARTITION_DOWN
    assert front.stored == [0, 0]


def test_with_no_partition_nothing_is_stored() -> None:
    front = Front(2)
    for partition in front.partitions:
        partition.lose()
    assert front.submit() is problems.PARTITION_DOWN
    assert front.submit_many([JOB, JOB]) is problems.PARTITION_DOWN


# Many ------------------------------------------------------------------------------------------


def test_a_batch_is_one_message_to_one_partition_and_its_ids_are_in_order() -> None:
    front = Front(3)
    jobs = [job(str(number).encode()) for number in range(100)]
    ids = ids_of(front.submit_many(jobs))
    assert sorted(front.stored) == [0, 0, 100]
    assert len(front.batches) == 1
    stored = payloads(front.partitions)
    assert [stored[each] for each in ids] == [each.payload for each in jobs]


def test_a_part_of_a_batch_that_one_partition_has_no_room_for_goes_to_another() -> None:
    front = Front(3)
    front.partitions[0].limit(jobs_max=999)
    front.partitions[1].limit(jobs_max=0)
    front.partitions[2].limit(jobs_max=5000)
    jobs = [job(str(number).encode()) for number in range(3500)]
    ids = ids_of(front.submit_many(jobs))
    # Of four pieces the one of 500 may have fitted into the first partition.
    assert front.stored[1] == 0
    assert sum(front.stored) == 3500
    stored = payloads(front.partitions)
    assert [stored[each] for each in ids] == [each.payload for each in jobs]


def test_a_batch_that_no_partition_has_room_for_is_refused_whole() -> None:
    front = Front(2)
    for partition in front.partitions:
        partition.limit(jobs_max=9)
    assert front.submit_many([JOB] * 10) is problems.TOO_MANY_JOBS
    assert front.stored == [0, 0]


def test_a_part_of_a_batch_that_belongs_to_a_full_partition_goes_nowhere_else() -> None:
    front = Front(2)
    front.partitions[0].limit(jobs_max=0)
    grouped = job(group=front.group_of(front.partitions[0]))
    assert front.submit_many([grouped] * 2) is problems.TOO_MANY_JOBS
    assert front.stored == [0, 0]


def test_batches_go_to_all_partitions_in_time() -> None:
    front = Front(3)
    for _ in range(60):
        ids_of(front.submit_many([JOB] * 2))
    assert all(front.stored)


def test_a_large_batch_is_dealt_out_over_the_partitions_that_serve() -> None:
    front = Front(4)
    front.partitions[2].lose()
    jobs = [job(str(number).encode()) for number in range(6_500)]
    ids = ids_of(front.submit_many(jobs))
    assert sorted(front.stored) == [0, 2_000, 2_000, 2_500]
    assert front.stored[2] == 0
    assert max(len(batch.jobs) for batch in front.batches) == 1_000
    stored = payloads(front.partitions)
    assert [stored[each] for each in ids] == [each.payload for each in jobs]


def test_large_payloads_make_many_pieces() -> None:
    front = Front(2)
    jobs = [job(bytes([number]) * (1 << 20)) for number in range(10)]
    ids = ids_of(front.submit_many(jobs))
    assert sorted(len(batch.jobs) for batch in front.batches) == [2, 4, 4]
    stored = payloads(front.partitions)
    assert [stored[each] for each in ids] == [each.payload for each in jobs]


def test_jobs_of_groups_lie_with_their_groups_in_order_and_their_ids_in_their_places() -> None:
    front = Front(3)
    groups = [front.group_of(partition) for partition in front.partitions]
    jobs = [job(str(number).encode(), group=["", *groups][number % 4]) for number in range(40)]
    ids = ids_of(front.submit_many(jobs))
    for each, job_id in zip(jobs, ids, strict=True):
        if each.group:
            home = front.placement.owner_of(job_id).partition
            assert each.group == groups[home]
    for partition in front.partitions:
        sent = [
            each.payload
            for command in partition.commands
            if isinstance(command, EnqueueMany)
            for each in command.jobs
            if each.group
        ]
        assert sent == sorted(sent, key=int)


# Idempotency in batches ------------------------------------------------------------------------


def test_a_batch_sent_again_is_the_same_jobs() -> None:
    front = Front(3)
    jobs = [job(str(number).encode(), f"k{number}") for number in range(50)]
    ids = ids_of(front.submit_many(jobs))
    assert ids_of(front.submit_many(jobs)) == ids
    assert sum(front.stored) == 50


def test_a_key_that_comes_twice_with_one_body_is_one_job() -> None:
    front = Front(2)
    ids = ids_of(front.submit_many([job(b"x", "k"), JOB, job(b"x", "k")]))
    assert ids[0] == ids[2] != ids[1]
    assert sum(front.stored) == 2


def test_a_conflict_refuses_all_of_the_batch_before_anything_is_stored() -> None:
    front = Front(3)
    front.submit(job(b"x", "k"))
    # Jobs for every partition, some with keys that are new.
    jobs = [job(b"x", f"new{number}") for number in range(30)]
    jobs += [job(b"x", group=front.group_of(each)) for each in front.partitions]
    jobs.insert(17, job(b"y", "k"))
    outcome = front.submit_many(jobs)
    assert isinstance(outcome, Problem)
    assert (outcome.status, outcome.error[:9]) == (422, "jobs[17]:")
    assert sum(front.stored) == 1


@pytest.mark.parametrize("between", [0, 2_500])
def test_two_bodies_of_one_key_in_one_batch_refuse_it_however_far_apart(between: int) -> None:
    front = Front(1)
    jobs = [job(b"x", "k"), *(job(b"x", f"k{number}") for number in range(between))]
    jobs.append(job(b"y", "k"))
    outcome = front.submit_many(jobs)
    assert isinstance(outcome, Problem)
    assert (outcome.status, outcome.error.partition(":")[0]) == (422, f"jobs[{between + 1}]")
    assert front.stored == [0]


# What cannot be stored -------------------------------------------------------------------------


def test_what_is_refused_whole_is_one_problem() -> None:
    front = Front(2)
    for partition in front.partitions:
        partition.answer = lambda command: StorageFull()
    assert front.submit_many([JOB] * 3_000) is problems.STORAGE_FULL
    assert front.stored == [0, 0]


def test_with_the_partition_of_a_group_down_nothing_of_the_batch_is_stored() -> None:
    front = Front(2)
    jobs = [JOB, job(group=front.group_of(front.partitions[0])), JOB]
    front.partitions[0].lose()
    assert front.submit_many(jobs) is problems.PARTITION_DOWN
    assert front.stored == [0, 0]


def test_a_batch_of_which_a_part_is_stored_says_so_of_each_job() -> None:
    front = Front(2)
    full, other = front.partitions
    full.limit(jobs_max=0)
    jobs = [
        job(b"a", group=front.group_of(other)),
        job(b"b", group=front.group_of(full)),
        job(b"c", group=front.group_of(other)),
    ]
    outcome = front.submit_many(jobs)
    assert isinstance(outcome, list)
    assert [each if isinstance(each, Problem) else "id" for each in outcome] == [
        "id",
        problems.TOO_MANY_JOBS,
        "id",
    ]
    assert front.stored == [0, 2]


def test_too_much_in_flight_to_one_partition_is_said_of_its_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    front = Front(2)
    monkeypatch.setattr(partition_client, "REQUESTS_PER_PARTITION_MAX", 1)
    front.partitions[0].client.begin(Lease(1000))
    jobs = [job(group=front.group_of(partition)) for partition in front.partitions]
    outcome = front.submit_many(jobs)
    assert isinstance(outcome, list)
    assert outcome[0] is problems.OVERLOADED
    assert isinstance(outcome[1], bytes)


async def submitted(front: Front, jobs: Sequence[Submit], nursery: trio.Nursery) -> "list[object]":
    outcomes: list[object] = []

    async def submit() -> None:
        outcomes.append(await driven(front.submitting.submit_many("me", jobs)))

    nursery.start_soon(submit)
    await trio.testing.wait_all_tasks_blocked()
    return outcomes


async def settled(front: Front) -> None:
    for _ in range(10):
        await trio.testing.wait_all_tasks_blocked()
        settle(front.partitions)


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("keys", [False, True])
async def test_a_partition_that_dies_under_a_batch_and_comes_back_stores_it_once(
    nursery: trio.Nursery, carried_out: bool, keys: bool
) -> None:
    front = Front(1)
    (partition,) = front.partitions
    jobs = [job(str(number).encode(), f"k{number}" if keys else "") for number in range(50)]
    outcomes = await submitted(front, jobs, nursery)
    requests = partition.take()
    if carried_out:
        partition.carry_out_all(requests)
    partition.lose()
    partition.connect()
    await settled(front)
    (outcome,) = outcomes
    assert isinstance(outcome, list)
    stored = payloads(front.partitions)
    assert [stored[each] for each in outcome] == [each.payload for each in jobs]
    assert len(stored) == 50


async def test_of_a_batch_whose_partition_stays_away_nobody_knows(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    front = Front(1)
    outcomes = await submitted(front, [JOB] * 5_000, nursery)
    front.partitions[0].take()
    front.partitions[0].lose()
    await trio.sleep(6)
    assert outcomes == [problems.OUTCOME_UNKNOWN]


async def test_what_may_be_stored_is_not_hidden_behind_what_is_not(
    nursery: trio.Nursery,
) -> None:
    # "Too many jobs, try again" would make a client store the other part twice.
    front = Front(2)
    full, hanging = front.partitions
    full.limit(jobs_max=0)
    jobs = [job(group=front.group_of(partition)) for partition in front.partitions]
    outcomes = await submitted(front, jobs, nursery)
    hanging.carry_out_all(hanging.take())
    hanging.client._hangs = True
    hanging.lose()
    await settled(front)
    assert outcomes == [[problems.TOO_MANY_JOBS, problems.OUTCOME_UNKNOWN]]


def test_a_reply_that_does_not_fit_claims_nothing() -> None:
    front = Front(1)

    def astray(command: Command) -> Reply:
        assert isinstance(command, Enqueue | EnqueueMany)
        if isinstance(command, EnqueueMany):
            command = command.jobs[0]
        wrong = Enqueue(b"\xff" * 16, b"x", 3, "me", encode_options(Options()))
        return HandPartition(0, 2).carry_out(
            EnqueueMany([wrong]) if command.payload == b"many" else wrong
        )

    front.partitions[0].answer = astray
    assert front.submit() is problems.INTERNAL
    assert front.submit_many([job(b"many")]) is problems.INTERNAL
