"""Facts about jobs, as the log keeps them. The schema only grows.

A record of the log carries ``[event, ...]`` as one msgpack array; ``PartitionState.evolve``
is the only reader. What is written here has happened: reading it never fails for what it
says, only for bytes that are no events at all.

Texts are not in the events but beside them, as blobs (``record``); an event holds their
position (``positions``), 0 for none.
"""

from typing import Final

import msgspec

from partitions.job import Own


class _Event(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An array, its tag first. New fields go last and have a default; tags are not reused."""


class JobEnqueued(_Event, frozen=True, tag=1):
    """A new job waits for its first attempt, which does not begin before ``run_at_ms``."""

    job_id: bytes
    payload_at: int
    max_retries: int
    created_at_ms: int
    owner: str
    options: bytes = b""
    run_at_ms: int = 0
    own: Own | None = None


class JobLeased(_Event, frozen=True, tag=2):
    """An attempt began; it is the job's only live one until ``lease_until_ms``."""

    job_id: bytes
    lease_token: int
    lease_until_ms: int
    lease_ms: int = 0
    worker: str = ""


class JobAcked(_Event, frozen=True, tag=3):
    """The attempt succeeded: the job is ACKED for good, and nobody needs its payload again.

    ``result_at`` 0: no result.
    """

    job_id: bytes
    at_ms: int
    result_at: int


class JobFailed(_Event, frozen=True, tag=4):
    """The attempt failed. ``retry_at_ms`` says when the next may begin, 0 that there is none."""

    job_id: bytes
    at_ms: int
    error_at: int
    retry_at_ms: int


class LeaseExpired(_Event, frozen=True, tag=5):
    """The lease ended without a word. ``dead``: that was the last attempt."""

    job_id: bytes
    at_ms: int
    dead: bool


class BackoffOver(_Event, frozen=True, tag=6):
    """A failed or delayed job's wait is over: it can be leased."""

    job_id: bytes


class JobForgotten(_Event, frozen=True, tag=7):
    """The job is gone: its retention is over, or it was deleted. Nobody can read it any more."""

    job_id: bytes


class PayloadMoved(_Event, frozen=True, tag=8):
    """The payload was copied forward: its old segment is to go."""

    job_id: bytes
    payload_at: int


class OutcomeMoved(_Event, frozen=True, tag=9):
    """The result or error was copied forward: its old segment is to go."""

    job_id: bytes
    outcome_at: int


class TokensRaised(_Event, frozen=True, tag=10):
    """Every later lease has a token above this one.

    The log was restored from a backup: tokens given after it was made must not come again.
    """

    last_token: int


class LeaseExtended(_Event, frozen=True, tag=11):
    """The lease goes on until ``lease_until_ms``. ``progress`` empty: as it was."""

    job_id: bytes
    lease_until_ms: int
    progress: bytes


class JobReleased(_Event, frozen=True, tag=12):
    """The worker gave the job back: the attempt does not count. ``run_at_ms`` 0: it is ready."""

    job_id: bytes
    run_at_ms: int


class JobExpired(_Event, frozen=True, tag=13):
    """The job was not started in time: it is DEAD."""

    job_id: bytes
    at_ms: int


class JobCancelled(_Event, frozen=True, tag=14):
    """Somebody called the job off; a worker that holds it has lost it."""

    job_id: bytes
    at_ms: int


class JobRetried(_Event, frozen=True, tag=15):
    """A DEAD or CANCELLED job begins anew, its attempts at zero."""

    job_id: bytes


class QueuePaused(_Event, frozen=True, tag=16):
    """No job of the queue is leased, or jobs are leased again."""

    queue: str
    paused: bool


class KeyClaimed(_Event, frozen=True, tag=17):
    """The job of the idempotency key ``key_id`` is in ``slot``, or on its way there; or still is.

    ``at_ms``: when the last submit said so.
    """

    key_id: bytes
    slot: int
    at_ms: int


class KeyFreed(_Event, frozen=True, tag=18):
    """The claim's job is gone, or never came: the key may be used for another."""

    key_id: bytes


Event = (
    JobEnqueued
    | JobLeased
    | JobAcked
    | JobFailed
    | LeaseExpired
    | BackoffOver
    | JobForgotten
    | PayloadMoved
    | OutcomeMoved
    | TokensRaised
    | LeaseExtended
    | JobReleased
    | JobExpired
    | JobCancelled
    | JobRetried
    | QueuePaused
    | KeyClaimed
    | KeyFreed
)

_decoder: Final = msgspec.msgpack.Decoder(list[Event])

encode_events: Final = msgspec.msgpack.Encoder().encode


def decode_events(body: bytes) -> list[Event]:
    """The events in a record.

    Raises:
        msgspec.MsgspecError: these bytes are no events.
    """
    try:
        return _decoder.decode(body)
    except (UnicodeDecodeError, RecursionError) as error:
        # These two escape msgspec's own errors; see ``messages``.
        raise msgspec.DecodeError(f"malformed events: {error}") from error


def position_in(event: Event) -> int:
    """The position of the text that the event put into the log; 0: none."""
    match event:
        case JobEnqueued() | PayloadMoved():
            return event.payload_at
        case JobAcked():
            return event.result_at
        case JobFailed():
            return event.error_at
        case OutcomeMoved():
            return event.outcome_at
        case _:
            return 0
