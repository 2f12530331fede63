"""Frames: whole bodies come out, however the stream is cut."""

import itertools

import pytest

from partitions.errors import PipeError
from partitions.framing import Deframer, frame
from partitions.limits import FRAME_BYTES_MAX

BODIES = [b"", b"a", b"four", bytes(300), b"\xff" * 5]


def test_a_frame_is_its_length_and_its_body():
    assert frame(b"abc") == b"\0\0\0\x03abc"


def test_every_split_of_a_stream_into_two_gives_the_same_bodies():
    stream = b"".join(map(frame, BODIES))
    for cut in range(len(stream) + 1):
        deframer = Deframer()
        assert deframer.feed(stream[:cut]) + deframer.feed(stream[cut:]) == BODIES


def test_every_split_of_a_short_stream_into_three_gives_the_same_bodies():
    bodies = [b"ab", b"", b"cde"]
    stream = b"".join(map(frame, bodies))
    for first, second in itertools.combinations_with_replacement(range(len(stream) + 1), 2):
        deframer = Deframer()
        parts = stream[:first], stream[first:second], stream[second:]
        assert [body for part in parts for body in deframer.feed(part)] == bodies


def test_a_stream_of_single_bytes_gives_the_same_bodies():
    deframer = Deframer()
    stream = b"".join(map(frame, BODIES))
    assert [body for byte in stream for body in deframer.feed(bytes([byte]))] == BODIES


def test_a_body_is_out_with_its_last_byte_and_not_before():
    deframer = Deframer()
    assert deframer.feed(frame(b"abc")[:-1]) == []
    assert deframer.feed(b"c") == [b"abc"]


def test_the_largest_length_is_taken_and_one_more_is_refused():
    assert Deframer().feed(FRAME_BYTES_MAX.to_bytes(4, "big")) == []
    with pytest.raises(PipeError, match="at most"):
        Deframer().feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))


def test_a_length_is_refused_before_its_body_arrives_and_behind_good_frames_too():
    with pytest.raises(PipeError):
        Deframer().feed(frame(b"good") + b"\xff\xff\xff\xff")


def test_a_body_beyond_the_bound_is_a_bug_of_the_sender():
    with pytest.raises(AssertionError):
        frame(bytes(FRAME_BYTES_MAX + 1))
