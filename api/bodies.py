"""What the JSON of a request may hold: one struct for each body, bounds included. Pure.

``submit_schemas`` and ``lease_schemas`` decode them and check the rest; ``openapi`` shows them, so
what is documented is what is decoded. None and absent are the same everywhere, as in the original
system.

Bounds in ``extra_json_schema`` are for readers alone: the decoders check those, in words that
clients know or that say more than a pattern.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from api.durations import DURATION_MS_MAX, DURATION_PATTERN
from partitions.limits import (
    ATTEMPTS_MAX,
    ENQUEUE_JOBS_MAX,
    GROUP_CHARS_MAX,
    LEASE_JOBS_MAX,
    MANY_MAX,
    PRIORITY_MAX,
    QUEUE_CHARS_MAX,
    WORKER_CHARS_MAX,
)

QUEUES_PER_LEASE_MAX: Final = 100
"""Each is a look at every partition (guess: whoever needs more has one queue with tags)."""
TAGS_MAX: Final = 16
TAG_KEY_CHARS_MAX: Final = 64
TAG_VALUE_CHARS_MAX: Final = 256
IDEMPOTENCY_KEY_CHARS_MAX: Final = 256
PROGRESS_CHARS_MAX: Final = 256
TOKEN_DIGITS_MAX: Final = 19
"""Of ``LEASE_TOKEN_MAX``."""
LEASE_MS_MAX: Final = 7 * 24 * 3_600_000
"""A lease of a week (guess: whoever works for longer sends heartbeats)."""
WAIT_MS_MAX: Final = 60_000
"""Of a long poll (the contract)."""
QUEUE_PATTERN: Final = f"[A-Za-z0-9_.:-]{{1,{QUEUE_CHARS_MAX}}}"

_DurationText = Annotated[
    str, Meta(extra_json_schema={"pattern": DURATION_PATTERN, "maxLength": 64})
]
_GO_STYLE: Final = "Go style, `1m30s` or `500ms`, or a number of seconds"
_Seconds = Meta(extra_json_schema={"minimum": 0, "maximum": DURATION_MS_MAX // 1000})
_Duration = Annotated[
    _DurationText | Annotated[int, _Seconds] | Annotated[float, _Seconds],
    Meta(description=_GO_STYLE),
]
_SomeSeconds = Meta(extra_json_schema={"exclusiveMinimum": 0, "maximum": DURATION_MS_MAX // 1000})
_SomeDuration = Annotated[
    _DurationText | Annotated[int, _SomeSeconds] | Annotated[float, _SomeSeconds],
    Meta(description=f"{_GO_STYLE}; not 0"),
]
_LeaseSeconds = Meta(extra_json_schema={"exclusiveMinimum": 0, "maximum": LEASE_MS_MAX // 1000})
_LeaseDuration = Annotated[
    _DurationText | Annotated[int, _LeaseSeconds] | Annotated[float, _LeaseSeconds],
    Meta(description=f"{_GO_STYLE}; not 0, at most a week"),
]
_WaitSeconds = Meta(extra_json_schema={"minimum": 0, "maximum": WAIT_MS_MAX // 1000})
_Wait = Annotated[
    _DurationText | Annotated[int, _WaitSeconds] | Annotated[float, _WaitSeconds],
    Meta(description=f"{_GO_STYLE}; at most `60s`"),
]
_Time = Annotated[
    str,
    Meta(description="RFC 3339, `2025-12-26T10:30:00Z`", extra_json_schema={"format": "date-time"}),
]
_QueueName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{QUEUE_PATTERN}$"})]
_Token = Annotated[
    str,
    Meta(
        description="as the lease gave it",
        extra_json_schema={"pattern": f"^[0-9]{{1,{TOKEN_DIGITS_MAX}}}$"},
    ),
]
_Text = Annotated[str, Meta(description="UTF-8, at most 1 MiB unless the node is set otherwise")]
_Payload = Annotated[_Text, Meta(extra_json_schema={"minLength": 1})]
_Tags = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=TAG_KEY_CHARS_MAX)],
        Annotated[str, Meta(max_length=TAG_VALUE_CHARS_MAX)],
    ],
    Meta(max_length=TAGS_MAX),
]
_Group = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=GROUP_CHARS_MAX,
        description="one RUNNING job per group of a queue, in order of submission",
    ),
]
_Percent = Meta(extra_json_schema={"minimum": 0, "maximum": 100})
_Progress = Annotated[
    Annotated[str, Meta(extra_json_schema={"maxLength": PROGRESS_CHARS_MAX})]
    | Annotated[int, _Percent]
    | Annotated[float, _Percent],
    Meta(description="a number from 0 to 100, or text"),
]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A JSON object of a request. ``gc=False`` is safe: nothing that was JSON can reach itself."""


class BackoffBody(Body, frozen=True):
    """``backoff`` of a job; what is absent is as the node is set."""

    initial: _Duration | None = None
    factor: Annotated[float, Meta(ge=1)] | None = None
    max: _Duration | None = None
    jitter: Annotated[float, Meta(ge=0, le=1)] | None = None


class SubmitBody(Body, frozen=True):
    """``POST /jobs``."""

    payload: _Payload
    max_retries: (
        Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": ATTEMPTS_MAX})] | None
    ) = None
    queue: _QueueName | None = None
    priority: Annotated[int, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] | None = None
    delay: _Duration | None = None
    run_at: _Time | None = None
    lease_duration: _LeaseDuration | None = None
    backoff: BackoffBody | None = None
    group: _Group | None = None
    idempotency_key: (
        Annotated[str, Meta(min_length=1, max_length=IDEMPOTENCY_KEY_CHARS_MAX)] | None
    ) = None
    ttl: _SomeDuration | None = None
    retention: _Duration | None = None
    tags: _Tags | None = None


class BatchBody(Body, frozen=True):
    """``POST /jobs/batch``."""

    jobs: Annotated[list[SubmitBody], Meta(min_length=1, max_length=ENQUEUE_JOBS_MAX)]


class LeaseBody(Body, frozen=True):
    """``POST /jobs/lease``. Without ``max``: one job, not a list of one."""

    queues: (
        Annotated[list[_QueueName], Meta(min_length=1, max_length=QUEUES_PER_LEASE_MAX)] | None
    ) = None
    max: Annotated[int, Meta(ge=1, le=LEASE_JOBS_MAX)] | None = None
    wait: _Wait | None = None
    lease_duration: _LeaseDuration | None = None
    worker: Annotated[str, Meta(max_length=WORKER_CHARS_MAX)] | None = None


class AckBody(Body, frozen=True):
    """``POST /jobs/{id}/ack``. A ``result_error`` that is not empty reports a failure."""

    result: _Text | None = None
    result_error: _Text | None = None
    lease_token: _Token | None = None
    retry: bool | None = None
    retry_in: _Duration | None = None


class AckItemBody(Body, frozen=True):
    """One of ``POST /jobs/ack``."""

    job_id: str
    result: _Text | None = None
    result_error: _Text | None = None
    lease_token: _Token | None = None
    retry: bool | None = None
    retry_in: _Duration | None = None


class AcksBody(Body, frozen=True):
    """``POST /jobs/ack``."""

    acks: Annotated[list[AckItemBody], Meta(min_length=1, max_length=MANY_MAX)]


class ExtendBody(Body, frozen=True):
    """``POST /jobs/{id}/extend``."""

    lease_token: _Token
    lease_duration: _LeaseDuration | None = None
    progress: _Progress | None = None


class ExtendItemBody(Body, frozen=True):
    """One of ``POST /jobs/extend``."""

    job_id: str
    lease_token: _Token
    lease_duration: _LeaseDuration | None = None
    progress: _Progress | None = None


class ExtendsBody(Body, frozen=True):
    """``POST /jobs/extend``."""

    extends: Annotated[list[ExtendItemBody], Meta(min_length=1, max_length=MANY_MAX)]


class ReleaseBody(Body, frozen=True):
    """``POST /jobs/{id}/release``."""

    lease_token: _Token
    delay: _Duration | None = None
