"""Waiting for a job to finish: what to ask, for how long, when to give up. Pure.

The node keeps a read with ``wait`` until the job is finished. One that does not know ``wait``
answers at once, so whoever is answered too early pauses, for longer and longer.
"""

from typing import Final

from queue_node_sdk.backoff import FIRST_POLL_SECONDS, POLL_GROWTH, Backoff
from queue_node_sdk.calls import Call, status_call
from queue_node_sdk.errors import ConfigurationError, QueueNodeError, Timeout
from queue_node_sdk.models import Job

LONGEST_WAIT_SECONDS: Final = 30.0
"""Of one request: the node allows 60, and what is in between may like less (guess)."""
_LAST_LOOK_SECONDS: Final = 1.0
"""What the look at the end of a wait may take beyond it, from a node that does not answer."""
_EARLY: Final = 0.5
"""An answer before so much of its wait was over: the node does not keep us waiting."""


class Waiting:
    """One wait, from ``now`` on."""

    def __init__(
        self,
        job_id: str,
        *,
        timeout: float | None,
        poll_interval: float,
        retry_for: float,
        now: float,
    ) -> None:
        """``now`` is on any clock that does not go back.

        Raises:
            ConfigurationError: the interval cannot be right.
        """
        if not poll_interval > 0:
            raise ConfigurationError("poll_interval must be more than 0 seconds")
        self._job_id = job_id
        self._timeout = timeout
        self._retry_for = retry_for
        self._pace = Backoff(min(FIRST_POLL_SECONDS, poll_interval), poll_interval, POLL_GROWTH)
        self._give_up_at = None if timeout is None else now + timeout
        self._early_answers = 0
        self._asked_at = now
        self._wait_seconds = 0.0

    def call(self, now: float) -> tuple[Call, float, float | None]:
        """What to ask, and the patience for it: in all, and from its first failure on."""
        self._asked_at = now
        if self._give_up_at is None:
            self._wait_seconds = LONGEST_WAIT_SECONDS
            call = status_call(self._job_id, self._wait_seconds)
            return call, self._retry_for + self._wait_seconds, self._retry_for
        left_seconds = max(self._give_up_at - now, 0.0)
        self._wait_seconds = min(LONGEST_WAIT_SECONDS, left_seconds)
        call = status_call(self._job_id, self._wait_seconds)
        return call, left_seconds + _LAST_LOOK_SECONDS, None

    def pause_seconds(self, job: Job, now: float) -> float:
        """How long to pause before the next look at ``job``, which is not finished.

        Raises:
            Timeout: the time is over.
        """
        left_seconds = None if self._give_up_at is None else self._give_up_at - now
        if left_seconds is not None and left_seconds <= 0:
            raise Timeout(f"job {self._job_id} is {job.state} after {self._timeout:g} s")
        if now - self._asked_at >= _EARLY * self._wait_seconds:
            return 0.0
        self._early_answers += 1
        pause_seconds = self._pace.ceiling_seconds(self._early_answers)
        # The last look is at the deadline, not a pause before it.
        return pause_seconds if left_seconds is None else min(pause_seconds, left_seconds)

    def gave_up(self, error: QueueNodeError) -> QueueNodeError:
        """What to raise when the node could not be asked any more."""
        if self._give_up_at is None:
            return error
        return Timeout(f"job {self._job_id} is not known to be finished: {error}")
