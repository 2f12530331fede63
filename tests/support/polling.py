"""Waiting for something to become true, with a deadline and never with a fixed sleep."""

import time
from collections.abc import Callable

import trio

_EVERY_S = 0.02
DEADLINE_S = 120.0
"""For what takes a moment: long, because another's load may stop a machine for many seconds."""


async def until(true: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
    """Return as soon as ``true()`` holds.

    Raises:
        trio.TooSlowError: it did not in ``within_s``.
    """
    with trio.fail_after(within_s):
        while not true():
            await trio.sleep(_EVERY_S)


def wait_until(true: Callable[[], bool], within_s: float = DEADLINE_S, what: str = "") -> None:
    """The same without trio.

    Raises:
        TimeoutError: it did not in ``within_s``.
    """
    give_up_at = time.monotonic() + within_s
    while not true():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not within {within_s} s: {what or true}")
        time.sleep(_EVERY_S)
