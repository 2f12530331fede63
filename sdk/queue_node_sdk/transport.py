"""One node over HTTP: sends a call, repeats it where that is allowed, under one deadline.

The shell around ``protocol``, shared by ``Client`` and ``Worker``; any number of threads may
use one. It keeps connections open between calls. A call costs 0.5 ms of CPU, 0.4 of them
httpx2's (against a socket server that answers at once; ``http.client`` takes 0.1 ms).
"""

import logging
import random
import ssl
import threading
import time
from typing import Final

import httpx2

from queue_node_sdk.backoff import RETRY
from queue_node_sdk.errors import ConfigurationError, QueueNodeError
from queue_node_sdk.protocol import (
    AnswerLost,
    Call,
    NoTls,
    NotSent,
    Outcome,
    Reply,
    accepted,
    check_key,
    check_url,
    error_from,
    may_repeat,
    retry_after_seconds,
)
from queue_node_sdk.version import __version__

_log: Final = logging.getLogger("queue_node")

_KEPT_OPEN_SECONDS: Final = 60.0
"""Idle connections are closed by us before the node does (75 s), not in the middle of a call."""
_NO_TLS_THERE: Final = frozenset(
    ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
)
"""OpenSSL's words, which differ from version to version, for an answer that is no TLS."""


class Transport:
    """Sends calls to one node with one key."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        request_timeout: float,
        verify: ssl.SSLContext | bool,
    ) -> None:
        if not request_timeout > 0:
            raise ConfigurationError("request_timeout must be more than 0 seconds")
        self.url = check_url(url)
        try:
            httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise ConfigurationError(f"not a URL: {url!r}: {error}") from error
        self._request_timeout = request_timeout
        self._closing = threading.Event()
        # Bounded by the threads that use it, each with at most one call out.
        limits = httpx2.Limits(
            max_connections=None,
            max_keepalive_connections=None,
            keepalive_expiry=_KEPT_OPEN_SECONDS,
        )
        self._http = httpx2.Client(verify=verify, limits=limits)
        self._headers = httpx2.Headers(
            {
                "Authorization": f"Bearer {check_key(key)}",
                "User-Agent": f"queue-node-sdk/{__version__}",
                "Accept": "application/json",
                "Content-Type": "application/json",
            }
        )

    def exchange(self, call: Call, patience_seconds: float) -> Reply:
        """Send ``call`` until it is answered, for ``patience_seconds`` at most.

        It is tried at least once, and again only where ``may_repeat`` allows.

        Raises:
            QueueNodeError: the refusal, or the trouble that outlasted the patience.
        """
        if self._closing.is_set():
            raise QueueNodeError(f"{call.what}: closed already")
        give_up_at = time.monotonic() + patience_seconds
        failures = 0
        while True:
            left_seconds = give_up_at - time.monotonic()
            outcome = self._send(call, left_seconds if failures else patience_seconds)
            if (reply := accepted(call, outcome)) is not None:
                return reply
            failures += 1
            if not may_repeat(call, outcome):
                raise error_from(call, outcome)
            pause_seconds = RETRY.pause_seconds(
                failures,
                random.random(),  # noqa: S311 - spreads out retries, guards nothing
                retry_after_seconds(outcome),
            )
            if time.monotonic() + pause_seconds >= give_up_at:
                raise error_from(call, outcome)
            if failures == 1 and isinstance(outcome, NotSent):
                # A typing error in the URL looks the same as a node that is starting.
                _log.warning(
                    "cannot reach %s: %s; trying for %.3g s",
                    self.url,
                    outcome.reason,
                    patience_seconds,
                )
            if self._closing.wait(pause_seconds):
                raise error_from(call, outcome)

    def close(self) -> None:
        """Close the connections; what waits for its next try in another thread gives up."""
        self._closing.set()
        self._http.close()

    def _send(self, call: Call, left_seconds: float) -> Outcome:
        """Send ``call`` once and read the answer."""
        # A call without patience still gets the time that one request may take.
        limit = min(self._request_timeout, left_seconds) if left_seconds > 0 else None
        timeout = httpx2.Timeout(limit or self._request_timeout)
        request = httpx2.Request(
            call.method,
            self.url + call.path,
            headers=self._headers,
            content=call.body or None,
            extensions={"timeout": timeout.as_dict()},
        )
        try:
            response = self._http.send(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            if (reason := _tls_refused(error)) is not None:
                return NoTls(reason)
            return NotSent(_described(error))
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            # Also when only a part was written: the node may have had enough of it.
            return AnswerLost(_described(error))
        return Reply(response.status_code, response.content, response.headers)


def _tls_refused(error: BaseException) -> str | None:
    """Why there can be no TLS, if that is what is behind ``error``.

    Not every fault of TLS is one: a node that is just ending breaks off in a handshake too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the node's certificate is not trusted: {cause.verify_message}; for a private "
                "authority pass verify=ssl.create_default_context(cafile=...)"
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS_THERE:
            return "this port does not speak TLS: is the URL to begin with http://?"
        cause = cause.__cause__ or cause.__context__
    return None


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
