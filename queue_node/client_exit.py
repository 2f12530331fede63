"""What the commands that talk to a node exit with, and which error means which. Pure."""

from enum import IntEnum
from typing import Final

from queue_node.errors import ExitCode, NodeError
from queue_node_sdk import (
    ConfigurationError,
    NotFound,
    QueueNodeError,
    TlsError,
    UnexpectedAnswer,
    Unreachable,
)


class ClientExit(IntEnum):
    """Exit codes of ``submit``, ``get``, ``jobs`` and the other commands of a client."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    INTERRUPTED = 5

    @property
    def meaning(self) -> str:
        """For ``--help`` and docs/cli.md."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    ClientExit.DONE: "done",
    ClientExit.REFUSED: "the node refused, or the job that was waited for did not succeed",
    ClientExit.USAGE: "wrong usage: an argument, the URL or the key cannot be right",
    ClientExit.UNREACHABLE: "the node cannot be reached, or what answers there is none",
    ClientExit.NOT_FOUND: "no such job or queue, or no job to lease",
    ClientExit.INTERRUPTED: "interrupted (Ctrl-C)",
}


class ClientUsageError(NodeError):
    """An argument cannot be right; nothing was sent."""

    exit_code = ExitCode.USAGE


def exit_of(error: QueueNodeError) -> ClientExit:
    """The exit code that tells a script what ``error`` was."""
    match error:
        # The order matters: who has no TLS there has a URL of somebody else, not a bad one.
        case TlsError() | Unreachable() | UnexpectedAnswer():
            return ClientExit.UNREACHABLE
        case ConfigurationError():
            return ClientExit.USAGE
        case NotFound():
            return ClientExit.NOT_FOUND
        case _:
            return ClientExit.REFUSED
