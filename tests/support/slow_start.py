"""``queue-node serve`` with partitions whose recovery takes as long as a test wants.

While a file ``hold`` stands beside the data directory, partition 0 is half way through its log.
Run as a script: the node, or with ``partition`` a partition of it.
"""

import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from partitions import __main__ as entry
from partitions import process
from partitions.recovery import Recovered, recovering
from queue_node import config
from queue_node.serve import Commands, serve

COMMAND = (sys.executable, "-m", "tests.support.slow_start")


def held_up(disk: Any, directory: Path, *arguments: Any) -> Generator[float, None, Recovered]:
    """``recovering``, after a long while in which it does not get on."""
    hold = directory.parents[1] / "hold"
    while directory.name == "p-0000" and hold.exists():
        time.sleep(0.02)
        yield 0.5
    return (yield from recovering(disk, directory, *arguments))


def main(arguments: list[str]) -> int:
    """Be one of the two until told to stop."""
    if arguments == ["partition"]:
        inner: Any = process
        inner.recovering = held_up
        return entry.main()
    return serve(config.read(os.environ), Commands(partition=(*COMMAND, "partition")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
