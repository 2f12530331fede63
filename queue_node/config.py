"""The node's configuration: read once from the environment, validated, frozen.

``VARIABLES`` is the one list of what can be set: ``read`` goes by it, ``--help`` prints it,
and a test holds README.md's table to it. Defaults are those of the structs' fields, so a
limit of the door has its default in ``api.settings`` and nowhere else.

An empty variable counts as unset (that is how compose passes on what nobody set). A
variable that is not in the list is none of our business.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from api.keystore.address import parse_redis_url
from api.settings import DoorLimits, FrontSettings
from partitions import limits, logs
from partitions.settings import PartitionSettings
from queue_node.errors import ConfigError
from queue_node.values import Choice, Count, Duration, Kind, NotAllowedError, Size, Text

SeedDevKeys = Literal["auto", "always", "never"]

PARTITIONS_MAX: Final = 1024
_FRONTS_MAX: Final = 256
# Fronts drain first and partitions after them, all within DRAIN_SECONDS_MAX.
DRAIN_SECONDS_MAX: Final = 10.0
_DRAIN_MS_MAX: Final = 8_000
_MEMORY_MAX: Final = 1 << 40


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. Field names are ours, ``VARIABLES`` has the operator's."""

    host: str = "127.0.0.1"
    port: int = 8080
    wal_dir: str = "./data"
    partitions: int | None = None
    """None: what the data directory was made with; for a new one, half the cores."""
    fronts: int | None = None
    """None: half the cores, for the partitions and the system want the other half."""
    lease_duration_ms: int = 30_000
    lease_check_interval_ms: int = 5_000
    redis_url: str | None = None
    default_max_retries: int = 3
    retry_backoff_ms: int = 1_000
    retry_backoff_max_ms: int = 600_000
    retention_ms: int = 86_400_000
    dead_retention_ms: int = 604_800_000
    payload_bytes_max: int = 1 << 20
    jobs_max: int | None = None
    """None: as many as there is room for."""
    disk_free_min_bytes: int = 64 << 20
    auth_cache_ttl_ms: int = 5_000
    auth_grace_ms: int = 300_000
    seed_dev_keys: SeedDevKeys = "auto"
    key_pepper: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    log_format: logs.Format | None = None
    """None: text on a terminal, else json."""
    log_level: logs.Level = "info"
    limits: DoorLimits = DoorLimits()

    def partition_settings(
        self,
        partition: int,
        partitions: int,
        directory: str,
        socket: str,
        log_format: str,
        clock_ahead_ms: int,
    ) -> PartitionSettings:
        """What partition number ``partition`` is told."""
        return PartitionSettings(
            partition=partition,
            partitions=partitions,
            directory=directory,
            socket=socket,
            clock_ahead_ms=clock_ahead_ms,
            lease_check_interval_ms=self.lease_check_interval_ms,
            retry_backoff_ms=self.retry_backoff_ms,
            retry_backoff_max_ms=self.retry_backoff_max_ms,
            retention_ms=self.retention_ms,
            dead_retention_ms=self.dead_retention_ms,
            lease_duration_ms=self.lease_duration_ms,
            jobs_max=None if self.jobs_max is None else -(-self.jobs_max // partitions),
            disk_free_min_bytes=self.disk_free_min_bytes,
            log_format=log_format,
            log_level=self.log_level,
        )

    def front_settings(
        self,
        front: int,
        listen_fd: int,
        partition_sockets: tuple[str, ...],
        keystore_path: str,
        log_format: str,
        clock_ahead_ms: int,
    ) -> FrontSettings:
        """What front number ``front`` is told."""
        return FrontSettings(
            front=front,
            listen_fd=listen_fd,
            partition_sockets=partition_sockets,
            keystore_path=keystore_path,
            clock_ahead_ms=clock_ahead_ms,
            redis_url=self.redis_url,
            key_pepper=self.key_pepper,
            auth_cache_ttl_ms=self.auth_cache_ttl_ms,
            auth_grace_ms=self.auth_grace_ms,
            default_max_retries=self.default_max_retries,
            retry_backoff_ms=self.retry_backoff_ms,
            retry_backoff_max_ms=self.retry_backoff_max_ms,
            payload_bytes_max=self.payload_bytes_max,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            log_format=log_format,
            log_level=self.log_level,
            limits=self.limits,
        )


@dataclass(frozen=True)
class RedisUrl:
    """See ``api.keystore.address``, which has the rules."""

    allowed: str = "redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss://..., or HOST:PORT"

    def parse(self, text: str) -> str:
        """The whole URL."""
        try:
            return parse_redis_url(text).url
        except ValueError as error:
            raise NotAllowedError(str(error)) from error

    def show(self, value: object) -> str:
        """Nothing of it: it may hold a password."""
        return "***" if value else ""


@dataclass(frozen=True)
class Variable:
    """One environment variable: its name, the field that it sets, what it may be."""

    name: str
    field: str
    kind: Kind
    meaning: str
    unset: str = "none"
    """In words, what happens when it is unset and the field's default is None."""
    secret: bool = False
    """Never shown, not even when it is wrong."""

    @property
    def default(self) -> str:
        """The default as an operator would write it, or in words."""
        value: object = Config()
        for name in self.field.split("."):
            value = getattr(value, name)
        return self.unset if value is None else self.kind.show(value)


_TIMEOUT: Final = Duration(least_ms=10, most_ms=3_600_000)
_WAIT: Final = Duration(least_ms=0)
_SEED_WORDS: Final[dict[str, object]] = {
    "auto": "auto",
    "1": "always",
    "0": "never",
    "true": "always",
    "false": "never",
    "always": "always",
    "never": "never",
}

VARIABLES: Final = (
    Variable("HOST", "host", Text(), "address to listen on; `0.0.0.0` or `::` for all"),
    Variable("PORT", "port", Count(0, 65535), "port; 0 takes a free one"),
    Variable("WAL_DIR", "wal_dir", Text(), "the data directory, made when missing"),
    Variable(
        "PARTITIONS",
        "partitions",
        Count(1, PARTITIONS_MAX),
        "partition processes; `queue-node reshard` changes it",
        unset="half the cores, at least 1",
    ),
    Variable(
        "FRONTS",
        "fronts",
        Count(1, _FRONTS_MAX),
        "front processes",
        unset="half the cores, at least 1",
    ),
    Variable(
        "LEASE_DURATION",
        "lease_duration_ms",
        Duration(least_ms=100),
        "how long a worker holds a job that it leased",
    ),
    Variable(
        "LEASE_CHECK_INTERVAL",
        "lease_check_interval_ms",
        Duration(least_ms=10, most_ms=3_600_000),
        "the longest that a partition sleeps between looks at its deadlines",
    ),
    Variable(
        "REDIS_URL",
        "redis_url",
        RedisUrl(),
        "key store shared by several nodes; `HOST:6379` works too",
        unset="none: SQLite in `WAL_DIR`",
        secret=True,
    ),
    Variable(
        "DEFAULT_MAX_RETRIES",
        "default_max_retries",
        Count(0, limits.ATTEMPTS_MAX),
        "attempts of a job that does not say `max_retries`",
    ),
    Variable("RETRY_BACKOFF", "retry_backoff_ms", _WAIT, "delay after the first failure; doubles"),
    Variable("RETRY_BACKOFF_MAX", "retry_backoff_max_ms", _WAIT, "the longest such delay"),
    Variable("RETENTION", "retention_ms", _WAIT, "how long a finished job stays readable"),
    Variable("DEAD_RETENTION", "dead_retention_ms", _WAIT, "the same for a DEAD job"),
    Variable(
        "MAX_PAYLOAD",
        "payload_bytes_max",
        Size(1, limits.TEXT_BYTES_MAX),
        "longest payload or result: 413 beyond it",
    ),
    Variable(
        "MAX_JOBS",
        "jobs_max",
        Count(1, 1 << 40),
        "unfinished jobs of the node, shared evenly by its partitions: 429 beyond it",
        unset="none",
    ),
    Variable(
        "DISK_FREE_MIN",
        "disk_free_min_bytes",
        Size(0, _MEMORY_MAX),
        "free space of the file system of `WAL_DIR` below which submits are refused: 507",
    ),
    Variable(
        "AUTH_CACHE_TTL",
        "auth_cache_ttl_ms",
        Duration(least_ms=0, most_ms=3_600_000),
        "how long a front trusts a key without asking the key store",
    ),
    Variable(
        "AUTH_GRACE",
        "auth_grace_ms",
        Duration(least_ms=0),
        "how long known keys go on working while Redis is down",
    ),
    Variable(
        "SEED_DEV_KEYS",
        "seed_dev_keys",
        Choice(_SEED_WORDS),
        "make and log development keys when the key store is empty: `auto` only when "
        "`HOST` is loopback, `1` always, `0` never",
    ),
    Variable(
        "KEY_PEPPER",
        "key_pepper",
        Text(),
        "secret that key hashes are made with (HMAC-SHA-256); never change it",
        unset="none: SHA-256",
        secret=True,
    ),
    Variable("TLS_CERT", "tls_cert", Text(), "certificate chain (PEM): HTTPS, HTTP/2 by ALPN"),
    Variable("TLS_KEY", "tls_key", Text(), "its private key (PEM)"),
    Variable(
        "LOG_FORMAT",
        "log_format",
        Choice({word: word for word in logs.FORMATS}),
        "`text`, or `json`: one object per line",
        unset="`text` on a terminal, else `json`",
    ),
    Variable(
        "LOG_LEVEL",
        "log_level",
        Choice({word: word for word in logs.LEVELS}),
        "`debug`, `info`, `warning` or `error`",
    ),
    Variable(
        "MAX_BODY",
        "limits.body_bytes_max",
        Size(1 << 10, 1 << 30),
        "longest request body: 413 beyond it",
    ),
    Variable(
        "MAX_BODIES",
        "limits.bodies_bytes_max",
        Size(1 << 10, _MEMORY_MAX),
        "request bodies in memory of one front, all together: 503 beyond it",
    ),
    Variable(
        "MAX_HEAD",
        "limits.head_bytes_max",
        Size(256, 1 << 20),
        "request line and headers: 431 beyond it",
    ),
    Variable("MAX_URL", "limits.url_bytes_max", Size(64, 1 << 20), "request target: 414 beyond it"),
    Variable("MAX_HEADERS", "limits.headers_max", Count(4, 10_000), "header lines: 431 beyond it"),
    Variable(
        "MAX_CONNECTIONS",
        "limits.connections_max",
        Count(1, 1_000_000),
        "open connections of one front",
    ),
    Variable(
        "MAX_CONNECTIONS_PER_ADDRESS",
        "limits.connections_per_address_max",
        Count(1, 1_000_000),
        "the same from one client address",
    ),
    Variable(
        "MAX_PIPELINED",
        "limits.pipelined_max",
        Count(1, 10_000),
        "requests read ahead of the one being answered, per connection",
    ),
    Variable(
        "MAX_OUTPUT",
        "limits.output_bytes_max",
        Size(1 << 10, _MEMORY_MAX),
        "answers that a connection may hold unsent",
    ),
    Variable("IDLE_TIMEOUT", "limits.idle_timeout_ms", _TIMEOUT, "no byte of a next request"),
    Variable(
        "HEAD_TIMEOUT", "limits.head_timeout_ms", _TIMEOUT, "first byte to end of the head: 408"
    ),
    Variable("BODY_TIMEOUT", "limits.body_timeout_ms", _TIMEOUT, "for each MiB of a body: 408"),
    Variable(
        "WRITE_TIMEOUT",
        "limits.write_timeout_ms",
        _TIMEOUT,
        "the client takes no byte of an answer",
    ),
    Variable(
        "HALF_CLOSE_TIMEOUT",
        "limits.half_close_ms",
        _TIMEOUT,
        "the client closed its sending side: how long a request of it may still run",
    ),
    Variable(
        "LINGER_TIMEOUT",
        "limits.linger_ms",
        _TIMEOUT,
        "after the last answer: for the client to read it and to close",
    ),
    Variable(
        "HANDSHAKE_TIMEOUT",
        "limits.handshake_timeout_ms",
        _TIMEOUT,
        "connect to end of the TLS handshake",
    ),
    Variable(
        "DRAIN_TIMEOUT",
        "limits.drain_timeout_ms",
        Duration(least_ms=0, most_ms=_DRAIN_MS_MAX),
        "on shutdown: how long requests in flight may take",
    ),
)


def read(environment: Mapping[str, str]) -> Config:
    """The configuration that ``environment`` asks for.

    Raises:
        ConfigError: a value is not allowed, or does not fit another one.
    """
    top: dict[str, object] = {}
    door: dict[str, object] = {}
    for variable in VARIABLES:
        if text := environment.get(variable.name, "").strip():
            scope, _, name = variable.field.rpartition(".")
            (door if scope else top)[name] = _parse(variable, text)
    config = msgspec.convert(top | {"limits": door}, Config)
    _check_pairs(config)
    return config


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``, as far as its name tells."""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def _parse(variable: Variable, text: str) -> object:
    try:
        return variable.kind.parse(text)
    except NotAllowedError as error:
        shown = "***" if variable.secret else logs.neutralise(text)[:100]
        reason = str(error) or f"must be {variable.kind.allowed}"
        raise ConfigError(variable.name, shown, reason) from None


def _check_pairs(config: Config) -> None:
    if (config.tls_cert is None) != (config.tls_key is None):
        missing = "TLS_KEY" if config.tls_key is None else "TLS_CERT"
        raise ConfigError(missing, "", "must be set as well: TLS needs both TLS_CERT and TLS_KEY")
    if config.retry_backoff_max_ms < config.retry_backoff_ms:
        shown = _show("RETRY_BACKOFF_MAX", config.retry_backoff_max_ms)
        raise ConfigError("RETRY_BACKOFF_MAX", shown, "must be at least RETRY_BACKOFF")
    if config.limits.body_bytes_max < config.payload_bytes_max:
        shown = _show("MAX_BODY", config.limits.body_bytes_max)
        raise ConfigError("MAX_BODY", shown, "must be at least MAX_PAYLOAD")


def _show(name: str, value: object) -> str:
    return next(variable.kind.show(value) for variable in VARIABLES if variable.name == name)
