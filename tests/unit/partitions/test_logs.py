"""Log lines: one per record, whatever a client put into it."""

import json
import logging

import pytest

from partitions import logs

HOSTILE = "a\r\n2026-01-31T10:30:00Z INFO front 0: forged\x1b[2J\x7f\x9b\u2028\ud800\0é"


def record(message: str, *args: object, failed: Exception | None = None) -> logging.LogRecord:
    exc_info = (type(failed), failed, failed.__traceback__) if failed else None
    made = logging.LogRecord("api.front", logging.INFO, __file__, 1, message, args, exc_info)
    made.created = 1767225599.9996
    return made


def raised(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_text_line_has_time_level_process_and_words():
    line = logs.TextFormatter("front 0").format(record("kept %d", 3))
    assert line == "2025-12-31T23:59:59.999Z INFO front 0: kept 3"


def test_a_text_line_is_one_line_whatever_is_in_the_message():
    line = logs.TextFormatter("front 0").format(record("target %s", HOSTILE))
    assert len(line.splitlines()) == 1
    assert "\\x0d\\x0a2026" in line
    assert "\\x1b[2J\\x7f\\x9b\\u2028" in line
    assert line.endswith("\\x00é")


def test_a_traceback_in_text_never_begins_a_line_of_its_own():
    line = logs.TextFormatter("p").format(record("bad", failed=raised(HOSTILE)))
    first, *rest = line.split("\n")
    assert first.endswith("p: bad")
    assert len(rest) >= 3
    assert all(other.startswith("    | ") for other in rest)
    assert not any(ord(char) < 32 or ord(char) == 127 for other in rest for char in other)


def test_a_json_line_is_ascii_and_gives_the_message_back():
    line = logs.JsonFormatter("front 0").format(record("target %s", HOSTILE))
    assert all(32 <= ord(char) < 127 for char in line)
    assert json.loads(line) == {
        "time": "2025-12-31T23:59:59.999Z",
        "level": "info",
        "process": "front 0",
        "logger": "api.front",
        "message": f"target {HOSTILE}",
    }


def test_a_json_line_holds_the_traceback():
    line = logs.JsonFormatter("p").format(record("bad", failed=raised("deep\nreason")))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["exception"].endswith("ValueError: deep\nreason")


@pytest.mark.parametrize("log_format", logs.FORMATS)
def test_configure_sends_records_of_its_level_to_standard_error(log_format, capsys, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    logs.configure(log_format, "warning", "front 0")
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    out, err = capsys.readouterr()
    assert out == ""
    assert "loud" in err
    assert "quiet" not in err
