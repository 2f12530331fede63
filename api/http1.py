"""HTTP/1.1 requests out of bytes, over llhttp; nothing else here reads HTTP/1.1. Pure.

Two readers must agree before a request exists, so that no byte is ever understood in two ways:

- **Our grammar** (RFC 9112, the strict reading) decides where a message *ends*. A head is
  one piece up to its blank line and has to match one compiled expression: CRLF at the end of
  every line, no obs-fold, no space before a colon, no control character anywhere. A body is
  a Content-Length of digits or chunks of exactly ``size CRLF data CRLF``.
- **llhttp** (``httptools``) decides what a message *says*: it is given exactly the bytes of
  one head, or of one chunked body, and has to find the same number of headers, the same
  version and the same end. Whatever one accepts and the other does not is a 400.

What llhttp alone gets wrong is settled here: trailers are checked and dropped, never headers
(a trailer must not authorise); ``Upgrade`` is ignored, and the body after it is still a body;
CONNECT, a second Host or Authorization, ``Expect`` on HTTP/1.0, Content-Length beside
Transfer-Encoding have one answer each.

After ``Malformed`` nothing more is read from that connection. Where a stream is cut into
pieces makes no difference to what comes out, errors included: every check looks at whole
lines in their order, or at a fixed number of bytes.

**The memo.** A keep-alive client repeats its head byte for byte, and the same bytes at the
start of a message mean the same request; so an understood head is kept under its bytes. Where
only the path differs (an id in it), what stands behind the request line is known: it was
understood with the same method and version before, and the line is checked anew. Measured on
one core, 256 keep-alive connections, a lane route that answers at once: the same head 35,000
requests/s (16,000 without the memo), another id in each path 23,000. The memo is bounded in
entries and in bytes, and simply emptied when full.
"""

from typing import Final

from api.chunked import ChunkedBody
from api.grammar import (
    Malformed,
    head_grammar,
    head_too_large,
    header_grammar,
    request_line_grammar,
    target_too_long,
    token_grammar,
    too_many_headers,
)
from api.head import Head, read_head, retarget
from api.settings import DoorLimits

_METHODS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT")
)
_METHOD_BYTES_MAX: Final = 32  # longer than any registered method

_MEMO_ENTRIES_MAX: Final = 2048
_MEMO_HEAD_BYTES_MAX: Final = 1024

_Block = tuple[bytes, bytes, bytes]


class Memo:
    """Heads that were understood before; see the module."""

    def __init__(self) -> None:
        self.heads: Final[dict[bytes, Head]] = {}
        self.blocks: Final[dict[_Block, Head]] = {}
        """Under (method, version, everything behind the request line)."""

    def remember(self, raw: bytes, block: _Block, head: Head) -> None:
        """Keep ``head``, if it is small, under its bytes and those behind its request line."""
        if len(raw) > _MEMO_HEAD_BYTES_MAX:
            return
        for known in (self.heads, self.blocks):
            if len(known) >= _MEMO_ENTRIES_MAX:
                known.clear()
        self.heads[raw] = head
        self.blocks[block] = head


class RequestParser:
    """One connection's requests, in order.

    Use: ``feed`` bytes; ``next_head`` until it is None (then feed more); after a head, either
    ``take_body`` until ``body_complete``. The next head is there only after the body's end.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_limits",
        "_line_count",
        "_line_start",
        "_memo",
        "_skipped_empty_line",
        "_start",
    )

    def __init__(self, limits: DoorLimits, memo: Memo | None = None) -> None:
        self._limits = limits
        self._memo = Memo() if memo is None else memo
        self._buffer = b""
        self._start = 0
        self._body: _LengthBody | ChunkedBody | None = None
        # How far an unfinished head was checked: offset from its start, and lines.
        self._line_start = 0
        self._line_count = 0
        self._skipped_empty_line = False

    @property
    def buffered(self) -> int:
        """Bytes that were fed and not yet understood."""
        return len(self._buffer) - self._start

    @property
    def body_complete(self) -> bool:
        """Whether the body of the last head was taken to its end."""
        return self._body is None

    def feed(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._start == len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[self._start :] + data
        self._start = 0

    def next_head(self) -> Head | None:
        """The next request's head, or None when it is not here to its end.

        Raises:
            Malformed: the bytes are not a request that we serve.
        """
        assert self._body is None, "the body before comes first"
        buffer, start = self._buffer, self._start
        if start == len(buffer):
            return None
        if buffer.startswith(b"\r\n", start) and not self._skipped_empty_line:
            # RFC 9112 2.2: one empty line before a request is overlooked.
            self._skipped_empty_line = True
            self._start = start = start + 2
        end = buffer.find(b"\r\n\r\n", start, start + self._limits.head_bytes_max)
        if end < 0:
            self._check_unfinished_head()
            return None
        raw = buffer[start : end + 4]
        head = self._memo.heads.get(raw)
        if head is None:
            head = self._understand(raw)
        self._start = end + 4
        self._line_start = self._line_count = 0
        self._skipped_empty_line = False
        if head.content_length:
            self._body = _LengthBody(head.content_length)
        elif head.chunked:
            self._body = ChunkedBody(self._limits)
        return head

    def known_request(self, data: bytes) -> tuple[Head, bytes] | None:
        """``data`` as one whole request with its body, if it is one, in a head that is known.

        For a parser that has nothing else to read. None says nothing, and ``data`` is still to be
        fed: this is a shortcut past ``feed``, ``next_head`` and ``take_body``, not another reading.
        """
        if self._body or self._start != len(self._buffer) or self._skipped_empty_line:
            return None
        end = data.find(b"\r\n\r\n") + 4
        head = self._memo.heads.get(data[:end])
        if head is None:
            head = self._retargeted(data[:end])
            if head is None:
                return None
        if head.chunked or head.content_length != len(data) - end or head.refusal is not None:
            return None
        return head, data[end:]

    def take_body(self) -> bytes:
        """What is here of the body; look at ``body_complete`` for its end.

        Raises:
            Malformed: the chunks are broken, or the body is larger than allowed.
        """
        body = self._body
        if body is None:
            return b""
        data, self._start = body.take(self._buffer, self._start)
        if body.complete:
            self._body = None
        return data

    def _understand(self, raw: bytes) -> Head:
        """Read a head that is not remembered.

        Raises:
            Malformed: it is not a request that we serve.
        """
        self._check_request_line(raw)
        line_end = raw.index(b"\n") + 1
        method, target, version = raw[: line_end - 2].split(b" ")
        block = method, version, raw[line_end:]
        known = self._memo.blocks.get(block)
        if known is not None:
            head = retarget(known, method, target)
        else:
            if head_grammar.fullmatch(raw) is None:
                self._check_lines(raw)
                raise Malformed(400, "malformed request")
            if raw.count(b"\r\n") - 2 > self._limits.headers_max:
                raise too_many_headers()
            head = read_head(raw, self._limits)
        self._memo.remember(raw, block, head)
        return head

    def _retargeted(self, raw: bytes) -> Head | None:
        """A head of which only the path is new; None for all others.

        Method and version are known to be right, being those of a head that was understood; so of
        what ``_understand`` checks only the target is left, and that the line is one.
        """
        limits = self._limits
        line_end = raw.find(b"\n") + 1
        line = raw[:line_end]
        words = line[:-2].split(b" ")
        if len(words) != 3 or len(raw) > limits.head_bytes_max:
            return None
        method, target, version = words
        block = method, version, raw[line_end:]
        known = self._memo.blocks.get(block)
        if (
            known is None
            or len(target) > limits.url_bytes_max
            or request_line_grammar.fullmatch(line) is None
        ):
            return None
        try:
            head = retarget(known, method, target)
        except Malformed:
            return None  # said again, and answered, when it is fed
        self._memo.remember(raw, block, head)
        return head

    def _check_unfinished_head(self) -> None:
        """Refuse early what no further byte can mend.

        Raises:
            Malformed: a line that is here is wrong, or the head is too large already.
        """
        start, limit = self._start, self._limits.head_bytes_max
        window = self._buffer[start : start + limit]
        if window == b"\r" and not self._skipped_empty_line:
            return  # half of the one empty line
        self._check_lines(window)
        if len(self._buffer) - start >= limit:
            raise head_too_large() if self._line_count else target_too_long()

    def _check_lines(self, window: bytes) -> None:
        """Check the whole lines of a head one by one, each once over all calls."""
        if self._line_count == 0:
            self._check_request_line(window)
        while (feed := window.find(b"\n", self._line_start)) >= 0:
            line = window[self._line_start : feed + 1]
            if self._line_count == 0:
                pass  # checked above
            elif line == b"\r\n":
                return
            elif header_grammar.fullmatch(line) is None:
                raise Malformed(400, "malformed header line")
            elif self._line_count > self._limits.headers_max:
                raise too_many_headers()
            self._line_start = feed + 1
            self._line_count += 1

    def _check_request_line(self, window: bytes) -> None:
        """Check the first line, as far as it is here: the error has to be the same either way."""
        feed = window.find(b"\n")
        line = window if feed < 0 else window[: feed + 1]
        if line and not line[:1].isalpha():
            raise Malformed(400, "malformed request line")
        method, space, rest = line.partition(b" ")
        if not space:
            if feed >= 0 or len(line) > _METHOD_BYTES_MAX:
                raise Malformed(400, "malformed request line")
            return
        if len(method) > _METHOD_BYTES_MAX or token_grammar.fullmatch(method) is None:
            raise Malformed(400, "malformed request line")
        target, _, _ = rest.partition(b" ")
        if len(target) > self._limits.url_bytes_max:
            raise target_too_long()
        if feed < 0:
            return
        match = request_line_grammar.fullmatch(line)
        if match is None:
            raise Malformed(400, "malformed request line")
        if match[2] != b"1" or match[3] not in b"01":
            raise Malformed(505, "HTTP version not supported: HTTP/1.1 and HTTP/1.0 are")
        if method not in _METHODS:
            raise Malformed(501, "method not implemented")


class _LengthBody:
    """A body of so many bytes."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def complete(self) -> bool:
        return self._left == 0

    def take(self, buffer: bytes, start: int) -> tuple[bytes, int]:
        data = buffer[start : start + self._left]
        self._left -= len(data)
        return data, start + len(data)
