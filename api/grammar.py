"""The grammar of HTTP/1.1, strictly read, and the one exception for what breaks it. Pure.

RFC 9112 without its leniencies: every line ends in CRLF, names are tokens with a colon right
behind, values have no control character but the tab. Possessive quantifiers (``++``): a
mismatch is found in one pass, whatever a client sends.
"""

import re
from typing import Final

from api.problems import Problem

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_HEADER: Final = _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n"
_TARGET: Final = rb"[\x21\x22\x24-\x7e]++"  # visible ASCII; "#" never comes in a request

head_grammar: Final = re.compile(
    _TOKEN + b" " + _TARGET + rb" HTTP/1\.[01]\r\n(?:" + _HEADER + rb")*+\r\n"
)
header_grammar: Final = re.compile(_HEADER)
request_line_grammar: Final = re.compile(
    b"(" + _TOKEN + b") " + _TARGET + rb" HTTP/([0-9])\.([0-9])\r\n"
)
token_grammar: Final = re.compile(_TOKEN)
chunk_size_grammar: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n")


class Malformed(Exception):
    """These bytes are not a request that we serve; answer ``problem`` and close.

    Attributes:
        problem: status and words for the client.
    """

    def __init__(self, status: int, words: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(words)
        self.problem = Problem(status, words, headers)


# Made anew each time: an exception that is raised again keeps a longer traceback each time.


def too_many_headers() -> Malformed:
    """431, by number."""
    return Malformed(431, "too many header lines")


def head_too_large() -> Malformed:
    """431, by size."""
    return Malformed(431, "request head too large")


def target_too_long() -> Malformed:
    """414."""
    return Malformed(414, "request target too long")


def body_too_large(bytes_max: int) -> Malformed:
    """413, with the bound in its words."""
    return Malformed(413, f"body too large: at most {bytes_max} bytes")
