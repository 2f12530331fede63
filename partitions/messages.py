"""What crosses the pipe between a front and a partition: commands, replies, pushes.

Each direction carries frames (``framing``), each frame one msgpack array:

* front to partition: ``[[request_id, command], ...]``
* partition to front: ``[[request_id, reply], ...]``; ``request_id`` 0 is a push that
  answers nothing: ``Recovering`` as long as the partition reads its log, then ``Hello``,
  behind which requests may be sent, then a ``Hint`` whenever one is due.

A ``request_id`` is chosen by the front, from 1, and never used twice on one connection.
A reply leaves the partition only when the events behind it are durable.
Texts (payload, result, error) are UTF-8 bytes that nobody here looks into.
"""

from enum import IntEnum
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from partitions.limits import (
    ATTEMPTS_MAX,
    CLAIMS_PAGE_MAX,
    ENQUEUE_JOBS_MAX,
    GROUP_CHARS_MAX,
    LEASE_JOBS_MAX,
    MANY_MAX,
    OPTIONS_BYTES_MAX,
    PROGRESS_BYTES_MAX,
    QUEUE_CHARS_MAX,
    SCAN_JOBS_MAX,
    TEXT_BYTES_MAX,
    WORKER_CHARS_MAX,
)

# What a command may hold, checked as it is decoded: a front is input from outside too, and
# nothing that it sends may raise further in.
_JobId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Text = Annotated[bytes, msgspec.Meta(max_length=TEXT_BYTES_MAX)]
_Attempts = Annotated[int, msgspec.Meta(ge=0, le=ATTEMPTS_MAX)]
# Added to a time it must still fit the 64 bits of an event.
_DurationMs = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_TimeMs = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_Options = Annotated[bytes, msgspec.Meta(max_length=OPTIONS_BYTES_MAX)]
_Group = Annotated[str, msgspec.Meta(max_length=GROUP_CHARS_MAX)]
_Digest = Annotated[bytes, msgspec.Meta(max_length=16)]
_QueueName = Annotated[str, msgspec.Meta(min_length=1, max_length=QUEUE_CHARS_MAX)]
_Worker = Annotated[str, msgspec.Meta(max_length=WORKER_CHARS_MAX)]
_Progress = Annotated[bytes, msgspec.Meta(max_length=PROGRESS_BYTES_MAX)]
_Slot = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]


class _Message(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Base of every message: an array on the wire, its integer tag first.

    Positions are the schema: a new field goes last and has a default, and a tag is
    never used again. ``gc=False`` is safe because no message can reach itself.
    """


class Submitted(IntEnum):
    """What became of one job of ``EnqueueMany``; all but the first two are refusals."""

    STORED = 0
    REPLAYED = 1
    CONFLICT = 2
    EXISTS = 3
    WRONG_PARTITION = 4
    CLAIMED = 5


class KeyClaim(_Message, frozen=True):
    """The job of the idempotency key whose hash is ``key_id`` goes to ``slot``, for its group."""

    key_id: _JobId
    slot: _Slot


class HeldKey(_Message, frozen=True):
    """An idempotency key, and its claim (``slots``): in which slot its job is, and since when.

    ``age_ms``: how long ago that was, by the clock of the partition that says it.
    """

    key_id: _JobId
    claim: Annotated[int, msgspec.Meta(ge=0)]
    age_ms: int = 0


# Commands -----------------------------------------------------------------------------


class Enqueue(_Message, frozen=True, tag=1):
    """Store a new job. The front minted ``job_id``, whose slot belongs to this partition.

    With a ``digest`` the id stands for an idempotency key: if there is such a job already, and it
    came with the same digest, this is the same submit again.
    """

    job_id: _JobId  # the 16 bytes of the UUID
    payload: _Text
    max_retries: _Attempts  # attempts in all; 0 and 1 both mean one
    owner: str  # owner_id of the key that submitted it
    options: _Options = b""
    run_at_ms: _TimeMs = 0
    expires_at_ms: _TimeMs = 0
    group: _Group = ""
    digest: _Digest = b""


class Lease(_Message, frozen=True, tag=2):
    """Give me the next ready job of the first of ``queues`` that has one.

    ``duration_ms`` None: for as long as the job says, or else as the node is set.
    """

    duration_ms: _DurationMs | None
    queues: tuple[_QueueName, ...] = ("default",)
    worker: _Worker = ""


class Ack(_Message, frozen=True, tag=3):
    """The attempt held under ``lease_token`` is done (``None``: whichever is running)."""

    job_id: _JobId
    lease_token: int | None
    result: _Text | None


class Fail(_Message, frozen=True, tag=4):
    """The attempt held under ``lease_token`` failed (``None``: whichever is running).

    ``retry`` False: the job is DEAD whatever attempts are left. ``retry_in_ms``: instead of its
    backoff.
    """

    job_id: _JobId
    lease_token: int | None
    error: _Text
    retry: bool = True
    retry_in_ms: _DurationMs | None = None


class Get(_Message, frozen=True, tag=5):
    """Tell me about a job. ``watch``: and push ``JobsOver`` once it is finished or gone."""

    job_id: _JobId
    watch: bool = False


class Tick(_Message, frozen=True, tag=6):
    """Let time catch up. The actor's own timer; a front never sends it."""


class EnqueueMany(_Message, frozen=True, tag=7):
    """Store all of these jobs, or none: one conflict, one that is not ours, refuses all.

    ``check_only``: say what would come of it. ``by_ms``: after that time, as fronts have it, store
    none; 0: there is none. ``claims``: of jobs among these, where both belong to this partition;
    the jobs and their claims are one change.
    """

    jobs: Annotated[list[Enqueue], msgspec.Meta(min_length=1, max_length=ENQUEUE_JOBS_MAX)]
    check_only: bool = False
    by_ms: _TimeMs = 0
    claims: Annotated[list[KeyClaim], msgspec.Meta(max_length=ENQUEUE_JOBS_MAX)] = []


class LeaseMany(_Message, frozen=True, tag=8):
    """As ``lease``, up to ``count`` jobs: first all of the first queue, then of the next."""

    lease: Lease
    count: Annotated[int, msgspec.Meta(ge=1, le=LEASE_JOBS_MAX)]


class Extend(_Message, frozen=True, tag=9):
    """Let the lease go on for ``duration_ms`` from now (None: as long as it was given for)."""

    job_id: _JobId
    lease_token: int
    duration_ms: _DurationMs | None = None
    progress: _Progress = b""


class Release(_Message, frozen=True, tag=10):
    """Take the job back, without an attempt used up; not to be leased before ``delay_ms``."""

    job_id: _JobId
    lease_token: int
    delay_ms: _DurationMs = 0


class Cancel(_Message, frozen=True, tag=11):
    """Call an unfinished job off."""

    job_id: _JobId


class Retry(_Message, frozen=True, tag=12):
    """Let a DEAD or CANCELLED job begin anew."""

    job_id: _JobId


class Forget(_Message, frozen=True, tag=13):
    """Delete a finished job."""

    job_id: _JobId


class Unwatch(_Message, frozen=True, tag=14):
    """Nobody of this front waits for the job any more."""

    job_id: _JobId


class Many(_Message, frozen=True, tag=15):
    """Carry out all of these, one after the other."""

    commands: Annotated[
        list["Ack | Fail | Extend | Release"], msgspec.Meta(min_length=1, max_length=MANY_MAX)
    ]


class Filter(_Message, frozen=True):
    """Which jobs; what is None or empty does not matter."""

    queue: str | None = None
    state: str | None = None
    group: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    """All of these, key and value compared as one text ``key:value``."""


class List(_Message, frozen=True, tag=16):
    """The jobs behind ``after_number``, in order of submission; looks at a bounded number."""

    after_number: int
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    filter: Filter = Filter()


class Sweep(_Message, frozen=True, tag=17):
    """A step of a bulk call over the jobs in ``(after_number, up_to_number]``.

    ``up_to_number`` 0: those that there are now.
    """

    queue: _QueueName
    state: str
    action: Literal["retry", "forget"]
    after_number: int = 0
    up_to_number: int = 0
    scan: Annotated[int, msgspec.Meta(ge=1, le=SCAN_JOBS_MAX)] = SCAN_JOBS_MAX


class Pause(_Message, frozen=True, tag=18):
    """Lease no jobs of a queue, or lease them again."""

    queue: _QueueName
    paused: bool


class ViewQueues(_Message, frozen=True, tag=19):
    """Tell me about a queue, or (None) about all that have jobs or are paused, a page at a time."""

    queue: str | None = None
    after: str = ""
    """The page is of queues with greater names."""


class ClaimKeys(_Message, frozen=True, tag=20):
    """Claim these idempotency keys for jobs that other partitions are about to store, or none.

    A key that is claimed for the same slot is claimed anew, so that its job may come now.
    """

    claims: Annotated[list[KeyClaim], msgspec.Meta(min_length=1, max_length=ENQUEUE_JOBS_MAX)]


class FreeKeys(_Message, frozen=True, tag=21):
    """Let these claims go, whose jobs are gone; not those that were made anew since."""

    held: Annotated[list[HeldKey], msgspec.Meta(min_length=1, max_length=CLAIMS_PAGE_MAX)]


class ListClaims(_Message, frozen=True, tag=22):
    """Tell me of some claims, going on where the last such question ended."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=CLAIMS_PAGE_MAX)] = CLAIMS_PAGE_MAX


class FindGone(_Message, frozen=True, tag=23):
    """Which of these jobs are not here?"""

    job_ids: Annotated[list[_JobId], msgspec.Meta(min_length=1, max_length=CLAIMS_PAGE_MAX)]


Command = (
    Enqueue
    | Lease
    | Ack
    | Fail
    | Get
    | Tick
    | EnqueueMany
    | LeaseMany
    | Extend
    | Release
    | Cancel
    | Retry
    | Forget
    | Unwatch
    | Many
    | List
    | Sweep
    | Pause
    | ViewQueues
    | ClaimKeys
    | FreeKeys
    | ListClaims
    | FindGone
)


# Replies ------------------------------------------------------------------------------


class Enqueued(_Message, frozen=True, tag=1):
    """The job is on disk."""

    job_id: bytes


class Leased(_Message, frozen=True, tag=2):
    """The caller holds the job until ``lease_until_ms`` (ms since 1970)."""

    job_id: bytes
    payload: bytes
    lease_until_ms: int
    attempt: int
    lease_token: int
    max_retries: int
    created_at_ms: int
    options: bytes = b""
    group: str = ""


class NothingReady(_Message, frozen=True, tag=3):
    """No job can be leased in this partition now."""


class Settled(_Message, frozen=True, tag=4):
    """The ack or the failure report is on disk (or was there already, the same)."""

    job_id: bytes


class LeaseLost(_Message, frozen=True, tag=5):
    """The token named is not that of the live lease; nothing was changed."""

    job_id: bytes


class NotRunning(_Message, frozen=True, tag=6):
    """An ack without a token met a job that nobody holds; nothing was changed."""

    job_id: bytes
    state: str


class JobNotFound(_Message, frozen=True, tag=7):
    """No such job here."""

    job_id: bytes


class JobView(_Message, frozen=True, tag=8):
    """A job as readers see it; ``lease_until_ms`` only while it is RUNNING."""

    job_id: bytes
    state: str
    attempts: int
    max_retries: int
    created_at_ms: int
    lease_until_ms: int | None
    result: bytes | None
    result_error: bytes | None
    owner: str
    options: bytes = b""
    number: int = 0
    """Order of submission in its partition."""
    run_at_ms: int | None = None
    """SCHEDULED, RETRY: when it can be leased."""
    finished_at_ms: int | None = None
    expires_at_ms: int | None = None
    group: str = ""
    crashes: int = 0
    progress: bytes = b""
    worker: str = ""


class StorageFull(_Message, frozen=True, tag=9):
    """The disk has no room for a new job; nothing was stored. Acks and reads still work."""


class Unreadable(_Message, frozen=True, tag=10):
    """The disk does not give back the job's payload or result as it was written."""

    job_id: bytes


class AlreadyExists(_Message, frozen=True, tag=11):
    """A job with this id is stored already; nothing was changed."""

    job_id: bytes


class WrongPartition(_Message, frozen=True, tag=12):
    """The job's slot is not owned here, or its options are none: the front does not fit."""

    job_id: bytes


class Replayed(_Message, frozen=True, tag=13):
    """The same submit, by its idempotency key and body, was stored before."""

    job_id: bytes


class Conflict(_Message, frozen=True, tag=14):
    """The idempotency key was used for a job with another body; nothing was changed."""

    job_id: bytes


class TooMany(_Message, frozen=True, tag=15):
    """There are as many jobs, queues, or watched jobs, as may be; nothing was changed."""

    what: Literal["jobs", "queues", "watched"]


class EnqueuedMany(_Message, frozen=True, tag=16):
    """One ``Submitted`` for each job, in order; if one is a refusal, none was stored.

    ``held``: the keys of those that are CLAIMED, in order.
    """

    outcomes: bytes
    held: list[HeldKey] = []


class LeasedMany(_Message, frozen=True, tag=17):
    """The caller holds these jobs; at least one."""

    jobs: list[Leased]


class Extended(_Message, frozen=True, tag=18):
    """The lease goes on until then."""

    job_id: bytes
    lease_until_ms: int


class WrongState(_Message, frozen=True, tag=19):
    """The job is in a state in which that cannot be done; nothing was changed."""

    job_id: bytes
    state: str


class Replies(_Message, frozen=True, tag=23):
    """One reply for each command of ``Many``, in order."""

    replies: list["OfHeld"]


OfHeld = (
    Settled
    | LeaseLost
    | NotRunning
    | JobNotFound
    | Extended
    | WrongState
    | StorageFull
    | Unreadable
)
"""What may be said to the holder of a lease."""


class Page(_Message, frozen=True, tag=24):
    """Some jobs, in order of submission, without results.

    ``next_number``: where to go on; None: there are no more.
    """

    jobs: list[JobView]
    next_number: int | None


class Swept(_Message, frozen=True, tag=25):
    """How many jobs it was done to, and where to go on (None: that was all)."""

    count: int
    next_number: int | None
    up_to_number: int


class QueueView(_Message, frozen=True):
    """A queue as one partition sees it."""

    queue: str
    paused: bool
    counts: dict[str, int]
    """``{state: jobs}``, without zeros."""
    oldest_ready_ms: int | None
    """When the longest waiting job that can be leased was submitted."""
    groups: int
    """Groups with unfinished jobs."""
    rates: dict[str, tuple[float, float, float]]
    """Of ``submitted``, ``leased``, ``acked``, ``failed``: jobs/s over 1, 5 and 15 minutes."""


class QueueViews(_Message, frozen=True, tag=26):
    """Those that were asked for and are there."""

    queues: list[QueueView]
    next_after: str | None = None
    """Where the next page begins, which may be empty; None: there is none."""


class Claimed(_Message, frozen=True, tag=28):
    """All of these keys are claimed."""


class KeysHeld(_Message, frozen=True, tag=29):
    """These keys are claimed for jobs elsewhere, or have jobs here; nothing was changed."""

    held: list[HeldKey]


class ClaimPage(_Message, frozen=True, tag=30):
    """Some claims. ``last``: by now each that was there at the first of these pages was on one."""

    held: list[HeldKey]
    last: bool


class JobsGone(_Message, frozen=True, tag=31):
    """Those of the jobs asked for that would be here and are not."""

    job_ids: list[bytes]


class TooLate(_Message, frozen=True, tag=32):
    """The time until which the jobs might be stored is over; nothing was changed."""


# Pushes (request_id 0) ----------------------------------------------------------------


class Hello(_Message, frozen=True, tag=20):
    """The partition serves: from now on requests may be sent."""

    partition: int
    partitions: int


class Head(_Message, frozen=True):
    """The job that a queue would give next. ``priority`` None: it would give none."""

    queue: str
    priority: int | None
    ready: int = 0
    """How many jobs can be leased."""
    lines: tuple[tuple[int, int, int, int], ...] = ()
    """Of the highest priorities that have some, where there are other partitions to choose from:
    priority, how many, and when the oldest and the newest of them were submitted (ms)."""


class Hint(_Message, frozen=True, tag=21):
    """What queues would give; sent when it changes, never owed an answer.

    It changes when a queue begins or ceases to have jobs that can be leased, and, where there are
    more partitions than one, when its ``lines`` do. A greeting names all that have some.
    """

    heads: list[Head]


class Recovering(_Message, frozen=True, tag=22):
    """The partition reads its log and does not serve yet."""

    done_percent: int


class JobsOver(_Message, frozen=True, tag=27):
    """Jobs that this front watches are finished or gone; it watches them no more."""

    job_ids: list[bytes]


Reply = (
    Enqueued
    | Leased
    | NothingReady
    | Settled
    | LeaseLost
    | NotRunning
    | JobNotFound
    | JobView
    | StorageFull
    | Unreadable
    | AlreadyExists
    | WrongPartition
    | Replayed
    | Conflict
    | TooMany
    | EnqueuedMany
    | LeasedMany
    | Extended
    | WrongState
    | Replies
    | Page
    | Swept
    | QueueViews
    | Claimed
    | KeysHeld
    | ClaimPage
    | JobsGone
    | TooLate
    | Hello
    | Hint
    | Recovering
    | JobsOver
)


NUMBER_SHIFT: Final = 19
"""``JobView.number >> NUMBER_SHIFT`` is the time of submission, ms since 1970."""


# Envelopes ----------------------------------------------------------------------------

PUSH_ID: Final = 0


class Request(_Message, frozen=True):
    """One command of one front."""

    request_id: int
    command: Command


class Response(_Message, frozen=True):
    """One reply to one request, or a push."""

    request_id: int
    reply: Reply


_encoder: Final = msgspec.msgpack.Encoder()
_requests_decoder: Final = msgspec.msgpack.Decoder(list[Request])
_responses_decoder: Final = msgspec.msgpack.Decoder(list[Response])

encode_requests = _encoder.encode
encode_responses = _encoder.encode

_Messages = TypeVar("_Messages")


def decode_requests(body: bytes) -> list[Request]:
    """The requests in a frame of a front.

    Raises:
        msgspec.MsgspecError: these bytes are no such frame.
    """
    return _decoded(_requests_decoder, body)


def decode_responses(body: bytes) -> list[Response]:
    """The responses and pushes in a frame of a partition.

    Raises:
        msgspec.MsgspecError: these bytes are no such frame.
    """
    return _decoded(_responses_decoder, body)


def _decoded(decoder: msgspec.msgpack.Decoder[_Messages], body: bytes) -> _Messages:
    try:
        return decoder.decode(body)
    except (UnicodeDecodeError, RecursionError) as error:
        # A string that is not UTF-8, an unknown field nested too deeply: these two escape
        # msgspec's own errors, and whoever reads a pipe should have to know only one.
        raise msgspec.DecodeError(f"malformed message: {error}") from error
