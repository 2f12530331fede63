"""Asking partitions: one that has the job, once more when it died under the question, or all.

A partition that dies with a command in flight leaves its outcome open. Where the same
command can be given again without doing anything twice (a submit under the same job id, an
ack under a token, a read), it is, once the partition is back: the client only sees a pause. Not
where it hangs: nobody starts that one anew, and the client has waited long enough. A read that
found no answer is to be sent again (``Retry-After``): it has changed nothing.
"""

from collections.abc import Sequence
from typing import Final

import trio

from api import problems
from api.calls import Call, in_task, outcome_of
from api.errors import OverloadedError, PartitionUnavailableError
from api.partition_client import PartitionClient
from api.problems import Problem
from partitions.messages import (
    ClaimKeys,
    Command,
    FindGone,
    FreeKeys,
    Get,
    KeysHeld,
    List,
    ListClaims,
    Reply,
    StorageFull,
    TooLate,
    TooMany,
    Unreadable,
    ViewQueues,
)
from partitions.slots import format_job_id

AGAIN_WITHIN_S: Final = 5.0
"""How long an operation waits for a partition that died under it (a restart takes less)."""

_QUESTIONS: Final = (Get, List, ViewQueues, ClaimKeys, FreeKeys, ListClaims, FindGone)
"""What no client can see anything of: to claim a key makes no job."""


async def ask_one(
    client: PartitionClient, command: Command, text_bytes: int = 0, *, repeatable: bool = True
) -> Reply | Problem:
    """The partition's reply, or why there is none."""
    try:
        return await client.ask(command, text_bytes)
    except OverloadedError:
        return problems.OVERLOADED
    except PartitionUnavailableError as error:
        return await _after_loss(client, command, text_bytes, error, {} if repeatable else None)


async def ask_each(
    asked: Sequence[tuple[PartitionClient, Command, int]], *, repeatable: bool = True
) -> list[Reply | Problem]:
    """The replies to ``[(partition, command, bytes of its texts)]``, asked all at once."""
    calls: list[Call | Problem] = []
    for client, command, text_bytes in asked:
        try:
            calls.append(client.begin(command, text_bytes))
        except OverloadedError:
            calls.append(problems.OVERLOADED)
        except PartitionUnavailableError:
            calls.append(problems.PARTITION_DOWN)
    replies: list[Reply | Problem] = []
    # What was lost with one partition is waited for together, not one after the other.
    deadlines: dict[PartitionClient, float] | None = {} if repeatable else None
    for call, (client, command, text_bytes) in zip(calls, asked, strict=True):
        if isinstance(call, Problem):
            replies.append(call)
            continue
        try:
            replies.append(await outcome_of(call))
        except PartitionUnavailableError as error:
            replies.append(await _after_loss(client, command, text_bytes, error, deadlines))
    return replies


async def _after_loss(
    client: PartitionClient,
    command: Command,
    text_bytes: int,
    error: PartitionUnavailableError,
    deadlines: dict[PartitionClient, float] | None,
) -> Reply | Problem:
    """The reply to the same command again; ``deadlines`` None: it is not repeatable."""
    if not error.sent:
        return problems.PARTITION_DOWN
    # A question has changed nothing, whatever became of it.
    lost = problems.PARTITION_DOWN if type(command) in _QUESTIONS else problems.OUTCOME_UNKNOWN
    if error.hangs or deadlines is None:
        return lost
    await in_task()
    with trio.move_on_at(deadlines.setdefault(client, trio.current_time() + AGAIN_WITHIN_S)):
        await client.wait_serving()
        try:
            return await client.call(command, text_bytes)
        except (OverloadedError, PartitionUnavailableError):
            return lost
    return lost


def refused(reply: Reply | Problem) -> Problem:
    """The answer to a reply that has the same meaning for every operation."""
    match reply:
        case Problem():
            return reply
        case StorageFull():
            return problems.STORAGE_FULL
        case TooMany(what="jobs"):
            return problems.TOO_MANY_JOBS
        case TooMany(what="queues"):
            return problems.TOO_MANY_QUEUES
        case TooMany():
            return problems.TOO_MANY_WAITING
        case KeysHeld():
            return problems.KEY_CLAIMED
        case TooLate():
            # It took longer than any answer may; nothing was stored, and nothing will be.
            return problems.PARTITION_DOWN
        case Unreadable():
            return problems.unreadable(format_job_id(reply.job_id))
        case _:
            # A reply that this operation cannot have: a bug, or a front and a partition of
            # different releases. Nothing may be claimed about the job.
            return problems.INTERNAL
