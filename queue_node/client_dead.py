"""``queue-node dead``: dead letters, the jobs that ran out of attempts.

``dead list`` shows them, ``dead retry`` lets all of a queue begin anew, ``dead purge`` deletes
them for good.
"""

import argparse
import sys

from queue_node import client_session
from queue_node.client_exit import ClientExit, ClientUsageError
from queue_node.client_jobs import add_limit, show_jobs
from queue_node.client_session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node dead``, its commands."""
    commands = parser.add_subparsers(dest="dead_command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="which there are, and why")
    listing.add_argument("--queue", metavar="QUEUE", help="only of this queue")
    add_limit(listing)
    retry = commands.add_parser("retry", help="all of a queue begin anew (admin key)")
    purge = commands.add_parser("purge", help="delete all of a queue for good (admin key)")
    for command in (retry, purge):
        command.add_argument("queue", metavar="QUEUE", help="whose dead letters")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    for command in (listing, retry, purge):
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        client_session.add_common(command)


def run(arguments: argparse.Namespace) -> int:
    """List, retry or purge; returns the exit code.

    Raises:
        ClientUsageError: nobody can be asked whether to delete.
    """
    if arguments.dead_command == "purge" and not arguments.yes:
        _ask(arguments.queue)
    act = {"list": _list, "retry": _retry, "purge": _purge}[arguments.dead_command]
    return client_session.run(arguments, act)


def _ask(queue: str) -> None:
    if not sys.stdin.isatty():
        raise ClientUsageError("purge deletes for good: say --yes")
    print(f"Delete all dead letters of {queue!r} for good? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ClientUsageError("nothing was deleted")


def _list(session: Session) -> int:
    return show_jobs(session, session.client.jobs(queue=session.arguments.queue, state="DEAD"))


def _retry(session: Session) -> int:
    queue = session.arguments.queue
    return _tell(session, session.client.retry_dead(queue))


def _purge(session: Session) -> int:
    queue = session.arguments.queue
    return _tell(session, session.client.purge(queue, state="DEAD"))


def _tell(session: Session, count: int) -> int:
    session.output.word(str(count), {"count": count})
    return ClientExit.DONE
