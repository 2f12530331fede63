"""``queue-node resume``: leases from a paused queue again."""

import argparse

from queue_node import client_session
from queue_node.client_session import Session, for_each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node resume``, its arguments."""
    parser.add_argument("queue", nargs="+", metavar="QUEUE", help="its name (admin key)")
    client_session.add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it to each; returns the exit code."""
    return client_session.run(arguments, _resume)


def _resume(session: Session) -> int:
    def one(name: str) -> None:
        queue = session.client.resume(name)
        session.output.word(f"{queue.queue} resumed", queue)

    return for_each(session.arguments.queue, one)
