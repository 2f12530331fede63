"""A reshard that is killed before each of its file operations."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from partitions.job import State
from queue_node.node_file import read_node_file
from tests.property.test_reshard import EVERY_STATE, check, filled_node, jobs_in, reshard_to
from tests.support.points import Points
from tests.support.stopping import Stopping


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
