"""The side that submits jobs and waits for their results: a thin shell, synchronous.

Any number of threads may share one ``Client``.
"""

import os
import ssl
import time
from types import TracebackType
from typing import Final, Self

from queue_node_sdk.backoff import FIRST_POLL_SECONDS, POLL_GROWTH, Backoff
from queue_node_sdk.errors import ConfigurationError, Overloaded, Timeout, Unreachable
from queue_node_sdk.models import Job
from queue_node_sdk.protocol import job_of, status_call, submit_call, submitted_id
from queue_node_sdk.transport import Transport

URL_VARIABLE: Final = "QUEUE_NODE_URL"
KEY_VARIABLE: Final = "QUEUE_NODE_KEY"

_LAST_LOOK_SECONDS: Final = 1.0
"""What the look at the end of a wait may take beyond it, from a node that does not answer."""


class Client:
    """Submits jobs to one node and reads what became of them.

    Connection errors, 429 and 503 are got over by trying again, with back-off, for
    ``retry_for`` seconds per call; a longer outage is raised.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        retry_for: float = 30.0,
        request_timeout: float = 10.0,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: of the node, such as ``http://127.0.0.1:8080``.
            key: a client key (``client_...``) or an admin key.
            retry_for: seconds that one call may take with all its tries.
            request_timeout: seconds that one try may wait for the node.
            verify: how a node's certificate is checked: an ``ssl.SSLContext`` for a
                private authority.

        Raises:
            ConfigurationError: the URL or the key cannot be right.
        """
        self._retry_for = retry_for
        self._transport = Transport(url, key, request_timeout=request_timeout, verify=verify)

    @classmethod
    def from_env(cls) -> Self:
        """A client for the node in ``QUEUE_NODE_URL``, with the key in ``QUEUE_NODE_KEY``.

        Raises:
            ConfigurationError: one of them is not set, or cannot be right.
        """
        return cls(*url_and_key_from_env())

    def submit(self, payload: str, *, max_retries: int | None = None) -> str:
        """Store a job and return its id. When this returns, the job is on disk.

        A submit is sent again only where the first one surely stored nothing: there was no
        connection, or the node refused it for the moment (429, 503 with ``Retry-After``).
        When a request went out and its answer never came, ``OutcomeUnknown`` is raised; when
        the node broke down over it, ``ServerError``: the job may exist, and submitting it
        again may make two of it.

        Args:
            payload: any text that is not empty, 1 MiB in UTF-8 at most.
            max_retries: attempts that the job gets in all; ``None``: the node's default.

        Raises:
            BadRequest: the node does not take this job (``TooLarge``: over its limit).
            AuthError: the key is wrong, or may not submit.
            TlsError: the node's certificate is not trusted; nothing was sent.
            OutcomeUnknown, ServerError: the job may be stored, or not.
            Overloaded, Unreachable, StorageFull: the job is not stored.
        """
        call = submit_call(payload, max_retries)
        return submitted_id(self._transport.exchange(call, self._retry_for))

    def get_status(self, job_id: str) -> Job:
        """The job as it stands now.

        Raises:
            NotFound: the node knows no such job (any more).
        """
        return job_of(self._transport.exchange(status_call(job_id), self._retry_for))

    def wait_for_completion(
        self, job_id: str, timeout: float | None = 60.0, poll_interval: float = 1.0
    ) -> Job:
        """Wait until the job is finished, one way or another: see ``Job.succeeded``.

        Asks quickly at first and then ever more seldom, so that a short job is seen at once
        and a long one costs little.

        Args:
            job_id: as ``submit`` returned it.
            timeout: seconds; ``None``: for ever.
            poll_interval: the longest pause between two questions, in seconds.

        Raises:
            Timeout: it was not finished in time (or the node not reachable until then).
            NotFound: the node knows no such job (any more).
        """
        if not poll_interval > 0:
            raise ConfigurationError("poll_interval must be more than 0 seconds")
        call = status_call(job_id)
        pace = Backoff(min(FIRST_POLL_SECONDS, poll_interval), poll_interval, POLL_GROWTH)
        give_up_at = None if timeout is None else time.monotonic() + timeout
        polls = 0
        while True:
            patience_seconds = self._retry_for
            if give_up_at is not None:
                patience_seconds = max(give_up_at - time.monotonic(), _LAST_LOOK_SECONDS)
            try:
                job = job_of(self._transport.exchange(call, patience_seconds))
            except (Unreachable, Overloaded) as error:
                if give_up_at is None:
                    raise
                raise Timeout(f"job {job_id} is not known to be finished: {error}") from error
            if job.finished:
                return job
            polls += 1
            pause_seconds = pace.ceiling_seconds(polls)
            if give_up_at is not None:
                left_seconds = give_up_at - time.monotonic()
                if left_seconds <= 0:
                    raise Timeout(f"job {job_id} is {job.state} after {timeout:g} s")
                # The last look is at the deadline, not a pause before it.
                pause_seconds = min(pause_seconds, left_seconds)
            time.sleep(pause_seconds)

    def submit_and_wait(
        self,
        payload: str,
        *,
        max_retries: int | None = None,
        timeout: float | None = 60.0,
        poll_interval: float = 1.0,
    ) -> Job:
        """``submit`` and ``wait_for_completion`` in one; ``timeout`` is for the waiting."""
        job_id = self.submit(payload, max_retries=max_retries)
        return self.wait_for_completion(job_id, timeout, poll_interval)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        # Never the key.
        return f"Client({self._transport.url!r})"


def url_and_key_from_env() -> tuple[str, str]:
    """What ``from_env`` goes by.

    Raises:
        ConfigurationError: one of the two variables is not set.
    """
    missing = [name for name in (URL_VARIABLE, KEY_VARIABLE) if not os.environ.get(name)]
    if missing:
        raise ConfigurationError(f"not set in the environment: {' and '.join(missing)}")
    return os.environ[URL_VARIABLE], os.environ[KEY_VARIABLE]
