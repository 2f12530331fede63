"""A disk in memory that loses what was not synced, tears writes, and fails on demand.

It keeps two views of everything: what a running process sees (the page cache), and what the
platter holds. ``crash`` gives the disk that a machine finds after a power cut: the platter,
and of the rest whatever the ``Survival`` says, because a disk may have written any part of
it. Three rules make it as nasty as a real one:

* a file's data and its name are synced separately (``File.sync``, ``sync_directory``);
* a sync that fails forgets what it should have written: the process goes on seeing the
  bytes, the next sync says that all is well, and the platter never gets them;
* a write that finds no space writes the part that fits, then raises.
"""

import errno
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from partitions.errors import DirectoryInUseError

PAGE_BYTES = 64
"""What survives or is lost as a whole. Far below a real page, so that records span several."""

CHANGES = ("create", "write", "sync", "rename", "remove", "sync_directory")
"""The operations that are counted, and that may fail or be the last one."""

READS = ("names", "open", "read")
"""These change nothing, so no stop before one of them is special; but they may fail too."""


class Halted(BaseException):
    """The machine stopped before this operation. No code under test may catch it."""


class Operation(NamedTuple):
    """One call that changes the disk."""

    kind: str
    path: Path
    size: int = 0


class Faults:
    """What goes wrong, and when; ``index`` counts operations from 0 (``FakeDisk.operations``)."""

    def __init__(
        self,
        *,
        halt_at: int | None = None,
        fail_at: int | None = None,
        fail_kinds: tuple[str, ...] = CHANGES,
        error: int = errno.EIO,
        for_good: bool = False,
        written: float = 0.0,
    ) -> None:
        """``written``: the share of its data that a failing write leaves behind."""
        self.halt_at = halt_at
        self.fail_at = fail_at
        self.fail_kinds = fail_kinds
        self.error = error
        self.for_good = for_good
        self.written = written
        self.hits = 0
        self._seen = 0

    def check(self, index: int, operation: Operation) -> None:
        """Raise what this operation shall meet. ``fail_at`` counts ``fail_kinds`` only."""
        if index == self.halt_at:
            raise Halted(operation)
        self.fail(operation)

    def fail(self, operation: Operation) -> None:
        """Raise when it is this operation's turn to fail."""
        if operation.kind not in self.fail_kinds:
            return
        seen, self._seen = self._seen, self._seen + 1
        if self.fail_at is None or seen < self.fail_at:
            return
        if seen == self.fail_at or self.for_good:
            self.hits += 1
            raise OSError(self.error, os.strerror(self.error), str(operation.path))


class Survival:
    """Which part of what was not synced a power cut leaves behind."""

    def __init__(self, name: str, *, pages: float, entries: float, seed: int = 0) -> None:
        self.name = name
        self._pages = pages
        self._entries = entries
        self._random = random.Random(seed)

    def page(self) -> bool:
        """Whether one more page that was not synced is there."""
        return self._random.random() < self._pages

    def entries(self, pending: int) -> int:
        """How many of the changes of names are there; the first ones, as with a journal."""
        if self._entries in (0.0, 1.0):
            return int(pending * self._entries)
        return self._random.randint(0, pending)

    def __repr__(self) -> str:
        return self.name


def survivals(seed: int) -> list[Survival]:
    """Nothing, everything, data without names, names without data, and some of each."""
    return [
        Survival("lost", pages=0, entries=0),
        Survival("kept", pages=1, entries=1),
        Survival("names only", pages=0, entries=1),
        Survival("data only", pages=1, entries=0),
        Survival("part", pages=0.5, entries=0.5, seed=seed),
    ]


class _Inode:
    """One file: what the process sees, what is on the platter, and what is between."""

    def __init__(self, platter: bytes | bytearray = b"") -> None:
        self.seen = bytearray(platter)
        self.platter = bytearray(platter)
        self.dirty: set[int] = set()

    def write(self, data: bytes, offset: int) -> None:
        _put(self.seen, data, offset)
        if data:
            self.dirty.update(
                range(offset // PAGE_BYTES, (offset + len(data) - 1) // PAGE_BYTES + 1)
            )

    def sync(self) -> None:
        for page in self.dirty:
            self._flush(page)
        self.dirty.clear()

    def after_crash(self, survival: Survival) -> "_Inode":
        """The file on the platter, with those of its unsynced pages that made it."""
        left = _Inode(self.platter)
        for page in sorted(self.dirty):
            if survival.page():
                start = page * PAGE_BYTES
                left.write(bytes(self.seen[start : start + PAGE_BYTES]), start)
        left.sync()
        return left

    def _flush(self, page: int) -> None:
        start = page * PAGE_BYTES
        _put(self.platter, bytes(self.seen[start : start + PAGE_BYTES]), start)


class _Directory:
    """Names of one directory, as seen and as on the platter."""

    def __init__(self, names: dict[str, _Inode] | None = None) -> None:
        self.seen: dict[str, _Inode] = dict(names or {})
        self.platter: dict[str, _Inode] = dict(names or {})
        self.pending: list[dict[str, _Inode]] = []

    def changed(self) -> None:
        self.pending.append(dict(self.seen))

    def sync(self) -> None:
        self.platter = dict(self.seen)
        self.pending.clear()

    def names_after_crash(self, survival: Survival) -> dict[str, _Inode]:
        count = survival.entries(len(self.pending))
        return self.pending[count - 1] if count else self.platter


class FakeFile:
    """An open file of a ``FakeDisk``."""

    def __init__(self, disk: "FakeDisk", path: Path, inode: _Inode, *, writable: bool) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._writable = writable
        self._open = True
        disk.open_files += 1

    def read(self, size: int, offset: int) -> bytes:
        """See ``disk.File``."""
        self._check_open()
        self._disk.note_read("read", self._path)
        return bytes(self._inode.seen[offset : offset + size])

    def write(self, data: bytes, offset: int) -> None:
        """See ``disk.File``."""
        self._check_open()
        if not self._writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            self._disk.note("write", self._path, len(data))
        except OSError:
            self._inode.write(data[: int(len(data) * self._disk.faults.written)], offset)
            raise
        fits = self._disk.bytes_that_fit(self._inode, offset, len(data))
        self._inode.write(data[:fits], offset)
        if fits < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def sync(self) -> None:
        """See ``disk.File``."""
        self._check_open()
        try:
            self._disk.note("sync", self._path)
        except OSError:
            self._inode.dirty.clear()
            raise
        if not self._disk.lies:
            self._inode.sync()

    def size(self) -> int:
        """See ``disk.File``."""
        self._check_open()
        return len(self._inode.seen)

    def close(self) -> None:
        """See ``disk.File``."""
        self._check_open()
        self._open = False
        self._disk.open_files -= 1

    def _check_open(self) -> None:
        if not self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class FakeDisk:
    """See the module. ``space_bytes`` bounds the sum of all files; ``lies``: no sync works."""

    def __init__(self, faults: Faults | None = None, *, lies: bool = False) -> None:
        self.faults = faults or Faults()
        self.lies = lies
        self.space_bytes: int | None = None
        self.operations: list[Operation] = []
        self.reads: list[Operation] = []
        self.open_files = 0
        self._directories: dict[Path, _Directory] = {}
        self._locked: set[Path] = set()

    # Disk ---------------------------------------------------------------------------------

    def make_directory(self, path: Path) -> None:
        """See ``disk.Disk``."""
        for each in (path, *path.parents):
            self._directories.setdefault(each, _Directory())

    def lock_directory(self, path: Path) -> object:
        """See ``disk.Disk``."""
        if path in self._locked:
            raise DirectoryInUseError(path)
        return _FakeLock(self._locked, path)

    def names(self, path: Path) -> list[str]:
        """See ``disk.Disk``."""
        self.note_read("names", path)
        return sorted(self._directory(path).seen)

    def create(self, path: Path) -> FakeFile:
        """See ``disk.Disk``."""
        self.note("create", path)
        directory = self._directory(path.parent)
        directory.seen[path.name] = inode = _Inode()
        directory.changed()
        return FakeFile(self, path, inode, writable=True)

    def open(self, path: Path, *, writable: bool = False) -> FakeFile:
        """See ``disk.Disk``."""
        self.note_read("open", path)
        return FakeFile(self, path, self._inode(path), writable=writable)

    def rename(self, old: Path, new: Path) -> None:
        """See ``disk.Disk``."""
        self.note("rename", new)
        inode = self._inode(old)
        directory = self._directory(new.parent)
        del directory.seen[old.name]
        directory.seen[new.name] = inode
        directory.changed()

    def remove(self, path: Path) -> None:
        """See ``disk.Disk``."""
        self.note("remove", path)
        self._inode(path)
        directory = self._directory(path.parent)
        del directory.seen[path.name]
        directory.changed()

    def sync_directory(self, path: Path) -> None:
        """See ``disk.Disk``."""
        self.note("sync_directory", path)
        if not self.lies:
            self._directory(path).sync()

    # For tests ----------------------------------------------------------------------------

    def note(self, kind: str, path: Path, size: int = 0) -> None:
        """Count an operation, and let the faults have their way with it."""
        operation = Operation(kind, path, size)
        index = len(self.operations)
        self.operations.append(operation)
        self.faults.check(index, operation)

    def note_read(self, kind: str, path: Path) -> None:
        """Note an operation that changes nothing."""
        operation = Operation(kind, path)
        self.reads.append(operation)
        self.faults.fail(operation)

    def bytes_that_fit(self, inode: _Inode, offset: int, size: int) -> int:
        """How many of ``size`` bytes at ``offset`` there is room for."""
        if self.space_bytes is None:
            return size
        growth = max(0, offset + size - len(inode.seen))
        free = max(0, self.space_bytes - self.used_bytes())
        return size - max(0, growth - free)

    def used_bytes(self) -> int:
        """Bytes of all files that have a name."""
        return sum(len(inode.seen) for _, inode in self._inodes())

    def crash(self, survival: Survival) -> "FakeDisk":
        """A healthy disk with what is there after the power came back."""
        left = FakeDisk()
        # One inode may have two names in between; it stays one file.
        inodes: dict[int, _Inode] = {}
        for path, directory in self._directories.items():
            names = {
                name: inodes.setdefault(id(inode), inode.after_crash(survival))
                for name, inode in directory.names_after_crash(survival).items()
            }
            left._directories[path] = _Directory(names)
        return left

    def restarted(self) -> "FakeDisk":
        """The disk as a new process finds it on the running machine: the page cache stays."""
        left = FakeDisk()
        left._directories = self._directories
        return left

    def content(self, path: Path) -> bytes:
        """What a process sees in a file."""
        return bytes(self._inode(path).seen)

    def put(self, path: Path, content: bytes) -> None:
        """Make a durable file."""
        directory = self._directory(path.parent)
        directory.seen[path.name] = directory.platter[path.name] = _Inode(content)

    def _inodes(self) -> Iterator[tuple[str, _Inode]]:
        return itertools.chain.from_iterable(
            directory.seen.items() for directory in self._directories.values()
        )

    def _directory(self, path: Path) -> _Directory:
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self._directories[path]

    def _inode(self, path: Path) -> _Inode:
        inode = self._directory(path.parent).seen.get(path.name)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return inode


class _FakeLock:
    def __init__(self, locked: set[Path], path: Path) -> None:
        self._locked = locked
        self._path = path
        locked.add(path)

    def __del__(self) -> None:
        self._locked.discard(self._path)


def _put(content: bytearray, data: bytes, offset: int) -> None:
    if len(content) < offset:
        content += bytes(offset - len(content))
    content[offset : offset + len(data)] = data
