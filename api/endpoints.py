"""The job and queue routes without their way in: authorise, decode, operate, answer.

One function per route of the contract. The lane calls them from the door's own request, the
Quart routes from Quart's; so the same request has the same answer on every way in.
"""

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

from api import views
from api.answer import Answer
from api.caller import ACK, LEASE, READ, SUBMIT, Caller
from api.calls import in_task
from api.keyring import Keyring
from api.lease_schemas import (
    decode_ack,
    decode_acks,
    decode_extend,
    decode_extends,
    decode_lease,
    decode_release,
)
from api.operations import Operations
from api.problems import ADMIN_REQUIRED, KEY_FOR_A_BATCH, Problem, missing_scope, to_answer
from api.query_schemas import (
    check_queue,
    decode_bulk_state,
    decode_list,
    decode_wait,
    query_pairs,
    refuse_body,
)
from api.settings import FrontSettings
from api.submit_schemas import SubmitLimits, decode_batch, decode_submit

_REPLAYED: Final = (("Idempotent-Replay", "true"),)


class JobRequest(Protocol):
    """What a route needs to know of a request."""

    @property
    def authorization(self) -> str | None:
        """The Authorization header's value."""

    @property
    def body(self) -> bytes:
        """The whole body."""

    @property
    def idempotency_key(self) -> str | None:
        """The Idempotency-Key header's value."""

    def gone(self) -> bool:
        """Whether the client is known to have hung up."""


class JobEndpoints:
    """The job and queue routes of the contract."""

    def __init__(self, keyring: Keyring, operations: Operations, settings: FrontSettings) -> None:
        self._keyring = keyring
        self._operations = operations
        self._text_bytes_max = settings.payload_bytes_max
        self._limits = SubmitLimits(
            payload_bytes_max=settings.payload_bytes_max,
            default_max_retries=settings.default_max_retries,
            backoff_initial_ms=settings.retry_backoff_ms,
            backoff_max_ms=settings.retry_backoff_max_ms,
        )

    # Submitting.

    async def submit(self, request: JobRequest) -> Answer:
        """``POST /jobs``."""
        caller = self._recalled(request, SUBMIT) or await self._authorize(request, SUBMIT)
        if type(caller) is Problem:
            return to_answer(caller)
        job = decode_submit(
            request.body, self._limits, self._operations.now_ms, request.idempotency_key
        )
        if type(job) is Problem:
            return to_answer(job)
        done = await self._operations.submit(caller, job)
        if type(done) is Problem:
            return to_answer(done)
        body = views.created(done.job_id)
        return Answer(200, body, headers=_REPLAYED) if done.replayed else Answer(201, body)

    async def submit_many(self, request: JobRequest) -> Answer:
        """``POST /jobs/batch``."""
        caller = await self._authorize(request, SUBMIT)
        if type(caller) is Problem:
            return to_answer(caller)
        # Overlooked, it would let a client believe that it may send the batch again.
        if request.idempotency_key is not None:
            return to_answer(KEY_FOR_A_BATCH)
        jobs = decode_batch(request.body, self._limits, self._operations.now_ms)
        if isinstance(jobs, Problem):
            return to_answer(jobs)
        done = await self._operations.submit_many(caller, jobs)
        if isinstance(done, views.PartlyStored):
            # Without Retry-After: the whole batch, sent again, would store some jobs twice.
            return Answer(503, views.encode(done))
        return _answer(done, 201)

    # Leasing, and what the holder of a lease may do.

    async def lease(self, request: JobRequest) -> Answer:
        """``POST /jobs/lease``."""
        caller = self._recalled(request, LEASE) or await self._authorize(request, LEASE)
        if type(caller) is Problem:
            return to_answer(caller)
        wanted = decode_lease(request.body)
        if type(wanted) is Problem:
            return to_answer(wanted)
        return _answer(await self._operations.lease(caller, wanted, request.gone))

    async def ack(self, job_id: str, request: JobRequest) -> Answer:
        """``POST /jobs/{id}/ack``."""
        caller = self._recalled(request, ACK) or await self._authorize(request, ACK)
        if type(caller) is Problem:
            return to_answer(caller)
        ack = decode_ack(request.body, text_bytes_max=self._text_bytes_max)
        if type(ack) is Problem:
            return to_answer(ack)
        return _done(await self._operations.ack(caller, job_id, ack))

    async def ack_many(self, request: JobRequest) -> Answer:
        """``POST /jobs/ack``."""
        caller = await self._authorize(request, ACK)
        if type(caller) is Problem:
            return to_answer(caller)
        acks = decode_acks(request.body, text_bytes_max=self._text_bytes_max)
        if isinstance(acks, Problem):
            return to_answer(acks)
        return _answer(views.results(await self._operations.ack_many(caller, acks)))

    async def extend(self, job_id: str, request: JobRequest) -> Answer:
        """``POST /jobs/{id}/extend``."""
        caller = await self._authorize(request, ACK)
        if type(caller) is Problem:
            return to_answer(caller)
        extend = decode_extend(request.body)
        if isinstance(extend, Problem):
            return to_answer(extend)
        until_ms = await self._operations.extend(caller, job_id, extend)
        return _answer(until_ms if isinstance(until_ms, Problem) else views.extended(until_ms))

    async def extend_many(self, request: JobRequest) -> Answer:
        """``POST /jobs/extend``."""
        caller = await self._authorize(request, ACK)
        if type(caller) is Problem:
            return to_answer(caller)
        extends = decode_extends(request.body)
        if isinstance(extends, Problem):
            return to_answer(extends)
        return _answer(views.extend_results(await self._operations.extend_many(caller, extends)))

    async def release(self, job_id: str, request: JobRequest) -> Answer:
        """``POST /jobs/{id}/release``."""
        caller = await self._authorize(request, ACK)
        if type(caller) is Problem:
            return to_answer(caller)
        release = decode_release(request.body)
        if isinstance(release, Problem):
            return to_answer(release)
        return _done(await self._operations.release(caller, job_id, release))

    # One job.

    async def get(self, job_id: str, query: str, request: JobRequest) -> Answer:
        """``GET /jobs/{id}``, with or without a wait."""
        caller = self._recalled(request, READ) or await self._authorize(request, READ)
        if type(caller) is Problem:
            return to_answer(caller)
        wait_ms = decode_wait(query_pairs(query)) if query else 0
        if isinstance(wait_ms, Problem):
            return to_answer(wait_ms)
        return _answer(await self._operations.get(caller, job_id, wait_ms))

    async def change(
        self, job_id: str, how: Literal["cancel", "retry"], request: JobRequest
    ) -> Answer:
        """``POST /jobs/{id}/cancel``, ``POST /jobs/{id}/retry``."""
        caller = await self._authorize(request, SUBMIT)
        if type(caller) is Problem:
            return to_answer(caller)
        if (problem := refuse_body(request.body)) is not None:
            return to_answer(problem)
        return _answer(await self._operations.change(caller, job_id, how))

    async def forget(self, job_id: str, request: JobRequest) -> Answer:
        """``DELETE /jobs/{id}``."""
        caller = await self._admin(request)
        if type(caller) is Problem:
            return to_answer(caller)
        return _done(await self._operations.forget(caller, job_id))

    # Many jobs, and queues.

    async def page(self, query: Sequence[tuple[str, str]], request: JobRequest) -> Answer:
        """``GET /jobs``."""
        caller = await self._authorize(request, READ)
        if type(caller) is Problem:
            return to_answer(caller)
        wanted = decode_list(query)
        if type(wanted) is Problem:
            return to_answer(wanted)
        return _answer(await self._operations.page(caller, wanted))

    async def queues(self, request: JobRequest) -> Answer:
        """``GET /queues``."""
        caller = await self._authorize(request, READ)
        if type(caller) is Problem:
            return to_answer(caller)
        return _answer(await self._operations.queues(caller))

    async def queue(self, name: str, request: JobRequest) -> Answer:
        """``GET /queues/{q}``."""
        caller = await self._authorize(request, READ)
        if type(caller) is Problem:
            return to_answer(caller)
        if (problem := check_queue(name)) is not None:
            return to_answer(problem)
        return _answer(await self._operations.queue(caller, name))

    async def pause(self, name: str, paused: bool, request: JobRequest) -> Answer:
        """``POST /queues/{q}/pause``, ``POST /queues/{q}/resume``."""
        caller = await self._admin_of(name, request)
        if type(caller) is Problem:
            return to_answer(caller)
        return _answer(await self._operations.pause(caller, name, paused=paused))

    async def retry_dead(self, name: str, request: JobRequest) -> Answer:
        """``POST /queues/{q}/retry-dead``."""
        caller = await self._admin_of(name, request)
        if type(caller) is Problem:
            return to_answer(caller)
        return _answer(await self._operations.sweep(caller, name, "DEAD", "retry"))

    async def purge(
        self, name: str, query: Sequence[tuple[str, str]], request: JobRequest
    ) -> Answer:
        """``DELETE /queues/{q}/jobs?state=``."""
        caller = await self._admin_of(name, request)
        if type(caller) is Problem:
            return to_answer(caller)
        state = decode_bulk_state(query)
        if isinstance(state, Problem):
            return to_answer(state)
        return _answer(await self._operations.sweep(caller, name, state, "forget"))

    # Who asks -----------------------------------------------------------------------------

    def _recalled(self, request: JobRequest, scope: str) -> Caller | None:
        """Who asks, if that is known and they may; None says nothing. Spares a coroutine."""
        caller = self._keyring.recall(request.authorization)
        return caller if caller is not None and scope in caller.scopes else None

    async def _authorize(self, request: JobRequest, scope: str) -> Caller | Problem:
        caller: Caller | Problem | None = self._keyring.recall(request.authorization)
        if caller is None:
            await in_task()
            caller = await self._keyring.identify(request.authorization)
        if isinstance(caller, Caller) and scope not in caller.scopes:
            return missing_scope(scope)
        return caller

    async def _admin(self, request: JobRequest) -> Caller | Problem:
        """Of a request without a body."""
        caller = await self._authorize(request, READ)
        if isinstance(caller, Caller) and caller.type != "admin":
            return ADMIN_REQUIRED
        problem = refuse_body(request.body)
        return caller if type(caller) is Problem or problem is None else problem

    async def _admin_of(self, queue: str, request: JobRequest) -> Caller | Problem:
        caller = await self._admin(request)
        problem = check_queue(queue)
        return caller if type(caller) is Problem or problem is None else problem


def _answer(done: msgspec.Struct | Problem, status: int = 200) -> Answer:
    return to_answer(done) if type(done) is Problem else Answer(status, views.encode(done))


def _done(problem: Problem | None) -> Answer:
    return Answer(200) if problem is None else to_answer(problem)
