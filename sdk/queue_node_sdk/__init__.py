"""Client and worker for Queue Node, a durable job queue over HTTP.

``Client`` (on trio and asyncio: ``AsyncClient``) submits jobs and reads what became of them;
``Worker`` leases jobs, hands each to a function and reports its outcome. Everything raised here
is a ``QueueNodeError``.
"""

from queue_node_sdk.aclient import AsyncClient
from queue_node_sdk.client import Client
from queue_node_sdk.errors import (
    AuthError,
    BadRequest,
    ConfigurationError,
    IdempotencyConflict,
    JobCancelled,
    LeaseLost,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    QueueFull,
    QueueNodeError,
    ServerError,
    StorageFull,
    Timeout,
    TlsError,
    TooLarge,
    UnexpectedAnswer,
    Unreachable,
    WrongState,
)
from queue_node_sdk.models import (
    Job,
    JobPage,
    JobState,
    LeasedJob,
    QueueInfo,
    QueueList,
    Rate,
    Rates,
)
from queue_node_sdk.options import BackoffOptions, Duration, JobOptions, Submit
from queue_node_sdk.version import __version__
from queue_node_sdk.worker import Worker
from queue_node_sdk.worker_context import (
    JobContext,
    JobFields,
    Reject,
    Release,
    Retry,
    current_job,
)

__all__ = [
    "AsyncClient",
    "AuthError",
    "BackoffOptions",
    "BadRequest",
    "Client",
    "ConfigurationError",
    "Duration",
    "IdempotencyConflict",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobFields",
    "JobOptions",
    "JobPage",
    "JobState",
    "LeaseLost",
    "LeasedJob",
    "NotFound",
    "OutcomeUnknown",
    "Overloaded",
    "PermissionDenied",
    "QueueFull",
    "QueueInfo",
    "QueueList",
    "QueueNodeError",
    "Rate",
    "Rates",
    "Reject",
    "Release",
    "Retry",
    "ServerError",
    "StorageFull",
    "Submit",
    "Timeout",
    "TlsError",
    "TooLarge",
    "UnexpectedAnswer",
    "Unreachable",
    "Worker",
    "WrongState",
    "__version__",
    "current_job",
]
