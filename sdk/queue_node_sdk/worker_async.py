"""Handlers that are ``async def``: tasks of the user's own event loop, trio or asyncio."""

import threading
from collections import deque
from collections.abc import Awaitable, Callable

import anyio
import anyio.abc
import anyio.lowlevel

from queue_node_sdk.doorbell import Doorbell
from queue_node_sdk.worker_context import JobContext
from queue_node_sdk.worker_core import Ending, GivenBack
from queue_node_sdk.worker_endings import attempting, ending_from, ending_of


class AsyncRunner:
    """A ``Runner`` whose ``run`` is awaited in the loop of the handlers.

    A job that is lost has its handler's scope cancelled.
    """

    def __init__(
        self,
        handler: Callable[[JobContext], Awaitable[object]],
        concurrency: int,
        ended: Callable[[JobContext, Ending], None],
    ) -> None:
        self._handler = handler
        self._concurrency = concurrency
        self._ended = ended
        self._bell = Doorbell()
        # What other threads tell; everything else belongs to the loop. The lock makes sure
        # that a job is either begun or withdrawn.
        self._lock = threading.Lock()
        self._waiting: deque[JobContext] = deque()
        self._lost: deque[JobContext] = deque()
        self._finished = False
        self._scopes: dict[int, anyio.CancelScope] = {}

    # From the worker's thread

    def start(self, job: JobContext) -> None:
        """Put it in the line."""
        with self._lock:
            self._waiting.append(job)
        self._bell.ring()

    def withdraw(self) -> list[JobContext]:
        """Empty the line."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        return waiting

    def lose(self, job: JobContext) -> None:
        """Have its scope cancelled."""
        self._lost.append(job)
        self._bell.ring()

    def finish(self) -> None:
        """Let ``run`` return."""
        self._finished = True
        self._bell.ring()

    # In the loop

    async def run(self) -> None:
        """Until ``finish``, and until every handler has ended."""
        self._bell.open()
        async with anyio.create_task_group() as tasks:
            while not self._finished:
                self._cancel_lost()
                self._begin(tasks)
                await self._bell.wait()
            self._cancel_lost()

    def close(self) -> None:
        """After ``run``."""
        self._bell.close()

    def _cancel_lost(self) -> None:
        while self._lost:
            scope = self._scopes.get(id(self._lost.popleft()))
            if scope is not None:
                scope.cancel()

    def _begin(self, tasks: anyio.abc.TaskGroup) -> None:
        while len(self._scopes) < self._concurrency:
            with self._lock:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            self._scopes[id(job)] = scope = anyio.CancelScope()
            tasks.start_soon(self._serve, job, scope)

    async def _serve(self, job: JobContext, scope: anyio.CancelScope) -> None:
        # What was called off is given back, unless it is lost, when this interests nobody.
        ending: Ending = GivenBack()
        try:
            with scope:
                if not job.lost:
                    ending = await self._attempt(job)
        finally:
            del self._scopes[id(job)]
            self._ended(job, ending)
            # There may be one that waited for the room.
            self._bell.ring()

    async def _attempt(self, job: JobContext) -> Ending:
        try:
            with attempting(job):
                return ending_of(await self._handler(job))
        except anyio.get_cancelled_exc_class() as error:
            # Ours goes on. One that the handler caught from somewhere else, a task of its
            # own that was cancelled, say, is the failure of this attempt.
            await anyio.lowlevel.checkpoint_if_cancelled()
            return ending_from(error, job)
        except BaseException as error:
            return ending_from(error, job)
