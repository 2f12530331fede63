"""What may be done after a request, and what it means: no socket, no clock. Pure.

What came of sending a ``Call`` is a ``Reply``, or one of troubles that differ in what may be
done next: ``NotSent`` (the node cannot have run it), ``AnswerLost`` (it may have), ``NoTls``
(no repeat gets over it). ``may_repeat`` is the whole retry rule, ``error_from`` the whole
translation into errors; the shells around them only wait and send.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from queue_node_sdk.calls import Call
from queue_node_sdk.errors import (
    AuthError,
    BadRequest,
    IdempotencyConflict,
    JobCancelled,
    LeaseLost,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    QueueFull,
    QueueNodeError,
    ServerError,
    StorageFull,
    TlsError,
    TooLarge,
    UnexpectedAnswer,
    Unreachable,
    WrongState,
)

NO_JOBS: Final = "no jobs available"
"""The contract's words for an empty queue; any other 404 means that the URL is wrong."""

_CANCELLED: Final = "cancelled"
_WRONG_STATE: Final = "its state is"
"""The contract's words, which tell one 409 from another."""

_SHOWN_MAX: Final = 200
"""Characters of a foreign answer that go into an error's text."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The node's answer; ``headers`` looks names up in any case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NotSent:
    """There was no connection: the node cannot have seen the request."""

    reason: str


@dataclass(frozen=True, slots=True)
class AnswerLost:
    """The connection broke or timed out after sending began: the node may have run it."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoTls:
    """There is somebody, but TLS with them cannot be had: now or later."""

    reason: str


Outcome = Reply | NotSent | AnswerLost | NoTls


class _ErrorBody(msgspec.Struct, frozen=True):
    error: str


_decode_error: Final = msgspec.json.Decoder(_ErrorBody)


def accepted(call: Call, outcome: Outcome) -> Reply | None:
    """The reply if it is the answer to ``call``; ``None`` when it is a trouble."""
    if not isinstance(outcome, Reply):
        return None
    if 200 <= outcome.status < 300:
        return outcome
    empty = call.may_be_empty and outcome.status == 404 and words_of(outcome) == NO_JOBS
    return outcome if empty else None


def may_repeat(call: Call, trouble: Outcome) -> bool:
    """Whether sending ``call`` again can help and cannot harm.

    A refusal for the moment says that the request was not taken. Behind any other 5xx it
    may have run, as behind a lost answer, so only what may run twice is sent again. A full
    disk is waited for with what is done already (an ack), not with new jobs.
    """
    match trouble:
        case NotSent():
            return True
        case NoTls():
            return False
        case AnswerLost():
            return call.repeatable
        case Reply(status=507):
            return call.repeatable and not call.stores
        case Reply(status=status):
            again = status in (500, 502, 503, 504) and call.repeatable
            return again or _refused_for_the_moment(trouble)


def may_have_run(trouble: Outcome) -> bool:
    """Whether the node may have carried out what came to ``trouble``."""
    match trouble:
        case AnswerLost():
            return True
        case Reply(status=status):
            return status >= 500 and status != 507 and not _refused_for_the_moment(trouble)
        case _:
            return False


def _refused_for_the_moment(reply: Reply) -> bool:
    """Whether the node did not take the request, and wants it again later.

    A 503 without ``Retry-After`` is no such promise: so a partition that died while it
    worked on the request is told, and so a proxy whose node broke off.
    """
    return reply.status == 429 or (reply.status == 503 and "retry-after" in reply.headers)


def retry_after_seconds(trouble: Outcome) -> float | None:
    """The node's ``Retry-After`` (in seconds; the form with a date is not used by it)."""
    if not isinstance(trouble, Reply):
        return None
    text = trouble.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def error_from(
    call: Call, trouble: Outcome, *, may_have_run_before: bool = False
) -> QueueNodeError:
    """What the caller gets to see of a trouble that was not got over.

    Args:
        call: what was sent.
        trouble: what came of the last try.
        may_have_run_before: whether an earlier try may have been carried out.
    """
    unsure = call.stores or not call.repeatable
    match trouble:
        case NoTls(reason=reason):
            return TlsError(f"{call.what}: {reason}")
        case AnswerLost(reason=reason) if unsure:
            return OutcomeUnknown(f"{call.what}: sent, but the answer was lost: {reason}")
        case AnswerLost(reason=reason):
            return Unreachable(f"{call.what}: lost the connection to the node: {reason}")
        case NotSent(reason=reason):
            error: QueueNodeError = Unreachable(f"{call.what}: cannot reach the node: {reason}")
        case Reply():
            error = _error_from_reply(call, trouble)
    promises_nothing_happened = isinstance(error, Unreachable | Overloaded | StorageFull)
    if unsure and may_have_run_before and promises_nothing_happened:
        # Of the last try that is true, and of the one before it nobody knows.
        return OutcomeUnknown(
            f"{call.what}: sent, but the answer was lost; then: {error.message}",
            status=error.status,
            retry_after_seconds=error.retry_after_seconds,
        )
    return error


_KINDS: Final[dict[int, type[QueueNodeError]]] = {
    401: AuthError,
    403: PermissionDenied,
    404: NotFound,
    409: LeaseLost,
    413: TooLarge,
    422: IdempotencyConflict,
    429: QueueFull,
    503: Overloaded,
    507: StorageFull,
}


def refusal_of(status: int, words: str) -> type[QueueNodeError]:
    """Which error a status is, of an answer or of one item of many."""
    if status == 409 and words == _CANCELLED:
        return JobCancelled
    if status == 409 and _WRONG_STATE in words:
        return WrongState
    return _KINDS.get(status, ServerError if status >= 500 else BadRequest)


def _error_from_reply(call: Call, reply: Reply) -> QueueNodeError:
    words = words_of(reply)
    if reply.status < 400 or (words is None and reply.status < 500):
        return UnexpectedAnswer(
            f"{call.what}: status {reply.status} and an answer that is not Queue Node's; "
            f"is the URL right? It begins: {shown(reply.body)}",
            status=reply.status,
        )
    kind = refusal_of(reply.status, words or "")
    harmless = call.repeatable and not call.stores
    if kind is Overloaded and not (harmless or _refused_for_the_moment(reply)):
        kind = ServerError
    return kind(
        f"{call.what}: {words or shown(reply.body)} ({reply.status})",
        status=reply.status,
        retry_after_seconds=retry_after_seconds(reply),
    )


def words_of(reply: Reply) -> str | None:
    """The ``error`` of an answer, or ``None`` when it has none."""
    try:
        return _decode_error.decode(reply.body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def shown(body: bytes) -> str:
    """How an answer begins that is not the node's."""
    return repr(body[:_SHOWN_MAX].decode(errors="replace"))
