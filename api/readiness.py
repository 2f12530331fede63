"""Waiting for bytes of many clients with one epoll of our own, registered once each.

``trio.lowlevel.wait_readable`` registers a socket anew for every wait: a system call and some
Python for each request, a sixth of a front's time (py-spy, perf). Here a socket is registered
once, edge-triggered, and one task waits, through trio, for the epoll itself.

An edge is told once, so nothing may be forgotten: a watch remembers it until somebody waits,
and a client's end (which comes with no edge of its own when it arrives with the last bytes) for
ever. Who reads a full buffer says so with ``again``, since more may be there without an edge.
"""

import select
import socket
from typing import TYPE_CHECKING, Final, cast

import trio

if TYPE_CHECKING:
    import outcome

_ENDS: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_EVENTS_AT_ONCE: Final = 512


class Watch:
    """One socket, watched for bytes; for one task at a time.

    It is itself the outcome that the task is woken with: trio asks it for ``unwrap`` only.
    """

    __slots__ = ("_ended", "_readable", "_task")

    def __init__(self) -> None:
        self._readable = False
        self._ended = False
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Return when there may be something to read, or the client ended; a checkpoint."""
        if self._readable or self._ended:
            await trio.lowlevel.checkpoint()
        else:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abandon)
        self._readable = False

    def again(self) -> None:
        """There may be more to read."""
        self._readable = True

    def happened(self, events: int) -> None:
        """The epoll has told of this socket."""
        if events & _ENDS:
            self._ended = True
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
