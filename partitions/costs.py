"""How much a command takes: of a record, and of the memory of whoever holds it. Pure.

Estimates, never too low: the room on the disk is made sure of before a command is applied.
"""

from typing import Final

from partitions.messages import (
    Ack,
    ClaimKeys,
    Command,
    Enqueue,
    EnqueueMany,
    Extend,
    Fail,
    FreeKeys,
    Lease,
    LeaseMany,
    Many,
    Pause,
    Release,
    Sweep,
)
from partitions.record import BLOB_HEADER_BYTES

_EVENT_BYTES: Final = 96
"""More than any event takes beside its texts and names."""
_CHAR_BYTES: Final = 4
_SWEPT_BYTES: Final = 24
_CLAIM_BYTES: Final = 40


def text_bytes(command: Command) -> int:
    """Bytes of its texts: payloads, results, errors."""
    match command:
        case Enqueue():
            return len(command.payload)
        case Ack():
            return len(command.result or b"")
        case Fail():
            return len(command.error)
        case EnqueueMany():
            return sum([len(job.payload) for job in command.jobs])
        case Many():
            return sum([_said_bytes(each) for each in command.commands])
        case _:
            return 0


def record_bytes(command: Command) -> int:
    """More than the command can add to a record."""
    match command:
        case Enqueue():
            names = len(command.owner) + len(command.group)
            return (
                _EVENT_BYTES
                + BLOB_HEADER_BYTES
                + len(command.payload)
                + len(command.options)
                + _CHAR_BYTES * names
            )
        case EnqueueMany():
            jobs_bytes = sum([record_bytes(job) for job in command.jobs])
            return jobs_bytes + _CLAIM_BYTES * len(command.claims)
        case ClaimKeys():
            return _CLAIM_BYTES * len(command.claims)
        case FreeKeys():
            return _CLAIM_BYTES * len(command.held)
        case Many():
            return (_EVENT_BYTES + BLOB_HEADER_BYTES) * len(command.commands) + sum(
                [_said_bytes(each) for each in command.commands]
            )
        case Lease():
            return _EVENT_BYTES + _CHAR_BYTES * len(command.worker)
        case LeaseMany():
            return command.count * record_bytes(command.lease)
        case Extend():
            return _EVENT_BYTES + _said_bytes(command)
        case Sweep():
            return command.scan * _SWEPT_BYTES
        case Pause():
            return _EVENT_BYTES + _CHAR_BYTES * len(command.queue)
        case _:
            return _EVENT_BYTES + BLOB_HEADER_BYTES + text_bytes(command)


def _said_bytes(command: Ack | Fail | Extend | Release) -> int:
    """Of what the holder of a lease says; quick, for there are many."""
    kind = type(command)
    if kind is Ack:
        return len(command.result or b"")  # type: ignore[union-attr]  # mypy follows no ``is``
    if kind is Fail:
        return len(command.error)  # type: ignore[union-attr]
    return len(command.progress) if kind is Extend else 0  # type: ignore[union-attr]
