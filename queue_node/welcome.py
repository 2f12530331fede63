"""What an operator is told when the node serves: its URL, and how to try it.

Development keys are logged in the contract's words (``Created client key: ...``); the lines
that use them go to standard output, so that what is pasted has no log prefix before it.
Where the log is JSON somebody's program reads it, and perhaps both streams as one: then nothing
is printed, and everything is a record.
"""

import contextlib
import ipaddress
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from api.keystore.base import (
    KeyStore,
    KeyStoreError,
    KeyStoreUnreachableError,
    OtherPepperError,
)
from api.keystore.seed import SeededKey, seed_dev_keys
from queue_node.child import Child
from queue_node.config import Config
from queue_node.errors import ConfigError, pepper_refused

_RETRY_FIRST_S: Final = 1.0
_RETRY_LONGEST_S: Final = 30.0
_CHILDREN_WAIT_S: Final = 10.0
"""How long the banner waits for everybody to serve; a long recovery must not hide the URL."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Banner:
    """What is said once the node serves, and how."""

    url: str
    beyond: str
    """Where else it is reached, in words; may be empty."""
    tls: bool = False
    as_json: bool = False

    @property
    def first_line(self) -> str:
        """The URL, and whether others than this machine get in."""
        return f"Queue Node serves on {self.url}" + (f" and {self.beyond}" if self.beyond else "")


class Welcome:
    """Makes development keys when they are wanted, and says that the node serves."""

    def __init__(
        self,
        config: Config,
        store: KeyStore,
        listener: socket.socket,
        banner: Banner,
        children: Sequence[Child],
    ) -> None:
        self._config = config
        self._store = store
        self._seeding = wants_dev_keys(config, listener)
        self._banner = banner
        self._children = children

    async def run(self) -> None:
        """Return when all is said.

        Raises:
            ConfigError: the key store can't be used as it is configured.
        """
        seeded = await self._reach_store()
        for key in seeded:
            _logger.log(self._once, "%s", key.log_line)
        with trio.move_on_after(_CHILDREN_WAIT_S):
            for child in self._children:
                await child.serving.wait()
        if self._banner.as_json:
            _logger.info("%s", self._banner.first_line)
            return
        # Whoever closed standard output does not want the banner; the node goes on.
        with contextlib.suppress(OSError):
            print(banner_text(self._banner, seeded), flush=True)  # noqa: T201 - for the operator

    @property
    def _once(self) -> int:
        """The level of what is shown now or never: where no banner has it, no level hides it."""
        return max(logging.INFO, _logger.getEffectiveLevel() if self._banner.as_json else 0)

    async def _prepare_store(self) -> list[SeededKey]:
        await trio.to_thread.run_sync(self._store.ping, abandon_on_cancel=True)
        await trio.to_thread.run_sync(self._store.check_pepper)
        if self._seeding:
            return await seed_dev_keys(self._store)
        if await trio.to_thread.run_sync(self._store.is_empty):
            _logger.warning(
                "there are no keys in %s, so nobody can do anything yet: make the first with "
                "`queue-node keys create --type admin --owner OWNER --name NAME`",
                self._store.name,
            )
        return []

    async def _reach_store(self) -> list[SeededKey]:
        """Wait for the key store, however long, and make development keys if it is empty."""
        retry_s = _RETRY_FIRST_S
        while True:
            try:
                return await self._prepare_store()
            except KeyStoreUnreachableError as error:
                _logger.error(
                    "%s; trying again in %.0f s, keys can't be checked meanwhile (503)",
                    error,
                    retry_s,
                )
            except OtherPepperError as error:
                raise pepper_refused(self._config.key_pepper, error) from error
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


def banner_text(banner: Banner, seeded: Sequence[SeededKey]) -> str:
    """The URL, and with fresh keys three lines to paste: submit, lease, ack."""
    url = banner.url
    lines = [banner.first_line]
    if not seeded:
        return lines[0]
    token = {key.type: key.token for key in seeded}
    # A certificate for development is rarely one that curl trusts.
    curl = "curl -sk" if banner.tls else "curl -s"
    client = f"-H 'Authorization: Bearer {token['client']}'"
    worker = f"-H 'Authorization: Bearer {token['worker']}'"
    job_id = r"""$(printf %s "$LEASE" | sed 's/.*"job_id" *: *"\([^"]*\)".*/\1/')"""
    fence = r"""$(printf %s "$LEASE" | sed 's/.*"lease_token" *: *"\([^"]*\)".*/\1/')"""
    lines += [
        "",
        "Try it with the development keys, shown only this once:",
        "",
        f'{curl} {client} -d \'{{"payload": "hello"}}\' {url}/jobs',
        f'LEASE=$({curl} -X POST {worker} {url}/jobs/lease); echo "$LEASE"',
        f"{curl} -w '%{{http_code}}\\n' {worker} "
        f'-d "{{\\"result\\": \\"done\\", \\"lease_token\\": \\"{fence}\\"}}" '
        f'"{url}/jobs/{job_id}/ack"',
        "",
        f"The admin key, which makes others (POST {url}/admin/keys): {token['admin']}",
        "",
    ]
    return "\n".join(lines)
