"""A small disk of the node's own, so that it can be filled without harm to anybody else.

A file system in an image file (ext4, through a loop device), or else one in memory (tmpfs); both
take the rights to mount. Without those the soak does without full disks, and says so. The image
stays when the soak is over: it holds the data of a node that failed.
"""

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

SIZE_BYTES: Final = 1 << 30
"""Beyond what the log may take: 1.5 times the live data and two segments of each of two
partitions."""
_TOP_UP_S: Final = 0.2
_LEAST_BYTES: Final = 4096


class Volume:
    """A directory, ``path``; ``fillable`` when it is a disk of its own."""

    def __init__(self, path: Path, what: str, *, fillable: bool) -> None:
        self.path = path
        self.what = what
        self.fillable = fillable

    @contextmanager
    def filled(self) -> Iterator["Filler"]:
        """Inside the block there is no room; after it there is again."""
        filler = Filler(self.path / "filler")
        try:
            filler.top_up()
            yield filler
        finally:
            filler.remove()


class Filler:
    """The file that takes all room."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def top_up(self) -> None:
        """Take what room there is."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            space = os.statvfs(self._path)
            step = max(space.f_bavail * space.f_frsize, _LEAST_BYTES)
            while step >= _LEAST_BYTES:
                try:
                    os.posix_fallocate(fd, os.fstat(fd).st_size, step)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2
        finally:
            os.close(fd)

    def keep_full(self, seconds: float) -> None:
        """For so long no room that somebody gives back stays free."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(_TOP_UP_S)
            self.top_up()

    def remove(self) -> None:
        """Give the room back."""
        with suppress(FileNotFoundError):
            self._path.unlink()


@contextmanager
def volume(folder: Path, *, own_disk: bool) -> Iterator[Volume]:
    """A directory below ``folder``; with ``own_disk`` a file system of its own, if we may."""
    path = folder / "disk"
    path.mkdir(exist_ok=True)
    what = _mounted(folder, path) if own_disk else None
    if what is None:
        yield Volume(path, "the disk of the folder", fillable=False)
        return
    try:
        yield Volume(path, what, fillable=True)
    finally:
        # Lazily: a process that was killed a moment ago may still hold a file.
        _run("umount", "--lazy", str(path))


def _mounted(folder: Path, path: Path) -> str | None:
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    if _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image)) and _run(
        "mount", "-o", "loop", str(image), str(path)
    ):
        return f"ext4 of {SIZE_BYTES >> 20} MiB in a file"
    image.unlink()
    if _run("mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(path)):
        return f"tmpfs of {SIZE_BYTES >> 20} MiB"
    return None


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False  # not installed
