"""What the connections of a front share: the ways in, the limits, time and budgets.

The sweeper is the front's only timer. A deadline per read (``trio.move_on_after``) halves what a
core can do (measured: 19,000 requests/s instead of 35,000), so connections write down when
they may be cut, and ``Door.sweep`` looks at all of them at least twice a second.
"""

import logging
import select
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final, Protocol

import trio

from api.answer import Answer
from api.asgi import AsgiApp
from api.grammar import Malformed
from api.http1 import Memo
from api.settings import DoorLimits
from partitions.clock import Clock, SystemClock

log = logging.getLogger(__name__)

_COMPLAINT_PERIOD_S: Final = 10.0


def too_many_bodies() -> Malformed:
    """503: the budget of request bodies in memory is used up."""
    return Malformed(
        503,
        "overloaded: too many request bodies in memory, try again",
        (("Retry-After", "1"),),
    )


class Request:
    """What the lane gets to see of a request: its keys and its whole body."""

    __slots__ = ("_fileno", "authorization", "body", "idempotency_key")

    def __init__(
        self,
        authorization: str | None,
        body: bytes,
        idempotency_key: str | None = None,
        fileno: int = -1,
    ) -> None:
        self.authorization = authorization
        self.body = body
        self.idempotency_key = idempotency_key
        self._fileno = fileno

    def gone(self) -> bool:
        """Whether the client has closed its connection, or its sending side."""
        poll = select.poll()
        poll.register(self._fileno, select.POLLRDHUP)
        return bool(poll.poll(0))


LaneHandler = Callable[[Request], Coroutine[Any, Any, Answer]]
"""Begun and brought on by the connection; see ``api.calls`` for what it may wait for."""


class Lane(Protocol):
    """The short way in (``api.lane``)."""

    def route(self, method: str, target: str) -> LaneHandler | None:
        """The handler of exactly this request line, or None: then the app gets it."""


class Swept(Protocol):
    """What the sweeper needs of a connection."""

    fileno: int
    idle: bool
    """Between two requests: nothing of a next one is here."""
    read_deadline: float
    write_deadline: float
    running_since: float | None
    """Time of the sweep before a request began to run; None when none runs."""

    @property
    def may_be_gone(self) -> bool:
        """Whether the kernel is to be asked if the client has hung up."""

    def expire(self) -> None:
        """The time of a read or a write is over."""

    def cut(self) -> None:
        """End it now, without a word."""

    def hung_up(self, *, whole: bool) -> None:
        """The client closed its sending side, or the ``whole`` connection, while we work."""


class Door:
    """What all connections of a front share: ways in, limits, time, budgets."""

    def __init__(
        self, limits: DoorLimits, lane: Lane, app: AsgiApp, clock: Clock | None = None
    ) -> None:
        self.limits: Final = limits
        self.lane: Final = lane
        self.app: Final = app
        self.memo: Final = Memo()
        self.connections: Final[set[Swept]] = set()
        self.draining = False
        self.body_bytes = 0
        """Bytes of request bodies in memory, of all connections."""
        self.now = 0.0
        """Trio's time at the last sweep."""
        self.date_line = b""
        self._clock = clock or SystemClock()
        self._period = _sweep_period(limits)
        self._quiet_until: dict[str, float] = {}

    def complain(
        self, message: str, *arguments: object, error: BaseException | None = None
    ) -> None:
        """Log what a client could otherwise make us log by the thousand."""
        now = trio.current_time()
        if now >= self._quiet_until.get(message, 0.0):
            self._quiet_until[message] = now + _COMPLAINT_PERIOD_S
            log.warning(message, *arguments, exc_info=error)

    async def sweep_forever(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Cut what is too slow, as long as the front lives."""
        self.sweep()
        task_status.started()
        while True:
            await trio.sleep(self._period)
            self.sweep()

    def sweep(self) -> None:
        """Look at every connection once."""
        self.now = now = trio.current_time()
        # The clock of leases: workers reckon by both.
        date = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        self.date_line = b"Date: %b\r\n" % format_datetime(date, usegmt=True).encode()
        # A deadline counts from the sweep before it was written down: this much later
        # nothing is cut before its time.
        due = now - self._period
        waiting: dict[int, Swept] = {}
        for connection in list(self.connections):
            if connection.read_deadline < due or connection.write_deadline < due:
                connection.expire()
            elif (
                connection.running_since is not None
                and connection.running_since < now
                and connection.may_be_gone
            ):
                waiting[connection.fileno] = connection
        if waiting:
            self._look_for_hang_ups(waiting)

    def _look_for_hang_ups(self, waiting: dict[int, Swept]) -> None:
        poll = select.poll()
        for fileno in waiting:
            poll.register(fileno, select.POLLRDHUP)
        for fileno, events in poll.poll(0):
            waiting[fileno].hung_up(whole=bool(events & (select.POLLHUP | select.POLLERR)))

    def drain(self) -> None:
        """From now on answers are the last of their connection; idle ones are closed."""
        self.draining = True
        idle = {c.fileno: c for c in self.connections if c.idle}
        poll = select.poll()
        for fileno in idle:
            poll.register(fileno, select.POLLIN)
        for fileno, _ in poll.poll(0):
            del idle[fileno]  # a request is there already: it is answered
        for connection in idle.values():
            connection.cut()


def _sweep_period(limits: DoorLimits) -> float:
    """Seconds between sweeps: short against every timeout, but not a load by itself."""
    shortest_ms = min(
        limits.idle_timeout_ms,
        limits.head_timeout_ms,
        limits.body_timeout_ms,
        limits.write_timeout_ms,
        limits.half_close_ms,
    )
    return min(0.5, max(0.01, shortest_ms / 4000))
