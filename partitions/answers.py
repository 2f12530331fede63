"""What a command led to, before its texts are read. Pure.

Replies name texts by their positions; the actor reads them (``LeaseGranted``, ``JobFound`` and
what is made of those, ``SettledBefore``). Every other reply is ready to be sent.
"""

import msgspec

from partitions.events import Event
from partitions.job import Outcome
from partitions.messages import JobView, Reply


class LeaseGranted(msgspec.Struct, frozen=True, gc=False):
    """The next job of a queue was leased; its payload is at ``payload_at``."""

    job_id: bytes
    payload_at: int
    lease_until_ms: int
    attempt: int
    lease_token: int
    max_retries: int
    created_at_ms: int
    options: bytes = b""
    group: str = ""


class LeasesGranted(msgspec.Struct, frozen=True):
    """Several, at least one."""

    leases: list[LeaseGranted]


class JobFound(msgspec.Struct, frozen=True, gc=False):
    """A job to show. ``view`` lacks the text at ``outcome_at`` (0: there is none)."""

    view: JobView
    outcome: Outcome
    outcome_at: int


class JobsFound(msgspec.Struct, frozen=True):
    """A page of a list."""

    jobs: list[JobFound]
    next_number: int | None


class SettledBefore(msgspec.Struct, frozen=True, gc=False):
    """The same token already ended its attempt the same way.

    It is the same report sent again when its ``text`` is what stands at ``outcome_at``
    (0: there was none); otherwise the lease is lost.
    """

    job_id: bytes
    outcome_at: int
    text: bytes


class ManyAnswers(msgspec.Struct, frozen=True):
    """One for each command of ``Many``."""

    answers: list["Reply | SettledBefore"]


Answer = Reply | LeaseGranted | LeasesGranted | JobFound | JobsFound | SettledBefore | ManyAnswers


class Applied(msgspec.Struct, frozen=True, gc=False):
    """What a command led to."""

    events: tuple[Event, ...]
    reply: Answer
