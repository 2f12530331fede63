"""Durations, sizes, counts and words: text to value and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_node.values import (
    Choice,
    Count,
    Duration,
    NotAllowedError,
    Size,
    Text,
    parse_duration,
    parse_size,
    show_duration,
    show_size,
)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("500ms", 500),
        ("30s", 30_000),
        ("1m30s", 90_000),
        ("1h2m3s4ms", 3_723_004),
        ("1.5h", 5_400_000),
        ("30", 30_000),
        ("0.25", 250),
        ("0", 0),
        ("0s", 0),
        ("168h", 604_800_000),
        ("0.0005", 0),
    ],
)
def test_a_duration_is_go_style_or_seconds(text, ms):
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1s",
        "+1s",
        "1 s",
        "1s ",
        "1d",
        "1m30",
        "30m1x",
        ".5s",
        "1.s",
        "1e3",
        "inf",
        "nan",
        "٣s",
        "1S",
        "1,5s",
        "0x10",
        "1" * 50,
    ],
)
def test_anything_else_is_no_duration(text):
    with pytest.raises(NotAllowedError):
        parse_duration(text)


@given(st.integers(0, 10**12))
def test_a_duration_shown_is_the_duration_parsed(ms):
    assert parse_duration(show_duration(ms)) == ms


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), ("64KiB", 65536), ("1MiB", 1 << 20), ("1 GiB", 1 << 30), ("5MB", 5_000_000)],
)
def test_a_size_is_bytes_or_has_a_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1.5MiB", "1kib", "1 M", "0x10", "9" * 50, "1TiB"]
)
def test_anything_else_is_no_size(text):
    with pytest.raises(NotAllowedError):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_a_size_shown_is_the_size_parsed(size):
    assert parse_size(show_size(size)) == size


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Duration(10, 1000), ["10ms", "1s"], ["9ms", "1001ms", "x"]),
        (Size(1, 1 << 10), ["1", "1KiB"], ["0", "1025"]),
        (Count(1, 3), ["1", "3", "03"], ["0", "4", "-1", "1.0", "٣", "1" * 5000, ""]),
        (Choice({"a": 1, "b": 2}), ["a", "B"], ["c", ""]),
        (Text(), ["x y", "é"], ["a\nb", "x" * 5000]),
    ],
)
def test_a_kind_takes_what_is_inside_its_bounds_only(kind, inside, outside):
    for text in inside:
        kind.parse(text)
    for text in outside:
        with pytest.raises(NotAllowedError):
            kind.parse(text)


def test_a_choice_is_shown_by_the_first_word_that_means_it():
    words = Choice({"auto": "auto", "1": "always", "always": "always", "0": "never"})
    assert [words.show("always"), words.show("never")] == ["1", "0"]
    assert words.allowed == "auto, 1, always or 0"
