"""A damaged partition on a real node: it stays down and says why, and the other one serves.

``verify``, ``repair`` and ``dump`` deal with it.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from partitions.log import identity_of
from partitions.slots import parse_job_id, slot_of
from queue_node.progress import stages
from queue_node.verify import verify
from tests.support.node import RunningNode
from tests.support.past import header_of, records_of
from tests.support.polling import wait_until

JOBS = 24
BYTES = 40_000
"""Of a payload: the log of a partition has some hundred pages."""

SEGMENT = "0000000001.seg"


def queue_node(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "queue_node", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def partition_of(job_id: str) -> int:
    parsed = parse_job_id(job_id)
    assert parsed is not None
    return int(slot_of(parsed) >= identity_of(1, 2).slot_first)


class Scene:
    """A node that was killed, its data as it was, and what clients were told."""

    def __init__(self, folder: Path) -> None:
        self.node = RunningNode(folder, {"FRONTS": "1", "LEASE_DURATION": "10m"})
        self.jobs: dict[str, str] = {}
        self.acked: set[str] = set()
        self.tokens: list[int] = []
        with self.node:
            self._submit()
            self._work()
            self.node.kill()
        self._whole = folder / "whole"
        shutil.copytree(self.node.data, self._whole)

    def restore(self) -> None:
        shutil.rmtree(self.node.data)
        shutil.copytree(self._whole, self.node.data)

    @property
    def damaged(self) -> Path:
        return self.node.data / "p-0001"

    def in_partition(self, number: int) -> list[str]:
        return [job_id for job_id in self.jobs if partition_of(job_id) == number]

    def status_of(self, job_id: str) -> int:
        return self.node.request("GET", f"/jobs/{job_id}", key="client").status

    def _submit(self) -> None:
        for index in range(JOBS):
            payload = f"{index:04} " * (BYTES // 5)
            answer = self.node.request(
                "POST", "/jobs", key="client", json_body={"payload": payload}
            )
            assert answer.status == 201
            self.jobs[answer.json["job_id"]] = payload
        assert len(self.in_partition(0)) > 2
        assert len(self.in_partition(1)) > 4

    def _work(self) -> None:
        for index in range(JOBS // 2):
            lease = self.node.request("POST", "/jobs/lease", key="worker").json
            self.tokens.append(int(lease["lease_token"]))
            if index % 2:
                body = {"result": "done", "lease_token": lease["lease_token"]}
                path = f"/jobs/{lease['job_id']}/ack"
                assert self.node.request("POST", path, key="worker", json_body=body).status == 200
                self.acked.add(lease["job_id"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    scene = Scene(tmp_path_factory.mktemp("corruption"))
    yield scene
    scene.node.close()


def _flip(path: Path, offset: int, mask: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def _bit(folder: Path) -> None:
    _flip(folder / SEGMENT, BYTES // 2)


def _header(folder: Path) -> None:
    _flip(folder / SEGMENT, 30)


def _page(folder: Path) -> None:
    with (folder / SEGMENT).open("r+b") as file:
        file.seek(3 * 4096)
        file.write(bytes(4096))


def _foreign(folder: Path) -> None:
    (folder / "0000000001.seg.bak").write_bytes(b"?")


def _another_partitions(folder: Path) -> None:
    shutil.copy(folder.parent / "p-0000" / SEGMENT, folder / SEGMENT)


def _another_name(folder: Path) -> None:
    shutil.copy(folder / SEGMENT, folder / "0000000002.seg")


def _missing(folder: Path) -> None:
    (folder / SEGMENT).rename(folder / "0000000002.seg")


def _removed(folder: Path) -> None:
    shutil.rmtree(folder)


def _gap(folder: Path) -> None:
    content = (folder / SEGMENT).read_bytes()
    one = records_of(content)[1]
    (folder / SEGMENT).write_bytes(content[: one.offset_bytes] + content[one.end_bytes :])


@pytest.mark.parametrize(
    "damage",
    [_bit, _header, _page, _foreign, _another_partitions, _another_name, _missing, _removed, _gap],
    ids=lambda damage: damage.__name__.strip("_").replace("_", " "),
)
def test_the_damaged_partition_stays_down_and_says_why_and_the_other_serves(
    scene: Scene, damage: Callable[[Path], None]
):
    scene.restore()
    damage(scene.damaged)
    node = scene.node
    node.start(ready=False)
    try:
        wait_until(lambda: "the log is corrupt" in node.log_now)
        wait_until(lambda: scene.status_of(scene.in_partition(0)[0]) == 200)
        ready = node.request("GET", "/ready")
        assert ready.json["partitions"] == {"0": "serving", "1": "down"}
        for job_id in scene.in_partition(0):
            assert scene.status_of(job_id) == 200
        for job_id in scene.in_partition(1):
            assert scene.status_of(job_id) == 503
        answer = node.request("POST", "/jobs", key="client", json_body={"payload": "new"})
        assert answer.status == 201
        assert partition_of(answer.json["job_id"]) == 0
        (line, *_) = [each for each in node.log_now.splitlines() if "the log is corrupt" in each]
        assert f"{scene.damaged}/" in line
        assert "offset " in line
        assert "queue-node verify" in line
        assert "queue-node repair" in line
    finally:
        node.kill()
    with stages(quiet=True) as bars:
        report = verify(node.data, deep=False, bars=bars)
    fault = report.partitions[1].faults[0]
    assert f"{fault.file}: offset {fault.offset}: " in line
    assert (report.good, report.partitions[0].faults) == (False, [])


def test_a_repaired_copy_serves_all_but_what_was_said_to_be_lost(scene: Scene, tmp_path):
    scene.restore()
    data, dest = scene.node.data, tmp_path / "repaired"
    content = (scene.damaged / SEGMENT).read_bytes()
    assert header_of(content).number == 1
    # A payload that is needed, and a whole record that is not the last.
    waiting = [each for each in scene.in_partition(1) if each not in scene.acked]
    victim = waiting[0]
    place = content.index(scene.jobs[victim].encode())
    _flip(scene.damaged / SEGMENT, place + 1000)
    before = {path: path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}

    dry = queue_node("repair", data, dest, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    assert not dest.exists()
    told = queue_node("repair", data, dest, "--json")
    assert told.returncode == 0, told.stderr
    assert {path: path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()} == before
    report = json.loads(told.stdout)
    assert [each["lost"] for each in report["partitions"]] == [
        [],
        [{"job_id": victim, "why": "its payload cannot be read"}],
    ]
    assert report["partitions"] == json.loads(dry.stdout)["partitions"]
    assert queue_node("verify", "--deep", dest).returncode == 0
    assert queue_node("dump", dest).returncode == 0

    copy = RunningNode(tmp_path / "serving", {"FRONTS": "1"})
    copy.data.parent.mkdir()
    shutil.move(dest, copy.data)
    with copy:
        copy.keys = dict(scene.node.keys)
        for job_id in scene.jobs:
            answer = copy.request("GET", f"/jobs/{job_id}", key="client")
            assert answer.status == (404 if job_id == victim else 200)
            if job_id in scene.acked:
                assert (answer.json["state"], answer.json["result"]) == ("ACKED", "done")
        lease = copy.request("POST", "/jobs/lease", key="worker").json
        assert lease["payload"] == scene.jobs[lease["job_id"]]
        if partition_of(lease["job_id"]) == 1:
            assert int(lease["lease_token"]) > max(scene.tokens) + 1000
        made = copy.request("POST", "/jobs", key="client", json_body={"payload": "new"})
        assert made.status == 201
        copy.restart()
        copy.keys = dict(scene.node.keys)
        assert copy.request("GET", f"/jobs/{made.json['job_id']}", key="client").status == 200
        assert copy.stop() == 0
    assert queue_node("verify", "--deep", copy.data).returncode == 0


def test_beside_a_running_node_verify_works_and_repair_refuses(scene: Scene, tmp_path):
    scene.restore()
    with scene.node as node:
        found = queue_node("verify", "--deep", node.data)
        assert found.returncode == 0, found.stdout + found.stderr
        assert f"a node runs here (process {node.pid})" in found.stdout
        assert "all is well" in found.stdout
        refused = queue_node("repair", node.data, tmp_path / "dest")
        assert refused.returncode == 4
        assert "stop the node first" in refused.stderr
        assert not (tmp_path / "dest").exists()
        assert node.request("GET", "/ready").status == 200
        node.kill()


def test_nothing_to_repair_makes_no_copy(scene: Scene, tmp_path):
    scene.restore()
    done = queue_node("repair", scene.node.data, tmp_path / "dest")
    assert done.returncode == 0
    assert "nothing is damaged, so no copy was made" in done.stdout
    assert not (tmp_path / "dest").exists()
