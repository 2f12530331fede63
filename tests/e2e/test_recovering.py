"""A partition that has much to read at its start: what clients and operators see meanwhile."""

from pathlib import Path
from uuid import UUID

import pytest

from partitions.slots import partition_of, slot_of
from tests.support.node import RunningNode
from tests.support.polling import wait_until
from tests.support.slow_start import COMMAND


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """While this file is there, partition 0 does not get on with its start."""
    return tmp_path / "hold"


def test_a_partition_that_recovers_is_503_and_says_how_far_it_is_and_the_other_serves(
    tmp_path: Path, hold: Path
):
    # One front: two would not hear of it at the same moment.
    with RunningNode(tmp_path, {"FRONTS": "1"}, command=COMMAND) as node:
        jobs: dict[int, str] = {}
        while len(jobs) < 2:
            job_id = submitted(node)
            jobs[partition_of(slot_of(UUID(job_id).bytes), 2)] = job_id
        hold.touch()
        killed = node.kill_partition(0)
        wait_until(lambda: states(node).get("0") == "recovering (50%)", what="its progress")
        assert states(node) == {"0": "recovering (50%)", "1": "serving"}
        answer = node.request("GET", f"/jobs/{jobs[0]}", key="client")
        assert answer.status == 503, answer
        assert int(answer.headers["retry-after"]) >= 1
        assert node.request("GET", f"/jobs/{jobs[1]}", key="client").status == 200
        for _ in range(20):
            assert partition_of(slot_of(UUID(submitted(node)).bytes), 2) == 1
        assert node.request("POST", "/jobs/lease", key="worker").status == 200
        wait_until(lambda: "recovering: 50%, 0 jobs so far" in node.log_now, what="a line a second")
        hold.unlink()
        node.wait_restarted(killed)
        assert node.request("GET", f"/jobs/{jobs[0]}", key="client").status == 200
        assert states(node) == {"0": "serving", "1": "serving"}


def submitted(node: RunningNode) -> str:
    answer = node.request("POST", "/jobs", key="client", json_body={"payload": "a"})
    assert answer.status == 201, answer
    found: str = answer.json["job_id"]
    return found


def states(node: RunningNode) -> dict[str, str]:
    found: dict[str, str] = node.request("GET", "/ready").json["partitions"]
    return found
