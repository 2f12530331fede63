"""What the synchronous and the asynchronous transport share: httpx2's words, in and out.

Nothing here waits: requests are made, and what httpx2 raises becomes an ``Outcome``.
"""

import ssl
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import httpx2

from queue_node_sdk.calls import Call
from queue_node_sdk.errors import ConfigurationError
from queue_node_sdk.protocol import AnswerLost, NoTls, NotSent, Outcome, Reply
from queue_node_sdk.settings import check_key, check_url
from queue_node_sdk.version import __version__

_KEPT_OPEN_SECONDS: Final = 60.0
"""Idle connections are closed by us before the node does (75 s), not in the middle of a call."""
_HTTPX_READS: Final = "SSL_CERT_FILE, SSL_CERT_DIR, HTTP_PROXY, HTTPS_PROXY, ALL_PROXY"
_NO_TLS_THERE: Final = frozenset(
    ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
)
"""OpenSSL's words, which differ from version to version, for an answer that is no TLS."""

# Bounded by the threads or tasks that use it, each with at most one call out.
LIMITS: Final = httpx2.Limits(
    max_connections=None,
    max_keepalive_connections=None,
    keepalive_expiry=_KEPT_OPEN_SECONDS,
)

# Also when only a part was written: the node may have had enough of it.
TROUBLES: Final = (httpx2.TransportError, httpx2.DecodingError)
"""What httpx2 raises when there is no answer; everything else is a bug."""


@contextmanager
def environment_checked() -> Generator[None, None, None]:
    """Around the making of an httpx2 client, which reads the environment.

    Raises:
        ConfigurationError: it cannot go by that: ``SSL_CERT_FILE`` names no file, a proxy is of
            a kind that needs another package.
    """
    try:
        yield
    except (OSError, ImportError, ValueError, httpx2.InvalidURL) as error:
        raise ConfigurationError(
            f"the certificates or the proxy that the environment names ({_HTTPX_READS}) cannot be "
            f"used: {_described(error)}"
        ) from error


class Wire:
    """Makes the requests to one node with one key."""

    def __init__(self, url: str, key: str, request_timeout: float) -> None:
        """Nothing is sent.

        Raises:
            ConfigurationError: one of them cannot be right.
        """
        if not request_timeout > 0:
            raise ConfigurationError("request_timeout must be more than 0 seconds")
        self.url: Final = check_url(url)
        try:
            httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise ConfigurationError(f"not a URL: {url!r}: {error}") from error
        self._request_timeout = request_timeout
        self._headers = httpx2.Headers(
            {
                "Authorization": f"Bearer {check_key(key)}",
                "User-Agent": f"queue-node-sdk/{__version__}",
                "Accept": "application/json",
                "Content-Type": "application/json",
            }
        )

    def request(self, call: Call, left_seconds: float) -> httpx2.Request:
        """One try of ``call``, which ends after its usual time or what is left, if that is less.

        A call without patience still gets the time that one request may take.
        """
        usual_seconds = self._request_timeout + call.wait_seconds
        limit_seconds = min(usual_seconds, left_seconds) if left_seconds > 0 else usual_seconds
        return httpx2.Request(
            call.method,
            self.url + call.path,
            headers=self._headers,
            content=call.body or None,
            extensions={"timeout": httpx2.Timeout(limit_seconds).as_dict()},
        )


def reply_of(response: httpx2.Response) -> Reply:
    """An answer that has been read whole."""
    return Reply(response.status_code, response.content, response.headers)


def trouble_of(error: httpx2.TransportError | httpx2.DecodingError) -> Outcome:
    """What came instead of an answer."""
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        if (reason := _tls_refused(error)) is not None:
            return NoTls(reason)
        return NotSent(_described(error))
    return AnswerLost(_described(error))


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
