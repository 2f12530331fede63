"""What the node's answers say, typed. Pure.

Whatever is not the contract's is an ``UnexpectedAnswer``: the URL leads to something else.
"""

from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import msgspec

from queue_node_sdk.errors import UnexpectedAnswer
from queue_node_sdk.models import Job, JobPage, LeasedJob, QueueInfo, QueueList
from queue_node_sdk.protocol import Reply, shown


class ItemResult(msgspec.Struct, frozen=True):
    """What became of one ack of many: 200, or a refusal with its words."""

    status: int
    error: str = ""


class ExtendResult(msgspec.Struct, frozen=True):
    """What became of one heartbeat of many."""

    status: int
    lease_until: datetime | None = None
    error: str = ""


class SubmitResult(msgspec.Struct, frozen=True):
    """What became of one job of a batch of which a part could not be stored."""

    status: int
    job_id: str | None = None
    error: str = ""


class _Submitted(msgspec.Struct, frozen=True):
    job_id: str


class _SubmittedMany(msgspec.Struct, frozen=True):
    job_ids: list[str]


class _PartlyStored(msgspec.Struct, frozen=True):
    results: list[SubmitResult]


class _Leases(msgspec.Struct, frozen=True):
    jobs: list[LeasedJob]


class _Extended(msgspec.Struct, frozen=True):
    lease_until: datetime


class _Results(msgspec.Struct, frozen=True):
    results: list[ItemResult]


class _ExtendResults(msgspec.Struct, frozen=True):
    results: list[ExtendResult]


class _Queues(msgspec.Struct, frozen=True):
    queues: list[QueueInfo]
    unavailable: list[int] = []


class _Count(msgspec.Struct, frozen=True):
    count: int


_T = TypeVar("_T")

_submitted: Final = msgspec.json.Decoder(_Submitted)
_submitted_many: Final = msgspec.json.Decoder(_SubmittedMany)
_partly_stored: Final = msgspec.json.Decoder(_PartlyStored)
_job: Final = msgspec.json.Decoder(Job)
_page: Final = msgspec.json.Decoder(JobPage)
_lease: Final = msgspec.json.Decoder(LeasedJob)
_leases: Final = msgspec.json.Decoder(_Leases)
_extended: Final = msgspec.json.Decoder(_Extended)
_results: Final = msgspec.json.Decoder(_Results)
_extend_results: Final = msgspec.json.Decoder(_ExtendResults)
_queue: Final = msgspec.json.Decoder(QueueInfo)
_queues: Final = msgspec.json.Decoder(_Queues)
_count: Final = msgspec.json.Decoder(_Count)


def submitted_id(reply: Reply) -> str:
    """The id of the stored job."""
    return _parsed(_submitted, reply).job_id


def submitted_ids(reply: Reply, expected: int) -> list[str]:
    """The ids of ``expected`` stored jobs, in order."""
    job_ids = _parsed(_submitted_many, reply).job_ids
    if len(job_ids) != expected:
        raise _foreign(reply, f"{len(job_ids)} job ids for {expected} jobs")
    return job_ids


def partly_stored(reply: Reply, expected: int) -> list[SubmitResult] | None:
    """What became of each job of a batch that was refused in part; ``None``: not such a reply."""
    if reply.status != 503:
        return None
    try:
        results = _partly_stored.decode(reply.body).results
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return results if len(results) == expected else None


def job_of(reply: Reply) -> Job:
    """The job that was read or changed."""
    return _parsed(_job, reply)


def page_of(reply: Reply) -> JobPage:
    """A page of a list."""
    return _parsed(_page, reply)


def queue_of(reply: Reply) -> QueueInfo:
    """The queue that was read, paused or resumed."""
    return _parsed(_queue, reply)


def queues_of(reply: Reply) -> QueueList:
    """All queues, by name, and which partitions had no part in it."""
    found = _parsed(_queues, reply)
    return QueueList(found.queues, found.unavailable)


def count_of(reply: Reply) -> int:
    """To how many jobs it was done."""
    return _parsed(_count, reply).count


def lease_of(reply: Reply) -> LeasedJob | None:
    """The leased job; ``None`` when the node has none ready."""
    return None if reply.status == 404 else _parsed(_lease, reply)


def leases_of(reply: Reply) -> list[LeasedJob]:
    """The leased jobs; none when the node has none ready.

    A node of the first contract does not read how many were asked for, and gives one.
    """
    if reply.status == 404:
        return []
    try:
        return _parsed(_leases, reply).jobs
    except UnexpectedAnswer:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            return [_lease.decode(reply.body)]
        raise


def results_of(reply: Reply) -> list[ItemResult]:
    """What became of each ack, in order."""
    return _parsed(_results, reply).results


def extended_until(reply: Reply) -> datetime:
    """The new end of the lease."""
    return _parsed(_extended, reply).lease_until


def extended_of(reply: Reply) -> list[ExtendResult]:
    """What became of each heartbeat, in order."""
    return _parsed(_extend_results, reply).results


def node_time(reply: Reply, now: datetime) -> datetime:
    """What the node's clock showed when it answered; ``now`` when it does not say so.

    It is cut to whole seconds.
    """
    date = reply.headers.get("date")
    if date is not None:
        # A date that nobody can read is as good as none.
        with suppress(ValueError):
            now = parsedate_to_datetime(date)
    return now.astimezone(UTC)


def lease_seconds(job: LeasedJob, reply: Reply, now: datetime) -> float:
    """How long the lease lasts, counted from the answer, by the node's own clock.

    ``Date`` says what that clock showed, so a worker whose clock is wrong still knows how
    long it has. It is cut to whole seconds: up to one too many, which costs at most a
    late report that is refused. ``now`` stands in when the answer has no date.
    """
    return (job.lease_until - node_time(reply, now)).total_seconds()


def _parsed(decoder: msgspec.json.Decoder[_T], reply: Reply) -> _T:
    try:
        return decoder.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _foreign(reply, str(error)) from error


def _foreign(reply: Reply, why: str) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"the answer is not Queue Node's: {why}; is the URL right? It begins: {shown(reply.body)}",
        status=reply.status,
    )
