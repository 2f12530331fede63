"""What answers of the job and queue routes say: replies of partitions as JSON structs. Pure.

What is not there is left out, never null, but where the contract says so. Texts of jobs are UTF-8
that was checked as it came in, so it decodes.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from api.problems import PARTLY_STORED, Problem
from api.query_schemas import STATES
from api.times import rfc3339
from partitions.messages import JobView, Leased, QueueView
from partitions.options import decode_options
from partitions.slots import format_job_id

FINISHED: Final = frozenset({"ACKED", "DEAD", "CANCELLED"})

_NO_TAGS: Final[dict[str, str]] = {}
_RATE_DIGITS: Final = 3

encode: Final = msgspec.json.Encoder().encode

# For readers of the schema; nothing checks an answer.
_JobId = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
_Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
_State = Annotated[str, Meta(extra_json_schema={"enum": list(STATES)})]
_Progress = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": ["number", "string"]})]
_Token = Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9]+$"})]


class JobCreated(msgspec.Struct, frozen=True, gc=False):
    """201 of a submit; 200 when it was one seen before."""

    job_id: _JobId


class JobsCreated(msgspec.Struct, frozen=True):
    """201 of a batch, in the order of its jobs."""

    job_ids: list[_JobId]


class SubmitResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one job of a batch of which a part could not be stored."""

    status: int
    job_id: _JobId | None = None
    error: str | None = None


class PartlyStored(msgspec.Struct, frozen=True):
    """503 of a batch: some of its jobs are stored, in the order of its jobs."""

    error: str
    results: list[SubmitResult]


class LeasedJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """200 of a lease."""

    job_id: _JobId
    payload: str
    lease_until: _Time
    attempt: int
    lease_token: _Token
    max_retries: int
    created_at: _Time
    queue: str
    tags: dict[str, str]
    group: str = ""
    priority: int = 0


class LeasedJobs(msgspec.Struct, frozen=True):
    """200 of a lease with ``max``."""

    jobs: list[LeasedJob]


class JobStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """200 of ``GET /jobs/{id}``, and of what changes one job."""

    job_id: _JobId
    state: _State
    attempts: int
    max_retries: int
    created_at: _Time
    queue: str
    lease_until: _Time | None = None
    result: str | None = None
    result_error: str | None = None
    priority: int = 0
    tags: dict[str, str] | None = None
    group: str = ""
    run_at: _Time | None = None
    expires_at: _Time | None = None
    finished_at: _Time | None = None
    progress: _Progress | None = None
    """A number or a text, as the heartbeat had it."""
    crashes: int = 0
    """Leases that ended without a word of their worker."""
    worker: str = ""


class JobPage(msgspec.Struct, frozen=True):
    """200 of ``GET /jobs``, oldest first, without results."""

    jobs: list[JobStatus]
    next_cursor: str | None


class Result(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What became of one ack of many."""

    status: int
    error: str = ""


class Results(msgspec.Struct, frozen=True):
    """200 of ``POST /jobs/ack``, in the order of the acks."""

    results: list[Result]


class ExtendedLease(msgspec.Struct, frozen=True, gc=False):
    """200 of an extend."""

    lease_until: _Time


class ExtendResult(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What became of one extend of many."""

    status: int
    lease_until: _Time | None = None
    error: str = ""


class ExtendResults(msgspec.Struct, frozen=True):
    """200 of ``POST /jobs/extend``, in the order of the extends."""

    results: list[ExtendResult]


class Count(msgspec.Struct, frozen=True):
    """200 of a bulk call: how many jobs it was done to."""

    count: int


class Rate(msgspec.Struct, frozen=True):
    """Jobs a second, over the last 1, 5 and 15 minutes."""

    m1: float = msgspec.field(name="1m")
    m5: float = msgspec.field(name="5m")
    m15: float = msgspec.field(name="15m")


class Rates(msgspec.Struct, frozen=True):
    """How fast a queue moves."""

    submitted: Rate
    leased: Rate
    acked: Rate
    failed: Rate


class QueueBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """200 of ``GET /queues/{q}``."""

    queue: str
    counts: dict[str, int]
    """Jobs by state, each state."""
    oldest_ready_age: float | None
    """Seconds since the longest waiting job that can be leased was submitted; null: none can."""
    rates: Rates
    paused: bool
    dead_letters: int
    partitions: dict[str, int]
    """Unfinished jobs by partition: shows how uneven groups lie."""
    groups: int
    """Groups with unfinished jobs."""
    unavailable: list[int] = []
    """Partitions that did not answer, whose jobs are not counted here."""


class QueuesBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """200 of ``GET /queues``."""

    queues: list[QueueBody]
    unavailable: list[int] = []
    """Partitions that did not answer, whose jobs are not counted here."""


class Readiness(msgspec.Struct, frozen=True):
    """The body of ``/ready``, with 200 and with 503."""

    partitions: dict[str, str]
    keystore: str


_DONE: Final = Result(200)


def created(job_id: bytes) -> bytes:
    """The answer to a submit that is durable: a ``JobCreated``, encoded."""
    # Not by the encoder: this is made for every submit, and takes a third of the time.
    return f'{{"job_id":"{format_job_id(job_id)}"}}'.encode()


def created_many(job_ids: Iterable[bytes]) -> JobsCreated:
    """The answer to a batch that is durable."""
    return JobsCreated([format_job_id(job_id) for job_id in job_ids])


def partly_stored(outcomes: Iterable[bytes | Problem]) -> PartlyStored:
    """The answer to a batch of which some jobs are durable: those with an id."""
    return PartlyStored(
        PARTLY_STORED.error,
        [
            SubmitResult(outcome.status, error=outcome.error)
            if isinstance(outcome, Problem)
            else SubmitResult(201, format_job_id(outcome))
            for outcome in outcomes
        ],
    )


def leased(lease: Leased) -> LeasedJob:
    """The answer to a lease."""
    options = decode_options(lease.options)
    return LeasedJob(
        format_job_id(lease.job_id),
        lease.payload.decode(),
        rfc3339(lease.lease_until_ms),
        lease.attempt,
        str(lease.lease_token),
        lease.max_retries,
        rfc3339(lease.created_at_ms),
        options.queue,
        dict(options.tags) if options.tags else _NO_TAGS,
        lease.group,
        options.priority,
    )


def leased_many(leases: Iterable[Leased]) -> LeasedJobs:
    """The answer to a lease with ``max``."""
    return LeasedJobs([leased(lease) for lease in leases])


def status(view: JobView) -> JobStatus:
    """A job as readers see it; its owner is not theirs to know."""
    options = decode_options(view.options)
    return JobStatus(
        job_id=format_job_id(view.job_id),
        state=view.state,
        attempts=view.attempts,
        max_retries=view.max_retries,
        created_at=rfc3339(view.created_at_ms),
        queue=options.queue,
        lease_until=_time(view.lease_until_ms),
        result=None if view.result is None else view.result.decode(),
        result_error=None if view.result_error is None else view.result_error.decode(),
        priority=options.priority,
        tags=dict(options.tags) if options.tags else None,
        group=view.group,
        run_at=_time(view.run_at_ms),
        expires_at=_time(view.expires_at_ms),
        finished_at=_time(view.finished_at_ms),
        progress=msgspec.Raw(view.progress) if view.progress else None,
        crashes=view.crashes,
        worker=view.worker,
    )


def page(views: Iterable[JobView], next_cursor: str | None) -> JobPage:
    """The answer to a list; ``next_cursor`` None: there are no more."""
    return JobPage([status(view) for view in views], next_cursor)


def extended(lease_until_ms: int) -> ExtendedLease:
    """The answer to a heartbeat."""
    return ExtendedLease(rfc3339(lease_until_ms))


def results(outcomes: Iterable[Problem | None]) -> Results:
    """The answer to many acks; None: it is on disk."""
    return Results([_DONE if outcome is None else _refused(outcome) for outcome in outcomes])


def extend_results(outcomes: Iterable[Problem | int]) -> ExtendResults:
    """The answer to many heartbeats; a number: until then, in ms since 1970."""
    return ExtendResults(
        [
            ExtendResult(outcome.status, error=outcome.error)
            if isinstance(outcome, Problem)
            else ExtendResult(200, rfc3339(outcome))
            for outcome in outcomes
        ]
    )


def count(jobs: int) -> Count:
    """The answer to a bulk call."""
    return Count(jobs)


def queue_view(
    queue: str, parts: Sequence[tuple[int, QueueView]], now_ms: int, unavailable: Iterable[int] = ()
) -> QueueBody:
    """A queue over all partitions that answered; ``parts`` is ``[(partition, what it says)]``."""
    views = [view for _, view in parts]
    counts = {state: sum(view.counts.get(state, 0) for view in views) for state in STATES}
    return QueueBody(
        queue,
        counts,
        _oldest_age_s(views, now_ms),
        Rates(*(_rate(views, name) for name in Rates.__struct_fields__)),
        any(view.paused for view in views),
        counts["DEAD"],
        {str(partition): _unfinished(view) for partition, view in parts},
        sum(view.groups for view in views),
        list(unavailable),
    )


def queues(bodies: Iterable[QueueBody], unavailable: Iterable[int] = ()) -> QueuesBody:
    """The answer to ``GET /queues``, by name."""
    return QueuesBody(sorted(bodies, key=lambda body: body.queue), list(unavailable))


def _refused(problem: Problem) -> Result:
    return Result(problem.status, problem.error)


def _time(time_ms: int | None) -> str | None:
    return None if time_ms is None else rfc3339(time_ms)


def _oldest_age_s(views: Iterable[QueueView], now_ms: int) -> float | None:
    since_ms = [view.oldest_ready_ms for view in views if view.oldest_ready_ms is not None]
    # A partition's clock may be a little ahead of this one.
    return max(0, now_ms - min(since_ms)) / 1000 if since_ms else None


def _rate(views: Iterable[QueueView], name: str) -> Rate:
    spans = zip(*(view.rates.get(name, (0.0, 0.0, 0.0)) for view in views), strict=True)
    sums = [round(sum(span), _RATE_DIGITS) for span in spans]
    return Rate(*sums) if sums else Rate(0.0, 0.0, 0.0)


def _unfinished(view: QueueView) -> int:
    return sum(jobs for state, jobs in view.counts.items() if state not in FINISHED)
