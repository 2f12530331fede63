"""Jobs of N partitions dealt out anew to M: what ``queue-node reshard`` does to them.

A new partition's log begins with its texts: records that say where each payload and result
now is (``PayloadMoved``, ``OutcomeMoved``, so that they can be copied forward like any other),
in the order of submission. A snapshot of the jobs follows; then, a record later, another one,
so that one that goes bad is as harmless as anywhere. The texts alone are no state: the first
segment has number 2, so without a snapshot such a log is refused, never taken for an empty one.

Jobs keep everything but their ``number``: the order of all of them is by submission, and in
each new partition no two have the same. Tokens and times go on above the highest of all old
partitions. Claims of idempotency keys go where the keys belong now.
"""

from collections.abc import Generator, Iterator, Sequence
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Final

import msgspec

from partitions.census import Census, Text, text_at
from partitions.disk import Disk
from partitions.events import Event, OutcomeMoved, PayloadMoved
from partitions.job import Job
from partitions.jobs import StateHead
from partitions.kinds import KindKey, Kinds, NumberedKind
from partitions.limits import SEGMENT_BYTES
from partitions.live import LiveTexts
from partitions.log import Identity, Log, Sizes, Tail, create_segment, identity_of, make_nonce
from partitions.record import SEGMENT_HEADER_BYTES, SegmentHeader
from partitions.recovery import recovering
from partitions.slots import partition_of, slot_of
from partitions.snapshot import SnapshotHead, SnapshotWriter, write_pieces
from partitions.state import PartitionState
from partitions.untouched import UntouchedDisk

_FIRST_SEGMENT: Final = 2
_RECORD_TEXT_BYTES: Final = 1 << 20
_RECORD_EVENTS: Final = 2_000
_TELL_EVERY: Final = 500

SIZES: Final = Sizes(SEGMENT_BYTES, extent_bytes=0, reserve_bytes=0)
"""No zeros ahead: nobody waits for these commits."""


class Source(msgspec.Struct, frozen=True):
    """An old partition: its jobs in memory, its texts on disk."""

    head: StateHead
    jobs: list[Job]
    """By number."""
    kinds: Kinds
    claims: dict[bytes, int]
    log: Log
    newest_ms: int


class Totals(msgspec.Struct, frozen=True):
    """What every new partition goes on from."""

    newest_ms: int
    last_number: int
    last_token: int
    paused: list[str]
    """Queues that are paused in some old partition."""


def loading(disk: Disk, directory: Path, identity: Identity) -> Generator[float, None, Source]:
    """The jobs of an old partition; nothing is changed. Yields how much is done, 0 to 1.

    Raises:
        CorruptLogError: it would not start either.
    """
    state = PartitionState()
    found = yield from recovering(UntouchedDisk(disk), directory, identity, state)
    head = state.jobs.begin_snapshot()
    jobs = state.jobs
    return Source(head, list(jobs.order), jobs.kinds, jobs.claims, found.log, found.newest_ms)


def regrouping(
    disk: Disk,
    directories: Sequence[Path],
    sources: Sequence[Source],
    census: Census,
    sizes: Sizes = SIZES,
) -> Generator[int, None, None]:
    """Write a new partition into each of ``directories``, and count the jobs as they were.

    All of it is durable at the end, and ``sources`` are used up. Yields how many jobs are done.

    Raises:
        BlobUnreadableError: a text of some job is damaged.
        OSError: the disk failed or is full.
    """
    totals = Totals(
        max(source.newest_ms for source in sources),
        max(source.head.last_number for source in sources),
        max(source.head.last_token for source in sources),
        sorted({name for source in sources for name in source.head.paused}),
    )
    count = len(directories)
    targets = [
        _Target(disk, directory, identity_of(number, count), totals, sizes)
        for number, directory in enumerate(directories)
    ]
    for source in sources:
        for key_id, claim in source.claims.items():
            census.add_claim(key_id, claim)
            targets[partition_of(slot_of(key_id), count)].claims[key_id] = claim
    for done, (job, source) in enumerate(_in_order(sources)):
        kind = source.kinds[job.kind].key
        payload = text_at(source.log, job.payload_at)
        outcome = text_at(source.log, job.outcome_at)
        census.add(job, kind, payload, outcome)
        targets[partition_of(slot_of(job.job_id), count)].add(job, kind, payload, outcome)
        if done % _TELL_EVERY == 0:
            yield done
    for target in targets:
        target.finish()
        yield census.jobs


def _in_order(sources: Sequence[Source]) -> Iterator[tuple[Job, Source]]:
    """All jobs by submission; those of one moment and number by partition."""

    def keyed(index: int, source: Source) -> Iterator[tuple[int, int, Job]]:
        return ((job.number, index, job) for job in source.jobs)

    streams = [keyed(index, source) for index, source in enumerate(sources)]
    for _, index, job in merge(*streams, key=itemgetter(0, 1)):
        yield job, sources[index]


class _Target:
    """A new partition being written."""

    def __init__(
        self, disk: Disk, directory: Path, identity: Identity, totals: Totals, sizes: Sizes
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._identity = identity
        self._totals = totals
        self.claims: dict[bytes, int] = {}
        self._jobs: list[Job] = []
        self._kinds: dict[KindKey, int] = {}
        self._live = LiveTexts()
        self._last_number = 0
        self._events: list[Event] = []
        disk.make_directory(directory)
        header = SegmentHeader(
            partition=identity.partition,
            slot_first=identity.slot_first,
            slot_end=identity.slot_end,
            number=_FIRST_SEGMENT,
            first_lsn=1,
            created_ms=totals.newest_ms,
            nonce=make_nonce(),
            prev_crc=0,
        )
        file, zeros_end = create_segment(disk, directory, header, sizes.extent_bytes)
        tail = Tail(header, file, SEGMENT_HEADER_BYTES, zeros_end, 1, 0)
        self._log = Log(disk, directory, identity, tail, sizes)

    def add(self, job: Job, kind: KindKey, payload: Text, outcome: Text) -> None:
        """Take over a job, which must come after all before it, and its texts."""
        if isinstance(payload, bytes):
            job.payload_at = self._stage(payload)
            self._events.append(PayloadMoved(job.job_id, job.payload_at))
        if isinstance(outcome, bytes):
            assert job.run is not None, "only an attempt leaves an outcome"
            job.run.outcome_at = self._stage(outcome)
            self._events.append(OutcomeMoved(job.job_id, job.outcome_at))
        # The time of submission is the upper part, and stays.
        job.number = self._last_number = max(job.number, self._last_number + 1)
        job.kind = self._kinds.setdefault(kind, len(self._kinds))
        self._jobs.append(job)
        if self._log.staged_bytes >= _RECORD_TEXT_BYTES or len(self._events) >= _RECORD_EVENTS:
            self._commit()

    def finish(self) -> None:
        """Write the rest and the snapshots; durable on return."""
        for _ in range(2):
            self._commit()
            self._write_snapshot()
        self._log.close()

    def _stage(self, text: bytes) -> int:
        position = self._log.put(text)
        self._live.keep(position)
        return position

    def _commit(self) -> None:
        self._log.commit(self._events, self._totals.newest_ms)
        self._events.clear()
        self._log.make_room(self._totals.newest_ms)

    def _write_snapshot(self) -> None:
        state = StateHead(
            len(self._jobs),
            max(self._totals.last_number, self._last_number),
            self._totals.last_token,
            self._totals.paused,
            self._live.by_segment,
            len(self.claims),
        )
        identity = self._identity
        head = SnapshotHead(
            identity.partition,
            identity.slot_first,
            identity.slot_end,
            self._log.next_lsn - 1,
            self._totals.newest_ms,
            self._log.tail_segment,
            state,
        )
        writer = SnapshotWriter(self._disk, self._directory, head)
        kinds = [NumberedKind(index, key) for key, index in self._kinds.items()]
        write_pieces(writer, kinds, self._jobs, self.claims)
