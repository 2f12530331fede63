"""Decoders on bytes that were damaged, cut, mixed or made up: declared errors, bounded memory.

``test_codecs`` has what is right, and random bytes; here is what was right once.
"""

import contextlib
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from partitions.events import decode_events, encode_events
from partitions.record import (
    RECORD_MAGIC,
    SEAL_MAGIC,
    SEGMENT_HEADER_BYTES,
    End,
    LogEnd,
    Record,
    SegmentHeader,
    decode_segment_header,
    read_seal,
    scan,
)
from partitions.salvage import guess_nonce, records_in
from partitions.snapshot import MAGIC, BadSnapshotError, load_snapshot
from partitions.state import PartitionState
from tests.support.fake_disk import FakeDisk
from tests.support.past import Past, finished, header_of, records_of

ALLOCATION_BYTES_MAX = 4 << 20
"""For some kilobytes of input; tracing itself takes some."""

FOLDER = Path("/fuzz")
FILE = FOLDER / "x.snap"

_past = Past(24, checkpoint_bytes=700)
SEGMENT = _past.disk.content(_past.segments[-2])
SNAPSHOT = _past.disk.content(_past.snapshots[-1])
EVENTS = [encode_events(events) for events in _past.records.values()]
TRUE = {record.lsn: record for record in records_of(SEGMENT)}
NONCE = header_of(SEGMENT).nonce

Mutation = Callable[[bytearray], None]


@st.composite
def mutations(draw: st.DrawFn, size: int) -> list[Mutation]:
    """Some changes to ``size`` bytes: flips, zeros, noise, cuts, repeats, lengths."""

    def one() -> Mutation:
        kind = draw(st.sampled_from(["flip", "fill", "cut", "repeat", "number", "magic"]))
        place = draw(st.integers(0, size - 1))
        length = draw(st.integers(1, 80))
        value = draw(st.sampled_from([0, 1, 255, 2**31, 2**32 - 1, 48 << 20, (48 << 20) + 1]))
        fill = draw(st.binary(min_size=1, max_size=8))
        mask = 1 << draw(st.integers(0, 7))

        def change(data: bytearray) -> None:
            at = min(place, max(len(data) - 1, 0))
            match kind:
                case "flip" if data:
                    data[at] ^= mask
                case "fill":
                    data[at : at + length] = (fill * length)[:length]
                case "cut":
                    del data[at : at + length]
                case "repeat":
                    data[at:at] = data[at : at + length]
                case "number":
                    data[at : at + 4] = value.to_bytes(4, "little")
                case "magic":
                    data[at : at + 4] = draw_magic
                case _:
                    pass

        draw_magic = draw(st.sampled_from([RECORD_MAGIC, SEAL_MAGIC, MAGIC[:4]]))
        return change

    return [one() for _ in range(draw(st.integers(1, 4)))]


def mutated(data: bytes, changes: list[Mutation]) -> bytes:
    damaged = bytearray(data)
    for change in changes:
        change(damaged)
    return bytes(damaged)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """No more memory than the input explains."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < ALLOCATION_BYTES_MAX
    finally:
        tracemalloc.stop()


def snapshot_of(data: bytes) -> tuple[FakeDisk, PartitionState]:
    disk = FakeDisk()
    disk.make_directory(FOLDER)
    disk.put(FILE, data)
    return disk, PartitionState()


# What was right once ------------------------------------------------------------------------


@given(mutations(len(SEGMENT)))
def test_a_damaged_segment_gives_true_records_first_and_then_an_end(changes):
    data = mutated(SEGMENT, changes)
    with bounded():
        header = decode_segment_header(data[:SEGMENT_HEADER_BYTES])
        if isinstance(header, str):
            return
        *records, end = scan(data, header)
    assert isinstance(end, LogEnd)
    if header != header_of(SEGMENT):
        return  # a header of its own choosing: no flip comes to one that checks
    assert [each.events for each in records if isinstance(each, Record)] == [
        TRUE[lsn].events for lsn in sorted(TRUE)[: len(records)]
    ]
    if end.kind is End.SEALED:
        assert data.rstrip(b"\0") == SEGMENT.rstrip(b"\0")


@given(mutations(len(SEGMENT)))
def test_what_is_salvaged_of_a_damaged_segment_is_true(changes):
    data = mutated(SEGMENT, changes)
    with bounded():
        found = list(records_in(data, NONCE, is_last=False))
    for record in found:
        assert record.events == TRUE[record.lsn].events
        assert (record.crc, record.prev_crc) == (TRUE[record.lsn].crc, TRUE[record.lsn].prev_crc)


@given(mutations(len(SEGMENT)))
def test_a_nonce_that_is_guessed_is_the_right_one(changes):
    data = mutated(SEGMENT, changes)
    assert guess_nonce(data, None) in (NONCE, None)


@given(mutations(len(SNAPSHOT)))
def test_a_damaged_snapshot_is_bad_or_the_same(changes):
    data = mutated(SNAPSHOT, changes)
    disk, state = snapshot_of(data)
    with bounded():
        try:
            finished(load_snapshot(disk, FILE, state.jobs))
        except BadSnapshotError:
            assert len(state) == 0
            return
        finally:
            assert disk.open_files == 0
    assert data == SNAPSHOT


@given(st.sampled_from(EVENTS), st.data())
def test_damaged_events_are_events_or_refused(body, data):
    damaged = mutated(body, data.draw(mutations(len(body))))
    with bounded(), contextlib.suppress(msgspec.MsgspecError):
        decode_events(damaged)


# What never was -----------------------------------------------------------------------------

headers = st.builds(SegmentHeader, *[st.integers(0, 2**32 - 1)] * 8)
noise = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from([RECORD_MAGIC, SEAL_MAGIC, MAGIC, b"\xff" * 8, bytes(40)]),
    ),
    max_size=8,
).map(b"".join)


@given(noise, st.integers(0, 2**32 - 1))
@example(RECORD_MAGIC * 200, 0)
@example((RECORD_MAGIC + bytes(36)) * 100, 0)
@example(RECORD_MAGIC + b"\xff" * 8 + bytes(40), 0)
@example(SEAL_MAGIC + b"\xff" * 8 + bytes(40), 0)
def test_noise_has_no_record_no_seal_and_no_nonce(data, nonce):
    whole = bytes(SEGMENT_HEADER_BYTES) + data
    with bounded():
        assert list(records_in(whole, nonce, is_last=False)) == []
        assert guess_nonce(whole, None) is None
        assert all(read_seal(whole, at, nonce) is None for at in range(len(whole)))


@given(noise)
@example(MAGIC + b"\xff" * 16)
@example(MAGIC + (64 << 20).to_bytes(4, "little") + bytes(4))
def test_noise_is_no_snapshot(data):
    for content in (data, MAGIC + data):
        disk, state = snapshot_of(content)
        with bounded(), pytest.raises(BadSnapshotError):
            finished(load_snapshot(disk, FILE, state.jobs))


def test_noise_by_the_megabyte_takes_no_more_time_than_its_length():
    draw = random.Random(4)
    data = bytes(SEGMENT_HEADER_BYTES) + draw.randbytes(1 << 20)
    assert list(records_in(data, 1, is_last=False)) == []
    assert guess_nonce(data, None) is None
