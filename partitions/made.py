"""A mark beside a partition's directory that it once had a log: an empty ``p-NNNN.made``.

A partition without any file is a new one, or one whose files somebody removed. The first must
start, the second must not: it would serve, and say 404 for every job that it was given. So a
partition leaves the mark once its first segment is durable and before it serves; it stands
beside the directory, which may be what is gone.

Every start leaves it, so a directory from before there were marks, or one that was restored or
resharded, has it from its next start on. A backup has none.
"""

from pathlib import Path
from typing import Final

from partitions.disk import Disk
from partitions.errors import CorruptLogError
from partitions.files import list_files
from partitions.log import NO_SPACE, segment_name

MADE: Final = ".made"


def mark_of(directory: Path) -> Path:
    """Where the mark of the partition in ``directory`` is."""
    return directory.with_name(f"{directory.name}{MADE}")


def is_made(disk: Disk, directory: Path) -> bool:
    """Whether the partition once had a log."""
    mark = mark_of(directory)
    return mark.name in disk.names(mark.parent)


def refuse_lost(disk: Disk, directory: Path) -> None:
    """What once had a log must still have one.

    Raises:
        CorruptLogError: it has not.
    """
    # The mark first: beside a running partition, the other order could meet a new one between
    # its first segment and its mark.
    if is_made(disk, directory) and not list_files(disk, directory).segments:
        what = "there is no segment of the log, but this partition has run before"
        raise CorruptLogError(directory / segment_name(1), 0, what)


def mark_made(disk: Disk, directory: Path) -> None:
    """After a start, before anything is promised: it has a log from now on.

    Raises:
        OSError: the disk failed. A lack of room is put up with: the next start tries again.
    """
    if is_made(disk, directory):
        return
    mark = mark_of(directory)
    try:
        file = disk.create(mark)
        try:
            file.sync()
        finally:
            file.close()
        disk.sync_directory(mark.parent)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
