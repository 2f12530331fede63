"""How fast something happens: averages over 1, 5 and 15 minutes. Pure.

The load average's way: what was counted in 5 seconds is mixed into each average with a weight
that lets older ones fade; an average over a minute has forgotten 63 % of what is a minute old.
"""

from math import exp
from typing import Final

STEP_MS: Final = 5_000
WINDOWS_MS: Final = (60_000, 300_000, 900_000)
_FADES: Final = tuple(exp(-STEP_MS / window) for window in WINDOWS_MS)


class Rate:
    """Counts since the last step, and three averages."""

    __slots__ = ("_averages", "_counted", "_step_ends_ms")

    def __init__(self) -> None:
        self._counted = 0
        self._averages = (0.0, 0.0, 0.0)
        self._step_ends_ms = 0

    def add(self, count: int, now_ms: int) -> None:
        """So much happened now."""
        if now_ms >= self._step_ends_ms:
            self._roll(now_ms)
        self._counted += count

    def per_second(self, now_ms: int) -> tuple[float, float, float]:
        """The averages, over one minute, five and fifteen."""
        if now_ms >= self._step_ends_ms:
            self._roll(now_ms)
        return self._averages

    def _roll(self, now_ms: int) -> None:
        """End the step, and those in which nothing happened."""
        if self._step_ends_ms:
            idle = (now_ms - self._step_ends_ms) // STEP_MS
            now = self._counted * 1000 / STEP_MS
            self._averages = tuple(  # type: ignore[assignment]  # as many as there were
                (average * fade + now * (1 - fade)) * fade**idle
                for average, fade in zip(self._averages, _FADES, strict=True)
            )
            self._counted = 0
        self._step_ends_ms = now_ms - now_ms % STEP_MS + STEP_MS
