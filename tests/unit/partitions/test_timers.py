"""Timers: in order, lazily deleted, and never a heap of dead ones."""

import random

from hypothesis import given
from hypothesis import strategies as st

from partitions import timers as module
from partitions.timers import Timers

deadlines = st.integers(0, 50)


@given(st.lists(deadlines), deadlines)
def test_exactly_those_that_are_due_come_up_the_earliest_first(all_of, now):
    timers = Timers()
    for index, deadline in enumerate(all_of):
        timers.add(deadline, bytes([index % 256]))
    came = []
    while timer := timers.pop_due(now):
        came.append(timer[0])
    assert came == sorted(deadline for deadline in all_of if deadline <= now)
    assert len(timers) == len(all_of) - len(came)


def test_the_next_deadline_is_the_earliest_and_none_when_there_is_no_timer():
    timers = Timers()
    assert timers.next_deadline_ms() is None
    assert timers.pop_due(10**18) is None
    for deadline in (7, 3, 9):
        timers.add(deadline, b"j")
    assert timers.next_deadline_ms() == 3
    assert timers.pop_due(2) is None


def test_the_heap_stays_within_twice_the_live_timers_and_keeps_every_one_of_them(monkeypatch):
    monkeypatch.setattr(module, "_REBUILD_MIN", 16)
    timers, live = Timers(), set()
    draw = random.Random(1)
    for number in range(3000):
        timer = (draw.randrange(1000), number.to_bytes(2, "big"))
        timers.add(*timer)
        live.add(timer)
        if draw.random() < 0.9:
            live.remove(draw.choice(sorted(live)))
        timers.shrink(len(live), live.__contains__)
        assert len(timers) <= max(16, 2 * len(live)) + 1
    came = []
    while due := timers.pop_due(1000):
        came.append(due)
    assert came == sorted(came)
    assert live <= set(came)


def test_few_dead_timers_are_left_alone():
    timers = Timers()
    for number in range(100):
        timers.add(number, b"j")
    timers.shrink(0, lambda _: False)
    assert len(timers) == 100


def test_a_job_that_comes_again_and_again_at_one_time_has_one_timer(monkeypatch):
    monkeypatch.setattr(module, "_REBUILD_MIN", 16)
    timers = Timers()
    for _ in range(1_000):
        timers.add(7, b"j")
        timers.shrink(1, lambda _: True)
        assert len(timers) <= 17
    assert timers.pop_due(7) == (7, b"j")
