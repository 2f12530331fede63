"""A partition without processes, pipes or trio: state, log and a disk, driven by hand.

``Driver`` does what the actor does to a batch, in the same order: apply, stage, commit, and
only then read texts and reply. ``Ledger`` is the other side: it remembers what clients were
told, and says what a recovered partition has lost of it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from partitions import filling
from partitions.answers import Answer, JobFound
from partitions.checkpoint import Checkpoints
from partitions.errors import BlobUnreadableError
from partitions.filling import TextAnswer
from partitions.job import Job, State
from partitions.kinds import KindKey
from partitions.log import Identity, Sizes
from partitions.messages import (
    Ack,
    Command,
    Enqueue,
    Enqueued,
    Fail,
    JobView,
    Lease,
    Leased,
    Reply,
    Settled,
    Unreadable,
)
from partitions.recovery import recover
from partitions.slots import SLOTS, make_job_id
from partitions.state import PartitionState, Policy
from tests.support.fake_disk import FakeDisk

if TYPE_CHECKING:
    from partitions.events import Event

DIRECTORY = Path("/data/p-0000")
IDENTITY = Identity(0, 0, SLOTS)
SMALL = Sizes(segment_bytes=2048, extent_bytes=1024, reserve_bytes=512)
"""Some twenty jobs fill a segment."""

START_MS = 1_800_000_000_000


def job_id(index: int) -> bytes:
    """A job id that is the same in every run."""
    return make_job_id(START_MS, index, index % SLOTS)


def enqueue(index: int, payload: bytes = b"payload", max_retries: int = 3) -> Enqueue:
    """A submit of job ``index``."""
    return Enqueue(job_id(index), payload, max_retries, "owner")


class Driver:
    """A running partition on ``disk``."""

    def __init__(
        self,
        disk: FakeDisk,
        policy: Policy | None = None,
        sizes: Sizes = SMALL,
        checkpoint_bytes: int | None = None,
        step_jobs: int = 5,
    ) -> None:
        """With ``checkpoint_bytes``, that much log brings a checkpoint; else there is none."""
        disk.make_directory(DIRECTORY)
        self.disk = disk
        self.state = PartitionState(policy)
        self.found = recover(disk, DIRECTORY, IDENTITY, self.state, sizes)
        self.log = self.found.log
        self.checkpoints: Checkpoints | None = None
        if checkpoint_bytes is not None:
            self.checkpoints = Checkpoints(
                disk,
                DIRECTORY,
                IDENTITY,
                self.state.jobs,
                self.log,
                newest=self.found.snapshot,
                record_bytes=self.found.record_bytes,
                bad_lsns=self.found.bad_lsns,
                growth_bytes_min=checkpoint_bytes,
                step_jobs=step_jobs,
                duty=0,
                patience=1,
            )

    def handle(self, commands: list[Command], now_ms: int) -> list[Reply]:
        """One batch: its replies are durable.

        Raises:
            OSError: of the disk; the partition must be given up.
        """
        events: list[Event] = []
        answers: list[Answer] = []
        for command in commands:
            applied = self.state.apply(command, now_ms, self.log.put)
            events += applied.events
            answers.append(applied.reply)
        if events:
            self.log.commit(events, now_ms)
        return [filled(answer, self.log.read) for answer in answers]

    def make_room(self, now_ms: int) -> None:
        """What the actor does after the replies went out."""
        self.log.make_room(now_ms)
        if self.checkpoints is not None:
            self.checkpoints.step(now_ms)

    def view(self, wanted: bytes) -> Reply:
        """The job as readers see it."""
        answer = self.state.find(wanted)
        return filled(answer, self.log.read)

    def payload(self, wanted: bytes) -> bytes | None:
        """The job's payload, read back from the disk; None once nobody needs it: it is ACKED."""
        job = jobs_of(self.state)[wanted]
        if job.state is State.ACKED:
            assert job.payload_at == 0
            return None
        return self.log.read(job.payload_at)

    def close(self) -> None:
        """End without a word, like a process that is killed."""
        self.log.close()


def filled(answer: Answer, read: Callable[[int], bytes]) -> Reply:
    """The reply that a front gets; ``read`` gives the text at a position."""

    def fill(each: TextAnswer) -> tuple[Reply, int]:
        try:
            return filling.filled(each, read)
        except BlobUnreadableError:
            return Unreadable(each.view.job_id if isinstance(each, JobFound) else each.job_id), 0

    return filling.reply_to(answer, fill)[0]


def text_of(command: Command) -> bytes:
    """The text that a command brings."""
    match command:
        case Enqueue():
            return command.payload
        case Ack():
            return command.result or b""
        case Fail():
            return command.error
        case _:
            return b""


def jobs_of(state: PartitionState) -> dict[bytes, Job]:
    """Every job, inside."""
    return state.jobs.by_id


class Snapshot(msgspec.Struct, frozen=True):
    """All of a state that replaying its events must give again."""

    jobs: dict[bytes, Job]
    """Without the numbers of their kinds, which mean nothing."""
    kinds: dict[bytes, KindKey]
    ready: dict[str, list[bytes]]
    """By queue, in the order in which they are to be leased."""
    paused: set[str]
    claims: dict[bytes, int]
    counts: dict[str, dict[str, int]]
    finished: dict[State, list[bytes]]
    """By the time of their end; those of one moment by submission, for it does not matter."""
    finished_own: list[tuple[int, bytes]]
    order: list[bytes]
    unfinished: int
    last_number: int
    last_token: int
    timers: list[tuple[int, bytes]]
    timers_live: int


def snapshot(state: PartitionState) -> Snapshot:
    """What ``state`` holds. Dead timers are left out: replay may have more of them."""
    jobs = state.jobs
    return Snapshot(
        jobs={
            each: msgspec.structs.replace(job.copied(), kind=0) for each, job in jobs.by_id.items()
        },
        kinds={each: jobs.kind(job).key for each, job in jobs.by_id.items()},
        ready={
            name: [job.job_id for job in queue.ready]
            for name, queue in jobs.kinds.queues.items()
            if len(queue.ready)
        },
        paused={name for name, queue in jobs.kinds.queues.items() if queue.paused},
        claims=dict(jobs.claims),
        counts={
            name: {state.name: n for state in State if (n := queue.counts[state])}
            for name, queue in jobs.kinds.queues.items()
            if queue.jobs
        },
        finished={state: _finished(queue) for state, queue in jobs.finished.items()},
        finished_own=sorted({each for each in jobs.finished_own._heap if jobs.is_to_go(each)}),
        order=[job.job_id for job in jobs.order],
        unfinished=jobs.unfinished,
        last_number=jobs.last_number,
        last_token=jobs.last_token,
        timers=sorted({timer for timer in jobs.timers._heap if jobs.matters(timer)}),
        timers_live=jobs._timers_live,
    )


def _finished(queue: Iterable[Job]) -> list[bytes]:
    there = [job for job in queue if job.state is not State.GONE]
    times = [job.due_ms for job in there]
    assert times == sorted(times), "a job that ended later stands before another"
    return [job.job_id for job in sorted(there, key=lambda job: (job.due_ms, job.number))]


class Ledger:
    """What clients were told: the least that a recovered partition must know."""

    def __init__(self) -> None:
        self.asked: set[bytes] = set()
        self.stored: dict[bytes, Enqueue] = {}
        self.leases: dict[bytes, Leased] = {}
        self.acked: dict[bytes, Ack] = {}
        self.failed: dict[bytes, Fail] = {}
        self.settling: set[bytes] = set()
        self.tokens: list[int] = []

    def ask(self, commands: list[Command]) -> None:
        """These go to the partition; whether they happen nobody knows yet."""
        for command in commands:
            if isinstance(command, Enqueue):
                self.asked.add(command.job_id)
            elif isinstance(command, Ack | Fail):
                self.settling.add(command.job_id)

    def hear(self, commands: list[Command], replies: list[Reply]) -> None:
        """The partition answered: from now on it is held to it."""
        for command, reply in zip(commands, replies, strict=True):
            match command, reply:
                case Enqueue(), Enqueued():
                    self.stored[command.job_id] = command
                case Lease(), Leased():
                    self.leases[reply.job_id] = reply
                    self.tokens.append(reply.lease_token)
                    self.settling.discard(reply.job_id)
                    self.failed.pop(reply.job_id, None)
                case Ack(), Settled():
                    self.acked[command.job_id] = command
                case Fail(), Settled():
                    self.failed[command.job_id] = command
                case _:
                    pass

    def losses(self, found: Driver) -> list[str]:
        """Everything that was told and is not there, in words; empty is good.

        No time may have passed in ``found``: expiry and forgetting would be no losses.
        """
        jobs = jobs_of(found.state)
        wrong = [f"job {each.hex()} from nowhere" for each in jobs if each not in self.asked]
        for each, command in self.stored.items():
            job = jobs.get(each)
            if job is None:
                wrong.append(f"job {each.hex()} is lost")
                continue
            if found.payload(each) not in (command.payload, None):
                wrong.append(f"job {each.hex()} has another payload")
            wrong += self._wrong_in(found, job)
        return wrong

    def _wrong_in(self, found: Driver, job: Job) -> list[str]:
        name = job.job_id.hex()
        view = found.view(job.job_id)
        assert isinstance(view, JobView)
        wrong = []
        attempts_max = found.state.jobs.kind(job).attempts_max
        if job.attempts > attempts_max:
            wrong.append(f"job {name} had {job.attempts} attempts of {attempts_max}")
        lease = self.leases.get(job.job_id)
        if lease is not None and (
            job.lease_token < lease.lease_token or job.attempts < lease.attempt
        ):
            wrong.append(f"lease {lease.lease_token} of job {name} is lost")
        acked = self.acked.get(job.job_id)
        if acked is not None and (view.state, view.result or b"") != ("ACKED", acked.result or b""):
            wrong.append(f"ack of job {name} is lost: {view}")
        failed = self.failed.get(job.job_id)
        if failed is not None and job.lease_token == failed.lease_token:
            expected = "DEAD" if job.attempts == attempts_max else "RETRY"
            if (view.state, view.result_error) != (expected, failed.error):
                wrong.append(f"failure of job {name} is lost: {view}")
        if (
            lease is not None
            and lease.lease_token == job.lease_token
            and job.job_id not in self.settling
            and (view.state, view.lease_until_ms) != ("RUNNING", lease.lease_until_ms)
        ):
            wrong.append(f"job {name} is not held by its worker any more: {view}")
        return wrong
