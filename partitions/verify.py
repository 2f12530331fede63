"""Does a partition's directory hold what it should? It is read, nothing is written or locked.

Everything that a start checks is checked, and more: segments that a start need not read, every
snapshot, and that **a snapshot holds what the log before it says**. For that, the jobs are
rebuilt from as far back as the log goes, and compared with each snapshot when its record is
reached. ``deep`` also reads every text that a job still needs.

Memory: the jobs of one partition (some 300 bytes each), one segment, one frame of a snapshot.

Beside a running node files change while they are read, and go. So a fault counts once a second
look shows the same one; a torn tail is none at all.
"""

from collections import Counter
from collections.abc import Generator, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from partitions.disk import Disk
from partitions.errors import BlobUnreadableError, CorruptLogError
from partitions.files import Files, list_files, replay_record, torn_bytes
from partitions.job import EMPTY_AT, Job
from partitions.jobs import StateHead
from partitions.kinds import KindKey
from partitions.log import Identity, segment_name
from partitions.made import refuse_lost
from partitions.positions import offset_of, segment_of
from partitions.record import Record
from partitions.recovery import refuse_missing_texts, split_segments
from partitions.snapshot import (
    BadSnapshotError,
    SnapshotHead,
    check_whole,
    frames,
    load_snapshot,
    snapshot_name,
)
from partitions.state import PartitionState
from partitions.texts import Texts
from partitions.walk import walk

LOOKS_MAX: Final = 5
"""A node retires a segment every few seconds at most, a look at what is left takes less."""

_RECORDS_PER_STEP: Final = 256
_JOBS_PER_STEP: Final = 2_000
_TEXTS_PER_STEP: Final = 256
_encode: Final = msgspec.msgpack.Encoder().encode

_RESTORE: Final = (
    "restore the file from a backup, or make a copy without the damage: `queue-node repair`"
)
_SNAPSHOT: Final = (
    "nothing is lost by it: a start uses the snapshot before it, or the log, and replaces it;"
    " if it does not start, `queue-node repair`"
)
_EMPTY: Final = "fine if the partition never ran; if it did, restore it from a backup"
_FOREIGN: Final = "move it away if you put it there; if it is a segment, give it its name back"
_COMPARED: Final = (
    "the log is the truth: stop the node, move the snapshot away, start; and please report it"
)


class Fault(msgspec.Struct, frozen=True):
    """Something that does not check: where, what, and what an operator can do."""

    file: str
    offset: int
    what: str
    advice: str


class PartitionReport(msgspec.Struct):
    """What is in a partition's directory. Figures go as far as the first fault of the log."""

    partition: int
    directory: str
    segments: int = 0
    records: int = 0
    first_lsn: int = 0
    last_lsn: int = 0
    jobs: int = 0
    states: dict[str, int] = {}
    """``{state: jobs in it}``."""
    live_bytes: int = 0
    """Texts that jobs still need; up to 9 % more than it is (``positions``)."""
    disk_bytes: int = 0
    torn_bytes: int = 0
    snapshots: int = 0
    snapshots_bad: int = 0
    snapshots_compared: int = 0
    """Those that the log reaches back to: they hold what it says."""
    texts: int | None = None
    """Texts that were read; None: not asked for."""
    texts_bad: int = 0
    faults: list[Fault] = []
    """The first one of the log, and every bad snapshot, foreign file and text (100 at most)."""


_FAULTS_MAX: Final = 100


class _Seen(msgspec.Struct, frozen=True):
    """What a snapshot holds."""

    head: SnapshotHead
    digest: int


def verifying(
    disk: Disk, directory: Path, identity: Identity, *, deep: bool
) -> Generator[float, None, PartitionReport]:
    """Look at a partition until two looks in a row agree; yields how much of one is done."""
    report = yield from _Look(disk, directory, identity).run(deep=deep)
    for _ in range(LOOKS_MAX - 1):
        if not report.faults:
            break
        before = report.faults
        report = yield from _Look(disk, directory, identity).run(deep=deep)
        if report.faults == before:
            break
    return report


class _Look:
    """One look at one partition."""

    def __init__(self, disk: Disk, directory: Path, identity: Identity) -> None:
        self._disk = disk
        self._directory = directory
        self._identity = identity
        self._state = PartitionState()
        self._report = PartitionReport(identity.partition, str(directory))
        self._snapshots: dict[int, _Seen] = {}

    def run(self, *, deep: bool) -> Generator[float, None, PartitionReport]:
        try:
            yield from self._run(deep=deep)
        except CorruptLogError as error:
            self._note(error.path, error.offset_bytes, error.what, _RESTORE)
        except OSError as error:
            path = Path(error.filename) if error.filename else self._directory
            self._note(path, 0, f"it cannot be read: {error.strerror}", _RESTORE)
        self._count_jobs()
        return self._report

    def _run(self, *, deep: bool) -> Iterator[float]:
        files = list_files(self._disk, self._directory)
        self._report.segments = len(files.segments)
        self._report.disk_bytes = self._size_of(files)
        for path in files.foreign:
            self._note(path, 0, "not a file of the log", _FOREIGN)
        parts = len(files.snapshots) + 2 + deep
        for index, lsn in enumerate(files.snapshots):
            yield from _share(self._look_at_snapshot(lsn), index, parts)
        if not files.segments and files.snapshots:
            path = self._directory / segment_name(1)
            raise CorruptLogError(path, 0, "snapshots are here, but no segment of the log is")
        if not files.segments:
            refuse_lost(self._disk, self._directory)
            if not files.foreign:
                self._note(self._directory, 0, "there is no log, a start makes a new one", _EMPTY)
            return
        newest = self._snapshots[max(self._snapshots)].head if self._snapshots else None
        split_segments(self._directory, files.segments, newest)
        base = self._base(files.segments)
        if base is not None:
            path = self._directory / snapshot_name(base.lsn)
            loading = load_snapshot(self._disk, path, self._state.jobs)
            yield from _share(loading, len(files.snapshots), parts)
        replaying = self._replay(files.segments, base, newest)
        yield from _share(replaying, len(files.snapshots) + 1, parts)
        refuse_missing_texts(self._directory, self._state.jobs.live, files.segments)
        if deep:
            yield from _share(self._read_texts(), parts - 1, parts)

    def _base(self, segments: list[int]) -> SnapshotHead | None:
        """From where the jobs are rebuilt: as far back as no segment is missing."""
        contiguous = segments[-1]
        for number in reversed(segments[:-1]):
            if number != contiguous - 1:
                break
            contiguous = number
        if contiguous == 1:
            return None
        heads = [self._snapshots[lsn].head for lsn in sorted(self._snapshots)]
        return next(head for head in heads if head.segment >= contiguous)

    def _look_at_snapshot(self, lsn: int) -> Iterator[float]:
        path = self._directory / snapshot_name(lsn)
        self._report.snapshots += 1
        head: SnapshotHead | None = None
        jobs = claims = digest = 0
        kinds: dict[int, KindKey] = {}
        try:
            for head, piece in frames(self._disk, path):
                kinds.update((each.index, each.key) for each in piece.kinds)
                jobs += len(piece.jobs)
                claims += len(piece.claims)
                digest += sum([_hashed(job, kinds[job.kind]) for job in piece.jobs])
                digest += sum([_hash(claim) for claim in piece.claims.items()])
                yield jobs / max(head.state.jobs, 1)
            assert head is not None, "a snapshot without a head is bad"
            check_whole(path, head.state, jobs, claims)
        except BadSnapshotError as error:
            self._report.snapshots_bad += 1
            self._note(path, error.offset_bytes, f"bad snapshot: {error.what}", _SNAPSHOT)
            return
        owner = Identity(head.partition, head.slot_first, head.slot_end)
        if owner != self._identity or head.lsn != lsn:
            self._report.snapshots_bad += 1
            what = f"snapshot of partition {owner.partition} at lsn {head.lsn}: it is not ours"
            self._note(path, 0, what, _RESTORE)
            return
        self._snapshots[lsn] = _Seen(head, digest)

    def _replay(
        self, segments: list[int], base: SnapshotHead | None, newest: SnapshotHead | None
    ) -> Iterator[float]:
        report = self._report
        base_lsn, base_segment = (0, 1) if base is None else (base.lsn, base.segment)
        for segment, item in walk(self._disk, self._directory, self._identity, segments):
            first_lsn = segment.header.first_lsn
            report.first_lsn = report.first_lsn or first_lsn
            report.last_lsn = max(report.last_lsn, first_lsn - 1)
            if segment.header.number == base_segment and first_lsn > base_lsn + 1:
                what = f"segment begins at lsn {first_lsn}, behind what the snapshot covers"
                raise CorruptLogError(segment.path, 0, what)
            if not isinstance(item, Record):
                report.torn_bytes = torn_bytes(segment, item)
                continue
            report.records += 1
            report.last_lsn = item.lsn
            if item.lsn > base_lsn:
                replay_record(segment, item, self._state)
                self._compare(item.lsn)
            if report.records % _RECORDS_PER_STEP == 0:
                place = segments.index(segment.header.number)
                yield (place + item.offset_bytes / len(segment.data)) / len(segments)
        if newest is not None and report.last_lsn < newest.lsn:
            what = f"the log ends before record {newest.lsn}, which the snapshot covers"
            raise CorruptLogError(self._directory / segment_name(segments[-1]), 0, what)

    def _compare(self, lsn: int) -> None:
        """The jobs that the log gave up to here are those of the snapshot at this record."""
        seen = self._snapshots.get(lsn)
        if seen is None:
            return
        self._report.snapshots_compared += 1
        jobs = self._state.jobs
        head = jobs.begin_snapshot()
        jobs.abandon_snapshot()
        digest = sum(_hashed(job, jobs.kind(job).key) for job in jobs.order)
        digest += sum(map(_hash, jobs.claims.items()))
        if digest != seen.digest or head != seen.head.state:
            what = f"it does not hold what the log says: {_difference(seen.head.state, head)}"
            self._note(self._directory / snapshot_name(lsn), 0, what, _COMPARED)

    def _read_texts(self) -> Iterator[float]:
        positions = [
            at
            for job in self._state.jobs.order
            for at in (job.payload_at, job.outcome_at)
            if at > EMPTY_AT
        ]
        positions.sort(key=lambda at: (segment_of(at), offset_of(at)))
        self._report.texts = 0
        with Texts(self._disk, self._directory) as texts:
            for index, position in enumerate(positions):
                try:
                    texts.read(position)
                    self._report.texts += 1
                except BlobUnreadableError as error:
                    self._report.texts_bad += 1
                    self._note(error.path, error.offset_bytes, error.what, _RESTORE)
                if index % _TEXTS_PER_STEP == 0:
                    yield index / len(positions)

    def _count_jobs(self) -> None:
        report = self._report
        states = Counter(job.state.name for job in self._state.jobs.order)
        report.jobs = len(self._state)
        report.states = dict(sorted(states.items()))
        report.live_bytes = self._state.jobs.live.total_bytes

    def _size_of(self, files: Files) -> int:
        names = [segment_name(number) for number in files.segments]
        names += [snapshot_name(lsn) for lsn in files.snapshots]
        size = 0
        for name in names:
            file = self._disk.open(self._directory / name)
            size += file.size()
            file.close()
        return size

    def _note(self, path: Path, offset_bytes: int, what: str, advice: str) -> None:
        if len(self._report.faults) < _FAULTS_MAX:
            self._report.faults.append(Fault(str(path), offset_bytes, what, advice))


def _share(steps: Iterator[float], index: int, parts: int) -> Iterator[float]:
    """One part of all, each taken to be as long as the others."""
    return ((index + step) / parts for step in steps)


def _hashed(job: Job, kind: KindKey) -> int:
    """Sums of these do not depend on the order of the jobs, nor on how kinds are numbered."""
    return _hash((kind, msgspec.structs.replace(job, kind=0)))


def _hash(value: object) -> int:
    return int.from_bytes(blake2b(_encode(value), digest_size=16).digest(), "little")


def _difference(snapshot: StateHead, log: StateHead) -> str:
    for field in StateHead.__struct_fields__:
        said, found = getattr(snapshot, field), getattr(log, field)
        if said != found:
            return f"{field} is {_short(said)} in the snapshot and {_short(found)} in the log"
    return "a job or a claim differs"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
