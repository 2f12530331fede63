"""A whole node in the process of whoever asks: no ports, no other processes, a clock to be moved.

For tests of applications (``queue_node_sdk.testing`` brings it to them as an ordinary ``Client``).
Everything behind the door is the real thing: routes, keys, operations, the pipe, partitions
with their state and log, in a temporary directory. So a request gets the answer that a node gives.

**Threads.** It runs trio in a thread of its own. ``request`` may be called from any other thread,
also from one that runs an event loop, and blocks it; ``begin`` does not.

**Time.** The clock stands still until ``advance`` moves it, unless it is made ``running``: leases,
delays, back-off, ttl and retention go by it. What a request waits (``wait``) ends when it is moved
so far, or when as much real time has passed, whichever is first; a worker that runs in another
thread beside a clock that stands still is not stuck.
"""

import logging
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar, cast
from urllib.parse import unquote

import trio
from trio.testing import wait_all_tasks_blocked

from api.answer import Answer
from api.calls import driven
from api.durations import parse_duration
from api.endpoints import JobEndpoints
from api.keyring import Keyring
from api.keystore import open_keystore
from api.keystore.base import KeyStore
from api.keystore.seed import seed_dev_keys
from api.lane import Lane
from api.operations import Operations
from api.problems import INTERNAL, Problem, to_answer
from api.services import Services
from api.settings import FrontSettings
from partitions.clock import wall_ms
from partitions.retry import Backoff
from partitions.slots import first_slot
from partitions.state import Policy
from queue_node.engine_partition import InProcessClient, InProcessPartition

if TYPE_CHECKING:
    from api.asgi import AsgiApp, Message

_T = TypeVar("_T")

_logger: Final = logging.getLogger("queue_node.engine")

_JOIN_S: Final = 10.0
"""For the thread to end; it cancels what waits, so more means a bug."""


class EngineClosedError(RuntimeError):
    """The engine was closed, or its disk failed."""

    def __init__(self) -> None:
        super().__init__("the engine is closed")


class EngineReply(NamedTuple):
    """What a node would send."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _Request:
    """A request as the routes want it."""

    def __init__(self, headers: list[tuple[str, str]], body: bytes) -> None:
        named = {name.lower(): value for name, value in headers}
        self.authorization: Final = named.get("authorization")
        self.idempotency_key: Final = named.get("idempotency-key")
        self.body: Final = body

    def gone(self) -> bool:
        """Whoever gives a request up cancels it."""
        return False


class Clock:
    """The time of the engine's jobs: stands still, or runs, and can be moved ahead."""

    def __init__(self, start_ms: int, *, running: bool) -> None:
        self._base_ms = start_ms
        self._began_s = time.monotonic() if running else None

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        if self._began_s is None:
            return self._base_ms
        return self._base_ms + int((time.monotonic() - self._began_s) * 1000)

    def move(self, by_ms: int) -> None:
        """Let so much time pass at once."""
        self._base_ms += by_ms


class _WaitsClock(trio.abc.Clock):
    """Trio's clock: real time, and what the other one was moved. Requests wait by it."""

    def __init__(self) -> None:
        self._moved_s = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return time.monotonic() + self._moved_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()

    def move(self, by_s: float) -> None:
        self._moved_s += by_s


class Exchange:
    """A request that was begun."""

    def __init__(self, future: "Future[EngineReply]", cancel: Callable[[], None]) -> None:
        self._future = future
        self._cancel = cancel

    def result(self, timeout_s: float | None = None) -> EngineReply:
        """Wait for the answer.

        Raises:
            TimeoutError: it is not there in time; the request goes on.
            EngineClosedError: there will be none.
        """
        try:
            return self._future.result(timeout_s)
        except CancelledError:
            raise EngineClosedError from None

    def cancel(self) -> None:
        """Hang up. What the request did, it did."""
        self._cancel()


class Engine:
    """A node. A context manager; otherwise ``close`` it."""

    def __init__(
        self,
        *,
        partitions: int = 1,
        start_ms: int | None = None,
        running: bool = False,
        lease_duration_ms: int = 30_000,
        default_max_retries: int = 3,
        retry_backoff_ms: int = 1_000,
        retry_backoff_max_ms: int = 600_000,
        jobs_max: int | None = None,
    ) -> None:
        """Start it; when this returns it serves.

        Args:
            partitions: how many; with more than one, order holds as on a node with as many.
            start_ms: what the clock shows first, since 1970; None: what it is now.
            running: whether time passes by itself.
            lease_duration_ms: as ``LEASE_DURATION``; the others as their variables.
            default_max_retries: attempts of a job that does not say.
            retry_backoff_ms: the first pause after a failure.
            retry_backoff_max_ms: the longest.
            jobs_max: unfinished jobs.

        Raises:
            OSError: the temporary directory cannot be written.
        """
        self.clock: Final = Clock(wall_ms() if start_ms is None else start_ms, running=running)
        self.keys: dict[str, str] = {}
        """A key of each type: ``client``, ``worker``, ``admin``."""
        self._directory = Path(tempfile.mkdtemp(prefix="queue-node-"))
        self._settings = FrontSettings(
            front=0,
            listen_fd=-1,
            partition_sockets=(),
            keystore_path=str(self._directory / "keys.db"),
            default_max_retries=default_max_retries,
            retry_backoff_ms=retry_backoff_ms,
            retry_backoff_max_ms=retry_backoff_max_ms,
        )
        self._policies = [
            Policy(
                slots=range(first_slot(number, partitions), first_slot(number + 1, partitions)),
                backoff=Backoff(retry_backoff_ms, retry_backoff_max_ms),
                lease_ms=lease_duration_ms,
                jobs_max=None if jobs_max is None else math.ceil(jobs_max / partitions),
            )
            for number in range(partitions)
        ]
        self._waits = _WaitsClock()
        self._lock = threading.Lock()
        self._open: set[Future[Any]] = set()
        self._closed = False
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._partitions: list[InProcessPartition] = []
        self._app: AsgiApp | None = None
        self._thread = threading.Thread(target=self._main, name="queue-node-engine", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self.close()
            raise self._failure

    # Asking -------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        timeout_s: float | None = None,
    ) -> EngineReply:
        """The node's answer to a request; ``path`` with its query, escaped as on the wire.

        Raises:
            TimeoutError: it took longer; the request is given up.
            EngineClosedError: it was closed before.
        """
        exchange = self.begin(method, path, headers, body)
        try:
            return exchange.result(timeout_s)
        except BaseException:
            exchange.cancel()
            raise

    def begin(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> Exchange:
        """``request`` without waiting for the answer.

        Raises:
            EngineClosedError: it was closed before.
        """
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        scope = trio.CancelScope()
        future: Future[EngineReply] = self._promise()

        async def serve() -> None:
            with scope:
                try:
                    reply = await self._answered(method, path, pairs, body)
                except Exception as error:
                    _settle(future, error=error)
                else:
                    _settle(future, reply)
            if not future.done():
                future.cancel()

        self._in_thread(lambda: self._nursery.start_soon(serve))
        return Exchange(future, lambda: self._in_thread(scope.cancel))

    # Time ---------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """What the clock shows."""
        return self.clock.now_ms()

    def advance(self, by: str | float) -> None:
        """Let time pass: ``"2h"``, ``"1m30s"``, or seconds.

        Raises:
            ValueError: that is no duration.
            EngineClosedError: it was closed before.
        """
        by_ms = self.milliseconds(by)

        async def move() -> None:
            # What was begun before begins to wait before; what is due by then has happened.
            await wait_all_tasks_blocked()
            self.clock.move(by_ms)
            self._waits.move(by_ms / 1000)
            await wait_all_tasks_blocked()

        self._do(move)

    @staticmethod
    def milliseconds(duration: str | float) -> int:
        """A duration as the node reads it.

        Raises:
            ValueError: it is none.
        """
        ms = parse_duration(duration)
        if ms is None:
            raise ValueError(f"not a duration: {duration!r}")
        return ms

    def next_deadline_ms(self) -> int | None:
        """When something happens by itself: a job is due, a lease ends, a job is forgotten.

        It may be early, never late. None: nothing will.

        Raises:
            EngineClosedError: it was closed before.
        """

        async def earliest() -> int | None:
            deadlines = (each.state.next_deadline_ms() for each in self._partitions)
            return min((each for each in deadlines if each is not None), default=None)

        return self._do(earliest)

    # The end ------------------------------------------------------------------------------

    def close(self) -> None:
        """End it, and remove its files; what waits for an answer gets ``EngineClosedError``."""
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        if self._failure is None:
            self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        self._thread.join(_JOIN_S)
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Between threads ----------------------------------------------------------------------

    def _promise(self) -> "Future[Any]":
        """A future that the end of the engine cancels, if nothing else settles it."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed or self._failure is not None:
                raise EngineClosedError
            self._open.add(future)
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: "Future[Any]") -> None:
        with self._lock:
            self._open.discard(future)

    def _in_thread(self, call: Callable[[], object]) -> None:
        try:
            self._token.run_sync_soon(call)
        except trio.RunFinishedError:
            self._cancel_open()

    def _do(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """What ``call`` returns in the engine's thread."""
        future: Future[_T] = self._promise()

        async def settle() -> None:
            _settle(future, await call())

        self._in_thread(lambda: self._nursery.start_soon(settle))
        try:
            return future.result()
        except CancelledError:
            raise EngineClosedError from None

    def _cancel_open(self) -> None:
        with self._lock:
            left = list(self._open)
        for future in left:
            future.cancel()

    # In the engine's thread ---------------------------------------------------------------

    def _main(self) -> None:
        try:
            trio.run(self._run, clock=self._waits, strict_exception_groups=True)
        except BaseException as error:
            # Told to whoever asks next; at the start, to whoever started it.
            self._failure = error
            if self._ready.is_set():
                _logger.exception("the engine failed, and answers nothing any more")
        finally:
            for partition in self._partitions:
                partition.close()
            self._cancel_open()
            self._ready.set()

    async def _run(self) -> None:
        count = len(self._policies)
        for number, policy in enumerate(self._policies):
            directory = self._directory / f"p-{number:04}"
            self._partitions.append(
                InProcessPartition(number, count, directory, self.clock, policy)
            )
        clients = [
            InProcessClient(partition, number, count)
            for number, partition in enumerate(self._partitions)
        ]
        store = open_keystore(None, self._settings.keystore_path, None)
        try:
            async with trio.open_nursery() as nursery:
                operations = Operations(clients, clock=self.clock)
                nursery.start_soon(operations.run)
                nursery.start_soon(operations.sweep_claims)
                for partition in self._partitions:
                    nursery.start_soon(partition.run)
                for client in clients:
                    nursery.start_soon(client.run)
                    await client.wait_serving()
                self._services = await self._with_keys(store, operations)
                self._lane = Lane(self._services.endpoints)
                self._nursery = nursery
                self._token = trio.lowlevel.current_trio_token()
                self._ready.set()
                await trio.sleep_forever()
        finally:
            store.close()

    async def _with_keys(self, store: KeyStore, operations: Operations) -> Services:
        settings = self._settings
        # Not run: nobody but this one front makes or revokes keys, so there is nothing to watch.
        keyring = Keyring(
            store, cache_ttl_ms=settings.auth_cache_ttl_ms, grace_ms=settings.auth_grace_ms
        )
        self.keys = {each.type: each.token for each in await seed_dev_keys(store)}
        for key in self.keys.values():
            await keyring.identify(f"Bearer {key}")
        endpoints = JobEndpoints(keyring, operations, settings)
        return Services(keyring, operations, endpoints, settings)

    async def _answered(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> EngineReply:
        bytes_max = self._settings.limits.body_bytes_max
        handler = self._lane.route(method, path)
        if len(body) > bytes_max:
            # The door's own refusal.
            answer = to_answer(Problem(413, f"body too large: at most {bytes_max} bytes"))
        elif handler is None:
            return await self._by_app(method, path, headers, body)
        else:
            answer = await driven(handler(_Request(headers, body)))
        return self._reply(answer)

    def _reply(self, answer: Answer) -> EngineReply:
        headers = list(answer.headers)
        if answer.body:
            headers.append(("Content-Type", answer.content_type))
        headers.append(("Content-Length", str(len(answer.body))))
        return EngineReply(answer.status, [*headers, self._date()], answer.body)

    def _date(self) -> tuple[str, str]:
        return "Date", formatdate(self.clock.now_ms() // 1000, usegmt=True)

    async def _by_app(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> EngineReply:
        """The answer of the Quart-Trio app, which has the routes that the lane has not."""
        if self._app is None:
            # Imported here: it takes half a second, and many tests never need it.
            from api.app import create_app

            self._app = cast("AsgiApp", create_app(self._services))
        said: list[Message] = []
        unread = [body]

        async def receive() -> "Message":
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await trio.sleep_forever()
            raise AssertionError

        async def send(message: "Message") -> None:
            said.append(message)
            await trio.lowlevel.checkpoint()

        await self._app(_scope(method, target, headers, body), receive, send)
        if not said:
            return self._reply(to_answer(INTERNAL))
        answered = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in said[0]["headers"]
            if name.lower() != b"date"
        ]
        content = b"".join(bytes(each.get("body", b"")) for each in said[1:])
        return EngineReply(said[0]["status"], [*answered, self._date()], content)


def _settle(
    future: "Future[_T]", result: _T | None = None, *, error: Exception | None = None
) -> None:
    """Settle it, unless the end of the engine came first."""
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(cast("_T", result))


def _scope(
    method: str, target: str, headers: list[tuple[str, str]], body: bytes
) -> dict[str, object]:
    """The ASGI scope of a request."""
    path, _, query = target.partition("?")
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    if body and not any(name == b"content-length" for name, _ in pairs):
        pairs.append((b"content-length", str(len(body)).encode()))
    if not any(name == b"host" for name, _ in pairs):
        pairs.append((b"host", b"engine"))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": pairs,
        "client": None,
        "server": None,
        "state": {},
        "extensions": {},
    }
