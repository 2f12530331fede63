"""Everything that the SDK raises: one tree under ``QueueNodeError``. Pure.

``protocol`` translates the node's answers and the network's faults into these, once.
``status`` is the HTTP status when the node answered, else ``None``.
"""


class QueueNodeError(Exception):
    """Base of every error of this package."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class ConfigurationError(QueueNodeError, ValueError):
    """The URL, the key or an option cannot be right; nothing was sent."""


class TlsError(ConfigurationError):
    """No TLS with what is at the URL: its certificate is not trusted, or it speaks plain HTTP.

    Nothing was sent, and trying again would not help.
    """


class AuthError(QueueNodeError):
    """401: the key is missing, unknown or revoked."""


class PermissionDenied(AuthError):
    """403: the key is fine, but may not do this (a worker key that submits, say)."""


class BadRequest(QueueNodeError):
    """The request itself is wrong, and would be wrong again; nothing was changed."""


class TooLarge(BadRequest):
    """413: the payload or the result is over the node's limit (1 MiB by default)."""


class NotFound(QueueNodeError):
    """404: there is no such job (any more)."""


class IdempotencyConflict(BadRequest):
    """422: the idempotency key was used before, for a job that says something else."""


class WrongState(QueueNodeError):
    """409: a job in this state is not cancelled, retried or deleted; nothing was changed."""


class LeaseLost(QueueNodeError):
    """409: the lease ended, so the attempt is not ours to finish any more."""


class JobCancelled(LeaseLost):
    """409: the job was cancelled while it was leased; its outcome interests nobody any more."""


class Overloaded(QueueNodeError):
    """503 until the patience ran out: not taken.

    ``retry_after_seconds`` is the node's advice.
    """


class QueueFull(Overloaded):
    """429 until the patience ran out: the node holds as many jobs as it may; nothing was stored."""


class ServerError(QueueNodeError):
    """Any other 5xx: the node failed, and whether the request took effect is not known."""


class StorageFull(ServerError):
    """507: the node's disk has no room for new jobs. Unlike its base, nothing was stored."""


class UnexpectedAnswer(QueueNodeError):
    """The answer is none of Queue Node's: the URL most likely leads to something else."""


class Unreachable(QueueNodeError):
    """No connection, or none that lived until the answer, until the patience ran out."""


class OutcomeUnknown(Unreachable):
    """The request was sent, and its answer was lost until the patience ran out.

    It may have taken effect, or not. A submit that is sent again with the same idempotency
    key never makes a second job.
    """


class Timeout(QueueNodeError, TimeoutError):
    """The job was not finished in the time given; it goes on, and can be waited for again."""
