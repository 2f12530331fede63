"""A partition's memory, start-up and disk: so many jobs wait, it starts anew, they are acked.

One process fills a log, as the actor does, and ends. One starts from the log alone; one starts and
takes a snapshot, step by step; one starts from that; one leases every job and acks them in random
order, with snapshots and copying in between. Each measures itself: what a process keeps of what
it has freed must not count. Files are in the page cache, as after a crash of the process.

Memory is the growth of the resident set from before the start, divided by the jobs.
"""

import gc
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from bench.errors import BenchError
from bench.micro.figure import Figure
from partitions.answers import LeaseGranted
from partitions.checkpoint import Checkpoints
from partitions.disk import RealDisk
from partitions.limits import RESERVE_BYTES, SEGMENT_BYTES
from partitions.log import EVENT_BYTES_MAX, Identity, Log
from partitions.memory import give_back
from partitions.messages import Ack, Command, Enqueue, Lease
from partitions.recovery import recover
from partitions.slots import SLOTS, make_job_id
from partitions.state import PartitionState

if TYPE_CHECKING:
    from partitions.events import Event

JOBS: Final = 1_000_000
ACKS: Final = 100
PAYLOAD_BYTES: Final = 256
_BATCH: Final = 100
_BATCH_BYTES: Final = 8 << 20
_NOW_MS: Final = 1_700_000_000_000
_IDENTITY: Final = Identity(0, 0, SLOTS)


class Load(msgspec.Struct, frozen=True):
    """What is measured."""

    jobs: int = JOBS
    acks: int = ACKS
    """In one batch, as one call would bring them."""
    payload_bytes: int = PAYLOAD_BYTES


class Phase(msgspec.Struct, frozen=True):
    """What one of the processes saw."""

    jobs: int
    seconds: float
    memory_bytes: int
    snapshot_bytes: int = 0
    longest_step_ms: float = 0.0
    excess_segments: float = 0.0
    """Most that the disk held above 1.5 times the live data, in segments."""


def measure(parent: Path, load: Load) -> list[Figure]:
    """Fill, start from the log, take a snapshot, start from it, ack all; below ``parent``.

    Raises:
        BenchError: one of the processes failed, or did not find every job.
    """
    with tempfile.TemporaryDirectory(prefix="queue-node-micro-", dir=parent) as directory:
        filled, from_log, shot, from_snapshot, drained = (
            _in_a_process(phase, directory, load)
            for phase in ("fill", "start", "snapshot", "start", "drain")
        )
    return [
        _figure("submit, in batches of 100, synced", filled),
        _figure("start from the log alone", from_log),
        Figure(
            "snapshot",
            load.jobs / shot.seconds,
            f"{shot.seconds:.2f} s in all, longest step {shot.longest_step_ms:.1f} ms,"
            f" {shot.snapshot_bytes / load.jobs:.0f} bytes a job",
        ),
        _figure("start from the snapshot", from_snapshot),
        Figure(
            f"lease and ack in random order, {load.acks:,} acks at once",
            load.jobs / drained.seconds,
            f"longest step {drained.longest_step_ms:.1f} ms; at most 1.5 x live data"
            f" + {drained.excess_segments:.1f} segments of log",
        ),
    ]


def _figure(what: str, phase: Phase) -> Figure:
    note = f"{phase.seconds:.2f} s, {phase.memory_bytes / phase.jobs:.0f} bytes of memory a job"
    return Figure(f"{what}, {phase.jobs:,} jobs", phase.jobs / phase.seconds, note)


def _in_a_process(phase: str, directory: str, load: Load) -> Phase:
    described = msgspec.json.encode(load).decode()
    command = [sys.executable, "-m", "bench.micro.storage", phase, directory, described]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise BenchError(f"the process of the phase {phase!r} ended with {done.returncode}")
    seen = msgspec.json.decode(done.stdout, type=Phase)
    if seen.jobs != load.jobs:
        raise BenchError(f"phase {phase!r}: {seen.jobs} jobs are there, not {load.jobs}")
    return seen


def _run(phase: str, directory: Path, load: Load) -> Phase:
    # As in a partition: what recovery makes has no cycles.
    gc.disable()
    disk, state = RealDisk(), PartitionState()
    memory_before, started = _resident_bytes(), time.perf_counter()
    found = recover(disk, directory, _IDENTITY, state)
    give_back()  # as a partition does
    snapshot_bytes, longest_step_ms, excess_segments = 0, 0.0, 0.0
    if phase == "fill":
        _fill(state, found.log, load)
    elif phase == "snapshot":
        # Due at once, however small the log is.
        checkpoints = Checkpoints(
            disk,
            directory,
            _IDENTITY,
            state.jobs,
            found.log,
            record_bytes=found.record_bytes,
            growth_bytes_min=0,
            duty=0,
        )
        started = time.perf_counter()
        while checkpoints.next_step_ms is not None:
            checkpoints.step(_NOW_MS)
        longest_step_ms = checkpoints.longest_step_ms
        snapshot_bytes = sum(path.stat().st_size for path in directory.glob("*.snap"))
    elif phase == "drain":
        checkpoints = Checkpoints(
            disk, directory, _IDENTITY, state.jobs, found.log, record_bytes=found.record_bytes
        )
        excess_segments = _drain(state, found.log, checkpoints, directory, load.acks)
        longest_step_ms = checkpoints.longest_step_ms
    seconds = time.perf_counter() - started
    memory = _resident_bytes() - memory_before
    found.log.close()
    return Phase(len(state), seconds, memory, snapshot_bytes, longest_step_ms, excess_segments)


def _fill(state: PartitionState, log: Log, load: Load) -> None:
    draw = random.Random(1)
    payload = draw.randbytes(load.payload_bytes)
    at_once = max(1, min(_BATCH, _BATCH_BYTES // load.payload_bytes))
    size = at_once * (load.payload_bytes + EVENT_BYTES_MAX)
    for first in range(0, load.jobs, at_once):
        now_ms = _NOW_MS + first // at_once
        events: list[Event] = []
        for _ in range(min(at_once, load.jobs - first)):
            job_id = make_job_id(now_ms, draw.getrandbits(58), draw.randrange(SLOTS))
            command = Enqueue(job_id, payload, 3, "owner")
            events += state.apply(command, now_ms, log.put).events
        assert log.reserve(size, keep_bytes=RESERVE_BYTES), "the disk is full"
        log.commit(events, now_ms)
        log.make_room(now_ms)


def _drain(
    state: PartitionState, log: Log, checkpoints: Checkpoints, directory: Path, at_once: int
) -> float:
    """Lease every job, ack all in random order; the most log above 1.5 times the live data."""
    jobs = len(state)
    leases: list[LeaseGranted] = []
    while len(leases) < jobs:
        _commit(state, log, checkpoints, [Lease(1 << 40)] * _BATCH, leases)
    random.Random(1).shuffle(leases)
    most_bytes = 0.0
    look_at = 0
    for first in range(0, jobs, at_once):
        while checkpoints.is_owed:
            _go_on(log, checkpoints)
        acks: list[Command] = [
            Ack(each.job_id, each.lease_token, None) for each in leases[first : first + at_once]
        ]
        _commit(state, log, checkpoints, acks, [])
        if first >= look_at:
            look_at = first + 10_000
            used = sum(path.stat().st_size for path in directory.glob("*.seg"))
            most_bytes = max(most_bytes, used - 1.5 * state.jobs.live.total_bytes)
    return most_bytes / SEGMENT_BYTES


def _commit(
    state: PartitionState,
    log: Log,
    checkpoints: Checkpoints,
    commands: list[Command],
    granted: list[LeaseGranted],
) -> None:
    """One batch, and what an actor does after it."""
    checkpoints.note_work()
    now_ms = _now_ms()
    applied = [state.apply(command, now_ms, log.put) for command in commands]
    events: list[Event] = []
    for each in applied:
        events += each.events
        if isinstance(each.reply, LeaseGranted):
            granted.append(each.reply)
    assert log.reserve(len(commands) * EVENT_BYTES_MAX, keep_bytes=RESERVE_BYTES), "disk full"
    log.commit(events, now_ms)
    _go_on(log, checkpoints)


def _go_on(log: Log, checkpoints: Checkpoints) -> None:
    now_ms = _now_ms()
    log.make_room(now_ms)
    checkpoints.step(now_ms)


def _now_ms() -> int:
    return _NOW_MS + time.monotonic_ns() // 1_000_000


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.stdout.buffer.write(
        msgspec.json.encode(
            _run(sys.argv[1], Path(sys.argv[2]), msgspec.json.decode(sys.argv[3], type=Load))
        )
    )
