"""The head of a request: read by llhttp, held to the rules that llhttp does not know. Pure."""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

import httptools
import msgspec

from api.grammar import Malformed, body_too_large
from api.media_types import is_other_format
from api.problems import METHOD_NOT_ALLOWED, NO_SUCH_ROUTE, UNSUPPORTED_MEDIA_TYPE, Problem
from api.settings import DoorLimits

_host_grammar: Final = re.compile(rb"[A-Za-z0-9._~%:\[\]\-]*")
_digits: Final = re.compile(rb"[0-9]{1,19}")
_escape: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_unsafe_in_path: Final = re.compile(r"[\x00-\x1f\x7f\\]")


class Head(msgspec.Struct, frozen=True):
    """A request up to its body.

    ``headers`` has names in lower case, in the order of arrival. ``refusal`` is the answer of
    a well-formed request that no route may see; its body is still a body.
    """

    method: str
    target: str
    http11: bool
    headers: tuple[tuple[bytes, bytes], ...]
    authorization: str | None
    idempotency_key: str | None
    content_length: int
    """Bytes of the body; 0 without one, and when it is ``chunked``."""
    chunked: bool
    keep_alive: bool
    """The client would like to send another request on this connection."""
    expects_continue: bool
    is_other_format: bool
    """There is a body, and by its Content-Type it is no JSON."""
    refusal: Problem | None

    @property
    def has_body(self) -> bool:
        """Whether bytes of a body follow the head."""
        return self.chunked or self.content_length > 0

    @property
    def name(self) -> str:
        """The request for the log, without what may be a key: ``DELETE /keys/...``."""
        path = self.target.partition("?")[0].split("/", 2)
        return f"{self.method} {'/'.join(path[:2])}{'/...' if len(path) > 2 else ''}"


class _HeadReader:
    """llhttp's callbacks for a head."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def read_head(raw: bytes, limits: DoorLimits) -> Head:
    """What a head that matches our grammar says, by llhttp and under the rules.

    Raises:
        Malformed: llhttp disagrees with our grammar, or a rule is broken.
    """
    request_line, *lines = raw[:-4].split(b"\r\n")
    method, target, version = request_line.split(b" ")
    reader = _HeadReader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade as upgrade:
        # llhttp's word for Upgrade and CONNECT: the head ends where the data did.
        agree = upgrade.args[0] == len(raw)
    except httptools.HttpParserError:
        agree = False
    else:
        agree = True
    agree = (
        agree
        and reader.complete
        and len(reader.headers) == len(lines)
        and (parser.get_method(), reader.target) == (method, target)
        and b"HTTP/" + parser.get_http_version().encode() == version
    )
    # Also when llhttp refuses: one of the rules may know a better status than 400.
    headers = reader.headers if agree else [_split(line) for line in lines]
    head = _apply_rules(method, target, version == b"HTTP/1.1", headers, limits)
    if not agree:
        raise Malformed(400, "malformed request")
    return head


def retarget(head: Head, method: bytes, target: bytes) -> Head:
    """``head`` as it is with another target.

    Raises:
        Malformed: the target is none that we serve.
    """
    _check_target(method, target)
    text = target.decode("ascii")
    return Head(
        method=head.method,
        target=text,
        http11=head.http11,
        headers=head.headers,
        authorization=head.authorization,
        idempotency_key=head.idempotency_key,
        content_length=head.content_length,
        chunked=head.chunked,
        keep_alive=head.keep_alive,
        expects_continue=head.expects_continue,
        is_other_format=head.is_other_format,
        refusal=_refusal(method, text, head.is_other_format),
    )


def _refusal(method: bytes, target: str, other_format: bool) -> Problem | None:
    if method == b"TRACE":
        return METHOD_NOT_ALLOWED
    return refuse_path(target) or (UNSUPPORTED_MEDIA_TYPE if other_format else None)


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip(b" \t")


def _apply_rules(
    method: bytes,
    target: bytes,
    http11: bool,
    headers: list[tuple[bytes, bytes]],
    limits: DoorLimits,
) -> Head:
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    _check_target(method, target)
    _check_host(values.get(b"host", []), http11)
    authorizations = values.get(b"authorization", [])
    if len(authorizations) > 1:
        raise Malformed(400, "more than one Authorization header")
    idempotency_keys = values.get(b"idempotency-key", [])
    if len(idempotency_keys) > 1:
        raise Malformed(400, "more than one Idempotency-Key header")
    content_length, chunked = _framing(values, http11, limits)
    connection = {
        option.strip(b" \t").lower()
        for value in values.get(b"connection", ())
        for option in value.split(b",")
    }
    keep_alive = b"close" not in connection and (http11 or b"keep-alive" in connection)
    text, method_text = target.decode("ascii"), method.decode("ascii")
    types = values.get(b"content-type")
    other_format = (
        types is not None
        and (chunked or content_length > 0)
        and is_other_format(method_text, types[0].decode("latin-1"))
    )
    return Head(
        method=method_text,
        target=text,
        http11=http11,
        headers=tuple(headers),
        authorization=authorizations[0].decode("latin-1") if authorizations else None,
        idempotency_key=idempotency_keys[0].decode("latin-1") if idempotency_keys else None,
        content_length=content_length,
        chunked=chunked,
        keep_alive=keep_alive,
        expects_continue=_expectation(values.get(b"expect", []), http11),
        is_other_format=other_format,
        refusal=_refusal(method, text, other_format),
    )


def _check_target(method: bytes, target: bytes) -> None:
    if method == b"CONNECT":
        raise Malformed(405, "method not allowed: this is not a proxy")
    if target == b"*" and method == b"OPTIONS":
        return
    if not target.startswith(b"/"):
        raise Malformed(400, "malformed request target: a path is expected")


def _check_host(hosts: list[bytes], http11: bool) -> None:
    if len(hosts) > 1 or (http11 and not hosts):
        raise Malformed(400, "exactly one Host header is expected")
    if hosts and _host_grammar.fullmatch(hosts[0]) is None:
        raise Malformed(400, "malformed Host header")


def _framing(
    values: dict[bytes, list[bytes]], http11: bool, limits: DoorLimits
) -> tuple[int, bool]:
    """(Content-Length, chunked): how long the body is. The heart of request smuggling."""
    lengths = values.get(b"content-length", [])
    codings = values.get(b"transfer-encoding", [])
    if codings:
        if lengths:
            raise Malformed(400, "Content-Length and Transfer-Encoding together")
        if not http11 or len(codings) > 1:
            raise Malformed(400, "malformed Transfer-Encoding")
        if codings[0].lower() != b"chunked":
            raise Malformed(501, "transfer coding not implemented: only chunked is")
        return 0, True
    if not lengths:
        return 0, False
    if len(lengths) > 1 or _digits.fullmatch(lengths[0]) is None:
        raise Malformed(400, "malformed Content-Length")
    length = int(lengths[0])
    if length > limits.body_bytes_max:
        raise body_too_large(limits.body_bytes_max)
    return length, False


def _expectation(expectations: list[bytes], http11: bool) -> bool:
    """Whether the client waits for ``100 Continue``; RFC 9110 10.1.1: never on HTTP/1.0."""
    if not http11 or not expectations:
        return False
    if len(expectations) > 1 or expectations[0].lower() != b"100-continue":
        raise Malformed(417, "expectation failed: only 100-continue is known")
    return True


def refuse_path(target: str) -> Problem | None:
    """404 for a path that has no single, readable spelling; nothing looks it up.

    Escapes that hide a control character, a slash, or what is not UTF-8, empty segments and
    dot segments: between two readers of such a path, one would find another resource.
    """
    path, _, _ = target.partition("?")
    if "%" in path:
        if _escape.search(path) is not None or "%2f" in path.lower():
            return NO_SUCH_ROUTE
        try:
            path = unquote_to_bytes(path).decode("utf-8")
        except UnicodeDecodeError:
            return NO_SUCH_ROUTE
    if "//" in path or ("/." in path and _has_dot_segment(path)):
        return NO_SUCH_ROUTE
    return NO_SUCH_ROUTE if _unsafe_in_path.search(path) is not None else None


def _has_dot_segment(path: str) -> bool:
    return not {".", ".."}.isdisjoint(path.split("/"))
