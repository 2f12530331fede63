"""What workers may say: which jobs they want to lease, and how a leased one goes on. Pure.

Decoding is the validation: whatever ``decode_*`` returns is within the contract, and
everything else is a ``Problem`` in words that name the field. ``bodies`` has what JSON may hold;
the structs here are what checked.
"""

from typing import Final

import msgspec

from api.bodies import (
    LEASE_MS_MAX,
    PROGRESS_CHARS_MAX,
    TOKEN_DIGITS_MAX,
    AckBody,
    AckItemBody,
    AcksBody,
    ExtendBody,
    ExtendItemBody,
    ExtendsBody,
    LeaseBody,
    ReleaseBody,
)
from api.checks import checked_duration, checked_queue, checked_text, checked_wait, each_checked
from api.decoding import RefusedError, decoded, refused
from api.problems import Problem
from partitions.limits import PROGRESS_BYTES_MAX
from partitions.options import DEFAULT_QUEUE

LEASE_TOKEN_MAX: Final = (1 << 63) - 1

_lease_decoder: Final = msgspec.json.Decoder(LeaseBody)
_ack_decoder: Final = msgspec.json.Decoder(AckBody)
_acks_decoder: Final = msgspec.json.Decoder(AcksBody)
_extend_decoder: Final = msgspec.json.Decoder(ExtendBody)
_extends_decoder: Final = msgspec.json.Decoder(ExtendsBody)
_release_decoder: Final = msgspec.json.Decoder(ReleaseBody)
_json: Final = msgspec.json.Encoder().encode

_EMPTY: Final = b"{}"
"""What no body means: so the words are about the field that is missing."""


class LeaseRequest(msgspec.Struct, frozen=True):
    """What to lease. ``max`` None: one job, answered as such."""

    queues: tuple[str, ...] = (DEFAULT_QUEUE,)
    max: int | None = None
    wait_ms: int = 0
    duration_ms: int | None = None
    worker: str = ""


class Ack(msgspec.Struct, frozen=True, gc=False):
    """The outcome of an attempt; a failure when there is an ``error``."""

    lease_token: int | None = None
    result: bytes | None = None
    error: bytes = b""
    retry: bool = True
    retry_in_ms: int | None = None


class Extend(msgspec.Struct, frozen=True, gc=False):
    """A heartbeat. ``progress`` is JSON; empty: not given."""

    lease_token: int
    duration_ms: int | None = None
    progress: bytes = b""


class Release(msgspec.Struct, frozen=True, gc=False):
    """A job given back."""

    lease_token: int
    delay_ms: int = 0


# Lease ----------------------------------------------------------------------------------

_ANY_JOB: Final = LeaseRequest()


def decode_lease(body: bytes) -> LeaseRequest | Problem:
    """What to lease, or what is wrong with the body; an empty one is any job of ``default``."""
    if not body:
        return _ANY_JOB
    try:
        asked = decoded(_lease_decoder, body)
        return LeaseRequest(
            _queues(asked.queues),
            asked.max,
            checked_wait(asked.wait),
            checked_duration("lease_duration", asked.lease_duration, 1, LEASE_MS_MAX),
            asked.worker or "",
        )
    except RefusedError as error:
        return error.problem


def _queues(names: list[str] | None) -> tuple[str, ...]:
    if names is None:
        return (DEFAULT_QUEUE,)
    for index, name in enumerate(names):
        checked_queue(f"queues[{index}]", name)
    if len(set(names)) < len(names):
        raise refused("queues must not name a queue twice")
    return tuple(names)


# Ack, extend, release -------------------------------------------------------------------


def decode_ack(body: bytes, *, text_bytes_max: int) -> Ack | Problem:
    """The outcome of an attempt, or what is wrong with it; an empty body is a success."""
    if not body:
        return Ack()
    try:
        return _checked_ack(decoded(_ack_decoder, body), text_bytes_max)
    except RefusedError as error:
        return error.problem


def decode_acks(body: bytes, *, text_bytes_max: int) -> list[tuple[str, Ack]] | Problem:
    """``[(job id as it was sent, outcome)]``, or what is wrong with a malformed one."""
    try:
        acks = decoded(_acks_decoder, body).acks
    except RefusedError as error:
        return error.problem
    return each_checked("acks", acks, lambda ack: (ack.job_id, _checked_ack(ack, text_bytes_max)))


def decode_extend(body: bytes) -> Extend | Problem:
    """A heartbeat, or what is wrong with it."""
    try:
        return _checked_extend(decoded(_extend_decoder, body or _EMPTY))
    except RefusedError as error:
        return error.problem


def decode_extends(body: bytes) -> list[tuple[str, Extend]] | Problem:
    """``[(job id as it was sent, heartbeat)]``, or what is wrong with a malformed one."""
    try:
        extends = decoded(_extends_decoder, body).extends
    except RefusedError as error:
        return error.problem
    return each_checked("extends", extends, lambda extend: (extend.job_id, _checked_extend(extend)))


def decode_release(body: bytes) -> Release | Problem:
    """A job given back, or what is wrong with it."""
    try:
        release = decoded(_release_decoder, body or _EMPTY)
        return Release(_token(release.lease_token), checked_duration("delay", release.delay) or 0)
    except RefusedError as error:
        return error.problem


def _checked_ack(ack: AckBody | AckItemBody, text_bytes_max: int) -> Ack:
    error = ack.result_error
    if error and ack.result:
        raise refused("result and result_error exclude each other: send one of them")
    token = None if ack.lease_token is None else _token(ack.lease_token)
    result = checked_text("result", ack.result, text_bytes_max) if ack.result else None
    if not error:
        if ack.retry is not None or ack.retry_in is not None:
            name = "retry_in" if ack.retry is None else "retry"
            raise refused(f"{name} is only for a failure: it needs a result_error")
        return Ack(token, result)
    retry = ack.retry is not False
    if not retry and ack.retry_in is not None:
        raise refused("retry_in and retry false exclude each other: send one of them")
    return Ack(
        token,
        None,
        checked_text("result_error", error, text_bytes_max),
        retry,
        checked_duration("retry_in", ack.retry_in),
    )


def _checked_extend(extend: ExtendBody | ExtendItemBody) -> Extend:
    return Extend(
        _token(extend.lease_token),
        checked_duration("lease_duration", extend.lease_duration, 1, LEASE_MS_MAX),
        b"" if extend.progress is None else _progress(extend.progress),
    )


def _token(text: str) -> int:
    is_digits = text.isascii() and text.isdigit() and len(text) <= TOKEN_DIGITS_MAX
    token = int(text) if is_digits else -1
    if not 0 <= token <= LEASE_TOKEN_MAX:
        raise refused("lease_token must be a string of digits, as the lease gave it")
    return token


def _progress(value: str | int | float) -> bytes:
    if isinstance(value, str):
        if len(value) > PROGRESS_CHARS_MAX:
            raise refused(f"progress must have at most {PROGRESS_CHARS_MAX} characters")
    elif not 0 <= value <= 100:
        raise refused("progress must be a number from 0 to 100, or text")
    encoded = _json(value)
    assert len(encoded) <= PROGRESS_BYTES_MAX, "the limit of progress does not fit the pipe's"
    return encoded
