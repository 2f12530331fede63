"""Fixtures for every test: real nodes. How hard hypothesis tries; whose clock is unhurried."""

import inspect
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.clock import run_unhurried
from tests.support.node import RunningNode
from tests.support.points import points, pytest_runtest_logreport, pytest_terminal_summary

__all__ = ["points", "pytest_runtest_logreport", "pytest_terminal_summary"]

# No deadlines: how long an example takes says nothing on a machine that others use too.
_SLOW = (HealthCheck.too_slow,)
settings.register_profile(
    "quick", deadline=None, max_examples=100, stateful_step_count=40, suppress_health_check=_SLOW
)
settings.register_profile(
    "thorough",
    deadline=None,
    max_examples=3_000,
    stateful_step_count=100,
    suppress_health_check=_SLOW,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts us in the background has SIGINT ignored, and what we start inherits
    # that: a tool which a test interrupts would never know.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "unhurried: see tests/support/clock.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        is_async = inspect.iscoroutinefunction(getattr(item, "obj", None))
        if is_async and item.get_closest_marker("unhurried"):
            # In front of the marker that ``trio_mode`` gives to every test.
            item.add_marker(pytest.mark.trio(run=run_unhurried), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    # What a test logged may hold halves of characters, on purpose; no report with them gets from
    # one process to another (xdist).
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


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
        one.close()
