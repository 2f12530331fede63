"""Client and worker for Queue Node, a durable job queue over HTTP.

``Client`` submits jobs and reads what became of them; ``Worker`` leases jobs, hands each to
a function and reports its outcome. Everything raised here is a ``QueueNodeError``.
"""

from queue_node_sdk.client import Client
from queue_node_sdk.errors import (
    AuthError,
    BadRequest,
    ConfigurationError,
    LeaseLost,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    QueueNodeError,
    ServerError,
    StorageFull,
    Timeout,
    TlsError,
    TooLarge,
    UnexpectedAnswer,
    Unreachable,
)
from queue_node_sdk.models import Job, JobState, LeasedJob
from queue_node_sdk.version import __version__
from queue_node_sdk.worker import Worker

__all__ = [
    "AuthError",
    "BadRequest",
    "Client",
    "ConfigurationError",
    "Job",
    "JobState",
    "LeaseLost",
    "LeasedJob",
    "NotFound",
    "OutcomeUnknown",
    "Overloaded",
    "PermissionDenied",
    "QueueNodeError",
    "ServerError",
    "StorageFull",
    "Timeout",
    "TlsError",
    "TooLarge",
    "UnexpectedAnswer",
    "Unreachable",
    "Worker",
    "__version__",
]
