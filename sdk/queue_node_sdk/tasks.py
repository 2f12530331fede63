"""Functions as jobs: ``@task`` on a typed function, ``send`` where it is wanted, workers elsewhere.

    @task(queue="images", max_retries=5)
    def shrink(path: str, width: int = 640) -> Size: ...

    handle = shrink.send("a.png")
    size = handle.result(timeout=60)        # a Size

A decorated function is still that function: called, it runs here and now. ``send`` stores a job
with its arguments as JSON (``task_codec``), checked against the annotations before anything is
sent. ``queue-node worker MODULE`` runs the jobs of the tasks that the module defines; so does a
``Worker`` whose handler is ``Tasks.handler``.

Inside a task ``current_job()`` is the job (progress, attempt, lease token, ...); ``Retry``,
``Reject`` and ``Release`` may be raised as in every handler. Arguments that do not fit the function
make a job DEAD at once, for no attempt could do better; a task that the worker does not know is
a failed attempt, for a worker with newer code may know it.
"""

import importlib
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, update_wrapper
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

import anyio.to_thread

from queue_node_sdk.client import Client
from queue_node_sdk.errors import ConfigurationError, QueueNodeError
from queue_node_sdk.models import Job, LeasedJob
from queue_node_sdk.options import OPTION_NAMES, JobOptions, Submit
from queue_node_sdk.task_codec import BadArguments, BadResult, CallCodec, Envelope, open_envelope
from queue_node_sdk.worker_context import Reject

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_QUEUE: Final = "default"


class TaskFailed(QueueNodeError):
    """The job of a task is DEAD or CANCELLED: there is no result. ``job`` says why."""

    def __init__(self, task: str, job: Job) -> None:
        why = job.result_error or "no reason given"
        super().__init__(f"{task}: job {job.job_id} is {job.state}: {why}")
        self.job = job


class UnknownTask(QueueNodeError):
    """A job names a task that this worker has not."""


class TaskClient(Protocol):
    """What sending needs; ``Client`` has it, and so has ``FakeClient``."""

    def submit(self, payload: str, **options: Unpack[JobOptions]) -> str:
        """Store a job; its id."""
        ...

    def submit_many(self, jobs: Iterable[str | Submit]) -> list[str]:
        """Store many; their ids."""
        ...

    def get(self, job_id: str) -> Job:
        """The job now."""
        ...

    def wait(self, job_id: str, timeout: float | None = 60.0) -> Job:
        """The finished job."""
        ...


class AsyncTaskClient(Protocol):
    """What sending from an event loop needs; ``AsyncClient`` has it."""

    async def submit(self, payload: str, **options: Unpack[JobOptions]) -> str:
        """Store a job; its id."""
        ...

    async def submit_many(self, jobs: Iterable[str | Submit]) -> list[str]:
        """Store many; their ids."""
        ...

    async def get(self, job_id: str) -> Job:
        """The job now."""
        ...

    async def wait(self, job_id: str, timeout: float | None = 60.0) -> Job:  # noqa: ASYNC109 - the node's wait
        """The finished job."""
        ...


class TaskHandle(Generic[R]):
    """A call that was sent."""

    def __init__(self, task: "Task[..., R]", job_id: str) -> None:
        self._task = task
        self.job_id: Final = job_id

    def job(self) -> Job:
        """The job as it stands now."""
        return self._task.tasks.client.get(self.job_id)

    def result(self, timeout: float | None = 60.0) -> R:
        """Wait for the job, and for what the function returned.

        Raises:
            TaskFailed: the job is DEAD or CANCELLED.
            Timeout: it was not finished in so many seconds.
            BadResult: what it returned is not what the function here says.
        """
        return self._task.result_of(self._task.tasks.client.wait(self.job_id, timeout))

    async def aresult(self, timeout: float | None = 60.0) -> R:  # noqa: ASYNC109 - the node's wait
        """``result`` in an event loop."""
        return self._task.result_of(await self._task.tasks.async_client.wait(self.job_id, timeout))

    def __repr__(self) -> str:
        return f"TaskHandle({self._task.name}, {self.job_id})"


class Task(Generic[P, R]):
    """A function whose calls can be sent. ``Tasks.task`` makes them."""

    def __init__(
        self,
        tasks: "Tasks",
        function: Callable[P, Any],
        name: str,
        options: JobOptions,
        process: bool = False,
    ) -> None:
        self.tasks: Final = tasks
        self.name: Final = name
        self.options: Final = options
        self.function: Final = function
        self.process: Final = process
        """Whether a worker runs it in a process of its own."""
        self._codec: CallCodec | None = None
        update_wrapper(self, function)

    @property
    def queue(self) -> str:
        """Where its jobs go."""
        return self.options.get("queue") or DEFAULT_QUEUE

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401 - see the subclasses
        """Run the function here."""
        return self.function(*args, **kwargs)

    # Sending

    def send(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """Store a call as a job; when this returns, it is on disk.

        Raises:
            BadArguments: the function cannot be called so; nothing was sent.
            QueueNodeError: as ``Client.submit``.
        """
        payload = self.codec.payload(args, kwargs)
        return TaskHandle(self, self.tasks.client.submit(payload, **self.options))

    async def asend(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """``send`` in an event loop."""
        payload = self.codec.payload(args, kwargs)
        return TaskHandle(self, await self.tasks.async_client.submit(payload, **self.options))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> "TaskCall[R]":
        """A call for ``send_many``.

        Raises:
            BadArguments: the function cannot be called so.
        """
        return TaskCall(self, self.codec.payload(args, kwargs), self.options)

    def send_many(self, calls: "Iterable[TaskCall[R]]") -> list[TaskHandle[R]]:
        """Store many calls in one request, all or none: ``f.send_many(f.call(x) for x in xs)``.

        Raises:
            QueueNodeError: as ``Client.submit_many``.
        """
        taken = list(calls)
        job_ids = self.tasks.client.submit_many([each.submit for each in taken])
        return [TaskHandle(each.task, job_id) for each, job_id in zip(taken, job_ids, strict=True)]

    async def asend_many(self, calls: "Iterable[TaskCall[R]]") -> list[TaskHandle[R]]:
        """``send_many`` in an event loop."""
        taken = list(calls)
        job_ids = await self.tasks.async_client.submit_many([each.submit for each in taken])
        return [TaskHandle(each.task, job_id) for each, job_id in zip(taken, job_ids, strict=True)]

    def handle(self, job_id: str) -> TaskHandle[R]:
        """The handle of a call that was sent before, by another process perhaps."""
        return TaskHandle(self, job_id)

    # Inside

    @property
    def codec(self) -> CallCodec:
        """How it is called. Made when first used: annotations may name what comes later.

        Raises:
            ConfigurationError: the function cannot be a task.
        """
        if self._codec is None:
            self._codec = CallCodec(self.name, self.function)
        return self._codec

    @property
    def is_async(self) -> bool:
        """Whether the function is ``async def``."""
        return inspect.iscoroutinefunction(self.function)

    def result_of(self, job: Job) -> R:
        """The result in a finished job.

        Raises:
            TaskFailed, BadResult: there is none.
        """
        if not job.succeeded:
            raise TaskFailed(self.name, job)
        return cast("R", self.codec.result(job.result))

    def _copied(self, options: JobOptions) -> Any:  # noqa: ANN401 - the same class
        copy = type(self)(
            self.tasks,
            self.function,
            self.name,
            cast("JobOptions", {**self.options, **options}),
            self.process,
        )
        copy._codec = self._codec
        return copy

    def __repr__(self) -> str:
        return f"<task {self.name}>"


class SyncTask(Task[P, R]):
    """A task that is a plain function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here."""
        return cast("R", self.function(*args, **kwargs))

    def using(self, **options: Unpack[JobOptions]) -> "SyncTask[P, R]":
        """The same task with other options: ``f.using(delay="1h", priority=5).send(...)``."""
        return cast("SyncTask[P, R]", self._copied(_checked(options)))


class AsyncTask(Task[P, R]):
    """A task that is ``async def``."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run the function here."""
        return cast("Coroutine[Any, Any, R]", self.function(*args, **kwargs))

    def using(self, **options: Unpack[JobOptions]) -> "AsyncTask[P, R]":
        """The same task with other options: ``f.using(delay="1h", priority=5).send(...)``."""
        return cast("AsyncTask[P, R]", self._copied(_checked(options)))


class TaskCall(Generic[R]):
    """A call that is ready to be sent."""

    __slots__ = ("submit", "task")

    def __init__(self, task: Task[..., R], payload: str, options: JobOptions) -> None:
        self.task: Final = task
        self.submit: Final = Submit(payload, **options)


class _Decorator(Protocol):
    """What ``task(...)`` with options gives."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]  # a coroutine is an object, too

    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...


class Tasks:
    """A set of tasks, who sends them, and the handler that runs them.

    Most programs need only the one behind ``task``. One of your own keeps apart what goes to
    another node.
    """

    def __init__(
        self, client: TaskClient | None = None, async_client: AsyncTaskClient | None = None
    ) -> None:
        """Without a client ``Client.from_env()`` sends, made when it is first needed."""
        self._client = client
        self._async_client = async_client
        self._lock = threading.Lock()
        self._by_name: dict[str, Task[..., Any]] = {}

    # Defining

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]  # as above

    @overload
    def task(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...

    @overload
    def task(
        self, *, name: str | None = None, process: bool = False, **options: Unpack[JobOptions]
    ) -> _Decorator: ...

    def task(  # type: ignore[misc]  # mypy and keywords typed by Unpack: signature 3 fits
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        process: bool = False,
        **options: Any,
    ) -> Any:
        """Make a function a task: ``@task``, or ``@task(queue="images", max_retries=5)``.

        Args:
            function: typed; ``def`` or ``async def``.
            name: what stands in payloads; by default ``module.function``. One that is given
                outlasts a function's move to another module.
            process: run it in a process of the worker: for work that keeps a core busy. For a
                ``def`` at the top of a module; its set has no ``async def`` then.
            options: of every job of it, as in ``Client.submit``.

        Raises:
            ConfigurationError: another function has the name, or there is no such option.
        """
        checked = _checked(cast("JobOptions", options))
        if function is None:
            return partial(self._add, name=name, process=process, options=checked)
        return self._add(function, name, process, checked)

    def _add(
        self, function: Callable[..., Any], name: str | None, process: bool, options: JobOptions
    ) -> Task[..., Any]:
        name = name or f"{_module_of(function)}.{function.__qualname__}"
        kind = AsyncTask[..., Any] if inspect.iscoroutinefunction(function) else SyncTask[..., Any]
        made = kind(self, function, name, options, process)
        there = self._by_name.get(name)
        # A module that is loaded again brings the same function anew.
        if there is not None and _place(there.function) != _place(function):
            raise ConfigurationError(f"two tasks have the name {name!r}: give one another name=")
        self._by_name[name] = made
        return made

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(list(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def queues(self) -> list[str]:
        """Where the jobs of its tasks go, in order of definition."""
        return list(dict.fromkeys(task.queue for task in self))

    # Sending

    @property
    def client(self) -> TaskClient:
        """Who sends.

        Raises:
            ConfigurationError: nobody was named, and the environment names no node.
        """
        with self._lock:
            if self._client is None:
                self._client = cast("TaskClient", Client.from_env())
            return self._client

    @property
    def async_client(self) -> AsyncTaskClient:
        """Who sends from an event loop: an ``AsyncClient`` belongs to one, so it has to be named.

        Raises:
            ConfigurationError: it was not.
        """
        if self._async_client is None:
            raise ConfigurationError(
                "no AsyncClient: use `with tasks.connected(async_client=client):` around the loop"
            )
        return self._async_client

    @contextmanager
    def connected(
        self, client: TaskClient | None = None, async_client: AsyncTaskClient | None = None
    ) -> Generator[None, None, None]:
        """Send through these inside the block; what is not given stays."""
        before = self._client, self._async_client
        self._client = client or self._client
        self._async_client = async_client or self._async_client
        try:
            yield
        finally:
            self._client, self._async_client = before

    # Running

    @property
    def handler(self) -> Callable[[LeasedJob], Any]:
        """For ``Worker``: a plain function, or ``async def`` when one of the tasks is.

        Then the plain ones run in threads of the event loop.

        Raises:
            ConfigurationError: a task with ``process=True`` cannot have a process.
        """
        if any(task.process for task in self):
            return _InProcesses(self)
        return self.arun if any(task.is_async for task in self) else self.run

    def run(self, job: LeasedJob) -> str | None:
        """Run a job of a plain task.

        Raises:
            Reject: the job's arguments do not fit.
            UnknownTask: there is no such task here.
        """
        task, arguments = self._read(job)
        return _told(task, task.function(**arguments))

    async def arun(self, job: LeasedJob) -> str | None:
        """Run a job of any task; raises as ``run``."""
        task, arguments = self._read(job)
        if task.is_async:
            return _told(task, await cast("Awaitable[Any]", task.function(**arguments)))
        function = partial(task.function, **arguments)
        # Abandoned when the job is lost: nobody wants its outcome, and it can ask ``job.lost``.
        return _told(task, await anyio.to_thread.run_sync(function, abandon_on_cancel=True))

    def _read(self, job: LeasedJob) -> tuple[Task[..., Any], dict[str, Any]]:
        try:
            envelope = open_envelope(job.payload)
        except BadArguments as error:
            raise Reject(str(error)) from error
        task = self._by_name.get(envelope.task)
        if task is None:
            raise UnknownTask(f"this worker has no task {envelope.task!r}")
        return task, _arguments(task, envelope)

    def _runs_in_process(self, job: LeasedJob) -> bool:
        try:
            task = self._by_name.get(open_envelope(job.payload).task)
        except BadArguments:
            return False  # the thread says so
        return task is not None and task.process


class _InProcesses:
    """The handler of a set of which some tasks run in processes."""

    def __init__(self, tasks: Tasks) -> None:
        if any(task.is_async for task in tasks):
            raise ConfigurationError(
                "process=True and async def do not go together: give one kind a Tasks() of its own"
            )
        self._tasks = tasks
        self._places = {task.name: _place(task.function) for task in tasks if task.process}
        for name, place in self._places.items():
            if not isinstance(_found_at(*place), Task):
                raise ConfigurationError(
                    f"task {name}: process=True is for a function at the top of a module, under "
                    "its own name"
                )

    def __call__(self, job: LeasedJob) -> str | None:
        return self._tasks.run(job)

    def in_process(self, job: LeasedJob) -> bool:
        """Whether it is a job of such a task."""
        return self._tasks._runs_in_process(job)

    def __reduce__(self) -> tuple[type["_InThisProcess"], tuple[dict[str, tuple[str, str]]]]:
        # A new process gets the names, and imports what they stand for.
        return _InThisProcess, (self._places,)


class _InThisProcess:
    """The same in the other process. ``places``: ``{task: (module, function)}``."""

    def __init__(self, places: dict[str, tuple[str, str]]) -> None:
        # Now and not in the first job, whose span needs what the modules set up.
        self._tasks: dict[str, Task[..., Any]] = {
            name: _found_at(*place) for name, place in places.items()
        }

    def __call__(self, job: LeasedJob) -> str | None:
        envelope = open_envelope(job.payload)
        # By the names of the worker: here a program's main module has another one.
        task = self._tasks[envelope.task]
        return _told(task, task.function(**_arguments(task, envelope)))


def _found_at(module: str, name: str) -> Any:  # noqa: ANN401 - whatever is there
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _arguments(task: Task[..., Any], envelope: Envelope) -> dict[str, Any]:
    try:
        return task.codec.arguments(envelope.args)
    except BadArguments as error:
        raise Reject(str(error)) from error


def _told(task: Task[..., Any], value: object) -> str | None:
    try:
        return task.codec.result_text(value)
    except BadResult as error:
        # It ran, and running it again would return the same.
        raise Reject(str(error)) from error


def _checked(options: JobOptions) -> JobOptions:
    if unknown := options.keys() - OPTION_NAMES:
        raise ConfigurationError(f"a task has no option {', '.join(sorted(unknown))}")
    return options


def _module_of(function: Callable[..., Any]) -> str:
    """Its module by the name under which a worker can import it."""
    module = function.__module__
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        return spec.name if spec is not None else module
    return module


def _place(function: Callable[..., Any]) -> tuple[str, str]:
    return function.__module__, function.__qualname__


default: Final = Tasks()
"""The set behind ``task``."""

task: Final = default.task
