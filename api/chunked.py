"""A body in chunks (RFC 9112 7.1), out of pieces of any size. Pure.

Our grammar finds its end, llhttp its data: given the same bytes, they have to agree
(``api.http1`` says why). Trailers are checked and dropped; nobody gets to see them, because a
field behind the body must not authorise what came before.
"""

from typing import Final, Literal

import httptools

from api.grammar import (
    Malformed,
    body_too_large,
    chunk_size_grammar,
    head_too_large,
    header_grammar,
    too_many_headers,
)
from api.settings import DoorLimits

_CHUNK_LINE_BYTES_MAX: Final = 256
"""Size and extensions of one chunk: nobody sends extensions, so this is generous."""
_CHUNK_EXTRAS_BYTES_MAX: Final = 16 << 10
"""Extensions of all chunks of a body: more is an attempt to make us read for nothing."""

_HEAD: Final = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
"""What llhttp gets before each body. Not the request's own head: ``Upgrade`` in it would make
llhttp take the body for another protocol."""


class ChunkedBody:
    """A body of chunks, and trailers that nobody gets to see.

    Our grammar finds the end; llhttp, given the same bytes after a head of our own making,
    finds the data. They have to agree.
    """

    __slots__ = (
        "_extras_bytes",
        "_left",
        "_limits",
        "_llhttp",
        "_reader",
        "_size_bytes",
        "_state",
        "_trailer_bytes",
        "_trailer_count",
    )

    def __init__(self, limits: DoorLimits) -> None:
        self._limits = limits
        self._state: Literal["size", "data", "data end", "trailers", "complete"] = "size"
        self._left = 0
        self._size_bytes = 0
        self._extras_bytes = 0
        self._trailer_bytes = 0
        self._trailer_count = 0
        self._reader = _Reader()
        self._llhttp = httptools.HttpRequestParser(self._reader)
        self._llhttp.feed_data(_HEAD)

    @property
    def complete(self) -> bool:
        """Whether the empty line behind the trailers was taken."""
        return self._state == "complete"

    def take(self, buffer: bytes, start: int) -> tuple[bytes, int]:
        """The data that is in ``buffer`` from ``start``, and where reading has to go on.

        Raises:
            Malformed: broken chunks or trailers, or more data than allowed.
        """
        end = start
        before = self._size_bytes - self._left
        try:
            while self._state != "complete":
                after = self._step(buffer, end)
                if after == end:
                    break
                end = after
        except Malformed:
            # llhttp may refuse what came before the fault: then that is the error, as it
            # would have been if the bytes had come one by one.
            self._read(buffer[start:end], None)
            raise
        expected = (self._size_bytes - self._left) - before
        return self._read(buffer[start:end], expected), end

    def _step(self, buffer: bytes, at: int) -> int:
        """Pass over one piece of grammar; returns ``at`` when it is not here yet."""
        match self._state:
            case "size":
                return self._size_line(buffer, at)
            case "data":
                taken = min(self._left, len(buffer) - at)
                self._left -= taken
                if self._left == 0:
                    self._state = "data end"
                return at + taken
            case "data end":
                ending = buffer[at : at + 2]
                if not b"\r\n".startswith(ending):
                    raise Malformed(400, "malformed chunk: no CRLF after its data")
                if len(ending) < 2:
                    return at
                self._state = "size"
                return at + 2
            case _:
                return self._trailer_line(buffer, at)

    def _size_line(self, buffer: bytes, at: int) -> int:
        line = _line(buffer, at, _CHUNK_LINE_BYTES_MAX)
        if line is None:
            return at
        match = chunk_size_grammar.fullmatch(line)
        if match is None:
            raise Malformed(400, "malformed chunk size")
        self._extras_bytes += len(line) - match.end(1) - 2
        if self._extras_bytes > _CHUNK_EXTRAS_BYTES_MAX:
            raise Malformed(400, "chunk extensions too large")
        self._left = int(match[1], 16)
        self._size_bytes += self._left
        if self._size_bytes > self._limits.body_bytes_max:
            raise body_too_large(self._limits.body_bytes_max)
        self._state = "data" if self._left else "trailers"
        return at + len(line)

    def _trailer_line(self, buffer: bytes, at: int) -> int:
        line = _line(buffer, at, self._limits.head_bytes_max)
        if line is None:
            return at
        if line == b"\r\n":
            self._state = "complete"
        elif header_grammar.fullmatch(line) is None:
            raise Malformed(400, "malformed trailer")
        self._trailer_bytes += len(line)
        self._trailer_count += 1
        if self._trailer_bytes > self._limits.head_bytes_max:
            raise head_too_large()
        if self._trailer_count > self._limits.headers_max + 1:
            raise too_many_headers()
        return at + len(line)

    def _read(self, raw: bytes, expected: int | None) -> bytes:
        reader = self._reader
        reader.pieces.clear()
        try:
            self._llhttp.feed_data(raw)
        except httptools.HttpParserError as error:
            raise Malformed(400, "malformed chunked body") from error
        data = b"".join(reader.pieces)
        if expected is None:
            return data
        if len(data) != expected or reader.complete != self.complete:
            raise Malformed(400, "malformed chunked body")
        return data


class _Reader:
    """llhttp's callbacks for a chunked body."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        self.complete = True


def _line(buffer: bytes, at: int, bytes_max: int) -> bytes | None:
    """The line that starts ``at``, its end included; None when that is not here yet.

    Raises:
        Malformed: longer than ``bytes_max``.
    """
    feed = buffer.find(b"\n", at, at + bytes_max)
    if feed >= 0:
        return buffer[at : feed + 1]
    if len(buffer) - at >= bytes_max:
        raise Malformed(400, "malformed chunked body: line too long")
    return None
