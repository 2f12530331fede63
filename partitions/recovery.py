"""From the files of a partition to its state and an open log.

1. Left-over ``*.tmp`` files go: they were never part of anything. A foreign name, or a gap
   in the numbers of the segments that are to be replayed: corruption, nothing is touched.
2. The newest snapshot that checks is loaded; a bad one is reported, and the one before it, or
   else the whole log, takes its place.
3. Every record behind the snapshot is replayed through ``PartitionState.evolve``. Only the
   last segment may end in a torn tail, and it has no seal (``record``). Every segment that a
   live text is in must be there.
4. The valid part of the last segment is copied into a new file, synced, and put in its
   place, at **every** start: after a sync that failed, the page cache may show bytes that
   the disk lacks, so reading them back proves nothing; writing them anew does. Offsets stay
   the same, and so do all positions. A disk without room for a copy gets the same bytes
   written anew in their old place, so that what is stored is served from a full disk too.

Only then does the partition serve. All of it is a generator, so that the process can say how
far it is and look after its pipes between two pieces.
"""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import msgspec

from partitions.disk import Disk
from partitions.errors import CorruptLogError
from partitions.files import (
    LoadedSegment,
    check_header,
    list_files,
    load_segment,
    refuse_foreign,
    replay_record,
    torn_bytes,
)
from partitions.live import LiveTexts
from partitions.log import (
    NO_SPACE,
    Identity,
    Log,
    Segment,
    Sizes,
    Tail,
    create_segment,
    make_nonce,
    rewrite_segment,
    segment_name,
    write_segment,
)
from partitions.made import refuse_lost
from partitions.record import (
    SEAL_BYTES,
    SEGMENT_HEADER_BYTES,
    End,
    LogEnd,
    Record,
    SegmentHeader,
    encode_seal,
    is_zero,
    scan,
)
from partitions.snapshot import (
    BadSnapshotError,
    SnapshotHead,
    load_snapshot,
    snapshot_lsns,
    snapshot_name,
)
from partitions.state import PartitionState

_SIZES: Final = Sizes()
_RECORDS_PER_STEP: Final = 256


class Recovered(msgspec.Struct, frozen=True):
    """What a start found."""

    log: Log
    records: int
    """Replayed, that is behind the snapshot."""
    record_bytes: int
    """Of those records, texts and all."""
    segments: int
    torn_bytes: int
    """Bytes of a torn tail that were cut off; 0 after a quiet end."""
    newest_ms: int
    """Newest time in the log: the clock must not go below it."""
    snapshot: SnapshotHead | None
    """What the start was from; None: the log alone."""
    bad_snapshots: list[BadSnapshotError]
    """Newer snapshots that did not check."""

    @property
    def bad_lsns(self) -> list[int]:
        """By their lsns, those snapshots."""
        return snapshot_lsns(bad.path.name for bad in self.bad_snapshots)


class _Before(msgspec.Struct, frozen=True):
    """The segment before the last one."""

    header: SegmentHeader
    end: LogEnd
    file_bytes: int


class _Position(msgspec.Struct):
    """How far the replay is."""

    next_lsn: int = 1
    prev_crc: int | None = 0
    """None: not known, the record before is behind a snapshot."""
    newest_ms: int = 0
    records: int = 0
    record_bytes: int = 0
    seen_lsn: int = 0
    """The last record that was met, evolved or not."""


def recover(
    disk: Disk,
    directory: Path,
    identity: Identity,
    state: PartitionState,
    sizes: Sizes = _SIZES,
) -> Recovered:
    """``recovering`` in one go."""
    steps = recovering(disk, directory, identity, state, sizes)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Recovered = end.value
            return found


def recovering(
    disk: Disk,
    directory: Path,
    identity: Identity,
    state: PartitionState,
    sizes: Sizes = _SIZES,
) -> Generator[float, None, Recovered]:
    """Bring ``state``, which is fresh, to where the log ends, and open the log there.

    Yields how much is done, from 0 to 1, now and then.

    Raises:
        CorruptLogError: the log does not check; nothing was changed.
        OSError: a file could not be read, or the copy not written.
    """
    files = list_files(disk, directory)
    refuse_foreign(files)
    if not files.segments:
        if files.snapshots:
            path = directory / segment_name(1)
            raise CorruptLogError(path, 0, "snapshots are here, but no segment of the log is")
        refuse_lost(disk, directory)
        _remove(disk, files.leftovers)
        tail = _first_tail(disk, directory, identity, sizes)
        log = Log(disk, directory, identity, tail, sizes)
        return Recovered(log, 0, 0, 0, 0, 0, None, [])
    snapshot, bad = yield from _from_snapshot(disk, directory, identity, state, files.snapshots)
    at = _Position()
    if snapshot is not None:
        at = _Position(snapshot.lsn + 1, None, snapshot.newest_ms)
    try:
        older, replayed = split_segments(directory, files.segments, snapshot)
    except CorruptLogError as error:
        if snapshot is not None or not bad:
            raise
        # It is the snapshot that is missed, not the segment.
        what = f"{error.what}; {bad[0].path.name}: {bad[0].what}"
        raise CorruptLogError(error.path, error.offset_bytes, what) from error
    sealed = [_sealed(disk, directory, number, identity) for number in older]
    last: LoadedSegment | None = None
    end: LogEnd | None = None
    before: _Before | None = None
    for index, number in enumerate(replayed):
        if last is not None and end is not None:
            sealed.append(Segment(last.header, end.offset_bytes, len(last.data)))
            before = _Before(last.header, end, len(last.data))
        last = load_segment(disk, directory, number, identity)
        for item in _replay(last, state, at, last_number=replayed[-1]):
            if isinstance(item, LogEnd):
                end = item
            else:
                share = item.offset_bytes / len(last.data)
                yield (index + share) / len(replayed)
    assert last is not None, "there is a segment at least"
    assert end is not None, "a scan ends with an end"
    _check_whole(directory, last, state, snapshot, at, [each.header.number for each in sealed])
    _check_seals(directory, last, end, before, at)
    _remove(disk, files.leftovers)
    if before is not None:
        _seal(disk, directory, before, last.header)
    tail = _copied_tail(disk, directory, last, end, at, sizes)
    log = Log(disk, directory, identity, tail, sizes, sealed)
    return Recovered(
        log,
        at.records,
        at.record_bytes,
        len(files.segments),
        torn_bytes(last, end),
        at.newest_ms,
        snapshot,
        bad,
    )


def _remove(disk: Disk, leftovers: list[Path]) -> None:
    for path in leftovers:
        disk.remove(path)


def _from_snapshot(
    disk: Disk, directory: Path, identity: Identity, state: PartitionState, lsns: list[int]
) -> Generator[float, None, tuple[SnapshotHead | None, list[BadSnapshotError]]]:
    """Restore the newest snapshot that checks; ``(its head, those that did not check)``."""
    bad: list[BadSnapshotError] = []
    unreadable: OSError | None = None
    for lsn in reversed(lsns):
        path = directory / snapshot_name(lsn)
        try:
            head = yield from load_snapshot(disk, path, state.jobs)
        except BadSnapshotError as error:
            bad.append(error)
            continue
        except OSError as error:
            bad.append(BadSnapshotError(path, 0, f"it cannot be read: {error}"))
            unreadable = error
            continue
        owner = Identity(head.partition, head.slot_first, head.slot_end)
        if owner != identity or head.lsn != lsn:
            what = f"snapshot of partition {owner.partition} at lsn {head.lsn}: it is not ours"
            raise CorruptLogError(path, 0, what)
        return head, bad
    if unreadable is not None:
        # Without it the log may look damaged, and is not; the disk may do better next time.
        raise unreadable
    return None, bad


def split_segments(
    directory: Path, segments: list[int], snapshot: SnapshotHead | None
) -> tuple[list[int], list[int]]:
    """``(segments behind the snapshot, segments to replay)``; the latter have no gap.

    Raises:
        CorruptLogError: one of those to replay is missing.
    """
    first = 1 if snapshot is None else snapshot.segment
    older = [number for number in segments if number < first]
    replayed = [number for number in segments if number >= first]
    for expected, number in enumerate(replayed, first):
        if number != expected:
            what = "segment is missing, and there are later ones"
            if snapshot is None and expected == 1:
                what = "first segment is missing, and no snapshot stands for it"
            raise CorruptLogError(directory / segment_name(expected), 0, what)
    if not replayed:
        path = directory / segment_name(first)
        raise CorruptLogError(path, 0, "segment is missing, the newest snapshot continues in it")
    return older, replayed


def _sealed(disk: Disk, directory: Path, number: int, identity: Identity) -> Segment:
    """A segment that need not be replayed; its texts have checksums of their own."""
    path = directory / segment_name(number)
    file = disk.open(path)
    try:
        header = check_header(path, file.read(SEGMENT_HEADER_BYTES, 0), number, identity)
        size = file.size()
        return Segment(header, size, size)
    finally:
        file.close()


def _replay(
    segment: LoadedSegment, state: PartitionState, at: _Position, *, last_number: int
) -> Iterator[Record | LogEnd]:
    """Evolve the records behind ``at``, and move it on; yields some of them, then the end."""
    header = segment.header
    _check_continues(segment, at)
    at.newest_ms = max(at.newest_ms, header.created_ms)
    at.seen_lsn = header.first_lsn - 1
    for item in scan(segment.data, header):
        if isinstance(item, LogEnd):
            if item.kind is End.CORRUPT or (
                item.kind is End.TORN
                and header.number != last_number
                and not (header.number == last_number - 1 and _may_be_seal(segment, item))
            ):
                raise CorruptLogError(segment.path, item.offset_bytes, item.what)
            yield item
            return
        at.prev_crc, at.seen_lsn = item.crc, item.lsn
        if item.lsn < at.next_lsn:
            continue  # the snapshot has it
        replay_record(segment, item, state)
        at.next_lsn = item.lsn + 1
        at.newest_ms = max(at.newest_ms, item.written_ms)
        at.records += 1
        at.record_bytes += item.end_bytes - item.offset_bytes
        if at.records % _RECORDS_PER_STEP == 0:
            yield item


def _check_continues(segment: LoadedSegment, at: _Position) -> None:
    header = segment.header
    if at.prev_crc is None:
        # The first one behind a snapshot: it holds the record that the snapshot ends with,
        # or begins right after it.
        continues = header.first_lsn <= at.next_lsn
    else:
        continues = header.first_lsn == at.next_lsn and header.prev_crc == at.prev_crc
    if not continues:
        raise CorruptLogError(
            segment.path,
            0,
            f"segment begins at lsn {header.first_lsn} and does not continue record"
            f" {at.next_lsn - 1}, the last one before it",
        )


def _check_whole(
    directory: Path,
    last: LoadedSegment,
    state: PartitionState,
    snapshot: SnapshotHead | None,
    at: _Position,
    sealed: list[int],
) -> None:
    """What no single file shows: nothing is missing in the middle or at the end."""
    if at.prev_crc is None:
        at.prev_crc = last.header.prev_crc  # the segment has no record yet
    if snapshot is not None and at.seen_lsn < snapshot.lsn:
        what = f"the log ends before record {snapshot.lsn}, which the snapshot covers"
        raise CorruptLogError(last.path, 0, what)
    refuse_missing_texts(directory, state.jobs.live, [*sealed, last.header.number])


def refuse_missing_texts(directory: Path, live: LiveTexts, numbers: list[int]) -> None:
    """Every text that a job needs is in one of the segments that are there, by ``numbers``.

    Raises:
        CorruptLogError: one is not.
    """
    missing = live.by_segment.keys() - set(numbers)
    if missing:
        number = min(missing)
        what = f"segment is missing, and {live.by_segment[number]} bytes of texts in it are needed"
        raise CorruptLogError(directory / segment_name(number), 0, what)


def _may_be_seal(segment: LoadedSegment, end: LogEnd) -> bool:
    """Whether what is torn is no longer than a seal, which a crash may have cut."""
    return is_zero(segment.data, end.offset_bytes + SEAL_BYTES)


def _check_seals(
    directory: Path, last: LoadedSegment, end: LogEnd, before: _Before | None, at: _Position
) -> None:
    """A sealed segment is not the last one; a torn seal has nothing but a new segment behind."""
    if end.kind is End.SEALED:
        path = directory / segment_name(last.header.number + 1)
        what = f"segment is missing: {last.path.name} is sealed, so it was followed by this one"
        raise CorruptLogError(path, 0, what)
    if before is not None and before.end.kind is End.TORN and at.seen_lsn >= last.header.first_lsn:
        path = directory / segment_name(before.header.number)
        raise CorruptLogError(path, before.end.offset_bytes, before.end.what)


def _seal(disk: Disk, directory: Path, before: _Before, after: SegmentHeader) -> None:
    """Make good what a crash right after a roll left undone. Nothing was written behind it."""
    offset = before.end.offset_bytes
    if before.end.kind is End.SEALED or before.file_bytes - offset < SEAL_BYTES:
        return
    header = before.header
    seal = encode_seal(prev_crc=after.prev_crc, next_lsn=after.first_lsn, nonce=header.nonce)
    file = disk.open(directory / segment_name(header.number), writable=True)
    try:
        file.write(seal, offset)
        file.sync()
    finally:
        file.close()


def _first_tail(disk: Disk, directory: Path, identity: Identity, sizes: Sizes) -> Tail:
    header = SegmentHeader(
        partition=identity.partition,
        slot_first=identity.slot_first,
        slot_end=identity.slot_end,
        number=1,
        first_lsn=1,
        created_ms=0,
        nonce=make_nonce(),
        prev_crc=0,
    )
    file, zeros_end = create_segment(disk, directory, header, sizes.extent_bytes)
    return Tail(header, file, SEGMENT_HEADER_BYTES, zeros_end, 1, 0)


def _copied_tail(
    disk: Disk,
    directory: Path,
    last: LoadedSegment,
    end: LogEnd,
    at: _Position,
    sizes: Sizes,
) -> Tail:
    records = last.data[SEGMENT_HEADER_BYTES : end.offset_bytes]
    try:
        file, zeros_end = write_segment(disk, directory, last.header, sizes.extent_bytes, records)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        file, zeros_end = rewrite_segment(
            disk, directory, last.header, records, file_bytes=len(last.data)
        )
    else:
        # From here on no error is forgiven: the old segment has no name any more, and the new
        # one's may not last.
        disk.sync_directory(directory)
    assert at.prev_crc is not None, "settled by then"
    return Tail(last.header, file, end.offset_bytes, zeros_end, at.next_lsn, at.prev_crc)
