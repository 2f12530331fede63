"""Transports of httpx2 for a node that is in this process: no socket between them.

A client that is given one of these behaves as with any other node: its retries, its time limits and
its errors are the same.
"""

import math
from typing import Final, Protocol

import anyio
import anyio.to_thread
import httpx2

from queue_node_sdk.errors import ConfigurationError

URL: Final = "http://in-process"
"""What a client takes for the node's address; nothing is looked up."""

_THREADS: Final = 1_000
"""Requests of one event loop at the same time, each in a thread that mostly waits."""


class ReplyLike(Protocol):
    """An answer of the engine."""

    @property
    def status(self) -> int:
        """Of HTTP."""
        ...

    @property
    def headers(self) -> list[tuple[str, str]]:
        """In order."""
        ...

    @property
    def body(self) -> bytes:
        """All of it."""
        ...


class ExchangeLike(Protocol):
    """A request that was begun."""

    def result(self, timeout_s: float | None = None) -> ReplyLike:
        """Wait for the answer."""
        ...

    def cancel(self) -> None:
        """Hang up."""


class EngineLike(Protocol):
    """What is needed of ``queue_node.engine.Engine``, which the SDK does not import."""

    def begin(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> ExchangeLike:
        """Begin a request."""
        ...


class EngineTransport(httpx2.BaseTransport):
    """For ``Client`` and ``Worker``: any thread may use it."""

    def __init__(self, engine: EngineLike) -> None:
        self._engine = engine

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The engine's answer."""
        return _answered(self._engine, request, request.read())


class AsyncEngineTransport(httpx2.AsyncBaseTransport):
    """For ``AsyncClient``, on trio and on asyncio."""

    def __init__(self, engine: EngineLike) -> None:
        self._engine = engine
        self._limiter: anyio.CapacityLimiter | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The engine's answer; who cancels this hangs up."""
        if self._limiter is None:
            # Made here: it belongs to an event loop.
            self._limiter = anyio.CapacityLimiter(_THREADS)
        body = await request.aread()
        exchange = _begin(self._engine, request, body)
        try:
            return await anyio.to_thread.run_sync(
                _finish, exchange, request, abandon_on_cancel=True, limiter=self._limiter
            )
        except BaseException:
            # Cancelled, above all: the node has to hear that nobody waits any more.
            exchange.cancel()
            raise


def _answered(engine: EngineLike, request: httpx2.Request, body: bytes) -> httpx2.Response:
    exchange = _begin(engine, request, body)
    try:
        return _finish(exchange, request)
    except BaseException:
        # Interrupted, or out of time: the node has to hear that nobody waits any more.
        exchange.cancel()
        raise


def _begin(engine: EngineLike, request: httpx2.Request, body: bytes) -> ExchangeLike:
    headers = [(name, value) for name, value in request.headers.items() if name != "host"]
    target = request.url.raw_path.decode("ascii")
    try:
        return engine.begin(request.method, target, headers, body)
    except RuntimeError as error:
        raise httpx2.ConnectError(str(error), request=request) from error


def _finish(exchange: ExchangeLike, request: httpx2.Request) -> httpx2.Response:
    try:
        reply = exchange.result(_read_timeout(request))
    except TimeoutError as error:
        raise httpx2.ReadTimeout("no answer in time", request=request) from error
    except RuntimeError as error:
        # It was closed under the request, like a node that ends.
        raise httpx2.ReadError(str(error), request=request) from error
    return httpx2.Response(reply.status, headers=reply.headers, content=reply.body, request=request)


def _read_timeout(request: httpx2.Request) -> float | None:
    timeout = request.extensions.get("timeout", {}).get("read")
    if timeout is None:
        return None
    if not (isinstance(timeout, int | float) and math.isfinite(timeout)):
        raise ConfigurationError(f"not a time limit: {timeout!r}")
    return float(timeout)
