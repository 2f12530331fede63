"""What a submit may ask for beside its payload, and how that stands on the wire. Pure.

A duration is a number of seconds, a ``timedelta``, or a text like ``"1m30s"``, which the node
reads. What is plainly wrong is refused here; bounds are the node's, and it names the field.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict, Unpack

import msgspec

from queue_node_sdk.errors import BadRequest

Duration = float | int | timedelta | str
"""Seconds, a ``timedelta``, or a text such as ``"1m30s"`` or ``"500ms"``, which the node reads."""


class BackoffOptions(TypedDict, total=False):
    """How long a failed job pauses before its next attempt; what is absent is the node's."""

    initial: Duration
    factor: float
    """1 or more."""
    max: Duration
    jitter: float
    """Added at random, a fraction of the pause from 0 to 1."""


class JobOptions(TypedDict, total=False):
    """The keyword arguments of a submit. ``None`` is the same as absent: the node's default."""

    max_retries: int | None
    """Attempts that the job gets in all (0 and 1: one)."""
    queue: str | None
    priority: int | None
    """-100 to 100, higher first."""
    delay: Duration | None
    """Not before so long from now."""
    run_at: datetime | str | None
    """Not before then: an aware ``datetime``, or RFC 3339."""
    ttl: Duration | None
    """Not started by then: DEAD, ``expired``."""
    lease_duration: Duration | None
    """How long a worker may hold the job without a heartbeat."""
    backoff: BackoffOptions | None
    group: str | None
    """Of the jobs of a group one is RUNNING at a time, in order of submission."""
    idempotency_key: str | None
    """The same key and the same job again is the first job; made up when not given."""
    retention: Duration | None
    """How long the finished job is kept."""
    tags: Mapping[str, str] | None
    """At most 16."""


OPTION_NAMES: Final = frozenset(JobOptions.__annotations__)


class Submit:
    """A job to store, for ``submit_many``: ``Submit("payload", queue="mail", priority=5)``."""

    __slots__ = ("options", "payload")

    def __init__(self, payload: str, **options: Unpack[JobOptions]) -> None:
        """Nothing is checked before it is sent."""
        self.payload: str = payload
        self.options: JobOptions = options

    def __repr__(self) -> str:
        return f"Submit({self.payload!r}, **{self.options!r})"


class _SubmitBody(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    payload: str
    idempotency_key: str | None = None
    max_retries: int | None = None
    queue: str | None = None
    priority: int | None = None
    delay: float | str | None = None
    run_at: str | None = None
    ttl: float | str | None = None
    lease_duration: float | str | None = None
    backoff: dict[str, float | str] | None = None
    group: str | None = None
    retention: float | str | None = None
    tags: dict[str, str] | None = None


def plain(value: object) -> str | int | float:
    """For msgspec, which encodes no subclass: the text or number that ``value`` is.

    Libraries return them where they mean a text or a number (numpy, lxml, markupsafe).

    Raises:
        TypeError: it is neither.
    """
    match value:
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case _:
            raise TypeError(f"objects of type {type(value).__qualname__} are not supported")


_encode: Final = msgspec.json.Encoder(enc_hook=plain).encode
_DURATIONS: Final = ("delay", "ttl", "lease_duration", "retention")


def submit_body(payload: str, options: JobOptions, idempotency_key: str) -> bytes:
    """The JSON of one job, as ``POST /jobs`` takes it and as it stands in a batch.

    Args:
        payload: the job's text.
        options: what the caller asked for; its own ``idempotency_key`` goes first.
        idempotency_key: the one that was made up for this submit.

    Raises:
        BadRequest: the job cannot be sent.
        TypeError: there is no such option.
    """
    if not isinstance(payload, str):
        raise BadRequest(f"a payload is a str, not {type(payload).__name__}")
    if not payload:
        raise BadRequest("payload is required: it is empty")
    if not options:
        return encoded(_SubmitBody(payload=payload, idempotency_key=idempotency_key), "payload")
    if unknown := options.keys() - OPTION_NAMES:
        raise TypeError(f"submit() has no option {', '.join(sorted(unknown))}")
    fields = _on_the_wire(options)
    return encoded(
        _SubmitBody(
            payload=payload,
            idempotency_key=fields.pop("idempotency_key", None) or idempotency_key,
            **fields,
        ),
        "job",
    )


def wire_duration(name: str, value: Duration) -> float | int | str:
    """A duration as JSON has it.

    Raises:
        BadRequest: it is none.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{name} is seconds, a timedelta or a text like 1m30s, not {value!r}")
    if not (math.isfinite(value) and value >= 0):
        raise BadRequest(f"{name} must be 0 or more, and finite: {value!r}")
    return value


def wire_time(name: str, value: datetime | str) -> str:
    """A time as JSON has it: RFC 3339 in UTC.

    Raises:
        BadRequest: it is none, or of an unknown time zone.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, datetime):
        raise BadRequest(f"{name} is a datetime or an RFC 3339 text, not {value!r}")
    if value.tzinfo is None:
        raise BadRequest(f"{name} has no time zone: pass datetime(..., tzinfo=UTC)")
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def encoded(fields: object, what: str) -> bytes:
    """JSON, or words that say why it cannot be.

    Raises:
        BadRequest: JSON cannot carry it.
    """
    try:
        return _encode(fields)
    except UnicodeEncodeError as error:
        raise BadRequest(f"the {what} has lone surrogates, which JSON cannot carry") from error
    except (TypeError, OverflowError, RecursionError) as error:
        raise BadRequest(f"this cannot be sent as JSON: {error}") from error


# msgspec structs have keyword arguments of their own types, so the fields are ``Any`` on the way.
def _on_the_wire(options: JobOptions) -> dict[str, Any]:
    fields: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in _DURATIONS:
        if name in fields:
            fields[name] = wire_duration(name, fields[name])
    if "run_at" in fields:
        fields["run_at"] = wire_time("run_at", fields["run_at"])
    if "backoff" in fields:
        fields["backoff"] = _wire_backoff(fields["backoff"])
    if "tags" in fields:
        fields["tags"] = _wire_tags(fields["tags"])
    return fields


def _wire_backoff(backoff: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(backoff, Mapping):
        raise BadRequest(f"backoff is a mapping of initial, factor, max, jitter, not {backoff!r}")
    fields = {name: value for name, value in backoff.items() if value is not None}
    for name in ("initial", "max"):
        if name in fields:
            fields[name] = wire_duration(f"backoff.{name}", fields[name])
    return fields


def _wire_tags(tags: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(tags, Mapping):
        raise BadRequest(f"tags are a mapping of str to str, not {tags!r}")
    return dict(tags)
