"""Waiting until a job is finished.

The partition is asked to watch the job, and says so once (``JobsOver``) when it is finished or
gone; whoever waits then asks again. A partition that went away watches nothing any more: its
waiters ask anew. When nobody waits for a job any longer, the partition is told.
"""

import random
from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from api.asking import ask_one
from api.calls import in_task
from api.parking import Deadlines, Parked
from api.partition_client import PartitionClient
from api.problems import OVERLOADED, PARTITION_DOWN, Problem
from partitions.messages import Get, JobView, Reply, Unwatch

_OVERLOADED_PAUSE_S: Final = 0.05


class _Watched:
    """A job that is waited for."""

    __slots__ = ("client", "final", "leader", "waiting")

    def __init__(self, client: PartitionClient) -> None:
        self.client = client
        self.waiting: set[Parked] = set()
        self.leader: Parked | None = None
        """Woken to ask for all of them: thousands may wait for one job."""
        self.final: Reply | None = None
        """What all of them hear."""

    def lead(self) -> None:
        """Let one of them ask."""
        self.leader = next((parked for parked in self.waiting if parked.waits), None)
        if self.leader is not None:
            self.leader.wake()
            return
        # All of them are asking: their replies may be from before.
        for parked in self.waiting:
            parked.wake()

    def end(self, final: Reply) -> None:
        """Let all of them hear."""
        self.final = final
        for parked in list(self.waiting):
            parked.wake()


class Watching:
    """Reads of jobs that may wait for their end."""

    def __init__(self, clients: Sequence[PartitionClient], deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._waiting: dict[bytes, _Watched] = {}
        for client in clients:
            client.on_over = self._are_over
            client.on_change = partial(self._ask_anew, client)

    async def get(self, client: PartitionClient, job_id: bytes, wait_ms: int) -> Reply | Problem:
        """The job when it is finished, or as it is at the end of the wait."""
        if not wait_ms:
            return await ask_one(client, Get(job_id))
        parked = self._deadlines.park(wait_ms / 1000)
        watched = self._waiting.setdefault(job_id, _Watched(client))
        # Before it is asked: what it says right behind its reply must not be missed.
        watched.waiting.add(parked)
        try:
            return await self._when_over(watched, parked, Get(job_id, watch=True))
        finally:
            self._deadlines.leave(parked)
            watched.waiting.discard(parked)
            if not watched.waiting:
                if self._waiting.get(job_id) is watched:
                    del self._waiting[job_id]
                    client.post(Unwatch(job_id))
            elif watched.leader is parked and watched.final is None:
                watched.lead()

    async def _when_over(self, watched: _Watched, parked: Parked, question: Get) -> Reply | Problem:
        while True:
            if watched.final is not None:
                return watched.final
            if parked.over:
                return await ask_one(watched.client, Get(question.job_id))
            reply = await ask_one(watched.client, question)
            if reply is OVERLOADED:
                # Of room nobody tells; and after a restart there may be thousands of us.
                await in_task()
                await trio.sleep(_OVERLOADED_PAUSE_S * (1 + random.random()))  # noqa: S311 - spreads them
                continue
            if isinstance(reply, JobView):
                if reply.finished_at_ms is not None:
                    self._end(watched, question.job_id, reply)
                    return reply
            elif reply is not PARTITION_DOWN:
                if not isinstance(reply, Problem):
                    self._end(watched, question.job_id, reply)
                return reply
            await parked.wait()

    def _end(self, watched: _Watched, job_id: bytes, final: Reply) -> None:
        """Let all of them hear; who comes now asks anew, for the job may begin anew."""
        if self._waiting.get(job_id) is watched:
            del self._waiting[job_id]
        watched.end(final)

    def _are_over(self, job_ids: list[bytes]) -> None:
        for job_id in job_ids:
            if (watched := self._waiting.get(job_id)) is not None:
                watched.lead()

    def _ask_anew(self, client: PartitionClient) -> None:
        """The partition went away, or is back."""
        for watched in list(self._waiting.values()):
            if watched.client is client:
                watched.lead()
