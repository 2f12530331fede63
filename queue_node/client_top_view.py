"""What ``queue-node top`` draws of one look at a node."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from rich.console import RenderableType
from rich.text import Text

from queue_node.client_output import Fitted, age, plain, rate
from queue_node.client_queues_view import (
    HEADINGS,
    by_partition,
    queue_cells,
    sorted_by,
    unfinished,
)
from queue_node_sdk import QueueInfo, QueueList

_BAR_CHARACTERS: Final = 30


@dataclass(frozen=True)
class Look:
    """The queues as they were at one moment; ``trouble`` is why there is no newer one."""

    queues: QueueList
    at_seconds: float
    """By the monotonic clock."""
    trouble: str = ""


def as_json(look: Look, sort: str) -> dict[str, Any]:
    """The look as one object: ``queues``, ``partitions``, ``unavailable``, and ``error`` if any."""
    found: dict[str, Any] = {
        "queues": [msgspec.to_builtins(queue) for queue in sorted_by(look.queues, sort)],
        "partitions": {str(number): jobs for number, jobs in by_partition(look.queues).items()},
        "unavailable": look.queues.unavailable,
    }
    return found | ({"error": look.trouble} if look.trouble else {})


def view(look: Look, sort: str, url: str, age_seconds: float) -> Iterator[RenderableType]:
    """The lines of the screen, from the top."""
    queues, missing = look.queues, look.queues.unavailable
    yield _summary(queues, url)
    if look.trouble:
        yield Text(f"no answer for {age(age_seconds)}: {plain(look.trouble)}", "bold red")
    if missing:
        yield Text(f"partitions that do not answer: {missing}; their jobs are missing", "bold red")
    yield Text()
    if queues:
        rows = (queue_cells(queue) for queue in sorted_by(queues, sort))
        yield Fitted(HEADINGS, rows)
    else:
        yield Text("no queues: none has jobs", "dim")
    yield Text()
    yield _partitions(by_partition(queues), missing)


def _summary(queues: Sequence[QueueInfo], url: str) -> Text:
    rates = [queue.rates for queue in queues]
    parts = (
        f"{len(queues)} queues",
        f"{sum(map(unfinished, queues)):,} unfinished",
        f"in {rate(sum(of.submitted.m1 for of in rates))}/s",
        f"done {rate(sum(of.acked.m1 for of in rates))}/s",
        f"failed {rate(sum(of.failed.m1 for of in rates))}/s",
        f"dead {sum(queue.dead_letters for queue in queues):,}",
    )
    return Text.assemble((url, "bold"), "  ", "  ".join(parts))


def _partitions(jobs: dict[int, int], missing: Sequence[int]) -> Fitted:
    """Unfinished jobs by partition: as bars, for how even they are is seen at a glance."""
    most = max(jobs.values(), default=0)
    rows: list[tuple[str, str | Text, Text]] = []
    for number in sorted({*jobs, *missing}):
        if number in missing:
            rows.append((str(number), Text("-"), Text("no answer", "bold red")))
        else:
            length = round(_BAR_CHARACTERS * jobs[number] / most) if most else 0
            rows.append((str(number), f"{jobs[number]:,}", Text("▇" * length, "cyan")))
    return Fitted(("PARTITION", "UNFINISHED", ""), rows)
