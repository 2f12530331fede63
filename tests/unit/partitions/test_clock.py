"""The clock: wall time at the start, monotonic from there on."""

import time

from partitions.clock import SystemClock


def test_it_begins_at_the_wall_clock(monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_123_999_999)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 55)
    assert SystemClock().now_ms() == 1_800_000_000_123


def test_it_begins_no_earlier_than_the_newest_time_in_the_log(monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 0)
    assert SystemClock(floor_ms=5_000).now_ms() == 5_000


def test_a_step_of_the_wall_clock_moves_nothing_while_it_runs(monkeypatch):
    monotonic = [0]
    monkeypatch.setattr(time, "time_ns", lambda: 9_000_000_000)
    monkeypatch.setattr(time, "monotonic_ns", lambda: monotonic[0])
    clock = SystemClock()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert clock.now_ms() == 9_000
    monotonic[0] = 7_000_000
    assert clock.now_ms() == 9_007


def test_the_real_one_never_goes_back():
    clock = SystemClock()
    times = [clock.now_ms() for _ in range(1000)]
    assert times == sorted(times)
