"""A front: accepts clients on the node's listening socket and serves them until it is drained.

The socket is bound by the supervisor and shared by all fronts; whoever is awake takes the next
few clients, so that a burst of connects spreads over the fronts.

Nothing a client does may end the process: each connection runs behind a guard that logs
what it did not expect, and gives back the socket in any case. When descriptors run out,
accepting pauses, with a log line now and then, not one per failure.
"""

import errno
import logging
import resource
import socket
import ssl
from collections import Counter
from typing import Final

import trio

from api.asgi import AsgiApp, Lifespan
from api.connection import Connection
from api.door import Door, Lane
from api.http2 import Http2
from api.readiness import Readiness
from api.settings import DoorLimits
from api.transport import PlainTransport, TlsTransport
from partitions.clock import Clock

log = logging.getLogger(__name__)

_OUT_OF_DESCRIPTORS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_BROKEN_LISTENER: Final = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EFAULT))
_ACCEPTED_AT_ONCE: Final = 8
"""With one, 256 clients that came together under load waited 0.6 s for the last to be accepted;
with all at once, one front would get them all."""
_ACCEPT_PAUSE_S: Final = 0.1
_RECEIVE_BYTES: Final = 64 << 10
_HTTPS_BODY: Final = b'{"error":"this port speaks HTTPS: use https://"}'
_HTTPS_HERE: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_HTTPS_BODY), _HTTPS_BODY)
)

Address = tuple[str, int]


class Front:
    """Serves ``lane`` and ``asgi_app`` on ``listener``."""

    def __init__(
        self,
        listener: socket.socket,
        lane: Lane,
        asgi_app: AsgiApp,
        limits: DoorLimits,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._app = asgi_app
        self._limits = limits
        self._tls = tls
        self._door = Door(limits, lane, asgi_app, clock)
        self._readiness = Readiness()
        self._http2 = Http2(self._door)
        self._clients: Counter[str] = Counter()
        self._connections = 0
        self._accepting = trio.CancelScope()

    @property
    def connections(self) -> int:
        """Clients that are connected now."""
        return self._connections

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until ``drain`` is called and what was in flight is answered, or was cut."""
        lifespan = Lifespan(self._app)
        async with trio.open_nursery() as nursery:
            await nursery.start(lifespan.run)
            await nursery.start(self._door.sweep_forever)
            nursery.start_soon(self._readiness.run)
            async with trio.open_nursery() as clients:
                try:
                    with self._accepting:
                        task_status.started()
                        await self._accept(clients)
                finally:
                    self._listener.close()
                self._door.drain()
                await self._http2.drain()
                clients.cancel_scope.deadline = (
                    trio.current_time() + self._limits.drain_timeout_ms / 1000
                )
            lifespan.stop()
            with trio.move_on_after(self._limits.drain_timeout_ms / 1000):
                await lifespan.ended.wait()
            nursery.cancel_scope.cancel()

    def drain(self) -> None:
        """Accept nobody any more, answer what is in flight, then let ``run`` return."""
        self._accepting.cancel()

    async def _accept(self, clients: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._listener)
            for _ in range(_ACCEPTED_AT_ONCE):
                try:
                    sock, address = self._listener.accept()
                except BlockingIOError:
                    break  # that was all, or another front was quicker
                except OSError as error:
                    await self._accept_failed(error)
                    break
                self._admit(sock, address, clients)

    async def _accept_failed(self, error: OSError) -> None:
        if error.errno in _BROKEN_LISTENER:
            raise error
        if error.errno in _OUT_OF_DESCRIPTORS:
            self._door.complain("no descriptor for a new connection, accepting pauses: %s", error)
            await trio.sleep(_ACCEPT_PAUSE_S)
        # Everything else is about the connection that was to come (accept(2)), not about us.

    def _admit(self, sock: socket.socket, address: object, clients: trio.Nursery) -> None:
        client = _host_and_port(address)
        host = client[0] if client else ""
        limits = self._limits
        if self.connections >= limits.connections_max:
            self._door.complain("connection refused: %d are open", limits.connections_max)
            sock.close()
        elif self._clients[host] >= limits.connections_per_address_max:
            self._door.complain(
                "connection refused: %d from %s are open", limits.connections_per_address_max, host
            )
            sock.close()
        else:
            self._clients[host] += 1
            self._connections += 1
            clients.start_soon(self._serve, sock, client, host)

    async def _serve(self, sock: socket.socket, client: Address | None, host: str) -> None:
        """One client, behind the guard."""
        try:
            with sock:
                sock.setblocking(False)
                _tune(sock)
                server = _host_and_port(sock.getsockname())
                if self._tls is None:
                    transport = PlainTransport(sock, self._readiness)
                    await Connection(self._door, transport, client, server, "http").run()
                else:
                    await self._serve_tls(sock, client, server, self._tls)
        except BaseExceptionGroup as group:
            cancelled, faults = group.split(trio.Cancelled)
            if faults is not None:
                log.error("a connection failed", exc_info=faults)
            if cancelled is not None:
                raise cancelled from None
        except Exception:
            log.exception("a connection failed")
        finally:
            self._connections -= 1
            self._clients[host] -= 1
            if not self._clients[host]:
                del self._clients[host]

    async def _serve_tls(
        self,
        sock: socket.socket,
        client: Address | None,
        server: Address | None,
        context: ssl.SSLContext,
    ) -> None:
        tcp = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        stream = trio.SSLStream(tcp, context, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(self._limits.handshake_timeout_ms / 1000):
                first = await tcp.socket.recv(1, socket.MSG_PEEK)
                if first.isalpha():  # no letter begins a handshake, and each method does
                    await _say_https(tcp, self._limits.linger_ms / 1000)
                    return
                await stream.do_handshake()
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            log.debug("TLS handshake failed: %r", error)
            await trio.aclose_forcefully(tcp)
            return
        if stream.selected_alpn_protocol() == "h2":
            await self._http2.serve(stream, client, server)
        else:
            transport = TlsTransport(stream)
            await Connection(self._door, transport, client, server, "https").run()


async def _say_https(tcp: trio.SocketStream, linger_s: float) -> None:
    """Answer a client that speaks HTTP in clear: closed without a word, it would puzzle.

    Nothing of its request is looked at.
    """
    with trio.move_on_after(linger_s):
        await tcp.send_all(_HTTPS_HERE)
        await tcp.send_eof()
        # What is unread when a socket is closed makes the kernel take the answer back.
        while await tcp.receive_some(_RECEIVE_BYTES):
            pass
    await trio.aclose_forcefully(tcp)


def _host_and_port(address: object) -> Address | None:
    """An IPv4 or IPv6 address without flow and scope; None of a Unix socket."""
    if isinstance(address, tuple) and len(address) >= 2:
        return str(address[0]), int(address[1])
    return None


def _tune(sock: socket.socket) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A peer that lost its power says nothing: during a long wait only this finds it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """The server side of TLS, HTTP/2 first.

    Raises:
        OSError: a file can't be read, or is no certificate or key (``ssl.SSLError``).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9113 9.2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def raise_descriptor_limit(wanted: int) -> None:
    """Allow ``wanted`` open descriptors, or as many as may be.

    That they are too few the supervisor has said: once, not for each front.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
