"""A slow disk, and a process that runs out of descriptors: others do not notice, it recovers."""

import resource
import threading
import time
from pathlib import Path

from partitions.messages import Get, JobNotFound, JobView
from partitions.slots import parse_job_id, partition_of, slot_of
from tests.support.battered import SMALL, Battered
from tests.support.node import RunningNode
from tests.support.polling import wait_until
from tests.support.strace import Strace, needs_strace

SLOW_S = 4
"""A sync takes so long: the others do all of their work within the first of them."""


def test_a_slow_disk_of_one_partition_costs_the_others_nothing(tmp_path: Path):
    needs_strace()
    node = RunningNode(tmp_path, {"PARTITIONS": "2", "FRONTS": "1"})
    try:
        node.start()
        homes: dict[int, list[str]] = {0: [], 1: []}
        while min(len(each) for each in homes.values()) < 5:
            answer = node.request("POST", "/jobs", key="client", json_body={"payload": "a"})
            homes[partition_of_job(answer.json["job_id"])].append(answer.json["job_id"])
        leased = node.request("POST", "/jobs/lease", key="worker").json
        slow = partition_of_job(leased["job_id"])
        ack = {"lease_token": leased["lease_token"], "result": "r"}
        statuses: list[int] = []

        def settle() -> None:
            path = f"/jobs/{leased['job_id']}/ack"
            statuses.append(node.request("POST", path, key="worker", json_body=ack).status)

        inject = f"delay_enter={SLOW_S * 1_000_000}:when=1"
        out = tmp_path / "out"
        with Strace(out, [node.partitions[slow]], "fdatasync", inject) as injected:
            thread = threading.Thread(target=settle)
            thread.start()
            wait_until(lambda: "fdatasync(" in "".join(injected.lines), what="a slow sync")
            for each in homes[1 - slow][:5]:
                assert node.request("GET", f"/jobs/{each}", key="client").status == 200
            assert statuses == [], "answered before its sync, or the others waited for it"
            thread.join()
        assert statuses == [200]
        view = node.request("GET", f"/jobs/{leased['job_id']}", key="client").json
        assert (view["state"], view["result"]) == ("ACKED", "r")
        assert node.stop() == 0
    finally:
        node.close()


def at_rest(directory: Path) -> bool:
    """Whether nothing is written or removed there for two seconds: a busy machine is slow."""
    before = {each: each.stat().st_size for each in directory.iterdir()}
    time.sleep(2)
    return before == {each: each.stat().st_size for each in directory.iterdir()}


def partition_of_job(text: str) -> int:
    job_id = parse_job_id(text)
    assert job_id is not None
    return partition_of(slot_of(job_id), 2)


def test_without_descriptors_a_partition_makes_do_and_loses_nothing(tmp_path: Path):
    battered = Battered(tmp_path, SMALL)
    with battered.start().wait_ready() as partition, partition.front() as front:
        assert battered.work(front, 60)
    with battered.start().wait_ready() as partition, partition.front() as front:
        # A checkpoint under way opens more than one file at a time, and could not.
        wait_until(lambda: at_rest(battered.directory), what="the end of a checkpoint")
        # It has let us in: from now on it opens files for its log alone.
        assert front.ask(Get(bytes(16))) == [JobNotFound(bytes(16))]
        in_use = max(int(each.name) for each in Path(f"/proc/{partition.pid}/fd").iterdir()) + 1
        limits = resource.prlimit(partition.pid, resource.RLIMIT_NOFILE)
        # Few more files can be open than are now: old segments must take turns. A new segment,
        # or a snapshot, needs one, and the directory, to be synced, another.
        resource.prlimit(partition.pid, resource.RLIMIT_NOFILE, (in_use + 3, limits[1]))
        battered.check(partition, front)
        late = [partition.front() for _ in range(3)]
        for each in late:
            each.send(b"")
        # Those that could not be let in cost nobody anything.
        assert all(
            isinstance(view, JobView) for view in front.ask(*map(Get, battered.ledger.stored))
        )
        resource.prlimit(partition.pid, resource.RLIMIT_NOFILE, limits)
        for each in late:
            # They waited at the door, and are served now.
            assert isinstance(each.ask(Get(next(iter(battered.ledger.stored))))[0], JobView)
            each.close()
        assert battered.work(front, 5)
        battered.check(partition, front)
