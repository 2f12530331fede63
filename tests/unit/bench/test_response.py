"""bench.response: whole answers are read, cut ones awaited, everything else refused."""

import pytest

from bench.errors import MalformedAnswerError
from bench.response import HEAD_BYTES_MAX, ResponseScanner

CREATED = (
    b"HTTP/1.1 201 Created\r\n"
    b"Content-Type: application/json\r\n"
    b"content-length: 49\r\n"
    b"Date: Tue, 24 Nov 2026 03:41:00 GMT\r\n\r\n"
    b'{"job_id":"01890a5d-ac96-774b-bcce-b302099a8057"}'
)
BODY = CREATED[-49:]


@pytest.fixture
def scan():
    return ResponseScanner().scan


@pytest.mark.parametrize("cut", range(len(CREATED)))
def test_an_answer_cut_at_any_byte_is_awaited_and_then_read(scan, cut):
    assert scan(CREATED[:cut]) is None
    assert scan(CREATED) == (201, BODY, False)
    assert scan(CREATED[:cut]) is None, "a head that is known changes nothing"


def test_an_empty_body_is_an_answer(scan):
    assert scan(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") == (200, b"", False)


def test_an_answer_without_a_reason_is_read(scan):
    assert scan(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nOK") == (200, b"OK", False)


def test_204_needs_no_length(scan):
    assert scan(b"HTTP/1.1 204 No Content\r\n\r\n") == (204, b"", False)


def test_connection_close_is_noticed(scan):
    data = b"HTTP/1.1 400 Bad Request\r\nConnection: Close\r\nContent-Length: 1\r\n\r\nx"
    assert scan(data) == (400, b"x", True)


def test_the_same_head_with_another_body_is_another_answer(scan):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    assert scan(head + b"ab") == (200, b"ab", False)
    assert scan(head + b"cd") == (200, b"cd", False)


def test_many_different_heads_are_not_all_remembered():
    scanner = ResponseScanner()
    for second in range(2000):
        head = b"HTTP/1.1 200 OK\r\nDate: %d\r\nContent-Length: 0\r\n\r\n" % second
        assert scanner.scan(head) == (200, b"", False)
    assert len(scanner._heads) <= 512


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "status line"),
        (b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", "status line"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length 0\r\n\r\n", "not a header"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "chunked"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1", "behind an answer"),
        (b"\x15\x03\x01", "does not begin"),
        (b"HTTP/2", "does not begin"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_BYTES_MAX, "a head of more than"),
    ],
)
def test_what_is_no_answer_is_refused_loudly(scan, data, what):
    with pytest.raises(MalformedAnswerError, match=what):
        scan(data)
