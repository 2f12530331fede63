"""A real partition process, but for its numbers: small segments, a snapshot every few commits.

So that a short run meets every call that months would bring. Run as a script, like
``python -m partitions``.
"""

import sys
from functools import partial
from typing import Any

from partitions import __main__ as entry
from partitions import actor, process, state
from partitions.log import Sizes

SIZES = Sizes(segment_bytes=6144, extent_bytes=4096, reserve_bytes=2048)


def main() -> int:
    """Set the numbers, then be a partition."""
    inner: Any = process
    inner.recovering = partial(inner.recovering, sizes=SIZES)
    inner.Checkpoints = partial(inner.Checkpoints, growth_bytes_min=3000, step_jobs=50, duty=0)
    # Each batch sets bytes aside for so many deadlines: more than a small segment holds.
    for module in (actor, state):
        vars(module)["DUE_PER_TICK_MAX"] = 4
    return entry.main()


if __name__ == "__main__":
    sys.exit(main())
