"""Answers into bytes, and nothing in them that would be read as something else. Pure."""

import re
from http import HTTPStatus
from typing import Final

from api.answer import Answer
from api.grammar import token_grammar
from api.head import Head

_unsafe_in_header: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_phrases: Final = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES: Final = {
    status: f"HTTP/1.1 {status} {_phrases.get(status, 'Unknown')}\r\n".encode()
    for status in range(200, 600)
}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE: Final = b"Connection: close\r\n"
KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"


class UnsafeHeader(ValueError):
    """A header of an answer would have been something else on the wire: a bug of ours."""


def header_line(name: bytes, value: bytes) -> bytes:
    """One header line of an answer.

    Raises:
        UnsafeHeader: the name is no token, or a control character is in the value.
    """
    if token_grammar.fullmatch(name) is None or _unsafe_in_header.search(value) is not None:
        raise UnsafeHeader(f"header {name!r} with value {value!r}")
    return b"%b: %b\r\n" % (name, value)


def status_line(status: int) -> bytes:
    """The first line of an answer; any final status from 200 to 599."""
    return _STATUS_LINES[status]


def has_no_body(method: str, status: int) -> bool:
    """RFC 9112 6.3: an answer that ends with its head, whatever its headers say."""
    return method == "HEAD" or status in (204, 304)


def connection_line(head: Head | None, close: bool) -> bytes:
    """What the client has to be told about the connection; nothing when it is as usual."""
    if close:
        return CLOSE
    return b"" if head is None or head.http11 else KEEP_ALIVE


_answer_starts: Final[dict[tuple[int, str], bytes]] = {}


def render(answer: Answer, method: str, date_line: bytes, connection: bytes) -> bytes:
    """A whole answer as bytes.

    Raises:
        UnsafeHeader: a header of the answer is not fit to be sent.
    """
    body = answer.body
    key = (answer.status, answer.content_type if body else "")
    start = _answer_starts.get(key)
    if start is None:
        start = status_line(answer.status)
        if body:
            start += header_line(b"Content-Type", answer.content_type.encode("latin-1"))
        _answer_starts[key] = start  # as many as our own code has statuses and types
    extra = connection
    for name, value in answer.headers:
        extra += header_line(name.encode("latin-1"), value.encode("latin-1"))
    if has_no_body(method, answer.status):
        length = b"" if answer.status in (204, 304) else b"Content-Length: %d\r\n" % len(body)
        return b"%b%b%b%b\r\n" % (start, date_line, length, extra)
    return b"%b%bContent-Length: %d\r\n%b\r\n%b" % (start, date_line, len(body), extra, body)
