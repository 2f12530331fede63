"""``queue-node serve`` with partitions that seal, snapshot and retire every few commits.

Run as a script; see ``small_partition``.
"""

import os
import sys

from queue_node import config
from queue_node.serve import Commands, serve

PARTITION = (sys.executable, "-m", "tests.support.small_partition")
COMMAND = (sys.executable, "-m", "tests.support.small_node")


def main() -> int:
    """Serve until told to stop."""
    return serve(config.read(os.environ), Commands(partition=PARTITION))


if __name__ == "__main__":
    sys.exit(main())
