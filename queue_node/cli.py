"""What an operator or a user types: ``queue-node COMMAND``.

Each command is a module with ``add_arguments(parser)`` and ``run(arguments) -> exit code``.
Only the module of the command that was typed is imported, so ``--help`` is quick, and a
node without load generator or demo would still serve.
"""

import argparse
import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
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
    Command("worker", "queue_node.worker_command", "run the tasks that a module defines"),
    Command("demo", "queue_node.demo", "hash every file of a folder through a node of its own"),
    Command("soak", "queue_node.soak.command", "a node under load and attack, checked for hours"),
    Command("submit", "queue_node.client_submit", "store jobs in a node"),
    Command("get", "queue_node.client_get", "what became of jobs"),
    Command("jobs", "queue_node.client_jobs", "list jobs by queue, state, tag or group"),
    Command("queues", "queue_node.client_queues", "how many jobs are where, how fast it goes"),
    Command("top", "queue_node.client_top", "the queues of a node, live"),
    Command("lease", "queue_node.client_lease", "take jobs to work on"),
    Command("ack", "queue_node.client_ack", "tell what came of a leased job"),
    Command("cancel", "queue_node.client_cancel", "call jobs off"),
    Command("retry", "queue_node.client_retry", "let dead or cancelled jobs begin anew"),
    Command("dead", "queue_node.client_dead", "list, retry and purge dead letters"),
    Command("pause", "queue_node.client_pause", "no more leases from queues"),
    Command("resume", "queue_node.client_resume", "leases from paused queues again"),
    Command("completion", "queue_node.completion", "a shell's completion of these commands"),
    Command("bench", "bench.cli", "measure a node"),
)


def main(words: Sequence[str] | None = None) -> int:
    """Run ``words`` (those that were typed when None); returns the exit code."""
    typed = list(sys.argv[1:] if words is None else words)
    try:
        arguments = _parse(typed)
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


def whole_parser() -> argparse.ArgumentParser:
    """The parser in which every command that is installed knows its arguments."""
    return _parser_of(_is_installed)


def _parse(typed: Sequence[str]) -> argparse.Namespace:
    parser = _parser(typed)
    arguments, unknown = parser.parse_known_args(typed)
    if unknown:
        # argparse shows the usage of the whole program here, which lists no option of a command.
        parser.error(
            f"unrecognized arguments: {' '.join(unknown)} "
            f"(see queue-node {arguments.command} --help)"
        )
    return arguments


def _parser(typed: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, in which only the command that was typed knows its arguments."""
    chosen = next((word for word in typed if not word.startswith("-")), None)
    return _parser_of(lambda name: name == chosen)


def _parser_of(has_arguments: Callable[[str], bool]) -> argparse.ArgumentParser:
    """The parser, in which the commands that ``has_arguments`` names know theirs."""
    parser = argparse.ArgumentParser(
        prog="queue-node", description="A durable job queue for one host with many cores."
    )
    parser.add_argument(
        "--version", action="version", version=f"queue-node {version('queue-node')}"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        chosen = has_arguments(command.name)
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=_serve_epilog() if chosen and command.name == "serve" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if chosen:
            _module(command.name).add_arguments(sub)
    return parser


def _is_installed(name: str) -> bool:
    try:
        _module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OURS:
            raise
        return False
    return True


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
