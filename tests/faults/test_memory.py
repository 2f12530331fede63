"""A partition that gets no more memory: it says so and ends, and the next one has all."""

import resource
from pathlib import Path

import pytest

from tests.support.battered import SMALL, Battered
from tests.support.driver import enqueue

MIB = 1 << 20
SPARE_BYTES = 8 * MIB
BURST = 24
"""Payloads of 1 MiB in one frame: three times what is left."""


def test_without_memory_a_partition_says_so_ends_and_loses_nothing(tmp_path: Path):
    battered = Battered(tmp_path, SMALL)
    with battered.start().wait_ready() as partition, partition.front() as front:
        assert battered.work(front, 30)
        statm = Path(f"/proc/{partition.pid}/statm").read_text()
        address_space = int(statm.split()[0]) * resource.getpagesize()
        limits = resource.prlimit(partition.pid, resource.RLIMIT_AS)
        few = (address_space + SPARE_BYTES, limits[1])
        resource.prlimit(partition.pid, resource.RLIMIT_AS, few)
        burst = [enqueue(1_000_000 + each, b"x" * MIB) for each in range(BURST)]
        battered.ledger.ask([*burst])
        with pytest.raises(EOFError):
            front.ask(*burst)
        assert partition.exit_code() == 1
        said = partition.stderr()
        assert "there is no memory left, this partition stops" in said
        assert "Traceback" not in said
    with battered.start().wait_ready() as partition, partition.front() as front:
        battered.check(partition, front)
        assert battered.work(front, 5)
        battered.check(partition, front)
