"""Awkward texts, JSON that is broken, and the words of a refusal: for every decoder of the API."""

from api.problems import Problem

MIB = 1 << 20

AWKWARD_TEXTS = [
    "\x00",
    "a\x00b",
    "'",
    '"',
    "\\",
    "`$(x)`",
    "\u2028\u2029",
    "\x7f\x80\x9f",
    "\ufeff",
    "\uffff",
    "\U0010ffff",
    "e\u0301",
    "</script>",
    " ",
    "null",
    "\r\n",
    "ü" * (MIB // 2),
    "€" * (MIB // 3),
    "\U0001f600" * (MIB // 4),
    "\x00" * MIB,
]

BROKEN_JSON = [
    b"",
    b" ",
    b"null",
    b"[]",
    b'"x"',
    b"3",
    b"{",
    b'{"payload":"x"',
    b'{"payload":"x"}x',
    b'{"payload":"x"}{}',
    b"{'payload':'x'}",
    b'{"payload":"x",}',
    b'{payload:"x"}',
    b'{"payload":x}',
    b'\xef\xbb\xbf{"payload":"x"}',  # a BOM
    b'{"payload":"\xff"}',
    b'{"payload":"\xc3"}',
    b'{"payload":"\xed\xa0\x80"}',  # a surrogate in UTF-8
    b'{"payload":"\xc0\x80"}',  # an overlong NUL
    b'{"payload":"\\ud800"}',
    b'{"payload":"\\udc00x"}',
    b'{"payload":"\\ud800\\u0041"}',
    b'{"payload":"\\x41"}',
    b'{"payload":"a\nb"}',  # a control character that is not escaped
    b'{"payload":"\x00"}',
    '{"payload":"x"}'.encode("utf-16"),
    b"[" * 5000 + b"]" * 5000,
    b"[" * 1_000_000,
    b'{"payload":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"unknown":' + b"[" * 5000 + b"]" * 5000 + b',"payload":"x"}',
    b'{"a":' * 100_000,
]


def words(problem: object, status: int = 400) -> str:
    """What a decoder that must refuse said."""
    assert isinstance(problem, Problem), problem
    assert problem.status == status
    return problem.error
