"""Entry point of a partition process; the supervisor starts it (``child`` has the protocol).

Exit codes: 0 drained; 1 a fault, start me again; 3 the log is corrupt, starting me again
will not help.
"""

import logging
import sys
import time
from pathlib import Path
from typing import Final

import trio
from setproctitle import setproctitle

from partitions import logs
from partitions.child import read_settings
from partitions.disk import Disk, RealDisk
from partitions.errors import CorruptLogError, DirectoryInUseError
from partitions.limits import LOCK_WAIT_S
from partitions.process import PartitionProcess
from partitions.settings import PartitionSettings

EXIT_FAULT: Final = 1
EXIT_CORRUPT: Final = 3

_logger: Final = logging.getLogger("queue_node.partition")


def main() -> int:
    """Recover, serve, drain; returns the exit code."""
    settings = read_settings(PartitionSettings)
    name = f"partition {settings.partition}"
    setproctitle(f"queue-node: {name}")
    logs.configure(settings.log_format, settings.log_level, name)
    disk, directory = RealDisk(), Path(settings.directory)
    status = 0
    try:
        disk.make_directory(directory)
        lock = _lock(disk, directory)
        trio.run(PartitionProcess(settings, disk).run, strict_exception_groups=True)
        del lock  # held until here
    except* CorruptLogError as group:
        _logger.critical(
            "the log is corrupt, this partition does not start: %s; `queue-node verify` tells more,"
            " `queue-node repair` makes a copy without the damage",
            _words(group),
        )
        status = EXIT_CORRUPT
    except* DirectoryInUseError as group:
        _logger.critical("this partition does not start: %s", _words(group))
        status = EXIT_FAULT
    except* MemoryError:
        # Wherever it was: what was not committed was not answered, and the state goes with us.
        _logger.critical(
            "there is no memory left, this partition stops; what it answered is on disk, and is"
            " read again at the next start"
        )
        status = EXIT_FAULT
    except* OSError as group:
        _logger.critical("the disk failed, this partition stops: %s", _words(group))
        status = EXIT_FAULT
    return status


def _lock(disk: Disk, directory: Path) -> object:
    """The directory's lock; waits for a partition that lost its supervisor to end."""
    give_up_at = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return disk.lock_directory(directory)
        except DirectoryInUseError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


def _words(group: BaseException) -> str:
    if isinstance(group, BaseExceptionGroup):
        return "; ".join(_words(each) for each in group.exceptions)
    return str(group)


if __name__ == "__main__":
    sys.exit(main())
