"""The one table: what went wrong -> status and words. Pure.

Every refusal and every fault that a client may see is one ``Problem`` made here, so the
lane, the Quart routes and HTTP/2 cannot differ in a status or a word.
"""

from typing import Final, final

import msgspec

from api.answer import Answer


@final
class Problem(msgspec.Struct, frozen=True):
    """A refusal in the contract's words.

    On the way of every request it is told by ``type(...) is Problem``: of a class with a
    metaclass, as structs are, ``isinstance`` that says no costs six times as much.
    """

    status: int
    error: str
    headers: tuple[tuple[str, str], ...] = ()


class ErrorBody(msgspec.Struct, frozen=True):
    """Of every answer that is a problem."""

    error: str


_encode: Final = msgspec.json.Encoder().encode
_CHALLENGE: Final = (("WWW-Authenticate", "Bearer"),)
_RETRY_SOON: Final = (("Retry-After", "1"),)
_RETRY_LATER: Final = (("Retry-After", "5"),)

_JOB_ID_SHOWN_MAX: Final = 100
"""Characters of a job id that an answer repeats: a real one has 36."""

MISSING_AUTHORIZATION: Final = Problem(401, "Missing Authorization header", _CHALLENGE)
BAD_AUTHORIZATION: Final = Problem(
    401, "Invalid Authorization header format. Expected: Bearer <token>", _CHALLENGE
)
EMPTY_KEY: Final = Problem(401, "Empty API key", _CHALLENGE)
INVALID_KEY: Final = Problem(401, "Invalid API key", _CHALLENGE)
REVOKED_KEY: Final = Problem(401, "API key has been revoked", _CHALLENGE)
ADMIN_REQUIRED: Final = Problem(403, "Admin access required")
NOT_THE_OWNER: Final = Problem(403, "access denied: not the owner")
KEY_NOT_FOUND: Final = Problem(404, "key not found")
KEYSTORE_UNREACHABLE: Final = Problem(
    503, "key store unreachable: this key cannot be checked now, try again", _RETRY_SOON
)
METHOD_NOT_ALLOWED: Final = Problem(405, "method not allowed")
UNSUPPORTED_MEDIA_TYPE: Final = Problem(
    415, "unsupported media type: a body must be JSON, send Content-Type application/json"
)
NO_SUCH_ROUTE: Final = Problem(404, "not found")
NO_JOBS: Final = Problem(404, "no jobs available")
INVALID_JSON: Final = Problem(400, "invalid JSON")
PAYLOAD_REQUIRED: Final = Problem(400, "payload is required")
MAX_RETRIES_NEGATIVE: Final = Problem(400, "max_retries must be >= 0")
STORAGE_FULL: Final = Problem(
    507, "storage full: the disk has no room for this now, try again later", _RETRY_LATER
)
OVERLOADED: Final = Problem(503, "overloaded: too many requests in flight, try again", _RETRY_SOON)
# A front cannot tell a partition that is about to be back from one that stays down because its
# log is corrupt; the supervisor knows, and `/ready` and the log say it.
PARTITION_DOWN: Final = Problem(
    503,
    "partition unavailable: try again, it may be starting; if it stays so, the node's log says why",
    _RETRY_SOON,
)
# Without Retry-After, which promises that nothing has happened: a client that sent a submit
# again on this answer could make two jobs of one.
OUTCOME_UNKNOWN: Final = Problem(
    503, "partition lost while it worked on this: it may or may not have happened"
)
LEASE_LOST: Final = Problem(409, "lease lost")
CANCELLED: Final = Problem(409, "cancelled")
IDEMPOTENCY_CONFLICT: Final = Problem(
    422, "idempotency_key was used before, for a job with another body"
)
KEY_CLAIMED: Final = Problem(
    503,
    "idempotency_key is in use: another submit under it is under way, try again",
    _RETRY_SOON,
)
KEY_FOR_A_BATCH: Final = Problem(
    400, "Idempotency-Key is of one job: give each job of a batch its field idempotency_key"
)
TOO_MANY_JOBS: Final = Problem(
    429, "too many jobs: the node holds as many as it may, try again later", _RETRY_LATER
)
TOO_MANY_QUEUES: Final = Problem(
    429, "too many queues: the node holds as many as it may, try again later", _RETRY_LATER
)
TOO_MANY_WAITING: Final = Problem(
    503, "overloaded: too many requests wait already, try again", _RETRY_SOON
)
PARTLY_STORED: Final = Problem(
    503, "part of the batch could not be stored: see results, and send those jobs again"
)
DONE_BUT_UNREAD: Final = Problem(
    503, "done, and on disk; what it looks like now could not be read: read it again"
)
INTERNAL: Final = Problem(500, "internal error: see the node's log")


def missing_scope(scope: str) -> Problem:
    """403: the key is fine, but may not do this."""
    return Problem(403, f"Insufficient permissions: {scope} is required")


def too_large(field: str, size_bytes: int, bytes_max: int) -> Problem:
    """413: a text is over its limit."""
    return Problem(413, f"{field} too large: {size_bytes} bytes, at most {bytes_max} are allowed")


def job_not_found(job_id: str) -> Problem:
    """404 of a read."""
    return Problem(404, f"job not found: {_shown(job_id)}")


def ack_unknown(job_id: str) -> Problem:
    """400 of an ack: there is no such job."""
    return Problem(400, f"failed to ack job: job not found: {_shown(job_id)}")


def wrong_state(job_id: str, state: str) -> Problem:
    """409: what was asked for is not done to a job in this state."""
    return Problem(409, f"job {job_id} cannot do this: its state is {state}")


def not_finished(job_id: str, state: str) -> Problem:
    """409: only a finished job can be deleted."""
    return Problem(409, f"job {job_id} is not finished, its state is {state}: cancel it first")


def at(item: str, index: int, problem: Problem) -> Problem:
    """What is wrong with one of many: ``jobs[3]: payload is required``."""
    return Problem(problem.status, f"{item}[{index}]: {problem.error}", problem.headers)


def ack_not_running(job_id: str, state: str) -> Problem:
    """400 of an ack without a lease token: nobody holds the job."""
    return Problem(400, f"failed to ack job: job {job_id} is not running, its state is {state}")


def unreadable(job_id: str) -> Problem:
    """500: the job is there, its text is not what was written."""
    return Problem(
        500, f"job {job_id}: its text on disk is damaged; the node's log names file and offset"
    )


def to_answer(problem: Problem) -> Answer:
    """The problem as the client sees it."""
    return Answer(problem.status, _encode(ErrorBody(problem.error)), headers=problem.headers)


def _shown(job_id: str) -> str:
    if len(job_id) <= _JOB_ID_SHOWN_MAX:
        return job_id
    return f"{job_id[:_JOB_ID_SHOWN_MAX]}..."
