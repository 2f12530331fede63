"""A job in memory, and its states. Pure.

Who moves it::

    JobEnqueued      -> READY
    JobLeased        READY | RETRY -> RUNNING
    JobAcked         RUNNING -> ACKED
    JobFailed        RUNNING -> RETRY (attempts left) | DEAD
    LeaseExpired     RUNNING -> RETRY (attempts left) | DEAD
    BackoffOver      RETRY stays RETRY, but can be leased from now on
    JobForgotten     ACKED | DEAD -> gone

Texts stay on disk; ``payload_at`` and ``outcome_at`` are positions (``events``).
"""

from enum import IntEnum

import msgspec


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


class Job(msgspec.Struct, gc=False):
    """One job. Only ``PartitionState.evolve`` assigns to it.

    ``gc=False`` keeps a million of these out of the collector's walks: a job refers to no
    container.
    """

    job_id: bytes
    number: int
    """Order of submission in this partition; the smallest ready number is leased first."""
    payload_at: int
    max_retries: int
    created_at_ms: int
    owner: str
    state: State = State.READY
    attempts: int = 0
    lease_token: int = 0
    """Token of the last lease, live or not; 0 before the first."""
    due_ms: int = 0
    """RUNNING: when the lease ends. RETRY: when the backoff ends. Finished: when it ended.
    0: nothing is due."""
    outcome: Outcome = Outcome.NONE
    outcome_at: int = 0

    @property
    def attempts_max(self) -> int:
        """``max_retries`` counts attempts; 0 and 1 both mean one."""
        return max(1, self.max_retries)
