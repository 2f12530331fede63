"""Just enough HTTP/1.1 to read the answers of a node. Pure.

A full parser would cost the load process more than the rest of its work together. This one
looks for the end of the head, and knows a head that it has seen before (status, headers and
date repeat for thousands of answers) by a dictionary look-up. What it does not understand
it refuses loudly: a benchmark must not count what it cannot read.
"""

import re
from typing import Final

from bench.errors import MalformedAnswerError

HEAD_BYTES_MAX: Final = 16 << 10
_START: Final = b"HTTP/1.1 "
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: [^\r\n]*)?")
_DIGITS: Final = re.compile(rb"[0-9]{1,9}")
_HEADS_MAX: Final = 512

Head = tuple[int, int, bool]
"""Status, body length, and whether the node will close the connection."""
Answer = tuple[int, bytes, bool]
"""Status, body, and whether the node will close the connection. A tuple: it is built 30,000
times a second, and a class costs three times as much."""


class ResponseScanner:
    """Reads answers, one at a time: nothing is pipelined, so one buffer holds at most one."""

    def __init__(self) -> None:
        """Start with no head known."""
        self._heads: dict[bytes, Head] = {}

    def scan(self, data: bytes) -> Answer | None:
        """The answer that ``data`` is, or None while it is not whole.

        Raises:
            MalformedAnswerError: it is not an answer, or more than one.
        """
        end = data.find(b"\r\n\r\n")
        if end < 0:
            _check_incomplete_head(data)
            return None
        head = data[:end]
        known = self._heads.get(head)
        if known is None:
            known = self._learn(head)
        status, length, closes = known
        end += 4 + length
        if len(data) < end:
            return None
        if len(data) > end:
            raise MalformedAnswerError(
                f"{len(data) - end} bytes behind an answer: {data[end:]!r:.99}"
            )
        return status, data[end - length :], closes

    def _learn(self, head: bytes) -> Head:
        known = _parse_head(head)
        # Heads with a date change every second; a run of an hour must not keep them all.
        if len(self._heads) >= _HEADS_MAX:
            self._heads.clear()
        self._heads[head] = known
        return known


def _check_incomplete_head(data: bytes) -> None:
    start = data[: len(_START)]
    if start != _START[: len(start)]:
        raise MalformedAnswerError(f"this does not begin an HTTP/1.1 answer: {data!r:.99}")
    if len(data) > HEAD_BYTES_MAX:
        raise MalformedAnswerError(f"a head of more than {HEAD_BYTES_MAX} bytes: {data!r:.99}")


def _parse_head(head: bytes) -> Head:
    status_line, *lines = head.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None:
        raise MalformedAnswerError(f"not a status line: {status_line!r:.99}")
    status = int(match[1])
    lengths = []
    closes = False
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise MalformedAnswerError(f"not a header: {line!r:.99}")
        match name.lower():
            case b"content-length":
                lengths.append(value.strip())
            case b"transfer-encoding":
                raise MalformedAnswerError("a chunked answer; the benchmark reads Content-Length")
            case b"connection":
                closes = value.strip().lower() == b"close"
    if not lengths and status in (204, 304):
        return status, 0, closes
    if len(lengths) != 1 or _DIGITS.fullmatch(lengths[0]) is None:
        raise MalformedAnswerError(f"one Content-Length of digits is needed, not {lengths!r:.99}")
    return status, int(lengths[0]), closes
