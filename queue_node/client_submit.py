"""``queue-node submit``: store jobs, from the command line, a file or standard input.

The ids go to standard output, one a line: when one is there, that job is on disk.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from queue_node import client_session
from queue_node.client_arguments import duration, moment, tag, tags
from queue_node.client_exit import ClientExit, ClientUsageError
from queue_node.client_jobs_view import job_fields
from queue_node.client_session import Session, complain
from queue_node.client_text import STDIN, read_lines, read_text, text_of
from queue_node_sdk import Job, Timeout

_BATCH_JOBS: Final = 1_000
"""Of ``--lines``, stored together: a crash in the middle costs at most the telling of so many."""
_BATCH_CHARACTERS: Final = 4 << 20
"""The node takes a body of 16 MiB; each of these may be six bytes of JSON in the worst case, as
control characters are, and those are rare in text."""

_OPTIONS: Final = (
    "queue",
    "priority",
    "delay",
    "run_at",
    "ttl",
    "max_retries",
    "backoff",
    "lease_duration",
    "group",
    "retention",
    "idempotency_key",
)
"""Of a job, beside its tags: the same words as in the contract."""

_BACKOFF_NAMES: Final[dict[str, Callable[[str], float]]] = {
    "initial": duration,
    "factor": float,
    "max": duration,
    "jitter": float,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node submit``, its arguments."""
    source = parser.add_argument_group("what to do")
    source.add_argument(
        "payload", nargs="*", metavar="PAYLOAD", help="a job each; `-`, or none: standard input"
    )
    source.add_argument("--file", metavar="FILE", help="the payload is what is in there")
    source.add_argument(
        "--lines", action="store_true", help="each line of the file or standard input is a job"
    )
    options = parser.add_argument_group("the job")
    options.add_argument("--queue", metavar="QUEUE", help="where to (default)")
    options.add_argument("--priority", type=int, metavar="N", help="-100 to 100, higher first (0)")
    start = options.add_mutually_exclusive_group()
    start.add_argument("--delay", type=duration, metavar="DURATION", help="not before so long")
    start.add_argument("--run-at", type=moment, metavar="TIME", help="not before this time")
    options.add_argument(
        "--ttl", type=duration, metavar="DURATION", help="not started by then: DEAD"
    )
    options.add_argument("--max-retries", type=int, metavar="N", help="attempts in all")
    options.add_argument(
        "--backoff",
        type=_backoff,
        metavar="initial=1s,factor=2,max=10m,jitter=0.1",
        help="between attempts",
    )
    options.add_argument("--lease-duration", type=duration, metavar="DURATION", help="of a lease")
    options.add_argument("--group", metavar="GROUP", help="one at a time, in order")
    options.add_argument(
        "--tag", type=tag, action="append", default=[], metavar="NAME=VALUE", help="up to 16"
    )
    options.add_argument(
        "--retention", type=duration, metavar="DURATION", help="how long it is kept when finished"
    )
    options.add_argument(
        "--idempotency-key", metavar="TEXT", help="the same again is the same job (one job only)"
    )
    parser.add_argument(
        "--wait",
        type=duration,
        metavar="DURATION",
        help="until the job is finished, then show it; 1 unless it succeeded (one job only)",
    )
    client_session.add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Store what ``arguments`` say; returns the exit code.

    Raises:
        ClientUsageError: they contradict each other, or the file cannot be read.
    """
    options = job_options(arguments)
    return client_session.run(arguments, lambda session: _submit(session, options))


def job_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What of ``arguments`` goes with each job; what was not given is not in it.

    Raises:
        ClientUsageError: they contradict each other.
    """
    if arguments.payload and (arguments.file is not None or arguments.lines):
        raise ClientUsageError("PAYLOAD goes neither with --file nor with --lines")
    single = len(arguments.payload) <= 1 and not arguments.lines
    for name in ("wait", "idempotency_key"):
        if getattr(arguments, name) is not None and not single:
            raise ClientUsageError(f"--{name.replace('_', '-')} is for one job")
    options = {name: value for name in _OPTIONS if (value := getattr(arguments, name)) is not None}
    try:
        given = tags(arguments.tag)
    except argparse.ArgumentTypeError as error:
        raise ClientUsageError(f"--tag: {error}") from error
    return options | ({"tags": given} if given else {})


def _submit(session: Session, options: dict[str, Any]) -> int:
    arguments = session.arguments
    if arguments.lines:
        return _submit_lines(session, read_lines(arguments.file or STDIN), options)
    for payload in _payloads(arguments):
        job_id = session.client.submit(payload, **options)
        if arguments.wait is not None:
            return wait_and_show(session, job_id, arguments.wait)
        session.output.word(job_id, {"job_id": job_id})
    return ClientExit.DONE


def _submit_lines(session: Session, lines: Iterable[str], options: dict[str, Any]) -> int:
    for batch in batches(lines):
        for job_id in session.client.submit_many(batch, **options):
            session.output.word(job_id, {"job_id": job_id})
        # Whoever reads the ids knows what is stored, should the next batch fail.
        sys.stdout.flush()
    return ClientExit.DONE


def wait_and_show(session: Session, job_id: str, seconds: float, *, result: bool = False) -> int:
    """Wait until the job is finished, and show it; 0 when it succeeded.

    Args:
        session: the command.
        job_id: whose end.
        seconds: at most so long.
        result: show the result alone.
    """
    try:
        job = session.client.wait(job_id, timeout=seconds)
    except Timeout as error:
        # The id, too: a job that nobody knows the id of cannot be asked for again.
        complain(f"{job_id}: {error}")
        return ClientExit.REFUSED
    if result:
        show_result(session, job)
    else:
        session.output.record(job, job_fields(job))
    return ClientExit.DONE if job.succeeded else ClientExit.REFUSED


def show_result(session: Session, job: Job) -> None:
    """The result alone; of a job that has not succeeded, why there is none."""
    session.output.word(job.result or "", {"job_id": job.job_id, "result": job.result})
    if not job.succeeded:
        words = f": {job.result_error}" if job.result_error else ""
        complain(f"{job.job_id} has no result, its state is {job.state}{words}")


def batches(lines: Iterable[str]) -> Iterator[list[str]]:
    """``lines`` in lists that one request can carry; empty lines are no jobs."""
    batch: list[str] = []
    characters = 0
    for line in lines:
        if not line:
            continue
        if batch and (len(batch) == _BATCH_JOBS or characters + len(line) > _BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(line)
        characters += len(line)
    if batch:
        yield batch


def _payloads(arguments: argparse.Namespace) -> Iterator[str]:
    if arguments.file is not None:
        yield read_text(arguments.file)
    elif not arguments.payload:
        yield read_text(STDIN)
    for payload in arguments.payload:
        yield text_of(payload)


def _backoff(text: str) -> dict[str, float]:
    backoff = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in _BACKOFF_NAMES:
            raise argparse.ArgumentTypeError(
                f"{part!r} is none of {', '.join(f'{name}=' for name in _BACKOFF_NAMES)}"
            )
        try:
            backoff[name] = _BACKOFF_NAMES[name](value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{part!r}: {value!r} is no number") from error
    return backoff
