"""The parser alone: each row of the table, cut everywhere, and bytes that nobody meant."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.grammar import Malformed
from api.head import Head
from api.http1 import Memo, RequestParser
from api.problems import UNSUPPORTED_MEDIA_TYPE, Problem
from api.settings import DoorLimits
from tests.support.requests import GOOD, HOSTILE, LIMITS, UNADDRESSABLE, Case, parse, pieces_of

CASES = [pytest.param(case, id=case.name) for case in HOSTILE + GOOD]


def on_path(case: Case) -> bytes:
    return case.data.replace(b"%s", b"/jobs")


def outcome(case: Case, found: list[object]) -> tuple[int, int | None]:
    """(requests, status of the error)."""
    requests = [each for each in found if not isinstance(each, Problem)]
    last = found[-1] if found else None
    return len(requests), last.status if isinstance(last, Problem) else None


@pytest.mark.parametrize("case", CASES)
def test_each_request_has_one_reading(case: Case) -> None:
    expected = (case.ran, None if case.status == 200 else case.status)
    assert outcome(case, parse([on_path(case)])) == expected


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_byte_by_byte(case: Case) -> None:
    data = on_path(case)
    size = 1 if len(data) < 20_000 else 997
    assert parse(pieces_of(data, size)) == parse([data])


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_cut_in_two_anywhere(case: Case) -> None:
    data = on_path(case)
    whole = parse([data])
    step = 1 if len(data) < 2_000 else max(1, len(data) // 100)
    for cut in range(0, len(data) + 1, step):
        assert parse([data[:cut], data[cut:]]) == whole, cut


@pytest.mark.parametrize("case", [c for c in GOOD if c.ran == 1], ids=lambda case: case.name)
def test_a_request_without_its_end_is_no_request(case: Case) -> None:
    data = on_path(case)
    for cut in range(max(0, len(data) - 300), len(data)):
        assert parse([data[:cut]]) == [], cut


def head_of(data: bytes) -> Head:
    parser = RequestParser(LIMITS)
    parser.feed(data)
    head = parser.next_head()
    assert head is not None
    return head


def test_a_head_says_what_was_sent() -> None:
    head = head_of(
        b"POST /jobs?x=1 HTTP/1.1\r\nHost: a\r\nAUTHORIZATION:\tBearer x \r\n"
        b"Content-Length: 3\r\nX:\r\n\r\n"
    )
    assert (head.method, head.target, head.http11) == ("POST", "/jobs?x=1", True)
    assert head.headers == (
        (b"host", b"a"),
        (b"authorization", b"Bearer x"),
        (b"content-length", b"3"),
        (b"x", b""),
    )
    assert head.authorization == "Bearer x"
    assert (head.content_length, head.chunked, head.has_body) == (3, False, True)
    assert head.refusal is None


def test_an_idempotency_key_is_the_headers_value() -> None:
    raw = b"POST /jobs HTTP/1.1\r\nHost: a\r\n%bContent-Length: 0\r\n\r\n"
    assert head_of(raw % b"").idempotency_key is None
    assert head_of(raw % b"Idempotency-Key:\r\n").idempotency_key == ""
    assert head_of(raw % b"IDEMPOTENCY-KEY: a b\xe9 \r\n").idempotency_key == "a b\xe9"


@pytest.mark.parametrize("name", [b"Idempotency-Key", b"Authorization"])
@pytest.mark.parametrize("second", [b"x", b"y", b""])
def test_two_of_what_there_must_be_one_of_are_refused(name: bytes, second: bytes) -> None:
    # Which of them counts would be a matter of who reads it.
    twice = b"%b: x\r\n%b: %b\r\n" % (name, name.lower(), second)
    parser = RequestParser(LIMITS)
    parser.feed(b"POST /jobs HTTP/1.1\r\nHost: a\r\n%bContent-Length: 0\r\n\r\n" % twice)
    with pytest.raises(Malformed) as caught:
        parser.next_head()
    assert caught.value.problem.status == 400
    assert caught.value.problem.error == f"more than one {name.decode()} header"


def test_the_idempotency_key_of_one_request_is_not_the_next_ones() -> None:
    # Heads that were seen before are remembered: not for another key.
    raw = b"POST /jobs HTTP/1.1\r\nHost: a\r\n%bContent-Length: 0\r\n\r\n"
    keys = [b"Idempotency-Key: 1\r\n", b"Idempotency-Key: 2\r\n", b"", b"Idempotency-Key: 1\r\n"]
    found = parse([raw % key for key in keys])
    assert [head.idempotency_key for head, _ in found] == ["1", "2", None, "1"]


def test_a_trailer_is_never_a_header() -> None:
    found = parse(
        [
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nok\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
            b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
        ]
    )
    assert [(head.target, head.authorization, body) for head, body in found] == [
        ("/", None, b"ok"),
        ("/next", None, b""),
    ]


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.1", "Connection: x, Close\r\n", False),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", False),
        ("1.1", "Connection: closed\r\n", True),
        ("1.0", "", False),
        ("1.0", "Connection: Keep-Alive\r\n", True),
        ("1.0", "Connection: keep-alive, close\r\n", False),
    ],
)
def test_who_wants_the_connection_kept(version: str, connection: str, keep_alive: bool) -> None:
    head = head_of(f"GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n".encode())
    assert head.keep_alive is keep_alive


@pytest.mark.parametrize("target", UNADDRESSABLE)
def test_a_path_with_two_spellings_is_not_found(target: str) -> None:
    head = head_of(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert head.refusal is not None
    assert head.refusal.status == 404


@pytest.mark.parametrize("target", ["/", "/jobs/a%20b", "/jobs/%C3%A4", "/jobs/.x", "/a?b=//..%00"])
def test_an_ordinary_path_is_found(target: str) -> None:
    assert head_of(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()).refusal is None


def test_a_body_of_another_format_is_refused_also_where_its_head_is_known() -> None:
    raw = b"POST /jobs/%d HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\nab"
    found = parse([raw % (id_, b"text/xml", 2) for id_ in (1, 1, 2)])
    assert [head.refusal for head, _ in found] == [UNSUPPORTED_MEDIA_TYPE] * 3
    found = parse([raw % (id_, b"application/json", 2) for id_ in (1, 1, 2)])
    assert [head.refusal for head, _ in found] == [None] * 3
    assert head_of(raw % (1, b"text/xml", 0)).refusal is None, "there is no body"
    assert head_of((raw % (1, b"text/xml", 2)).replace(b"POST", b"GET")).refusal is None


def test_trace_is_refused_with_its_body() -> None:
    head = head_of(b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
    assert head.refusal is not None
    assert head.refusal.status == 405


def test_the_log_shows_no_key() -> None:
    assert head_of(b"DELETE /keys/client_x?y HTTP/1.1\r\nHost: a\r\n\r\n").name == (
        "DELETE /keys/..."
    )
    assert head_of(b"GET /keys?client_x HTTP/1.1\r\nHost: a\r\n\r\n").name == "GET /keys"


def test_the_memo_is_bounded_and_changes_nothing() -> None:
    memo = Memo()
    for i in range(5_000):
        data = b"GET /jobs/%d HTTP/1.1\r\nHost: a%d\r\n\r\n" % (i, i)
        first, again = RequestParser(LIMITS, memo), RequestParser(LIMITS, memo)
        first.feed(data)
        again.feed(data)
        assert first.next_head() == again.next_head() == head_of(data)
        assert len(memo.heads) <= 2048
        assert len(memo.blocks) <= 2048
    large = RequestParser(LIMITS, memo)
    before = len(memo.heads)
    large.feed(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2000 + b"\r\n\r\n")
    assert large.next_head() is not None
    assert len(memo.heads) == before


SIMPLE = b"POST /jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def knowing(head: bytes = SIMPLE) -> RequestParser:
    """A parser that has read such a head once."""
    memo = Memo()
    parse([head + b"hello"], memo=memo)
    return RequestParser(LIMITS, memo)


def test_a_whole_request_in_a_known_head_is_taken_in_one_step() -> None:
    known = knowing().known_request(SIMPLE + b"again")
    assert [known] == parse([SIMPLE + b"again"])
    moved = SIMPLE.replace(b"/jobs", b"/other")
    assert [knowing().known_request(moved + b"hello")] == parse([moved + b"hello"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        SIMPLE,
        SIMPLE + b"hell",
        SIMPLE + b"hello!",
        b"\r\n" + SIMPLE + b"hello",
        SIMPLE.replace(b"Host: a", b"Host: b") + b"hello",
        SIMPLE.replace(b"/jobs", b"/a b") + b"hello",
        SIMPLE.replace(b"/jobs", b"http://a/") + b"hello",
        SIMPLE.replace(b"/jobs", b"/" + b"a" * LIMITS.url_bytes_max) + b"hello",
        SIMPLE.replace(b"/jobs", b"/\x80") + b"hello",
        SIMPLE.replace(b"/jobs", b"/a\tb") + b"hello",
        SIMPLE.replace(b"1.1\r\n", b"1.1\n", 1) + b"hello",
        SIMPLE.replace(b"POST", b"post") + b"hello",
    ],
)
def test_all_else_is_not_taken_and_can_still_be_fed(data: bytes) -> None:
    parser = knowing()
    assert parser.known_request(data) is None
    assert parser.buffered == 0


def test_nothing_is_taken_in_the_middle_of_a_request() -> None:
    begun = knowing()
    begun.feed(SIMPLE[:10])
    assert begun.next_head() is None
    assert begun.known_request(SIMPLE + b"hello") is None
    with_body = knowing()
    with_body.feed(SIMPLE)
    assert with_body.next_head() is not None
    assert with_body.known_request(SIMPLE + b"hello") is None
    after_empty_line = knowing()
    after_empty_line.feed(b"\r\n")
    assert after_empty_line.next_head() is None
    assert after_empty_line.known_request(SIMPLE + b"hello") is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET /jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_a_head_that_asks_for_more_than_a_length_is_not_taken(data: bytes) -> None:
    memo = Memo()
    parse([data], memo=memo)
    assert RequestParser(LIMITS, memo).known_request(data) is None


@pytest.mark.parametrize("method", ["GET", "TRACE", "OPTIONS"])
@pytest.mark.parametrize("target", ["/jobs/1", "*", "/jobs/%00", "//x", "http://a/", "/a?b", "x"])
def test_a_known_head_with_another_target_is_what_it_is_without_the_memo(
    method: str, target: str
) -> None:
    def parsed(memo: Memo) -> Head | Problem | None:
        parser = RequestParser(LIMITS, memo)
        parser.feed(f"{method} {target} HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n".encode())
        try:
            return parser.next_head()
        except Malformed as error:
            return error.problem

    warm = Memo()
    for known in ("GET", "TRACE", "OPTIONS"):
        parser = RequestParser(LIMITS, warm)
        parser.feed(f"{known} /known HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n".encode())
        assert parser.next_head() is not None
    assert len(warm.blocks) == 3
    assert parsed(warm) == parsed(Memo())
    assert parsed(warm) == parsed(Memo())


def test_one_error_does_not_grow_with_the_next() -> None:
    depths = []
    for _ in range(3):
        parser = RequestParser(LIMITS)
        parser.feed(b"GET /" + b"x" * 9000)
        with pytest.raises(Malformed) as caught:
            parser.next_head()
        depths.append(len(caught.traceback))
    assert len(set(depths)) == 1


SMALL = DoorLimits(
    head_bytes_max=300, url_bytes_max=60, headers_max=6, body_bytes_max=64, pipelined_max=4
)

_words = st.sampled_from(
    [
        b"GET ", b"POST ", b"OPTIONS ", b"CONNECT ", b"TRACE ", b"/", b"/jobs", b"*", b"?x=%00",
        b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2.0", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b":", b" ",
        b"\t", b"\x00", b"Host: a\r\n", b"Host:", b"Content-Length: 5\r\n", b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: ", b"chunked",
        b"Connection: close\r\n",
        b"Upgrade: h2c\r\n", b"Connection: upgrade\r\n", b"Authorization: Bearer x\r\n",
        b"Expect: 100-continue\r\n", b"hello", b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\n",
        b"5;a=b\r\n",
        b"x" * 50, b"\xff", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    ]
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A request of the tables with a few bytes changed, put in, or taken out."""
    case = draw(st.sampled_from([c for c in HOSTILE + GOOD if len(c.data) < 600]))
    data = bytearray(on_path(case))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 3))
        data[at : at + removed] = draw(st.binary(max_size=3) | _words)
    return bytes(data)


_streams = st.one_of(
    st.binary(max_size=400), st.lists(_words, max_size=25).map(b"".join), mutated()
)


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    data = draw(_streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    edges = [0, *cuts, len(data)]
    return data, [data[a:b] for a, b in pairwise(edges)]


_shared = Memo()
"""Of all examples: what one of them was understood as must not show in another."""


@settings(max_examples=1500, deadline=None)
@given(cut_streams())
def test_any_bytes_are_read_the_same_however_they_are_cut(
    stream: tuple[bytes, list[bytes]],
) -> None:
    data, pieces = stream
    whole = parse([data], SMALL)  # raises nothing but what parse catches
    assert parse(pieces, SMALL) == whole
    assert parse(pieces_of(data, 1), SMALL) == whole
    assert parse(pieces, SMALL, _shared) == whole
    # The shortcut reads what it takes in the same way, and leaves what it does not take alone.
    parser = RequestParser(SMALL, _shared)
    known = parser.known_request(data)
    if known is not None:
        assert whole == [known]
    assert parser.buffered == 0


@settings(max_examples=500, deadline=None)
@given(_streams)
def test_what_is_accepted_has_one_length_and_one_caller(data: bytes) -> None:
    for found in parse([data], SMALL):
        if isinstance(found, Problem):
            continue
        head, body = found
        names = [name for name, _ in head.headers]
        assert names.count(b"authorization") <= 1
        assert names.count(b"host") == 1 or (not head.http11 and b"host" not in names)
        assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
        assert len(body) <= SMALL.body_bytes_max
        if not head.chunked:
            assert len(body) == head.content_length
