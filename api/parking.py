"""Requests that wait for something to happen: parked, with a time at which they give up.

A parked operation is no task of trio's: what ends its wait also brings it on (``api.calls``). So
ten thousand of them cost memory, but no time. One task looks at the deadlines.
"""

import types
from collections.abc import Generator
from math import ceil
from typing import Final

import trio

from api.calls import Call
from partitions.messages import NothingReady

_LOOK_EVERY_S: Final = 0.1
_NOTHING: Final = NothingReady()


class Parked:
    """One wait after another of one operation, until ``deadline`` (trio's clock)."""

    __slots__ = ("_call", "_woken", "deadline", "over")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.over = False
        """The deadline has passed, or the front is to stop."""
        self._call: Call | None = None
        self._woken = False

    @property
    def waits(self) -> bool:
        """Whether it is waiting now."""
        return self._call is not None

    @types.coroutine
    def wait(self) -> Generator[Call, None, None]:
        """Return when it was woken, at once if that was since the last wait."""
        if self._woken or self.over:
            self._woken = False
            return
        self._call = call = Call(0, 0)
        try:
            yield call
        finally:
            self._call = None
            self._woken = False

    def wake(self) -> None:
        """End the wait, or the next one."""
        self._woken = True
        if (call := self._call) is not None:
            self._call = None
            call.answer(_NOTHING)

    def end(self) -> None:
        """Let it wait no more."""
        self.over = True
        self.wake()


class Deadlines:
    """When parked operations give up."""

    def __init__(self) -> None:
        self._parked: dict[int, set[Parked]] = {}
        """By the look that is to end them: who leaves early, as nearly all do, is found at once."""
        self._some = trio.Event()
        self._closed = False

    def __len__(self) -> int:
        return sum(len(parked) for parked in self._parked.values())

    def park(self, wait_s: float) -> Parked:
        """Something that waits for so long at most; it is to ``leave`` when it is done."""
        parked = Parked(trio.current_time() + wait_s)
        parked.over = self._closed
        if not self._closed:
            self._parked.setdefault(_look_of(parked), set()).add(parked)
            self._some.set()
        return parked

    def leave(self, parked: Parked) -> None:
        """It waits no more, whatever its deadline says."""
        look = _look_of(parked)
        if (others := self._parked.get(look)) is not None:
            others.discard(parked)
            if not others:
                del self._parked[look]

    def close(self) -> None:
        """Nobody is to wait any more: the front stops."""
        self._closed = True
        for look in list(self._parked):
            self._end(look)

    async def run(self) -> None:
        """End the waits that are over, until cancelled."""
        while True:
            await self._some.wait()
            while self._parked:
                await trio.sleep(_LOOK_EVERY_S)
                now = trio.current_time()
                for look in sorted(self._parked):
                    if look * _LOOK_EVERY_S > now:
                        break
                    self._end(look)
            self._some = trio.Event()

    def _end(self, look: int) -> None:
        # One that ends may let another one leave.
        for parked in self._parked.pop(look, ()):
            parked.end()


def _look_of(parked: Parked) -> int:
    return ceil(parked.deadline / _LOOK_EVERY_S)
