"""Rates: what a steady stream settles at, and how it fades."""

from math import exp

import pytest

from partitions.rates import STEP_MS, WINDOWS_MS, Rate

START_MS = 1_800_000_000_000


def test_nothing_is_no_rate():
    assert Rate().per_second(START_MS) == (0.0, 0.0, 0.0)


def test_a_steady_stream_is_its_rate_in_every_window_in_the_end():
    rate = Rate()
    now_ms = START_MS
    while now_ms < START_MS + 6 * WINDOWS_MS[-1]:
        rate.add(3, now_ms)
        now_ms += 100
    assert rate.per_second(now_ms) == pytest.approx((30, 30, 30), rel=0.01)


def test_what_happened_fades_by_the_length_of_the_window():
    rate = Rate()
    rate.add(500, START_MS)
    first = rate.per_second(START_MS + STEP_MS)
    assert first == pytest.approx([100 * (1 - exp(-STEP_MS / each)) for each in WINDOWS_MS])
    for index, window_ms in enumerate(WINDOWS_MS):
        later = rate.per_second(START_MS + STEP_MS + window_ms)[index]
        assert later <= first[index] * exp(-1) * 1.001
        rate = Rate()
        rate.add(500, START_MS)
        rate.per_second(START_MS + STEP_MS)


def test_a_step_that_is_not_over_does_not_count_yet_and_is_not_lost():
    rate = Rate()
    rate.add(10, START_MS)
    assert rate.per_second(START_MS + STEP_MS - 1) == (0.0, 0.0, 0.0)
    assert rate.per_second(START_MS + STEP_MS)[0] > 0


def test_years_of_silence_are_one_step_of_work_and_leave_nothing():
    rate = Rate()
    rate.add(1_000_000, START_MS)
    assert rate.per_second(START_MS + 10**12) == pytest.approx((0, 0, 0))
