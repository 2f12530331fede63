"""Waiting for bytes of many clients with one epoll of our own, registered once each.

``trio.lowlevel.wait_readable`` registers a socket anew for every wait: a system call and some
Python for each request, a sixth of a front's time (py-spy, perf). Here a socket is registered
once, edge-triggered, and one task waits, through trio, for the epoll itself.

**In place.** What waits may offer to deal with bytes itself, there and then (``Watch.wait``): to
wake a task costs as much as a request does.

An edge is told once, so nothing may be forgotten: a watch remembers it until somebody waits,
and a client's end (which comes with no edge of its own when it arrives with the last bytes) for
ever. Who reads a full buffer says so with ``again``, since more may be there without an edge.
"""

import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

import trio

if TYPE_CHECKING:
    import outcome

_ENDS: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_EVENTS_AT_ONCE: Final = 128


class Watch:
    """One socket, watched for bytes; for one task at a time.

    It is itself the outcome that the task is woken with: trio asks it for ``unwrap`` only.
    """

    __slots__ = ("_in_place", "_readable", "_task", "ended")

    def __init__(self) -> None:
        self.ended = False
        """The client closed its connection, or its sending side."""
        self._readable = False
        self._task: trio.lowlevel.Task | None = None
        self._in_place: Callable[[], bool] | None = None

    async def wait(self, in_place: Callable[[], bool] | None = None) -> None:
        """Return when there may be something to read, or the client ended; a checkpoint.

        An edge while it waits is first offered to ``in_place``; if that returns True, it has read
        what is there, and the wait goes on.
        """
        if self._readable or self.ended:
            await trio.lowlevel.checkpoint()
        else:
            self._in_place = in_place
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abandon)

    def reading(self) -> None:
        """Who calls this reads what is there: edges until now are used up.

        Not the end of a wait: bytes may come between that and the read, or, when ``in_place``
        has read, before the woken task runs.
        """
        self._readable = False

    def again(self) -> None:
        """There may be more to read."""
        self._readable = True

    def happened(self, events: int) -> None:
        """The epoll has told of this socket."""
        if events & _ENDS:
            self.ended = True
        elif (
            self._task is not None
            and self._in_place is not None
            and self._in_place()
            and not self._readable
        ):
            return
        self.wake()

    def wake(self) -> None:
        """End the wait, or the next one."""
        if (task := self._task) is None:
            self._readable = True
        else:
            self._task = None
            trio.lowlevel.reschedule(task, cast("outcome.Outcome[object]", self))

    def unwrap(self) -> None:
        """What the task is woken with: nothing."""

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Readiness:
    """The epoll of a front. ``run`` must run while watches are waited for."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}

    def watch(self, sock: socket.socket) -> Watch:
        """Watch a socket until ``forget``; what is there already counts as an edge.

        Raises:
            OSError: the kernel has no room for one more.
        """
        watch = Watch()
        self._epoll.register(sock, _EVENTS)
        self._watches[sock.fileno()] = watch
        return watch

    def forget(self, sock: socket.socket) -> None:
        """Stop watching; before the socket is closed, for its number is then another's."""
        known = self._watches.pop(sock.fileno(), None) is not None
        if known and not self._epoll.closed:  # closed: the front itself is at its end
            self._epoll.unregister(sock)

    async def run(self) -> None:
        """Wake who waits, until cancelled."""
        with self._epoll:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for fileno, events in self._epoll.poll(0, _EVENTS_AT_ONCE):
                    self._watches[fileno].happened(events)
