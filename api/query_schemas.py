"""What requests without a body may say, in queries and paths: lists, waits, queues. Pure.

The words of a query are text, which no JSON decoder has looked at. A parameter that is unknown or
given twice is refused: a filter with a typing error would be none.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from api.bodies import TAG_KEY_CHARS_MAX, TAG_VALUE_CHARS_MAX, TAGS_MAX
from api.checks import checked_queue, checked_wait
from api.decoding import RefusedError, cut, refused
from api.problems import Problem
from partitions.limits import GROUP_CHARS_MAX
from partitions.messages import Filter

STATES: Final = ("SCHEDULED", "READY", "RUNNING", "RETRY", "ACKED", "DEAD", "CANCELLED")
"""Of a job, as lists and counts name them."""

PAGE_JOBS_MAX: Final = 1000
PAGE_JOBS: Final = 100
"""Jobs of a page when the request does not say."""

_LIST_PARAMETERS: Final = frozenset({"queue", "state", "group", "limit", "cursor"})


class ListRequest(msgspec.Struct, frozen=True):
    """A page of jobs. ``cursor`` is as the request had it: ``decode_cursor`` checks it."""

    cursor: str | None = None
    limit: int = PAGE_JOBS
    filter: Filter = Filter()


def decode_list(args: Sequence[tuple[str, str]]) -> ListRequest | Problem:
    """Which jobs of ``GET /jobs``, or what is wrong with the query."""
    try:
        given = _parameters([pair for pair in args if pair[0] != "tag"], _LIST_PARAMETERS)
        queue = given.get("queue")
        return ListRequest(
            given.get("cursor"),
            _limit(given.get("limit")),
            Filter(
                None if queue is None else checked_queue("queue", queue),
                _state(given.get("state"), STATES),
                _group(given.get("group")),
                _tags([value for name, value in args if name == "tag"]),
            ),
        )
    except RefusedError as error:
        return error.problem


def decode_wait(args: Sequence[tuple[str, str]]) -> int | Problem:
    """How many ms ``GET /jobs/{id}`` may wait, or what is wrong with the query."""
    try:
        # Clients of the first contract may send other parameters, which were never looked at.
        waits = [(name, value) for name, value in args if name == "wait"]
        return checked_wait(_parameters(waits, frozenset({"wait"})).get("wait"))
    except RefusedError as error:
        return error.problem


def decode_bulk_state(args: Sequence[tuple[str, str]]) -> str | Problem:
    """The jobs of which state ``DELETE /queues/{q}/jobs`` forgets: any but RUNNING."""
    try:
        given = _parameters(args, frozenset({"state"}))
        state = _state(given.get("state"), tuple(name for name in STATES if name != "RUNNING"))
        if state is None:
            raise refused("state is required")
    except RefusedError as error:
        return error.problem
    return state


def query_pairs(query: str) -> list[tuple[str, str]]:
    """What stands behind the question mark of a target, escapes undone."""
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        return [("(invalid UTF-8)", "")]  # a parameter that there is not


def refuse_body(body: bytes) -> Problem | None:
    """What is wrong with the body of a route that takes none: nothing, or an empty object."""
    return None if body.strip() in (b"", b"{}") else Problem(400, "this route takes no body")


def check_queue(name: str) -> Problem | None:
    """What is wrong with the name of a queue in a path."""
    try:
        checked_queue("queue", name)
    except RefusedError as error:
        return error.problem
    return None


def _parameters(args: Sequence[tuple[str, str]], known: frozenset[str]) -> Mapping[str, str]:
    given: dict[str, str] = {}
    for name, value in args:
        if name not in known:
            raise refused(f"unknown parameter {cut(name)!a}")
        if name in given:
            raise refused(f"{name} is given twice")
        given[name] = value
    return given


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_JOBS
    digits = text if text.isascii() and text.isdigit() and len(text) <= 9 else "0"
    if not 1 <= int(digits) <= PAGE_JOBS_MAX:
        raise refused(f"limit must be a number from 1 to {PAGE_JOBS_MAX}")
    return int(digits)


def _state(text: str | None, allowed: tuple[str, ...]) -> str | None:
    if text is not None and text not in allowed:
        raise refused(f"state must be one of {', '.join(allowed)}")
    return text


def _group(text: str | None) -> str | None:
    if text is not None and not (1 <= len(text) <= GROUP_CHARS_MAX and _is_unicode(text)):
        raise refused(f"group must be a text of 1 to {GROUP_CHARS_MAX} characters")
    return text


def _tags(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if len(texts) > TAGS_MAX:
        raise refused(f"tag must be given at most {TAGS_MAX} times")
    return tuple(map(_tag, texts))


def _tag(text: str) -> tuple[str, str]:
    # Keys and values may have colons of their own, so which one ends the key is not known; nor
    # does it matter to the filter.
    if (
        not 1 <= text.find(":", 1) <= TAG_KEY_CHARS_MAX
        or len(text) > TAG_KEY_CHARS_MAX + 1 + TAG_VALUE_CHARS_MAX
        or not _is_unicode(text)
    ):
        raise refused(
            f"tag must be key:value, of at most {TAG_KEY_CHARS_MAX} and {TAG_VALUE_CHARS_MAX}"
            " characters"
        )
    key, _, value = text.partition(":")
    return key, value


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can carry it. JSON has been checked for this, queries have not."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
