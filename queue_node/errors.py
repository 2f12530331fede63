"""Why a node does not start, or did not stop well: each with its exit code.

The message is one line for the operator; ``queue_node.cli`` prints it without a traceback.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What ``queue-node serve`` exits with."""

    DRAINED = 0
    FAULT = 1
    USAGE = 2
    ADDRESS = 3
    DIRECTORY = 4
    CUT_SHORT = 5

    @property
    def meaning(self) -> str:
        """For ``--help`` and README.md."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.DRAINED: "drained: everything in flight was finished",
    ExitCode.FAULT: "a fault of the node itself; its traceback is in the log",
    ExitCode.USAGE: "wrong usage, or a configuration variable with a wrong value",
    ExitCode.ADDRESS: "HOST and PORT can't be listened on (in use, not ours, not allowed)",
    ExitCode.DIRECTORY: "WAL_DIR can't be used (unwritable, in use, other PARTITIONS)",
    ExitCode.CUT_SHORT: "stopped before the drain was over (second signal, or over 10 s)",
}


class NodeError(Exception):
    """Base: the node can't go on, and says why in one line."""

    exit_code = ExitCode.FAULT


class ConfigError(NodeError):
    """A configuration variable has a value that is not allowed."""

    exit_code = ExitCode.USAGE

    def __init__(self, variable: str, shown: str, reason: str) -> None:
        super().__init__(f"{variable}={shown}: {reason}")
        self.variable = variable


def pepper_refused(pepper: str | None, error: Exception) -> ConfigError:
    """The keys were made under another pepper; ``error`` says under which kind."""
    return ConfigError("KEY_PEPPER", "***" if pepper else "", str(error))


class AddressError(NodeError):
    """The address can't be listened on."""

    exit_code = ExitCode.ADDRESS


class DirectoryError(NodeError):
    """The data directory can't be used."""

    exit_code = ExitCode.DIRECTORY
