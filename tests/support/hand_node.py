"""A stopped node's data directory, filled by hand: partitions on a real disk, beside their models.

What each partition was told, a ``Model`` was told too, so that a test can say what every job
must be after the directory was copied, restored or dealt out anew.
"""

from dataclasses import dataclass, field
from pathlib import Path

from partitions.disk import Disk, RealDisk
from partitions.job import State
from partitions.log import Log, Sizes, identity_of
from partitions.messages import Ack, Command, Enqueue, Fail, JobView, Lease, Leased, Reply, Tick
from partitions.recovery import Recovered, recover
from partitions.slots import make_job_id, partition_of, slot_of
from partitions.state import PartitionState, Policy
from queue_node.node_file import FORMAT, NodeFile, partition_name, write_node_file
from tests.support.driver import SMALL, START_MS, filled, jobs_of, snapshot, text_of
from tests.support.model import Model

POLICY = Policy(retention_ms=10**9, dead_retention_ms=10**9)
LEASE_MS = 5_000


@dataclass
class Expected:
    """What a job must be, whatever partition it is in."""

    view: JobView
    token: int
    due_ms: int
    payload: bytes | None
    """None once the job is ACKED."""


@dataclass
class HandPartition:
    """One partition: its state and log, and the model of it."""

    state: PartitionState
    found: Recovered
    model: Model = field(default_factory=lambda: Model(POLICY))

    @property
    def log(self) -> Log:
        return self.found.log

    def read(self, position: int) -> bytes:
        """The text there; a job without one has position 0."""
        return self.log.read(position) if position else b""

    def view(self, wanted: bytes) -> Reply:
        """The job as readers see it."""
        return filled(self.state.find(wanted), Lease(0), self.read)

    def payload(self, wanted: bytes) -> bytes | None:
        """The job's payload; None once nobody needs it: it is ACKED."""
        job = jobs_of(self.state)[wanted]
        return None if job.state is State.ACKED else self.read(job.payload_at)

    def step(self, command: Command, now_ms: int) -> Reply:
        """One command, committed; the model hears it too."""
        text = text_of(command)
        text_at = self.log.next_blob_at(len(text)) if text else 0
        applied = self.state.apply(command, now_ms, text_at)
        if text and applied.keeps_text:
            self.log.stage(text)
        if applied.events:
            self.log.commit(list(applied.events), now_ms)
            self.log.make_room(now_ms)
        reply = filled(applied.reply, command, self.read)
        assert reply == self.model.step(command, now_ms)
        return reply


class HandNode:
    """``partitions`` of them in ``path``, until ``close``."""

    def __init__(
        self, path: Path, partitions: int, sizes: Sizes = SMALL, disk: Disk | None = None
    ) -> None:
        self.path = path
        self.count = partitions
        self.now_ms = START_MS
        self._submitted = 0
        self._held: list[tuple[int, Leased]] = []
        disk = disk or RealDisk()
        path.mkdir(mode=0o700, parents=True)
        write_node_file(path, NodeFile(FORMAT, partitions))
        self.partitions = [
            opened(disk, path, number, partitions, sizes) for number in range(partitions)
        ]

    def submit(self, slot: int, payload: bytes, max_retries: int, owner: str) -> bytes:
        """A new job; returns its id."""
        self._submitted += 1
        job_id = make_job_id(self.now_ms, self._submitted, slot)
        command = Enqueue(job_id, payload, max_retries, owner)
        self.partitions[partition_of(slot, self.count)].step(command, self.now_ms)
        return job_id

    def lease(self, number: int) -> Leased | None:
        """Lease from one partition."""
        number %= self.count
        reply = self.partitions[number].step(Lease(LEASE_MS), self.now_ms)
        if not isinstance(reply, Leased):
            return None
        self._held.append((number, reply))
        return reply

    def settle(self, index: int, text: bytes, *, failed: bool) -> None:
        """Report about one of the leases that were given; it may be over."""
        if self._held:
            number, lease = self._held.pop(index % len(self._held))
            report = _report(lease, text, failed=failed)
            self.partitions[number].step(report, self.now_ms)

    def wait(self, ms: int) -> None:
        """Time passes, and every partition notices."""
        self.now_ms += ms
        for partition in self.partitions:
            partition.step(Tick(), self.now_ms)

    def close(self) -> None:
        """The node stops."""
        for partition in self.partitions:
            partition.log.close()

    def expected(self) -> dict[bytes, Expected]:
        """Every job."""
        found = {}
        for partition in self.partitions:
            for job_id, job in partition.model.jobs.items():
                view = partition.model.view(job_id)
                assert isinstance(view, JobView)
                due_ms = job.finished_ms or job.wait_until_ms or 0
                payload = None if job.state == "ACKED" else job.submit.payload
                found[job_id] = Expected(view, job.token, due_ms, payload)
        return found

    def ready_order(self) -> list[bytes]:
        """Jobs that can be leased, by submission: time, then number, then partition."""
        ready = [
            (job.created_at_ms, jobs_of(partition.state)[job_id].number, number, job_id)
            for number, partition in enumerate(self.partitions)
            for job_id, job in partition.model.jobs.items()
            if job.ready
        ]
        return [job_id for *_, job_id in sorted(ready)]

    @property
    def last_token(self) -> int:
        """The highest that was given."""
        return max(partition.model.last_token for partition in self.partitions)


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
    return HandPartition(state, recover(disk, directory, identity, state, sizes), Model(policy))


def differences(
    partitions: list[HandPartition], expected: dict[bytes, Expected], ready_order: list[bytes]
) -> list[str]:
    """What partitions hold that they should not, or lack; ``partitions`` are in order."""
    wrong = []
    seen: list[bytes] = []
    for number, partition in enumerate(partitions):
        for job_id, job in jobs_of(partition.state).items():
            seen.append(job_id)
            if partition_of(slot_of(job_id), len(partitions)) != number:
                wrong.append(f"{job_id.hex()} is in partition {number}")
            view = partition.view(job_id)
            assert isinstance(view, JobView)
            has = Expected(view, job.lease_token, job.due_ms, partition.payload(job_id))
            if has != expected.get(job_id):
                wrong.append(f"{job_id.hex()} is {has}, not {expected.get(job_id)}")
        mine = [
            each for each in ready_order if partition_of(slot_of(each), len(partitions)) == number
        ]
        if snapshot(partition.state).ready != mine:
            wrong.append(f"the order in partition {number}")
    if sorted(seen) != sorted(expected):
        wrong.append(f"{len(seen)} jobs, not {len(expected)}, or not the same")
    return wrong
