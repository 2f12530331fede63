"""The JSON of the job routes: typed requests and answers, decoded and encoded once. Pure.

Decoding is the validation: whatever ``decode_*`` returns is within the contract, and
everything else is a ``Problem`` in words that name the field.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeVar

import msgspec

from api import problems
from api.problems import Problem
from partitions.limits import ATTEMPTS_MAX
from partitions.messages import JobView, Leased
from partitions.slots import format_job_id

LEASE_TOKEN_MAX: Final = (1 << 63) - 1

_TOKEN: Final = re.compile(r"[0-9]{1,19}")


class SubmitJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /jobs``. None and absent are the same, as in the original system."""

    payload: str | None = None
    max_retries: int | None = None


class LeaseJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /jobs/lease``: nothing to say yet; an empty body means the same."""


class AckJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /jobs/{id}/ack``. A ``result_error`` that is not empty reports a failure."""

    result: str | None = None
    result_error: str | None = None
    lease_token: str | None = None


class JobCreated(msgspec.Struct, frozen=True):
    """201 of a submit."""

    job_id: str


class LeasedJob(msgspec.Struct, frozen=True):
    """200 of a lease."""

    job_id: str
    payload: str
    lease_until: str
    attempt: int
    lease_token: str
    max_retries: int
    created_at: str


class JobStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """200 of ``GET /jobs/{id}``."""

    job_id: str
    state: str
    attempts: int
    max_retries: int
    created_at: str
    lease_until: str | None = None
    result: str | None = None
    result_error: str | None = None


class Ack(msgspec.Struct, frozen=True):
    """An ``AckJob`` that checked."""

    lease_token: int | None = None
    result: bytes | None = None
    error: bytes = b""


_encode: Final = msgspec.json.Encoder().encode
_submit_decoder: Final = msgspec.json.Decoder(SubmitJob)
_lease_decoder: Final = msgspec.json.Decoder(LeaseJob)
_ack_decoder: Final = msgspec.json.Decoder(AckJob)

encode: Final = _encode

_Body = TypeVar("_Body")


class Submit(msgspec.Struct, frozen=True):
    """A ``SubmitJob`` that checked."""

    payload: bytes
    max_retries: int


def decode_submit(
    body: bytes, *, payload_bytes_max: int, default_max_retries: int
) -> Submit | Problem:
    """A job to store, or what is wrong with the body."""
    job = _decoded(_submit_decoder, body)
    if isinstance(job, Problem):
        return job
    if not job.payload:
        return problems.PAYLOAD_REQUIRED
    payload = job.payload.encode()
    if len(payload) > payload_bytes_max:
        return problems.too_large("payload", len(payload), payload_bytes_max)
    max_retries = job.max_retries
    if max_retries is None:
        return Submit(payload, default_max_retries)
    if max_retries < 0:
        return problems.MAX_RETRIES_NEGATIVE
    if max_retries > ATTEMPTS_MAX:
        return Problem(400, f"max_retries must be <= {ATTEMPTS_MAX}")
    return Submit(payload, max_retries)


def decode_lease(body: bytes) -> LeaseJob | Problem:
    """What to lease, or what is wrong with the body."""
    if not body:
        return LeaseJob()
    return _decoded(_lease_decoder, body)


def decode_ack(body: bytes, *, text_bytes_max: int) -> Ack | Problem:
    """The outcome of an attempt, or what is wrong with the body."""
    if not body:
        return Ack()
    ack = _decoded(_ack_decoder, body)
    if isinstance(ack, Problem):
        return ack
    if ack.result and ack.result_error:
        return Problem(400, "result and result_error exclude each other: send one of them")
    token: int | None = None
    if ack.lease_token is not None:
        if _TOKEN.fullmatch(ack.lease_token) is None or int(ack.lease_token) > LEASE_TOKEN_MAX:
            return Problem(400, "lease_token must be a string of digits, as the lease gave it")
        token = int(ack.lease_token)
    result = (ack.result or "").encode()
    error = (ack.result_error or "").encode()
    for name, text in (("result", result), ("result_error", error)):
        if len(text) > text_bytes_max:
            return problems.too_large(name, len(text), text_bytes_max)
    return Ack(token, result or None, error)


def created(job_id: bytes) -> JobCreated:
    """The answer to a submit that is durable."""
    return JobCreated(format_job_id(job_id))


def leased(lease: Leased) -> LeasedJob:
    """The answer to a lease."""
    return LeasedJob(
        format_job_id(lease.job_id),
        lease.payload.decode(),
        rfc3339(lease.lease_until_ms),
        lease.attempt,
        str(lease.lease_token),
        lease.max_retries,
        rfc3339(lease.created_at_ms),
    )


def status(view: JobView) -> JobStatus:
    """A job as ``GET /jobs/{id}`` shows it."""
    return JobStatus(
        format_job_id(view.job_id),
        view.state,
        view.attempts,
        view.max_retries,
        rfc3339(view.created_at_ms),
        None if view.lease_until_ms is None else rfc3339(view.lease_until_ms),
        None if view.result is None else view.result.decode(),
        None if view.result_error is None else view.result_error.decode(),
    )


def rfc3339(time_ms: int) -> str:
    """``2025-12-26T10:30:00.250Z``; without a fraction when it is zero."""
    seconds, ms = divmod(time_ms, 1000)
    return f"{_moment(seconds)}.{ms:03}Z" if ms else f"{_moment(seconds)}Z"


@lru_cache(maxsize=1024)
def _moment(seconds: int) -> str:
    # Leases of one second share it; to format it each time was 6 % of a front's time.
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _decoded(decoder: msgspec.json.Decoder[_Body], body: bytes) -> _Body | Problem:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        return Problem(400, f"invalid JSON: {error}")
    except UnicodeDecodeError:
        return Problem(400, "invalid JSON: the body is not valid UTF-8")
    except RecursionError:
        return Problem(400, "invalid JSON: nested too deeply")
