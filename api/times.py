"""When: the RFC 3339 times of requests and answers, in ms since 1970. Pure."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

TIME_MS_MAX: Final = 253_402_300_799_999
"""The end of the year 9999: what comes after cannot be shown."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def rfc3339(time_ms: int) -> str:
    """``2025-12-26T10:30:00.250Z``; without a fraction when it is zero."""
    seconds, ms = divmod(time_ms, 1000)
    return f"{_moment(seconds)}.{ms:03}Z" if ms else f"{_moment(seconds)}Z"


def parse_rfc3339(text: str) -> int | None:
    """The time that ``text`` names, cut to ms, below 0 before 1970.

    With ``Z`` or an offset, which RFC 3339 demands; fractions of up to nine digits. A leap second
    is none, as in every system that counts 86,400 seconds a day. None: it names no time up to
    ``TIME_MS_MAX``.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError):
        return None
    time_ms = seconds * 1000 + int((fraction or "0")[:3].ljust(3, "0"))
    return time_ms if time_ms <= TIME_MS_MAX else None


@lru_cache(maxsize=1024)
def _moment(seconds: int) -> str:
    # Leases of one second share it; to format it each time was 6 % of a front's time.
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
