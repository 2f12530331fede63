"""What a front is told when it starts: one frozen struct, read once from standard input.

``queue_node.config`` reads the environment, validates it, and sends this to every front
as one line of JSON. The defaults of every limit of the door stand here and nowhere else;
``queue_node.config`` maps each to its environment variable.
"""

from typing import Final

import msgspec

_OWN_DESCRIPTORS: Final = 64
"""Of a front: pipes, key store, epoll, standard streams; a generous guess."""


class DoorLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the HTTP/1.1 door (HTTP/2 gets the same where Hypercorn has a setting)."""

    connections_max: int = 10_000
    """Open client connections of one front; the next one is closed at once, and logged."""
    connections_per_address_max: int = 5_000
    """The same from one client address."""
    head_bytes_max: int = 16 << 10
    """Request line and headers together: 431 beyond it."""
    url_bytes_max: int = 8 << 10
    """Request target: 414 beyond it."""
    headers_max: int = 100
    """Number of header lines: 431 beyond it."""
    body_bytes_max: int = 16 << 20
    """``MAX_BODY``: 413 beyond it."""
    bodies_bytes_max: int = 256 << 20
    """Request bodies held in memory by one front, all connections together: 503 beyond it."""
    pipelined_max: int = 64
    """Requests of one connection answered in a row before their answers are sent and the other
    connections get their turn. None is read ahead of the one that runs."""
    output_bytes_max: int = 1 << 20
    """Answers that a connection may hold unsent; beyond it nothing more is read or run."""
    idle_timeout_ms: int = 75_000
    """No byte of a next request: closed without a word."""
    head_timeout_ms: int = 10_000
    """First byte to the end of the head: 408 and closed."""
    body_timeout_ms: int = 30_000
    """End of the head to the end of the body, for each MiB of body or part of one: 408."""
    write_timeout_ms: int = 30_000
    """The client took no byte of an answer for so long: closed."""
    half_close_ms: int = 2_000
    """A client closed its sending side: how long a request of it may still run."""
    linger_ms: int = 1_000
    """After the last answer of a connection: time for the client to read it and to close."""
    handshake_timeout_ms: int = 10_000
    """From the connect to the end of the TLS handshake."""
    drain_timeout_ms: int = 5_000
    """On shutdown: how long requests in flight may take before they are cut."""

    @property
    def descriptors(self) -> int:
        """Open files that one front needs for all of its connections."""
        return self.connections_max + _OWN_DESCRIPTORS


class FrontSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a front process needs to know; no field is optional without its default."""

    front: int
    """Number of this front, from 0."""
    listen_fd: int
    """The listening socket, bound by the supervisor and shared by all fronts."""
    partition_sockets: tuple[str, ...]
    """Path of each partition's Unix socket, in order of partition."""
    keystore_path: str
    """SQLite file of the embedded key store; used when ``redis_url`` is None."""
    clock_ahead_ms: int | None = None
    """See ``partitions.clock``; None: read the wall clock."""
    redis_url: str | None = None
    key_pepper: str | None = None
    auth_cache_ttl_ms: int = 5_000
    auth_grace_ms: int = 300_000
    default_max_retries: int = 3
    retry_backoff_ms: int = 1_000
    retry_backoff_max_ms: int = 600_000
    payload_bytes_max: int = 1 << 20
    tls_cert: str | None = None
    tls_key: str | None = None
    log_format: str = "text"
    log_level: str = "info"
    limits: DoorLimits = DoorLimits()
