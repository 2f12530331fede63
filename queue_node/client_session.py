"""What every command of a client has: where the node is, how answers are shown, how it ends.

A command module gives ``run`` its ``act(session) -> exit code``. The errors of the SDK become
one line on standard error and an exit code here, and nowhere else.
"""

import argparse
import os
import ssl
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from queue_node.client_arguments import duration
from queue_node.client_exit import ClientExit, ClientUsageError, exit_of
from queue_node.client_output import Output
from queue_node_sdk import Client, QueueNodeError
from queue_node_sdk.calls import Call
from queue_node_sdk.protocol import Reply
from queue_node_sdk.settings import KEY_VARIABLE, URL_VARIABLE
from queue_node_sdk.transport import Transport

DEFAULT_URL: Final = "http://127.0.0.1:8080"
"""Where ``queue-node serve`` listens unless it is told otherwise."""

_RETRY_SECONDS: Final = 5.0
"""Somebody sits in front of it: shorter than the SDK's, longer than a restart of a partition."""

_REQUEST_SECONDS: Final = 10.0
"""As the SDK's: one try."""


@dataclass(frozen=True)
class Target:
    """Which node, with which key, and how patiently."""

    url: str
    key: str
    retry_seconds: float
    verify: ssl.SSLContext | bool

    def client(self) -> Client:
        """For jobs and queues; nothing is sent yet.

        Raises:
            ConfigurationError: the URL or the key cannot be right.
        """
        return Client(self.url, self.key, retry_for=self.retry_seconds, verify=self.verify)


@dataclass(frozen=True)
class Session:
    """One command under way."""

    arguments: argparse.Namespace
    target: Target
    client: Client
    output: Output
    tidy: ExitStack
    """What is closed at its end."""

    def exchange(self, call: Call) -> Reply:
        """What ``Client`` has no method for: a worker's calls.

        Raises:
            QueueNodeError: the refusal, or the trouble that outlasted the patience.
        """
        return self._transport.exchange(call, self.target.retry_seconds)

    @cached_property
    def _transport(self) -> Transport:
        target = self.target
        made = Transport(
            target.url, target.key, request_timeout=_REQUEST_SECONDS, verify=target.verify
        )
        self.tidy.callback(made.close)
        return made


def add_common(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` what all client commands take."""
    group = parser.add_argument_group("the node")
    group.add_argument(
        "--url", metavar="URL", help=f"where it is ({URL_VARIABLE}, else {DEFAULT_URL})"
    )
    group.add_argument(
        "--key",
        metavar="KEY",
        help=f"an API key ({KEY_VARIABLE}, which other users of the machine cannot see)",
    )
    group.add_argument(
        "--ca-file", metavar="FILE", help="certificates to trust instead of the system's (PEM)"
    )
    group.add_argument(
        "--retry-for",
        type=duration,
        default=_RETRY_SECONDS,
        metavar="DURATION",
        help="how long a node that is away or overloaded is tried again (5s; 0: once)",
    )
    parser.add_argument(
        "--json",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="one JSON object a line (the default for tables that do not go to a terminal)",
    )
    codes = "\n".join(f"  {code.value}  {code.meaning}" for code in ClientExit)
    parser.epilog = f"Exit codes:\n\n{codes}"


def run(arguments: argparse.Namespace, act: Callable[[Session], int]) -> int:
    """Do ``act`` with a client for the node that ``arguments`` name; returns the exit code.

    Raises:
        ClientUsageError: an argument cannot be right.
    """
    target = target_of(arguments)
    try:
        with ExitStack() as tidy:
            client = tidy.enter_context(target.client())
            output = Output(as_json=arguments.json)
            code = act(Session(arguments, target, client, output, tidy))
            sys.stdout.flush()
            return code
    except QueueNodeError as error:
        code = exit_of(error)
        # Who forgot --url waits for a node that nobody started: say which one was asked.
        where = f" ({target.url})" if code is ClientExit.UNREACHABLE else ""
        complain(f"{error}{where}")
        return code
    except BrokenPipeError:
        # Who reads has had enough (`| head`), which is no failure. Python would complain once
        # more when it flushes at its end, so what is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ClientExit.DONE


def target_of(arguments: argparse.Namespace) -> Target:
    """Which node the arguments and the environment name.

    Raises:
        ClientUsageError: there is no key, or no such file of certificates.
    """
    key = arguments.key or os.environ.get(KEY_VARIABLE)
    if not key:
        raise ClientUsageError(f"no key: set {KEY_VARIABLE}, or give --key")
    url = arguments.url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    return Target(url, key, arguments.retry_for, _trust(arguments.ca_file))


def _trust(path: str | None) -> ssl.SSLContext | bool:
    if path is None:
        return True
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ClientUsageError(f"--ca-file {path}: {error}") from error


def complain(words: str) -> None:
    """One line on standard error."""
    print(f"queue-node: {words}", file=sys.stderr)


def for_each(items: Iterable[str], act: Callable[[str], None]) -> int:
    """Do ``act`` to each of ``items``, to the rest too when one fails.

    Returns the exit code of the first that failed.

    Raises:
        QueueNodeError: the node cannot be reached, so that the rest need not be tried.
    """
    code = ClientExit.DONE
    for item in items:
        try:
            act(item)
        except QueueNodeError as error:
            if (failed := exit_of(error)) is ClientExit.UNREACHABLE:
                raise
            complain(str(error))
            code = code or failed
    return code
