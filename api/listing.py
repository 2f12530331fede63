"""Lists over all partitions, and bulk calls over them: in steps that are bounded, in order.

Each partition gives its jobs in order of submission, and looks at a bounded number of them for one
page, so a page may end before it is full. Merged are only jobs up to the time that every partition
has looked at; each begins the next page behind the last job of its own that was given. So a job
that exists all along is given exactly once, whatever happens to the others meanwhile.
"""

from collections.abc import Sequence

import msgspec

from api import problems
from api.asking import ask_each, ask_one, refused
from api.cursors import decode_cursor, encode_cursor
from api.partition_client import PartitionClient
from api.problems import Problem
from api.query_schemas import ListRequest
from partitions.messages import (
    NUMBER_SHIFT,
    JobView,
    List,
    Page,
    Pause,
    QueueView,
    QueueViews,
    Settled,
    Sweep,
    Swept,
    ViewQueues,
)


class Listed(msgspec.Struct, frozen=True):
    """A page, and where the next one begins; None: there is none."""

    jobs: list[JobView]
    cursor: str | None


class Listing:
    """What concerns the jobs of all partitions."""

    def __init__(self, clients: Sequence[PartitionClient]) -> None:
        self._clients = tuple(clients)

    async def page(self, request: ListRequest) -> Listed | Problem:
        """Jobs in order of submission."""
        positions: tuple[int | None, ...] = (0,) * len(self._clients)
        if request.cursor is not None:
            decoded = decode_cursor(request.cursor, len(self._clients))
            if isinstance(decoded, Problem):
                return decoded
            positions = decoded
        asked = [
            (client, List(position, request.limit, request.filter), 0)
            for client, position in zip(self._clients, positions, strict=True)
            if position is not None
        ]
        replies = await ask_each(asked)
        pages: list[Page | None] = []
        left = iter(replies)
        for position in positions:
            reply = None if position is None else next(left)
            if reply is not None and not isinstance(reply, Page):
                return refused(reply)
            pages.append(reply)
        jobs, after = _merged(pages, request.limit)
        cursor = None if all(each is None for each in after) else encode_cursor(after)
        return Listed(jobs, cursor)

    async def queues(self, queue: str | None) -> tuple[list[tuple[int, QueueView]], list[int]]:
        """``([(partition, queue there)], partitions that did not answer)``."""
        found: dict[int, list[QueueView]] = {client.partition: [] for client in self._clients}
        silent: list[int] = []
        asked = [(client, ViewQueues(queue)) for client in self._clients]
        while asked:
            replies = await ask_each([(client, command, 0) for client, command in asked])
            went_on: list[tuple[PartitionClient, ViewQueues]] = []
            for (client, _), reply in zip(asked, replies, strict=True):
                if not isinstance(reply, QueueViews):
                    silent.append(client.partition)
                    found[client.partition] = []  # a part of them would look like all
                    continue
                found[client.partition] += reply.queues
                if reply.next_after is not None:
                    went_on.append((client, ViewQueues(queue, reply.next_after)))
            asked = went_on
        views = [(partition, view) for partition, own in found.items() for view in own]
        return views, sorted(silent)

    async def pause(self, queue: str, *, paused: bool) -> Problem | None:
        """In every partition, or a problem: it may be so in some, and is to be called again."""
        if not all(client.serving for client in self._clients):
            return problems.PARTITION_DOWN
        for reply in await ask_each(
            [(client, Pause(queue, paused), 0) for client in self._clients]
        ):
            if not isinstance(reply, Settled):
                return refused(reply)
        return None

    async def sweep(self, first: Sweep) -> int | Problem:
        """The same to all jobs of a queue and state that there are now; how many it was."""
        if not all(client.serving for client in self._clients):
            return problems.PARTITION_DOWN
        count = 0
        for client in self._clients:
            step: Sweep | None = first
            while step is not None:
                # Not a second time: the count would be of the second time.
                reply = await ask_one(client, step, repeatable=False)
                if not isinstance(reply, Swept):
                    return refused(reply)
                count += reply.count
                step = _next_step(step, reply)
        return count


def _next_step(step: Sweep, swept: Swept) -> Sweep | None:
    if swept.next_number is None:
        return None
    return msgspec.structs.replace(
        step, after_number=swept.next_number, up_to_number=swept.up_to_number
    )


def _merged(
    pages: Sequence[Page | None], limit: int
) -> tuple[list[JobView], tuple[int | None, ...]]:
    """The jobs of one page, and behind which number each partition goes on.

    ``pages`` is one for each partition, None for one that was at its end before.
    """
    horizons = [page.next_number for page in pages if page and page.next_number is not None]
    horizon_ms = min((number >> NUMBER_SHIFT for number in horizons), default=None)
    merged = sorted(
        (
            (job.created_at_ms, index, job.number, job)
            for index, page in enumerate(pages)
            if page is not None
            for job in page.jobs
        ),
        key=lambda each: each[:3],
    )
    given = [each for each in merged if horizon_ms is None or each[0] <= horizon_ms][:limit]
    counts = [0] * len(pages)
    for _, index, _, _ in given:
        counts[index] += 1
    after: list[int | None] = []
    for page, count in zip(pages, counts, strict=True):
        if page is None:
            after.append(None)
        elif count < len(page.jobs):
            after.append(page.jobs[count].number - 1)
        else:
            after.append(page.next_number)
    return [job for *_, job in given], tuple(after)
