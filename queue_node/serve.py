"""``queue-node serve``: everything that can be refused is refused before a child starts."""

import argparse
import logging
import os
import resource
import socket
import ssl
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import msgspec
import trio
from setproctitle import setproctitle

from api.keystore import open_keystore
from api.keystore.base import KeyStore, KeyStoreError, OtherPepperError
from api.settings import DoorLimits
from partitions import logs
from partitions.clock import wall_ahead_ms
from queue_node import address, config
from queue_node.child import Child, Program
from queue_node.config import Config
from queue_node.directory import DataDirectory, hold
from queue_node.errors import ConfigError, DirectoryError, ExitCode, pepper_refused
from queue_node.supervisor import Supervisor, hear_stop_signals, ignore_stop_signals
from queue_node.welcome import Banner, Welcome

# A node that was killed leaves fronts that hold the port until they have drained.
_PORT_PATIENCE_S: Final = 10.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Commands:
    """What the children are: tests bring smaller ones."""

    # -P: a folder named `api` where the operator happens to stand is not our package.
    partition: Sequence[str] = (sys.executable, "-P", "-m", "partitions")
    front: Sequence[str] = (sys.executable, "-P", "-m", "api")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: a node is configured by its environment."""
    del parser


def run(_arguments: argparse.Namespace) -> int:
    """Serve until told to stop; returns the exit code.

    Raises:
        NodeError: the node can't start, or its key store can't be used.
    """
    return serve(config.read(os.environ), Commands())


def serve(settings: Config, commands: Commands) -> ExitCode:
    """The same with a configuration and the children's command lines.

    Raises:
        NodeError: see ``run``.
    """
    log_format = settings.log_format or ("text" if sys.stderr.isatty() else "json")
    logs.configure(log_format, settings.log_level, "supervisor")
    setproctitle("queue-node: supervisor")
    # Files of the node and of its children are the owner's alone (SECURITY: 0600, 0700).
    os.umask(0o077)
    _check_tls(settings)
    with hold(settings.wal_dir) as directory:
        partitions = directory.settle_partitions(settings.partitions, _half_the_cores())
        patience_s = _PORT_PATIENCE_S if directory.after_a_crash else 0.0
        with (
            address.listen(settings.host, settings.port, patience_s) as listener,
            closing(_open_store(settings, directory)) as store,
        ):
            raise_file_limit(settings.limits)
            directory.keep_partitions(partitions)
            node = _Assembly(settings, commands, directory, partitions, listener, log_format)
            return node.run(store)


class _Assembly:
    """The parts of a node that is about to start."""

    def __init__(
        self,
        settings: Config,
        commands: Commands,
        directory: DataDirectory,
        partitions: int,
        listener: socket.socket,
        log_format: str,
    ) -> None:
        self._settings = settings
        self._commands = commands
        self._directory = directory
        self._partitions = partitions
        self._listener = listener
        self._log_format = log_format
        self._clock_ahead_ms = wall_ahead_ms()

    def run(self, store: KeyStore) -> ExitCode:
        """Run it to its end."""
        partitions = [self._partition(number) for number in range(self._partitions)]
        count = self._settings.fronts or _half_the_cores()
        fronts = [self._front(number) for number in range(count)]
        url = address.url_of(self._listener, tls=self._settings.tls_cert is not None)
        beyond = address.beyond(self._listener)
        _logger.info(
            "listening on %s%s; fronts: %d, partitions: %d, data: %s, keys: %s",
            url,
            f" and {beyond}" if beyond else "",
            len(fronts),
            len(partitions),
            self._directory.path,
            store.name,
        )
        children = [*partitions, *fronts]
        banner = Banner(
            url, beyond, tls=self._settings.tls_cert is not None, as_json=self._log_format == "json"
        )
        welcome = Welcome(self._settings, store, self._listener, banner, children)
        drain_s = self._settings.limits.drain_timeout_ms / 1000
        supervisor = Supervisor(
            partitions, fronts, self._listener, front_drain_s=drain_s, heard=hear_stop_signals()
        )
        try:
            return trio.run(supervisor.run, welcome.run)
        finally:
            ignore_stop_signals()

    def _partition(self, number: int) -> Child:
        told = self._settings.partition_settings(
            number,
            self._partitions,
            str(self._directory.partition_path(number)),
            str(self._directory.partition_socket(number)),
            self._log_format,
            self._clock_ahead_ms,
        )
        program = Program(self._commands.partition, msgspec.json.encode(told))
        return Child(f"partition {number}", program)

    def _front(self, number: int) -> Child:
        sockets = [self._directory.partition_socket(index) for index in range(self._partitions)]
        told = self._settings.front_settings(
            number,
            self._listener.fileno(),
            tuple(str(path) for path in sockets),
            str(self._directory.keystore_path),
            self._log_format,
            self._clock_ahead_ms,
        )
        program = Program(
            self._commands.front, msgspec.json.encode(told), (self._listener.fileno(),)
        )
        return Child(f"front {number}", program)


def _half_the_cores() -> int:
    """Of those that this process may use (a container may have fewer than the machine).

    Fronts as many as partitions: on two cores one of each did 23,700 submits/s at 64
    connections and 6,700 full cycles/s, two fronts 17,000 and 5,000. Fewer processes make
    larger batches.
    """
    return max(1, len(os.sched_getaffinity(0)) // 2)


def raise_file_limit(limits: DoorLimits) -> None:
    """A connection is a file: take all that the system allows, and say if it is too little."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Children inherit it.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < limits.descriptors:
        _logger.warning(
            "a process may open %d files, and a front with MAX_CONNECTIONS=%d needs %d: clients "
            "beyond them will wait; raise the limit (ulimit -n, LimitNOFILE) or lower "
            "MAX_CONNECTIONS",
            hard,
            limits.connections_max,
            limits.descriptors,
        )


def _check_tls(settings: Config) -> None:
    """Load the certificate once here: fronts that can't would only die again and again."""
    if settings.tls_cert is None or settings.tls_key is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # No pass phrase: asked on the terminal, every front would wait for one.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (OSError, ssl.SSLError) as error:
        shown = f"{settings.tls_cert} TLS_KEY={settings.tls_key}"
        reason = (
            f"must be a readable certificate chain and its key, PEM, without pass phrase ({error})"
        )
        raise ConfigError("TLS_CERT", shown, reason) from error


def _open_store(settings: Config, directory: DataDirectory) -> KeyStore:
    store: KeyStore | None = None
    try:
        store = open_keystore(settings.redis_url, str(directory.keystore_path), settings.key_pepper)
        if settings.redis_url is None:
            # Redis may be down: there ``Welcome`` does it, once it answers.
            store.check_pepper()
    except KeyStoreError as error:
        if store is not None:
            store.close()
        if isinstance(error, OtherPepperError):
            raise pepper_refused(settings.key_pepper, error) from error
        if settings.redis_url is None:
            raise DirectoryError(f"WAL_DIR={directory.path}: {error}") from error
        raise ConfigError("REDIS_URL", "***", f"the key store can't be used: {error}") from error
    return store
