"""What an operator is told when the node serves: its URL, and how to try it.

Development keys are logged in the contract's words (``Created client key: ...``); the lines
that use them go to standard output, so that what is pasted has no log prefix before it.
"""

import contextlib
import ipaddress
import logging
import socket
from collections.abc import Sequence
from typing import Final

import trio

from api.keystore.base import KeyStore, KeyStoreError, KeyStoreUnreachableError
from api.keystore.seed import SeededKey, seed_dev_keys
from queue_node.child import Child
from queue_node.config import Config
from queue_node.errors import ConfigError

_RETRY_FIRST_S: Final = 1.0
_RETRY_LONGEST_S: Final = 30.0
_CHILDREN_WAIT_S: Final = 10.0
"""How long the banner waits for everybody to serve; a long recovery must not hide the URL."""

_logger = logging.getLogger(__name__)


class Welcome:
    """Makes development keys when they are wanted, and prints the banner."""

    def __init__(
        self,
        config: Config,
        store: KeyStore,
        listener: socket.socket,
        url: str,
        children: Sequence[Child],
    ) -> None:
        self._config = config
        self._store = store
        self._seeding = wants_dev_keys(config, listener)
        self._url = url
        self._children = children

    async def run(self) -> None:
        """Return when the banner is printed.

        Raises:
            ConfigError: the key store can't be used as it is configured.
        """
        seeded = await self._reach_store()
        for key in seeded:
            _logger.info("%s", key.log_line)
        with trio.move_on_after(_CHILDREN_WAIT_S):
            for child in self._children:
                await child.serving.wait()
        tls = self._config.tls_cert is not None
        # Whoever closed standard output does not want the banner; the node goes on.
        with contextlib.suppress(OSError):
            print(banner(self._url, seeded, tls=tls), flush=True)  # noqa: T201 - for the operator

    async def _reach_store(self) -> list[SeededKey]:
        """Wait for the key store, however long, and make development keys if it is empty."""
        retry_s = _RETRY_FIRST_S
        while True:
            try:
                await trio.to_thread.run_sync(self._store.ping, abandon_on_cancel=True)
                return await seed_dev_keys(self._store) if self._seeding else []
            except KeyStoreUnreachableError as error:
                _logger.error(
                    "%s; trying again in %.0f s, keys can't be checked meanwhile (503)",
                    error,
                    retry_s,
                )
            except KeyStoreError as error:
                raise ConfigError(
                    "REDIS_URL", "***", f"the key store can't be used: {error}"
                ) from error
            await trio.sleep(retry_s)
            retry_s = min(_RETRY_LONGEST_S, retry_s * 2)


def wants_dev_keys(config: Config, listener: socket.socket) -> bool:
    """Whether an empty key store gets development keys."""
    match config.seed_dev_keys:
        case "always":
            return True
        case "never":
            return False
        case "auto":
            host = listener.getsockname()[0]
            return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def banner(url: str, seeded: Sequence[SeededKey], *, tls: bool) -> str:
    """The URL, and with fresh keys three lines to paste: submit, lease, ack."""
    lines = [f"Queue Node serves on {url}"]
    if not seeded:
        return lines[0]
    token = {key.type: key.token for key in seeded}
    # A certificate for development is rarely one that curl trusts.
    curl = "curl -sk" if tls else "curl -s"
    client = f"-H 'Authorization: Bearer {token['client']}'"
    worker = f"-H 'Authorization: Bearer {token['worker']}'"
    job_id = r"""$(printf %s "$LEASE" | sed 's/.*"job_id" *: *"\([^"]*\)".*/\1/')"""
    lines += [
        "",
        "Try it with the development keys, shown only this once:",
        "",
        f'{curl} {client} -d \'{{"payload": "hello"}}\' {url}/jobs',
        f'LEASE=$({curl} -X POST {worker} {url}/jobs/lease); echo "$LEASE"',
        f"{curl} -w '%{{http_code}}\\n' {worker} -d '{{\"result\": \"done\"}}' "
        f'"{url}/jobs/{job_id}/ack"',
        "",
        f"The admin key, which makes others (POST {url}/admin/keys): {token['admin']}",
        "",
    ]
    return "\n".join(lines)
