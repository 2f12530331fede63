"""``python -m queue_node``: the same as ``queue-node``."""

import sys

from queue_node.cli import main

sys.exit(main())
