"""One node over HTTP for tasks: the asynchronous shell around ``exchange`` and ``delivery``.

On trio and on asyncio, by anyio. It starts no task of its own: what a call does ends with it.
"""

import random
import ssl
import time
from collections.abc import Callable

import anyio
import httpx2

from queue_node_sdk.calls import Call
from queue_node_sdk.delivery import Delivery
from queue_node_sdk.errors import QueueNodeError
from queue_node_sdk.exchange import Exchange
from queue_node_sdk.protocol import Outcome, Reply
from queue_node_sdk.wire import (
    LIMITS,
    TROUBLES,
    Wire,
    environment_checked,
    reply_of,
    trouble_of,
)


class AsyncTransport:
    """Sends calls to one node with one key, from the tasks of one event loop."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        request_timeout: float,
        verify: ssl.SSLContext | bool,
        http_transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._wire = Wire(url, key, request_timeout)
        self.url: str = self._wire.url
        self._closed = False
        with environment_checked():
            self._http = httpx2.AsyncClient(verify=verify, limits=LIMITS, transport=http_transport)

    async def exchange(
        self, call: Call, patience_seconds: float, failing_for_seconds: float | None = None
    ) -> Reply:
        """Send ``call`` until it is answered, for ``patience_seconds`` at most.

        From the first failure on it is ``failing_for_seconds``, where that is given. It is
        tried at least once, and again only where ``may_repeat`` allows.

        Raises:
            QueueNodeError: the refusal, or the trouble that outlasted the patience.
        """
        self._check_open(call.what)
        exchange = Exchange(call, self.url, time.monotonic(), patience_seconds, failing_for_seconds)
        while True:
            outcome = await self._send(call, exchange.left_seconds(time.monotonic()))
            after = exchange.pause_after(outcome, time.monotonic(), _draw())
            if isinstance(after, Reply):
                return after
            await anyio.sleep(after)
            if self._closed:
                raise exchange.error(outcome)

    async def deliver(
        self,
        delivery: Delivery,
        give_up_at: float,
        handed_on: Callable[[], bool] = lambda: False,
    ) -> None:
        """Send the jobs of ``delivery`` until each has an outcome.

        Args:
            delivery: what to store; holds the outcomes afterwards.
            give_up_at: on ``time.monotonic()``; each job is tried at least once.
            handed_on: asked before each pause, when some may have their outcome already;
                whether somebody else goes on from here.
        """
        self._check_open("submit")
        while True:
            pause_seconds = delivery.resume_at - time.monotonic()
            if pause_seconds > 0:
                await anyio.sleep(pause_seconds)
                if self._closed:
                    delivery.give_up()
                    return
            while (call := delivery.next_call()) is not None:
                delivery.note(await self._send(call, give_up_at - time.monotonic()))
            now = time.monotonic()
            next_pause_seconds = delivery.pause_seconds(self.url, give_up_at - now, _draw())
            if next_pause_seconds is None:
                return
            delivery.resume_at = now + next_pause_seconds
            if handed_on():
                return

    async def aclose(self) -> None:
        """Close the connections; what waits for its next try in another task gives up."""
        self._closed = True
        await self._http.aclose()

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise QueueNodeError(f"{what}: closed already")

    async def _send(self, call: Call, left_seconds: float) -> Outcome:
        """Send ``call`` once and read the answer."""
        try:
            return reply_of(await self._http.send(self._wire.request(call, left_seconds)))
        except TROUBLES as error:
            return trouble_of(error)


def _draw() -> float:
    return random.random()  # noqa: S311 - spreads out retries, guards nothing
