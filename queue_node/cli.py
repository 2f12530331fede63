"""What an operator types: ``queue-node COMMAND``.

Each command is a module with ``add_arguments(parser)`` and ``run(arguments) -> exit code``.
Only the module of the command that was typed is imported, so ``--help`` is quick, and a
node without load generator or demo would still serve.
"""

import argparse
import importlib
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final, Protocol, cast

from queue_node.errors import ExitCode, NodeError


class CommandModule(Protocol):
    """What the module of a command has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say what may follow the command's name."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit code."""


@dataclass(frozen=True)
class Command:
    """A command's name, the module that does it, and one line of help."""

    name: str
    module: str
    help: str


_OURS: Final = frozenset(("queue_node", "api", "partitions"))
"""Without one of these it is our fault, and the traceback is wanted."""

_HOW_TO_INSTALL: Final = {
    "queue_node_sdk": (
        "queue-node-sdk (`pip install queue-node-sdk`, or `pip install ./sdk` in a checkout)"
    ),
    "bench": "bench, the load generator (it comes with a checkout of the project)",
}

COMMANDS: Final = (
    Command("serve", "queue_node.serve", "run a node until it is told to stop"),
    Command("keys", "queue_node.keys", "make, list and revoke API keys"),
    Command("backup", "queue_node.backup", "copy a node's data, while it runs"),
    Command("restore", "queue_node.restore", "make a data directory of a backup"),
    Command("reshard", "queue_node.reshard", "move a stopped node to other partitions"),
    Command("verify", "queue_node.verify", "check a node's data, while it runs or not"),
    Command("repair", "queue_node.repair", "make a copy of damaged data without the damage"),
    Command("dump", "queue_node.dump", "print the records of the log as JSON lines"),
    Command("demo", "queue_node.demo", "hash every file of a folder through a node of its own"),
    Command("soak", "queue_node.soak.command", "a node under load and attack, checked for hours"),
    Command("bench", "bench.cli", "measure a node"),
)


def main(words: Sequence[str] | None = None) -> int:
    """Run ``words`` (those that were typed when None); returns the exit code."""
    typed = list(sys.argv[1:] if words is None else words)
    try:
        arguments = _parser(typed).parse_args(typed)
        return _module(arguments.command).run(arguments)
    except NodeError as error:
        _say(typed, str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        _say(typed, f"this needs the package {_to_install(package)}, which is not installed")
        return ExitCode.FAULT
    except KeyboardInterrupt:
        # Before the node is up, or in a tool: nothing to tidy that `finally` did not.
        _say(typed, "interrupted")
        return ExitCode.CUT_SHORT


def _say(typed: Sequence[str], words: str) -> None:
    """One line on standard error; JSON where the log of a node is to be that."""
    if "serve" in typed and os.environ.get("LOG_FORMAT", "").strip().lower() == "json":
        from partitions import logs

        print(logs.refusal("json", "supervisor", words), file=sys.stderr)
        return
    print(f"queue-node: {words}", file=sys.stderr)


def _to_install(package: str) -> str:
    return _HOW_TO_INSTALL.get(package, f"{package} (`pip install {package}`)")


def _parser(typed: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, in which only the command that was typed knows its arguments."""
    parser = argparse.ArgumentParser(
        prog="queue-node", description="A durable job queue for one host with many cores."
    )
    parser.add_argument(
        "--version", action="version", version=f"queue-node {version('queue-node')}"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in typed if not word.startswith("-")), None)
    for command in COMMANDS:
        serving = command.name == "serve"
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=_serve_epilog() if serving and chosen == "serve" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if command.name == chosen:
            _module(command.name).add_arguments(sub)
    return parser


def _module(name: str) -> CommandModule:
    command = next(command for command in COMMANDS if command.name == name)
    return cast("CommandModule", importlib.import_module(command.module))


def _serve_epilog() -> str:
    from queue_node.config import VARIABLES

    lines = ["Configuration (environment variables):", ""]
    for variable in VARIABLES:
        lines.append(f"  {variable.name} (default: {variable.default.replace('`', '')})")
        meaning = variable.meaning.replace("`", "")
        lines += textwrap.wrap(meaning, 76, initial_indent="      ", subsequent_indent="      ")
    lines += ["", "Exit codes:", ""]
    lines += [f"  {code.value}  {code.meaning}" for code in ExitCode]
    return "\n".join(lines)
