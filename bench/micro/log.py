"""The log alone: durable commits/s by batch size, on a real disk."""

import random
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench.micro.figure import Figure
from partitions.disk import RealDisk
from partitions.events import Event, JobEnqueued
from partitions.limits import RESERVE_BYTES
from partitions.log import EVENT_BYTES_MAX, Identity, Log
from partitions.recovery import recover
from partitions.slots import SLOTS
from partitions.state import PartitionState

BATCHES: Final = (1, 16, 64, 256)
_PAYLOAD_BYTES: Final = 256
_NOW_MS: Final = 1_700_000_000_000


def measure(parent: Path, seconds: float = 2.0, batches: Iterable[int] = BATCHES) -> list[Figure]:
    """Commits/s and jobs/s of batches of 256-byte jobs, as the actor makes them."""
    figures = []
    for batch in batches:
        with tempfile.TemporaryDirectory(prefix="queue-node-micro-", dir=parent) as directory:
            log = _open(Path(directory))
            try:
                commits = _rate(log, batch, seconds)
            finally:
                log.close()
        figures.append(Figure(f"commit, {batch} jobs", commits, f"{commits * batch:,.0f} jobs/s"))
    return figures


def _open(directory: Path) -> Log:
    disk = RealDisk()
    return recover(disk, directory, Identity(0, 0, SLOTS), PartitionState()).log


def _rate(log: Log, batch: int, seconds: float) -> float:
    draw = random.Random(1)
    payload = draw.randbytes(_PAYLOAD_BYTES)
    ids = [draw.randbytes(16) for _ in range(batch)]
    size = batch * (_PAYLOAD_BYTES + EVENT_BYTES_MAX)
    commits = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not commits:
        assert log.reserve(size, keep_bytes=RESERVE_BYTES), "the disk is full"
        events: list[Event] = [
            JobEnqueued(job_id, log.put(payload), 3, _NOW_MS, "owner") for job_id in ids
        ]
        log.commit(events, _NOW_MS)
        log.make_room(_NOW_MS)
        commits += 1
    return commits / elapsed
