"""One call, tried until it is answered: when to go on, for how long, what is raised. Pure.

The transports send what they are told and wait as long as they are told; time and luck are
arguments.
"""

import logging
from typing import Final

from queue_node_sdk.backoff import RETRY
from queue_node_sdk.calls import Call
from queue_node_sdk.errors import QueueNodeError
from queue_node_sdk.protocol import (
    NotSent,
    Outcome,
    Reply,
    accepted,
    error_from,
    may_have_run,
    may_repeat,
    retry_after_seconds,
)

log: Final = logging.getLogger("queue_node")


class Exchange:
    """The tries of one call, under one deadline."""

    def __init__(
        self,
        call: Call,
        url: str,
        now: float,
        patience_seconds: float,
        failing_for_seconds: float | None = None,
    ) -> None:
        """``now`` is on any clock that does not go back.

        Args:
            call: what to send.
            url: where to, for the log.
            now: when it begins.
            patience_seconds: for all tries.
            failing_for_seconds: from the first failure on, instead: for a call that may wait
                long at the node without anything being wrong.
        """
        self._failing_for_seconds = failing_for_seconds
        self._call = call
        self._url = url
        self._patience_seconds = patience_seconds
        self._give_up_at = now + patience_seconds
        self._failures = 0
        self._may_have_run = False

    def left_seconds(self, now: float) -> float:
        """What the next try may take; the first one gets the whole patience."""
        return self._give_up_at - now if self._failures else self._patience_seconds

    def pause_after(self, outcome: Outcome, now: float, draw: float) -> Reply | float:
        """The answer, or how many seconds to pause before the next try.

        Raises:
            QueueNodeError: the refusal, or the trouble that outlasts the patience.
        """
        reply = accepted(self._call, outcome)
        if reply is not None:
            return reply
        self._failures += 1
        if self._failures == 1 and self._failing_for_seconds is not None:
            self._give_up_at = now + self._failing_for_seconds
        if not may_repeat(self._call, outcome):
            raise self.error(outcome)
        pause_seconds = RETRY.pause_seconds(self._failures, draw, retry_after_seconds(outcome))
        if now + pause_seconds >= self._give_up_at:
            raise self.error(outcome)
        if self._failures == 1:
            say_unreachable(self._url, outcome, self._give_up_at - now)
        self._may_have_run = self._may_have_run or may_have_run(outcome)
        return pause_seconds

    def error(self, outcome: Outcome) -> QueueNodeError:
        """What to raise when there is no other try after ``outcome``."""
        return error_from(self._call, outcome, may_have_run_before=self._may_have_run)


def say_unreachable(url: str, outcome: Outcome, patience_seconds: float) -> None:
    """Log that there is no connection: a wrong URL looks the same as a node that is starting."""
    if isinstance(outcome, NotSent):
        log.warning("cannot reach %s: %s; trying for %.3g s", url, outcome.reason, patience_seconds)
