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

from typing import Annotated, Final, TypeVar

import msgspec

from partitions.limits import ATTEMPTS_MAX, TEXT_BYTES_MAX

# What a command may hold, checked as it is decoded: a front is input from outside too, and
# nothing that it sends may raise further in.
_JobId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Text = Annotated[bytes, msgspec.Meta(max_length=TEXT_BYTES_MAX)]
_Attempts = Annotated[int, msgspec.Meta(ge=0, le=ATTEMPTS_MAX)]
# Added to a time it must still fit the 64 bits of an event.
_DurationMs = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class _Message(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Base of every message: an array on the wire, its integer tag first.

    Positions are the schema: a new field goes last and has a default, and a tag is
    never used again. ``gc=False`` is safe because no message can reach itself.
    """


# Commands -----------------------------------------------------------------------------


class Enqueue(_Message, frozen=True, tag=1):
    """Store a new job. The front minted ``job_id``, whose slot belongs to this partition."""

    job_id: _JobId  # the 16 bytes of the UUID
    payload: _Text
    max_retries: _Attempts  # attempts in all; 0 and 1 both mean one
    owner: str  # owner_id of the key that submitted it


class Lease(_Message, frozen=True, tag=2):
    """Give me the next ready job, for ``duration_ms``."""

    duration_ms: _DurationMs


class Ack(_Message, frozen=True, tag=3):
    """The attempt held under ``lease_token`` is done (``None``: whichever is running)."""

    job_id: _JobId
    lease_token: int | None
    result: _Text | None


class Fail(_Message, frozen=True, tag=4):
    """The attempt held under ``lease_token`` failed (``None``: whichever is running)."""

    job_id: _JobId
    lease_token: int | None
    error: _Text


class Get(_Message, frozen=True, tag=5):
    """Tell me about a job."""

    job_id: _JobId


class Tick(_Message, frozen=True, tag=6):
    """Let time catch up. The actor's own timer; a front never sends it."""


Command = Enqueue | Lease | Ack | Fail | Get | Tick


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


class StorageFull(_Message, frozen=True, tag=9):
    """The disk has no room for a new job; nothing was stored. Acks and reads still work."""


class Unreadable(_Message, frozen=True, tag=10):
    """The disk does not give back the job's payload or result as it was written."""

    job_id: bytes


class AlreadyExists(_Message, frozen=True, tag=11):
    """A job with this id is stored already; nothing was changed."""

    job_id: bytes


class WrongPartition(_Message, frozen=True, tag=12):
    """The job's slot is not owned here: the front's map of the node is wrong."""

    job_id: bytes


# Pushes (request_id 0) ----------------------------------------------------------------


class Hello(_Message, frozen=True, tag=20):
    """The partition serves: from now on requests may be sent."""

    partition: int
    partitions: int


class Hint(_Message, frozen=True, tag=21):
    """Whether the partition has ready jobs; sent when that changes, never owed an answer."""

    ready: bool


class Recovering(_Message, frozen=True, tag=22):
    """The partition reads its log and does not serve yet."""

    done_percent: int


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
    | Hello
    | Hint
    | Recovering
)


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
