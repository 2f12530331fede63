"""The files of a partition, copied while it runs and knows nothing of it.

What makes that right, and must stay so in ``log``, ``recovery`` and ``snapshot``:

* A snapshot, once it has its name, is never written to. A segment is not either, but for its
  seal, once the next one has its name. Both only ever go away.
* A file that is read back is replaced by a rename, or written anew with the same bytes.
* A snapshot goes before the segments that only it needs. So when all files of one listing
  could be opened, snapshots first, they belong together; otherwise it is done again.
* The newest segment only grows at its end, by one record after the other. Every record that
  was acknowledged before the reading began is there as a whole; what was being written
  meanwhile is cut off, as a start cuts off a torn tail.

So the partition is never stopped, not even for a moment. Older files are hard links where
that is possible; the newest segment is always a copy.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from partitions.disk import RealDisk
from partitions.errors import CorruptLogError, PartitionError
from partitions.record import (
    SEGMENT_HEADER_BYTES,
    End,
    LogEnd,
    decode_segment_header,
    scan,
)

_CHUNK_BYTES: Final = 1 << 20
_SYNC_EVERY_BYTES: Final = 4 << 20
"""One sync of everything at the end would keep the commits of a running partition waiting."""
_LISTINGS_MAX: Final = 100
_READINGS_OF_ONE_END: Final = 5
_REREAD_S: Final = 0.02
_NO_LINKS: Final = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)
_disk: Final = RealDisk()


class FilesChangeError(PartitionError):
    """The files of a partition went away each time before they could be opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: its files keep going away")
        self.path = path


class Copied(msgspec.Struct):
    """What copies are made of, counted."""

    files: int = 0
    linked_bytes: int = 0
    copied_bytes: int = 0


class _Open(msgspec.Struct, frozen=True):
    name: str
    fd: int
    size: int


def files_of(directory: Path) -> list[str]:
    """Snapshots, then segments, each oldest first; a directory that is not there has none."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    return [
        *(name for name in names if name.endswith(".snap")),
        *(name for name in names if name.endswith(".seg")),
    ]


def copying(source: Path, target: Path, copied: Copied, *, link: bool) -> Iterator[int]:
    """Copy a partition's files into ``target``, which is empty, durably.

    Adds to ``copied``, and yields bytes as they are done.

    Raises:
        FilesChangeError: in vain.
        CorruptLogError: its newest segment is damaged.
        OSError: a file could not be read or written.
    """
    with _opened(source) as files:
        for left, file in zip(range(len(files) - 1, -1, -1), files, strict=True):
            copied.files += 1
            if left == 0:
                content = _whole_records(file, source)
                copied.copied_bytes += _write(content, target / file.name)
                yield file.size
            elif link and _linked(file, source, target):
                copied.linked_bytes += file.size
                yield file.size
            elif left == 1 and file.name.endswith(".seg"):
                copied.copied_bytes += _write(_with_seal(file, source), target / file.name)
                yield file.size
            else:
                for size in _copy(file.fd, target / file.name):
                    copied.copied_bytes += size
                    yield size
    _disk.sync_directory(target)


def copying_file(source: Path, target: Path) -> Iterator[int]:
    """Copy one file that nobody writes to, durable but for its name; yields bytes as they go."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield from _copy(fd, target)
    finally:
        os.close(fd)


@contextmanager
def _opened(directory: Path) -> Iterator[list[_Open]]:
    """All files of one listing, open: what is removed from now on is still read."""
    for _ in range(_LISTINGS_MAX):
        with ExitStack() as stack:
            files = []
            try:
                for name in files_of(directory):
                    fd = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, fd)
                    files.append(_Open(name, fd, os.fstat(fd).st_size))
            except FileNotFoundError:
                continue
            if files:
                # After a power cut a segment whose successor's name got lost would be written
                # to again: no link to it may be made before that name is on disk.
                _disk.sync_directory(directory)
            yield files
            return
    raise FilesChangeError(directory)


def _linked(file: _Open, source: Path, target: Path) -> bool:
    link = target / file.name
    try:
        os.link(source / file.name, link)
    except FileNotFoundError:
        return False  # It was retired meanwhile, and is still open here.
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    if os.path.samestat(os.fstat(file.fd), os.stat(link)):
        return True
    os.unlink(link)
    return False


def _copy(fd: int, target: Path) -> Iterator[int]:
    file = _disk.create(target)
    try:
        offset = synced = 0
        while chunk := os.pread(fd, _CHUNK_BYTES, offset):
            file.write(chunk, offset)
            offset += len(chunk)
            if offset - synced >= _SYNC_EVERY_BYTES:
                file.sync()
                synced = offset
            yield len(chunk)
        file.sync()
    finally:
        file.close()


def _write(content: bytes, target: Path) -> int:
    file = _disk.create(target)
    try:
        file.write(content, 0)
        file.sync()
    finally:
        file.close()
    return len(content)


def _whole_records(file: _Open, directory: Path) -> bytes:
    """The newest segment up to the end of its last whole record."""
    path = directory / file.name
    data, end = _settled(file.fd, path)
    if end.kind is End.CORRUPT:
        raise CorruptLogError(path, end.offset_bytes, end.what)
    # Without a seal too: the segment that it speaks of came after the listing.
    return data[: end.offset_bytes]


def _with_seal(file: _Open, directory: Path) -> bytes:
    """The segment before it, whose seal may be written just now."""
    return _settled(file.fd, directory / file.name)[0]


def _settled(fd: int, path: Path) -> tuple[bytes, LogEnd]:
    """A segment and its end, read beside whoever may write to it.

    Such a reading can meet a half-written record with whole ones behind it, which looks like
    damage. That is gone when it is read again; damage is not.
    """
    before, readings = -1, 0
    while True:
        data = _read(fd)
        end = _end_of(data, path)
        readings = readings + 1 if end.offset_bytes == before else 1
        if end.kind not in (End.TORN, End.CORRUPT) or readings == _READINGS_OF_ONE_END:
            return data, end
        before = end.offset_bytes
        time.sleep(_REREAD_S)


def _read(fd: int) -> bytes:
    chunks, offset = [], 0
    while chunk := os.pread(fd, _CHUNK_BYTES, offset):
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)


def _end_of(data: bytes, path: Path) -> LogEnd:
    header = decode_segment_header(data[:SEGMENT_HEADER_BYTES])
    if isinstance(header, str):
        raise CorruptLogError(path, 0, header)
    for item in scan(data, header):
        if isinstance(item, LogEnd):
            return item
    raise AssertionError("a scan ends with an end")
