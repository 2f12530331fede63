"""From what a handler returned or raised to what is reported. The border to code not ours.

Whatever a handler raises is the end of one attempt and never of the worker: ``SystemExit``, a
library's own ``BaseException``, an exception that cannot even be printed.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, cast

import anyio

from queue_node_sdk.models import LeasedJob
from queue_node_sdk.telemetry import AttemptSpan, attempt_span
from queue_node_sdk.worker_context import JobContext, Reject, Release, Retry, working_on
from queue_node_sdk.worker_core import Done, Ending, Failed, GivenBack

_log: Final = logging.getLogger("queue_node")

_ERROR_CHARACTERS_MAX: Final = 4_000
"""Of an exception's text that is reported: room for a message, not for a dump (guess)."""


def attempt(handler: Callable[[JobContext], object], job: JobContext) -> Ending:
    """Run ``handler``; what came of it. Raises nothing."""
    try:
        with attempting(job):
            return ending_of(handler(job))
    except BaseException as error:
        return ending_from(error, job)


@contextmanager
def attempting(job: JobContext) -> Generator[None, None, None]:
    """Around a handler: ``job`` is the current one, its span the current span."""
    with working_on(job), attempt_span(job) as span:
        try:
            yield
        except BaseException as error:
            _tell_span(span, job, _alone(error))
            raise


def _tell_span(span: AttemptSpan, job: JobContext, error: BaseException) -> None:
    if isinstance(error, Release):
        return
    if job.lost or _is_cancellation(error):
        # A worker that is cancelled gives its jobs back; nothing has failed.
        if job.why_lost is not None:
            span.called_off(job.why_lost)
        return
    span.failed(error, described(error))


def _is_cancellation(error: BaseException) -> bool:
    try:
        return isinstance(error, anyio.get_cancelled_exc_class())
    except RuntimeError:
        return False  # there is no event loop


def ending_of(result: object) -> Ending:
    """The success that a handler returned.

    Raises:
        TypeError: it is no result.
    """
    if result is None or isinstance(result, str):
        return Done(result)
    raise TypeError(f"the handler returned {type(result).__name__}; a result is a str or None")


def ending_from(error: BaseException, job: LeasedJob) -> Ending:
    """What an exception of a handler means; a failure is logged."""
    error = _alone(error)
    match error:
        case Release(delay=delay):
            return GivenBack(delay)
        case Retry(in_=in_):
            return Failed(_reason(error, error.reason, "retry"), retry_in=in_)
        case Reject():
            return Failed(_reason(error, error.reason, "rejected"), retry=False)
    _log.warning(
        "job %s: attempt %d failed",
        job.job_id,
        job.attempt,
        exc_info=error,
        extra={"job_id": job.job_id, "attempt": job.attempt},
    )
    return Failed(described(error))


def described(error: BaseException) -> str:
    """Its type and text, bounded, and such that JSON can carry it."""
    try:
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:  # An exception's own __str__ may fail; its type is still worth something.
        text = type(error).__name__
    return _sendable(text)


def _alone(error: BaseException) -> BaseException:
    """What a nursery or a task group wrapped, if it is one exception."""
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        if len(group.exceptions) != 1:
            return group
        error = group.exceptions[0]
    return error


def _reason(error: BaseException, reason: object, fallback: str) -> str:
    if reason:
        try:
            return _sendable(str(reason))
        except Exception:  # As above: a reason is whatever it was given.
            return fallback
    return described(error.__cause__) if error.__cause__ is not None else fallback


def _sendable(text: str) -> str:
    # What JSON cannot carry must not keep a failure from being told.
    return text[:_ERROR_CHARACTERS_MAX].encode(errors="backslashreplace").decode()
