"""Timers: in order, lazily deleted, and never a heap of dead ones."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions import timers as module
from partitions.timers import Timer, Timers

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


@pytest.mark.parametrize("at_once_max", [16, 10_000], ids=["in steps", "at once"])
def test_dead_timers_are_never_many_times_the_live_ones_and_those_are_all_kept(
    at_once_max, monkeypatch
):
    monkeypatch.setattr(module, "_REBUILD_MIN", 16)
    monkeypatch.setattr(module, "_AT_ONCE_MAX", at_once_max)
    timers, live = Timers(), set()
    draw = random.Random(1)
    for number in range(3000):
        timer = (draw.randrange(1000), number.to_bytes(2, "big"))
        timers.add(*timer)
        live.add(timer)
        if draw.random() < 0.9:
            live.remove(draw.choice(sorted(live)))
        timers.shrink(len(live), live.__contains__)
        assert len(timers) <= max(16, 4 * len(live)) + 1
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


@pytest.mark.parametrize("at_once_max", [16, 10_000], ids=["in steps", "at once"])
def test_a_job_that_comes_again_and_again_at_one_time_has_one_timer(at_once_max, monkeypatch):
    monkeypatch.setattr(module, "_REBUILD_MIN", 16)
    monkeypatch.setattr(module, "_AT_ONCE_MAX", at_once_max)
    timers = Timers()
    for _ in range(1_000):
        timers.add(7, b"j")
        timers.shrink(1, lambda _: True)
        assert len(timers) <= 17 + 17 // module._STEP + 1
    assert timers.pop_due(7) == (7, b"j")


def test_however_many_there_are_a_call_looks_at_a_few():
    timers, looked_at = Timers(), 0
    for number in range(100_000):
        timers.add(number, number.to_bytes(4, "big"))

    def matters(timer: Timer) -> bool:
        nonlocal looked_at
        looked_at += 1
        return timer[0] % 10 == 0

    for call in range(25_000 + 1):
        timers.shrink(10_000, matters)
        assert looked_at == call * module._STEP
    assert len(timers) == 10_000


@given(st.lists(deadlines, min_size=20), st.lists(deadlines), st.integers(0, 30), deadlines)
def test_while_a_heap_is_gone_through_the_earliest_comes_first_all_the_same(
    before, meanwhile, calls, now
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_REBUILD_MIN", 16)
        patch.setattr(module, "_AT_ONCE_MAX", 16)
        timers = Timers()
        for index, deadline in enumerate(before):
            timers.add(deadline, b"%d" % index)
        for index in range(max(calls, len(meanwhile))):
            if index < calls:
                timers.shrink(0, lambda _: True)
            if index < len(meanwhile):
                timers.add(meanwhile[index], b"m%d" % index)
        every = sorted(before + meanwhile)
        assert timers.next_deadline_ms() == every[0]
        came = []
        while timer := timers.pop_due(now):
            came.append(timer[0])
        assert came == [deadline for deadline in every if deadline <= now]
