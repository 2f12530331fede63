"""How long a child that died stays down before it is started again. Pure."""

from collections import deque
from typing import Final

FIRST_S: Final = 0.1
LONGEST_S: Final = 5.0
WINDOW_S: Final = 60.0
DEATHS_MAX: Final = 5
"""More deaths than this within the window is a crash loop."""
CRASH_LOOP_S: Final = 10.0
"""Between two tries of a child in a crash loop; the rest of the node serves meanwhile."""


class Backoff:
    """Deaths of one child. Times are any monotonic seconds."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX + 1)

    @property
    def in_crash_loop(self) -> bool:
        """Whether the last death was one too many."""
        return len(self._deaths) > DEATHS_MAX

    def after_death(self, now_s: float) -> float:
        """Seconds to wait after a death at ``now_s``: doubling with every recent death."""
        while self._deaths and self._deaths[0] <= now_s - WINDOW_S:
            self._deaths.popleft()
        self._deaths.append(now_s)
        if self.in_crash_loop:
            return CRASH_LOOP_S
        doubled: float = FIRST_S * 2 ** (len(self._deaths) - 1)
        return min(LONGEST_S, doubled)
