"""The few file calls that the log makes: a Protocol, and the real ones.

Tests bring a disk that loses unsynced bytes, tears a write, or fails the n-th call. Every
method may raise ``OSError``; nobody here retries.
"""

import fcntl
import os
import threading
from pathlib import Path
from typing import Final, Protocol

from partitions.errors import DirectoryInUseError

_LARGE_BYTES: Final = 8 << 20
"""To free 64 MiB took 13 ms, 300 MB 57 ms (ext4), for which the caller shall not wait."""


class File(Protocol):
    """An open file; all places are absolute, there is no cursor."""

    def read(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer only at the end of the file."""

    def write(self, data: bytes, offset: int) -> None:
        """All of ``data`` at ``offset``. Part of it may be there when this raises."""

    def sync(self) -> None:
        """Return when what was written is on disk (``fdatasync``)."""

    def size(self) -> int:
        """Bytes in the file."""

    def close(self) -> None:
        """Give the file back; syncs nothing."""


class Disk(Protocol):
    """A file system as the log sees it."""

    def make_directory(self, path: Path) -> None:
        """Make ``path`` (mode 0700) and its parents durable; fine when it exists."""

    def lock_directory(self, path: Path) -> object:
        """Hold ``path`` against other processes for as long as the result is kept.

        Raises:
            DirectoryInUseError: another process holds it.
        """

    def names(self, path: Path) -> list[str]:
        """Names in the directory, sorted."""

    def create(self, path: Path) -> File:
        """A new empty file (mode 0600) open for reading and writing; replaces a file there."""

    def open(self, path: Path, *, writable: bool = False) -> File:
        """A file that exists."""

    def rename(self, old: Path, new: Path) -> None:
        """Put ``old`` in the place of ``new``, atomically."""

    def remove(self, path: Path) -> None:
        """Take the name away."""

    def sync_directory(self, path: Path) -> None:
        """Return when made, renamed and removed names in ``path`` are on disk."""


class RealFile:
    """A file of the operating system."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path

    def read(self, size: int, offset: int) -> bytes:
        """See ``File.read``."""
        try:
            data = os.pread(self._fd, size, offset)
            while len(data) < size:
                # A read may be cut by a signal or, for huge sizes, by the kernel's own limit.
                more = os.pread(self._fd, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise self._named(error) from error
        return data

    def write(self, data: bytes, offset: int) -> None:
        """See ``File.write``."""
        try:
            written = os.pwrite(self._fd, data, offset)
            while written < len(data):
                written += os.pwrite(self._fd, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise self._named(error) from error

    def sync(self) -> None:
        """See ``File.sync``."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._named(error) from error

    def size(self) -> int:
        """See ``File.size``."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """See ``File.close``."""
        os.close(self._fd)

    def _named(self, error: OSError) -> OSError:
        """The same with the file's name, which an operator wants to read."""
        return OSError(error.errno, error.strerror, str(self._path))


class RealDisk:
    """The file system of the operating system."""

    def make_directory(self, path: Path) -> None:
        """See ``Disk.make_directory``."""
        missing: list[Path] = []
        current = path
        while not current.exists():
            missing.append(current)
            current = current.parent
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
            # A directory whose own entry was never synced is gone after a power cut.
            self.sync_directory(each.parent)
        if not missing:
            # Whoever made it may have been killed before it synced the entry.
            self.sync_directory(path.parent)

    def lock_directory(self, path: Path) -> object:
        """See ``Disk.lock_directory``."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise DirectoryInUseError(path) from error
        return _HeldDescriptor(fd)

    def names(self, path: Path) -> list[str]:
        """See ``Disk.names``."""
        return sorted(os.listdir(path))

    def create(self, path: Path) -> File:
        """See ``Disk.create``."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return RealFile(os.open(path, flags, 0o600), path)

    def open(self, path: Path, *, writable: bool = False) -> File:
        """See ``Disk.open``."""
        mode = os.O_RDWR if writable else os.O_RDONLY
        return RealFile(os.open(path, mode | os.O_CLOEXEC), path)

    def rename(self, old: Path, new: Path) -> None:
        """See ``Disk.rename``."""
        os.rename(old, new)

    def remove(self, path: Path) -> None:
        """See ``Disk.remove``."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.remove(path)  # whoever has no descriptor left waits for it
            return
        try:
            os.remove(path)
            large = os.fstat(fd).st_size >= _LARGE_BYTES
        except OSError:
            os.close(fd)
            raise
        # The name is gone. The room is freed when the last descriptor is closed, and not sooner in
        # pieces: a backup may hold the file as well.
        if not large or not _closed_beside(fd):
            os.close(fd)

    def sync_directory(self, path: Path) -> None:
        """See ``Disk.sync_directory``."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class _HeldDescriptor:
    """Closes its descriptor, and so lets go of the lock, when nobody keeps it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __del__(self) -> None:
        os.close(self._fd)


def _closed_beside(fd: int) -> bool:
    """Close it in a thread; False if there can be none."""
    try:
        threading.Thread(target=os.close, args=(fd,), daemon=True).start()
    except RuntimeError:
        return False
    return True


def free_bytes(path: Path) -> int:
    """What may still be written to the file system of ``path`` by whoever asks."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
