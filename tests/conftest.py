"""Fixtures for every test: real nodes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.node import RunningNode


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with two fronts and two partitions, shared by the tests of a module."""
    with RunningNode(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    """Nodes of a test's own: ``make_node(LEASE_DURATION="1s")``, not started yet.

    Each has a directory of its own; all are killed at the end.
    """
    made: list[RunningNode] = []

    def make(**environment: str) -> RunningNode:
        directory = tmp_path / f"node-{len(made)}"
        directory.mkdir()
        made.append(RunningNode(directory, environment))
        return made[-1]

    yield make
    for one in made:
        one.kill()
