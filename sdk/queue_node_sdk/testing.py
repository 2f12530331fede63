"""The real engine inside a test: no ports, no processes, and a clock that the test moves.

    with LocalNode() as node:
        job_id = node.client.submit("hello", delay="2h")
        node.advance("2h")
        node.drain(handler)
        assert node.client.get(job_id).succeeded

What answers is the server's own code, so a test sees the orders, refusals and times that a node
has. It needs the server in the same environment: ``pip install 'queue-node-sdk[testing]'``. With
pytest, the fixture ``queue_node`` is such a node.

The clock stands still: leases, delays, back-off and retention pass by ``advance`` alone.
"""

import contextvars
import importlib
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, Self

import anyio
import httpx2

from queue_node_sdk import answers, calls
from queue_node_sdk.aclient import AsyncClient
from queue_node_sdk.calls import AckItem, ExtendItem
from queue_node_sdk.client import Client
from queue_node_sdk.errors import ConfigurationError, QueueNodeError
from queue_node_sdk.in_process import URL, AsyncEngineTransport, EngineTransport
from queue_node_sdk.models import Job, LeasedJob
from queue_node_sdk.options import Duration, wire_duration
from queue_node_sdk.tasks import DEFAULT_QUEUE, Tasks
from queue_node_sdk.transport import Transport
from queue_node_sdk.worker import Worker
from queue_node_sdk.worker_context import JobContext, context_of
from queue_node_sdk.worker_core import Done, Ending, Failed, GivenBack, Loss
from queue_node_sdk.worker_endings import attempt

_ENGINE: Final = "queue_node.engine"
_RETRY_FOR: Final = 5.0
_REQUEST_SECONDS: Final = 10.0
_JOBS_MAX: Final = 10_000

KeyType = Literal["client", "worker", "admin"]
Backend = Literal["asyncio", "trio"]
Handler = Callable[[JobContext], Any]


class DrainedTooMuch(QueueNodeError):
    """``drain`` did not come to an end: jobs that make jobs, most likely."""


class LocalNode:
    """A node in this process. A context manager; otherwise ``close`` it."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - those of the engine
        """Start it.

        Args:
            settings: of ``queue_node.engine.Engine``: ``partitions``, ``start_ms``,
                ``running`` (the clock goes by itself), ``lease_duration_ms``,
                ``default_max_retries``, ``retry_backoff_ms``, ``jobs_max``, ...

        Raises:
            ConfigurationError: the server is not installed here.
        """
        self._engine = _engine_module().Engine(**settings)
        self.url: Final = URL
        self.keys: Final[dict[KeyType, str]] = self._engine.keys
        self._transport = Transport(
            URL,
            self.keys["admin"],
            request_timeout=_REQUEST_SECONDS,
            verify=True,
            http_transport=self.http_transport,
        )
        self.client: Final = self.make_client("admin")
        """A client that may do everything."""

    # Reaching it

    @property
    def http_transport(self) -> httpx2.BaseTransport:
        """For a ``Client`` of your own."""
        return EngineTransport(self._engine)

    @property
    def async_http_transport(self) -> httpx2.AsyncBaseTransport:
        """For an ``AsyncClient`` or a ``Worker`` of your own."""
        return AsyncEngineTransport(self._engine)

    def make_client(self, key_type: KeyType = "client", **options: Any) -> Client:  # noqa: ANN401 - those of ``Client``
        """A client with a key of this type."""
        options.setdefault("retry_for", _RETRY_FOR)
        return Client(
            URL, self.keys[key_type], http_transport=EngineTransport(self._engine), **options
        )

    def make_async_client(self, key_type: KeyType = "client", **options: Any) -> AsyncClient:  # noqa: ANN401 - those of ``AsyncClient``
        """An async client with a key of this type, for one event loop."""
        options.setdefault("retry_for", _RETRY_FOR)
        return AsyncClient(
            URL, self.keys[key_type], http_transport=AsyncEngineTransport(self._engine), **options
        )

    def make_worker(self, handler: Handler, **options: Any) -> Worker:  # noqa: ANN401 - those of ``Worker``
        """A worker, to be run in a thread or a task of the test; ``drain`` needs none."""
        return Worker(
            URL,
            self.keys["worker"],
            handler,
            http_transport=AsyncEngineTransport(self._engine),
            **options,
        )

    # Time

    @property
    def now(self) -> datetime:
        """What the node's clock shows."""
        return datetime.fromtimestamp(self._engine.now_ms / 1000, UTC)

    def advance(self, by: Duration) -> None:
        """Let time pass: ``"2h"``, a ``timedelta``, or seconds.

        Raises:
            ValueError: it is no duration.
        """
        self._engine.advance(wire_duration("by", by))

    # Working

    def drain(
        self,
        work: Handler | Tasks,
        *,
        queues: Sequence[str] | None = None,
        ahead: Duration = 0,
        backend: Backend = "asyncio",
    ) -> list[Job]:
        """Work on all that is ready, one job after another, here; also on what that submits.

        Args:
            work: a handler as a ``Worker`` takes it, or a set of tasks.
            queues: in order of preference; ``None``: ``default``, or those of the tasks.
            ahead: how far the clock may be moved on to what is not due yet: the next attempts
                of what failed, delayed jobs. It is moved only as far as there is something.
            backend: of the event loop in which an ``async def`` runs.

        Returns:
            Each attempt's job, as it stood after it, in order.

        Raises:
            DrainedTooMuch: after 10,000 attempts.
        """
        handler = work.handler if isinstance(work, Tasks) else work
        if queues is None:
            queues = (work.queues if isinstance(work, Tasks) else None) or [DEFAULT_QUEUE]
        limit_ms = self._engine.now_ms + self._engine.milliseconds(wire_duration("ahead", ahead))
        worked_on: list[Job] = []
        while len(worked_on) < _JOBS_MAX:
            leased = self._lease(queues)
            if leased is not None:
                self._work_on(leased, handler, backend)
                worked_on.append(self.client.get(leased.job_id))
                continue
            due_ms = self._engine.next_deadline_ms()
            if due_ms is None or due_ms > limit_ms:
                return worked_on
            self._engine.advance(max(due_ms - self._engine.now_ms, 1) / 1000)
        raise DrainedTooMuch(f"there is still work after {_JOBS_MAX} attempts")

    def close(self) -> None:
        """End it; whatever waits for an answer fails."""
        self.client.close()
        self._transport.close()
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Inside

    def _lease(self, queues: Sequence[str]) -> LeasedJob | None:
        reply = self._exchange(calls.lease_call(queues, worker="drain"))
        leased = answers.leases_of(reply)
        return leased[0] if leased else None

    def _work_on(self, job: LeasedJob, handler: Handler, backend: Backend) -> None:
        control = _Control(self._exchange, job, self._engine.now_ms)
        run = _in_thread_of_its_own(handler, backend) if _is_async(handler) else handler
        ending = attempt(run, context_of(job, control))
        if control.loss is None:
            self._report(job, ending)

    def _report(self, job: LeasedJob, ending: Ending) -> None:
        token = job.lease_token or ""
        item = AckItem(job.job_id, token)
        match ending:
            case GivenBack(delay=delay):
                # What is given back without a delay would come again at once, for ever.
                self._exchange(calls.release_call(job.job_id, token, delay or 1.0))
                return
            case Done(result=result):
                item = AckItem(job.job_id, token, result=result)
            case Failed(error=error, retry=retry, retry_in=retry_in):
                again = None if retry else False
                item = AckItem(
                    job.job_id, token, result_error=error, retry=again, retry_in=retry_in
                )
        # One that the handler itself cancelled, or held longer than its lease, is lost: as with a
        # worker, its outcome interests nobody.
        self._exchange(calls.acks_call([item]))

    def _exchange(self, call: calls.Call) -> Any:  # noqa: ANN401 - a Reply
        return self._transport.exchange(call, _RETRY_FOR)


class _Control:
    """What a handler may say while it runs: sent at once, there is no heartbeat."""

    def __init__(self, exchange: Callable[[calls.Call], Any], job: LeasedJob, now_ms: int) -> None:
        self._exchange = exchange
        self._job = job
        self.loss: Loss | None = None
        self.ends_at = time.monotonic() + job.lease_until.timestamp() - now_ms / 1000

    def tell_progress(self, progress: float | str) -> None:
        self._extend(None, progress)

    def ask(self, seconds: float) -> None:
        self._extend(seconds, None)
        self.ends_at = time.monotonic() + seconds

    def _extend(self, seconds: float | None, progress: float | str | None) -> None:
        item = ExtendItem(self._job.job_id, self._job.lease_token or "", seconds, progress)
        (result,) = answers.extended_of(self._exchange(calls.extends_call([item])))
        if result.status != 200:
            cancelled = result.error == Loss.CANCELLED
            self.loss = Loss.CANCELLED if cancelled else Loss.LEASE_LOST


def _is_async(handler: Handler) -> bool:
    call = getattr(handler, "__call__", None)  # noqa: B004 - an object's own, which may be async
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def _in_thread_of_its_own(
    handler: Callable[[JobContext], Coroutine[Any, Any, Any]], backend: Backend
) -> Handler:
    """An ``async def`` as a plain function; the caller's own event loop, if any, is left alone."""

    def run(job: JobContext) -> object:
        outcome: list[object] = []
        failure: list[BaseException] = []

        def in_loop() -> None:
            try:
                outcome.append(anyio.run(handler, job, backend=backend))
            except BaseException as error:
                # Raised again below, in the thread that asked.
                failure.append(error)

        # With the context of the caller: ``current_job()`` is the job there too.
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(in_loop,), name="queue-node-drain")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    return run


def _engine_module() -> Any:  # noqa: ANN401 - the SDK knows the server by name alone
    try:
        return importlib.import_module(_ENGINE)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "the engine is not installed here (no module named "
            f"{error.name!r}): pip install 'queue-node-sdk[testing]'"
        ) from error
