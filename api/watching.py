"""Waiting until a job is finished.

The partition is asked to watch the job, and says so once (``JobsOver``) when it is finished or
gone; whoever waits then asks again. A partition that went away watches nothing any more: its
waiters ask anew. When nobody waits for a job any longer, the partition is told.
"""

from collections.abc import Sequence
from functools import partial

from api.asking import ask_one
from api.parking import Deadlines, Parked
from api.partition_client import PartitionClient
from api.problems import PARTITION_DOWN, Problem
from partitions.messages import Get, JobView, Reply, Unwatch


class Watching:
    """Reads of jobs that may wait for their end."""

    def __init__(self, clients: Sequence[PartitionClient], deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._waiting: dict[bytes, tuple[PartitionClient, set[Parked]]] = {}
        for client in clients:
            client.on_over = self._are_over
            client.on_change = partial(self._ask_anew, client)

    async def get(self, client: PartitionClient, job_id: bytes, wait_ms: int) -> Reply | Problem:
        """The job when it is finished, or as it is at the end of the wait."""
        if not wait_ms:
            return await ask_one(client, Get(job_id))
        parked = self._deadlines.park(wait_ms / 1000)
        _, waiting = self._waiting.setdefault(job_id, (client, set()))
        # Before it is asked: what it says right behind its reply must not be missed.
        waiting.add(parked)
        try:
            while True:
                reply = await ask_one(client, Get(job_id, watch=not parked.over))
                if parked.over:
                    return reply
                if not isinstance(reply, JobView) and reply is not PARTITION_DOWN:
                    return reply
                if isinstance(reply, JobView) and reply.finished_at_ms is not None:
                    return reply
                await parked.wait()
        finally:
            self._deadlines.leave(parked)
            waiting.discard(parked)
            if not waiting and self._waiting.get(job_id, (None, None))[1] is waiting:
                del self._waiting[job_id]
                client.post(Unwatch(job_id))

    def _are_over(self, job_ids: list[bytes]) -> None:
        for job_id in job_ids:
            if (watched := self._waiting.get(job_id)) is not None:
                for parked in list(watched[1]):
                    parked.wake()

    def _ask_anew(self, client: PartitionClient) -> None:
        """The partition went away, or is back."""
        for watcher, waiting in list(self._waiting.values()):
            if watcher is client:
                for parked in list(waiting):
                    parked.wake()
