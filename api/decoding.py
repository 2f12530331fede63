"""Bytes -> typed bodies, and what is wrong with them in words that name the field. Pure."""

import re
from typing import Final, TypeVar

import msgspec

from api.problems import Problem

_WORDS_MAX: Final = 300
"""Of an error: the name of an unknown field can be as long as the body."""

# msgspec's words, and where it saw them: `$.jobs[3].tags`, or `key` in it.
_AT: Final = re.compile(
    r" - at (?P<key>`key` in )?`\$(?:\.(?P<item>(?:jobs|acks|extends)\[[0-9]+\]))?"
    r"\.?(?P<field>[^`]*)`\Z"
)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`\Z")
_NULL: Final = re.compile(r"Expected `[a-z]+`, got `null`\Z")
_RANGE: Final = re.compile(r"Expected `[a-z]+` (>=|<=) (.*)\Z")
_LENGTH: Final = re.compile(r"Expected `([a-z]+)` of length (>=|<=) (.*)\Z")
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""A backslash and what it escapes; a surrogate pair is one."""
_COUNTED: Final = {"str": "characters", "array": "items", "object": "entries"}

_Decoded = TypeVar("_Decoded")


class RefusedError(Exception):
    """A request is refused; its decoder answers with the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


def refused(words: str) -> RefusedError:
    """400, to be raised."""
    return RefusedError(Problem(400, words))


def decoded_or_none(decoder: "msgspec.json.Decoder[_Decoded]", body: bytes) -> _Decoded | None:
    """The body, or None whatever is wrong with it: for a decoder that has another behind it."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def decoded(decoder: "msgspec.json.Decoder[_Decoded]", body: bytes) -> _Decoded:
    """The body.

    Raises:
        RefusedError: it is not what the decoder wants.
    """
    if not body:
        raise refused("invalid JSON: the body is empty")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RefusedError(_in_words(str(error))) from None
    except msgspec.MsgspecError as error:
        raise refused(f"invalid JSON: {_lone_surrogate(body) or error}") from None
    except UnicodeDecodeError:
        raise refused("invalid JSON: the body is not valid UTF-8") from None
    except RecursionError:
        raise refused("invalid JSON: nested too deeply") from None


def _lone_surrogate(body: bytes) -> str | None:
    """What is wrong with a body that is refused and has one: msgspec's words may not tell."""
    for escape in _ESCAPE.finditer(body):
        if (lone := escape["lone"]) is not None:
            return f"\\{lone.decode()} is half of a surrogate pair, which is no character"
    return None


def _in_words(error: str) -> Problem:
    """Msgspec's words, the field first where one is out of its bounds, and the item before it."""
    match = _AT.search(error)
    if match is None:
        return Problem(400, _complaint(cut(error), ""))
    words = cut(error[: match.start()])
    field = f"a key of {match['field']}" if match["key"] else match["field"]
    item = f"{match['item']}: " if match["item"] else ""
    return Problem(400, item + _complaint(words, field))


def _complaint(words: str, field: str) -> str:
    if missing := _MISSING.match(words):
        return f"{field}.{missing[1]} is required" if field else f"{missing[1]} is required"
    if field and not field.endswith("]") and _NULL.match(words):
        return f"{field} is required"
    if out := _RANGE.match(words):
        return f"{field} must be {out[1]} {out[2]}"
    if out := _LENGTH.match(words):
        if out[2] == ">=" and out[3] == "1":
            return f"{field} must not be empty"
        bound = "at least" if out[2] == ">=" else "at most"
        return f"{field} must have {bound} {out[3]} {_COUNTED[out[1]]}"
    return f"invalid JSON: {words} - at `$.{field}`" if field else f"invalid JSON: {words}"


def cut(text: str) -> str:
    """``text`` as far as an answer repeats what a client sent."""
    return text if len(text) <= _WORDS_MAX else f"{text[:_WORDS_MAX]}..."
