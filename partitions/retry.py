"""When a failed job may run again: exponential backoff with jitter. Pure.

The jitter is drawn from the job's id and attempt instead of a random source, so the same
command always gives the same event, and jobs that failed together still spread out.
"""

from zlib import crc32

import msgspec

_JITTER_FRACTION_MAX = 0.25
"""At most a quarter longer, never shorter (guess: enough to break up a herd)."""


class Backoff(msgspec.Struct, frozen=True):
    """``initial_ms`` doubles with every attempt up to ``max_ms``."""

    initial_ms: int = 1_000
    max_ms: int = 600_000

    def delay_ms(self, job_id: bytes, attempt: int) -> int:
        """How long after attempt number ``attempt`` (from 1) failed the next may begin."""
        # 2**63 ms is longer than any max_ms; the bound keeps the shift small.
        base_ms = min(self.initial_ms << min(attempt - 1, 40), self.max_ms)
        draw = crc32(job_id, attempt) / 0x1_0000_0000
        return base_ms + int(base_ms * _JITTER_FRACTION_MAX * draw)
