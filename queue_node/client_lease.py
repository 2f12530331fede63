"""``queue-node lease``: take jobs to work on; whoever has them acks them with their lease token."""

import argparse
import sys

from queue_node import client_session
from queue_node.client_arguments import at_least_one, duration
from queue_node.client_exit import ClientExit
from queue_node.client_jobs_view import LEASE_HEADINGS, lease_cells
from queue_node.client_session import Session, complain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node lease``, its arguments."""
    parser.add_argument(
        "queue", nargs="*", metavar="QUEUE", help="in order of preference (default)"
    )
    parser.add_argument("--max", type=at_least_one, default=1, metavar="N", help="up to N jobs (1)")
    parser.add_argument(
        "--wait", type=duration, default=0.0, metavar="DURATION", help="for work, up to 60s"
    )
    parser.add_argument(
        "--lease-duration", type=duration, metavar="DURATION", help="how long they are yours"
    )
    parser.add_argument("--worker", default="", metavar="NAME", help="shows in the job")
    client_session.add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Lease, and show what was leased; 4 when there is nothing."""
    return client_session.run(arguments, _lease)


def _lease(session: Session) -> int:
    arguments = session.arguments
    jobs = session.client.lease_many(
        arguments.max,
        queues=arguments.queue or None,
        wait=arguments.wait,
        lease_duration=arguments.lease_duration,
        worker=arguments.worker,
    )
    if not jobs:
        complain("no jobs available")
        return ClientExit.NOT_FOUND
    session.output.rows(jobs, LEASE_HEADINGS, lease_cells)
    # A job that is leased and not shown would wait for the end of its lease.
    sys.stdout.flush()
    return ClientExit.DONE
