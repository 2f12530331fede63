"""One function per operation of the contract: typed request in, typed answer or ``Problem`` out.

The lane and the Quart routes both end here, whatever the way in. Everything that a
partition may reply, and every way in which it may fail to, becomes an answer in this file and in
those that it is made of: ``submitting``, ``leasing``, ``watching``, ``listing``, ``asking``.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Literal

import trio

from api import lease_schemas, problems, views
from api.asking import ask_each, ask_one, refused
from api.caller import Caller
from api.calls import in_task
from api.errors import OverloadedError, PartitionUnavailableError
from api.leasing import Leasing, UnexpectedReplyError
from api.listing import Listing
from api.parking import Deadlines
from api.partition_client import PartitionClient
from api.placement import Placement
from api.problems import Problem
from api.query_schemas import ListRequest
from api.submit_schemas import Submit
from api.submitting import Accepted, Submitting
from api.watching import Watching
from partitions.clock import Clock, SystemClock
from partitions.messages import (
    Ack,
    Cancel,
    Command,
    Extend,
    Extended,
    Fail,
    Forget,
    JobNotFound,
    JobView,
    Leased,
    LeasedMany,
    LeaseLost,
    Many,
    NothingReady,
    NotRunning,
    QueueView,
    Release,
    Replies,
    Reply,
    Retry,
    Settled,
    Sweep,
    WrongState,
)
from partitions.slots import parse_job_id

_MANY_COMMANDS: Final = 1_000
_MANY_BYTES: Final = 4 << 20
_QUEUES_IN_A_ROW: Final = 100
"""About 2 ms; all that a node may have would keep the other requests waiting for 0.2 s."""

Held = Ack | Fail | Extend | Release


class Operations:
    """What a caller who may do it can ask of the node's jobs."""

    def __init__(self, clients: Sequence[PartitionClient], *, clock: Clock | None = None) -> None:
        self._clients = tuple(clients)
        self._clock = clock or SystemClock()
        self._deadlines = Deadlines()
        self._placement = Placement(self._clients, self._clock)
        self._submitting = Submitting(self._clients, self._placement)
        self._leasing = Leasing(self._clients, self._deadlines)
        self._watching = Watching(self._clients, self._deadlines)
        self._listing = Listing(self._clients)

    async def run(self) -> None:
        """End waits that are over, until cancelled."""
        await self._deadlines.run()

    async def sweep_claims(self) -> None:
        """Let go of idempotency keys whose jobs are gone, until cancelled; for one front."""
        await self._submitting.sweep_claims()

    def drain(self) -> None:
        """Let nobody wait any longer: the front is to stop."""
        self._deadlines.close()

    def partition_states(self) -> dict[int, str]:
        """``{partition: "serving", "down" or "recovering (n%)"}``, all of them."""
        return {client.partition: client.state for client in self._clients}

    def now_ms(self) -> int:
        """The time that leases go by."""
        return self._clock.now_ms()

    # Submitting.

    def submit(self, caller: Caller, job: Submit) -> Coroutine[Any, Any, Accepted | Problem]:
        """Store a job; when this returns ``Accepted``, it is on disk."""
        # Awaited as it is: each coroutine more is a thirtieth of what a submit costs a front.
        return self._submitting.submit(caller.owner_id, job)

    async def submit_many(
        self, caller: Caller, jobs: Sequence[Submit]
    ) -> views.JobsCreated | views.PartlyStored | Problem:
        """Store all of them, or say which could not be."""
        outcomes = await self._submitting.submit_many(caller.owner_id, jobs)
        if isinstance(outcomes, Problem):
            return outcomes
        job_ids = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
        if len(job_ids) == len(outcomes):
            return views.created_many(job_ids)
        return views.partly_stored(outcomes)

    # Leasing, and what the holder of a lease may do.

    async def lease(
        self, caller: Caller, request: lease_schemas.LeaseRequest, gone: Callable[[], bool]
    ) -> views.LeasedJob | views.LeasedJobs | Problem:
        """Take the next ready jobs of any partition."""
        del caller
        try:
            reply = await self._leasing.lease(request, gone)
        except OverloadedError:
            return problems.OVERLOADED
        except PartitionUnavailableError:
            return problems.PARTITION_DOWN
        except UnexpectedReplyError as error:
            return refused(error.reply)
        match reply:
            case Leased():
                return views.leased(reply)
            case LeasedMany():
                return views.leased_many(reply.jobs)
            case NothingReady():
                return problems.NO_JOBS
            case _:
                return refused(reply)

    async def ack(self, caller: Caller, job_id_text: str, ack: lease_schemas.Ack) -> Problem | None:
        """End the attempt that holds the job, well or badly; None: it is on disk."""
        del caller
        job_id = parse_job_id(job_id_text)
        if job_id is None:
            return problems.ack_unknown(job_id_text)
        command = _report(job_id, ack)
        reply = await ask_one(
            self._placement.owner_of(job_id),
            command,
            len(ack.error or ack.result or b""),
            repeatable=ack.lease_token is not None,
        )
        match reply:
            case Settled():
                return None
            case JobNotFound():
                return problems.ack_unknown(job_id_text)
            case _:
                return _not_held(job_id_text, reply)

    async def ack_many(
        self, caller: Caller, acks: Sequence[tuple[str, lease_schemas.Ack]]
    ) -> list[Problem | None]:
        """The same for many; what came of each, in order."""
        del caller
        replies = await self._many([(text, _Reporting(ack)) for text, ack in acks])
        return [
            None if isinstance(reply, Settled) else _not_held(text, reply)
            for (text, _), reply in zip(acks, replies, strict=True)
        ]

    async def extend(
        self, caller: Caller, job_id_text: str, extend: lease_schemas.Extend
    ) -> int | Problem:
        """Let a lease go on; until when, ms since 1970."""
        del caller
        reply = await self._of_job(job_id_text, _Extending(extend))
        return (
            reply.lease_until_ms if isinstance(reply, Extended) else _not_held(job_id_text, reply)
        )

    async def extend_many(
        self, caller: Caller, extends: Sequence[tuple[str, lease_schemas.Extend]]
    ) -> list[int | Problem]:
        """The same for many; what came of each, in order."""
        del caller
        replies = await self._many([(text, _Extending(extend)) for text, extend in extends])
        return [
            reply.lease_until_ms if isinstance(reply, Extended) else _not_held(text, reply)
            for (text, _), reply in zip(extends, replies, strict=True)
        ]

    async def release(
        self, caller: Caller, job_id_text: str, release: lease_schemas.Release
    ) -> Problem | None:
        """Give the job back, without the attempt used up."""
        del caller

        def command(job_id: bytes) -> Release:
            return Release(job_id, release.lease_token, release.delay_ms)

        reply = await self._of_job(job_id_text, command, repeatable=False)
        return None if isinstance(reply, Settled) else _not_held(job_id_text, reply)

    # One job.

    async def get(
        self, caller: Caller, job_id_text: str, wait_ms: int = 0
    ) -> views.JobStatus | Problem:
        """A job as it is on disk; with a wait, once it is finished or the wait is over."""
        del caller
        job_id = parse_job_id(job_id_text)
        if job_id is None:
            return problems.job_not_found(job_id_text)
        client = self._placement.owner_of(job_id)
        return _status(job_id_text, await self._watching.get(client, job_id, wait_ms))

    async def change(
        self, caller: Caller, job_id_text: str, how: Literal["cancel", "retry"]
    ) -> views.JobStatus | Problem:
        """Call a job off, or let it begin anew; what it is then."""
        # A second retry would be refused because of the first, or come after another end.
        reply = await self._of_job(
            job_id_text, Cancel if how == "cancel" else Retry, repeatable=how == "cancel"
        )
        match reply:
            case Settled():
                job = await self.get(caller, job_id_text)
                return problems.DONE_BUT_UNREAD if isinstance(job, Problem) else job
            case WrongState():
                return problems.wrong_state(job_id_text, reply.state)
            case _:
                return _missing_or_refused(job_id_text, reply)

    async def forget(self, caller: Caller, job_id_text: str) -> Problem | None:
        """Delete a finished job."""
        del caller
        reply = await self._of_job(job_id_text, Forget, repeatable=False)
        match reply:
            case Settled():
                return None
            case WrongState():
                return problems.not_finished(job_id_text, reply.state)
            case _:
                return _missing_or_refused(job_id_text, reply)

    # Many jobs, and queues.

    async def page(self, caller: Caller, request: ListRequest) -> views.JobPage | Problem:
        """Jobs in order of submission."""
        del caller
        listed = await self._listing.page(request)
        return listed if isinstance(listed, Problem) else views.page(listed.jobs, listed.cursor)

    async def queues(self, caller: Caller) -> views.QueuesBody | Problem:
        """All queues that have jobs or are paused."""
        del caller
        found, silent = await self._listing.queues(None)
        if len(silent) == len(self._clients):
            return problems.PARTITION_DOWN
        parts: dict[str, list[tuple[int, QueueView]]] = {}
        for partition, view in found:
            parts.setdefault(view.queue, []).append((partition, view))
        now_ms = self.now_ms()
        bodies: list[views.QueueBody] = []
        await in_task()
        for name, own in parts.items():
            bodies.append(views.queue_view(name, own, now_ms, []))
            if len(bodies) % _QUEUES_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
        return views.queues(bodies, silent)

    async def queue(self, caller: Caller, name: str) -> views.QueueBody | Problem:
        """One queue; one that nobody has used is empty."""
        del caller
        found, silent = await self._listing.queues(name)
        if len(silent) == len(self._clients):
            return problems.PARTITION_DOWN
        return views.queue_view(name, found, self.now_ms(), silent)

    async def pause(self, caller: Caller, name: str, *, paused: bool) -> views.QueueBody | Problem:
        """Stop leasing from a queue, or go on."""
        problem = await self._listing.pause(name, paused=paused)
        if problem is not None:
            return problem
        queue = await self.queue(caller, name)
        return problems.DONE_BUT_UNREAD if isinstance(queue, Problem) else queue

    async def sweep(
        self, caller: Caller, name: str, state: str, action: Literal["retry", "forget"]
    ) -> views.Count | Problem:
        """Retry, or delete, all jobs of a queue and state."""
        del caller
        count = await self._listing.sweep(Sweep(name, state, action))
        return count if isinstance(count, Problem) else views.count(count)

    # Asking -------------------------------------------------------------------------------

    async def _of_job(
        self, job_id_text: str, command_for: Callable[[bytes], Command], *, repeatable: bool = True
    ) -> Reply | Problem:
        """What the partition of the job replies."""
        job_id = parse_job_id(job_id_text)
        if job_id is None:
            return problems.job_not_found(job_id_text)
        client = self._placement.owner_of(job_id)
        return await ask_one(client, command_for(job_id), repeatable=repeatable)

    async def _many(
        self, items: Sequence[tuple[str, Callable[[bytes], Held]]]
    ) -> list[Reply | Problem]:
        """One message to each partition; replies in the order of ``[(job id, its command)]``."""
        replies: list[Reply | Problem] = [problems.INTERNAL] * len(items)
        pieces: dict[PartitionClient, list[_Piece]] = {}
        for index, (text, command_for) in enumerate(items):
            job_id = parse_job_id(text)
            if job_id is None:
                replies[index] = problems.job_not_found(text)
                continue
            own = pieces.setdefault(self._placement.owner_of(job_id), [])
            if not own or own[-1].full:
                own.append(_Piece())
            own[-1].add(index, command_for(job_id))
        asked = [(client, piece) for client, own in pieces.items() for piece in own]
        answers = await ask_each(
            [(client, Many(piece.commands), piece.size) for client, piece in asked],
            repeatable=all(piece.repeatable for _, piece in asked),
        )
        for (_, piece), answer in zip(asked, answers, strict=True):
            each = (
                answer.replies
                if isinstance(answer, Replies)
                else [refused(answer)] * len(piece.indexes)
            )
            for index, reply in zip(piece.indexes, each, strict=True):
                replies[index] = reply
        return replies


class _Piece:
    """Commands that go to one partition in one message."""

    def __init__(self) -> None:
        self.indexes: list[int] = []
        self.commands: list[Held] = []
        self.size = 0
        self.repeatable = True

    def add(self, index: int, command: Held) -> None:
        self.indexes.append(index)
        self.commands.append(command)
        if type(command) is Ack:
            self.size += len(command.result or b"")
        elif type(command) is Fail:
            self.size += len(command.error)
        self.repeatable = self.repeatable and command.lease_token is not None

    @property
    def full(self) -> bool:
        return len(self.commands) >= _MANY_COMMANDS or self.size >= _MANY_BYTES


class _Reporting:
    """The command of an ack, for its job."""

    __slots__ = ("_ack",)

    def __init__(self, ack: lease_schemas.Ack) -> None:
        self._ack = ack

    def __call__(self, job_id: bytes) -> Ack | Fail:
        return _report(job_id, self._ack)


class _Extending:
    """The command of a heartbeat, for its job."""

    __slots__ = ("_extend",)

    def __init__(self, extend: lease_schemas.Extend) -> None:
        self._extend = extend

    def __call__(self, job_id: bytes) -> Extend:
        extend = self._extend
        return Extend(job_id, extend.lease_token, extend.duration_ms, extend.progress)


def _report(job_id: bytes, ack: lease_schemas.Ack) -> Ack | Fail:
    if ack.error:
        return Fail(job_id, ack.lease_token, ack.error, ack.retry, ack.retry_in_ms)
    return Ack(job_id, ack.lease_token, ack.result)


def _not_held(job_id_text: str, reply: Reply | Problem) -> Problem:
    """Why the holder of a lease could not do what it wanted."""
    match reply:
        case LeaseLost():
            return problems.LEASE_LOST
        case WrongState(state="CANCELLED"):
            return problems.CANCELLED
        case NotRunning():
            return problems.ack_not_running(job_id_text, reply.state)
        case _:
            return _missing_or_refused(job_id_text, reply)


def _missing_or_refused(job_id_text: str, reply: Reply | Problem) -> Problem:
    return problems.job_not_found(job_id_text) if isinstance(reply, JobNotFound) else refused(reply)


def _status(job_id_text: str, reply: Reply | Problem) -> views.JobStatus | Problem:
    if isinstance(reply, JobView):
        return views.status(reply)
    return _missing_or_refused(job_id_text, reply)
