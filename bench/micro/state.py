"""The state machine alone: what ``apply`` costs with few and with many jobs waiting.

The time and the memory of a job must not depend on how many others wait.
"""

import os
import random
from collections.abc import Iterable
from itertools import count
from typing import Final

from bench.micro.figure import Figure, seconds_of
from partitions.answers import LeaseGranted
from partitions.messages import Ack, Enqueue, Lease
from partitions.slots import make_job_id
from partitions.state import PartitionState

WAITING: Final = (1_000, 1_000_000)
SUBMITS_PER_S: Final = 250_000
PAIRS_PER_S: Final = 150_000
"""To reach on one core, at every depth."""
_CHUNK: Final = 20_000
_TURNS: Final = 5
_NOW_MS: Final = 1_700_000_000_000
_positions: Final = count(1 << 34)
"""Each text has its own, as in a log: they are part of what a job takes."""
_PAYLOAD: Final = b"x"  # the state never looks at it


def measure(waiting: Iterable[int] = WAITING, chunk: int = _CHUNK) -> list[Figure]:
    """Submits/s and lease+ack pairs/s with so many jobs waiting; bytes per waiting job."""
    figures = []
    for depth in waiting:
        figures += _at(depth, chunk)
    return figures


def _at(depth: int, chunk: int) -> list[Figure]:
    commands = _Commands()
    memory_before = _resident_bytes()
    state = PartitionState()
    for first in range(0, depth, chunk):  # what commands take is not to count
        _submit(state, commands.enqueues(min(chunk, depth - first)))
    memory = _resident_bytes() - memory_before
    submit_s, pair_s = [], []
    for _ in range(_TURNS):
        batch = commands.enqueues(chunk)
        submit_s.append(seconds_of(lambda batch=batch: _submit(state, batch)))  # type: ignore[misc]
        pair_s.append(seconds_of(lambda: _lease_and_ack(state, chunk)))
        assert state.ready == depth, "every turn leaves as many waiting as it found"
    where = f"{depth:,} waiting"
    return [
        Figure(
            f"submit, {where}",
            chunk / min(submit_s),
            f"{_wanted(SUBMITS_PER_S)}; {memory / depth:,.0f} B/waiting job",
        ),
        Figure(f"lease + ack, {where}", chunk / min(pair_s), _wanted(PAIRS_PER_S)),
    ]


def _wanted(per_second: int) -> str:
    return f"wanted: {per_second:,} a second"


def _put(_text: bytes) -> int:
    return next(_positions)


def _submit(state: PartitionState, commands: list[Enqueue]) -> None:
    for command in commands:
        state.apply(command, _NOW_MS, _put)


def _lease_and_ack(state: PartitionState, count: int) -> None:
    lease = Lease(30_000)
    for _ in range(count):
        granted = state.apply(lease, _NOW_MS, _put).reply
        assert isinstance(granted, LeaseGranted)
        state.apply(Ack(granted.job_id, granted.lease_token, None), _NOW_MS, _put)


class _Commands:
    """Submits with ids as a front mints them."""

    def __init__(self) -> None:
        self._draw = random.Random(1)
        self._minted = 0

    def enqueues(self, count: int) -> list[Enqueue]:
        draw = self._draw.getrandbits
        self._minted += count
        return [
            Enqueue(make_job_id(_NOW_MS, draw(58), draw(16)), _PAYLOAD, 3, "owner")
            for _ in range(count)
        ]


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
