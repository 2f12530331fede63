"""``verify``: snapshots against the log, texts against positions, files that change meanwhile."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from partitions.events import JobEnqueued
from partitions.job import Job, Own, Run, State
from partitions.log import segment_name
from partitions.positions import make_position, offset_of
from partitions.record import RECORD_HEADER_BYTES, encode_record
from partitions.snapshot import SnapshotWriter, frames, write_pieces
from partitions.verify import LOOKS_MAX, PartitionReport, verifying
from tests.support.driver import DIRECTORY, IDENTITY, START_MS, Driver, enqueue, job_id, jobs_of
from tests.support.fake_disk import FakeDisk, FakeFile
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


def verified(disk: FakeDisk, *, deep: bool = False) -> PartitionReport:
    return finished(verifying(disk, DIRECTORY, IDENTITY, deep=deep))


# A snapshot holds what the log says ---------------------------------------------------------


def rewritten(
    past: Past,
    change: Callable[[Job], None] | None,
    claims: dict[bytes, int] | None = None,
    **head: object,
) -> FakeDisk:
    """The newest snapshot written anew with another job in it, or another head."""
    disk = past.damaged()
    path = past.snapshots[-1]
    parts = list(frames(disk, path))
    kinds = [kind for _, piece in parts for kind in piece.kinds]
    jobs = [job for _, piece in parts for job in piece.jobs]
    claims = claims or {}
    if change is not None:
        change(jobs[len(jobs) // 2])
    old = parts[0][0]
    writer = SnapshotWriter(
        disk,
        DIRECTORY,
        msgspec.structs.replace(
            old, state=msgspec.structs.replace(old.state, claims=len(claims), **head)
        ),
    )
    write_pieces(writer, kinds, jobs, claims)
    return disk


def test_a_snapshot_written_anew_in_other_frames_is_the_same():
    report = verified(rewritten(Past(40, checkpoint_bytes=1_200), None))
    assert (report.faults, report.snapshots_compared) == ([], 2)


def _another_attempt(job: Job) -> None:
    job.run = Run(attempts=3, crashes=2)


def _another_kind(job: Job) -> None:
    job.kind = 0 if job.kind else 1


def _another_group(job: Job) -> None:
    job.own = Own("another group")


def _another_state(job: Job) -> None:
    job.state = State.CANCELLED if job.state is State.DEAD else State.DEAD


@pytest.mark.parametrize(
    "change", [_another_attempt, _another_kind, _another_group, _another_state]
)
def test_a_job_that_the_log_knows_otherwise_is_found(change):
    past = Past(40, checkpoint_bytes=1_200)
    report = verified(rewritten(past, change))
    (fault,) = report.faults
    assert fault.file == str(past.snapshots[-1])
    assert "does not hold what the log says: a job or a claim differs" in fault.what
    assert "move the snapshot away" in fault.advice


def test_a_claim_that_the_log_did_not_make_is_found():
    past = Past(40, checkpoint_bytes=1_200)
    (fault,) = verified(rewritten(past, None, claims={bytes(16): 1})).faults
    assert "claims is 1 in the snapshot and 0 in the log" in fault.what


def test_a_lower_lease_token_than_the_log_gave_is_found():
    (fault,) = verified(rewritten(Past(40, checkpoint_bytes=1_200), None, last_token=1)).faults
    assert "last_token is 1 in the snapshot" in fault.what


def test_a_queue_that_the_log_did_not_pause_is_found():
    past = Past(40, checkpoint_bytes=1_200)
    (fault,) = verified(rewritten(past, None, paused=["nobody's"])).faults
    assert 'paused is ["nobody\'s"] in the snapshot' in fault.what


# Texts --------------------------------------------------------------------------------------


def with_wrong_text(place: int) -> tuple[FakeDisk, int]:
    """A record whose own checksum is right, and the blob in it is not: ``(disk, its offset)``."""
    disk = FakeDisk()
    driver = Driver(disk, POLICY, SIZES)
    driver.handle([enqueue(1, b"the text")], START_MS)
    position = jobs_of(driver.state)[job_id(1)].payload_at
    driver.close()
    path = DIRECTORY / segment_name(1)
    content = disk.content(path)
    (record,) = records_of(content)
    blobs = bytearray(
        content[record.offset_bytes + RECORD_HEADER_BYTES : record.end_bytes - len(record.events)]
    )
    blobs[place] ^= 1
    damaged, _ = encode_record(
        lsn=1,
        epoch=0,
        written_ms=record.written_ms,
        prev_crc=0,
        nonce=header_of(content).nonce,
        blobs=bytes(blobs),
        events=record.events,
    )
    changed(disk, path, record.offset_bytes, damaged)
    return disk, offset_of(position)


def test_a_text_that_does_not_match_its_checksum_is_found_by_a_deep_look_only():
    for place in range(len(b"the text") + 8):
        disk, offset = with_wrong_text(place)
        assert verified(disk).faults == []
        report = verified(disk, deep=True)
        (fault,) = report.faults
        assert (report.texts, report.texts_bad) == (0, 1)
        assert (fault.file, fault.offset) == (str(DIRECTORY / segment_name(1)), offset)


def test_a_text_of_another_length_than_its_position_says_is_found():
    disk = FakeDisk()
    driver = Driver(disk, POLICY, SIZES)
    right = driver.log.put(b"the text")
    wrong = make_position(1, offset_of(right), 500)
    driver.log.commit([JobEnqueued(job_id(1), wrong, 1, START_MS, "owner")], START_MS)
    driver.close()
    assert verified(disk).faults == []
    (fault,) = verified(disk, deep=True).faults
    assert (fault.offset, fault.what) == (offset_of(right), "another text: it has 8 bytes")


# Beside a running node ----------------------------------------------------------------------


class Restless(FakeDisk):
    """Does something to its files when one of them is opened for the ``at``-th time."""

    def __init__(self, at: int, do: Callable[[FakeDisk], None], times: int = 1) -> None:
        super().__init__()
        self._left, self._do, self._times = at, do, times

    def open(self, path: Path, *, writable: bool = False) -> FakeFile:
        self._left -= 1
        if self._left <= 0 and self._times:
            self._times -= 1
            self._do(self)
        return super().open(path, writable=writable)


def restless(past: Past, at: int, do: Callable[[FakeDisk], None], times: int = 1) -> Restless:
    disk = Restless(at, do, times)
    disk.make_directory(DIRECTORY)
    for path in [*past.segments, *past.snapshots]:
        disk.put(path, past.disk.content(path))
    return disk


def test_a_snapshot_that_goes_while_it_is_read_is_no_fault():
    past = Past(100, checkpoint_bytes=1_200)

    def go(disk: FakeDisk) -> None:
        if past.snapshots[0].name in disk.names(DIRECTORY):
            disk.remove(past.snapshots[0])

    for at in range(1, 30):
        report = verified(restless(past, at, go), deep=True)
        assert report.faults == [], at
        assert report.jobs == len(past.jobs)


def test_a_record_that_is_half_written_when_it_is_read_is_no_fault():
    past = Past(30)
    tail = past.segments[-1]
    whole = past.disk.content(tail)
    first = records_of(whole)[0]
    middle = (first.offset_bytes + first.end_bytes) // 2

    def settle(disk: FakeDisk) -> None:
        disk.put(tail, whole)

    # Everything of the record behind it was there already when this half was not.
    opens = 2 * len(past.segments) + 1
    disk = restless(past, opens, settle)
    changed(disk, tail, middle, bytes(first.end_bytes - middle))
    assert verified(disk).faults == []


def test_a_fault_that_stays_is_a_fault_and_is_looked_at_twice_only():
    past = Past(30)
    looks = 0

    def count(_: FakeDisk) -> None:
        nonlocal looks
        looks += 1

    disk = restless(past, 0, count, times=10**6)
    flipped(disk, past.segments[1], 100)
    assert verified(disk).faults[0].file == str(past.segments[1])
    sizes, reads = len(past.segments), 2
    assert looks == 2 * (sizes + reads)


def test_a_log_that_never_holds_still_is_given_up():
    past = Past(30)
    place = 100

    def move(disk: FakeDisk) -> None:
        nonlocal place
        disk.put(past.segments[0], past.disk.content(past.segments[0]))
        flipped(disk, past.segments[0], place % 700 + 70)
        place += 97

    disk = restless(past, 0, move, times=10**6)
    assert verified(disk).faults
    assert LOOKS_MAX == 5
