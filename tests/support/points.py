"""How many crash and fault points the tests tried: counted, and printed at the end of a run.

A test that walks through such points asks for the fixture ``points`` and counts each kind; it
asserts itself that there were enough of them. Each point is a run of its own that was
stopped, cut off or hit by a fault at one particular place, and checked afterwards.
"""

import os
from collections import Counter
from collections.abc import Iterator

import pytest

LONG = os.environ.get("QUEUE_NODE_FAULTS") == "long"
"""Whether to try many more points: ``QUEUE_NODE_FAULTS=long pytest tests/crash tests/faults``."""

_WORTH_A_BOUND = 10
_PROPERTY = "points"
_counts: Counter[str] = Counter()


class Points:
    """What one test counts."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def add(self, kind: str, count: int = 1) -> None:
        """So many more points were tried, and nothing was lost at them."""
        if count:
            self.counted[kind] += count


@pytest.fixture
def points(request: pytest.FixtureRequest) -> Iterator[Points]:
    """Counts the points of a test."""
    counting = Points()
    yield counting
    # With the test's report they come to whoever prints, from another process too (xdist).
    request.node.user_properties.append((_PROPERTY, dict(counting.counted)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what a test that is over has counted."""
    if report.when == "teardown":
        for name, counted in report.user_properties:
            if name == _PROPERTY:
                assert isinstance(counted, dict)
                _counts.update(counted)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of this run."""
    counts = _counts
    if not counts:
        return
    terminalreporter.section("crash and fault points")
    for line in _lines(counts):
        terminalreporter.write_line(line)


def _lines(counts: Counter[str]) -> Iterator[str]:
    yield "  tried   at 95 %, losses are below"
    for kind, count in sorted(counts.items()):
        # No event in n independent tries: its probability is below 3/n (the rule of three).
        bound = f"{3 / count:8.3%}" if count >= _WORTH_A_BOUND else "       -"
        yield f"{count:7,}   {bound}  {kind}"
    yield f"{counts.total():7,}             in all"
