"""A pipe between a front and a partition: frames over a Unix stream socket, in trio.

``send`` never waits: it writes what the socket takes at once and keeps the rest for
``run``, the one background task of a pipe. Whoever sends looks at ``backlog_bytes`` and
calls ``drained`` when it has grown. Plain non-blocking sockets instead of a
``trio.SocketStream``: a send that needs no waiting costs no pass of the scheduler, which is
worth a tenth of the time of a request that travels alone.
"""

import socket
from typing import Final

import trio

from partitions.framing import Deframer, frame

_RECEIVE_BYTES: Final = 256 << 10
_SOCKET_BUFFER_BYTES: Final = 1 << 20
BACKLOG_BYTES_HIGH: Final = 8 << 20
"""Past this the sender should wait for ``drained`` (a few of the largest replies)."""


class Pipe:
    """One connected end. Owns the socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        self._socket = sock
        self._deframer = Deframer()
        self._backlog = bytearray()
        self._blocked = trio.Event()
        self._drained = trio.Event()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._closed

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the socket has not taken yet."""
        return len(self._backlog)

    def send(self, body: bytes) -> None:
        """Send one frame, now or, what the socket does not take, soon. Ignored once closed."""
        if self._closed:
            return
        data = frame(body)
        if self._backlog:
            self._backlog += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The other end is gone; ``receive`` is where the owner learns it.
            self.close()
            return
        if sent < len(data):
            self._backlog += memoryview(data)[sent:]
            self._drained = trio.Event()
            self._blocked.set()

    async def receive(self) -> list[bytes]:
        """The bodies of the next frames, at least one; none at the end of the stream.

        Raises:
            PipeError: what came is no frame.
        """
        while not self._closed:
            # Waiting first: to try ``recv`` and then wait costs a call and a pass of the
            # scheduler more for each frame, and this wait is the other tasks' turn.
            try:
                await trio.lowlevel.wait_readable(self._socket)
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except (trio.ClosedResourceError, OSError):
                return []  # closed, at this end or at the other
            if not data:
                return []
            if bodies := self._deframer.feed(data):
                return bodies
        return []

    def receive_now(self) -> list[bytes]:
        """The bodies of frames that are here. None says nothing: also not that it goes on.

        Raises:
            PipeError: what came is no frame.
        """
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except OSError:
            return []  # nothing, or closed: ``receive`` is where the owner learns it
        return self._deframer.feed(data)

    async def run(self) -> None:
        """Send what ``send`` could not, until the pipe is closed."""
        while not self._closed:
            await self._blocked.wait()
            self._blocked = trio.Event()
            while self._backlog and not self._closed:
                try:
                    await trio.lowlevel.wait_writable(self._socket)
                except trio.ClosedResourceError:
                    return  # ``close`` was called meanwhile
                self._send_backlog()
            self._drained.set()

    async def drained(self) -> None:
        """Wait until nothing is left to send, or the pipe is closed."""
        while self._backlog and not self._closed:
            await self._drained.wait()

    def close(self) -> None:
        """Close the socket and wake everybody who waits for it."""
        if self._closed:
            return
        self._closed = True
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        self._backlog.clear()
        self._blocked.set()
        self._drained.set()

    def _send_backlog(self) -> None:
        try:
            sent = self._socket.send(self._backlog)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        del self._backlog[:sent]
