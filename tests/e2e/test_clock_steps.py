"""The wall clock of a real node is set forward and back an hour while it runs, and between runs.

libfaketime stands between the node's processes and the wall clock; monotonic time stays real.
It breaks ``time.sleep`` (``clock_nanosleep`` says EINVAL), for which another sleep stands in.
"""

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Response, RunningNode
from tests.support.polling import wait_until

HOUR = timedelta(hours=1)
ANOTHER_SLEEP = """
import select, time
time.sleep = lambda seconds: select.select((), (), (), seconds) and None
"""
LIBRARIES = sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"))

pytestmark = pytest.mark.skipif(
    not LIBRARIES, reason="needs libfaketime, which is not there (Debian: apt-get install faketime)"
)

NodeMaker = Callable[..., RunningNode]


class SteppedNode:
    """A node, the wall clock that it believes in, and its jobs."""

    def __init__(self, node: RunningNode, offset: Path) -> None:
        self.node = node
        self._offset = offset

    def set_wall_clock(self, ahead_of_real: timedelta) -> None:
        self._offset.write_text(f"{ahead_of_real.total_seconds():+.0f}")

    def ask(self, method: str, path: str, key: str, body: object = None) -> Response:
        """What it answers when its partitions are all there."""
        answers: list[Response] = []

        def is_definite() -> bool:
            answers.append(self.node.request(method, path, key=key, json_body=body))
            return answers[-1].status != 503

        wait_until(is_definite, what=f"an answer to {method} {path}")
        return answers[-1]

    def submit(self) -> str:
        answer = self.ask("POST", "/jobs", "client", {"payload": "x", "max_retries": 9})
        assert answer.status == 201, answer
        job_id: str = answer.json["job_id"]
        return job_id

    def lease(self) -> dict[str, Any]:
        """A job, and under "date" what ``Date`` was then."""
        answer = self.ask("POST", "/jobs/lease", "worker")
        assert answer.status == 200, answer
        date = parsedate_to_datetime(answer.headers["date"])
        return {**answer.json, "date": date}

    def view(self, job_id: str) -> dict[str, Any]:
        answer = self.ask("GET", f"/jobs/{job_id}", "client")
        assert answer.status == 200, answer
        view: dict[str, Any] = answer.json
        return view

    def ack(self, lease: dict[str, Any]) -> int:
        body = {"result": "done", "lease_token": lease["lease_token"]}
        return self.ask("POST", f"/jobs/{lease['job_id']}/ack", "worker", body).status

    def kill_partitions(self) -> None:
        for number in (0, 1):
            self.node.wait_restarted(self.node.kill_partition(number))

    def kill_fronts(self) -> None:
        for number in (0, 1):
            self.node.wait_restarted(self.node.kill_front(number))


@pytest.fixture
def make_stepped(make_node: NodeMaker, tmp_path: Path) -> Callable[..., SteppedNode]:
    def make(lease: str) -> SteppedNode:
        offset = tmp_path / "offset"
        offset.write_text("+0")
        customs = tmp_path / "customs"
        customs.mkdir()
        (customs / "sitecustomize.py").write_text(ANOTHER_SLEEP)
        node = make_node(
            LEASE_DURATION=lease,
            LEASE_CHECK_INTERVAL="50ms",
            PYTHONPATH=f"{customs}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"),
            LD_PRELOAD=str(LIBRARIES[0]),
            FAKETIME_TIMESTAMP_FILE=str(offset),
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
        )
        return SteppedNode(node.start(), offset)

    return make


@pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forward", "back"])
def test_no_live_lease_ends_by_a_step_not_even_when_its_partition_is_killed_after_it(
    make_stepped: Callable[..., SteppedNode], step: timedelta
):
    node = make_stepped("10m")
    submitted = [node.submit() for _ in range(6)]
    leases = [node.lease() for _ in range(4)]
    node.set_wall_clock(step)
    leases.append(node.lease())
    node.kill_partitions()
    node.kill_fronts()
    leases.append(node.lease())
    assert {lease["job_id"] for lease in leases} == set(submitted)
    assert node.ask("POST", "/jobs/lease", "worker").status == 404
    for lease in leases:
        view = node.view(lease["job_id"])
        assert (view["state"], view["attempts"]) == ("RUNNING", 1)
        assert view["lease_until"] == lease["lease_until"]
        # A worker reckons by Date, which is cut to whole seconds.
        left = datetime.fromisoformat(lease["lease_until"]) - lease["date"]
        assert timedelta(minutes=9) < left < timedelta(minutes=11)
    for lease in leases:
        assert node.ack(lease) == 200
    ids = [node.submit() for _ in range(3)]
    times = [datetime.fromisoformat(node.view(each)["created_at"]) for each in submitted + ids]
    assert times == sorted(times)
    assert sorted(submitted + ids) == submitted + ids, "ids are in order of time"
    assert node.node.stop() == 0


@pytest.mark.parametrize("restart", ["partitions", "node"])
def test_a_lease_ends_in_time_though_the_wall_clock_was_set_back(
    make_stepped: Callable[..., SteppedNode], restart: str
):
    node = make_stepped("2s")
    node.submit()
    first = node.lease()
    node.set_wall_clock(-HOUR)
    if restart == "node":
        node.node.restart()
    else:
        node.kill_partitions()

    def is_ready_again() -> bool:
        return bool(node.view(first["job_id"])["state"] == "RETRY")

    # Long before an hour is over.
    wait_until(is_ready_again, what="the end of the lease")
    second = node.lease()
    assert second["job_id"] == first["job_id"]
    assert second["attempt"] == 2
    assert int(second["lease_token"]) > int(first["lease_token"])
    assert second["created_at"] == first["created_at"]
    assert second["lease_until"] > first["lease_until"]
    assert node.ack(first) == 409
    said = "the wall clock was set back" in node.node.log_now
    assert said is (restart == "node")


def test_a_restart_believes_a_wall_clock_that_was_set_forward(
    make_stepped: Callable[..., SteppedNode],
):
    # It cannot be told from an hour in which the node was down: the limit that is documented.
    node = make_stepped("10m")
    node.submit()
    first = node.lease()
    node.set_wall_clock(HOUR)
    node.node.restart()
    second = node.lease()
    assert (second["job_id"], second["attempt"]) == (first["job_id"], 2)
    assert int(second["lease_token"]) > int(first["lease_token"])
    assert node.ack(first) == 409
    assert node.ack(second) == 200
