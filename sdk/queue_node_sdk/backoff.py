"""How long to pause before the next try. Pure: the draw is an argument.

Full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015): a uniform draw between
nothing and an exponentially growing ceiling spreads out clients that failed together.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Backoff:
    """A ceiling that starts at ``first_seconds`` and grows by ``factor`` up to a limit."""

    first_seconds: float
    longest_seconds: float
    factor: float = 2.0

    def ceiling_seconds(self, failures: int) -> float:
        """Longest pause after ``failures`` failures in a row (from 1)."""
        # The exponent is bounded: a worker that waits for its node over a weekend
        # counts far beyond what a float can hold.
        grown = self.first_seconds * self.factor ** min(failures - 1, 64)
        return min(self.longest_seconds, grown)

    def pause_seconds(
        self, failures: int, draw: float, retry_after_seconds: float | None = None
    ) -> float:
        """Pause after ``failures`` failures, for a ``draw`` from [0, 1).

        The node's ``Retry-After`` is the least; the jitter comes on top of it, so that
        clients which were sent away together do not come back together.
        """
        return (retry_after_seconds or 0.0) + draw * self.ceiling_seconds(failures)


RETRY: Final = Backoff(first_seconds=0.1, longest_seconds=5.0)
"""Between tries of one request (guess: a partition is back in about a second)."""

RECONNECT: Final = Backoff(first_seconds=0.1, longest_seconds=10.0)
"""Between tries of a worker whose node is away, for ever."""

FIRST_POLL_SECONDS: Final = 0.01
"""First pause of a poll for a result or for work: a quick job is seen done at once."""

POLL_GROWTH: Final = 1.5
"""Growth of that pause: a wait costs at most half as long again as the job took."""
