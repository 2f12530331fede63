"""How long: the durations of requests, Go style or a number of seconds. Pure."""

import re
from functools import lru_cache
from typing import Final

DURATION_MS_MAX: Final = 3650 * 24 * 3_600_000
"""Ten years: more is a typing error, or milliseconds taken for seconds."""

DURATION_PATTERN: Final = r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^[0-9]+(\.[0-9]+)?$"
"""What ``parse_duration`` takes as text, for those who read the schema."""

_TEXT_CHARACTERS_MAX: Final = 64
"""Longer ones are nobody's, and would be kept in the cache."""

_MS_OF: Final = {
    "ns": 1e-6,
    "us": 1e-3,
    "µs": 1e-3,
    "ms": 1.0,
    "s": 1_000.0,
    "m": 60_000.0,
    "h": 3_600_000.0,
}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def parse_duration(value: str | int | float) -> int | None:
    """Milliseconds of ``1m30s``, ``500ms``, ``1.5h``, or a number of seconds, also as text.

    Rounded to the nearest, but what is more than nothing is at least 1. None: it is no
    duration from 0 to ``DURATION_MS_MAX``.
    """
    if isinstance(value, str):
        return _of_text(value) if len(value) <= _TEXT_CHARACTERS_MAX else None
    if isinstance(value, bool):
        return None
    # NaN is in no range. An int that is too large for a float must not get as far as the product.
    return _whole(value * 1000) if 0 <= value <= DURATION_MS_MAX else None


@lru_cache(maxsize=1024)
def _of_text(text: str) -> int | None:
    if _SECONDS.fullmatch(text):
        return _whole(float(text) * 1000)
    end, total_ms = 0, 0.0
    while match := _PART.match(text, end):
        total_ms += float(match[1]) * _MS_OF[match[2]]
        end = match.end()
    return _whole(total_ms) if end and end == len(text) else None


def _whole(ms: float) -> int | None:
    if ms > DURATION_MS_MAX:
        return None
    return max(round(ms), 1) if ms > 0 else 0
