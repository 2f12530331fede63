"""The count of bytes that are still needed, by segment."""

import pytest

from partitions.live import LiveTexts
from partitions.positions import make_position, size_of


def test_a_segment_is_listed_as_long_as_a_text_in_it_is_needed():
    live = LiveTexts()
    first, second, other = (
        make_position(7, 64, 100),
        make_position(7, 300, 5000),
        make_position(9, 64, 1),
    )
    for position in (first, second, other):
        live.keep(position)
    assert live.by_segment == {7: size_of(first) + size_of(second), 9: size_of(other)}
    assert live.total_bytes == sum(live.by_segment.values())
    live.drop(first)
    live.drop(second)
    assert live.by_segment == {9: size_of(other)}
    assert live.total_bytes == size_of(other)


def test_it_goes_on_from_what_a_snapshot_says():
    live = LiveTexts({3: size_of(make_position(3, 64, 10))})
    live.drop(make_position(3, 64, 10))
    assert (live.by_segment, live.total_bytes) == ({}, 0)


def test_what_was_never_kept_cannot_be_dropped():
    with pytest.raises(KeyError):
        LiveTexts().drop(make_position(1, 64, 10))
