"""Jobs on their way to the node, one or thousands, until each has an outcome. Pure.

Sending goes in rounds with a pause in between. In a round each job is in one request; what
may be sent again is in the next round. Every job has an idempotency key, so a request whose
answer was lost is sent again without a second thought.

A batch is all or nothing at the node, and here one job must not harm the others: when a job
is refused, the rest is sent again without it, and when a partition of the node stays away,
which refuses all batches with a job for it, jobs go one by one.

So they do where the node knows the first contract only. It has no idempotency keys either: once
that is known, a job that may have been stored is not sent again.
"""

import re
from collections import deque
from collections.abc import Sequence
from typing import Final

from queue_node_sdk.answers import SubmitResult, partly_stored, submitted_id, submitted_ids
from queue_node_sdk.backoff import RETRY
from queue_node_sdk.calls import Call, batch_call, submit_call
from queue_node_sdk.errors import BadRequest, QueueNodeError
from queue_node_sdk.exchange import log, say_unreachable
from queue_node_sdk.protocol import (
    Outcome,
    Reply,
    accepted,
    error_from,
    may_have_run,
    may_repeat,
    refusal_of,
    retry_after_seconds,
    words_of,
)

BATCH_JOBS_MAX: Final = 1_000
"""Of one request: more would not be faster (the node does 130,000 jobs/s in batches of 100)
and would make all of them wait for the last one."""
BATCH_BYTES_MAX: Final = 8 << 20
"""Of one request, beyond its first job: half of what the node takes by default."""

_ONE_BY_ONE_AFTER: Final = 2
"""Batches that the node refused for the moment before jobs go one by one: a partition that
starts again is back in about a second, which two rounds may meet."""
_HOPELESS: Final = 8
"""Refusals in a row, one by one, after which the round is over: it is not one partition."""

_INDEXED: Final = re.compile(r"jobs\[(\d+)\]: ")


_NO_SUCH_CALL: Final = frozenset((404, 405))


class Abilities:
    """What a client has found out about its node. It only goes from true to false."""

    def __init__(self) -> None:
        self.batches = True
        """Whether it takes many jobs at once, and idempotency keys."""


class Delivery:
    """What became of each job: an id, an error, or nothing yet."""

    def __init__(
        self,
        bodies: Sequence[bytes],
        *,
        apart: bool = True,
        sent_before: Sequence[bool] | None = None,
        node: Abilities | None = None,
    ) -> None:
        """``bodies``: the ``submit_body`` of each job.

        Args:
            bodies: at least one.
            apart: whether jobs have nothing to do with one another. If they have, a
                refused job refuses its whole request, and requests are sent in order.
            sent_before: whether each may have been sent already, by another delivery.
            node: what is known of the node; it is added to.
        """
        self._node = node or Abilities()
        self._batches = self._node.batches
        """Whether this delivery still takes it for a node that knows them."""
        self.outcomes: list[str | QueueNodeError | None] = [None] * len(bodies)
        self._bodies = bodies
        self._apart = apart
        self._failures = 0
        self.resume_at: float = 0.0
        """Not before then the next round begins, on the clock of who sends."""
        self._may_have_run = list(sent_before or [False] * len(bodies))
        self._retry_after_seconds: float | None = None
        self._trouble: tuple[Call, Outcome] | None = None
        self._refused_batches = 0
        self._progress = False
        self._pieces = deque(self._pieces_of(range(len(bodies))))
        self._again: list[int] = []
        self._refused_in_a_row = 0
        # Of the request that is out.
        self._piece: Sequence[int] = ()
        self._call: Call | None = None

    def next_call(self) -> Call | None:
        """What to send next; ``None``: the round is over."""
        if not self._pieces:
            return None
        self._piece = self._pieces.popleft()
        if len(self._piece) == 1:
            body = self._bodies[self._piece[0]]
            self._call = submit_call(body, knows_keys=self._batches)
        else:
            self._call = batch_call([self._bodies[index] for index in self._piece])
        return self._call

    def note(self, outcome: Outcome) -> None:
        """What came of the call that ``next_call`` gave."""
        assert self._call is not None, "nothing is out"
        call, piece = self._call, self._piece
        self._call = None
        if (reply := accepted(call, outcome)) is not None:
            self._note_stored(reply)
        elif isinstance(outcome, Reply) and (parts := partly_stored(outcome, len(piece))):
            self._note_parts(call, outcome, parts)
        elif self._knows_no_batch(outcome):
            self._batches = False
            self._pieces.extendleft((index,) for index in reversed(self._piece))
        elif may_repeat(call, outcome):
            self._note_trouble(call, outcome)
        else:
            self._note_refusal(call, outcome)

    def pause_seconds(self, url: str, left_seconds: float, draw: float) -> float | None:
        """How long to pause before the next round; ``None``: every job has its outcome.

        So it is too when the patience, of which ``left_seconds`` are left, is over before.
        """
        if not self._again:
            return None
        first = self._failures == 0
        # A node that stored some of it is not to be spared.
        self._failures = 1 if self._progress else self._failures + 1
        pause_seconds = RETRY.pause_seconds(self._failures, draw, self._retry_after_seconds)
        if pause_seconds >= left_seconds:
            self.give_up()
            return None
        if first and self._trouble is not None:
            say_unreachable(url, self._trouble[1], left_seconds)
        again, self._again = sorted(self._again), []
        self._retry_after_seconds = None
        self._refused_in_a_row = 0
        self._progress = False
        self._pieces.extend(self._pieces_of(again))
        return pause_seconds

    def give_up(self) -> None:
        """No more rounds: what has no outcome gets the error of the last trouble."""
        assert self._trouble is not None, "nothing went wrong"
        call, outcome = self._trouble
        for index in (*self._again, *(index for piece in self._pieces for index in piece)):
            self.outcomes[index] = error_from(
                call, outcome, may_have_run_before=self._may_have_run[index]
            )
        self._again = []
        self._pieces.clear()

    # What a request came to

    def _note_stored(self, reply: Reply) -> None:
        self._refused_in_a_row = 0
        self._progress = True
        try:
            job_ids = (
                [submitted_id(reply)]
                if len(self._piece) == 1
                else submitted_ids(reply, len(self._piece))
            )
        except QueueNodeError as error:
            self._settle_all(error)
            return
        for index, job_id in zip(self._piece, job_ids, strict=True):
            self.outcomes[index] = job_id
        if self._node.batches and not self._batches:
            # Only now: whatever is at a wrong URL has no batches either.
            self._node.batches = False
            log.warning(
                "the node knows no batches and no idempotency keys: jobs go one by one, and one "
                "whose answer is lost is not sent again"
            )

    def _note_parts(self, call: Call, reply: Reply, parts: Sequence[SubmitResult]) -> None:
        """Some are stored; of the others some may be, and are sent again."""
        self._trouble = call, reply
        for index, part in zip(self._piece, parts, strict=True):
            if part.job_id is not None:
                self.outcomes[index] = part.job_id
            else:
                self._may_have_run[index] = True
                self._again.append(index)

    def _knows_no_batch(self, outcome: Outcome) -> bool:
        many = len(self._piece) > 1
        return many and isinstance(outcome, Reply) and outcome.status in _NO_SUCH_CALL

    def _note_trouble(self, call: Call, outcome: Outcome) -> None:
        self._trouble = call, outcome
        advice_seconds = retry_after_seconds(outcome)
        if advice_seconds is not None:
            self._retry_after_seconds = max(advice_seconds, self._retry_after_seconds or 0.0)
        ran = may_have_run(outcome)
        for index in self._piece:
            self._may_have_run[index] = self._may_have_run[index] or ran
        self._again.extend(self._piece)
        self._refused_in_a_row += 1
        if not isinstance(outcome, Reply):
            self._refused_batches = 0
        elif len(self._piece) > 1:
            self._refused_batches += 1
        hopeless = not isinstance(outcome, Reply) or self._refused_in_a_row >= _HOPELESS
        if hopeless or not self._apart:
            self._again.extend(index for piece in self._pieces for index in piece)
            self._pieces.clear()

    def _note_refusal(self, call: Call, outcome: Outcome) -> None:
        """The node does not take it, now or later; of a batch the others it may take."""
        error = error_from(call, outcome)
        if not (isinstance(outcome, Reply) and isinstance(error, BadRequest)):
            self._settle_all(error)
            return
        if len(self._piece) == 1:
            self._note_alone_refused(error, outcome)
            return
        words = words_of(outcome) or ""
        found = _INDEXED.match(words)
        if not self._apart:
            if found is not None:
                # The caller counts from the first job of all, the node from that of the request.
                error = _named(error, outcome, self._piece[int(found[1])], words[found.end() :])
            self._settle_all(error)
            self._refuse_the_rest(error)
            return
        left = list(self._piece)
        if found is not None and int(found[1]) < len(left):
            index = left.pop(int(found[1]))
            own = words[found.end() :]
            self.outcomes[index] = refusal_of(outcome.status, own)(
                f"submit: {own} ({outcome.status})", status=outcome.status
            )
        # In halves, so that many refused jobs do not send the others round again for each.
        middle = len(left) // 2
        self._pieces.extendleft(half for half in (left[middle:], left[:middle]) if half)

    def _note_alone_refused(self, error: QueueNodeError, reply: Reply) -> None:
        """It was the only job of its request."""
        (index,) = self._piece
        if not self._apart and len(self._bodies) > 1:
            error = _named(error, reply, index, words_of(reply) or "")
        self.outcomes[index] = error
        if not self._apart:
            self._refuse_the_rest(error)

    def _refuse_the_rest(self, error: QueueNodeError) -> None:
        for piece in self._pieces:
            for index in piece:
                self.outcomes[index] = error
        self._pieces.clear()

    def _settle_all(self, error: QueueNodeError) -> None:
        for index in self._piece:
            self.outcomes[index] = error

    def _pieces_of(self, indexes: Sequence[int]) -> list[Sequence[int]]:
        """One request's worth each."""
        if not self._batches or (self._apart and self._refused_batches >= _ONE_BY_ONE_AFTER):
            return [(index,) for index in indexes]
        pieces: list[Sequence[int]] = []
        piece: list[int] = []
        size_bytes = 0
        for index in indexes:
            body_bytes = len(self._bodies[index])
            full = len(piece) >= BATCH_JOBS_MAX or size_bytes + body_bytes > BATCH_BYTES_MAX
            if piece and full:
                pieces.append(piece)
                piece, size_bytes = [], 0
            piece.append(index)
            size_bytes += body_bytes
        pieces.append(piece)
        return pieces


def _named(error: QueueNodeError, reply: Reply, index: int, words: str) -> QueueNodeError:
    """The same refusal, which says whose it is."""
    return type(error)(f"submit: jobs[{index}]: {words} ({reply.status})", status=reply.status)
