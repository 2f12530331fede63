"""A proxy in front of a node that loses answers: the request arrives, the client never hears.

Each connection carries requests as they come; of every ``drop_every`` answers one is not passed
on, and the connection is cut instead.
"""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class AnswerDropper:
    """Listens from ``__enter__`` to ``__exit__`` on ``url``."""

    def __init__(self, host: str, port: int, drop_every: int) -> None:
        self._node = (host, port)
        self._drop_every = drop_every
        self._lock = threading.Lock()
        self._answers = 0
        self.dropped = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _cut(self._listener)
        self._threads[0].join()
        for connection in self._open:
            _cut(connection)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    client, _ = self._listener.accept()
                except OSError:
                    return
                node = socket.create_connection(self._node)
                self._open += [client, node]
                for target in (self._requests, self._replies):
                    thread = threading.Thread(target=target, args=(client, node))
                    self._threads.append(thread)
                    thread.start()

    def _requests(self, client: socket.socket, node: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                node.sendall(data)
        _cut(node)

    def _replies(self, client: socket.socket, node: socket.socket) -> None:
        # The node sends an answer in one piece, unless it is large; a second piece that counts
        # as an answer of its own is no harm, the client has lost one all the same.
        with client, node, suppress(OSError):
            while data := node.recv(1 << 20):
                with self._lock:
                    self._answers += 1
                    lost = self._answers % self._drop_every == 0
                    self.dropped += lost
                if lost:
                    break
                client.sendall(data)
            _cut(client)
            _cut(node)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
