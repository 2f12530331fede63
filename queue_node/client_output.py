"""How client commands, and ``keys``, show what there is: tables for people, else JSON lines.

Tables go to a terminal; where standard output is anything else, and with ``--json``, each row
is a JSON object in a line of its own, with the field names of the HTTP contract. An answer of
one word (the id of a submitted job) stays that word unless ``--json`` is given.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

WIDE: Final = 10_000
"""Columns where there is no terminal: nothing is cut that a program might read."""

_SHOWN_MAX: Final = 200
"""Characters of a payload, result or error in a table."""

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))

STYLES: Final = {
    "READY": "cyan",
    "SCHEDULED": "blue",
    "RUNNING": "yellow",
    "RETRY": "magenta",
    "ACKED": "green",
    "DEAD": "bold red",
    "CANCELLED": "dim",
}
"""Of the states."""

T = TypeVar("T")
Cell = str | Text

_encode: Final = msgspec.json.Encoder().encode


class Output:
    """Standard output of one command.

    Args:
        as_json: ``--json``, ``--no-json``, or None: as suits what standard output is.
    """

    def __init__(self, *, as_json: bool | None) -> None:
        self._asked = as_json
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=WIDE)

    @property
    def json_rows(self) -> bool:
        """Whether rows are JSON."""
        return not self._console.is_terminal if self._asked is None else self._asked

    @property
    def json_words(self) -> bool:
        """Whether an answer of one word is JSON."""
        return bool(self._asked)

    @property
    def console(self) -> Console:
        """For what is drawn."""
        return self._console

    def word(self, text: str, as_json: object) -> None:
        """An answer of one word; ``as_json`` is what it is in JSON."""
        if self.json_words:
            self.json(as_json)
        else:
            sys.stdout.write(text + "\n")

    def json(self, row: object) -> None:
        """One line of JSON; as in the contract, what is not there is left out."""
        found = msgspec.to_builtins(row)
        if isinstance(found, dict):
            found = {name: value for name, value in found.items() if value is not None}
        sys.stdout.write(_encode(found).decode() + "\n")

    def rows(
        self, rows: Iterable[T], headings: Sequence[str], cells: Callable[[T], Sequence[Cell]]
    ) -> None:
        """All of ``rows``: as lines of JSON while they come, or as one table."""
        if self.json_rows:
            for row in rows:
                self.json(row)
            return
        self.table(headings, [cells(row) for row in rows])

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """A table without a frame."""
        self._console.print(Fitted(headings, rows))

    def record(self, row: object, fields: Iterable[tuple[str, Cell]]) -> None:
        """One thing, field by field; fields that say nothing are left out."""
        if self.json_rows:
            self.json(row)
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, cell in fields:
            if cell:
                table.add_row(Text(name), Text(cell) if isinstance(cell, str) else cell)
        self._console.print(table)


class Fitted:
    """A table without a frame, as wide as there is room.

    Free text is cut first, then columns go that matter least; an id is of no use when it is
    cut, so if all else fails it is folded.
    """

    def __init__(self, headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        self._headings = headings
        self._rows = [
            [Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, for rich."""
        shown = list(range(len(self._headings)))
        for heading in _FIRST_TO_GO:
            if self._width(shown, _TEXT_MIN) <= options.max_width:
                break
            shown = [index for index in shown if self._headings[index] != heading]
        yield self._table(shown, cut=self._width(shown) > options.max_width)

    def _table(self, shown: Sequence[int], *, cut: bool) -> Table:
        texts = [index for index in shown if self._headings[index] in _TEXTS]
        # With ratios, texts share what the others leave.
        cut = cut and bool(texts)
        table = Table(box=None, pad_edge=False, header_style="bold", expand=cut)
        for index in shown:
            heading = self._headings[index]
            table.add_column(
                heading,
                justify="right" if heading in _RIGHT else "left",
                no_wrap=heading not in _WHOLE,
                overflow="fold" if heading in _WHOLE else "ellipsis",
                ratio=1 if cut and index in texts else None,
            )
        for row in self._rows:
            table.add_row(*(row[index] for index in shown))
        return table

    def _width(self, shown: Iterable[int], text_max: int = WIDE) -> int:
        """Of these columns, with texts of at most ``text_max`` characters."""
        width = -_BETWEEN
        for index in shown:
            cells = (row[index].cell_len for row in self._rows)
            whole = max((len(self._headings[index]), *cells))
            width += _BETWEEN + (min(whole, text_max) if self._is_text(index) else whole)
        return width

    def _is_text(self, index: int) -> bool:
        return self._headings[index] in _TEXTS


_BETWEEN: Final = 2
"""Blanks between two columns: one beside each."""
_TEXTS: Final = frozenset(("PAYLOAD", "ERROR", "TAGS", "NAME", "OWNER"))
_TEXT_MIN: Final = 12
_FIRST_TO_GO: Final = (
    "LEASED/S", "CANCELLED", "SCHEDULED", "FAILED/S", "RETRY", "LAST USED", "CREATED", "IN/S",
    "DONE/S", "ACKED", "LEASE UNTIL", "OLDEST", "TAGS", "ATTEMPT", "ATTEMPTS",
)  # fmt: skip
_WHOLE: Final = frozenset(("JOB", "LEASE TOKEN", "QUEUE", "KEY"))
_RIGHT: Final = frozenset(
    (*STYLES, "OLDEST", "IN/S", "LEASED/S", "DONE/S", "FAILED/S", "UNFINISHED", "ATTEMPTS")
)


def plain(text: str) -> str:
    """User text without effect on a terminal, on one line."""
    return "".join(_harmless(character) for character in text)


def _harmless(character: str) -> str:
    if character.isprintable():
        return character
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character, f"\\u{ord(character):04x}")


def short(text: str | None) -> str:
    """The beginning of a text of any length, harmless."""
    if not text:
        return ""
    return plain(text[:_SHOWN_MAX]) + ("…" if len(text) > _SHOWN_MAX else "")


def state_cell(state: str) -> Text:
    """A state in its colour."""
    return Text(state, STYLES.get(state, ""))


def age(seconds: float | None) -> str:
    """For people: ``3d 4h``, ``2m 5s``, ``0.4s``; None is ``-``."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    left = int(seconds)
    for index, (size, unit) in enumerate(_UNITS):
        if left >= size:
            whole, rest = divmod(left, size)
            below, below_unit = _UNITS[index + 1] if index + 1 < len(_UNITS) else (1, "s")
            return f"{whole}{unit} {rest // below}{below_unit}"
    raise AssertionError(seconds)


def when(time: datetime | None) -> str:
    """RFC 3339 in UTC, to the second."""
    return "" if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rate(per_second: float) -> str:
    """For people: three digits."""
    if per_second >= 100:
        return f"{per_second:,.0f}"
    return f"{per_second:.1f}" if per_second >= 0.05 else ("0" if per_second == 0 else "<0.1")
