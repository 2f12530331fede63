"""A stopped node's data directory, filled by hand: partitions on a real disk.

What each of them held when it was closed is kept, so that a test can say what every job must be
after the directory was copied, restored or dealt out anew.
"""

from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import msgspec

from partitions.disk import Disk, RealDisk
from partitions.job import Job, State
from partitions.kinds import KindKey
from partitions.log import Log, Sizes, identity_of
from partitions.messages import (
    Ack,
    Cancel,
    ClaimKeys,
    Command,
    Enqueue,
    Extend,
    Fail,
    Forget,
    JobView,
    KeyClaim,
    Lease,
    Leased,
    LeasedMany,
    LeaseMany,
    Pause,
    Release,
    Reply,
    Retry,
    Tick,
)
from partitions.options import Options, decode_options, encode_options
from partitions.recovery import Recovered, recover
from partitions.retry import Backoff
from partitions.slots import SLOTS, make_job_id, partition_of, slot_of
from partitions.state import PartitionState, Policy
from queue_node.node_file import FORMAT, NodeFile, partition_name, write_node_file
from tests.support.driver import SMALL, START_MS, filled, jobs_of, snapshot
from tests.support.witness import Group, Whole, whole

POLICY = Policy(retention_ms=10**9, dead_retention_ms=10**9)
LEASE_MS = 5_000
QUEUES = ("default", "mail", "slow")


class Shape(msgspec.Struct, frozen=True):
    """What a job can have beside its payload."""

    options: Options = Options()
    delay_ms: int = 0
    ttl_ms: int = 0
    group: str = ""
    digest: bytes = b""


SHAPES = (
    Shape(),
    Shape(Options("mail", 7, tags=(("to", "ann"),)), digest=b"a digest"),
    Shape(Options("mail", -7)),
    Shape(Options("slow", lease_ms=900, retention_ms=10**8, backoff=Backoff(700)), group="orders"),
    Shape(group="orders"),
    Shape(Options(priority=3), group="mails", ttl_ms=6_000),
    Shape(delay_ms=1_000),
    Shape(Options("slow"), delay_ms=10**6, ttl_ms=10**7, group="orders"),
    Shape(ttl_ms=900),
)


@dataclass
class Expected:
    """What a job must be, whatever partition it is in."""

    view: JobView
    kind: KindKey
    job: Job
    """Without what is another in each partition."""
    payload: bytes | None
    """None once the job is ACKED."""


@dataclass
class HandPartition:
    """One partition: its state and log."""

    state: PartitionState
    found: Recovered

    @property
    def log(self) -> Log:
        return self.found.log

    def read(self, position: int) -> bytes:
        """The text there; a job without one has position 0."""
        return self.log.read(position) if position else b""

    def view(self, wanted: bytes) -> Reply:
        """The job as readers see it."""
        return filled(self.state.find(wanted), self.read)

    def payload(self, wanted: bytes) -> bytes | None:
        """The job's payload; None once nobody needs it: it is ACKED."""
        job = jobs_of(self.state)[wanted]
        return None if job.state is State.ACKED else self.read(job.payload_at)

    def step(self, command: Command, now_ms: int) -> Reply:
        """One command, committed."""
        applied = self.state.apply(command, now_ms, self.log.put)
        if applied.events:
            self.log.commit(list(applied.events), now_ms)
            self.log.make_room(now_ms)
        return filled(applied.reply, self.read)

    def jobs(self) -> dict[bytes, Expected]:
        """Every job as it is now."""
        return {each: self._expected(job) for each, job in jobs_of(self.state).items()}

    def _expected(self, job: Job) -> Expected:
        view = self.view(job.job_id)
        assert isinstance(view, JobView)
        run = None if job.run is None else msgspec.structs.replace(job.run, outcome_at=0)
        return Expected(
            # Numbers of jobs of one moment may be others behind a reshard.
            msgspec.structs.replace(view, number=0),
            self.state.jobs.kind(job).key,
            msgspec.structs.replace(job, number=job.created_at_ms, payload_at=0, kind=0, run=run),
            self.payload(job.job_id),
        )


@dataclass
class Closed:
    """What a partition was when it was closed."""

    jobs: dict[bytes, Expected]
    numbers: dict[bytes, int]
    whole: Whole


class HandNode:
    """``partitions`` of them in ``path``, until ``close``."""

    def __init__(
        self, path: Path, partitions: int, sizes: Sizes = SMALL, disk: Disk | None = None
    ) -> None:
        self.path = path
        self.count = partitions
        self.now_ms = START_MS
        self._submitted: list[bytes] = []
        self._held: list[tuple[int, Leased]] = []
        self._closed: list[Closed] = []
        disk = disk or RealDisk()
        path.mkdir(mode=0o700, parents=True)
        write_node_file(path, NodeFile(FORMAT, partitions))
        self.partitions = [
            opened(disk, path, number, partitions, sizes) for number in range(partitions)
        ]

    def submit(
        self, slot: int, payload: bytes, max_retries: int, owner: str, shape: Shape = SHAPES[0]
    ) -> bytes:
        """A new job; returns its id. Those of a group have a slot of their own."""
        if shape.group:
            slot = crc32(shape.group.encode()) % SLOTS
        job_id = make_job_id(self.now_ms, len(self._submitted) + 1, slot)
        self._submitted.append(job_id)
        command = Enqueue(
            job_id,
            payload,
            max_retries,
            owner,
            encode_options(shape.options),
            self.now_ms + shape.delay_ms if shape.delay_ms else 0,
            self.now_ms + shape.ttl_ms if shape.ttl_ms else 0,
            shape.group,
            shape.digest,
        )
        self.partitions[partition_of(slot, self.count)].step(command, self.now_ms)
        return job_id

    def claim(self, key_slot: int, slot: int) -> None:
        """Claim an idempotency key for a slot, anew if need be; it may be another slot's."""
        key_id = make_job_id(0, key_slot, key_slot)
        claiming = ClaimKeys([KeyClaim(key_id, slot)])
        self.partitions[partition_of(key_slot, self.count)].step(claiming, self.now_ms)

    def lease(self, number: int, queues: tuple[str, ...] = QUEUES, count: int = 1) -> None:
        """Lease from one partition."""
        number %= self.count
        lease = LeaseMany(Lease(LEASE_MS, queues, "worker 1"), count)
        reply = self.partitions[number].step(lease, self.now_ms)
        if isinstance(reply, LeasedMany):
            self._held += [(number, leased) for leased in reply.jobs]

    def settle(self, index: int, text: bytes, *, failed: bool) -> None:
        """Report about one of the leases that were given; it may be over."""
        if self._held:
            number, lease = self._held.pop(index % len(self._held))
            report = _report(lease, text, failed=failed)
            self.partitions[number].step(report, self.now_ms)

    def hold(self, index: int, what: str) -> None:
        """Extend a lease that was given, or give the job back; it may be over."""
        if not self._held:
            return
        number, lease = self._held[index % len(self._held)]
        job_id, token = lease.job_id, lease.lease_token
        command: Command = Extend(job_id, token, 2 * LEASE_MS, b"50")
        if what != "extend":
            self._held.remove((number, lease))
            command = Release(job_id, token, 2_000 if what == "release later" else 0)
        self.partitions[number].step(command, self.now_ms)

    def call(self, kind: type[Cancel | Retry | Forget], index: int) -> None:
        """Cancel, retry or delete a job; it may refuse."""
        if self._submitted:
            job_id = self._submitted[index % len(self._submitted)]
            number = partition_of(slot_of(job_id), self.count)
            self.partitions[number].step(kind(job_id), self.now_ms)

    def pause(self, queue: str, *, paused: bool) -> None:
        """Pause a queue in every partition, or let it go on."""
        for partition in self.partitions:
            partition.step(Pause(queue, paused), self.now_ms)

    def wait(self, ms: int) -> None:
        """Time passes, and every partition notices."""
        self.now_ms += ms
        for partition in self.partitions:
            partition.step(Tick(), self.now_ms)

    def close(self) -> None:
        """The node stops."""
        for partition in self.partitions:
            numbers = {job.job_id: job.number for job in partition.state.jobs.order}
            self._closed.append(Closed(partition.jobs(), numbers, whole(partition.state)))
            partition.log.close()

    def expected(self) -> dict[bytes, Expected]:
        """Every job, as it was when the node stopped."""
        return {each: job for closed in self._closed for each, job in closed.jobs.items()}

    def ready_order(self) -> dict[str, list[bytes]]:
        """Jobs of each queue that can be leased: priority, then time, number, partition."""
        ready: dict[str, list[tuple[int, int, int, bytes]]] = {}
        for index, closed in enumerate(self._closed):
            for queue, job_ids in closed.whole.rest["ready"].items():
                for job_id in job_ids:
                    priority = self._priority(closed.jobs[job_id])
                    number = closed.numbers[job_id]
                    ready.setdefault(queue, []).append((-priority, number, index, job_id))
        return {queue: [each for *_, each in sorted(some)] for queue, some in ready.items()}

    @staticmethod
    def _priority(expected: Expected) -> int:
        return decode_options(expected.kind.options).priority

    def groups(self) -> dict[tuple[str, str], Group]:
        """Every group: its jobs in order, the one whose turn it is, the one that runs."""
        return {
            name: group for closed in self._closed for name, group in closed.whole.groups.items()
        }

    def claims(self) -> dict[bytes, int]:
        """Every claim of an idempotency key."""
        return {
            key_id: claim
            for closed in self._closed
            for key_id, claim in closed.whole.rest["claims"].items()
        }

    def paused(self) -> set[str]:
        """Queues that are paused."""
        return {queue for closed in self._closed for queue in closed.whole.rest["paused"]}

    @property
    def last_token(self) -> int:
        """The highest that was given."""
        tokens: list[int] = [closed.whole.rest["last_token"] for closed in self._closed]
        return max(tokens)


def _report(lease: Leased, text: bytes, *, failed: bool) -> Ack | Fail:
    if failed:
        return Fail(lease.job_id, lease.lease_token, text)
    return Ack(lease.job_id, lease.lease_token, text)


def opened(
    disk: Disk, path: Path, number: int, partitions: int, sizes: Sizes = SMALL
) -> HandPartition:
    """A partition of a data directory, as a start finds it."""
    directory = path / partition_name(number)
    disk.make_directory(directory)
    identity = identity_of(number, partitions)
    policy = Policy(
        slots=range(identity.slot_first, identity.slot_end),
        retention_ms=POLICY.retention_ms,
        dead_retention_ms=POLICY.dead_retention_ms,
    )
    state = PartitionState(policy)
    return HandPartition(state, recover(disk, directory, identity, state, sizes))


def differences(partitions: list[HandPartition], node: HandNode) -> list[str]:
    """What partitions hold that they should not, or lack; ``partitions`` are in order."""
    wrong = []
    expected, ready_order = node.expected(), node.ready_order()
    seen: list[bytes] = []
    groups: dict[tuple[str, str], Group] = {}
    claims = node.claims()
    for number, partition in enumerate(partitions):
        for job_id, has in partition.jobs().items():
            seen.append(job_id)
            if partition_of(slot_of(job_id), len(partitions)) != number:
                wrong.append(f"{job_id.hex()} is in partition {number}")
            if has != expected.get(job_id):
                wrong.append(f"{job_id.hex()} is {has}, not {expected.get(job_id)}")
        mine = {
            queue: here
            for queue, all_of_it in ready_order.items()
            if (
                here := [
                    each
                    for each in all_of_it
                    if partition_of(slot_of(each), len(partitions)) == number
                ]
            )
        }
        found = snapshot(partition.state)
        if found.ready != mine:
            wrong.append(f"the order in partition {number} is {found.ready}, not {mine}")
        own = {
            key_id: claim
            for key_id, claim in claims.items()
            if partition_of(slot_of(key_id), len(partitions)) == number
        }
        if found.claims != own:
            wrong.append(f"claims in partition {number}: {found.claims}, not {own}")
        if found.paused != node.paused():
            wrong.append(f"paused in partition {number}: {found.paused}, not {node.paused()}")
        groups |= whole(partition.state).groups
    if sorted(seen) != sorted(expected):
        wrong.append(f"{len(seen)} jobs, not {len(expected)}, or not the same")
    if groups != node.groups():
        wrong.append(f"groups are {groups}, not {node.groups()}")
    return wrong
