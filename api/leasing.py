"""Which partition to ask for a job, out of N; and waiting until there is one.

Partitions push what each queue would give next (``Hint``): how many jobs of which priorities, and
since when; less what was asked for since (``heads``). A lease asks the one whose next job is best
for the first of its queues, then the others that have some, then all the rest: a hint can be late,
so "no jobs available" is said only after every partition itself said so. If one of them cannot be
asked, nobody knows, and the caller hears that. So over partitions priority holds as far as hints
are fresh.

**Waiting.** A lease that may wait is parked when there is nothing, and woken, the longest waiting
first, when a partition says that a queue of it has a job: one for each job, not all. A waiter that
gets one wakes the next as long as there is more. One that meets a partition with too much in
flight is not refused, but asks again a little later. One whose client has hung up is not asked
for; a lease that was on its way to somebody who left meanwhile is released at once.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from api.errors import OverloadedError, PartitionUnavailableError
from api.heads import shares
from api.lease_schemas import LeaseRequest
from api.parking import Deadlines, Parked
from api.partition_client import PartitionClient
from partitions.limits import LEASE_BYTES_MAX
from partitions.messages import (
    Ack,
    Extend,
    Fail,
    Head,
    Lease,
    Leased,
    LeasedMany,
    LeaseMany,
    Many,
    NothingReady,
    Release,
    Reply,
    StorageFull,
)
from partitions.options import decode_options
from partitions.slots import partition_of, slot_of

_WOKEN_AT_ONCE_MAX: Final = 256
"""Well below what may be in flight to one partition."""

_AGAIN_FIRST_S: Final = 0.1
_AGAIN_LONGEST_S: Final = 1.0
"""How long a waiter lets a partition be that has too much in flight; spread up to twice that, for
there may be thousands of them, and each costs the front a look at all partitions."""

Gone = Callable[[], bool]
"""Whether the client is known to have hung up."""


class _Waiter:
    """A parked lease."""

    __slots__ = ("gone", "parked", "queues")

    def __init__(self, queues: tuple[str, ...], parked: Parked, gone: Gone) -> None:
        self.queues = queues
        self.parked = parked
        self.gone = gone


class _Search:
    """One lease call on its way through the partitions."""

    __slots__ = ("_wanted", "found", "full", "unasked")

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self.found: list[Leased] = []
        self.full: StorageFull | None = None
        self.unasked: PartitionUnavailableError | OverloadedError | None = None

    @property
    def left(self) -> int:
        """How many jobs are to be found yet; none when their payloads are enough for an answer."""
        found = self.found
        if found and sum(len(lease.payload) for lease in found) >= LEASE_BYTES_MAX:
            return 0
        return self._wanted - len(found)

    def failed(self, error: PartitionUnavailableError | OverloadedError) -> None:
        """A partition could not be asked."""
        # One that is down says when it is back, and is waited for; of room again nobody says.
        if not isinstance(self.unasked, OverloadedError):
            self.unasked = error

    def outcome(self) -> Reply:
        """What the caller hears when nothing was found."""
        if self.unasked is not None:
            raise self.unasked
        return self.full or NothingReady()


class Leasing:
    """Leases over all partitions of the node."""

    def __init__(self, clients: Sequence[PartitionClient], deadlines: Deadlines) -> None:
        self._clients = tuple(clients)
        self._deadlines = deadlines
        self._turn = 0
        self._waiters: dict[str, dict[_Waiter, None]] = {}
        """By queue, the longest waiting first."""
        self._to_wake: deque[_Waiter] = deque()
        self._waking = False
        for client in self._clients:
            client.on_heads = self._told

    async def lease(self, request: LeaseRequest, gone: Gone) -> Reply:
        """``Leased``, or with ``max`` ``LeasedMany``; or the reply that says why not.

        Raises:
            PartitionUnavailableError: no job was found, and not every partition could be asked.
            OverloadedError: the same, because too much is in flight to one.
        """
        if not request.wait_ms:
            return self._kept(await self._once(request), gone)
        parked = self._deadlines.park(request.wait_ms / 1000)
        waiter = _Waiter(request.queues, parked, gone)
        for name in request.queues:
            self._waiters.setdefault(name, {})[waiter] = None
        try:
            return await self._when_there_is(request, waiter)
        finally:
            self._deadlines.leave(parked)
            for name in request.queues:
                waiters = self._waiters[name]
                del waiters[waiter]
                if not waiters:
                    del self._waiters[name]
            self._wake_for(request.queues)

    async def _when_there_is(self, request: LeaseRequest, waiter: _Waiter) -> Reply:
        again_s = _AGAIN_FIRST_S
        while True:
            try:
                reply = await self._once(request)
            except OverloadedError:
                # Of room nobody tells.
                if waiter.parked.over:
                    raise
                await self._pause(again_s * (1 + random.random()))  # noqa: S311 - spreads them
                again_s = min(again_s * 2, _AGAIN_LONGEST_S)
                continue
            except PartitionUnavailableError:
                # Its jobs come back with it, and it says so.
                if waiter.parked.over:
                    raise
                reply = NothingReady()
            if not isinstance(reply, NothingReady):
                return self._kept(reply, waiter.gone)
            if waiter.parked.over:
                return reply
            if not self._is_hinted(request.queues):
                await waiter.parked.wait()

    async def _pause(self, pause_s: float) -> None:
        """Wait so long, or until the front is to stop; no task of trio's is needed for it."""
        pause = self._deadlines.park(pause_s)
        try:
            await pause.wait()
        finally:
            self._deadlines.leave(pause)

    def _kept(self, reply: Reply, gone: Gone) -> Reply:
        """What was leased, unless nobody is there to take it."""
        leases = _leases_of(reply)
        if not leases or not gone():
            return reply
        self._give_back(leases)
        return NothingReady()

    # Asking -------------------------------------------------------------------------------

    async def _once(self, request: LeaseRequest) -> Reply:
        search = _Search(request.max or 1)
        try:
            await self._search(request, search)
        except BaseException:
            # Whoever asked has gone in the middle of it.
            self._give_back(search.found)
            raise
        if not search.found:
            return search.outcome()
        if request.max is None:
            return search.found[0]
        return LeasedMany(search.found)

    async def _search(self, request: LeaseRequest, search: _Search) -> None:
        told_all: set[PartitionClient] = set()
        for name in request.queues:
            hinted = self._hinted(name)
            if request.max is not None and len(hinted) > 1:
                await self._gather(name, hinted, request, search)
                if search.left <= 0:
                    return
                continue
            for client in hinted:
                await self._ask(client, (name,), request, search)
                if search.left <= 0:
                    return
                if len(request.queues) == 1:
                    told_all.add(client)
        if search.found:
            return
        for client in self._clients:
            if client not in told_all:
                await self._ask(client, request.queues, request, search)
                if search.found:
                    return

    async def _gather(
        self, name: str, hinted: list[PartitionClient], request: LeaseRequest, search: _Search
    ) -> None:
        """Add the best jobs of a queue that several partitions have, from each its share."""
        before = len(search.found)
        for client, jobs in zip(
            hinted, shares([client.heads[name] for client in hinted], search.left), strict=True
        ):
            if jobs and search.left > 0:
                await self._ask(client, (name,), request, search, min(jobs, search.left))
        search.found[before:] = sorted(search.found[before:], key=_order)

    async def _ask(
        self,
        client: PartitionClient,
        queues: tuple[str, ...],
        request: LeaseRequest,
        search: _Search,
        share: int | None = None,
    ) -> None:
        """Add what the partition gives to what was found; with a ``share`` no more than that."""
        lease = Lease(request.duration_ms, queues, request.worker)
        jobs = 1 if request.max is None else share or search.left
        command = lease if request.max is None else LeaseMany(lease, jobs)
        known = client.heads.get(queues[0])
        if known is not None:
            known.ask(jobs)
        try:
            reply = await client.ask(command, 0, self._take_back)
        except (PartitionUnavailableError, OverloadedError) as error:
            # One that hangs fills up; the jobs of the others can be leased all the same.
            search.failed(error)
            return
        finally:
            if known is not None:
                known.answered(jobs)
        match reply:
            case Leased():
                search.found.append(reply)
            case LeasedMany():
                search.found += reply.jobs
            case StorageFull():
                # Its disk has no room even for a lease; the next one's may.
                search.full = reply
            case NothingReady():
                pass
            case _:
                raise UnexpectedReplyError(reply)

    def _take_back(self, reply: Reply) -> None:
        """A reply came for somebody who is gone."""
        self._give_back(_leases_of(reply))

    def _give_back(self, leases: Sequence[Leased]) -> None:
        """Nobody is there to take them: the next one may, at once."""
        count = len(self._clients)
        for client in self._clients:
            own: list[Ack | Fail | Extend | Release] = [
                Release(lease.job_id, lease.lease_token)
                for lease in leases
                if partition_of(slot_of(lease.job_id), count) == client.partition
            ]
            if own:
                client.post(Many(own))

    def _hinted(self, queue: str) -> list[PartitionClient]:
        """The partitions that have jobs of the queue, the one with the best first."""
        clients = self._clients
        if len(clients) == 1:
            return [clients[0]] if queue in clients[0].heads else []
        self._turn = (self._turn + 1) % len(clients)
        turned = clients[self._turn :] + clients[: self._turn]
        # Stable: among equals the turn decides.
        return sorted(
            (client for client in turned if queue in client.heads),
            key=lambda client: client.heads[queue].rank(),
        )

    def _is_hinted(self, queues: tuple[str, ...]) -> bool:
        return any(queue in client.heads for client in self._clients for queue in queues)

    # Waking -------------------------------------------------------------------------------

    def _told(self, heads: list[Head]) -> None:
        for head in heads:
            if head.priority is not None and head.queue in self._waiters:
                # Each that gets one wakes the next: so many at once are no fewer in the end.
                self._wake(head.queue, min(head.ready, _WOKEN_AT_ONCE_MAX))

    def _wake_for(self, queues: tuple[str, ...]) -> None:
        """Somebody has done with these queues: whoever waits next may have what is left."""
        for queue in queues:
            if queue in self._waiters and self._is_hinted((queue,)):
                self._wake(queue, 1)

    def _wake(self, queue: str, count: int) -> None:
        """Wake so many of those who wait for the queue, and are there."""
        chosen: list[_Waiter] = []
        for waiter in self._waiters[queue]:
            if len(chosen) >= count:
                break
            if waiter.parked.waits and not waiter.gone():
                chosen.append(waiter)
        self._to_wake += chosen
        if self._waking:
            return
        # In a row, not one inside the other: each may wake the next before it returns.
        self._waking = True
        try:
            while self._to_wake:
                self._to_wake.popleft().parked.wake()
        finally:
            self._waking = False


class UnexpectedReplyError(Exception):
    """A partition gave a reply that a lease cannot have."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"unexpected reply: {type(reply).__name__}")
        self.reply = reply


def _order(lease: Leased) -> tuple[int, int]:
    return -decode_options(lease.options).priority, lease.created_at_ms


def _leases_of(reply: Reply) -> list[Leased]:
    match reply:
        case Leased():
            return [reply]
        case LeasedMany():
            return reply.jobs
        case _:
            return []
