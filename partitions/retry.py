"""When a failed job may run again: exponential backoff with jitter. Pure.

The jitter is drawn from the job's id and attempt instead of a random source, so the same
command always gives the same event, and jobs that failed together still spread out.
"""

from typing import Annotated
from zlib import crc32

import msgspec

DELAY_MS_MAX = 1 << 53
"""Added to a time it still fits the 64 bits of an event."""


class Backoff(msgspec.Struct, frozen=True, array_like=True):
    """``initial_ms`` grows by ``factor`` with every attempt, up to ``max_ms``."""

    initial_ms: Annotated[int, msgspec.Meta(ge=0, le=DELAY_MS_MAX)] = 1_000
    max_ms: Annotated[int, msgspec.Meta(ge=0, le=DELAY_MS_MAX)] = 600_000
    factor: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.25
    """At most this fraction longer, never shorter (a quarter: enough to break up a herd, guess)."""

    def delay_ms(self, job_id: bytes, attempt: int) -> int:
        """How long after attempt number ``attempt`` (from 1) failed the next may begin."""
        if self.initial_ms == 0:
            return 0
        try:
            grown_ms = self.initial_ms * self.factor ** (attempt - 1)
        except OverflowError:
            grown_ms = self.max_ms
        base_ms = int(min(grown_ms, self.max_ms))
        draw = crc32(job_id, attempt) / 0x1_0000_0000
        return base_ms + int(base_ms * self.jitter * draw)
