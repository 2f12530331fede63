"""A position: segment, offset and about how long, in one integer."""

from hypothesis import given
from hypothesis import strategies as st

from partitions.job import EMPTY_AT
from partitions.limits import TEXT_BYTES_MAX
from partitions.positions import OFFSET_MAX, make_position, offset_of, segment_of, size_of
from partitions.record import BLOB_HEADER_BYTES, SEGMENT_HEADER_BYTES

segments = st.integers(1, 2**28)
offsets = st.integers(SEGMENT_HEADER_BYTES, OFFSET_MAX)
sizes = st.integers(BLOB_HEADER_BYTES, TEXT_BYTES_MAX + BLOB_HEADER_BYTES)


@given(segments, offsets, sizes)
def test_segment_and_offset_come_back(segment, offset, size):
    position = make_position(segment, offset, size)
    assert (segment_of(position), offset_of(position)) == (segment, offset)


@given(segments, offsets, sizes)
def test_the_size_is_never_less_and_hardly_more_than_it_was(segment, offset, size):
    told = size_of(make_position(segment, offset, size))
    assert size <= told <= max(17, size * 1.1 + 1)


@given(segments, offsets, sizes)
def test_no_position_is_a_word_in_its_place(segment, offset, size):
    assert make_position(segment, offset, size) > EMPTY_AT


@given(st.integers(1, 2**26 - 1), offsets, sizes)
def test_for_years_a_position_fits_two_digits_of_an_int(segment, offset, size):
    assert make_position(segment, offset, size) < 2**60
