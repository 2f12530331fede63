"""The ways into a node, each a function from a request to what the client sees.

``plain`` sends a target as it is, so the lane takes what it knows. ``app`` adds an empty query,
which names the same resource and which the lane leaves to the app. ``http2`` goes through
Hypercorn's protocol over TLS.
"""

import http.client
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import h2.config
import h2.connection
import h2.events
import h2.exceptions

TIMEOUT_S = 120.0
_RECEIVE_BYTES = 1 << 16
_OF_THE_CONNECTION = frozenset(("date", "connection", "keep-alive", "transfer-encoding"))

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Seen:
    """An answer without what belongs to the connection alone."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @staticmethod
    def of(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> "Seen":
        kept = sorted(
            (name.lower(), value)
            for name, value in headers
            if name.lower() not in _OF_THE_CONNECTION and not name.startswith(":")
        )
        return Seen(status, tuple(kept), body)


class Way(Protocol):
    """One way in."""

    def send(self, method: str, target: str, headers: Headers, body: bytes | None) -> Seen:
        """Send a request and read its whole answer."""


class Http1:
    """HTTP/1.1, over TLS when ``tls``; a connection for each request."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None, suffix: str = "") -> None:
        self._port = port
        self._tls = tls
        self._suffix = suffix

    def send(self, method: str, target: str, headers: Headers, body: bytes | None) -> Seen:
        """See ``Way``."""
        connection = self._connect()
        try:
            connection.putrequest(method, self._spelled(target), skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            self._send_body(connection, body)
            answer = connection.getresponse()
            return Seen.of(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(
            "127.0.0.1", self._port, timeout=TIMEOUT_S, context=self._tls
        )

    def _spelled(self, target: str) -> str:
        return target if "?" in target or target == "*" else target + self._suffix

    @staticmethod
    def _send_body(connection: http.client.HTTPConnection, body: bytes | None) -> None:
        try:
            connection.send(body or b"")
        except (BrokenPipeError, ConnectionResetError):
            # It refused before the end of the body; the answer can be read all the same.
            return


@dataclass
class _Stream:
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False


class Http2:
    """HTTP/2 over TLS; a connection for each request."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        self._port = port
        self._tls = tls

    def send(self, method: str, target: str, headers: Headers, body: bytes | None) -> Seen:
        """See ``Way``."""
        raw = socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S)
        with self._tls.wrap_socket(raw, server_hostname="127.0.0.1") as sock:
            assert sock.selected_alpn_protocol() == "h2"
            return _Exchange(sock).run(method, target, headers, body)


class _Exchange:
    """One request on one HTTP/2 connection."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock
        # Sent as it is, so that hostile forms reach the server.
        config = h2.config.H2Configuration(
            client_side=True,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            header_encoding="utf-8",
        )
        self._h2 = h2.connection.H2Connection(config)
        self._stream = _Stream()

    def run(self, method: str, target: str, headers: Headers, body: bytes | None) -> Seen:
        self._h2.initiate_connection()
        head = [(":method", method), (":scheme", "https"), (":authority", "127.0.0.1")]
        # Like every client: a value with white space around it is malformed (RFC 9113, 8.2.1).
        head += [(":path", target), *((name.lower(), value.strip()) for name, value in headers)]
        if body is not None:
            head.append(("content-length", str(len(body))))
        self._h2.send_headers(1, head, end_stream=not body)
        self._send_body(body or b"")
        while not self._stream.ended:
            self._receive()
        (status,) = [int(value) for name, value in self._stream.headers if name == ":status"]
        return Seen.of(status, self._stream.headers, bytes(self._stream.body))

    def _send_body(self, body: bytes) -> None:
        rest = memoryview(body)
        self._flush()
        while rest and not self._stream.ended:
            size = min(
                len(rest), self._h2.local_flow_control_window(1), self._h2.max_outbound_frame_size
            )
            if size == 0:
                self._receive()
                continue
            self._h2.send_data(1, rest[:size].tobytes(), end_stream=size == len(rest))
            rest = rest[size:]
            self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _receive(self) -> None:
        data = self._socket.recv(_RECEIVE_BYTES)
        assert data, "the connection ended before the answer"
        for event in self._h2.receive_data(data):
            match event:
                case h2.events.ResponseReceived():
                    self._stream.headers = [(str(n), str(v)) for n, v in event.headers]
                case h2.events.DataReceived():
                    self._stream.body += event.data
                    self._h2.acknowledge_received_data(event.flow_controlled_length, 1)
                case h2.events.StreamEnded() | h2.events.StreamReset():
                    self._stream.ended = True
                case h2.events.ConnectionTerminated():
                    raise AssertionError(f"the connection was terminated: {event}")
        self._flush()
