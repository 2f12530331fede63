"""Log lines: one per record, whatever a client put into it."""

import json
import logging
import subprocess
import sys

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
    # The hooks are this whole process's; ``last_words`` tries them in another.
    monkeypatch.setattr(logs, "_leave_nothing_to_python", lambda: None)
    logs.configure(log_format, "warning", "front 0")
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    out, err = capsys.readouterr()
    assert out == ""
    assert "loud" in err
    assert "quiet" not in err


LAST_WORDS = """
import sys, threading, warnings
from partitions import logs
logs.configure(sys.argv[1], "info", "front 0")
warnings.warn("of this")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
class Broken:
    def __del__(self):
        raise ValueError("while it is collected")
Broken()
raise ExceptionGroup("several", [KeyError("one\\nand more")])
"""


def last_words(log_format: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LAST_WORDS, log_format], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_what_python_says_itself_is_json_too():
    warning, in_thread, unraisable, uncaught = map(json.loads, last_words("json").splitlines())
    assert "of this" in warning["message"]
    assert "ZeroDivisionError" in in_thread["exception"]
    assert "while it is collected" in unraisable["exception"]
    assert (uncaught["level"], uncaught["process"]) == ("critical", "front 0")
    assert "KeyError" in uncaught["exception"]


def test_in_text_it_has_the_time_and_the_process_before_it():
    first = [line for line in last_words("text").splitlines() if not line.startswith("    | ")]
    assert all(" front 0: " in line for line in first)
    assert len(first) == 4


@pytest.mark.parametrize("log_format", logs.FORMATS)
def test_a_refusal_is_one_line(log_format):
    line = logs.refusal(log_format, "supervisor", "PORT=x: must be a number")
    assert line.count("\n") == 0
    if log_format == "json":
        assert json.loads(line)["message"] == "PORT=x: must be a number"
    else:
        assert line == "supervisor: PORT=x: must be a number"
