"""A partition without processes, pipes or trio: state, log and a disk, driven by hand.

``Driver`` does what the actor does to a batch, in the same order: apply, stage, commit, and
only then read texts and reply. ``Ledger`` is the other side: it remembers what clients were
told, and says what a recovered partition has lost of it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from partitions.checkpoint import Checkpoints
from partitions.errors import BlobUnreadableError
from partitions.job import Job, Outcome, State
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
    LeaseLost,
    Reply,
    Settled,
    Unreadable,
)
from partitions.recovery import recover
from partitions.slots import SLOTS, make_job_id
from partitions.state import (
    Answer,
    JobFound,
    LeaseGranted,
    PartitionState,
    Policy,
    SettledBefore,
)
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
                self.state,
                self.log,
                newest=self.found.snapshot,
                record_bytes=self.found.record_bytes,
                bad_lsns=self.found.bad_lsns,
                growth_bytes_min=checkpoint_bytes,
                step_jobs=step_jobs,
                duty=0,
            )

    def handle(self, commands: list[Command], now_ms: int) -> list[Reply]:
        """One batch: its replies are durable.

        Raises:
            OSError: of the disk; the partition must be given up.
        """
        events: list[Event] = []
        answers: list[Answer] = []
        for command in commands:
            text = text_of(command)
            text_at = self.log.next_blob_at(len(text)) if text else 0
            applied = self.state.apply(command, now_ms, text_at)
            if text and applied.keeps_text:
                self.log.stage(text)
            events += applied.events
            answers.append(applied.reply)
        if events:
            self.log.commit(events, now_ms)
        return [
            filled(answer, command, self.log.read)
            for answer, command in zip(answers, commands, strict=True)
        ]

    def make_room(self, now_ms: int) -> None:
        """What the actor does after the replies went out."""
        self.log.make_room(now_ms)
        if self.checkpoints is not None:
            self.checkpoints.step(now_ms)

    def view(self, wanted: bytes) -> Reply:
        """The job as readers see it."""
        answer = self.state.find(wanted)
        return filled(answer, Lease(0), self.log.read)

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


def filled(answer: Answer, command: Command, read: Callable[[int], bytes]) -> Reply:
    """The reply that a front gets; ``read`` gives the text at a position."""
    try:
        return _filled(answer, command, read)
    except BlobUnreadableError:
        assert isinstance(answer, LeaseGranted | SettledBefore | JobFound)
        return Unreadable(answer.job_id)


def _filled(answer: Answer, command: Command, read: Callable[[int], bytes]) -> Reply:
    match answer:
        case LeaseGranted():
            return Leased(
                answer.job_id,
                read(answer.payload_at),
                answer.lease_until_ms,
                answer.attempt,
                answer.lease_token,
                answer.max_retries,
                answer.created_at_ms,
            )
        case SettledBefore():
            text = read(answer.outcome_at) if answer.outcome_at else b""
            return (Settled if text == text_of(command) else LeaseLost)(answer.job_id)
        case JobFound():
            return _view(answer, read(answer.outcome_at) if answer.outcome_at else None)
        case _:
            return answer


def _view(found: JobFound, text: bytes | None) -> JobView:
    error = text if found.outcome is Outcome.ERROR else None
    return JobView(
        found.job_id,
        found.state.name,
        found.attempts,
        found.max_retries,
        found.created_at_ms,
        found.lease_until_ms,
        text if found.outcome is Outcome.RESULT else None,
        b"lease expired" if found.outcome is Outcome.EXPIRED else error,
        found.owner,
    )


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
    return state._jobs


class Snapshot(msgspec.Struct, frozen=True):
    """All of a state that replaying its events must give again."""

    jobs: dict[bytes, Job]
    ready: list[bytes]
    finished: dict[State, list[bytes]]
    last_number: int
    last_token: int
    timers: list[tuple[int, bytes]]
    timers_live: int


def snapshot(state: PartitionState) -> Snapshot:
    """What ``state`` holds. Dead timers are left out: replay may have more of them."""
    ready = state._ready
    return Snapshot(
        jobs={each: msgspec.structs.replace(job) for each, job in state._jobs.items()},
        ready=[
            job.job_id
            for job in sorted(
                [*ready._fresh, *(job for _, job in ready._returned)], key=lambda job: job.number
            )
        ],
        finished={kind: [job.job_id for job in queue] for kind, queue in state._finished.items()},
        last_number=state._last_number,
        last_token=state._last_token,
        timers=sorted({timer for timer in state._timers._heap if state._matters(timer)}),
        timers_live=state._timers_live,
    )


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
        if job.attempts > job.attempts_max:
            wrong.append(f"job {name} had {job.attempts} attempts of {job.attempts_max}")
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
            expected = "DEAD" if job.attempts == job.attempts_max else "RETRY"
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
