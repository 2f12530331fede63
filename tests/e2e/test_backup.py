"""Backups of a node under load, restored and resharded nodes that serve."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from partitions.disk import RealDisk
from partitions.job import State
from partitions.messages import JobView
from partitions.slots import parse_job_id, partition_of, slot_of
from queue_node import restore
from queue_node.backup_file import read_backup_file
from queue_node.errors import ExitCode
from queue_node.progress import stages
from tests.crash.test_kill9 import LEASE_MS, finish, found_in, made_progress
from tests.support.hand_node import HandPartition, opened
from tests.support.load import Load
from tests.support.node import RunningNode
from tests.support.polling import wait_until
from tests.support.small_node import COMMAND

QUICK = {
    "LEASE_DURATION": f"{LEASE_MS}ms",
    "LEASE_CHECK_INTERVAL": "200ms",
    "RETRY_BACKOFF": "50ms",
    "RETRY_BACKOFF_MAX": "200ms",
}
BACKUPS = 4
SETTLED_BETWEEN = 60


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    """A node whose files come and go every few commits."""
    folder = tmp_path / "node"
    folder.mkdir()
    with RunningNode(folder, QUICK, COMMAND) as running:
        yield running


def command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """``queue-node`` as an operator types it."""
    return subprocess.run(
        [sys.executable, "-m", "queue_node", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def report_of(*words: object) -> Any:
    done = command(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@dataclass
class Told:
    """What clients had been told before a backup began."""

    accepted: set[str]
    acked: dict[str, str]
    """Results by job."""
    token_max: int

    @classmethod
    def by(cls, load: Load) -> "Told":
        reports = [each for each in list(load.history.reports) if each.status == 200]
        return cls(
            set(load.accepted),
            {each.job_id: each.text for each in reports if not each.failed},
            max(each.token for each in list(load.history.leases)),
        )

    def missing_in(self, partitions: list[HandPartition]) -> list[str]:
        """What a restored directory lacks of it."""
        wrong = []
        for job_id in self.accepted:
            partition, key = home(partitions, job_id)
            view = partition.view(key)
            if not isinstance(view, JobView):
                wrong.append(f"{job_id} is not there")
            elif job_id in self.acked and (view.state, view.result) != (
                "ACKED",
                self.acked[job_id].encode(),
            ):
                wrong.append(f"{job_id} was acked, and is {view.state}")
        return wrong


def home(partitions: list[HandPartition], job_id: str) -> tuple[HandPartition, bytes]:
    key = parse_job_id(job_id)
    assert key is not None
    return partitions[partition_of(slot_of(key), len(partitions))], key


def partitions_in(path: Path, count: int) -> list[HandPartition]:
    return [opened(RealDisk(), path, number, count) for number in range(count)]


def test_backups_of_a_node_under_load_restore_to_all_that_was_told_before(
    node: RunningNode, tmp_path: Path
) -> None:
    told: list[Told] = []
    backups = [tmp_path / f"backup-{number}" for number in range(BACKUPS)]
    with Load(node, lease_ms=LEASE_MS) as load:
        for number, target in enumerate(backups):
            wait_until(
                partial(made_progress, load, load.settled + SETTLED_BETWEEN), what="progress"
            )
            told.append(Told.by(load))
            options = ["--copy"] if number % 2 else []
            report = report_of("backup", target, "--directory", node.data, *options)
            assert report["keys"] == 3
            assert report["count"]["jobs"] >= len(told[-1].accepted)
            if not options:
                assert report["linked_bytes"] > report["copied_bytes"]
    assert not load.faults, load.faults
    # Segments went meanwhile, whichever of them had no live text left.
    for number in range(2):
        left = segments(node.data / f"p-{number:04}")
        assert len(left) < max(left), left
    for number, target in enumerate(backups):
        restored = tmp_path / f"restored-{number}"
        with stages(quiet=True) as bars:
            done = restore.restore(restore.plan(target, restored), bars)
        assert done.count == read_backup_file(target).count
        partitions = partitions_in(restored, 2)
        assert told[number].missing_in(partitions) == []
        for partition in partitions:
            assert partition.state.jobs.last_token > told[-1].token_max << 20
            partition.log.close()
    serve_restored(node, backups[-1], tmp_path / "again", told[-1])


def segments(directory: Path) -> list[int]:
    return sorted(int(path.stem) for path in directory.glob("*.seg"))


def serve_restored(node: RunningNode, saved: Path, folder: Path, told: Told) -> None:
    """A real node goes on from the backup, and finishes what was not finished."""
    folder.mkdir()
    with RunningNode(folder, QUICK) as again:
        again.stop()
        for path in [*again.data.rglob("*"), again.data]:
            if path.is_file():
                path.unlink()
        for path in sorted(again.data.rglob("*"), reverse=True):
            path.rmdir()
        report_of("restore", saved, "--directory", again.data)
        again.start()
        again.keys = node.keys
        with Load(again, lease_ms=LEASE_MS, seed=2) as load:
            wait_until(partial(made_progress, load, 50), what="progress")
            load.stop_submitting()
            finish(load)
            left = sorted(told.accepted)
            wait_until(lambda: not load.unfinished(left), what="the end of the old jobs")
        assert not load.faults, load.faults
        assert min(each.token for each in load.history.leases) > told.token_max
        for job_id, text in told.acked.items():
            view = again.request("GET", f"/jobs/{job_id}", key="client").json
            assert (view["state"], view["result"]) == ("ACKED", text)


def test_a_resharded_node_goes_on_as_if_nothing_had_been(node: RunningNode) -> None:
    with Load(node, lease_ms=LEASE_MS) as load:
        wait_until(partial(made_progress, load, 150), what="progress")
    unfinished = load.unfinished(load.accepted)
    assert unfinished
    refused = command("reshard", "--partitions", 3, "--directory", node.data)
    assert refused.returncode == ExitCode.DIRECTORY
    assert "is in use by another node" in refused.stderr
    node.stop()
    for partitions in (3, 1):
        report = report_of("reshard", "--partitions", partitions, "--directory", node.data)
        assert report["count"]["unreadable"] == 0
        assert len(list(node.data.glob("p-[0-9][0-9][0-9][0-9]"))) == partitions
    with RunningNode(node.data.parent, QUICK | {"PARTITIONS": "1"}) as after:
        after.keys = node.keys
        # Nobody submits now: payloads of two loads are not unique.
        rest = Load(after, submitters=0, lease_ms=LEASE_MS, seed=3)
        # Before its workers begin: what they noted elsewhere would be missing.
        rest.history = load.history
        with rest:
            rest.stop_submitting()
            finish(rest)
        assert not rest.faults, rest.faults
        rest.read_all()
        assert found_in(rest.history, load.lost_leases + rest.lost_leases) == []
        assert after.stop() == 0


def test_another_number_of_partitions_is_refused_with_the_command_that_helps(
    tmp_path: Path,
) -> None:
    data = tmp_path / "the data"
    with RunningNode(tmp_path, {"WAL_DIR": str(data), "PARTITIONS": "1"}) as node:
        job = node.request("POST", "/jobs", key="client", json_body={"payload": "x"}).json["job_id"]
        node.stop()
        refused = command("serve", WAL_DIR=str(data), PARTITIONS="2", PORT="0")
        assert refused.returncode == ExitCode.DIRECTORY
        told = refused.stderr.split("`queue-node ")[1].split("`")[0]
        assert told == f"reshard --partitions 2 --directory '{data}'"
        assert command(*told.replace("'", "").split(" ", 4)).returncode == 0
        node.start(environment={"PARTITIONS": "2"})
        answer = node.request("GET", f"/jobs/{job}", key="client")
        assert answer.json["state"] == State.READY.name
