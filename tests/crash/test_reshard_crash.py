"""A reshard that is killed before each of its file operations, and one of a node's own data."""

import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from partitions.job import State
from queue_node.node_file import read_node_file
from tests.e2e.test_semantics_keys_of_groups import hold, submit
from tests.property.test_reshard import EVERY_STATE, check, filled_node, jobs_in, reshard_to
from tests.support.contract import Http, new_name
from tests.support.node import RunningNode
from tests.support.points import Points
from tests.support.stopping import Stopping

RENAMES = 6
"""And syncs: an old partition is out of the way, and not all of them."""


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_killed_before_any_operation_the_node_serves_and_the_reshard_can_be_run_again(
    tmp_path: Path, points: Points, before: int, after: int
) -> None:
    original = tmp_path / "original"
    node = filled_node(original, before, EVERY_STATE)
    expected = jobs_in(original)
    assert all(expected.states[state.name] for state in State if state is not State.GONE)
    decided, at = 0, 0
    while True:
        path = tmp_path / f"killed-{at}"
        shutil.copytree(original, path)
        stopping = Stopping(at)
        stopping.run(partial(reshard_to, path, after))
        made_with = read_node_file(path)
        assert made_with is not None
        assert made_with.partitions in (before, after)
        decided += made_with.moving
        if at % 2:
            # What a start does, and what it would serve: the same jobs, before or after.
            Stopping().run(partial(check_what_is_served, path, expected))
        Stopping().run(partial(reshard_to, path, after))
        Stopping().run(partial(check, path, node, after))
        shutil.rmtree(path)
        if not stopping.halted:
            break
        at += 1
    assert at > 60
    assert decided > 5, "not once between the decision and its end"
    points.add("reshard killed before an operation", at)


def check_what_is_served(path: Path, expected: object) -> None:
    assert jobs_in(path) == expected


def test_keys_of_groups_are_held_over_reshards_up_and_down_that_were_killed(
    tmp_path: Path, points: Points
) -> None:
    with RunningNode(tmp_path) as node:
        http, queue = Http(node), new_name()
        first = {}
        for number, group in enumerate(("", "a", "b") * 8):
            answer = submit(http, queue, key := f"k{number}", group)
            assert answer.status == 201
            first[key] = (group, answer.json["job_id"])
        node.kill()
        for before, partitions, decided in (
            (2, 5, False),
            (5, 1, True),
            (1, 3, False),
            (3, 2, True),
        ):
            stopping = OnceDecided(node.data) if decided else Stopping(30)
            stopping.run(partial(reshard_to, node.data, partitions))
            assert stopping.halted
            made_with = read_node_file(node.data)
            assert made_with is not None
            assert made_with.moving == decided
            moved = len([*(node.data / "reshard" / "old").glob("p-*")])
            assert 0 < moved < before if decided else moved == 0
            node.start(environment={"PARTITIONS": str(made_with.partitions)})
            hold(http, queue, first)
            node.stop(signal.SIGTERM)
            reshard_to(node.data, partitions)
            node.start(environment={"PARTITIONS": str(partitions)})
            hold(http, queue, first)
            assert sorted(http.listed(queue=queue)) == sorted(each for _, each in first.values())
            node.kill()
        points.add("reshard of a node with keys of groups killed", 4)


class OnceDecided(Stopping):
    """Stops among the renames that follow the decision."""

    def __init__(self, wal_dir: Path) -> None:
        super().__init__()
        self._wal_dir = wal_dir

    def _count(self) -> None:
        if self.at is None:
            made_with = read_node_file(self._wal_dir)
            assert made_with is not None
            if made_with.moving:
                self.at = self.operations + RENAMES
        super()._count()
