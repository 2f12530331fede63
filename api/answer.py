"""An answer to a request before it is HTTP bytes: what both ways in have in common. Pure.

The lane hands it to the door, the Quart routes turn it into a Quart response, so that the
same outcome has the same status, headers and body whichever way the request came.
"""

from typing import Final

import msgspec

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"


class Answer(msgspec.Struct, frozen=True):
    """Status, body and the headers that are not implied by them.

    ``headers`` has no Content-Length, Date or Connection: those are the door's.
    """

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
