"""A new partition directory from what is left of an old one (``remains``).

The jobs go into a snapshot as they are; before it stands a log of the texts that they need,
read from the old segments and committed anew, each under an event that says whose it is. That
is the form that copying forward leaves behind too, so nothing else needs to know of it. The
log alone is no state, so a record later the same snapshot follows once more: one that goes bad
is as harmless as anywhere.

Nothing may be given twice that the lost part of the log may have given: segments, lsns and
lease tokens go on far above the last ones known, the time not below the newest record.

A job whose payload does not read back is dropped; one whose result or error does not stays, and
has none. Both are reported.
"""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import msgspec

from partitions.disk import Disk
from partitions.errors import BlobUnreadableError
from partitions.events import Event, OutcomeMoved, PayloadMoved
from partitions.job import CREATED_SHIFT, EMPTY_AT, Job, Run, State
from partitions.jobs import StateHead
from partitions.kinds import NumberedKind
from partitions.live import LiveTexts
from partitions.log import Log, Sizes, Tail, create_segment, make_nonce
from partitions.positions import offset_of, segment_of
from partitions.record import SEGMENT_HEADER_BYTES, SegmentHeader
from partitions.remains import Remains
from partitions.snapshot import SnapshotHead, SnapshotWriter, write_pieces
from partitions.texts import Texts

JUMP: Final = 1 << 32
"""Lease tokens and lsns go on so far above the last one known: more than a log of 80 GB holds,
for an event takes 20 bytes at least."""

_SEGMENTS_JUMP: Final = 1 << 10
_COMMIT_BYTES: Final = 4 << 20
_COMMIT_EVENTS: Final = 10_000
_JOBS_PER_FRAME: Final = 2_000
_SIZES: Final = Sizes()


class Checked(msgspec.Struct, frozen=True):
    """What reading the texts came to."""

    payloads_lost: list[bytes]
    """Jobs that were dropped."""
    outcomes_lost: list[bytes]
    """Jobs whose result or error is gone."""


def checking(disk: Disk, directory: Path, remains: Remains) -> Generator[float, None, Checked]:
    """Read every text that a job needs, and drop what is gone; yields how much is done."""
    checked = Checked([], [])
    jobs = _in_order_of_texts(remains)
    with Texts(disk, directory, remains.paths) as texts:
        for index, job in enumerate(jobs):
            if index % _JOBS_PER_FRAME == 0:
                yield index / len(jobs)
            if job.payload_at > EMPTY_AT and not _reads_back(texts, job.payload_at):
                remains.rescue.drop(job.job_id)
                checked.payloads_lost.append(job.job_id)
            elif job.outcome_at > EMPTY_AT and not _reads_back(texts, job.outcome_at):
                _run_of(job).outcome_at = 0 if job.state is State.ACKED else EMPTY_AT
                checked.outcomes_lost.append(job.job_id)
    return checked


def _reads_back(texts: Texts, position: int) -> bool:
    try:
        texts.read(position)
    except (BlobUnreadableError, OSError):
        return False
    return True


def rebuilding(
    disk: Disk, directory: Path, remains: Remains, target: Path, sizes: Sizes = _SIZES
) -> Generator[float, None, None]:
    """Write the jobs that are left into ``target``, an empty directory, durably.

    ``checking`` must have been done. Yields how much is done, from 0 to 1.

    Raises:
        OSError: of the disk; ``target`` is of no use then.
    """
    log = _new_log(disk, target, remains, sizes)
    try:
        jobs = _in_order_of_texts(remains)
        with Texts(disk, directory, remains.paths) as texts:
            yield from _copy_texts(log, texts, jobs, remains.newest_ms)
        _write_snapshot(disk, target, remains, log)
        log.commit([], remains.newest_ms)
        log.make_room(remains.newest_ms)
        _write_snapshot(disk, target, remains, log)
    finally:
        log.close()


def _new_log(disk: Disk, target: Path, remains: Remains, sizes: Sizes) -> Log:
    identity = remains.identity
    header = SegmentHeader(
        partition=identity.partition,
        slot_first=identity.slot_first,
        slot_end=identity.slot_end,
        number=remains.last_segment + _SEGMENTS_JUMP,
        first_lsn=remains.last_lsn + JUMP,
        created_ms=remains.newest_ms,
        nonce=make_nonce(),
        prev_crc=0,
    )
    file, zeros_end = create_segment(disk, target, header, sizes.extent_bytes)
    tail = Tail(header, file, SEGMENT_HEADER_BYTES, zeros_end, header.first_lsn, 0)
    return Log(disk, target, identity, tail, sizes)


def _copy_texts(log: Log, texts: Texts, jobs: list[Job], now_ms: int) -> Iterator[float]:
    events: list[Event] = []
    for index, job in enumerate(jobs):
        if job.payload_at > EMPTY_AT:
            job.payload_at = log.put(texts.read(job.payload_at))
            events.append(PayloadMoved(job.job_id, job.payload_at))
        if job.outcome_at > EMPTY_AT:
            _run_of(job).outcome_at = log.put(texts.read(job.outcome_at))
            events.append(OutcomeMoved(job.job_id, job.outcome_at))
        if log.staged_bytes >= _COMMIT_BYTES or len(events) >= _COMMIT_EVENTS:
            log.commit(events, now_ms)
            events.clear()
            log.make_room(now_ms)
            yield index / len(jobs)
    if events:
        log.commit(events, now_ms)
        log.make_room(now_ms)


def _write_snapshot(disk: Disk, target: Path, remains: Remains, log: Log) -> None:
    rescue, identity = remains.rescue, remains.identity
    jobs = sorted(rescue.jobs.values(), key=lambda job: job.number)
    live = LiveTexts()
    for job in jobs:
        for position in (job.payload_at, job.outcome_at):
            if position > EMPTY_AT:
                live.keep(position)
    state = StateHead(
        len(jobs),
        max(rescue.last_number, remains.newest_ms << CREATED_SHIFT),
        rescue.last_token + JUMP,
        sorted(rescue.paused),
        live.by_segment,
        len(rescue.claims),
    )
    head = SnapshotHead(
        identity.partition,
        identity.slot_first,
        identity.slot_end,
        log.next_lsn - 1,
        remains.newest_ms,
        log.tail_segment,
        state,
    )
    writer = SnapshotWriter(disk, target, head)
    used = {job.kind for job in jobs}
    kinds = [NumberedKind(kind.index, kind.key) for kind in rescue.kinds if kind.index in used]
    write_pieces(writer, kinds, jobs, rescue.claims)


def _in_order_of_texts(remains: Remains) -> list[Job]:
    """So that old segments are read from their beginning to their end."""
    return sorted(
        remains.rescue.jobs.values(),
        key=lambda job: (segment_of(job.payload_at), offset_of(job.payload_at)),
    )


def _run_of(job: Job) -> Run:
    assert job.run is not None, "only an attempt leaves an outcome"
    return job.run
