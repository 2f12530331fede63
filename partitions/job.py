"""A job in memory, and its states. Pure.

Who moves it::

    JobEnqueued      -> READY | SCHEDULED (not before its time)
    BackoffOver      SCHEDULED -> READY; RETRY stays RETRY, but can be leased from now on
    JobLeased        READY | RETRY -> RUNNING
    LeaseExtended    RUNNING stays RUNNING
    JobReleased      RUNNING -> READY | SCHEDULED, without an attempt used up
    JobAcked         RUNNING -> ACKED
    JobFailed        RUNNING -> RETRY (attempts left) | DEAD
    LeaseExpired     RUNNING -> RETRY (attempts left) | DEAD
    JobExpired       READY | SCHEDULED -> DEAD (its ttl is over and it never ran)
    JobCancelled     READY | SCHEDULED | RETRY | RUNNING -> CANCELLED
    JobRetried       DEAD | CANCELLED -> READY, as new
    JobForgotten     any but RUNNING -> gone

Texts stay on disk; ``payload_at`` and ``outcome_at`` are ``positions``.

**Memory.** Millions of these must stay small: eight fields make a struct of 80 bytes. What jobs
have in common is in their ``kind``, what only some have is in ``own``, and what an attempt leaves
is in ``run``. Most integers of a waiting job are 0 or small and shared; its own are ``number``
and ``payload_at``, 32 bytes each.
"""

from enum import IntEnum
from typing import Final

import msgspec

from partitions.messages import NUMBER_SHIFT

CREATED_SHIFT: Final = NUMBER_SHIFT
"""``number >> CREATED_SHIFT`` is the time of submission: room for 524,288 jobs in one ms."""

EXPIRED_AT: Final = 1
"""In place of a position (it can't be one): the last lease ended without a word."""

TTL_OVER_AT: Final = 2
"""In place of a position: the job was not started in time."""

EMPTY_AT: Final = 3
"""In place of a position: the last attempt failed, with an error that has no text.

Every real position is greater."""


class State(IntEnum):
    """The contract's words are the names."""

    GONE = 0
    """Not a state of the contract: this object is no job any more, wherever it is still met."""
    READY = 1
    RUNNING = 2
    RETRY = 3
    ACKED = 4
    DEAD = 5
    SCHEDULED = 6
    CANCELLED = 7


READY: Final = State.READY
RUNNING: Final = State.RUNNING
RETRY: Final = State.RETRY
ACKED: Final = State.ACKED
DEAD: Final = State.DEAD
SCHEDULED: Final = State.SCHEDULED
CANCELLED: Final = State.CANCELLED
GONE: Final = State.GONE
"""The same by names of this module, for what is done to every job: on Python 3.11 ``State.READY``
takes 60 ns, which is a method's call, and ``READY`` 5; a lease and its ack needed a dozen."""

FINISHED: Final = (ACKED, DEAD, CANCELLED)


class Outcome(IntEnum):
    """What the last finished attempt left; the text of the first two is at ``outcome_at``."""

    NONE = 0
    RESULT = 1
    ERROR = 2
    EXPIRED = 3
    TTL_OVER = 4


class Run(msgspec.Struct, gc=False, array_like=True):
    """What the attempts of a job left, and the one that runs. None of it before the first."""

    attempts: int = 0
    lease_token: int = 0
    """Token of the last lease, live or not; 0 before the first."""
    lease_ms: int = 0
    """How long that lease was given for."""
    outcome_at: int = 0
    crashes: int = 0
    """Leases that ended without a word."""
    progress: bytes = b""
    """What the worker said last, as JSON."""
    worker: str = ""
    """Who holds it, or held it last, if it said."""


class Own(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What only some jobs have."""

    group: str = ""
    """Jobs of one group of a queue run one at a time, in order of submission."""
    digest: bytes = b""
    """Of the submit's body, when it came with an idempotency key."""
    expires_at_ms: int = 0
    """If it was not leased by then it is DEAD; 0: never, or not any more."""


class Job(msgspec.Struct, gc=False, array_like=True):
    """One job. Only the ``_on_...`` methods of ``Jobs`` assign to it; a snapshot holds it as it is.

    ``gc=False`` keeps a million of these out of the collector's walks: what a job refers to
    never leads back to it.
    """

    job_id: bytes
    number: int
    """Order of submission in this partition, and its time: see ``CREATED_SHIFT``."""
    payload_at: int
    """0 once the job is ACKED: nobody will read it again."""
    kind: int
    """Index in the table of kinds."""
    state: State = READY
    due_ms: int = 0
    """RUNNING: when the lease ends. SCHEDULED, RETRY: when it can be leased. Finished: when it
    ended. 0: nothing is due."""
    run: Run | None = None
    own: Own | None = None

    @property
    def attempts(self) -> int:
        """How often it was leased, less what was released."""
        return 0 if self.run is None else self.run.attempts

    @property
    def lease_token(self) -> int:
        """Token of the last lease, live or not; 0 before the first."""
        return 0 if self.run is None else self.run.lease_token

    @property
    def outcome_at(self) -> int:
        """Position of the result or the error, or what stands in place of one; 0: none."""
        return 0 if self.run is None else self.run.outcome_at

    @property
    def created_at_ms(self) -> int:
        """When it was submitted, ms since 1970."""
        return self.number >> CREATED_SHIFT

    @property
    def is_ready(self) -> bool:
        """Whether it can be leased now, were it alone in its group."""
        return self.state is READY or (self.state is RETRY and self.due_ms == 0)

    @property
    def outcome(self) -> Outcome:
        """What is at ``outcome_at``."""
        at = self.outcome_at
        if at == EXPIRED_AT:
            return Outcome.EXPIRED
        if at == TTL_OVER_AT:
            return Outcome.TTL_OVER
        if self.state is ACKED:
            return Outcome.RESULT
        return Outcome.ERROR if at else Outcome.NONE

    def copied(self) -> "Job":
        """The job as it is now, whatever becomes of this object."""
        run = self.run
        return msgspec.structs.replace(
            self, run=None if run is None else msgspec.structs.replace(run)
        )
