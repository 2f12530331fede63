"""What submits may say, of one job or many, in body and Idempotency-Key; their digests. Pure.

Decoding is the validation: whatever ``decode_*`` returns is within the contract, and
everything else is a ``Problem`` in words that name the field. ``bodies`` has what JSON may hold;
the structs here are what checked.

A plain job, which says no more than its payload and ``max_retries``, is decoded by a decoder
of its own: one pass in C, and no look at the fields that it does not have.
"""

import hashlib
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from api import problems
from api.bodies import (
    IDEMPOTENCY_KEY_CHARS_MAX,
    LEASE_MS_MAX,
    BackoffBody,
    BatchBody,
    Body,
    SubmitBody,
)
from api.checks import checked_duration, checked_queue, checked_text, each_checked
from api.decoding import RefusedError, decoded, decoded_or_none, refused
from api.problems import Problem
from api.times import parse_rfc3339
from partitions.limits import ATTEMPTS_MAX, ENQUEUE_JOBS_MAX, OPTIONS_BYTES_MAX
from partitions.options import DEFAULT_QUEUE, Options, encode_options
from partitions.retry import Backoff

_DIGEST_BYTES: Final = 16
_TRACE_TAGS: Final = frozenset(("traceparent", "tracestate"))
"""https://www.w3.org/TR/trace-context/, as the SDK tags it: of a submit, not of its job."""
_BACKOFF: Final = Backoff()


class _PlainBody(Body, frozen=True):
    payload: Annotated[str, Meta(min_length=1)]
    max_retries: Annotated[int, Meta(ge=0, le=ATTEMPTS_MAX)] | None = None


class _PlainBatchBody(Body, frozen=True):
    jobs: Annotated[list[_PlainBody], Meta(min_length=1, max_length=ENQUEUE_JOBS_MAX)]


_submit_decoder: Final = msgspec.json.Decoder(SubmitBody)
_batch_decoder: Final = msgspec.json.Decoder(BatchBody)
_plain_decoder: Final = msgspec.json.Decoder(_PlainBody)
_plain_batch_decoder: Final = msgspec.json.Decoder(_PlainBatchBody)
_msgpack: Final = msgspec.msgpack.Encoder().encode

Now = Callable[[], int]
"""The time, ms since 1970; asked for jobs that say more than a plain one."""


class Submit(msgspec.Struct, frozen=True, gc=False):
    """A job to store."""

    payload: bytes
    max_retries: int
    queue: str
    options: bytes
    """``partitions.options``, encoded."""
    run_at_ms: int = 0
    """0: at once."""
    expires_at_ms: int = 0
    """0: never."""
    group: str = ""
    idempotency_key: str = ""
    digest: bytes = b""
    """Of all that the body said but the key; only where there is one."""


class SubmitLimits(msgspec.Struct, frozen=True):
    """What the node is set to."""

    payload_bytes_max: int
    default_max_retries: int
    backoff_initial_ms: int = 1_000
    backoff_max_ms: int = 600_000


def decode_submit(
    body: bytes, limits: SubmitLimits, now: Now, idempotency_key: str | None = None
) -> Submit | Problem:
    """A job to store, or what is wrong with it. ``idempotency_key``: the header of that name."""
    try:
        if idempotency_key is None:
            plain = decoded_or_none(_plain_decoder, body)
            if plain is not None:
                return _checked_plain(plain, limits)
        _check_key_header(idempotency_key)
        return _checked_job(decoded(_submit_decoder, body), limits, now(), idempotency_key)
    except RefusedError as error:
        return error.problem


def decode_batch(body: bytes, limits: SubmitLimits, now: Now) -> list[Submit] | Problem:
    """The jobs to store, in order, or what is wrong with one that cannot be."""
    plain = decoded_or_none(_plain_batch_decoder, body)
    if plain is not None:
        return each_checked("jobs", plain.jobs, lambda job: _checked_plain(job, limits))
    try:
        jobs = decoded(_batch_decoder, body).jobs
    except RefusedError as error:
        return error.problem
    now_ms = now()
    return each_checked("jobs", jobs, lambda job: _checked_job(job, limits, now_ms, None))


def _checked_plain(job: _PlainBody, limits: SubmitLimits) -> Submit:
    max_retries = job.max_retries
    return Submit(
        checked_text("payload", job.payload, limits.payload_bytes_max),
        limits.default_max_retries if max_retries is None else max_retries,
        DEFAULT_QUEUE,
        b"",
    )


def _checked_job(
    job: SubmitBody, limits: SubmitLimits, now_ms: int, header_key: str | None
) -> Submit:
    if not job.payload:
        raise RefusedError(problems.PAYLOAD_REQUIRED)
    payload = checked_text("payload", job.payload, limits.payload_bytes_max)
    max_retries = _max_retries(job.max_retries, limits.default_max_retries)
    asked = _Asked.of(job)
    key = _same_key(header_key, job.idempotency_key)
    ttl_ms = asked.ttl_ms
    return Submit(
        payload,
        max_retries,
        asked.queue,
        _options(asked, limits),
        _start(asked, now_ms),
        0 if ttl_ms is None else now_ms + ttl_ms,
        asked.group,
        key,
        _digest(payload, job.max_retries, asked) if key else b"",
    )


class _Asked(NamedTuple):
    """What a job asks for beside payload and attempts, whatever the node is set to and the time.

    Two submits that mean the same have equal ones, however they spelled it.
    """

    queue: str
    priority: int
    delay_ms: int
    run_at_ms: int | None
    lease_ms: int | None
    backoff: tuple[int | None, float | None, int | None, float | None] | None
    group: str
    ttl_ms: int | None
    retention_ms: int | None
    tags: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, job: SubmitBody) -> "_Asked":
        if job.delay is not None and job.run_at is not None:
            raise refused("delay and run_at exclude each other: send one of them")
        return cls(
            checked_queue("queue", job.queue),
            job.priority or 0,
            checked_duration("delay", job.delay) or 0,
            _time("run_at", job.run_at),
            checked_duration("lease_duration", job.lease_duration, 1, LEASE_MS_MAX),
            _backoff(job.backoff),
            job.group or "",
            checked_duration("ttl", job.ttl, 1),
            checked_duration("retention", job.retention),
            tuple(sorted(job.tags.items())) if job.tags else (),
        )


def _max_retries(asked: int | None, default: int) -> int:
    if asked is None:
        return default
    if asked < 0:
        raise RefusedError(problems.MAX_RETRIES_NEGATIVE)
    if asked > ATTEMPTS_MAX:
        raise refused(f"max_retries must be <= {ATTEMPTS_MAX}")
    return asked


def _time(field: str, text: str | None) -> int | None:
    if text is None:
        return None
    time_ms = parse_rfc3339(text)
    if time_ms is None:
        raise refused(f"{field} must be an RFC 3339 time like 2025-12-26T10:30:00Z")
    return time_ms


def _backoff(
    body: BackoffBody | None,
) -> tuple[int | None, float | None, int | None, float | None] | None:
    if body is None:
        return None
    initial_ms = checked_duration("backoff.initial", body.initial)
    max_ms = checked_duration("backoff.max", body.max)
    if initial_ms is not None and max_ms is not None and initial_ms > max_ms:
        raise refused("backoff.initial must be <= backoff.max")
    backoff = (initial_ms, body.factor, max_ms, body.jitter)
    return None if backoff == (None, None, None, None) else backoff


def _options(asked: _Asked, limits: SubmitLimits) -> bytes:
    options = Options(
        asked.queue,
        asked.priority,
        asked.lease_ms,
        asked.retention_ms,
        None if asked.backoff is None else _filled_in(asked.backoff, limits),
        asked.tags,
    )
    encoded = encode_options(options)
    assert len(encoded) <= OPTIONS_BYTES_MAX, "the limits of tags do not fit those of the pipe"
    return encoded


def _filled_in(
    asked: tuple[int | None, float | None, int | None, float | None], limits: SubmitLimits
) -> Backoff:
    initial_ms, factor, max_ms, jitter = asked
    # A job that names one of the two is not refused for the other, which the node chose.
    if initial_ms is None:
        initial_ms = min(
            limits.backoff_initial_ms, limits.backoff_max_ms if max_ms is None else max_ms
        )
    if max_ms is None:
        max_ms = max(limits.backoff_max_ms, initial_ms)
    return Backoff(
        initial_ms,
        max_ms,
        _BACKOFF.factor if factor is None else factor,
        _BACKOFF.jitter if jitter is None else jitter,
    )


def _start(asked: _Asked, now_ms: int) -> int:
    if asked.delay_ms:
        return now_ms + asked.delay_ms
    run_at_ms = asked.run_at_ms
    return 0 if run_at_ms is None or run_at_ms <= now_ms else run_at_ms


def _check_key_header(key: str | None) -> None:
    if key is None:
        return
    if not 1 <= len(key) <= IDEMPOTENCY_KEY_CHARS_MAX:
        raise refused(f"Idempotency-Key must have 1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters")
    # What bytes beyond ASCII mean in a header is anybody's guess, so it could not be told whether
    # they are the same key as a field's.
    if not (key.isascii() and key.isprintable()):
        raise refused(
            "Idempotency-Key must be printable ASCII: the field idempotency_key may be any text"
        )


def _same_key(header: str | None, field: str | None) -> str:
    if header is not None and field is not None and header != field:
        raise refused("idempotency_key and the header Idempotency-Key differ: send one of them")
    return header or field or ""


def _digest(payload: bytes, max_retries: int | None, asked: _Asked) -> bytes:
    # What the client left open is left open here: the node's settings may have changed when
    # it sends the same again.
    # So it is with its trace: the same job may be sent again while another request is answered.
    tags = tuple(tag for tag in asked.tags if tag[0] not in _TRACE_TAGS)
    body = _msgpack((payload, max_retries, asked._replace(tags=tags) if asked.tags else asked))
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
