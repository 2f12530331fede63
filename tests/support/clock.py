"""Time that passes only while nothing happens: for tests of short timeouts.

``pytestmark = pytest.mark.unhurried`` in a module makes a machine that stands
still in the middle of a test no different from a quick one: trio's clock moves on to the next
deadline when every task waits and no socket has had anything to say for a while. Not for
tests that wait for other processes or threads: their work is no event.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
from trio.testing import MockClock

_QUIET_S = 0.02
"""Real time without an event: what a socket to ourselves takes at most to pass data on."""

T = TypeVar("T")


def run_unhurried(
    main: Callable[..., Awaitable[T]], *, clock: trio.abc.Clock | None = None, **more: Any
) -> T:
    """``trio.run`` with such a clock, unless the test has brought another."""
    return trio.run(main, clock=clock or MockClock(autojump_threshold=_QUIET_S), **more)
