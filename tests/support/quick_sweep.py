"""``queue-node serve`` whose front 0 looks for claims without jobs all the time, not once a minute.

Run as a script: the node, or with ``front`` a front of it.
"""

import os
import sys

from api import __main__ as entry
from api import claims
from queue_node import config
from queue_node.serve import Commands, serve

COMMAND = (sys.executable, "-m", "tests.support.quick_sweep")
EVERY_S = 0.1


def main(arguments: list[str]) -> int:
    """Be one of the two until told to stop."""
    if arguments == ["front"]:
        # No setting: nobody but a test wants it, and mypy knows that it is Final.
        claims._EVERY_S = EVERY_S  # type: ignore[misc]
        return entry.main()
    return serve(config.read(os.environ), Commands(front=(*COMMAND, "front")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
