"""A disk that is only read: what recovery would write goes nowhere.

So the same code that starts a partition can look at one that must stay as it is: a backup, or
the old data of a reshard. Recovery writes nothing that is not there already in the same
place (a copy of the newest segment) or that is never read back (a seal), so whatever it opens
to write to is read from the original.
"""

from pathlib import Path
from typing import Final

from partitions.disk import Disk, File

_TEMPORARY: Final = ".tmp"


class UntouchedDisk:
    """See ``disk.Disk``, and the module."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def make_directory(self, path: Path) -> None:
        """Nothing."""

    def lock_directory(self, path: Path) -> object:
        """See ``Disk.lock_directory``: a lock changes nothing."""
        return self._disk.lock_directory(path)

    def names(self, path: Path) -> list[str]:
        """See ``Disk.names``; a directory that is not there is an empty one."""
        try:
            return self._disk.names(path)
        except FileNotFoundError:
            return []

    def create(self, path: Path) -> File:
        """A file that nobody will find."""
        return _Unwritten(self._disk, path.with_name(path.name.removesuffix(_TEMPORARY)))

    def open(self, path: Path, *, writable: bool = False) -> File:
        """See ``Disk.open``; what is written goes nowhere."""
        return _Unwritten(self._disk, path) if writable else self._disk.open(path)

    def rename(self, old: Path, new: Path) -> None:
        """Nothing."""

    def remove(self, path: Path) -> None:
        """Nothing."""

    def sync_directory(self, path: Path) -> None:
        """Nothing."""


class _Unwritten:
    """Reads as ``original``; takes writes, and keeps none."""

    def __init__(self, disk: Disk, original: Path) -> None:
        self._disk = disk
        self._original = original
        self._file: File | None = None

    def read(self, size: int, offset: int) -> bytes:
        """See ``File.read``."""
        return self._opened().read(size, offset)

    def write(self, data: bytes, offset: int) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def size(self) -> int:
        """See ``File.size``."""
        return self._opened().size()

    def close(self) -> None:
        """See ``File.close``."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> File:
        if self._file is None:
            self._file = self._disk.open(self._original)
        return self._file
