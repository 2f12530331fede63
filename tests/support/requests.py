"""Requests in bytes, good and hostile: one table for the parser and for real sockets."""

# ruff: noqa: E501 - a table: one request a line
from typing import TYPE_CHECKING, Any, NamedTuple

from api.grammar import Malformed
from api.http1 import Memo, RequestParser
from api.settings import DoorLimits

if TYPE_CHECKING:
    from api.head import Head

LIMITS = DoorLimits(body_bytes_max=1 << 20)


class Case(NamedTuple):
    """A request that has one right answer; ``%s`` in it is the path."""

    name: str
    data: bytes
    status: int
    ran: int = 0
    """How many requests may be run."""


def _case(name: str, head: str, status: int, body: bytes = b"", ran: int = 0) -> Case:
    return Case(name, head.replace("\n", "\r\n").encode("latin-1") + body, status, ran)


_NEXT = b"POST %s?second HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n"
_CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


def _chunked(name: str, body: bytes, status: int, ran: int = 0) -> Case:
    head = "POST %s HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n"
    return _case(name, head, status, body, ran)


HOSTILE = (
    # Smuggling: the length of the body.
    _case("cl and te", "POST %s HTTP/1.1\nHost: a\nContent-Length: 5\nTransfer-Encoding: chunked\n\n", 400, _CHUNKS + _NEXT),
    _case("te and cl", "POST %s HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 5\n\n", 400, _CHUNKS + _NEXT),
    _case("two different cl", "POST %s HTTP/1.1\nHost: a\nContent-Length: 0\nContent-Length: 5\n\n", 400, b"hello" + _NEXT),
    _case("two equal cl", "POST %s HTTP/1.1\nHost: a\nContent-Length: 5\nContent-Length: 5\n\n", 400, b"hello" + _NEXT),
    _case("list of cl", "POST %s HTTP/1.1\nHost: a\nContent-Length: 5, 5\n\n", 400, b"hello" + _NEXT),
    _case("cl +3", "POST %s HTTP/1.1\nHost: a\nContent-Length: +3\n\n", 400, b"abc" + _NEXT),
    _case("cl -1", "POST %s HTTP/1.1\nHost: a\nContent-Length: -1\n\n", 400, _NEXT),
    _case("cl 0x3", "POST %s HTTP/1.1\nHost: a\nContent-Length: 0x3\n\n", 400, b"abc" + _NEXT),
    _case("cl 3_0", "POST %s HTTP/1.1\nHost: a\nContent-Length: 3_0\n\n", 400, b"abc" + _NEXT),
    _case("cl empty", "POST %s HTTP/1.1\nHost: a\nContent-Length:\n\n", 400, _NEXT),
    _case("cl superscript", "POST %s HTTP/1.1\nHost: a\nContent-Length: \xb2\n\n", 400, _NEXT),
    _case("cl huge", "POST %s HTTP/1.1\nHost: a\nContent-Length: 9999999999999999999\n\n", 413),
    _case("cl of 30 digits", "POST %s HTTP/1.1\nHost: a\nContent-Length: " + "1" * 30 + "\n\n", 400),
    _case("cl 10 GB", "POST %s HTTP/1.1\nHost: a\nContent-Length: 10000000000\n\n", 413),
    _case("cl over limit", "POST %s HTTP/1.1\nHost: a\nContent-Length: 1048577\n\n", 413),
    _case("cl over limit, expect", "POST %s HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 1048577\n\n", 413),
    _case("te xchunked", "POST %s HTTP/1.1\nHost: a\nTransfer-Encoding: xchunked\n\n", 501, _CHUNKS + _NEXT),
    _case("te chunked, identity", "POST %s HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, identity\n\n", 501, _CHUNKS + _NEXT),
    _case("te gzip, chunked", "POST %s HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked\n\n", 501, _CHUNKS + _NEXT),
    _case("te twice", "POST %s HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n", 400, _CHUNKS + _NEXT),
    _case("te on 1.0", "POST %s HTTP/1.0\nHost: a\nTransfer-Encoding: chunked\n\n", 400, _CHUNKS + _NEXT),
    _case("te with vertical tab", "POST %s HTTP/1.1\nHost: a\nTransfer-Encoding: \x0bchunked\n\n", 400, _CHUNKS + _NEXT),
    _case("te behind obs-fold", "POST %s HTTP/1.1\nHost: a\nTransfer-Encoding:\n chunked\n\n", 400, _CHUNKS + _NEXT),
    # Smuggling: where a line ends, what is a name.
    _case("space before colon", "POST %s HTTP/1.1\nHost: a\nContent-Length : 5\n\n", 400, b"hello" + _NEXT),
    _case("space before name", "POST %s HTTP/1.1\nHost: a\n Content-Length: 5\n\n", 400, b"hello" + _NEXT),
    _case("obs-fold", "POST %s HTTP/1.1\nHost: a\nX: a\n b\n\n", 400, _NEXT),
    _case("tab fold", "POST %s HTTP/1.1\nHost: a\nX: a\n\tb\n\n", 400, _NEXT),
    _case("no colon", "POST %s HTTP/1.1\nHost: a\nX\n\n", 400, _NEXT),
    _case("empty name", "POST %s HTTP/1.1\nHost: a\n: x\n\n", 400, _NEXT),
    _case("name not a token", "POST %s HTTP/1.1\nHost: a\nX(y): x\n\n", 400, _NEXT),
    _case("nul in value", "POST %s HTTP/1.1\nHost: a\nX: a\x00b\n\n", 400, _NEXT),
    _case("nul in name", "POST %s HTTP/1.1\nHost: a\nX\x00: b\n\n", 400, _NEXT),
    _case("control in value", "POST %s HTTP/1.1\nHost: a\nX: a\x7fb\n\n", 400, _NEXT),
    _case("bare cr in value", "POST %s HTTP/1.1\nHost: a\nX: a\rContent-Length: 5\n\n", 400, _NEXT),
    Case("bare lf", b"POST %s HTTP/1.1\nHost: a\nContent-Length: 0\n\n" + _NEXT, 400),
    Case("one bare lf", b"POST %s HTTP/1.1\r\nHost: a\nContent-Length: 0\r\n\r\n" + _NEXT, 400),
    Case("bare lf at the end", b"POST %s HTTP/1.1\r\nHost: a\r\n\n" + _NEXT, 400),
    Case("cr cr lf", b"POST %s HTTP/1.1\r\nHost: a\r\r\n\r\n" + _NEXT, 400),
    # Who is asked, who asks.
    _case("no host", "POST %s HTTP/1.1\n\n", 400, _NEXT),
    _case("two hosts", "POST %s HTTP/1.1\nHost: a\nHost: a\n\n", 400, _NEXT),
    _case("two hosts on 1.0", "POST %s HTTP/1.0\nHost: a\nHost: b\n\n", 400, _NEXT),
    _case("host with a path", "POST %s HTTP/1.1\nHost: a/b\n\n", 400, _NEXT),
    _case("host with user", "POST %s HTTP/1.1\nHost: a@b\n\n", 400, _NEXT),
    _case("two authorizations", "POST %s HTTP/1.1\nHost: a\nAuthorization: Bearer a\nAuthorization: Bearer b\n\n", 400, _NEXT),
    _case("two equal authorizations", "POST %s HTTP/1.1\nHost: a\nAuthorization: Bearer a\nauthorization: Bearer a\n\n", 400, _NEXT),
    # The request line.
    _case("http 0.9", "GET %s\n\n", 400, _NEXT),
    _case("no version", "GET %s \nHost: a\n\n", 400, _NEXT),
    _case("http 9.9", "GET %s HTTP/9.9\nHost: a\n\n", 505, _NEXT),
    _case("http 1.2", "GET %s HTTP/1.2\nHost: a\n\n", 505, _NEXT),
    _case("http 2.0", "GET %s HTTP/2.0\nHost: a\n\n", 505, _NEXT),
    _case("lower case http", "GET %s http/1.1\nHost: a\n\n", 400, _NEXT),
    _case("version 1.10", "GET %s HTTP/1.10\nHost: a\n\n", 400, _NEXT),
    _case("two spaces", "GET  %s HTTP/1.1\nHost: a\n\n", 400, _NEXT),
    _case("tab", "GET\t%s HTTP/1.1\nHost: a\n\n", 400, _NEXT),
    _case("space in target", "GET %s x HTTP/1.1\nHost: a\n\n", 400, _NEXT),
    _case("space behind version", "GET %s HTTP/1.1 \nHost: a\n\n", 400, _NEXT),
    _case("nul in target", "GET %s?\x00 HTTP/1.1\nHost: a\n\n", 400, _NEXT),
    _case("byte over 127 in target", "GET %s?\xff HTTP/1.1\nHost: a\n\n", 400, _NEXT),
    _case("fragment", "GET %s#x HTTP/1.1\nHost: a\n\n", 400, _NEXT),
    _case("absolute form", "GET http://a%s HTTP/1.1\nHost: a\n\n", 400, _NEXT),
    _case("asterisk form", "GET * HTTP/1.1\nHost: a\n\n", 400, _NEXT),
    _case("authority form", "GET a:80 HTTP/1.1\nHost: a\n\n", 400, _NEXT),
    _case("connect", "CONNECT a:80 HTTP/1.1\nHost: a:80\n\n", 405, _NEXT),
    _case("connect with a path", "CONNECT %s HTTP/1.1\nHost: a:80\n\n", 405, _NEXT),
    _case("unknown method", "BREW %s HTTP/1.1\nHost: a\n\n", 501, _NEXT),
    _case("lower case method", "post %s HTTP/1.1\nHost: a\n\n", 501, _NEXT),
    _case("method not a token", "PO(ST %s HTTP/1.1\nHost: a\n\n", 400, _NEXT),
    _case("method too long", "P" * 40 + " %s HTTP/1.1\nHost: a\n\n", 400, _NEXT),
    Case("http/2 in clear", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 505),
    Case("tls to a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    Case("two empty lines first", b"\r\n\r\nGET %s HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    # Sizes.
    _case("url of 100 kB", "GET %s?" + "x" * 100_000 + " HTTP/1.1\nHost: a\n\n", 414),
    _case("url one too long", "GET %s?" + "x" * 8192 + " HTTP/1.1\nHost: a\n\n", 414),
    _case("header of 64 KiB", "GET %s HTTP/1.1\nHost: a\nX: " + "x" * 65536 + "\n\n", 431),
    _case("1000 short headers", "GET %s HTTP/1.1\nHost: a\n" + "X: y\n" * 1000 + "\n", 431),
    _case("101 headers", "GET %s HTTP/1.1\nHost: a\n" + "X: y\n" * 100 + "\n", 431),
    # Expect.
    _case("unknown expectation", "POST %s HTTP/1.1\nHost: a\nExpect: a-miracle\nContent-Length: 5\n\n", 417, b"hello" + _NEXT),
    # Chunks.
    _chunked("chunk size 0x5", b"0x5\r\nhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk size +5", b"+5\r\nhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk size -1", b"-1\r\nhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk size with spaces", b" 5\r\nhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk size, space behind", b"5 \r\nhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk size empty", b"\r\nhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk size of 20 digits", b"00000000000000000005\r\nhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk larger than allowed", b"100001\r\n", 413),
    _chunked("chunks larger than allowed", b"80000\r\n" + b"x" * 0x80000 + b"\r\n80001\r\n", 413),
    _chunked("chunk ends without crlf", b"5\r\nhelloX\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk ends in xx (CVE-2025-43859)", b"5\r\nhelloXX0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk ends in lf", b"5\r\nhello\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk size ends in lf", b"5\nhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk size ends in cr", b"5\rhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk extension too long", b"5;" + b"x" * 300 + b"\r\nhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("too much of chunk extensions", (b"1;" + b"x" * 200 + b"\r\nh\r\n") * 100 + b"0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk extension with nul", b"5;a=\x00\r\nhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("chunk extension that llhttp refuses", b"5; a\r\nhello\r\n0\r\n\r\n" + _NEXT, 400),
    _chunked("the same, then a chunk too large", b"5; a\r\nhello\r\n100001\r\n", 400),
    _chunked("trailer without colon", b"0\r\nX\r\n\r\n" + _NEXT, 400),
    _chunked("trailer with obs-fold", b"0\r\nX: a\r\n b\r\n\r\n" + _NEXT, 400),
    _chunked("trailer ends in lf", b"0\r\nX: a\n\r\n" + _NEXT, 400),
    _chunked("trailers too large", b"0\r\n" + (b"X: " + b"x" * 1000 + b"\r\n") * 20 + b"\r\n" + _NEXT, 431),
    _chunked("too many trailers", b"0\r\n" + b"X: y\r\n" * 102 + b"\r\n" + _NEXT, 431),
    # A good request, then a bad one: the good one is answered first.
    Case("bad behind good", b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok" + b"GET / HTTP/1.1\r\n\r\n" + _NEXT, 400, 1),
)  # fmt: skip
"""All end the connection: the request behind is never run."""

GOOD = (
    _case("plain get", "GET %s HTTP/1.1\nHost: a\n\n", 200, ran=1),
    _case("http 1.0 without host", "GET %s HTTP/1.0\n\n", 200, ran=1),
    _case("empty host", "GET %s HTTP/1.1\nHost:\n\n", 200, ran=1),
    _case("empty header", "GET %s HTTP/1.1\nX:\nHost: a\nY:  \n\n", 200, ran=1),
    _case("latin-1 value", "GET %s HTTP/1.1\nHost: a\nX: \xe4\n\n", 200, ran=1),
    _case("100 headers", "GET %s HTTP/1.1\nHost: a\n" + "X: y\n" * 99 + "\n", 200, ran=1),
    _case("longest url", "GET %s?" + "x" * 8000 + " HTTP/1.1\nHost: a\n\n", 200, ran=1),
    Case("one empty line first", b"\r\nGET %s HTTP/1.1\r\nHost: a\r\n\r\n", 200, 1),
    _case("body", "POST %s HTTP/1.1\nHost: a\nContent-Length: 5\n\n", 200, b"hello", ran=1),
    _case("body on get", "GET %s HTTP/1.1\nHost: a\nContent-Length: 5\n\n", 200, b"hello", ran=1),
    _case("leading zeros", "POST %s HTTP/1.1\nHost: a\nContent-Length: 005\n\n", 200, b"hello", ran=1),
    _case("delete with body", "DELETE %s HTTP/1.1\nHost: a\nContent-Length: 5\n\n", 200, b"hello", ran=1),
    _chunked("chunks", b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", 200, 1),
    _chunked("upper case size", b"A\r\n0123456789\r\n0\r\n\r\n", 200, 1),
    _chunked("no chunk but the last", b"0\r\n\r\n", 200, 1),
    _chunked("trailer that would authorise", b"0\r\nAuthorization: Bearer x\r\n\r\n", 200, 1),
    _case("TE in capitals", "POST %s HTTP/1.1\nHost: a\nTransfer-Encoding: Chunked\n\n", 200, _CHUNKS, ran=1),
    _case("upgrade h2c", "GET %s HTTP/1.1\nHost: a\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__\n\n", 200, ran=1),
    _case("upgrade websocket with body", "POST %s HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket\nContent-Length: 5\n\n", 200, b"hello", ran=1),
    _case("upgrade with chunks", "POST %s HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: x\nTransfer-Encoding: chunked\n\n", 200, _CHUNKS, ran=1),
    _case("expect on 1.0 is overlooked", "POST %s HTTP/1.0\nExpect: a-miracle\nContent-Length: 5\n\n", 200, b"hello", ran=1),
    Case("two in a row", b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + _NEXT, 200, 2),
    Case("chunks, then another", b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS + _NEXT, 200, 2),
    Case("upgrade, then another", b"POST %s HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello" + _NEXT, 200, 2),
)  # fmt: skip

UNADDRESSABLE = (
    "/jobs/%00", "/jobs/%ff", "//jobs/x", "/jobs//x", "/jobs/%2fx", "/jobs/..", "/jobs/../x",
    "/./jobs", "/jobs/%2e%2e/x", "/jobs/%zz", "/jobs/%", "/jobs/%0a", "/jobs/%5cx", "/jobs/\\x",
    "/jobs/%c0%af", "/jobs/%ed%a0%80", "/jobs/%7f",
)  # fmt: skip


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def parse(pieces: list[bytes], limits: DoorLimits = LIMITS, memo: Memo | None = None) -> list[Any]:
    """Everything that comes out: heads, each with its whole body, and the error at the end."""
    parser = RequestParser(limits, memo)
    found: list[Any] = []
    head: Head | None = None
    body = b""
    try:
        for piece in pieces:
            parser.feed(piece)
            while True:
                if head is None:
                    head, body = parser.next_head(), b""
                    if head is None:
                        break
                body += parser.take_body()
                if not parser.body_complete:
                    break
                found.append((head, body))
                head = None
    except Malformed as error:
        found.append(error.problem)
    return found
