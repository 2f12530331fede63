"""``queue-node pause``: no more leases from a queue; submits go on. It survives restarts."""

import argparse

from queue_node import client_session
from queue_node.client_session import Session, for_each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node pause``, its arguments."""
    parser.add_argument("queue", nargs="+", metavar="QUEUE", help="its name (admin key)")
    client_session.add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it to each; returns the exit code."""
    return client_session.run(arguments, _pause)


def _pause(session: Session) -> int:
    def one(name: str) -> None:
        queue = session.client.pause(name)
        session.output.word(f"{queue.queue} paused", queue)

    return for_each(session.arguments.queue, one)
