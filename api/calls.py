"""How an operation waits for a partition, and who drives it meanwhile.

An operation is a coroutine. It may await a *call* (``PartitionClient.ask``), which hands a
``Call`` to whoever drives the coroutine, and says no more; whoever drives it decides how the
reply brings it on:

- **In place** (``api.connection``): the reply itself resumes the coroutine, there and then, in
  the task that reads the partition's pipe. No task of trio's is woken for it.
- **In a task** (``driven``): any task of trio's awaits it like every other coroutine.

So an operation may use nothing of trio's, for it would be used in the wrong task, unless ``await
in_task()`` comes before it. After that, to its end or to its next call, it is driven in a task.
"""

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, TypeVar, cast

import trio

from partitions.messages import Reply

_T = TypeVar("_T")


class Call:
    """One request to a partition whose reply is awaited."""

    __slots__ = ("_error", "_reply", "request_id", "text_bytes", "then")

    def __init__(self, request_id: int, text_bytes: int) -> None:
        self.request_id = request_id
        self.text_bytes = text_bytes
        self.then: Callable[[], None] = _nobody
        """What the outcome brings about; set by whoever drives the operation."""
        self._reply: Reply | None = None
        self._error: Exception | None = None

    def answer(self, reply: Reply) -> None:
        """The partition's reply is here."""
        self._reply = reply
        self.then()

    def fail(self, error: Exception) -> None:
        """There will be no reply."""
        self._error = error
        self.then()

    @property
    def done(self) -> bool:
        """Whether the outcome is here."""
        return self._reply is not None or self._error is not None

    @property
    def failed(self) -> bool:
        """Whether there is an outcome, and it is no reply."""
        return self._error is not None

    def result(self) -> Reply:
        """The reply; raises what it failed with."""
        if self._reply is None:
            assert self._error is not None, "resumed without an outcome"
            raise self._error
        return self._reply

    async def arrived(self) -> None:
        """Wait for the outcome in a task of trio's."""
        if self.done:  # meanwhile
            await trio.lowlevel.checkpoint()
            return
        task = trio.lowlevel.current_task()
        self.then = lambda: trio.lowlevel.reschedule(task)
        await trio.lowlevel.wait_task_rescheduled(self._let_go)

    def _let_go(self, _: object) -> trio.lowlevel.Abort:
        # Here and not when the task runs: the outcome may come before that, and a task that is
        # woken already must not be woken again. The cancellation goes through the operation,
        # where ``ask`` gives the call up.
        self.then = _nobody
        return trio.lowlevel.Abort.SUCCEEDED


@types.coroutine
def outcome_of(call: Call) -> Generator[Call, None, Reply]:
    """Wait for what comes of a call; raises what it failed with."""
    if not call.done:
        yield call
    return call.result()


class NeedsTask:
    """Handed to whoever drives the operation: go on in a task of trio's."""


_NEEDS_TASK: Final = NeedsTask()


@types.coroutine
def in_task() -> Generator[NeedsTask, None, None]:
    """From here on the operation is driven in a task, and may use trio."""
    yield _NEEDS_TASK


async def driven(operation: Awaitable[_T]) -> _T:
    """Await an operation in this task; a coroutine, or what ``PartitionClient.ask`` returns."""
    return await Drive(cast("Coroutine[Any, Any, _T]", operation))


class Drive(Awaitable[_T]):
    """Awaits an operation, or what is left of it, in a task of trio's.

    Its calls are waited for, and trio's own traps pass through. ``on_wait`` is called once, when
    it has to wait.
    """

    def __init__(
        self,
        steps: Coroutine[Any, Any, _T],
        trap: object = _NEEDS_TASK,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        """``trap`` is what the operation waits for, if it was begun."""
        self._steps = steps
        self._trap = trap
        self._on_wait = on_wait

    def __await__(self) -> Generator[Any, Any, _T]:
        steps, trap = self._steps, self._trap
        while True:
            step: Callable[[Any], object] = steps.send
            argument: object = None
            if trap is not _NEEDS_TASK and self._on_wait is not None:
                self._on_wait()
                self._on_wait = None
            try:
                if type(trap) is Call:
                    yield from trap.arrived().__await__()
                elif trap is not _NEEDS_TASK:
                    argument = yield trap
            except BaseException as error:
                # Whatever ends the wait, a cancellation above all, is the operation's to handle.
                step, argument = steps.throw, error
            try:
                trap = step(argument)
            except StopIteration as done:
                result: _T = done.value
                return result


def _nobody() -> None:
    """The outcome comes too late: whoever wanted it is gone."""
