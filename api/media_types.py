"""Which bodies are taken for JSON, by what the client says that they are. Pure.

Clients of the first contract were never asked: they send no type, or the one that their library
puts there for any text (``curl -d``: a form). So only a type that surely names another
format is refused, and only where there is a body that would be read.
"""

import re
from functools import lru_cache
from typing import Final

_WORD: Final = r"[!#$%&'*+.^_`|~0-9a-z-]+"
_MEDIA_TYPE: Final = re.compile(rf"\s*({_WORD})/({_WORD})\s*(?:;.*)?", re.DOTALL)
_SAYS_NOTHING: Final = frozenset(
    {"application/octet-stream", "application/x-www-form-urlencoded", "text/plain", "*/*"}
)
"""What libraries say of a body that they were told nothing of."""
_READ_BODIES: Final = frozenset({"POST", "PUT", "PATCH"})


def is_other_format(method: str, content_type: str) -> bool:
    """Whether the body of such a request, if it has one, is to be refused (415)."""
    return method in _READ_BODIES and _names_other_format(content_type)


@lru_cache(maxsize=256)  # a client says the same each time
def _names_other_format(content_type: str) -> bool:
    match = _MEDIA_TYPE.fullmatch(content_type.lower())
    if match is None:
        return False  # it names no format at all
    kind, subtype = match.groups()
    if subtype in ("json", "x-json") or subtype.endswith("+json"):
        return False
    return f"{kind}/{subtype}" not in _SAYS_NOTHING
