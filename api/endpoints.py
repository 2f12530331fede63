"""The job routes without their way in: authorise, decode, operate, answer.

One function per route of the contract. The lane calls them from the door's own request, the
Quart routes from Quart's; so the same request has the same answer on every way in.
"""

from typing import Protocol

from api import schemas
from api.answer import Answer
from api.caller import ACK, LEASE, READ, SUBMIT, Caller
from api.calls import in_task
from api.keyring import Keyring
from api.operations import Operations
from api.problems import Problem, missing_scope, to_answer
from api.settings import FrontSettings


class JobRequest(Protocol):
    """What a job route needs to know of a request."""

    @property
    def authorization(self) -> str | None:
        """The Authorization header's value."""

    @property
    def body(self) -> bytes:
        """The whole body."""


class JobEndpoints:
    """The job routes of the contract."""

    def __init__(self, keyring: Keyring, operations: Operations, settings: FrontSettings) -> None:
        self._keyring = keyring
        self._operations = operations
        self._text_bytes_max = settings.payload_bytes_max
        self._default_max_retries = settings.default_max_retries

    async def submit(self, request: JobRequest) -> Answer:
        """``POST /jobs``."""
        caller = await self._authorize(request, SUBMIT)
        if isinstance(caller, Problem):
            return to_answer(caller)
        job = schemas.decode_submit(
            request.body,
            payload_bytes_max=self._text_bytes_max,
            default_max_retries=self._default_max_retries,
        )
        if isinstance(job, Problem):
            return to_answer(job)
        done = await self._operations.submit(caller, job)
        if isinstance(done, Problem):
            return to_answer(done)
        return Answer(201, schemas.encode(done))

    async def lease(self, request: JobRequest) -> Answer:
        """``POST /jobs/lease``."""
        caller = await self._authorize(request, LEASE)
        if isinstance(caller, Problem):
            return to_answer(caller)
        wanted = schemas.decode_lease(request.body)
        if isinstance(wanted, Problem):
            return to_answer(wanted)
        done = await self._operations.lease(caller, wanted)
        if isinstance(done, Problem):
            return to_answer(done)
        return Answer(200, schemas.encode(done))

    async def ack(self, job_id: str, request: JobRequest) -> Answer:
        """``POST /jobs/{id}/ack``."""
        caller = await self._authorize(request, ACK)
        if isinstance(caller, Problem):
            return to_answer(caller)
        ack = schemas.decode_ack(request.body, text_bytes_max=self._text_bytes_max)
        if isinstance(ack, Problem):
            return to_answer(ack)
        problem = await self._operations.ack(caller, job_id, ack)
        return Answer(200) if problem is None else to_answer(problem)

    async def get(self, job_id: str, request: JobRequest) -> Answer:
        """``GET /jobs/{id}``."""
        caller = await self._authorize(request, READ)
        if isinstance(caller, Problem):
            return to_answer(caller)
        done = await self._operations.get(caller, job_id)
        if isinstance(done, Problem):
            return to_answer(done)
        return Answer(200, schemas.encode(done))

    async def _authorize(self, request: JobRequest, scope: str) -> Caller | Problem:
        caller: Caller | Problem | None = self._keyring.recall(request.authorization)
        if caller is None:
            await in_task()
            caller = await self._keyring.identify(request.authorization)
        if isinstance(caller, Caller) and scope not in caller.scopes:
            return missing_scope(scope)
        return caller
