"""Options: there and back, no bytes for the defaults, and bytes that are none."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions.limits import OPTIONS_BYTES_MAX, PRIORITY_MAX, QUEUE_CHARS_MAX
from partitions.options import DEFAULTS, Options, decode_options, encode_options
from partitions.retry import Backoff

durations = st.none() | st.integers(0, 1 << 53)
options = st.builds(
    Options,
    queue=st.text(min_size=1, max_size=QUEUE_CHARS_MAX),
    priority=st.integers(-PRIORITY_MAX, PRIORITY_MAX),
    lease_ms=durations,
    retention_ms=durations,
    backoff=st.none()
    | st.builds(
        Backoff,
        st.integers(0, 1 << 53),
        st.integers(0, 1 << 53),
        st.floats(1, 1e6),
        st.floats(0, 1),
    ),
    tags=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=3).map(tuple),
)


@given(options)
def test_options_there_and_back(chosen):
    assert decode_options(encode_options(chosen)) == chosen
    assert encode_options(msgspec.structs.replace(chosen)) == encode_options(chosen)


def test_the_defaults_take_no_bytes():
    assert encode_options(Options()) == b""
    assert decode_options(b"") == DEFAULTS == Options("default", 0, None, None, None, ())


@given(st.binary(min_size=1, max_size=60))
def test_random_bytes_are_options_or_refused_as_such(data):
    try:
        found = decode_options(data)
    except msgspec.MsgspecError:
        return
    assert -PRIORITY_MAX <= found.priority <= PRIORITY_MAX
    assert found.queue


@pytest.mark.parametrize(
    "wrong",
    [
        Options(queue=""),
        Options(queue="q" * (QUEUE_CHARS_MAX + 1)),
        Options(priority=PRIORITY_MAX + 1),
        Options(priority=-PRIORITY_MAX - 1),
        Options(lease_ms=-1),
        Options(retention_ms=(1 << 53) + 1),
        Options(backoff=Backoff(-1)),
        Options(backoff=Backoff(factor=0.5)),
        Options(backoff=Backoff(factor=float("nan"))),
        Options(backoff=Backoff(jitter=1.5)),
    ],
    ids=repr,
)
def test_options_out_of_bounds_are_refused_as_they_are_decoded(wrong):
    with pytest.raises(msgspec.ValidationError):
        decode_options(msgspec.msgpack.encode(wrong))


def test_deep_nesting_and_bytes_that_are_no_text_are_refused_as_such():
    for data in (b"\x91" * 5_000, b"\x91\xa1\xff", b"\xc1"):
        with pytest.raises(msgspec.MsgspecError):
            decode_options(data)


def test_the_largest_that_the_contract_allows_are_within_the_bound_of_the_pipe():
    tags = tuple(("\U0001f600" * 64, "\U0001f600" * 128) for _ in range(16))
    largest = Options("q" * QUEUE_CHARS_MAX, -100, 1 << 53, 1 << 53, Backoff(), tags)
    assert len(encode_options(largest)) <= OPTIONS_BYTES_MAX
