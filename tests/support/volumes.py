"""File systems of a test's own: small, full, read-only, cut off from power, on a broken disk.

Needs root, and mounts nothing but below the test's own directory. Where a machine cannot do
that, the test is skipped and says why.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.support.polling import wait_until

PACKAGE_OF = {
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "xfs_io": "xfsprogs",
    "nbdkit": "nbdkit",
    "nbdfuse": "libnbd-bin",
    "eatmydata": "eatmydata",
    "prlimit": "util-linux",
}


def needs(*tools: str, loop: bool = False) -> None:
    """Skip the test, with the reason, unless mounts work here and the tools are there.

    Args:
        tools: programs that must be installed.
        loop: whether files must be mountable as disks.
    """
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (apt-get install {PACKAGE_OF[tool]})")
    if reason := _why_no_mounts() or (_why_no_loops() if loop else ""):
        pytest.skip(reason)


@cache
def _why_no_mounts() -> str:
    if os.geteuid() != 0:
        return "mounting file systems needs root"
    with tempfile.TemporaryDirectory() as directory:
        tried = _tried("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory)
        if tried:
            return f"no file system can be mounted here: {tried}"
        _run("umount", directory)
    return ""


@cache
def _why_no_loops() -> str:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        try:
            with loop_volume(path, size_mb=8):
                pass
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            return f"no file can be mounted as a disk here: {error}"
    return ""


@contextmanager
def tmpfs(path: Path, size: str) -> Iterator[Path]:
    """A file system in memory of so many bytes (``3m``); see ``resize``."""
    path.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    try:
        yield path
    finally:
        _unmount(path)


def resize(mounted: Path, size: str) -> None:
    """Give a tmpfs another size."""
    _run("mount", "-o", f"remount,size={size}", str(mounted))


class LoopVolume:
    """A file system in a file; ``data`` is a directory in it that is there for good."""

    def __init__(self, mounted: Path, device: Path, mount_options: str = "loop") -> None:
        self.mounted = mounted
        self.data = mounted / "data"
        self._device = device
        self._mount_options = mount_options

    def mount(self) -> None:
        """Make it usable; a journal that was cut off is replayed first, as after power failed."""
        _run("mount", "-o", self._mount_options, str(self._device), str(self.mounted))

    def unmount(self) -> None:
        """Nobody may use it any more."""
        _unmount(self.mounted)

    def cut_power(self) -> None:
        """From now on nothing reaches the file; whatever was not synced is gone."""
        _run("xfs_io", "-x", "-c", "shutdown", str(self.mounted))

    def power_on(self) -> None:
        """Mount what is in the file. Nobody may use the old mount any more."""
        self.unmount()
        self.mount()

    def remount(self, how: str) -> None:
        """``ro`` or ``rw``."""
        _run("mount", "-o", f"remount,{how}", str(self.mounted))

    def fail_like_a_broken_file_system(self) -> None:
        """ext4 meets an error in its own structures, and from now on is read-only."""
        source = _output("findmnt", "-no", "SOURCE", str(self.mounted))
        Path(f"/sys/fs/ext4/{Path(source).name}/trigger_fs_error").write_text("test")


@contextmanager
def loop_volume(
    path: Path, *, size_mb: int = 64, kind: str = "ext4", options: str = "loop"
) -> Iterator[LoopVolume]:
    """A volume below ``path``, mounted; gone at the end."""
    path.mkdir(parents=True, exist_ok=True)
    image, mounted = path / "image", path / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    _run(f"mkfs.{kind}", "-q", *(["-F"] if kind == "ext4" else ["-f"]), str(image))
    with _mounted(LoopVolume(mounted, image, options)) as volume:
        yield volume


@contextmanager
def _mounted(volume: LoopVolume) -> Iterator[LoopVolume]:
    volume.mount()
    try:
        volume.data.mkdir(exist_ok=True)
        _run("sync", "-f", str(volume.mounted))
        yield volume
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            volume.unmount()


class BrokenDisk:
    """A disk whose writes fail while ``break_it`` says so: nbdkit under an ext4."""

    def __init__(self, volume: LoopVolume, switch: Path) -> None:
        self.volume = volume
        self._switch = switch

    def break_it(self) -> None:
        """From now on every write to the disk fails with EIO."""
        self._switch.touch()

    def mend_it(self) -> None:
        """Writes work again."""
        self._switch.unlink()


@contextmanager
def broken_disk(path: Path, *, size_mb: int = 64) -> Iterator[BrokenDisk]:
    """A disk that can be broken, with a file system on it, below ``path``."""
    fuse, mounted, switch = path / "fuse", path / "mounted", path / "broken"
    fuse.mkdir()
    mounted.mkdir()
    (path / "image").touch()
    os.truncate(path / "image", size_mb << 20)
    _run("mkfs.ext4", "-qF", str(path / "image"))
    device = fuse / "disk"
    words = ["nbdfuse", str(device), "--command", "nbdkit", "-s", "file", str(path / "image")]
    words += ["--filter=error", "error-pwrite=EIO", "error-pwrite-rate=100%"]
    server = subprocess.Popen([*words, f"error-file={switch}"])
    try:
        wait_until(lambda: device.exists() or server.poll() is not None, what="nbdfuse")
        assert server.poll() is None, "nbdfuse ended"
        with _mounted(LoopVolume(mounted, device)) as volume:
            yield BrokenDisk(volume, switch)
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("umount", "-l", str(fuse))
        server.terminate()
        server.wait()


def _unmount(path: Path) -> None:
    # A process that was killed a moment ago may hold it a little longer.
    wait_until(lambda: not _tried("umount", str(path)), within_s=10, what=f"umount {path}")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _output(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def _tried(*words: str) -> str:
    """What it said when it failed; empty when it worked."""
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"
