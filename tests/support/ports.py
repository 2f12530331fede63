"""Ports that stay the test's own while nobody listens on them."""

import socket


class ReservedPort:
    """A free loopback port that the system gives to nobody else until ``close``.

    "Free a moment ago" is luck: between the end of a node and its next start any outgoing
    connection may get the port. A socket that is bound and does not listen keeps it, and a
    server that sets ``SO_REUSEADDR`` (as ours and Redis do) can still listen there; meanwhile
    connections are refused.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give it back."""
        self._socket.close()
