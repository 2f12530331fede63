"""One function per job operation: typed request in, typed answer or ``Problem`` out.

The lane and the Quart routes both end here, whatever the way in. Everything that a
partition may reply, and every way in which it may fail to, becomes an answer in this file.

A partition that dies with a command in flight leaves its outcome open. Where the same
command can be given again without doing anything twice (a submit under the same job id, an
ack under a token, a read), it is, once the partition is back: the client only sees a pause. Not
where it hangs: nobody starts that one anew, and the client has waited long enough.
"""

import random
from collections.abc import Sequence
from typing import Final

import trio

from api import problems, schemas
from api.caller import Caller
from api.calls import in_task
from api.errors import OverloadedError, PartitionUnavailableError
from api.leasing import Leasing
from api.partition_client import PartitionClient
from api.problems import Problem
from api.schemas import JobCreated, JobStatus, LeasedJob
from partitions.clock import Clock, SystemClock
from partitions.messages import (
    Ack,
    AlreadyExists,
    Command,
    Enqueue,
    Enqueued,
    Fail,
    Get,
    JobNotFound,
    JobView,
    Leased,
    LeaseLost,
    NothingReady,
    NotRunning,
    Reply,
    Settled,
    StorageFull,
    Unreadable,
)
from partitions.slots import (
    SLOTS,
    first_slot,
    format_job_id,
    make_job_id,
    parse_job_id,
    partition_of,
    slot_of,
)

_AGAIN_WITHIN_S: Final = 5.0
"""How long an operation waits for a partition that died under it (a restart takes less)."""

_ID_RANDOM_BITS: Final = 58
_SLOT_BITS: Final = SLOTS.bit_length() - 1


class Operations:
    """What a caller who may do it can ask of the node's jobs."""

    def __init__(
        self,
        clients: Sequence[PartitionClient],
        *,
        lease_duration_ms: int,
        clock: Clock | None = None,
    ) -> None:
        self._clients = tuple(clients)
        count = len(self._clients)
        self._slots = [
            (first_slot(i, count), first_slot(i + 1, count) - first_slot(i, count))
            for i in range(count)
        ]
        """``[(first slot, how many)]`` of each partition."""
        self._leasing = Leasing(self._clients)
        self._lease_duration_ms = lease_duration_ms
        self._clock = clock or SystemClock()
        self._random = random.Random(random.SystemRandom().getrandbits(256))  # noqa: S311 - ids need to be unique, not secret

    def partition_states(self) -> dict[int, str]:
        """``{partition: "serving", "down" or "recovering (n%)"}``, all of them."""
        return {client.partition: client.state for client in self._clients}

    async def submit(self, caller: Caller, job: schemas.Submit) -> JobCreated | Problem:
        """Store a job; when this returns ``JobCreated``, it is on disk."""
        client = self._client_for_new_job()
        if client is None:
            return problems.PARTITION_DOWN
        job_id = self._mint(client.partition)
        command = Enqueue(job_id, job.payload, job.max_retries, caller.owner_id)
        reply: Reply | Problem
        try:
            reply = await client.ask(command, len(job.payload))
        except OverloadedError:
            return problems.OVERLOADED
        except PartitionUnavailableError as error:
            if not error.sent:
                return problems.PARTITION_DOWN
            if error.hangs:
                return problems.OUTCOME_UNKNOWN
            reply = await self._again(client, command, len(job.payload))
            if isinstance(reply, AlreadyExists):
                # It was stored the first time; only the reply got lost.
                reply = Enqueued(job_id)
        match reply:
            case Enqueued():
                return schemas.created(job_id)
            case _:
                return _refused(reply)

    async def lease(self, caller: Caller, request: schemas.LeaseJob) -> LeasedJob | Problem:
        """Take the next ready job of any partition."""
        del caller, request
        try:
            reply = await self._leasing.lease(self._lease_duration_ms)
        except OverloadedError:
            return problems.OVERLOADED
        except PartitionUnavailableError:
            return problems.PARTITION_DOWN
        match reply:
            case Leased():
                return schemas.leased(reply)
            case NothingReady():
                return problems.NO_JOBS
            case _:
                return _refused(reply)

    async def ack(self, caller: Caller, job_id_text: str, ack: schemas.Ack) -> Problem | None:
        """End the attempt that holds the job, well or badly; None: it is on disk."""
        del caller
        job_id = parse_job_id(job_id_text)
        if job_id is None:
            return problems.ack_unknown(job_id_text)
        command: Command
        if ack.error:
            command = Fail(job_id, ack.lease_token, ack.error)
        else:
            command = Ack(job_id, ack.lease_token, ack.result)
        repeatable = ack.lease_token is not None
        reply = await self._call_owner(
            job_id, command, len(ack.error or ack.result or b""), repeatable
        )
        match reply:
            case Settled():
                return None
            case LeaseLost():
                return problems.LEASE_LOST
            case NotRunning():
                return problems.ack_not_running(job_id_text, reply.state)
            case JobNotFound():
                return problems.ack_unknown(job_id_text)
            case _:
                return _refused(reply)

    async def get(self, caller: Caller, job_id_text: str) -> JobStatus | Problem:
        """A job as it is on disk."""
        del caller
        job_id = parse_job_id(job_id_text)
        if job_id is None:
            return problems.job_not_found(job_id_text)
        reply = await self._call_owner(job_id, Get(job_id), 0, repeatable=True)
        match reply:
            case JobView():
                return schemas.status(reply)
            case JobNotFound():
                return problems.job_not_found(job_id_text)
            case _:
                return _refused(reply)

    async def _call_owner(
        self, job_id: bytes, command: Command, text_bytes: int, repeatable: bool
    ) -> Reply | Problem:
        client = self._clients[partition_of(slot_of(job_id), len(self._clients))]
        try:
            return await client.ask(command, text_bytes)
        except OverloadedError:
            return problems.OVERLOADED
        except PartitionUnavailableError as error:
            if not error.sent:
                return problems.PARTITION_DOWN
            if error.hangs or not repeatable:
                return problems.OUTCOME_UNKNOWN
            return await self._again(client, command, text_bytes)

    async def _again(
        self, client: PartitionClient, command: Command, text_bytes: int
    ) -> Reply | Problem:
        """Give a command whose outcome is open once more, when its partition is back."""
        await in_task()
        with trio.move_on_after(_AGAIN_WITHIN_S):
            await client.wait_serving()
            try:
                return await client.call(command, text_bytes)
            except (OverloadedError, PartitionUnavailableError):
                return problems.OUTCOME_UNKNOWN
        return problems.OUTCOME_UNKNOWN

    def _client_for_new_job(self) -> PartitionClient | None:
        clients = self._clients
        if len(clients) == 1:
            return clients[0] if clients[0].serving else None
        serving = [client for client in clients if client.serving]
        return self._random.choice(serving) if serving else None

    def _mint(self, partition: int) -> bytes:
        low, width = self._slots[partition]
        bits = self._random.getrandbits(_ID_RANDOM_BITS + _SLOT_BITS)
        slot = low + ((bits & (SLOTS - 1)) * width >> _SLOT_BITS)
        return make_job_id(self._clock.now_ms(), bits >> _SLOT_BITS, slot)


def _refused(reply: Reply | Problem) -> Problem:
    """The answer to a reply that has the same meaning for every operation."""
    match reply:
        case Problem():
            return reply
        case StorageFull():
            return problems.STORAGE_FULL
        case Unreadable():
            return problems.unreadable(format_job_id(reply.job_id))
        case _:
            # A reply that this operation cannot have: a bug, or a front and a partition of
            # different releases. Nothing may be claimed about the job.
            return problems.INTERNAL
