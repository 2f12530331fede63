"""``queue-node queues``: how many jobs are where, how old the oldest is, how fast it goes."""

import argparse

from queue_node import client_session
from queue_node.client_exit import ClientExit
from queue_node.client_queues_view import HEADINGS, queue_cells
from queue_node.client_session import Session, complain, for_each
from queue_node_sdk import QueueList


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node queues``, its arguments."""
    parser.add_argument("queue", nargs="*", metavar="QUEUE", help="only these (all)")
    client_session.add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show them; returns the exit code."""
    return client_session.run(arguments, _queues)


def _queues(session: Session) -> int:
    code: int = ClientExit.DONE
    queues = QueueList()
    if session.arguments.queue:
        code = for_each(
            session.arguments.queue, lambda name: queues.append(session.client.queue(name))
        )
        missing = sorted({number for queue in queues for number in queue.unavailable})
    else:
        queues = session.client.queues()
        missing = queues.unavailable
    if queues or not code:
        session.output.rows(queues, HEADINGS, queue_cells)
    if missing:
        complain(f"without the jobs of partitions that do not answer: {missing}")
    return code
