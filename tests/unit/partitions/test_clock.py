"""The clock: wall time at the node's start, monotonic from there on, with a floor."""

import pytest

from partitions.clock import SystemClock, wall_ahead_ms, wall_ms


class Machine:
    """Both clocks of a machine, to be moved by hand; in milliseconds."""

    def __init__(self) -> None:
        self.wall = 9_000
        self.monotonic = 500

    def time_ns(self) -> int:
        return self.wall * 1_000_000

    def monotonic_ns(self) -> int:
        return self.monotonic * 1_000_000

    def passes(self, ms: int) -> None:
        self.wall += ms
        self.monotonic += ms


@pytest.fixture
def machine(monkeypatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("partitions.clock.time", made)
    return made


def test_it_begins_at_the_wall_clock(machine: Machine):
    assert wall_ms() == SystemClock().now_ms() == 9_000


@pytest.mark.parametrize("step", [3_600_000, -3_600_000])
def test_a_step_of_the_wall_clock_moves_nothing_while_it_runs(machine: Machine, step: int):
    clock = SystemClock()
    machine.wall += step
    assert clock.now_ms() == 9_000
    machine.passes(7)
    assert clock.now_ms() == 9_007


@pytest.mark.parametrize("step", [3_600_000, -3_600_000])
def test_a_process_that_starts_after_a_step_goes_by_the_node_that_it_belongs_to(
    machine: Machine, step: int
):
    ahead_ms = wall_ahead_ms()
    first = SystemClock(ahead_ms=ahead_ms)
    machine.wall += step
    machine.passes(11)
    second = SystemClock(8_000, ahead_ms=ahead_ms)
    assert first.now_ms() == second.now_ms() == 9_011
    assert second.raised_ms == 0


def test_it_begins_no_earlier_than_the_newest_time_in_the_log(machine: Machine):
    clock = SystemClock(12_000, ahead_ms=wall_ahead_ms())
    assert clock.now_ms() == 12_000
    assert clock.raised_ms == 3_000
    machine.passes(5)
    assert clock.now_ms() == 12_005


def test_the_real_one_never_goes_back():
    clock = SystemClock()
    times = [clock.now_ms() for _ in range(1000)]
    assert times == sorted(times)


def test_two_real_ones_of_a_node_agree():
    ahead_ms = wall_ahead_ms()
    first, second = SystemClock(ahead_ms=ahead_ms), SystemClock(ahead_ms=ahead_ms)
    before = first.now_ms()
    assert before <= second.now_ms() <= first.now_ms()
