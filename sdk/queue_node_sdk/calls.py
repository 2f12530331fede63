"""Requests before they are sent: one function for every route of the contract. Pure.

Each makes a ``Call``. What it takes is checked as far as it must be to make a request of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from queue_node_sdk.errors import BadRequest
from queue_node_sdk.models import JobState, LeasedJob
from queue_node_sdk.options import Duration, encoded, wire_duration


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``what`` names it in errors: "submit", "read job ..."."""

    what: str
    method: str
    path: str
    body: bytes
    repeatable: bool
    """Whether running it twice is no different from running it once."""
    stores: bool = False
    """Whether it makes jobs, so that who asked must be told when that is not sure."""
    may_be_empty: bool = False
    """Whether "no jobs available" is an answer to it and not a trouble."""
    wait_seconds: float = 0.0
    """How long the node may take by the request's own wish, on top of its usual time."""


class AckItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of one attempt; a failure when there is a ``result_error``."""

    job_id: str
    lease_token: str | None = None
    result: str | None = None
    result_error: str | None = None
    retry: bool | None = None
    """``False``, for a failure: DEAD now, whatever attempts are left."""
    retry_in: float | str | None = None
    """Seconds, for a failure: the pause before the next attempt."""


class ExtendItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A heartbeat for one lease."""

    job_id: str
    lease_token: str
    lease_duration: float | str | None = None
    """Seconds from now; ``None``: as long as it was leased for."""
    progress: float | str | None = None
    """A number from 0 to 100, or text."""


class _AckBody(msgspec.Struct, frozen=True, omit_defaults=True):
    result: str | None = None
    result_error: str | None = None
    lease_token: str | None = None
    retry: bool | None = None
    retry_in: float | str | None = None


class _ExtendBody(msgspec.Struct, frozen=True, omit_defaults=True):
    lease_token: str
    lease_duration: float | str | None = None
    progress: float | str | None = None


class _AcksBody(msgspec.Struct, frozen=True):
    acks: Sequence[AckItem]


class _ExtendsBody(msgspec.Struct, frozen=True):
    extends: Sequence[ExtendItem]


class _LeaseBody(msgspec.Struct, frozen=True, omit_defaults=True):
    queues: list[str] | None = None
    max: int | None = None
    wait: float | None = None
    lease_duration: float | str | None = None
    worker: str = ""


class _ReleaseBody(msgspec.Struct, frozen=True, omit_defaults=True):
    lease_token: str
    delay: float | str | None = None


# Jobs, for who submits them -----------------------------------------------------------


def submit_call(body: bytes, *, knows_keys: bool = True) -> Call:
    """Store one job: the ``submit_body`` of it.

    Repeatable, because the body has an idempotency key: sent again, it is the same job, if the
    node knows such keys.
    """
    return Call("submit", "POST", "/jobs", body, repeatable=knows_keys, stores=True)


def batch_call(bodies: Iterable[bytes]) -> Call:
    """Store many jobs, all or none: the ``submit_body`` of each."""
    body = b'{"jobs":[' + b",".join(bodies) + b"]}"
    return Call("submit", "POST", "/jobs/batch", body, repeatable=True, stores=True)


def status_call(job_id: str, wait_seconds: float = 0.0) -> Call:
    """Read a job; with a wait the answer comes when it is finished, or at the wait's end."""
    path = f"/jobs/{_segment(job_id)}"
    if wait_seconds > 0:
        path += f"?wait={_seconds(wait_seconds)}"
    return Call(f"read job {job_id}", "GET", path, b"", repeatable=True, wait_seconds=wait_seconds)


def cancel_call(job_id: str) -> Call:
    """Take a job back. Cancelling twice is cancelling once."""
    return Call(
        f"cancel job {job_id}", "POST", f"/jobs/{_segment(job_id)}/cancel", b"", repeatable=True
    )


def retry_call(job_id: str) -> Call:
    """Start a DEAD or CANCELLED job again.

    Not repeatable: it may be DEAD again by the time of the second request.
    """
    return Call(
        f"retry job {job_id}", "POST", f"/jobs/{_segment(job_id)}/retry", b"", repeatable=False
    )


def delete_call(job_id: str) -> Call:
    """Forget a finished job. Not repeatable: the second request would not find it."""
    return Call(
        f"delete job {job_id}", "DELETE", f"/jobs/{_segment(job_id)}", b"", repeatable=False
    )


def list_call(
    *,
    queue: str | None = None,
    state: JobState | str | None = None,
    tag: str | Sequence[str] | Mapping[str, str] | None = None,
    group: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call:
    """A page of jobs, oldest first. ``tag``: ``"key:value"``, several, or a mapping."""
    parameters: list[tuple[str, str]] = []
    for name, value in (("queue", queue), ("state", state), ("group", group), ("cursor", cursor)):
        if value is not None:
            parameters.append((name, str(value)))
    parameters.extend(("tag", text) for text in _tags(tag))
    if limit is not None:
        parameters.append(("limit", str(limit)))
    return Call("list jobs", "GET", f"/jobs{_query(parameters)}", b"", repeatable=True)


# Queues -------------------------------------------------------------------------------


QUEUES_CALL: Final = Call("list queues", "GET", "/queues", b"", repeatable=True)


def queue_call(queue: str) -> Call:
    """Read a queue."""
    return Call(f"read queue {queue}", "GET", f"/queues/{_segment(queue)}", b"", repeatable=True)


def pause_call(queue: str) -> Call:
    """No more leases of it."""
    return Call(
        f"pause queue {queue}", "POST", f"/queues/{_segment(queue)}/pause", b"", repeatable=True
    )


def resume_call(queue: str) -> Call:
    """Leases of it again."""
    return Call(
        f"resume queue {queue}", "POST", f"/queues/{_segment(queue)}/resume", b"", repeatable=True
    )


def retry_dead_call(queue: str) -> Call:
    """Start all DEAD jobs of a queue again. Not repeatable: its count would be another."""
    return Call(
        f"retry the dead of queue {queue}",
        "POST",
        f"/queues/{_segment(queue)}/retry-dead",
        b"",
        repeatable=False,
    )


def purge_call(queue: str, state: JobState | str) -> Call:
    """Forget all jobs of a queue in a state. Not repeatable: its count would be another."""
    return Call(
        f"purge queue {queue}",
        "DELETE",
        f"/queues/{_segment(queue)}/jobs{_query([('state', str(state))])}",
        b"",
        repeatable=False,
    )


# Leases, for who works ----------------------------------------------------------------


LEASE_CALL: Final = Call("lease", "POST", "/jobs/lease", b"", repeatable=False, may_be_empty=True)
"""Take the next job. Not repeatable: the first answer's job, if there was one, stays
leased until its lease ends."""


def lease_call(
    queues: Sequence[str] | None = None,
    max_jobs: int = 1,
    wait_seconds: float = 0.0,
    lease_seconds: Duration | None = None,
    worker: str = "",
) -> Call:
    """Take up to ``max_jobs`` jobs; its answer is for ``leases_of``.

    Args:
        queues: in order of preference; ``None``: ``default``.
        max_jobs: 1 to 1000.
        wait_seconds: how long the node keeps the request until there is work (60 at most).
        lease_seconds: how long the jobs are ours; ``None``: as the job or the node says.
        worker: a name, which shows in the job.

    Raises:
        BadRequest: it cannot be sent.
    """
    if isinstance(queues, str):
        raise BadRequest(f"queues is a list of names, not {queues!r}")
    body = encoded(
        _LeaseBody(
            None if queues is None else list(queues),
            max_jobs,
            wait_seconds or None,
            None if lease_seconds is None else wire_duration("lease_seconds", lease_seconds),
            worker,
        ),
        "lease",
    )
    return Call(
        "lease",
        "POST",
        "/jobs/lease",
        body,
        repeatable=False,
        may_be_empty=True,
        wait_seconds=wait_seconds,
    )


def ack_call(
    job: LeasedJob,
    *,
    result: str | None = None,
    result_error: str | None = None,
    retry: bool = True,
    retry_in: Duration | None = None,
) -> Call:
    """Report the outcome of an attempt; a failure when there is a ``result_error``.

    With a lease token the same report sent again is answered 200 and changes nothing.
    Without one a repeat could finish somebody else's attempt.

    Raises:
        BadRequest: the text cannot be sent.
    """
    return Call(
        f"ack job {job.job_id}",
        "POST",
        f"/jobs/{_segment(job.job_id)}/ack",
        encoded(
            _AckBody(
                result,
                result_error,
                job.lease_token,
                None if retry else False,
                None if retry_in is None else wire_duration("retry_in", retry_in),
            ),
            "result",
        ),
        repeatable=job.lease_token is not None,
    )


def acks_call(items: Sequence[AckItem]) -> Call:
    """Report many outcomes; its answer is for ``results_of``, in order.

    Raises:
        BadRequest: a text cannot be sent.
    """
    return Call(
        f"ack {len(items)} jobs",
        "POST",
        "/jobs/ack",
        encoded(_AcksBody(items), "result"),
        repeatable=all(item.lease_token is not None for item in items),
    )


def fail_call(job: LeasedJob, error: str, *, retry: bool, retry_in: Duration | None) -> Call:
    """Report the failure of an attempt.

    Raises:
        BadRequest: the text cannot be sent, or is empty.
    """
    if not error:
        raise BadRequest("a failure has words: without an error the node takes it for a success")
    return ack_call(job, result_error=error, retry=retry, retry_in=retry_in)


def extend_call(
    job: LeasedJob, lease_duration: Duration | None, progress: float | str | None
) -> Call:
    """A heartbeat; its answer is for ``extended_until``. Counted from now, it may be repeated.

    Raises:
        BadRequest: the progress cannot be sent, or the job has no lease token.
    """
    body = _ExtendBody(
        token_of(job),
        None if lease_duration is None else wire_duration("lease_duration", lease_duration),
        progress,
    )
    return Call(
        f"extend the lease of job {job.job_id}",
        "POST",
        f"/jobs/{_segment(job.job_id)}/extend",
        encoded(body, "progress"),
        repeatable=True,
    )


def extends_call(items: Sequence[ExtendItem]) -> Call:
    """Heartbeats for many leases; its answer is for ``extended_of``, in order.

    Raises:
        BadRequest: a progress cannot be sent.
    """
    return Call(
        f"extend {len(items)} leases",
        "POST",
        "/jobs/extend",
        encoded(_ExtendsBody(items), "progress"),
        repeatable=True,
    )


def release_call(job_id: str, token: str, delay: Duration | None = None) -> Call:
    """Give a job back without using up the attempt.

    Not repeatable: a second request would be told that the lease is lost.
    """
    body = _ReleaseBody(token, None if delay is None else wire_duration("delay", delay))
    return Call(
        f"release job {job_id}",
        "POST",
        f"/jobs/{_segment(job_id)}/release",
        encoded(body, "release"),
        repeatable=False,
    )


def token_of(job: LeasedJob) -> str:
    """The token of its lease.

    Raises:
        BadRequest: it was leased from a node that gives none.
    """
    if job.lease_token is None:
        raise BadRequest(f"job {job.job_id} has no lease token: its node knows acks only")
    return job.lease_token


# --------------------------------------------------------------------------------------


def _segment(name: str) -> str:
    """A job id or a queue as one segment of a path."""
    if not isinstance(name, str) or not name or name in (".", ".."):
        raise BadRequest(f"not a job id or a queue: {name!r}")
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise BadRequest(f"not a job id or a queue: {name!r}") from error


def _query(parameters: Sequence[tuple[str, str]]) -> str:
    try:
        return f"?{urlencode(parameters)}" if parameters else ""
    except UnicodeEncodeError as error:
        raise BadRequest(f"this cannot stand in a URL: {error}") from error


def _tags(tag: str | Sequence[str] | Mapping[str, str] | None) -> list[str]:
    if tag is None:
        return []
    if isinstance(tag, str):
        return [tag]
    if isinstance(tag, Mapping):
        return [f"{key}:{value}" for key, value in tag.items()]
    return list(tag)


def _seconds(seconds: float) -> str:
    """Whole milliseconds, without the exponent that a very small number would have."""
    return f"{seconds:.3f}"
