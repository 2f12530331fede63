r"""Log lines of every process of a node: set up once, standard error, one line per record.

Each process calls ``configure`` first of all; after that anybody logs through
``logging.getLogger(__name__)``. It lives in the lowest package so that all may use it.

Two formats:

* ``text``: ``2026-01-31T10:30:00.123Z INFO front 0: words``, a traceback below it, indented;
* ``json``: ``{"time", "level", "process", "logger", "message"}`` and, when there is one,
  ``"exception"``; always exactly one line.

What a client sent may be part of a message, so nothing in it may look like another line or
drive a terminal: control characters are shown as ``\xNN``, and a line that does not begin
at the first column is never a record.
"""

import json
import logging
import re
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal, get_args

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

FORMATS: Final[tuple[Format, ...]] = get_args(Format)
LEVELS: Final[tuple[Level, ...]] = get_args(Level)

# C0, DEL and C1, and the two separators that some viewers break lines at.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_INDENT: Final = "    | "

_logger: Final = logging.getLogger("queue_node")


def configure(log_format: str, log_level: str, process: str) -> None:
    """Send every record of this process to standard error, as ``process`` (``front 0``)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if log_format == "json" else TextFormatter(process))
    logging.basicConfig(level=log_level.upper(), handlers=[handler], force=True)
    _leave_nothing_to_python()


def refusal(log_format: str, process: str, words: str) -> str:
    """The one line of a process that ends before it does anything, as ``log_format`` has it."""
    if log_format != "json":
        return f"{process}: {words}"
    record = logging.LogRecord("queue_node", logging.CRITICAL, "", 0, words, None, None)
    return JsonFormatter(process).format(record)


def _leave_nothing_to_python() -> None:
    """What Python would print to standard error becomes records: one format for every line."""
    logging.captureWarnings(capture=True)
    sys.excepthook = _on_uncaught
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread_failed


def _on_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _logger.warning("interrupted")
        return
    _logger.critical("a fault that nothing expected ends this process", exc_info=error)


def _on_unraisable(fault: "sys.UnraisableHookArgs") -> None:
    _logger.error("%s: %r", fault.err_msg or "ignored in", fault.object, exc_info=fault.exc_value)


def _on_thread_failed(fault: "threading.ExceptHookArgs") -> None:
    name = fault.thread.name if fault.thread is not None else "a thread"
    _logger.error("%s failed", name, exc_info=fault.exc_value)


def neutralise(text: str) -> str:
    r"""``text`` with every control character as its escape: ``\n`` becomes ``\x0a``."""
    return _CONTROL.sub(_escape, text)


class TextFormatter(logging.Formatter):
    """For people: a traceback stays readable, on indented lines of its own."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line, and indented ones for a traceback."""
        message = neutralise(record.getMessage())
        lines = [f"{_time_of(record)} {record.levelname} {self._process}: {message}"]
        # Split at newlines only: every other separator is a control character.
        lines += [
            _INDENT + neutralise(line) for line in _traceback_of(self, record).split("\n") if line
        ]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """For machines: one JSON object per line, ASCII only."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the record."""
        fields = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if traceback := _traceback_of(self, record):
            fields["exception"] = traceback
        # ASCII output escapes every control character but DEL.
        return json.dumps(fields).replace("\x7f", "\\u007f")


def _time_of(record: logging.LogRecord) -> str:
    """RFC 3339, UTC, milliseconds."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_info:
        return formatter.formatException(record.exc_info)
    return record.exc_text or ""


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
