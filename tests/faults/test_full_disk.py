"""A real disk that is full: 507 for new jobs, the rest goes on, and it heals by itself."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from partitions.messages import Ack, Enqueued, Get, JobView, Lease, Leased, Settled, StorageFull
from tests.support.driver import enqueue, job_id
from tests.support.node import Response, RunningNode
from tests.support.partition_process import PartitionProcess, ProcessFront
from tests.support.points import Points
from tests.support.polling import wait_until
from tests.support.volumes import loop_volume, needs, resize, tmpfs

TEXT = b"x" * 100_000
HEALED_WITHIN_S = 5.0
"""The promise, from the moment that there is space again."""


def submit_until_full(front: ProcessFront, first: int) -> int:
    """Submit until one is refused; the number of that one."""
    for index in range(first, first + 1000):
        if front.ask(enqueue(index, TEXT)) == [StorageFull()]:
            return index
    raise AssertionError("it was never full")


def check_what_is_stored(front: ProcessFront, jobs: int) -> None:
    for index in range(jobs):
        assert isinstance(front.ask(Get(job_id(index)))[0], JobView)


def work_one_off(front: ProcessFront) -> None:
    """Lease and ack: it goes on from the reserve."""
    (leased,) = front.ask(Lease(60_000))
    assert isinstance(leased, Leased), leased
    assert leased.payload in (TEXT, b"payload")
    assert front.ask(Ack(leased.job_id, leased.lease_token, b"r")) == [Settled(leased.job_id)]


def wait_healed(front: ProcessFront, first: int) -> int:
    """Submit again and again until one is taken; its number."""
    index = first
    began = time.monotonic()
    while front.ask(enqueue(index, b"payload")) != [Enqueued(job_id(index))]:
        assert time.monotonic() - began < HEALED_WITHIN_S
        index += 1
    return index


def test_a_full_disk_refuses_jobs_goes_on_with_the_rest_and_heals(tmp_path, points: Points):
    needs()
    with tmpfs(tmp_path / "small", "6m") as small, PartitionProcess(small) as partition:
        with partition.wait_ready().front() as front:
            stored = 0
            for cycle in range(3):
                stored = submit_until_full(front, stored)
                assert front.ask(enqueue(stored, TEXT)) == [StorageFull()], "it stays full"
                check_what_is_stored(front, stored)
                for _ in range(20):
                    work_one_off(front)
                resize(small, f"{10 + cycle * 6}m")
                stored = wait_healed(front, stored) + 1
                points.add("real disk: full and healed")
        partition.signal(signal.SIGKILL)
        partition.exit_code()
        with PartitionProcess(small) as again, again.wait_ready().front() as front:
            check_what_is_stored(front, stored)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_start_on_a_full_disk_serves_and_heals(kind, tmp_path: Path, points: Points):
    needs("mkfs.ext4", loop=True)
    small = (
        tmpfs(tmp_path / "a", "6m") if kind == "tmpfs" else loop_volume(tmp_path / "a", size_mb=12)
    )
    with small as volume:
        directory = volume if isinstance(volume, Path) else volume.data
        with PartitionProcess(directory) as partition:
            with partition.wait_ready().front() as front:
                stored = submit_until_full(front, 0)
            partition.signal(signal.SIGKILL)
            partition.exit_code()
        filler = fill_up(directory)
        with PartitionProcess(directory) as partition, partition.wait_ready().front() as front:
            check_what_is_stored(front, stored)
            work_one_off(front)
            # Zeros that did not count before, because their sync never came, are there now.
            stored = submit_until_full(front, stored)
            work_one_off(front)
            filler.unlink()
            stored = wait_healed(front, stored)
            partition.signal(signal.SIGKILL)
            partition.exit_code()
        with PartitionProcess(directory) as partition, partition.wait_ready().front() as front:
            check_what_is_stored(front, stored)
    points.add("real disk: started full and healed")


def fill_up(directory: Path) -> Path:
    """A file that takes all that is left."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    assert os.statvfs(directory).f_bavail < 256, "there is room left"
    return path


def test_without_a_free_inode_every_text_stays_readable_and_it_heals(tmp_path: Path):
    needs()
    large = b"x" * 1_000_000
    with (
        tmpfs(tmp_path / "small", "400m,nr_inodes=50") as small,
        PartitionProcess(small).wait_ready() as partition,
        partition.front() as front,
    ):
        fillers = take_all_inodes(small)
        stored = 0
        while front.ask(enqueue(stored, b"%d" % stored + large)) == [Enqueued(job_id(stored))]:
            stored += 1
            assert stored < 200, "it goes on behind what a position can name"
        # The segment after the first could not be made, and that one holds 128 MiB.
        assert [each.name for each in small.glob("p-0000/*")] == ["0000000001.seg"]
        assert stored > 120
        for index in range(stored):
            (leased,) = front.ask(Lease(3_600_000))
            assert isinstance(leased, Leased), leased
            assert leased.payload == b"%d" % index + large
        for each in fillers:
            each.unlink()
        assert wait_healed(front, stored) < stored + 1_000


def take_all_inodes(directory: Path) -> list[Path]:
    """Files without content, until there can be no more."""
    made = []
    with contextlib.suppress(OSError):
        for number in range(100):
            path = directory / f"filler-{number}"
            path.touch()
            made.append(path)
    assert len(made) < 100, "there are more"
    return made


def test_a_first_start_on_a_full_disk_waits_for_room(tmp_path: Path):
    needs()
    with tmpfs(tmp_path / "small", "512k") as small, PartitionProcess(small) as partition:
        wait_until(lambda: list(small.glob("p-0000")) != [], what="its directory")
        resize(small, "4m")
        began = time.monotonic()
        partition.wait_ready()
        assert time.monotonic() - began < HEALED_WITHIN_S
        with partition.front() as front:
            assert front.ask(enqueue(1)) == [Enqueued(job_id(1))]


JOB = {"payload": "x" * 100_000}


def test_a_node_on_a_full_disk_says_507_serves_reads_and_heals_without_a_restart(tmp_path: Path):
    needs()
    with tmpfs(tmp_path / "small", "8m") as small:
        # Not refused before the disk is full, but because it is.
        node = RunningNode(tmp_path, {"PARTITIONS": "1", "FRONTS": "1", "DISK_FREE_MIN": "0"})
        node.data = small / "node"
        try:
            node.start()
            jobs = jobs_until_507(node)
            fill_up(small)
            check_serves_while_full(node, jobs)
            # The whole node starts on the full disk, too.
            node.kill()
            node.start()
            pids = node.partitions, node.fronts
            jobs_until_507(node)
            check_serves_while_full(node, jobs)
            resize(small, "32m")
            began = time.monotonic()
            while submit(node).status == 507:
                assert time.monotonic() - began < HEALED_WITHIN_S
            assert submit(node).status == 201
            assert (node.partitions, node.fronts) == pids
            assert node.stop() == 0
        finally:
            node.close()


def submit(node: RunningNode) -> Response:
    return node.request("POST", "/jobs", key="client", json_body=JOB)


def jobs_until_507(node: RunningNode) -> list[str]:
    jobs = []
    while (answer := submit(node)).status == 201:
        jobs.append(answer.json["job_id"])
    assert answer.status == 507, answer
    assert answer.headers["retry-after"]
    return jobs


def check_serves_while_full(node: RunningNode, jobs: list[str]) -> None:
    """Reads, leases and acks go on, in the processes that were there before."""
    pids = node.partitions, node.fronts
    for each in jobs[:10]:
        assert node.request("GET", f"/jobs/{each}", key="client").status == 200
    for path in ("/jobs", "/queues", "/queues/default"):
        assert node.request("GET", path, key="client").status == 200
    for _ in range(5):
        leased = node.request("POST", "/jobs/lease", key="worker")
        assert leased.status == 200, leased
        done = {"lease_token": leased.json["lease_token"], "result": "done"}
        path = f"/jobs/{leased.json['job_id']}/ack"
        assert node.request("POST", path, key="worker", json_body=done).status == 200
    assert node.request("GET", "/ready").status == 200
    assert (node.partitions, node.fronts) == pids
