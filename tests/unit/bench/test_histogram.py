"""bench.histogram: what is read back is near the truth, and merging loses nothing."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.histogram import RELATIVE_ERROR, Histogram, bucket_of, highest_in

VALUES = st.lists(st.integers(0, 10**12), min_size=1, max_size=200)


def histogram_of(values):
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@settings(deadline=None)
@given(VALUES, st.floats(0, 1))
def test_a_quantile_is_never_too_low_and_at_most_a_bucket_too_high(values, fraction):
    exact = sorted(values)[max(1, math.ceil(fraction * len(values))) - 1]
    seen = histogram_of(values).quantile(fraction)
    assert exact <= seen <= exact * (1 + RELATIVE_ERROR)


@settings(deadline=None)
@given(st.integers(0, 2**60))
def test_a_bucket_ends_where_the_next_begins(value):
    bucket = bucket_of(value)
    top = highest_in(bucket)
    assert value <= top
    assert bucket_of(top) == bucket
    assert bucket_of(top + 1) == bucket + 1


@settings(deadline=None)
@given(VALUES, VALUES)
def test_merged_histograms_are_those_of_all_values_together(left, right):
    merged = histogram_of(left)
    merged.merge(histogram_of(right))
    assert merged == histogram_of(left + right)


@settings(deadline=None)
@given(VALUES)
def test_count_mean_and_highest_are_exact(values):
    histogram = histogram_of(values)
    assert len(histogram) == len(values)
    assert histogram.highest == max(values)
    assert histogram.mean() == pytest.approx(sum(values) / len(values))


@settings(deadline=None)
@given(VALUES)
def test_a_histogram_survives_its_way_through_json(values):
    histogram = histogram_of(values)
    encoded = msgspec.json.encode(histogram)
    assert msgspec.json.decode(encoded, type=Histogram) == histogram


def test_two_new_histograms_share_nothing():
    Histogram().record(1)
    assert len(Histogram()) == 0


def test_an_empty_histogram_has_no_quantile():
    with pytest.raises(ValueError, match="empty"):
        Histogram().quantile(0.5)
    assert Histogram().mean() == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_a_fraction_beyond_0_to_1_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        histogram_of([1]).quantile(fraction)
