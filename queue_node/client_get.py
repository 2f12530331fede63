"""``queue-node get``: what became of jobs."""

import argparse

from queue_node import client_session
from queue_node.client_arguments import duration
from queue_node.client_exit import ClientExit, ClientUsageError
from queue_node.client_jobs_view import job_fields
from queue_node.client_session import Session, for_each
from queue_node.client_submit import show_result, wait_and_show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node get``, its arguments."""
    parser.add_argument("job_id", nargs="+", metavar="JOB", help="its id")
    parser.add_argument(
        "--wait",
        type=duration,
        metavar="DURATION",
        help="until it is finished; 1 unless it succeeded (one job only)",
    )
    parser.add_argument(
        "--result", action="store_true", help="the result alone; 1 unless the job has succeeded"
    )
    client_session.add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the jobs; returns the exit code.

    Raises:
        ClientUsageError: ``--wait`` for more than one.
    """
    if arguments.wait is not None and len(arguments.job_id) > 1:
        raise ClientUsageError("--wait is for one job")
    return client_session.run(arguments, _get)


def _get(session: Session) -> int:
    arguments = session.arguments
    if arguments.wait is not None:
        (job_id,) = arguments.job_id
        return wait_and_show(session, job_id, arguments.wait, result=arguments.result)
    succeeded = True

    def show(job_id: str) -> None:
        nonlocal succeeded
        job = session.client.get(job_id)
        if arguments.result:
            succeeded = succeeded and job.succeeded
            show_result(session, job)
        else:
            session.output.record(job, job_fields(job))

    code = for_each(arguments.job_id, show)
    return code or (ClientExit.DONE if succeeded else ClientExit.REFUSED)
