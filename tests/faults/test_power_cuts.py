"""The power fails under load: a file system in a file is shut down, and mounted again.

What was not synced is gone then, for real: the control runs the same with syncs that do
nothing (eatmydata), and must lose jobs.
"""

import random
import sys
import threading
from pathlib import Path

import pytest

from partitions.errors import CorruptLogError
from tests.crash.test_kill9 import LEASE_MS, finish, found_in, lost_leases_max, made_progress
from tests.support.battered import SMALL, Battered
from tests.support.load import Load
from tests.support.node import RunningNode
from tests.support.partition_process import PartitionProcess
from tests.support.points import LONG, Points
from tests.support.polling import wait_until
from tests.support.volumes import LoopVolume, loop_volume, needs

CUTS = 200 if LONG else 5
NODE_CUTS = 20 if LONG else 1
ENOUGH = 100_000
"""Batches: more than are done before the power fails."""

PLAIN = (sys.executable, "-m", "partitions")


@pytest.fixture
def volume(tmp_path: Path):
    needs("mkfs.ext4", "xfs_io", loop=True)
    with loop_volume(tmp_path / "volume") as made:
        yield made


def cut(volume: LoopVolume, battered: Battered, partition: PartitionProcess, after: int) -> None:
    """Let the client work, cut the power after so many replies, and wait for the end of all."""
    with partition.front() as front:
        goal = battered.replies + after
        thread = threading.Thread(target=battered.work, args=(front, ENOUGH))
        thread.start()
        wait_until(lambda: battered.replies >= goal, what="replies")
        volume.cut_power()
        # It meets EIO, says nothing more to the client, and ends.
        thread.join()
    assert partition.exit_code() == 1, partition.stderr()
    volume.power_on()


@pytest.mark.parametrize("command", [SMALL, PLAIN], ids=["small segments", "as it is"])
def test_a_power_cut_under_load_loses_nothing(command, volume: LoopVolume, points: Points):
    battered = Battered(volume.data, command)
    draws = random.Random(1)
    cuts = CUTS if command is SMALL else max(2, CUTS // 4)
    partition = battered.start().wait_ready()
    for _ in range(cuts):
        with partition:
            cut(volume, battered, partition, after=draws.randint(1, 150))
        partition = battered.start().wait_ready()
        with partition.front() as front:
            battered.check(partition, front)
    with partition, partition.front() as front:
        assert battered.work(front, 3)
    points.add("real partition: power cut under load", cuts)


def test_the_same_without_syncs_does_lose_jobs(volume: LoopVolume):
    needs("eatmydata")
    battered = Battered(volume.data, ("eatmydata", *SMALL))
    with battered.start().wait_ready() as partition:
        cut(volume, battered, partition, after=200)
    try:
        lost = battered.losses()
    except (CorruptLogError, FileNotFoundError):
        return  # not even a log is left
    assert lost


def test_power_cuts_of_a_whole_node_lose_nothing(
    volume: LoopVolume, tmp_path: Path, points: Points
):
    node = RunningNode(
        tmp_path,
        {
            "LEASE_DURATION": f"{LEASE_MS}ms",
            "LEASE_CHECK_INTERVAL": "200ms",
            "RETRY_BACKOFF": "50ms",
            "RETRY_BACKOFF_MAX": "200ms",
            "DISK_FREE_MIN": "0",  # the whole volume is as large as the default
        },
    )
    node.data = volume.data / "node"
    try:
        node.start()
        with Load(node, lease_ms=LEASE_MS, broken_disk=True) as load:
            for _ in range(NODE_CUTS):
                goal = load.settled + 100
                wait_until(lambda goal=goal: made_progress(load, goal), what="progress")  # type: ignore[misc]
                volume.cut_power()
                node.kill()
                volume.power_on()
                node.start()
            load.stop_submitting()
            finish(load)
        assert not load.faults, load.faults
        load.read_all()
        assert found_in(load.history, lost_leases_max(load, NODE_CUTS)) == []
        assert len(load.accepted) > NODE_CUTS * 50
        assert node.stop() == 0
    finally:
        node.close()
    points.add("node: power cut under load", NODE_CUTS)
