"""``queue-node retry``: DEAD and CANCELLED jobs begin anew, their attempts at zero."""

import argparse

from queue_node import client_session
from queue_node.client_session import Session, for_each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node retry``, its arguments."""
    parser.add_argument("job_id", nargs="+", metavar="JOB", help="its id")
    client_session.add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it to each; returns the exit code."""
    return client_session.run(arguments, _retry)


def _retry(session: Session) -> int:
    def one(job_id: str) -> None:
        job = session.client.retry(job_id)
        session.output.word(f"{job.job_id} {job.state}", job)

    return for_each(session.arguments.job_id, one)
