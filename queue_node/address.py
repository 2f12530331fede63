"""The listening socket: bound once by the supervisor, shared by every front."""

import errno
import logging
import socket
import time
from typing import Final

from queue_node.errors import AddressError

BACKLOG: Final = 4096
"""Connections that the kernel keeps for us; Linux caps it at net.core.somaxconn."""

_RETRY_S: Final = 0.1

# What getaddrinfo gives and bind takes; the last form is of other families than ours.
_Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]

_logger = logging.getLogger(__name__)


def listen(host: str, port: int, patience_s: float = 0.0) -> socket.socket:
    """A socket that listens on ``host`` and ``port`` (0: a free one).

    A name is bound at its first address, IPv4 before IPv6; ``::`` takes IPv4 as well.
    ``patience_s`` is how long to wait for a port in use: fronts of a node that was killed
    hold it until they have drained.

    Raises:
        AddressError: the address can't be had.
    """
    family, address = _resolve(host, port)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _bind(family, address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise AddressError(_explain(host, port, error)) from error
        time.sleep(_RETRY_S)


def url_of(listener: socket.socket, *, tls: bool) -> str:
    """A URL that reaches ``listener`` from this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host != "::" else "::1"
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def beyond(listener: socket.socket) -> str:
    """What ``listener`` takes besides ``url_of``: nothing, or in words every other address."""
    match listener.getsockname()[0]:
        case "0.0.0.0":  # noqa: S104 - compared, not bound
            return "every other IPv4 address of this machine (0.0.0.0)"
        case "::":
            return "every other address of this machine (::)"
        case _:
            return ""


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, _Address]:
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise AddressError(f"HOST={host} can't be resolved: {reason}") from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, _, _, _, address = found[0]
    return family, address


def _bind(family: socket.AddressFamily, address: _Address) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A restart must not wait for the old connections' TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and address[0] == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _explain(host: str, port: int, error: OSError) -> str:
    at = f"HOST={host} PORT={port}"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{at}: port {port} is in use by another process; set PORT to another one"
        case errno.EADDRNOTAVAIL:
            return f"{at}: {host} is not an address of this machine"
        case errno.EACCES:
            return f"{at}: not allowed to listen on port {port}; take one above 1023"
        case _:
            return f"{at}: can't listen: {error.strerror}"
