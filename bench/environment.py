"""The machine that a figure comes from, and what one durable write costs on its disk.

A figure without its machine is worth nothing, and cloud disks change by the hour: so both
are taken in the run that they are reported with.
"""

import os
import platform
import statistics
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

_PACKAGES: Final = ("queue-node", "trio", "httptools", "msgspec", "quart-trio", "hypercorn")
_MEMORY_ONLY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_WRITE_BYTES: Final = 300
"""About the record of one small job."""
_ZEROS_BYTES: Final = 1 << 20
_SYNCS: Final = 400


class DiskSync(msgspec.Struct, frozen=True):
    """One ``pwrite`` of 300 bytes into zeros that are on disk, and its ``fdatasync``."""

    median_ms: float
    p99_ms: float
    samples: int


class Environment(msgspec.Struct, frozen=True):
    """Facts that are saved with every result."""

    measured_at: str
    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    versions: dict[str, str]
    directory_filesystem: str
    fdatasync: DiskSync | None


def describe(directory: Path | None) -> Environment:
    """This machine; with a ``directory`` also its disk, which takes some 0.1 s of syncs."""
    return Environment(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),  # noqa: TID251 - for people
        cpu=_cpu_model(),
        # What this process may use, which in a container is less than what is there.
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions=_versions(),
        directory_filesystem="unknown" if directory is None else filesystem_of(directory),
        fdatasync=None if directory is None else measure_fdatasync(directory),
    )


def measure_fdatasync(directory: Path, samples: int = _SYNCS) -> DiskSync:
    """What a commit cannot be faster than: a small write into zeros, made durable."""
    path = directory / f"fdatasync-{os.getpid()}.probe"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _write_zeros(descriptor)
        durations_ms = [_timed_sync_ms(descriptor, turn) for turn in range(samples)]
    finally:
        os.close(descriptor)
        path.unlink()
    cuts = statistics.quantiles(durations_ms, n=100)
    return DiskSync(round(statistics.median(durations_ms), 4), round(cuts[98], 4), samples)


def _write_zeros(descriptor: int) -> None:
    zeros = bytes(_ZEROS_BYTES)
    while zeros:
        zeros = zeros[os.write(descriptor, zeros) :]
    os.fsync(descriptor)


def _timed_sync_ms(descriptor: int, turn: int) -> float:
    offset = turn * _WRITE_BYTES % (_ZEROS_BYTES - _WRITE_BYTES)
    data = os.urandom(_WRITE_BYTES)
    before_ns = time.monotonic_ns()
    os.pwrite(descriptor, data, offset)
    os.fdatasync(descriptor)
    return (time.monotonic_ns() - before_ns) / 1e6


def filesystem_of(path: Path) -> str:
    """The type of the file system that ``path`` is on, as the kernel names it."""
    real = path.resolve()
    best, kind = 0, "unknown"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        # proc(5): field 5 is the mount point, and behind " - " comes the type.
        left, _, right = line.partition(" - ")
        mount = Path(_unescape(left.split()[4]))
        depth = len(mount.parts)
        # A later mount on the same point hides the earlier one.
        if depth >= best and real.is_relative_to(mount):
            best, kind = depth, right.split()[0]
    return kind


def keeps_nothing(filesystem: str) -> bool:
    """Whether a sync on it means nothing, since it lives in memory."""
    return filesystem in _MEMORY_ONLY


def _unescape(mount: str) -> str:
    return mount.encode("latin-1", "backslashreplace").decode("unicode_escape")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            # Run from a checkout that is not installed.
            versions[package] = "not installed"
    return versions
