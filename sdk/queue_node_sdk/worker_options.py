"""What a worker may be told, checked before anything is sent."""

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from queue_node_sdk.errors import ConfigurationError

_NODE_WAIT_SECONDS_MAX: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """See ``Worker`` for what they mean. Seconds throughout.

    Raises:
        ConfigurationError: a number cannot be right.
    """

    concurrency: int = 4
    prefetch: int = 0
    queues: Sequence[str] | None = None
    lease_seconds: float | None = None
    grace: float | None = 25.0
    name: str = ""
    poll_interval: float = 1.0
    wait_seconds: float = 20.0
    """How long one question for work waits at the node."""

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ConfigurationError("concurrency must be 1 or more")
        if not 0 <= self.prefetch <= self.concurrency:
            raise ConfigurationError("prefetch must be between 0 and the concurrency")
        if not self.poll_interval > 0:
            raise ConfigurationError("poll_interval must be more than 0 seconds")
        if self.grace is not None and not 0 <= self.grace < math.inf:
            raise ConfigurationError("grace must be 0 seconds or more, or None: no limit")
        if self.lease_seconds is not None and not 0 < self.lease_seconds < math.inf:
            raise ConfigurationError("lease_seconds must be more than 0")
        if not 0 <= self.wait_seconds <= _NODE_WAIT_SECONDS_MAX:
            raise ConfigurationError("wait_seconds must be between 0 and 60")
        if isinstance(self.queues, str) or (self.queues is not None and not self.queues):
            raise ConfigurationError("queues is a list of names, with at least one")


def default_name() -> str:
    """What a worker is called in the jobs that it has: where to look for its log."""
    return f"{platform.node()}:{os.getpid()}"
