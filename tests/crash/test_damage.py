"""Damage at rest: every byte flipped, files missing, swapped, doubled. Found, never swallowed.

A start refuses, and names the file and the offset; ``verify`` finds the same and says what to
do. Only the end of the newest segment may look like a torn tail, and is cut off as one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from partitions.errors import CorruptLogError
from partitions.log import Identity, segment_name
from partitions.record import SEGMENT_HEADER_BYTES, encode_segment_header
from partitions.recovery import Recovered, recover
from partitions.snapshot import BadSnapshotError, load_snapshot
from partitions.state import PartitionState
from partitions.verify import PartitionReport, verifying
from tests.support.driver import DIRECTORY, IDENTITY, Snapshot, snapshot
from tests.support.fake_disk import FakeDisk
from tests.support.past import (
    POLICY,
    SIZES,
    Past,
    changed,
    finished,
    flipped,
    header_of,
    records_of,
)

SMALL_BATCHES = 16
"""Four segments; every byte of them is flipped."""


def started(disk: FakeDisk) -> tuple[Recovered, Snapshot]:
    state = PartitionState(POLICY)
    found = recover(disk, DIRECTORY, IDENTITY, state, SIZES)
    found.log.close()
    return found, snapshot(state)


def refusal(disk: FakeDisk) -> CorruptLogError:
    operations = len(disk.operations)
    with pytest.raises(CorruptLogError) as caught:
        started(disk)
    assert len(disk.operations) == operations, "a refused start changes nothing"
    return caught.value


def verified(disk: FakeDisk, *, deep: bool = True) -> PartitionReport:
    operations, content = (
        len(disk.operations),
        {name: disk.content(DIRECTORY / name) for name in disk.names(DIRECTORY)},
    )
    report = finished(verifying(disk, DIRECTORY, IDENTITY, deep=deep))
    assert len(disk.operations) == operations, "verify wrote"
    assert {name: disk.content(DIRECTORY / name) for name in disk.names(DIRECTORY)} == content
    assert disk.open_files == 0
    return report


def state_after(past: Past, last_lsn: int) -> Snapshot:
    state = PartitionState(POLICY)
    for lsn in range(1, last_lsn + 1):
        for event in past.records[lsn]:
            state.evolve(event)
    return snapshot(state)


# Every byte ---------------------------------------------------------------------------------


def test_every_flipped_byte_of_a_log_is_found_or_is_a_torn_tail(record_property):
    past = Past(SMALL_BATCHES)
    assert len(past.segments) == 4
    last = past.segments[-1]
    final = past.records_in(last)[-1]
    whole, all_but_one = state_after(past, past.last_lsn), state_after(past, past.last_lsn - 1)
    flips = 0
    for path in past.segments:
        for place in range(len(past.disk.content(path))):
            disk = past.damaged()
            flipped(disk, path, place, 1 << place % 8)
            flips += 1
            if path == last and place >= final.offset_bytes:
                found, state = started(disk)
                assert state == (all_but_one if place < final.end_bytes else whole)
                assert found.torn_bytes > 0
                continue
            error = refusal(disk)
            assert error.path == path
            assert error.offset_bytes <= place
    record_property("log_flips", flips)
    assert flips > 3_000


def test_verify_finds_every_flipped_byte_that_a_start_refuses_and_some_that_it_need_not_read():
    past = Past(SMALL_BATCHES)
    last = past.segments[-1]
    final = past.records_in(last)[-1]
    for path in past.segments:
        for place in range(0, len(past.disk.content(path)), 5):
            disk = past.damaged()
            flipped(disk, path, place)
            report = verified(disk, deep=place % 2 == 0)
            if path == last and place >= final.offset_bytes:
                assert (report.faults, report.torn_bytes > 0) == ([], True)
                continue
            first = report.faults[0]
            assert (first.file, first.offset <= place) == (str(path), True)
            assert "queue-node repair" in first.advice


def test_every_flipped_byte_of_a_snapshot_is_found_and_the_one_before_it_stands_in():
    past = Past(40, checkpoint_bytes=1_200)
    before, newest = past.snapshots
    good, expected = started(past.damaged())
    assert good.snapshot is not None
    content = past.disk.content(newest)
    for place in range(len(content)):
        disk = past.damaged()
        flipped(disk, newest, place, 1 << place % 8)
        state = PartitionState()
        with pytest.raises(BadSnapshotError):
            finished(load_snapshot(disk, newest, state.jobs))
        assert len(state) == 0
        if place % 97 == 0:
            found, restored = started(disk)
            assert found.snapshot is not None
            assert found.snapshot.lsn == int(before.stem)
            assert [bad.path for bad in found.bad_snapshots] == [newest]
            assert restored == expected
            report = verified(past_with(past, newest, bytes(disk.content(newest))))
            assert (report.snapshots, report.snapshots_bad) == (2, 1)
            assert report.faults[0].file == str(newest)
            assert "bad snapshot" in report.faults[0].what


def past_with(past: Past, path: Path, content: bytes) -> FakeDisk:
    disk = past.damaged()
    disk.put(path, content)
    return disk


@pytest.mark.parametrize("size", [0, 7, 8, 15, 100])
def test_a_snapshot_that_is_cut_is_bad(size):
    past = Past(40, checkpoint_bytes=1_200)
    newest = past.snapshots[-1]
    disk = past_with(past, newest, past.disk.content(newest)[:size])
    found, _ = started(disk)
    assert [bad.path for bad in found.bad_snapshots] == [newest]


def test_both_snapshots_bad_and_the_old_segments_retired_is_refused_and_nothing_is_made_up():
    past = Past(100, checkpoint_bytes=1_200)
    disk = past.damaged()
    for path in past.snapshots:
        flipped(disk, path, 40)
    what = refusal(disk).what
    assert "first segment is missing, and no snapshot stands for it" in what
    assert f"{past.snapshots[-1].name}: a frame does not match its checksum" in what
    assert verified(disk).snapshots_bad == 2


def test_snapshots_of_an_earlier_version_are_named_where_the_log_alone_does_not_reach_back():
    for past in (Past(100, checkpoint_bytes=1_200), Past(40, checkpoint_bytes=1_200)):
        disk = past.damaged()
        for path in past.snapshots:
            changed(disk, path, 7, b"\x01")
        if past.segments[0].name == segment_name(1):
            found, _ = started(disk)
            assert len(found.bad_snapshots) == 2
        else:
            assert "of an earlier version, which this one does not read" in refusal(disk).what


# Files --------------------------------------------------------------------------------------


class Damage(NamedTuple):
    name: str
    do: Callable[[Past, FakeDisk], None]
    file: str
    what: str


def _missing(number: int) -> Callable[[Past, FakeDisk], None]:
    return lambda past, disk: disk.remove(past.segments[number])


def _swapped(past: Past, disk: FakeDisk) -> None:
    one, two = past.segments[2], past.segments[3]
    disk.put(one, past.disk.content(two))
    disk.put(two, past.disk.content(one))


def _doubled(past: Past, disk: FakeDisk) -> None:
    disk.put(DIRECTORY / segment_name(len(past.segments) + 1), past.disk.content(past.segments[2]))


def _foreign(past: Past, disk: FakeDisk) -> None:
    disk.put(DIRECTORY / "notes.txt", b"?")


def _of_another_partition(past: Past, disk: FakeDisk) -> None:
    header = header_of(past.disk.content(past.segments[3]))
    other = type(header)(
        1, 32_768, 65_536, header.number, header.first_lsn, 0, header.nonce, header.prev_crc
    )
    changed(disk, past.segments[3], 0, encode_segment_header(other))


def _gap_in_lsns(past: Past, disk: FakeDisk) -> None:
    """A record of the middle cut out, and those behind it moved up."""
    path = past.segments[2]
    content = past.disk.content(path)
    gone = records_of(content)[1]
    length = gone.end_bytes - gone.offset_bytes
    disk.put(path, content[: gone.offset_bytes] + content[gone.end_bytes :] + bytes(length))


def _bad_header(past: Past, disk: FakeDisk) -> None:
    flipped(disk, past.segments[2], 40)


def _zeroed_page(past: Past, disk: FakeDisk) -> None:
    changed(disk, past.segments[2], 256, bytes(256))


def _cut(past: Past, disk: FakeDisk) -> None:
    path = past.segments[2]
    disk.put(path, past.disk.content(path)[: records_of(past.disk.content(path))[-1].end_bytes - 1])


def _older_copy(past: Past, disk: FakeDisk) -> None:
    """A segment as it was before its last record, as from a backup."""
    path = past.segments[2]
    content = past.disk.content(path)
    end = records_of(content)[-1].offset_bytes
    disk.put(path, content[:end] + bytes(len(content) - end))


DAMAGES = [
    Damage("first missing", _missing(0), segment_name(1), "missing"),
    Damage("middle missing", _missing(2), segment_name(3), "missing"),
    Damage("newest missing", _missing(-1), segment_name(9), "missing"),
    Damage("swapped", _swapped, segment_name(3), "under another name"),
    Damage("doubled", _doubled, segment_name(10), "under another name"),
    Damage("foreign", _foreign, "notes.txt", "not a file of the log"),
    Damage("another partition's", _of_another_partition, segment_name(4), "partition 1"),
    Damage("gap in lsns", _gap_in_lsns, segment_name(3), "must follow"),
    Damage("bad header", _bad_header, segment_name(3), "header is damaged"),
    Damage("zeroed page", _zeroed_page, segment_name(3), "yet record"),
    Damage("cut", _cut, segment_name(3), "file ends"),
    Damage("older copy", _older_copy, segment_name(4), "does not continue"),
]


@pytest.fixture(scope="module")
def past() -> Past:
    past = Past(48)
    assert len(past.segments) == 9
    return past


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_a_start_refuses_and_names_the_file_and_verify_says_the_same_and_what_to_do(past, damage):
    disk = past.damaged()
    damage.do(past, disk)
    error = refusal(disk)
    assert error.path.name == damage.file
    assert damage.what in error.what
    report = verified(disk)
    fault = report.faults[0]
    assert (fault.file, fault.offset) == (str(error.path), error.offset_bytes)
    assert damage.what in fault.what
    assert "move it away" in fault.advice or "queue-node repair" in fault.advice


def test_a_zeroed_page_of_4_kib_in_a_large_segment_is_refused():
    past = Past(48)
    big = FakeDisk()
    big.make_directory(DIRECTORY)
    # One segment of a real size: the records of all, one behind the other, cannot be had by
    # copying, so a partition with real sizes writes them.
    state = PartitionState()
    log = recover(big, DIRECTORY, IDENTITY, state).log
    for events in past.records.values():
        log.put(b"x" * 400)
        log.commit(events, 1)
    log.close()
    path = DIRECTORY / segment_name(1)
    assert records_of(big.content(path))[-1].end_bytes > 4 * 4096
    for page in (0, 1, 2):
        disk = FakeDisk()
        disk.make_directory(DIRECTORY)
        disk.put(path, big.content(path))
        changed(disk, path, page * 4096, bytes(4096))
        error = refusal(disk)
        assert error.path == path
        assert error.offset_bytes < (page + 1) * 4096


# Verify: what only it looks at --------------------------------------------------------------


def test_verify_counts_what_is_there():
    past = Past(100, checkpoint_bytes=1_200)
    report = verified(past.damaged())
    assert report.faults == []
    assert report.segments == len(past.segments)
    assert report.jobs == len(past.jobs)
    assert sum(report.states.values()) == len(past.jobs)
    assert report.states == {
        name: sum(job.state.name == name for job in past.jobs.values()) for name in report.states
    }
    assert (report.snapshots, report.snapshots_bad, report.snapshots_compared) == (2, 0, 1)
    assert report.last_lsn == past.last_lsn
    assert report.records == sum(len(past.records_in(path)) for path in past.segments)
    assert report.disk_bytes == sum(
        len(past.disk.content(path)) for path in [*past.segments, *past.snapshots]
    )
    assert report.texts == sum(
        (payload != b"") + (outcome != b"") for payload, outcome in past.texts.values()
    )
    # A text counts for 16 bytes at least (``positions``).
    exact = sum(max(len(text) + 8, 16) for texts in past.texts.values() for text in texts if text)
    assert exact <= report.live_bytes <= exact * 1.1


def test_a_snapshot_is_compared_with_the_log_when_the_log_reaches_back():
    past = Past(40, checkpoint_bytes=1_200)
    assert verified(past.damaged()).snapshots_compared == 2


def test_a_torn_tail_is_counted_and_no_fault(past):
    disk = past.damaged()
    end = past.records_in(past.segments[-1])[-1].end_bytes
    changed(disk, past.segments[-1], end, b"\xff\xfeQR torn")
    report = verified(disk)
    assert (report.faults, report.torn_bytes, report.jobs) == ([], 9, len(past.jobs))


def test_damage_behind_the_snapshots_is_found_though_a_start_does_not_read_it():
    past = Past(100, checkpoint_bytes=1_200)
    disk = past.damaged()
    older = past.segments[0]
    flipped(disk, older, SEGMENT_HEADER_BYTES + 50)
    started(past_with(past, older, disk.content(older)))
    assert verified(disk).faults[0].file == str(older)


def test_a_segment_that_only_texts_are_in_is_missed():
    past = Past(100, checkpoint_bytes=1_200)
    disk = past.damaged()
    disk.remove(past.segments[0])
    report = verified(disk)
    assert report.faults[0].file == str(past.segments[0])
    assert "texts in it are needed" in report.faults[0].what
    assert "texts in it are needed" in refusal(disk).what


def test_an_empty_directory_is_said_to_be_one():
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    assert "there is no log" in verified(disk).faults[0].what


def test_a_directory_that_is_not_there_is_a_fault():
    report = finished(verifying(FakeDisk(), DIRECTORY, IDENTITY, deep=False))
    assert report.faults[0].file == str(DIRECTORY)


def test_the_identity_counts(past):
    report = finished(verifying(past.damaged(), DIRECTORY, Identity(1, 0, 65_536), deep=False))
    assert "segment of partition 0" in report.faults[0].what
