"""Faults of a partition: what its disk or its pipe did that nobody asked for.

Refusals (a lease that was lost, a full disk) are replies, not exceptions: see ``messages``.
"""

from pathlib import Path


class PartitionError(Exception):
    """Base of every fault raised by this package."""


class CorruptLogError(PartitionError):
    """Bytes of the log do not check, and they are not a torn tail. Nothing was changed."""

    def __init__(self, path: Path, offset_bytes: int, what: str) -> None:
        super().__init__(f"{path}: offset {offset_bytes}: {what}")
        self.path = path
        self.offset_bytes = offset_bytes
        self.what = what


class BlobUnreadableError(PartitionError):
    """A payload or result does not read back as it was written."""

    def __init__(self, path: Path, offset_bytes: int, what: str) -> None:
        super().__init__(f"{path}: offset {offset_bytes}: {what}")
        self.path = path
        self.offset_bytes = offset_bytes
        self.what = what


class DirectoryInUseError(PartitionError):
    """Another process holds the lock of a partition's directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is in use by another process")
        self.path = path


class PipeError(PartitionError):
    """The other end of a pipe sent bytes that are not frames of ours; the pipe is closed."""
