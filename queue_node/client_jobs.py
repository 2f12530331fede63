"""``queue-node jobs``: jobs by queue, state, tag or group, oldest first."""

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from queue_node import client_session
from queue_node.client_arguments import at_least_one, tag, tags
from queue_node.client_exit import ClientExit, ClientUsageError
from queue_node.client_jobs_view import HEADINGS, job_cells
from queue_node.client_session import Session, complain
from queue_node_sdk import Job, JobState

_SHOWN: Final = 100
"""Unless ``--limit`` or ``--all``: a node may hold millions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node jobs``, its arguments."""
    parser.add_argument("--queue", metavar="QUEUE", help="only of this queue")
    parser.add_argument(
        "--state", type=str.upper, choices=[state.value for state in JobState], help="only these"
    )
    parser.add_argument(
        "--tag",
        type=tag,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only those with this tag (with all of them)",
    )
    parser.add_argument("--group", metavar="GROUP", help="only of this group")
    add_limit(parser)
    client_session.add_common(parser)


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the say over how many jobs are shown."""
    number = parser.add_mutually_exclusive_group()
    number.add_argument(
        "--limit", type=at_least_one, default=_SHOWN, metavar="N", help=f"the first N ({_SHOWN})"
    )
    number.add_argument("--all", action="store_true", help="all of them, however many there are")


def run(arguments: argparse.Namespace) -> int:
    """Show the jobs; returns the exit code.

    Raises:
        ClientUsageError: a tag is asked for with two values.
    """
    try:
        wanted = tags(arguments.tag)
    except argparse.ArgumentTypeError as error:
        raise ClientUsageError(f"--tag: {error}") from error

    def act(session: Session) -> int:
        return show_jobs(
            session,
            session.client.jobs(
                queue=arguments.queue,
                state=arguments.state,
                tag=wanted or None,
                group=arguments.group,
            ),
        )

    return client_session.run(arguments, act)


def show_jobs(session: Session, jobs: Iterable[Job]) -> int:
    """The first of ``jobs``, and a word on standard error when there are more."""
    limit = None if session.arguments.all else session.arguments.limit
    left = iter(jobs)
    session.output.rows(islice(left, limit), HEADINGS, job_cells)
    if limit is not None and _has_more(left):
        complain(f"these are the first {limit}; there are more (--limit, --all)")
    return ClientExit.DONE


def _has_more(left: Iterator[Job]) -> bool:
    return next(left, None) is not None
