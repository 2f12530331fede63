"""``queue-node ack``: tell what came of a leased job: a result, or an error."""

import argparse
from http import HTTPStatus

from queue_node import client_session
from queue_node.client_arguments import duration
from queue_node.client_exit import ClientExit, ClientUsageError
from queue_node.client_session import Session, complain
from queue_node.client_text import text_of
from queue_node_sdk.answers import results_of
from queue_node_sdk.calls import AckItem, acks_call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node ack``, its arguments."""
    parser.add_argument("job_id", metavar="JOB", help="its id")
    parser.add_argument(
        "--token",
        metavar="LEASE_TOKEN",
        help="from the lease; without it another worker's attempt may be the one that ends",
    )
    outcome = parser.add_mutually_exclusive_group()
    outcome.add_argument("--result", metavar="TEXT", help="it is done; `-`: standard input")
    outcome.add_argument("--error", metavar="TEXT", help="the attempt failed; `-`: standard input")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--no-retry", action="store_true", help="with --error: DEAD, whatever attempts are left"
    )
    again.add_argument(
        "--retry-in", type=duration, metavar="DURATION", help="with --error: instead of the backoff"
    )
    client_session.add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Report the outcome; returns the exit code.

    Raises:
        ClientUsageError: a retry without a failure, or an error without words.
    """
    if arguments.error is None and (arguments.no_retry or arguments.retry_in is not None):
        raise ClientUsageError("--no-retry and --retry-in are for a failure: give its --error")
    if arguments.error == "":
        raise ClientUsageError("--error is empty, which the node takes for a success")
    item = AckItem(
        arguments.job_id,
        lease_token=arguments.token,
        result=None if arguments.result is None else text_of(arguments.result),
        result_error=None if arguments.error is None else text_of(arguments.error),
        retry=False if arguments.no_retry else None,
        retry_in=arguments.retry_in,
    )
    return client_session.run(arguments, lambda session: _ack(session, item))


def _ack(session: Session, item: AckItem) -> int:
    # The call for many, because it is the one that says what becomes of a retry.
    (result,) = results_of(session.exchange(acks_call([item])))
    if session.output.json_words:
        session.output.json({"job_id": item.job_id, "status": result.status} | _words(result.error))
    if result.status == HTTPStatus.OK:
        return ClientExit.DONE
    complain(f"{item.job_id}: {result.error} ({result.status})")
    not_found = result.status == HTTPStatus.NOT_FOUND
    return ClientExit.NOT_FOUND if not_found else ClientExit.REFUSED


def _words(error: str | None) -> dict[str, str]:
    return {"error": error} if error else {}
