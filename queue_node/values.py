"""The kinds of value that a configuration variable can have: text -> value and back. Pure.

A duration is Go style (``1m30s``, ``500ms``) or a number of seconds; a size is a number of
bytes or has a unit (``64KiB``, ``16MiB``). Each kind says in words what it allows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol


class NotAllowedError(Exception):
    """The text is not a value of this kind."""


class Kind(Protocol):
    """A kind of value."""

    @property
    def allowed(self) -> str:
        """What is allowed, after the words 'must be'."""

    def parse(self, text: str) -> object:
        """The value that ``text`` stands for.

        Raises:
            NotAllowedError: there is none.
        """

    def show(self, value: object) -> str:
        """The text that an operator would write for ``value``."""


_MS_OF: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
_SECONDS: Final = re.compile(r"\d+(?:\.\d+)?", re.ASCII)

_BYTES_OF: Final = {
    "": 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}
_SIZE: Final = re.compile(r"(\d+) ?([A-Za-z]*)", re.ASCII)

# Longer digits are a slip, and int() takes long over them.
_TEXT_MAX: Final = 40


@dataclass(frozen=True)
class Duration:
    """Milliseconds, from ``least_ms`` to ``most_ms``."""

    least_ms: int = 1
    most_ms: int = 365 * 24 * 3_600_000

    @property
    def allowed(self) -> str:
        """In words."""
        return (
            f"a duration from {show_duration(self.least_ms)} to {show_duration(self.most_ms)}, "
            "such as 500ms, 30s or 1m30s, or a number of seconds"
        )

    def parse(self, text: str) -> int:
        """Whole milliseconds; a finer part is cut off."""
        return _within(parse_duration(text), self.least_ms, self.most_ms)

    def show(self, value: object) -> str:
        """Go style."""
        assert isinstance(value, int)
        return show_duration(value)


@dataclass(frozen=True)
class Size:
    """Bytes, from ``least`` to ``most``."""

    least: int
    most: int

    @property
    def allowed(self) -> str:
        """In words."""
        return (
            f"a size from {show_size(self.least)} to {show_size(self.most)}, "
            "such as 65536, 64KiB or 1MiB"
        )

    def parse(self, text: str) -> int:
        """Bytes."""
        return _within(parse_size(text), self.least, self.most)

    def show(self, value: object) -> str:
        """With the largest unit that leaves it whole."""
        assert isinstance(value, int)
        return show_size(value)


@dataclass(frozen=True)
class Count:
    """A whole number, from ``least`` to ``most``."""

    least: int
    most: int

    @property
    def allowed(self) -> str:
        """In words."""
        return f"a whole number from {self.least} to {self.most}"

    def parse(self, text: str) -> int:
        """The number."""
        if len(text) > _TEXT_MAX or re.fullmatch(r"\d+", text, re.ASCII) is None:
            raise NotAllowedError
        return _within(int(text), self.least, self.most)

    def show(self, value: object) -> str:
        """Digits."""
        return str(value)


@dataclass(frozen=True)
class Choice:
    """One of a few words; several may stand for the same value."""

    words: Mapping[str, object]

    @property
    def allowed(self) -> str:
        """In words."""
        *first, last = self.words
        return f"{', '.join(first)} or {last}"

    def parse(self, text: str) -> object:
        """The value behind the word, in any case."""
        try:
            return self.words[text.lower()]
        except KeyError:
            raise NotAllowedError from None

    def show(self, value: object) -> str:
        """The first word that stands for ``value``."""
        return next(word for word, meant in self.words.items() if meant == value)


@dataclass(frozen=True)
class Text:
    """Any text that can be passed on: printable, of bounded length."""

    allowed: str = "printable text of at most 4096 characters"

    def parse(self, text: str) -> str:
        """The text itself."""
        if not text.isprintable() or len(text) > 4096:
            raise NotAllowedError
        return text

    def show(self, value: object) -> str:
        """The text itself."""
        return str(value)


def parse_duration(text: str) -> int:
    """Milliseconds of ``1m30s``, ``500ms``, ``1.5h`` or a number of seconds.

    Raises:
        NotAllowedError: it is neither.
    """
    if len(text) > _TEXT_MAX:
        raise NotAllowedError
    if _SECONDS.fullmatch(text):
        return int(Fraction(text) * 1000)
    end, total = 0, Fraction(0)
    while match := _DURATION_PART.match(text, end):
        total += Fraction(match[1]) * _MS_OF[match[2]]
        end = match.end()
    if end == 0 or end != len(text):
        raise NotAllowedError
    return int(total)


def show_duration(ms: int) -> str:
    """Go style, as short as it goes: ``1m30s``, ``500ms``, ``24h``."""
    parts = []
    for unit, unit_ms in sorted(_MS_OF.items(), key=lambda item: -item[1]):
        whole, ms = divmod(ms, unit_ms)
        if whole:
            parts.append(f"{whole}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Bytes of ``65536``, ``64KiB`` or ``1MB``.

    Raises:
        NotAllowedError: it is none of these.
    """
    match = _SIZE.fullmatch(text)
    if match is None or len(text) > _TEXT_MAX or match[2] not in _BYTES_OF:
        raise NotAllowedError
    return int(match[1]) * _BYTES_OF[match[2]]


def show_size(size_bytes: int) -> str:
    """With the largest binary unit that leaves it whole."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _BYTES_OF[unit] == 0:
            return f"{size_bytes // _BYTES_OF[unit]}{unit}"
    return str(size_bytes)


def _within(value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise NotAllowedError
    return value
