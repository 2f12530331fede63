"""Whether the file system is nearly full: submits are refused before it is.

Looked at once a second, for it is a system call; what is written in a second is far less than any
sensible mark.
"""

import logging
from collections.abc import Callable
from typing import Final

_LOOK_EVERY_MS: Final = 1_000

_logger: Final = logging.getLogger("queue_node.partition")


class Watermark:
    """The least free space with which new jobs are taken."""

    def __init__(self, free_bytes: Callable[[], int], free_min_bytes: int) -> None:
        self._free_bytes = free_bytes
        self._free_min_bytes = free_min_bytes
        self._next_look_ms = 0
        self._low = False

    def is_low(self, now_ms: int) -> bool:
        """Whether less is free; as of a second ago at most.

        Raises:
            OSError: the disk does not say.
        """
        if not self._free_min_bytes or now_ms < self._next_look_ms:
            return self._low
        self._next_look_ms = now_ms + _LOOK_EVERY_MS
        low = self._free_bytes() < self._free_min_bytes
        if low and not self._low:
            _logger.error(
                "disk nearly full: new jobs are refused while less than %d bytes are free"
                " (DISK_FREE_MIN)",
                self._free_min_bytes,
            )
        elif self._low and not low:
            _logger.info("disk has room again: new jobs are taken")
        self._low = low
        return low
