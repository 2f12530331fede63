"""What requests of the job and queue routes say: typed, decoded once. Pure.

Decoding is the validation: whatever ``decode_*`` returns is within the contract, and
everything else is a ``Problem`` in words that name the field. ``bodies`` has what JSON may hold;
the structs here are what checked.

A plain job, which says no more than its payload and ``max_retries``, is decoded by a decoder
of its own: one pass in C, and no look at the fields that it does not have.
"""

import base64
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from api import problems
from api.bodies import (
    IDEMPOTENCY_KEY_CHARS_MAX,
    LEASE_MS_MAX,
    PROGRESS_CHARS_MAX,
    QUEUE_PATTERN,
    TAG_KEY_CHARS_MAX,
    TAG_VALUE_CHARS_MAX,
    TAGS_MAX,
    TOKEN_DIGITS_MAX,
    WAIT_MS_MAX,
    AckBody,
    AckItemBody,
    AcksBody,
    BackoffBody,
    BatchBody,
    Body,
    ExtendBody,
    ExtendItemBody,
    ExtendsBody,
    LeaseBody,
    ReleaseBody,
    SubmitBody,
)
from api.decoding import RefusedError, cut, decoded, decoded_or_none, refused
from api.durations import DURATION_MS_MAX, parse_duration
from api.problems import Problem
from api.times import parse_rfc3339
from partitions.limits import (
    ATTEMPTS_MAX,
    ENQUEUE_JOBS_MAX,
    GROUP_CHARS_MAX,
    OPTIONS_BYTES_MAX,
    PROGRESS_BYTES_MAX,
)
from partitions.messages import Filter
from partitions.options import DEFAULT_QUEUE, Options, encode_options
from partitions.retry import Backoff

STATES: Final = ("SCHEDULED", "READY", "RUNNING", "RETRY", "ACKED", "DEAD", "CANCELLED")
"""Of a job, as lists and counts name them."""

LEASE_TOKEN_MAX: Final = (1 << 63) - 1
PAGE_JOBS_MAX: Final = 1000
PAGE_JOBS: Final = 100
"""Jobs of a page when the request does not say."""

_DIGEST_BYTES: Final = 16
_TRACE_TAGS: Final = frozenset(("traceparent", "tracestate"))
"""https://www.w3.org/TR/trace-context/, as the SDK tags it: of a submit, not of its job."""

_QUEUE: Final = re.compile(QUEUE_PATTERN)


class _PlainBody(Body, frozen=True):
    payload: Annotated[str, Meta(min_length=1)]
    max_retries: Annotated[int, Meta(ge=0, le=ATTEMPTS_MAX)] | None = None


class _PlainBatchBody(Body, frozen=True):
    jobs: Annotated[list[_PlainBody], Meta(min_length=1, max_length=ENQUEUE_JOBS_MAX)]


# What checked ---------------------------------------------------------------------------


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


class ListRequest(msgspec.Struct, frozen=True):
    """A page of jobs. ``cursor`` is as the request had it: ``decode_cursor`` checks it."""

    cursor: str | None = None
    limit: int = PAGE_JOBS
    filter: Filter = Filter()


# Submit ---------------------------------------------------------------------------------

_submit_decoder: Final = msgspec.json.Decoder(SubmitBody)
_batch_decoder: Final = msgspec.json.Decoder(BatchBody)
_plain_decoder: Final = msgspec.json.Decoder(_PlainBody)
_plain_batch_decoder: Final = msgspec.json.Decoder(_PlainBatchBody)


Now = Callable[[], int]
"""The time, ms since 1970; asked for jobs that say more than a plain one."""


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
        return _each("jobs", plain.jobs, lambda job: _checked_plain(job, limits))
    try:
        jobs = decoded(_batch_decoder, body).jobs
    except RefusedError as error:
        return error.problem
    now_ms = now()
    return _each("jobs", jobs, lambda job: _checked_job(job, limits, now_ms, None))


def _checked_plain(job: _PlainBody, limits: SubmitLimits) -> Submit:
    max_retries = job.max_retries
    return Submit(
        _text("payload", job.payload, limits.payload_bytes_max),
        limits.default_max_retries if max_retries is None else max_retries,
        DEFAULT_QUEUE,
        b"",
    )


def _checked_job(
    job: SubmitBody, limits: SubmitLimits, now_ms: int, header_key: str | None
) -> Submit:
    if not job.payload:
        raise RefusedError(problems.PAYLOAD_REQUIRED)
    payload = _text("payload", job.payload, limits.payload_bytes_max)
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
            _queue("queue", job.queue),
            job.priority or 0,
            _duration("delay", job.delay) or 0,
            _time("run_at", job.run_at),
            _duration("lease_duration", job.lease_duration, 1, LEASE_MS_MAX),
            _backoff(job.backoff),
            job.group or "",
            _duration("ttl", job.ttl, 1),
            _duration("retention", job.retention),
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


def _backoff(
    body: BackoffBody | None,
) -> tuple[int | None, float | None, int | None, float | None] | None:
    if body is None:
        return None
    initial_ms = _duration("backoff.initial", body.initial)
    max_ms = _duration("backoff.max", body.max)
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


# Lease ----------------------------------------------------------------------------------

_lease_decoder: Final = msgspec.json.Decoder(LeaseBody)
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
            _wait(asked.wait),
            _duration("lease_duration", asked.lease_duration, 1, LEASE_MS_MAX),
            asked.worker or "",
        )
    except RefusedError as error:
        return error.problem


def _queues(names: list[str] | None) -> tuple[str, ...]:
    if names is None:
        return (DEFAULT_QUEUE,)
    for index, name in enumerate(names):
        _queue(f"queues[{index}]", name)
    if len(set(names)) < len(names):
        raise refused("queues must not name a queue twice")
    return tuple(names)


def _wait(value: str | int | float | None) -> int:
    return _duration("wait", value, 0, WAIT_MS_MAX) or 0


# Ack, extend, release -------------------------------------------------------------------

_ack_decoder: Final = msgspec.json.Decoder(AckBody)
_acks_decoder: Final = msgspec.json.Decoder(AcksBody)
_extend_decoder: Final = msgspec.json.Decoder(ExtendBody)
_extends_decoder: Final = msgspec.json.Decoder(ExtendsBody)
_release_decoder: Final = msgspec.json.Decoder(ReleaseBody)
_EMPTY: Final = b"{}"
"""What no body means: so the words are about the field that is missing."""


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
    return _each("acks", acks, lambda ack: (ack.job_id, _checked_ack(ack, text_bytes_max)))


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
    return _each("extends", extends, lambda extend: (extend.job_id, _checked_extend(extend)))


def decode_release(body: bytes) -> Release | Problem:
    """A job given back, or what is wrong with it."""
    try:
        release = decoded(_release_decoder, body or _EMPTY)
        return Release(_token(release.lease_token), _duration("delay", release.delay) or 0)
    except RefusedError as error:
        return error.problem


def _checked_ack(ack: AckBody | AckItemBody, text_bytes_max: int) -> Ack:
    error = ack.result_error
    if error and ack.result:
        raise refused("result and result_error exclude each other: send one of them")
    token = None if ack.lease_token is None else _token(ack.lease_token)
    result = _text("result", ack.result, text_bytes_max) if ack.result else None
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
        _text("result_error", error, text_bytes_max),
        retry,
        _duration("retry_in", ack.retry_in),
    )


def _checked_extend(extend: ExtendBody | ExtendItemBody) -> Extend:
    return Extend(
        _token(extend.lease_token),
        _duration("lease_duration", extend.lease_duration, 1, LEASE_MS_MAX),
        b"" if extend.progress is None else _progress(extend.progress),
    )


def _progress(value: str | int | float) -> bytes:
    if isinstance(value, str):
        if len(value) > PROGRESS_CHARS_MAX:
            raise refused(f"progress must have at most {PROGRESS_CHARS_MAX} characters")
    elif not 0 <= value <= 100:
        raise refused("progress must be a number from 0 to 100, or text")
    encoded = _json(value)
    assert len(encoded) <= PROGRESS_BYTES_MAX, "the limit of progress does not fit the pipe's"
    return encoded


# Queries and paths ----------------------------------------------------------------------

_LIST_PARAMETERS: Final = frozenset({"queue", "state", "group", "limit", "cursor"})


def decode_list(args: Sequence[tuple[str, str]]) -> ListRequest | Problem:
    """Which jobs of ``GET /jobs``, or what is wrong with the query."""
    try:
        given = _parameters([pair for pair in args if pair[0] != "tag"], _LIST_PARAMETERS)
        queue = given.get("queue")
        return ListRequest(
            given.get("cursor"),
            _limit(given.get("limit")),
            Filter(
                None if queue is None else _queue("queue", queue),
                _state(given.get("state"), STATES),
                _group(given.get("group")),
                _tags([value for name, value in args if name == "tag"]),
            ),
        )
    except RefusedError as error:
        return error.problem


def decode_wait(args: Sequence[tuple[str, str]]) -> int | Problem:
    """How many ms ``GET /jobs/{id}`` may wait, or what is wrong with the query."""
    try:
        # Clients of the first contract may send other parameters, which were never looked at.
        waits = [(name, value) for name, value in args if name == "wait"]
        return _wait(_parameters(waits, frozenset({"wait"})).get("wait"))
    except RefusedError as error:
        return error.problem


def decode_bulk_state(args: Sequence[tuple[str, str]]) -> str | Problem:
    """The jobs of which state ``DELETE /queues/{q}/jobs`` forgets: any but RUNNING."""
    try:
        given = _parameters(args, frozenset({"state"}))
        state = _state(given.get("state"), tuple(name for name in STATES if name != "RUNNING"))
        if state is None:
            raise refused("state is required")
    except RefusedError as error:
        return error.problem
    return state


def query_pairs(query: str) -> list[tuple[str, str]]:
    """What stands behind the question mark of a target, escapes undone."""
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        return [("(invalid UTF-8)", "")]  # a parameter that there is not


def refuse_body(body: bytes) -> Problem | None:
    """What is wrong with the body of a route that takes none: nothing, or an empty object."""
    return None if body.strip() in (b"", b"{}") else Problem(400, "this route takes no body")


def check_queue(name: str) -> Problem | None:
    """What is wrong with the name of a queue in a path."""
    try:
        _queue("queue", name)
    except RefusedError as error:
        return error.problem
    return None


def _parameters(args: Sequence[tuple[str, str]], known: frozenset[str]) -> Mapping[str, str]:
    given: dict[str, str] = {}
    for name, value in args:
        if name not in known:
            raise refused(f"unknown parameter {cut(name)!a}")
        if name in given:
            raise refused(f"{name} is given twice")
        given[name] = value
    return given


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_JOBS
    digits = text if text.isascii() and text.isdigit() and len(text) <= 9 else "0"
    if not 1 <= int(digits) <= PAGE_JOBS_MAX:
        raise refused(f"limit must be a number from 1 to {PAGE_JOBS_MAX}")
    return int(digits)


def _state(text: str | None, allowed: tuple[str, ...]) -> str | None:
    if text is not None and text not in allowed:
        raise refused(f"state must be one of {', '.join(allowed)}")
    return text


def _group(text: str | None) -> str | None:
    if text is not None and not (1 <= len(text) <= GROUP_CHARS_MAX and _is_unicode(text)):
        raise refused(f"group must be a text of 1 to {GROUP_CHARS_MAX} characters")
    return text


def _tags(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if len(texts) > TAGS_MAX:
        raise refused(f"tag must be given at most {TAGS_MAX} times")
    return tuple(map(_tag, texts))


def _tag(text: str) -> tuple[str, str]:
    # Keys and values may have colons of their own, so which one ends the key is not known; nor
    # does it matter to the filter.
    if (
        not 1 <= text.find(":", 1) <= TAG_KEY_CHARS_MAX
        or len(text) > TAG_KEY_CHARS_MAX + 1 + TAG_VALUE_CHARS_MAX
        or not _is_unicode(text)
    ):
        raise refused(
            f"tag must be key:value, of at most {TAG_KEY_CHARS_MAX} and {TAG_VALUE_CHARS_MAX}"
            " characters"
        )
    key, _, value = text.partition(":")
    return key, value


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can carry it. JSON has been checked for this, queries have not."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


# Cursors --------------------------------------------------------------------------------

_Position = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_positions_decoder: Final = msgspec.msgpack.Decoder(tuple[_Position | None, ...])
_CHECKSUM_BYTES: Final = 4
_BAD_CURSOR: Final = Problem(400, "cursor is none that a page of this list gave")


def encode_cursor(positions: Sequence[int | None]) -> str:
    """Where the next page begins: a number for each partition, None where there is no more.

    Text that means nothing to clients and is safe in a URL. The checksum is against accidents: who
    forges a cursor sees what another cursor would have shown.
    """
    packed = _msgpack(tuple(positions))
    checksum = zlib.crc32(packed).to_bytes(_CHECKSUM_BYTES, "big")
    return base64.urlsafe_b64encode(checksum + packed).rstrip(b"=").decode()


def decode_cursor(text: str, partitions: int) -> tuple[int | None, ...] | Problem:
    """What ``encode_cursor`` was given by a node of so many partitions, or the problem."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        positions = _positions_decoder.decode(raw[_CHECKSUM_BYTES:])
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return _BAD_CURSOR
    # Decoders are lenient, and a cursor has one spelling.
    if len(positions) != partitions or encode_cursor(positions) != text:
        return _BAD_CURSOR
    return positions


# Of every request -----------------------------------------------------------------------

_json: Final = msgspec.json.Encoder().encode
_msgpack: Final = msgspec.msgpack.Encoder().encode
_BACKOFF: Final = Backoff()

_Item = TypeVar("_Item")
_Checked = TypeVar("_Checked")


def _each(
    name: str, items: Sequence[_Item], check: Callable[[_Item], _Checked]
) -> list[_Checked] | Problem:
    checked: list[_Checked] = []
    try:
        for item in items:
            checked.append(check(item))  # noqa: PERF401 - how many there are says which is wrong
    except RefusedError as error:
        return problems.at(name, len(checked), error.problem)
    return checked


def _text(name: str, text: str, bytes_max: int) -> bytes:
    encoded = text.encode()
    if len(encoded) > bytes_max:
        raise RefusedError(problems.too_large(name, len(encoded), bytes_max))
    return encoded


def _queue(field: str, name: str | None) -> str:
    if name is None:
        return DEFAULT_QUEUE
    if _QUEUE.fullmatch(name) is None:
        raise refused(f"{field} must match {QUEUE_PATTERN}")
    return name


def _token(text: str) -> int:
    is_digits = text.isascii() and text.isdigit() and len(text) <= TOKEN_DIGITS_MAX
    token = int(text) if is_digits else -1
    if not 0 <= token <= LEASE_TOKEN_MAX:
        raise refused("lease_token must be a string of digits, as the lease gave it")
    return token


def _duration(
    field: str, value: str | int | float | None, least_ms: int = 0, most_ms: int = DURATION_MS_MAX
) -> int | None:
    if value is None:
        return None
    ms = parse_duration(value)
    if ms is None:
        span = f"more than 0, at most {_shown(most_ms)}" if least_ms else f"0 to {_shown(most_ms)}"
        raise refused(f"{field} must be a duration like 1m30s or a number of seconds, {span}")
    if ms < least_ms:
        raise refused(f"{field} must be > 0")
    # A number a hair above the limit is above it, whatever it is rounded to.
    if ms > most_ms or (isinstance(value, float) and value * 1000 > most_ms):
        raise refused(f"{field} must be <= {_shown(most_ms)}")
    return ms


def _shown(limit_ms: int) -> str:
    """A limit as a request could have it."""
    hours, rest_ms = divmod(limit_ms, 3_600_000)
    return f"{limit_ms // 1000}s" if rest_ms else f"{hours}h"


def _time(field: str, text: str | None) -> int | None:
    if text is None:
        return None
    time_ms = parse_rfc3339(text)
    if time_ms is None:
        raise refused(f"{field} must be an RFC 3339 time like 2025-12-26T10:30:00Z")
    return time_ms
