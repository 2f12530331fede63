"""A job in memory, and its states. Pure.

Who moves it::

    JobEnqueued      -> READY
    JobLeased        READY | RETRY -> RUNNING
    JobAcked         RUNNING -> ACKED
    JobFailed        RUNNING -> RETRY (attempts left) | DEAD
    LeaseExpired     RUNNING -> RETRY (attempts left) | DEAD
    BackoffOver      RETRY stays RETRY, but can be leased from now on
    JobForgotten     ACKED | DEAD -> gone

Texts stay on disk; ``payload_at`` and ``outcome_at`` are ``positions``.

**Memory.** A million of these must stay small: ten fields make a struct of 96 bytes, so what
follows from another field is no field of its own. Most integers of a waiting job are 0 or
small and shared; its own are ``number`` and ``payload_at``, 32 bytes each.
"""

from enum import IntEnum
from typing import Final

import msgspec

CREATED_SHIFT: Final = 19
"""``number >> CREATED_SHIFT`` is the time of submission: room for 524,288 jobs in one ms."""

EXPIRED_AT: Final = 1
"""In place of a position (it can't be one): the last lease ended without a word."""

EMPTY_AT: Final = 2
"""In place of a position: the last attempt failed, with an error that has no text."""


class State(IntEnum):
    """The contract's words are the names."""

    READY = 1
    RUNNING = 2
    RETRY = 3
    ACKED = 4
    DEAD = 5


class Outcome(IntEnum):
    """What the last finished attempt left; the text of the first two is at ``outcome_at``."""

    NONE = 0
    RESULT = 1
    ERROR = 2
    EXPIRED = 3


class Job(msgspec.Struct, gc=False, array_like=True):
    """One job. Only ``PartitionState.evolve`` assigns to it; a snapshot holds it as it is.

    ``gc=False`` keeps a million of these out of the collector's walks: a job refers to no
    container.
    """

    job_id: bytes
    number: int
    """Order of submission in this partition, and its time: see ``CREATED_SHIFT``. The
    smallest ready number is leased first."""
    payload_at: int
    """0 once the job is ACKED: nobody will read it again."""
    max_retries: int
    owner: int
    """Index of the owner's name in the state's table of owners."""
    state: State = State.READY
    attempts: int = 0
    lease_token: int = 0
    """Token of the last lease, live or not; 0 before the first."""
    due_ms: int = 0
    """RUNNING: when the lease ends. RETRY: when the backoff ends. Finished: when it ended.
    0: nothing is due."""
    outcome_at: int = 0

    @property
    def attempts_max(self) -> int:
        """``max_retries`` counts attempts; 0 and 1 both mean one."""
        return max(1, self.max_retries)

    @property
    def created_at_ms(self) -> int:
        """When it was submitted, ms since 1970."""
        return self.number >> CREATED_SHIFT

    @property
    def is_ready(self) -> bool:
        """Whether it can be leased now."""
        return self.state is State.READY or (self.state is State.RETRY and self.due_ms == 0)

    @property
    def outcome(self) -> Outcome:
        """What is at ``outcome_at``."""
        if self.outcome_at == EXPIRED_AT:
            return Outcome.EXPIRED
        if self.state is State.ACKED:
            return Outcome.RESULT
        return Outcome.ERROR if self.outcome_at else Outcome.NONE
