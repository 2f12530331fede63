"""A partition with a past: what every record of its log says, for tests that damage it."""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from partitions.job import EMPTY_AT, FINISHED, Job
from partitions.log import Sizes
from partitions.record import SEGMENT_HEADER_BYTES, Record, SegmentHeader, decode_segment_header
from partitions.record import scan as scan_records
from partitions.retry import Backoff
from partitions.state import Policy
from tests.support.driver import DIRECTORY, START_MS, Driver, jobs_of
from tests.support.fake_disk import FakeDisk
from tests.support.mixed import Mixed
from tests.support.witness import Whole, whole

SIZES = Sizes(segment_bytes=1280, extent_bytes=1024, reserve_bytes=256)
"""Some five records fill a segment."""

LEASE_MS = 60_000
POLICY = Policy(backoff=Backoff(5, 5))

if TYPE_CHECKING:
    from partitions.events import Event
    from partitions.kinds import KindKey

T = TypeVar("T")


class Past:
    """A partition that has run for some batches of every call there is, and was killed."""

    def __init__(
        self, batches: int = 60, *, seed: int = 5, checkpoint_bytes: int | None = None
    ) -> None:
        self.disk = FakeDisk()
        self.records: dict[int, list[Event]] = {}
        """``{lsn: its events}``."""
        self._client = Mixed(seed, LEASE_MS, (1, 8, 30))
        self._driver = Driver(self.disk, POLICY, SIZES, checkpoint_bytes)
        self._play(batches)
        state = self._driver.state
        self.jobs: dict[bytes, Job] = dict(jobs_of(state))
        """Every job as it is in truth."""
        self.kinds: dict[bytes, KindKey] = {
            each: state.jobs.kind(job).key for each, job in self.jobs.items()
        }
        self.whole: Whole = whole(state)
        self.texts: dict[bytes, tuple[bytes, bytes]] = {
            each: (self._text(job.payload_at), self._text(job.outcome_at))
            for each, job in self.jobs.items()
        }
        """``{job: (payload, result or error)}``; empty where there is none."""
        self.last_token = state.jobs.last_token
        self.last_lsn = self._driver.log.next_lsn - 1
        self._driver.close()

    @property
    def segments(self) -> list[Path]:
        """Their files, oldest first."""
        return [DIRECTORY / name for name in self.disk.names(DIRECTORY) if name.endswith(".seg")]

    @property
    def snapshots(self) -> list[Path]:
        """Their files, oldest first."""
        return [DIRECTORY / name for name in self.disk.names(DIRECTORY) if name.endswith(".snap")]

    def records_in(self, path: Path) -> list[Record]:
        """What stands in a segment that is whole."""
        return records_of(self.disk.content(path))

    def damaged(self) -> FakeDisk:
        """A disk of its own, to be damaged."""
        disk = FakeDisk()
        disk.make_directory(DIRECTORY)
        for name in self.disk.names(DIRECTORY):
            disk.put(DIRECTORY / name, self.disk.content(DIRECTORY / name))
        return disk

    def _play(self, batches: int) -> None:
        log = self._driver.log
        commit = log.commit

        def recorded(events, now_ms):
            self.records[log.next_lsn] = list(events)
            commit(events, now_ms)

        log.commit = recorded  # type: ignore[method-assign]
        for index in range(batches):
            now_ms = START_MS + index * 3
            self._client.hear(self._driver.handle(self._client.batch(now_ms), now_ms))
            self._driver.make_room(now_ms)

    def _text(self, position: int) -> bytes:
        return self._driver.log.read(position) if position > EMPTY_AT else b""


def records_of(content: bytes) -> list[Record]:
    """The records of a whole segment."""
    header = header_of(content)
    return [each for each in scan_records(content, header) if isinstance(each, Record)]


def header_of(content: bytes) -> SegmentHeader:
    """The header of a whole segment."""
    header = decode_segment_header(content[:SEGMENT_HEADER_BYTES])
    assert isinstance(header, SegmentHeader)
    return header


def changed(disk: FakeDisk, path: Path, offset: int, data: bytes) -> None:
    """Overwrite some bytes of a file."""
    content = bytearray(disk.content(path))
    content[offset : offset + len(data)] = data
    disk.put(path, bytes(content))


def flipped(disk: FakeDisk, path: Path, offset: int, mask: int = 0x10) -> None:
    """Flip bits of one byte."""
    changed(disk, path, offset, bytes([disk.content(path)[offset] ^ mask]))


def finished(steps: Generator[float, None, T]) -> T:
    """Run to the end; what is said on the way is from 0 to 1."""
    while True:
        try:
            share = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        assert 0 <= share <= 1


def unfinished(job: Job) -> bool:
    """Whether it can still be leased, or is."""
    return job.state not in FINISHED
