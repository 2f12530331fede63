"""What is said on the wire, without a socket: calls to bytes, answers to models. Pure.

A ``Call`` is a request before it is sent. What came of sending it is a ``Reply``, or one of
troubles that differ in what may be done next: ``NotSent`` (the node cannot have run it),
``AnswerLost`` (it may have), ``NoTls`` (no repeat gets over it). ``may_repeat`` is the whole
retry rule, ``error_from`` the whole translation into errors; the shells around them only wait
and send.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from queue_node_sdk.errors import (
    AuthError,
    BadRequest,
    ConfigurationError,
    LeaseLost,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    QueueNodeError,
    ServerError,
    StorageFull,
    TlsError,
    TooLarge,
    UnexpectedAnswer,
    Unreachable,
)
from queue_node_sdk.models import Job, LeasedJob

NO_JOBS: Final = "no jobs available"
"""The contract's words for an empty queue; any other 404 means that the URL is wrong."""

_SHOWN_MAX: Final = 200
"""Characters of a foreign answer that go into an error's text."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``what`` names it in errors: "submit", "read job ..."."""

    what: str
    method: str
    path: str
    body: bytes
    repeatable: bool
    """Whether running it twice is no different from running it once."""


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


class _SubmitBody(msgspec.Struct, frozen=True, omit_defaults=True):
    payload: str
    max_retries: int | None = None


class _AckBody(msgspec.Struct, frozen=True, omit_defaults=True):
    result: str | None = None
    result_error: str | None = None
    lease_token: str | None = None


class _Submitted(msgspec.Struct, frozen=True):
    job_id: str


class _ErrorBody(msgspec.Struct, frozen=True):
    error: str


_encode: Final = msgspec.json.Encoder().encode
_decode_submitted: Final = msgspec.json.Decoder(_Submitted)
_decode_job: Final = msgspec.json.Decoder(Job)
_decode_lease: Final = msgspec.json.Decoder(LeasedJob)
_decode_error: Final = msgspec.json.Decoder(_ErrorBody)

_T = TypeVar("_T")


# Settings -----------------------------------------------------------------------------


def check_url(url: str) -> str:
    """The URL of a node without its last slash.

    Raises:
        ConfigurationError: it is not ``http://host[:port][/path]`` (or ``https``).
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"not a URL: {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigurationError(f"not the URL of a node: {url!r}; expected http://host:port")
    if parts.query or parts.fragment or parts.username is not None:
        raise ConfigurationError(
            "the URL of a node has no user, query or fragment; the key is given beside it"
        )
    return url.rstrip("/")


def check_key(key: str) -> str:
    """The key, if it can stand in a header. What is wrong never shows it.

    Raises:
        ConfigurationError: it is empty, or has blanks or characters beyond ASCII.
    """
    if not key:
        raise ConfigurationError("the key is empty")
    if not all("!" <= character <= "~" for character in key):
        raise ConfigurationError("the key has blanks or characters that no key has")
    return key


# Calls --------------------------------------------------------------------------------


def submit_call(payload: str, max_retries: int | None) -> Call:
    """Store a new job. Not repeatable: two requests are two jobs.

    Raises:
        BadRequest: the payload cannot be sent.
    """
    if not isinstance(payload, str):
        raise BadRequest(f"a payload is a str, not {type(payload).__name__}")
    if not payload:
        raise BadRequest("payload is required: it is empty")
    body = _body(_SubmitBody(payload, max_retries), "payload")
    return Call("submit", "POST", "/jobs", body, repeatable=False)


def status_call(job_id: str) -> Call:
    """Read a job."""
    return Call(f"read job {job_id}", "GET", f"/jobs/{_segment(job_id)}", b"", repeatable=True)


LEASE_CALL: Final = Call("lease", "POST", "/jobs/lease", b"", repeatable=False)
"""Take the next job. Not repeatable: the first answer's job, if there was one, stays
leased until its lease ends."""


def ack_call(job: LeasedJob, *, result: str | None = None, result_error: str | None = None) -> Call:
    """Report the outcome of an attempt.

    With a lease token the same report sent again is answered 200 and changes nothing.
    Without one a repeat could finish somebody else's attempt.

    Raises:
        BadRequest: the text cannot be sent.
    """
    body = _body(_AckBody(result, result_error, job.lease_token), "result")
    return Call(
        f"ack job {job.job_id}",
        "POST",
        f"/jobs/{_segment(job.job_id)}/ack",
        body,
        repeatable=job.lease_token is not None,
    )


def _body(fields: _SubmitBody | _AckBody, what: str) -> bytes:
    try:
        return _encode(fields)
    except UnicodeEncodeError as error:
        raise BadRequest(f"the {what} has lone surrogates, which JSON cannot carry") from error
    except TypeError as error:
        raise BadRequest(f"this cannot be sent as JSON: {error}") from error


def _segment(job_id: str) -> str:
    if not job_id or job_id in (".", ".."):
        raise BadRequest(f"not a job id: {job_id!r}")
    try:
        return quote(job_id, safe="")
    except UnicodeEncodeError as error:
        raise BadRequest(f"not a job id: {job_id!r}") from error


# Answers ------------------------------------------------------------------------------


def submitted_id(reply: Reply) -> str:
    """The id of the stored job."""
    return _parsed(_decode_submitted, reply).job_id


def job_of(reply: Reply) -> Job:
    """The job that was read."""
    return _parsed(_decode_job, reply)


def lease_of(reply: Reply) -> LeasedJob | None:
    """The leased job; ``None`` when the node has none ready."""
    return None if reply.status == 404 else _parsed(_decode_lease, reply)


def lease_seconds(job: LeasedJob, reply: Reply, now: datetime) -> float:
    """How long the lease lasts, counted from the answer, by the node's own clock.

    ``Date`` says what that clock showed, so a worker whose clock is wrong still knows how
    long it has. It is cut to whole seconds: up to one too many, which costs at most a
    late report that is refused. ``now`` stands in when the answer has no date.
    """
    date = reply.headers.get("date")
    if date is not None:
        # A date that nobody can read is as good as none.
        with suppress(ValueError):
            now = parsedate_to_datetime(date)
    return (job.lease_until - now.astimezone(UTC)).total_seconds()


def _parsed(decoder: msgspec.json.Decoder[_T], reply: Reply) -> _T:
    try:
        return decoder.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnexpectedAnswer(
            f"the answer is not Queue Node's: {error}; is the URL right? It begins: "
            f"{_shown(reply.body)}",
            status=reply.status,
        ) from error


# The retry rule and the translation of troubles -----------------------------------------


def accepted(call: Call, outcome: Outcome) -> Reply | None:
    """The reply if it is the answer to ``call``; ``None`` when it is a trouble."""
    if not isinstance(outcome, Reply):
        return None
    if 200 <= outcome.status < 300:
        return outcome
    empty = call is LEASE_CALL and outcome.status == 404 and _words(outcome) == NO_JOBS
    return outcome if empty else None


def may_repeat(call: Call, trouble: Outcome) -> bool:
    """Whether sending ``call`` again can help and cannot harm.

    A refusal for the moment says that the request was not taken. Behind any other 5xx it
    may have run, as behind a lost answer, so only what may run twice is sent again.
    """
    match trouble:
        case NotSent():
            return True
        case NoTls():
            return False
        case AnswerLost():
            return call.repeatable
        case Reply(status=status):
            again = status in (500, 502, 503, 504, 507) and call.repeatable
            return again or _refused_for_the_moment(trouble)


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


def error_from(call: Call, trouble: Outcome) -> QueueNodeError:
    """What the caller gets to see of a trouble that was not got over."""
    match trouble:
        case NotSent(reason=reason):
            return Unreachable(f"{call.what}: cannot reach the node: {reason}")
        case NoTls(reason=reason):
            return TlsError(f"{call.what}: {reason}")
        case AnswerLost(reason=reason) if call.repeatable:
            return Unreachable(f"{call.what}: lost the connection to the node: {reason}")
        case AnswerLost(reason=reason):
            return OutcomeUnknown(f"{call.what}: sent, but the answer was lost: {reason}")
        case Reply():
            return _error_from_reply(call, trouble)


_KINDS: Final[dict[int, type[QueueNodeError]]] = {
    401: AuthError,
    403: PermissionDenied,
    404: NotFound,
    409: LeaseLost,
    413: TooLarge,
    429: Overloaded,
    503: Overloaded,
    507: StorageFull,
}


def _error_from_reply(call: Call, reply: Reply) -> QueueNodeError:
    words = _words(reply)
    if reply.status < 400 or (words is None and reply.status < 500):
        return UnexpectedAnswer(
            f"{call.what}: status {reply.status} and an answer that is not Queue Node's; "
            f"is the URL right? It begins: {_shown(reply.body)}",
            status=reply.status,
        )
    kind = _KINDS.get(reply.status, ServerError if reply.status >= 500 else BadRequest)
    if kind is Overloaded and not (call.repeatable or _refused_for_the_moment(reply)):
        kind = ServerError
    return kind(
        f"{call.what}: {words or _shown(reply.body)} ({reply.status})",
        status=reply.status,
        retry_after_seconds=retry_after_seconds(reply),
    )


def _words(reply: Reply) -> str | None:
    """The ``error`` of an answer, or ``None`` when it has none."""
    try:
        return _decode_error.decode(reply.body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _shown(body: bytes) -> str:
    return repr(body[:_SHOWN_MAX].decode(errors="replace"))
