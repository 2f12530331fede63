import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.durations import DURATION_MS_MAX, DURATION_PATTERN, parse_duration


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("1m30s", 90_000),
        ("500ms", 500),
        ("1h", 3_600_000),
        ("1.5h", 5_400_000),
        ("1h1m1s1ms", 3_661_001),
        ("0s", 0),
        ("0", 0),
        ("30", 30_000),
        ("1.25", 1_250),
        ("1500us", 2),
        ("1500µs", 2),
        ("1ns", 1),
        ("87600h", DURATION_MS_MAX),
        (30, 30_000),
        (0, 0),
        (-0.0, 0),
        (0.1, 100),
        (1.001, 1_001),
        (5e-324, 1),
        (315_360_000, DURATION_MS_MAX),
    ],
)
def test_a_duration_is_so_many_milliseconds(value: str | float, ms: int):
    assert parse_duration(value) == ms


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "s",
        "1x",
        "1 s",
        " 1s",
        "1s ",
        "1s\n",
        "-1s",
        "+1s",
        "1e3",
        "1e3s",
        ".5s",
        "1.s",
        "1s5",
        "1S",
        "1d",
        "nan",
        "inf",
        "0x1s",
        "1_0s",
        "\u0661s",
        "87600h1ms",
        "1" * 64,
        "1" * 100_000,
        -1,
        -0.001,
        math.nan,
        math.inf,
        -math.inf,
        315_360_000.001,
        10**400,
        1e308,
        True,
        False,
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_is_no_duration_from_nothing_to_ten_years(value: str | float):
    assert parse_duration(value) is None


@given(st.text(max_size=70) | st.from_regex(DURATION_PATTERN) | st.integers() | st.floats())
def test_whatever_is_asked_is_in_range_or_refused(value: str | float):
    ms = parse_duration(value)
    assert ms is None or (type(ms) is int and 0 <= ms <= DURATION_MS_MAX)


@given(st.integers(0, DURATION_MS_MAX))
def test_a_number_of_seconds_is_exact_to_the_millisecond(ms: int):
    assert parse_duration(ms / 1000) == ms
    assert parse_duration(f"{ms}ms") == ms


@given(st.text(alphabet="012.hmsnuµ", max_size=5))
def test_the_pattern_that_is_shown_is_what_is_taken(text: str):
    # Five characters are below the bound of ten years, which no pattern can say.
    assert bool(re.search(DURATION_PATTERN, text)) == (parse_duration(text) is not None)
