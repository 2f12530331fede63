"""Entry point of a front process; the supervisor starts it (``partitions.child`` has the protocol).

Exit codes: 0 drained; 1 a fault, start me again. A key store or a certificate that can't be
used is a fault too: one line says what is wrong.
"""

import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, cast

import trio
from setproctitle import setproctitle

from api.app import create_app
from api.endpoints import JobEndpoints
from api.front import Front, raise_descriptor_limit, tls_context
from api.keyring import Keyring
from api.keystore import open_keystore
from api.keystore.base import KeyStoreError
from api.lane import Lane
from api.operations import Operations
from api.partition_client import PartitionClient
from api.services import Services
from api.settings import FrontSettings
from partitions import logs
from partitions.child import read_settings, say_ready, told_to_stop
from partitions.clock import Clock, SystemClock

if TYPE_CHECKING:
    from api.asgi import AsgiApp

EXIT_FAULT: Final = 1
_PARTITIONS_WAIT_S: Final = 1.0

_logger: Final = logging.getLogger("queue_node.front")


@asynccontextmanager
async def build_services(settings: FrontSettings, clock: Clock) -> AsyncIterator[Services]:
    """Everything behind the two ways in, running until the block ends.

    Raises:
        KeyStoreError: the key store can't be used.
    """
    paths = settings.partition_sockets
    clients = [PartitionClient(i, len(paths), path) for i, path in enumerate(paths)]
    store = open_keystore(settings.redis_url, settings.keystore_path, settings.key_pepper)
    try:
        keyring = Keyring(
            store, cache_ttl_ms=settings.auth_cache_ttl_ms, grace_ms=settings.auth_grace_ms
        )
        operations = Operations(clients, clock=clock)
        endpoints = JobEndpoints(keyring, operations, settings)
        async with trio.open_nursery() as nursery:
            await nursery.start(keyring.run)
            nursery.start_soon(operations.run)
            if settings.front == 0:
                nursery.start_soon(operations.sweep_claims)
            for client in clients:
                nursery.start_soon(client.run)
            # Whoever accepts before it has met its partitions answers 503 for nothing. Not for
            # long: one that recovers for minutes must not keep clients from the others.
            with trio.move_on_after(_PARTITIONS_WAIT_S):
                for client in clients:
                    await client.wait_serving()
            yield Services(keyring, operations, endpoints, settings)
            nursery.cancel_scope.cancel()
    finally:
        store.close()


async def _serve(settings: FrontSettings, tls: ssl.SSLContext | None) -> None:
    listener = socket.socket(fileno=settings.listen_fd)
    clock = SystemClock(ahead_ms=settings.clock_ahead_ms)
    async with build_services(settings, clock) as services:
        app = cast("AsgiApp", create_app(services))
        front = Front(listener, Lane(services.endpoints), app, settings.limits, tls, clock)
        async with trio.open_nursery() as nursery:
            await nursery.start(front.run)
            say_ready()
            await told_to_stop()
            services.operations.drain()
            front.drain()


def main() -> int:
    """Serve until told to stop, drain; returns the exit code."""
    settings = read_settings(FrontSettings)
    name = f"front {settings.front}"
    setproctitle(f"queue-node: {name}")
    logs.configure(settings.log_format, settings.log_level, name)
    raise_descriptor_limit(settings.limits.descriptors)
    try:
        tls = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            tls = tls_context(settings.tls_cert, settings.tls_key)
    except OSError as error:
        _logger.critical("TLS_CERT, TLS_KEY: %s", error)
        return EXIT_FAULT
    try:
        trio.run(_serve, settings, tls, strict_exception_groups=True)
    except KeyStoreError as error:
        _logger.critical("this front does not start: %s", error)
        return EXIT_FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
