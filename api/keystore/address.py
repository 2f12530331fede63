"""``REDIS_URL`` -> where Redis is. No Redis client here, so the configuration may check it too.

Forms: ``redis://[user:password@]host[:port][/db]``, the same with ``rediss://`` (TLS, the
certificate verified), ``host:port``, ``unix:///path``.
"""

import ipaddress
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec

_OPTIONS: Final = frozenset({"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
"""What a query may set. Not ``ssl_cert_reqs``: verification is not to be turned off."""


class RedisAddress(msgspec.Struct, frozen=True):
    """A Redis server that may be used."""

    url: str
    shown: str
    """The address without user, password and options, for logs and errors."""

    def __repr__(self) -> str:
        return f"RedisAddress({self.shown})"


def parse_redis_url(text: str) -> RedisAddress:
    """Check a ``REDIS_URL``.

    Raises:
        ValueError: says what is wrong and what is allowed, never the password.
    """
    url = text if "://" in text else f"redis://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # Without the cause: its words quote the address, which may hold the password.
        raise ValueError(_allowed("does not parse")) from None
    if parts.scheme == "unix" and parts.path:
        return RedisAddress(url, f"unix://{parts.path}")
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(_allowed("has another scheme"))
    if not parts.hostname or ("://" not in text and port is None):
        raise ValueError(_allowed("names no host and port"))
    if parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise ValueError(_allowed("has a database that is no number"))
    if other := {name for name, _ in parse_qsl(parts.query)} - _OPTIONS:
        raise ValueError(f"option {min(other)} is not allowed; allowed: {', '.join(_OPTIONS)}")
    _refuse_open_server(parts)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return RedisAddress(url, f"{parts.scheme}://{host}:{port or 6379}{parts.path}")


def _refuse_open_server(parts: SplitResult) -> None:
    # Whoever can reach such a server can read, revoke and, without a pepper, make keys.
    if not parts.password and not _is_loopback(parts.hostname or ""):
        raise ValueError(
            f"Redis on {parts.hostname}, which is not this machine, without a password:"
            " set requirepass there and use redis://:password@host:port"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _allowed(what: str) -> str:
    return f"{what}; allowed: redis://host:port/db, rediss://host:port/db, host:port"
