"""One node over HTTP for threads: sends a call, repeats it where that is allowed.

The synchronous shell around ``exchange`` and ``delivery``, shared by ``Client`` and ``Worker``;
any number of threads may use one. It keeps connections open between calls. A call costs 0.5 ms
of CPU, 0.4 of them httpx2's (against a socket server that answers at once; ``http.client``
takes 0.1 ms).
"""

import random
import ssl
import threading
import time
from collections.abc import Callable

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


class Transport:
    """Sends calls to one node with one key."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        request_timeout: float,
        verify: ssl.SSLContext | bool,
        http_transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._wire = Wire(url, key, request_timeout)
        self.url: str = self._wire.url
        self._closing = threading.Event()
        with environment_checked():
            self._http = httpx2.Client(verify=verify, limits=LIMITS, transport=http_transport)

    def exchange(
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
            outcome = self._send(call, exchange.left_seconds(time.monotonic()))
            after = exchange.pause_after(outcome, time.monotonic(), _draw())
            if isinstance(after, Reply):
                return after
            if self._closing.wait(after):
                raise exchange.error(outcome)

    def deliver(
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
            if pause_seconds > 0 and self._closing.wait(pause_seconds):
                delivery.give_up()
                return
            while (call := delivery.next_call()) is not None:
                delivery.note(self._send(call, give_up_at - time.monotonic()))
            now = time.monotonic()
            next_pause_seconds = delivery.pause_seconds(self.url, give_up_at - now, _draw())
            if next_pause_seconds is None:
                return
            delivery.resume_at = now + next_pause_seconds
            if handed_on():
                return

    def close(self) -> None:
        """Close the connections; what waits for its next try in another thread gives up."""
        self._closing.set()
        self._http.close()

    def _check_open(self, what: str) -> None:
        if self._closing.is_set():
            raise QueueNodeError(f"{what}: closed already")

    def _send(self, call: Call, left_seconds: float) -> Outcome:
        """Send ``call`` once and read the answer."""
        try:
            return reply_of(self._http.send(self._wire.request(call, left_seconds)))
        except TROUBLES as error:
            return trouble_of(error)


def _draw() -> float:
    return random.random()  # noqa: S311 - spreads out retries, guards nothing
