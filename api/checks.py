"""The checks of what occurs in more than one kind of request: a queue, a text, a duration. Pure.

They are here, and not with one of their users (``submit_schemas``, ``lease_schemas``,
``query_schemas``), because the same mistake is told in the same words wherever it is made. Each
``checked_*`` has the value that the node works with, or raises ``RefusedError``, whose problem the
decoder answers with.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from api import problems
from api.bodies import QUEUE_PATTERN, WAIT_MS_MAX
from api.decoding import RefusedError, refused
from api.durations import DURATION_MS_MAX, parse_duration
from api.problems import Problem
from partitions.options import DEFAULT_QUEUE

_QUEUE: Final = re.compile(QUEUE_PATTERN)

_Item = TypeVar("_Item")
_Checked = TypeVar("_Checked")


def each_checked(
    name: str, items: Sequence[_Item], check: Callable[[_Item], _Checked]
) -> list[_Checked] | Problem:
    """What ``check`` makes of each, in order; or the first problem, with its index: ``jobs[3]``."""
    checked: list[_Checked] = []
    try:
        for item in items:
            checked.append(check(item))  # noqa: PERF401 - how many there are says which is wrong
    except RefusedError as error:
        return problems.at(name, len(checked), error.problem)
    return checked


def checked_text(name: str, text: str, bytes_max: int) -> bytes:
    """``text`` as it is stored."""
    encoded = text.encode()
    if len(encoded) > bytes_max:
        raise RefusedError(problems.too_large(name, len(encoded), bytes_max))
    return encoded


def checked_queue(field: str, name: str | None) -> str:
    """The name of a queue; of the default one, where there is none."""
    if name is None:
        return DEFAULT_QUEUE
    if _QUEUE.fullmatch(name) is None:
        raise refused(f"{field} must match {QUEUE_PATTERN}")
    return name


def checked_duration(
    field: str, value: str | int | float | None, least_ms: int = 0, most_ms: int = DURATION_MS_MAX
) -> int | None:
    """Milliseconds, as ``parse_duration`` rounds them; None where there is no value."""
    if value is None:
        return None
    ms = parse_duration(value)
    if ms is None:
        span = f"more than 0, at most {_shown(most_ms)}" if least_ms else f"0 to {_shown(most_ms)}"
        raise refused(f"{field} must be a duration like 1m30s or a number of seconds, {span}")
    if ms < least_ms:
        raise refused(f"{field} must be > 0")
    # A number a hair above the limit is above it, whatever it is rounded to.
    if ms > most_ms or (isinstance(value, float) and value * 1000 > most_ms):
        raise refused(f"{field} must be <= {_shown(most_ms)}")
    return ms


def checked_wait(value: str | int | float | None) -> int:
    """Milliseconds of a long poll; 0 where there is none."""
    return checked_duration("wait", value, 0, WAIT_MS_MAX) or 0


def _shown(limit_ms: int) -> str:
    """A limit as a request could have it."""
    hours, rest_ms = divmod(limit_ms, 3_600_000)
    return f"{limit_ms // 1000}s" if rest_ms else f"{hours}h"
