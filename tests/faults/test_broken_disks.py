"""Disks that break under a real partition: block errors, bad sectors, a file system that stops."""

import contextlib
import shutil
import threading
from pathlib import Path

import pytest

from tests.support.battered import SMALL, Battered
from tests.support.node import Response, RunningNode
from tests.support.partition_process import PartitionProcess
from tests.support.points import LONG, Points
from tests.support.polling import wait_until
from tests.support.strace import Strace, needs_strace
from tests.support.volumes import broken_disk, loop_volume, needs

ROUNDS = 20 if LONG else 2
ENOUGH = 100_000


@contextlib.contextmanager
def working(battered: Battered, partition: PartitionProcess):
    """A client at work; inside, it has got some replies, and after it the partition is dead."""
    with partition.front() as front:
        goal = battered.replies + 60
        thread = threading.Thread(target=battered.work, args=(front, ENOUGH))
        thread.start()
        wait_until(lambda: battered.replies >= goal, what="replies")
        yield
        thread.join()


def test_a_disk_whose_writes_fail_ends_the_partition_and_loses_nothing(
    tmp_path: Path, points: Points
):
    needs("nbdfuse", "nbdkit", "mkfs.ext4", loop=True)
    for number in range(ROUNDS):
        path = tmp_path / str(number)
        path.mkdir()
        with broken_disk(path) as disk:
            battered = Battered(disk.volume.data, SMALL, seed=number)
            with battered.start().wait_ready() as partition:
                with working(battered, partition):
                    disk.break_it()
                # It was told that a sync failed, and did not try again.
                assert partition.exit_code() == 1, partition.stderr()
                assert "the disk failed, this partition stops" in partition.stderr()
            # Started on the disk that is still broken, it must not serve what may be lost.
            with battered.start() as partition:
                assert not partition.started()
                assert partition.exit_code() == 1, partition.stderr()
            disk.mend_it()
            disk.volume.power_on()
            with battered.start().wait_ready() as partition, partition.front() as front:
                battered.check(partition, front)
                assert battered.work(front, 3)
        points.add("real partition: writes to the disk fail")


def test_a_file_system_that_becomes_read_only_ends_the_partition_and_loses_nothing(
    tmp_path: Path, points: Points
):
    needs("mkfs.ext4", loop=True)
    options = "loop,errors=remount-ro"
    with loop_volume(tmp_path / "volume", options=options) as volume:
        battered = Battered(volume.data, SMALL)
        with battered.start().wait_ready() as partition:
            with working(battered, partition):
                volume.fail_like_a_broken_file_system()
            assert partition.exit_code() == 1, partition.stderr()
        with battered.start() as partition:
            assert not partition.started()
            assert "Read-only file system" in partition.stderr()
        volume.power_on()
        with battered.start().wait_ready() as partition, partition.front() as front:
            battered.check(partition, front)
            assert battered.work(front, 3)
    points.add("real partition: the file system becomes read-only")


@pytest.mark.skipif(not LONG, reason="takes 20 s; QUEUE_NODE_FAULTS=long runs it")
def test_a_node_on_a_read_only_file_system_answers_503_and_heals_by_itself(tmp_path: Path):
    needs("mkfs.ext4", loop=True)
    options = "loop,errors=remount-ro"
    with loop_volume(tmp_path / "volume", options=options) as volume:
        node = RunningNode(tmp_path, {"PARTITIONS": "1", "FRONTS": "1"})
        try:
            node.start()
            node.stop()
            # Only the log moves there: what the key store makes of it is another matter.
            log = node.data / "p-0000"
            shutil.move(log, volume.data / "log")
            log.symlink_to(volume.data / "log")
            node.start()
            path = f"/jobs/{submitted(node).json['job_id']}"
            pid = node.partitions[0]
            volume.fail_like_a_broken_file_system()
            assert node.request("GET", path, key="client").status == 200, "no write is needed"
            assert submitted(node).status == 503
            wait_until(lambda: "Read-only file system" in node.log_now, what="a failed start")
            answer = node.request("GET", path, key="client")
            assert (answer.status, "retry-after" in answer.headers) == (503, True)
            assert node.request("GET", "/ready").status == 503
            # The operator has it checked and mounts it again; the node sees for itself.
            volume.power_on()
            wait_until(
                lambda: node.request("GET", path, key="client").status == 200, what="its return"
            )
            wait_until(lambda: submitted(node).status == 201, what="a submit")
            assert node.partitions[0] != pid
            assert node.stop() == 0
        finally:
            node.close()


def submitted(node: RunningNode) -> Response:
    return node.request("POST", "/jobs", key="client", json_body={"payload": "a"})


@pytest.mark.parametrize("nth", [1, 2])
def test_a_bad_sector_under_one_text_costs_that_text_alone(nth: int, tmp_path: Path):
    needs_strace()
    node = RunningNode(tmp_path, {"PARTITIONS": "1", "FRONTS": "1"})
    try:
        node.start()
        jobs = [submitted_and_acked(node, f"result {index}") for index in range(3)]
        inject = f"error=EIO:when={nth}"
        with Strace(tmp_path / "out", [node.partitions[0]], "pread64", inject) as injected:
            answers = [node.request("GET", f"/jobs/{each}", key="client") for each in jobs]
        assert injected.hits == 1
        expected = [200, 200, 200]
        expected[nth - 1] = 500
        assert [answer.status for answer in answers] == expected
        assert jobs[nth - 1] in answers[nth - 1].json["error"]
        assert "Input/output error" in node.log_now
        # The sector was read at last.
        again = node.request("GET", f"/jobs/{jobs[nth - 1]}", key="client")
        assert (again.status, again.json["result"]) == (200, f"result {nth - 1}")
        assert node.request("GET", "/ready").status == 200
    finally:
        node.close()


def submitted_and_acked(node: RunningNode, result: str) -> str:
    assert submitted(node).status == 201
    leased = node.request("POST", "/jobs/lease", key="worker").json
    body = {"lease_token": leased["lease_token"], "result": result}
    answer = node.request("POST", f"/jobs/{leased['job_id']}/ack", key="worker", json_body=body)
    assert answer.status == 200
    found: str = leased["job_id"]
    return found
