"""The data directory of a node (``WAL_DIR``): made, checked, locked.

What is in it::

    lock         held (flock) while a node runs; names its process and runtime directory
    node.json    {"format": 1, "partitions": N}: see queue_node/node_file.py
    p-0000/ ...  one directory per partition, its log: see partitions/log.py
    p-0000.made  a mark that the partition had a log once: see partitions/made.py
    keys.sqlite  the embedded key store, unless REDIS_URL is set
    reshard/     while ``queue-node reshard`` works: see queue_node/reshard_switch.py

All of it is the operator's secret (payloads, key hashes): directories are 0700, files 0600.
"""

import fcntl
import logging
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from queue_node import reshard_switch
from queue_node.errors import DirectoryError
from queue_node.node_file import (
    FORMAT,
    KEYS,
    NODE,
    NodeFile,
    marks_of,
    partition_name,
    partition_numbers,
    read_node_file,
    refuse_backup,
    sync_directory,
    write_node_file,
)

LOCK: Final = "lock"
# A new ext4 has it, so an empty file system counts as empty.
_NOT_OURS_BUT_FINE: Final = {"lost+found"}
_RUNTIME_PREFIX: Final = "queue-node-"
# A Unix socket's path has at most 107 bytes, and ours ends in "/p-1023".
_RUNTIME_PATH_MAX: Final = 95
_SHORT_TEMPORARY: Final = "/tmp"  # noqa: S108 - mkdtemp makes it private

_logger = logging.getLogger(__name__)


class _Holder(msgspec.Struct, frozen=True):
    """What the lock file says about the node that holds it, or died holding it."""

    pid: int
    runtime: str


class DataDirectory:
    """A data directory that this process holds; see ``hold``."""

    def __init__(self, path: Path, runtime: Path, after_a_crash: bool) -> None:
        self.path = path
        self.runtime = runtime
        """A short, private directory for Unix sockets; gone when the node is."""
        self.after_a_crash = after_a_crash
        """The node that was here before did not end well; children of it may still run."""

    @property
    def keystore_path(self) -> Path:
        """The SQLite file of the embedded key store."""
        return self.path / KEYS

    def partition_path(self, partition: int) -> Path:
        """The directory of a partition; the partition makes it."""
        return self.path / partition_name(partition)

    def partition_socket(self, partition: int) -> Path:
        """Where a partition listens for fronts."""
        return self.runtime / f"p-{partition}"

    def settle_partitions(self, asked: int | None, default: int) -> int:
        """How many partitions there are: what the directory was made with.

        A new directory gets ``asked``, or ``default`` when nobody asked; nothing is written
        before ``keep_partitions``. One in which no partition ever ran is as good as new.

        Raises:
            DirectoryError: it was made with another number, or ``node.json`` is damaged.
        """
        made_with = read_node_file(self.path)
        if made_with is None:
            return asked or default
        self._look_after_reshard(made_with)
        if asked is not None and asked != made_with.partitions:
            if not partition_numbers(self.path) and not marks_of(self.path):
                return asked
            raise DirectoryError(
                f"WAL_DIR={self.path} was made with PARTITIONS={made_with.partitions} and can't "
                f"be used with PARTITIONS={asked}: leave PARTITIONS unset, or move the jobs with "
                f"`queue-node reshard --partitions {asked} --directory "
                f"{shlex.quote(str(self.path))}`"
            )
        return made_with.partitions

    def keep_partitions(self, partitions: int) -> None:
        """Write down that there are so many: before the first one starts, and not earlier.

        A start that fails before must not fix the number of a directory with nothing in it.

        Raises:
            DirectoryError: it can't be written.
        """
        found = read_node_file(self.path)
        if found is None or found.partitions != partitions:
            write_node_file(self.path, NodeFile(FORMAT, partitions))

    def _look_after_reshard(self, made_with: NodeFile) -> None:
        if made_with.moving:
            _logger.info(
                "a reshard to %d partitions was decided and cut short: finishing it",
                made_with.partitions,
            )
            reshard_switch.finish(self.path)
        elif reshard_switch.has_leftovers(self.path):
            _logger.warning(
                "%s is left over from a reshard that was cut short: the next one removes it",
                reshard_switch.folder(self.path),
            )


@contextmanager
def hold(wal_dir: str) -> Iterator[DataDirectory]:
    """Make ``wal_dir`` when it is missing, and keep every other node off it meanwhile.

    Raises:
        DirectoryError: it can't be made, written or kept private, another node holds it, or
            it is a backup.
    """
    path = Path(os.path.abspath(wal_dir))  # symbolic links stay: the operator's own words
    refuse_backup(path)
    _make(path)
    _keep_private(path)
    try:
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        before = _take(lock, path)
        runtime = _make_runtime_directory()
        try:
            _write(lock, msgspec.json.encode(_Holder(os.getpid(), str(runtime))), path)
            if before is not None:
                _remove_runtime_directory(before.runtime)
            yield DataDirectory(path, runtime, after_a_crash=before is not None)
        finally:
            shutil.rmtree(runtime, ignore_errors=True)
        # Empty means that the node ended by itself.
        os.ftruncate(lock, 0)
    finally:
        os.close(lock)


@contextmanager
def hold_unchanged(path: Path) -> Iterator[None]:
    """Keep nodes off a data directory that is only looked at; writes nothing, not even to ``lock``.

    Raises:
        DirectoryError: a node holds it, or it is a backup.
    """
    refuse_backup(path)
    try:
        lock = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield  # No node has run here since a restore; who starts now waits for our partitions.
        return
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        _take(lock, path)
        yield
    finally:
        os.close(lock)


def running_node(path: Path) -> int | None:
    """The process of the node that runs on ``path``, as far as can be told without its lock."""
    try:
        content = (path / LOCK).read_bytes()
        holder = msgspec.json.decode(content, type=_Holder)
        os.kill(holder.pid, 0)
    except PermissionError:
        return holder.pid  # it is somebody else's, so it is there
    except (OSError, msgspec.MsgspecError):
        return None
    return holder.pid


def _make(path: Path) -> None:
    """Make the directory and what is missing above it, each durable before the next."""
    if path.is_dir():
        return
    try:
        if not path.parent.is_dir():
            _make(path.parent)
        path.mkdir(mode=0o700)
        # After a power cut the directory's own entry must be there, not only what is in it.
        sync_directory(path.parent)
    except FileExistsError:
        raise DirectoryError(f"WAL_DIR: {path} is not a directory") from None
    except OSError as error:
        raise _unusable(path, error) from error


def _keep_private(path: Path) -> None:
    """Take everybody else's permissions away, unless the directory may not be ours alone."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & 0o077:
            return
        entries = {entry.name for entry in path.iterdir()} - _NOT_OURS_BUT_FINE
    except OSError as error:
        raise _unusable(path, error) from error
    if entries and NODE not in entries and LOCK not in entries:
        raise DirectoryError(
            f"WAL_DIR={path} has mode {mode:04o} and files of somebody else in it: name a "
            "directory of its own, or chmod it to 0700"
        )
    try:
        path.chmod(0o700)
    except OSError as error:
        if not mode & 0o007:
            # Volumes that belong to a group we are in (fsGroup) can't be changed by us.
            _logger.warning("WAL_DIR=%s has mode %04o: its group can read it", path, mode)
            return
        raise DirectoryError(
            f"WAL_DIR={path} has mode {mode:04o}, so others can read it, and it can't be "
            f"changed to 0700: {error.strerror}"
        ) from error
    _logger.warning("WAL_DIR=%s had mode %04o, changed to 0700", path, mode)


def _take(lock: int, path: Path) -> _Holder | None:
    """Lock; returns the node that died here, None when the last one ended by itself."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _read_holder(lock)
        who = f" (process {holder.pid})" if holder else ""
        raise DirectoryError(f"WAL_DIR={path} is in use by another node{who}") from None
    except OSError as error:
        raise DirectoryError(f"WAL_DIR={path} can't be locked: {error.strerror}") from error
    return _read_holder(lock)


def _read_holder(lock: int) -> _Holder | None:
    content = os.pread(lock, 4096, 0)
    try:
        return msgspec.json.decode(content, type=_Holder)
    except msgspec.MsgspecError:
        # Empty, or cut by a crash: the second is rare, and only costs what it would tell.
        return None


def _write(lock: int, content: bytes, path: Path) -> None:
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, content, 0)
    except OSError as error:
        raise _unusable(path, error) from error


def _make_runtime_directory() -> Path:
    try:
        runtime = Path(tempfile.mkdtemp(prefix=_RUNTIME_PREFIX))
        if len(os.fsencode(runtime)) > _RUNTIME_PATH_MAX:
            runtime.rmdir()
            runtime = Path(tempfile.mkdtemp(prefix=_RUNTIME_PREFIX, dir=_SHORT_TEMPORARY))
    except OSError as error:
        raise DirectoryError(
            f"no directory for Unix sockets can be made in TMPDIR: {error.strerror}"
        ) from error
    return runtime


def _remove_runtime_directory(path: str) -> None:
    """Tidy up after a node that was killed. The name came from a file, so check it."""
    found = Path(path)
    if found.is_absolute() and found.name.startswith(_RUNTIME_PREFIX):
        shutil.rmtree(found, ignore_errors=True)


def _unusable(path: Path, error: OSError) -> DirectoryError:
    return DirectoryError(f"WAL_DIR={path} can't be used: {error.strerror}")
