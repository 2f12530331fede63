"""Queues and partitions in tables."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from rich.text import Text

from queue_node.client_output import STYLES, Cell, age, rate
from queue_node_sdk import QueueInfo

STATES: Final = ("READY", "SCHEDULED", "RUNNING", "RETRY", "ACKED", "DEAD", "CANCELLED")

HEADINGS: Final = ("QUEUE", *STATES, "OLDEST", "IN/S", "LEASED/S", "DONE/S", "FAILED/S")
"""Rates are those of the last minute."""

_UNFINISHED: Final = ("READY", "SCHEDULED", "RUNNING", "RETRY")


BY_BACKLOG: Final = "backlog"
SORTS: Final = (BY_BACKLOG, "name", "age", "rate", "dead")


def queue_cells(queue: QueueInfo) -> Sequence[Cell]:
    """Under ``HEADINGS``."""
    name = Text(queue.queue)
    if queue.paused:
        name.append(" paused", "bold yellow")
    rates = queue.rates
    return (
        name,
        *(_count(state, queue.counts.get(state, 0)) for state in STATES),
        age(queue.oldest_ready_age),
        *(rate(of.m1) for of in (rates.submitted, rates.leased, rates.acked, rates.failed)),
    )


def sorted_by(queues: Iterable[QueueInfo], sort: str) -> list[QueueInfo]:
    """``queues`` with those first that ``sort``, one of ``SORTS``, is about; then by name."""
    key = _SORT_KEYS[sort]
    return sorted(queues, key=lambda queue: (-key(queue), queue.queue))


def unfinished(queue: QueueInfo) -> int:
    """Jobs that are still to be done."""
    return sum(queue.counts.get(state, 0) for state in _UNFINISHED)


def by_partition(queues: Iterable[QueueInfo]) -> dict[int, int]:
    """``{partition: unfinished jobs}`` over all queues, of the partitions that answered."""
    jobs: dict[int, int] = {}
    for queue in queues:
        for partition, count in queue.partitions.items():
            jobs[int(partition)] = jobs.get(int(partition), 0) + count
    return dict(sorted(jobs.items()))


_SORT_KEYS: Final[dict[str, Callable[[QueueInfo], float]]] = {
    BY_BACKLOG: unfinished,
    "name": lambda queue: 0,
    "age": lambda queue: queue.oldest_ready_age or 0.0,
    "rate": lambda queue: queue.rates.acked.m1,
    "dead": lambda queue: queue.dead_letters,
}


def _count(state: str, count: int) -> Text:
    return Text(f"{count:,}", STYLES[state] if count else "dim")
