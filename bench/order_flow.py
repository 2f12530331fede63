"""The load of ``bench order``: jobs of drawn priorities come and go while a backlog waits. Pure.

Each unit of each connection is one or the other, drawn: submit one job, or lease and acknowledge.
The more jobs wait, the likelier a lease, so that their number stays about the same. Then the
lower priorities pile up, and a better job is an exception that has just come: that is where hints
are late. (Where more comes than goes, all that is leased is of the highest priority, and the
order over partitions is trivial.)
"""

from collections.abc import Callable
from random import Random
from typing import Final

from bench.errors import MalformedAnswerError
from bench.flows import Verdict, check_acked, leased_batch, leased_one, submitted_id
from bench.order import History
from bench.workloads import Requests

FILL: Final = 0
"""For ``waiting``: submit only."""


class OrderFlow:
    """One connection's part: see the module."""

    def __init__(
        self,
        requests: Requests,
        draw: Random,
        history: History,
        clock_ns: Callable[[], int],
        *,
        priorities: int,
        waiting: int,
        batch: int,
    ) -> None:
        """Priorities are drawn from ``-priorities`` to ``priorities``.

        Args:
            requests: What to send.
            draw: Shared by all connections.
            history: Is told what happened; also shared.
            clock_ns: Monotonic; read just before a request goes and when its answer came.
            priorities: The highest.
            waiting: So many jobs wait on average; or ``FILL``.
            batch: Jobs that one lease asks for; with 1 it does so without ``max``.
        """
        self._requests = requests
        self._draw = draw
        self._history = history
        self._clock_ns = clock_ns
        self._priorities = priorities
        self._waiting = waiting
        self._batch = batch
        self._priority = 0
        self._sent_ns = 0
        self._held = 0
        self.operation = self.unit = "submit"
        self.jobs = 0

    def begin(self) -> bytes:
        """A submit or a lease."""
        if self._is_lease_due():
            self.unit = "lease+ack"
            return self.again()
        self.operation = self.unit = "submit"
        self.jobs = 1 if self._waiting == FILL else 0
        self._priority = self._draw.randint(-self._priorities, self._priorities)
        request = self._draw.choice(self._requests.submits_of(self._priority))
        self._sent_ns = self._clock_ns()
        return request

    def again(self) -> bytes:
        """The lease anew: only that can be empty."""
        self.operation = "lease"
        self._sent_ns = self._clock_ns()
        one = self._batch == 1
        return self._requests.lease if one else self._requests.lease_up_to(self._batch)

    def _is_lease_due(self) -> bool:
        if self._waiting == FILL:
            return False
        # At the number that is wanted, one unit of ``1 + batch`` is a lease.
        weight = max(0, self._history.waiting) / self._waiting
        return self._draw.random() * (weight + self._batch) < weight

    def answer(self, status: int, body: bytes) -> bytes | Verdict:
        """201 with an id; or 200 with jobs of ours, and then success for each of them."""
        answered_ns = self._clock_ns()
        match self.operation:
            case "submit":
                return self._submitted(status, body, answered_ns)
            case "lease":
                return self._leased(status, body, answered_ns)
            case _:
                return self._acked(status, body)

    def _submitted(self, status: int, body: bytes, answered_ns: int) -> Verdict:
        if status != 201:
            return Verdict.REFUSED
        self._history.submitted(submitted_id(body), self._priority, self._sent_ns, answered_ns)
        return Verdict.DONE

    def _leased(self, status: int, body: bytes, answered_ns: int) -> bytes | Verdict:
        if status == 404:
            return Verdict.EMPTY
        if status != 200:
            return Verdict.REFUSED
        if self._batch == 1:
            job = leased_one(body)
            job_ids = [job.job_id]
            request = self._requests.ack(job.job_id, job.lease_token)
        else:
            jobs = leased_batch(body)
            if not 1 <= len(jobs) <= self._batch:
                raise MalformedAnswerError(f"a lease of up to {self._batch} gave {len(jobs)}")
            job_ids = [job.job_id for job in jobs]
            request = self._requests.ack_all([(job.job_id, job.lease_token) for job in jobs])
        self._history.leased(job_ids, self._sent_ns, answered_ns)
        self.jobs = self._held = len(job_ids)
        self.operation = "ack"
        return request

    def _acked(self, status: int, body: bytes) -> Verdict:
        if status != 200:
            return Verdict.REFUSED
        if self._batch > 1:
            check_acked(body, self._held)
        elif body:
            raise MalformedAnswerError(f"an ack was answered with a body: {body!r:.99}")
        return Verdict.DONE
