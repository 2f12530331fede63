"""Wakes a task of one event loop from any thread, from another loop, or from a signal handler.

A pair of sockets, which trio and asyncio wait for alike; ringing never waits.
"""

import socket
from contextlib import suppress
from typing import Final

import anyio

_READ_BYTES: Final = 4_096


class Doorbell:
    """Rung any number of times while it is open, it is heard at least once."""

    def __init__(self) -> None:
        self._button: socket.socket | None = None

    def open(self) -> None:
        """Hear what comes from now on: look first at what there is already, then ``wait``."""
        self._ear, self._button = socket.socketpair()
        self._ear.setblocking(False)
        self._button.setblocking(False)

    def ring(self) -> None:
        """Let ``wait`` return, now or when it is called next. Nobody hears it before ``open``."""
        # Full: it rings already. Closed: nobody is there to hear it.
        with suppress(OSError):
            if self._button is not None:
                self._button.send(b"\0")

    async def wait(self) -> None:
        """Until it is rung."""
        await anyio.wait_readable(self._ear)
        with suppress(BlockingIOError):
            self._ear.recv(_READ_BYTES)

    def close(self) -> None:
        """Nobody waits any more."""
        if self._button is not None:
            self._button.close()
            self._ear.close()
