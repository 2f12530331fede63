r"""A snapshot: a partition's state in one file, written in steps, read at the start.

A file ``NNNNNNNNNNNNNNNNNNNN.snap`` is named by the lsn of the last record that it covers.
It is a sequence of frames, all numbers little-endian::

    4  length   of the body, bytes
    4  crc      CRC-32 of the body, seeded with the crc of the frame before (0 at first)
    .. body     msgpack

The first frame is a ``SnapshotHead``, behind the magic ``QNSNAP\xff\x03``; each frame after it
is a ``Piece``: first those with kinds, then those with claims, then those with jobs, in no order;
the last one, and only that one, is empty, and the file ends with it. Anything else is a bad
snapshot: it is as if it were not there. Format 2 had no claims, and is read.

It is written beside, synced piece by piece (one sync of everything at the end would stop the
partition for as long as the disk takes to write all of it), renamed, the directory synced.
"""

import re
import struct
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from partitions.disk import Disk
from partitions.errors import PartitionError
from partitions.job import Job
from partitions.jobs import Jobs, Piece, StateHead
from partitions.kinds import NumberedKind
from partitions.options import decode_options

MAGIC: Final = b"QNSNAP\xff\x03"
_WITHOUT_CLAIMS: Final = b"QNSNAP\xff\x02"
_OLD_MAGIC: Final = b"QNSNAP\xff\x01"
_NAME: Final = re.compile(r"(\d{20})\.snap")
_FRAME: Final = struct.Struct("<II")
_SYNC_EVERY_BYTES: Final = 1 << 20
_FRAME_BYTES_MAX: Final = 64 << 20
_PIECE: Final = 2_000
"""Kinds, or claims, or jobs, in one frame."""

_encode: Final = msgspec.msgpack.Encoder().encode
_piece_decoder: Final = msgspec.msgpack.Decoder(Piece)


_NOTHING: Final = Piece([], [])
_END: Final = _encode(_NOTHING)
_ENDS: Final = {MAGIC: _END, _WITHOUT_CLAIMS: _encode(([], []))}


class SnapshotHead(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot says of itself."""

    partition: int
    slot_first: int
    slot_end: int
    lsn: int
    """The last record that it covers."""
    newest_ms: int
    """Time of that record."""
    segment: int
    """Number of the segment in which the record after it begins, or of the one before."""
    state: StateHead


class BadSnapshotError(PartitionError):
    """The file is no complete snapshot; nothing was changed."""

    def __init__(self, path: Path, offset_bytes: int, what: str) -> None:
        super().__init__(f"{path}: offset {offset_bytes}: {what}")
        self.path = path
        self.offset_bytes = offset_bytes
        self.what = what


def snapshot_name(lsn: int) -> str:
    """File name of the snapshot that covers ``lsn``."""
    return f"{lsn:020}.snap"


def snapshot_lsns(names: Iterable[str]) -> list[int]:
    """What the snapshots among the files of a directory cover, oldest first."""
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


class SnapshotWriter:
    """One snapshot being written, a step at a time. Only the snapshot's own moment counts."""

    def __init__(self, disk: Disk, directory: Path, head: SnapshotHead) -> None:
        self._disk = disk
        self._directory = directory
        self._name = snapshot_name(head.lsn)
        self._temporary = directory / f"{self._name}.tmp"
        self._file = disk.create(self._temporary)
        self._offset = 0
        self._synced = 0
        self._crc = 0
        self._closed = False
        try:
            self._put(MAGIC)
            self._frame(_encode(head))
        except OSError:
            # On a full disk this is tried again: it may keep neither file nor space.
            self.abandon()
            raise

    @property
    def size_bytes(self) -> int:
        """Bytes written so far."""
        return self._offset

    def add(self, piece: Piece) -> None:
        """Write some kinds, claims or jobs, at least one; all kinds before the first job."""
        assert piece != _NOTHING, "an empty frame is the end"
        self._frame(_encode(piece))
        if self._offset - self._synced >= _SYNC_EVERY_BYTES:
            self._file.sync()
            self._synced = self._offset

    def finish(self) -> None:
        """Write the end, and let the snapshot appear under its name, durably."""
        self._frame(_END)
        self._file.sync()
        self._file.close()
        self._closed = True
        self._disk.rename(self._temporary, self._directory / self._name)
        self._disk.sync_directory(self._directory)

    def abandon(self) -> None:
        """Take away what was written."""
        if not self._closed:
            self._file.close()
            self._closed = True
        self._disk.remove(self._temporary)

    def _frame(self, body: bytes) -> None:
        self._crc = crc32(body, self._crc)
        self._put(_FRAME.pack(len(body), self._crc) + body)

    def _put(self, data: bytes) -> None:
        self._file.write(data, self._offset)
        self._offset += len(data)


def write_pieces(
    writer: SnapshotWriter,
    kinds: list[NumberedKind],
    jobs: list[Job],
    claims: dict[bytes, int],
) -> None:
    """Write all of a snapshot behind its head, at once, to its end."""
    items = list(claims.items())
    for start in range(0, len(kinds), _PIECE):
        writer.add(Piece(kinds[start : start + _PIECE], []))
    for start in range(0, len(items), _PIECE):
        writer.add(Piece([], [], dict(items[start : start + _PIECE])))
    for start in range(0, len(jobs), _PIECE):
        writer.add(Piece([], jobs[start : start + _PIECE]))
    writer.finish()


def read_head(disk: Disk, path: Path) -> SnapshotHead:
    """What a snapshot says of itself, without its jobs.

    Raises:
        BadSnapshotError: it does not say it properly.
    """
    return next(frames(disk, path))[0]


def load_snapshot(disk: Disk, path: Path, fresh: Jobs) -> Generator[float, None, SnapshotHead]:
    """Restore the jobs from a whole snapshot; returns its head.

    Yields after each piece how much of it was read, from 0 to 1.

    Raises:
        BadSnapshotError: the file does not check; the jobs are as fresh as before.
    """
    kinds: list[NumberedKind] = []
    jobs: list[Job] = []
    claims: dict[bytes, int] = {}
    head: SnapshotHead | None = None
    for head, piece in frames(disk, path):
        kinds += piece.kinds
        jobs += piece.jobs
        claims |= piece.claims
        yield len(jobs) / max(head.state.jobs, 1)
    assert head is not None
    check_whole(path, head.state, len(jobs), len(claims))
    fresh.restore(head.state, kinds, jobs, claims)
    return head


def check_whole(path: Path, head: StateHead, jobs: int, claims: int) -> None:
    """Hold what was read from a snapshot to what its head says.

    Raises:
        BadSnapshotError: some is missing.
    """
    if jobs != head.jobs:
        raise BadSnapshotError(path, 0, f"it holds {jobs} of {head.jobs} jobs")
    if claims != head.claims:
        raise BadSnapshotError(path, 0, f"it holds {claims} of {head.claims} claims")


def frames(disk: Disk, path: Path) -> Iterator[tuple[SnapshotHead, Piece]]:
    """The head, and what is in each frame that checks; first nothing.

    Raises:
        BadSnapshotError: the file does not check, from here on.
    """
    head: SnapshotHead | None = None
    for offset, body in _bodies(disk, path):
        piece = _NOTHING
        try:
            if head is None:
                head = msgspec.msgpack.decode(body, type=SnapshotHead)
            else:
                piece = _piece_decoder.decode(body)
                for each in piece.kinds:
                    decode_options(each.key.options)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadSnapshotError(path, offset, f"a frame cannot be read: {error}") from error
        yield head, piece
    if head is None:
        raise BadSnapshotError(path, len(MAGIC), "it has no head")


def _bodies(disk: Disk, path: Path) -> Iterator[tuple[int, bytes]]:
    """``(offset, body)`` of every frame but the last, which is empty."""
    file = disk.open(path)
    try:
        size = file.size()
        magic = file.read(len(MAGIC), 0)
        if magic == _OLD_MAGIC:
            raise BadSnapshotError(path, 0, "of an earlier version, which this one does not read")
        if magic not in _ENDS:
            raise BadSnapshotError(path, 0, "not a snapshot: the magic bytes are missing")
        offset, crc = len(MAGIC), 0
        while True:
            header = file.read(_FRAME.size, offset)
            if len(header) < _FRAME.size:
                raise BadSnapshotError(path, offset, "it ends before its last frame")
            length, claimed = _FRAME.unpack(header)
            if length > min(_FRAME_BYTES_MAX, size):
                raise BadSnapshotError(path, offset, f"a frame claims {length} bytes")
            body = file.read(length, offset + _FRAME.size)
            crc = crc32(body, crc)
            if len(body) != length or crc != claimed:
                raise BadSnapshotError(path, offset, "a frame does not match its checksum")
            if body == _ENDS[magic]:
                if offset + _FRAME.size + length != size:
                    raise BadSnapshotError(path, offset, "something follows the last frame")
                return
            yield offset, body
            offset += _FRAME.size + length
    finally:
        file.close()
