"""What the words of the client commands may be: the kinds of value that argparse checks. Pure."""

import argparse
from datetime import UTC, datetime

from api.durations import parse_duration


def duration(text: str) -> float:
    """Seconds of ``30s``, ``1m30s``, ``500ms`` or a number of seconds.

    Raises:
        argparse.ArgumentTypeError: it is none of these.
    """
    ms = parse_duration(text)
    if ms is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration, such as 30s, 1m30s or 500ms")
    return ms / 1000


def at_least_one(text: str) -> int:
    """A whole number from 1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def moment(text: str) -> datetime:
    """A time in RFC 3339, such as ``2025-12-26T10:30:00Z``; without an offset it is UTC.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time, such as 2025-12-26T10:30:00Z"
        ) from error
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


def tag(text: str) -> tuple[str, str]:
    """Name and value of ``name=value``; the first ``=`` parts them.

    Raises:
        argparse.ArgumentTypeError: there is no ``=``, or nothing before it.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is no tag, such as customer=42")
    return name, value


def tags(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """As a mapping.

    Raises:
        argparse.ArgumentTypeError: a name comes twice.
    """
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise argparse.ArgumentTypeError("a tag has one value: the same name comes twice")
    return mapping
