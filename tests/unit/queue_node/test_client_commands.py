"""The parts of the client commands that need no node."""

import argparse
import io
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from rich.console import Console

from queue_node import client_arguments, client_jobs_view
from queue_node.client_exit import ClientExit, exit_of
from queue_node.client_output import WIDE, Fitted, age, plain, rate, short, when
from queue_node.client_queues_view import by_partition, sorted_by
from queue_node.client_submit import batches
from queue_node.client_top_view import Look, as_json, view
from queue_node_sdk import (
    AuthError,
    BadRequest,
    ConfigurationError,
    LeaseLost,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    QueueInfo,
    QueueList,
    QueueNodeError,
    Rate,
    Rates,
    TlsError,
    UnexpectedAnswer,
    Unreachable,
)


def queue(name: str, ready: int = 0, **fields) -> QueueInfo:
    return QueueInfo(queue=name, counts={"READY": ready}, **fields)


def drawn(look: Look, age_seconds: float = 0.0) -> str:
    console = Console(width=WIDE, color_system=None)
    with console.capture() as captured:
        for part in view(look, "backlog", "http://node", age_seconds):
            console.print(part)
    return captured.get()


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (AuthError, ClientExit.REFUSED),
        (BadRequest, ClientExit.REFUSED),
        (LeaseLost, ClientExit.REFUSED),
        (Overloaded, ClientExit.REFUSED),
        (QueueNodeError, ClientExit.REFUSED),
        (ConfigurationError, ClientExit.USAGE),
        (Unreachable, ClientExit.UNREACHABLE),
        (OutcomeUnknown, ClientExit.UNREACHABLE),
        (TlsError, ClientExit.UNREACHABLE),
        (UnexpectedAnswer, ClientExit.UNREACHABLE),
        (NotFound, ClientExit.NOT_FOUND),
    ],
)
def test_every_error_has_its_exit_code(kind, code):
    assert exit_of(kind("words")) is code


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (client_arguments.duration, "1m30s", 90.0),
        (client_arguments.duration, "0.25", 0.25),
        (client_arguments.at_least_one, "12", 12),
        (client_arguments.tag, "a=b=c", ("a", "b=c")),
        (client_arguments.tag, "a=", ("a", "")),
        (
            client_arguments.moment,
            "2025-12-26T10:30:00Z",
            datetime(2025, 12, 26, 10, 30, tzinfo=UTC),
        ),
        (
            client_arguments.moment,
            "2025-12-26T10:30:00",
            datetime(2025, 12, 26, 10, 30, tzinfo=UTC),
        ),
    ],
)
def test_a_word_becomes_its_value(read, text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (client_arguments.duration, "soon"),
        (client_arguments.duration, "-1s"),
        (client_arguments.at_least_one, "0"),
        (client_arguments.at_least_one, "²"),
        (client_arguments.at_least_one, "9" * 5000),
        (client_arguments.tag, "a"),
        (client_arguments.tag, "=b"),
        (client_arguments.moment, "tomorrow"),
    ],
)
def test_a_word_that_is_no_value_is_refused_with_the_word(read, text):
    with pytest.raises(argparse.ArgumentTypeError, match=repr(text)[:20].replace("²", ".")):
        read(text)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.44, "0.4s"),
        (59, "59s"),
        (60, "1m 0s"),
        (3_599, "59m 59s"),
        (3_600, "1h 0m"),
        (90_000, "1d 1h"),
    ],
)
def test_an_age_has_two_units(seconds, shown):
    assert age(seconds) == shown


def test_a_rate_has_three_digits():
    assert [rate(x) for x in (0.0, 0.01, 1.26, 1234.5)] == ["0", "<0.1", "1.3", "1,234"]


def test_texts_of_users_have_no_effect_on_a_terminal():
    assert plain("a\x1b[2Jb\n\t") == r"a\u001b[2Jb\n\t"
    assert short("x" * 201) == "x" * 200 + "…"
    assert when(datetime(2025, 1, 2, 3, 4, 5, 999, tzinfo=UTC)) == "2025-01-02T03:04:05Z"


def test_lines_are_cut_into_batches_that_a_request_can_carry():
    assert [len(batch) for batch in batches(["x"] * 2_500)] == [1_000, 1_000, 500]
    big = "x" * (1 << 20)
    assert [len(batch) for batch in batches([big] * 9)] == [4, 4, 1]
    assert list(batches(["", ""])) == []


def test_queues_are_sorted_by_what_is_asked_for():
    queues = [
        queue("b", ready=1, oldest_ready_age=9.0),
        queue("a", ready=5, dead_letters=1),
        queue("c", ready=1, rates=Rates(acked=Rate(2.0))),
    ]
    order = {
        sort: "".join(one.queue for one in sorted_by(queues, sort))
        for sort in ("backlog", "name", "age", "rate", "dead")
    }
    assert order == {"backlog": "abc", "name": "abc", "age": "bac", "rate": "cab", "dead": "abc"}


def test_a_look_shows_queues_partitions_and_who_is_missing():
    queues = [queue("mail", 3, paused=True, partitions={"0": 1, "10": 2}), queue("b", 1)]
    look = Look(QueueList(queues, [2]), 0.0)
    text = drawn(look)
    assert "2 queues  4 unfinished" in text
    assert "mail paused" in text
    assert "partitions that do not answer: [2]" in text
    assert by_partition(queues) == {0: 1, 10: 2}
    shown = as_json(look, "name")
    assert [one["queue"] for one in shown["queues"]] == ["b", "mail"]
    assert (shown["unavailable"], "error" in shown) == ([2], False)


def test_a_node_that_went_away_is_told_with_the_last_look():
    look = Look(QueueList([queue("mail", 3)]), 0.0, "cannot reach the node")
    assert "no answer for 1m 5s: cannot reach the node" in drawn(look, 65.0)
    assert "mail" in drawn(look)
    assert as_json(look, "name")["error"] == "cannot reach the node"


def test_a_node_without_queues_is_no_empty_table():
    assert "no queues" in drawn(Look(QueueList([]), 0.0))


def shown_at(width: int, headings: Sequence[str], *rows: Sequence[str]) -> list[str]:
    """The lines of a table on a terminal so wide."""
    written = io.StringIO()
    Console(file=written, width=width).print(Fitted(headings, rows))
    return written.getvalue().splitlines()


JOB_ROW = ("9c7c31d9-56aa-84e6-9d5c-f5edc3380881", "RUNNING", "mail", "1/3",
           "2026-01-02T12:00:00Z", "a=b", "an error " * 10)  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200, 10_000])
def test_an_id_and_a_state_are_whole_on_every_terminal(width):
    heading, *lines = shown_at(width, client_jobs_view.HEADINGS, JOB_ROW)
    assert heading.startswith("JOB")
    assert JOB_ROW[0] in lines[0]
    assert "RUNNING" in lines[0]
    assert max(map(len, lines)) <= width


def test_a_narrow_terminal_gets_fewer_columns_and_a_wide_one_all():
    wide = shown_at(200, client_jobs_view.HEADINGS, JOB_ROW)
    assert wide[0].split() == list(client_jobs_view.HEADINGS)
    assert " ".join(wide).count("an error") > 1
    narrow = shown_at(80, client_jobs_view.HEADINGS, JOB_ROW)
    assert "CREATED" not in narrow[0]
    assert "…" in narrow[1]
    assert len(narrow) == 2


def test_where_there_is_no_terminal_nothing_is_cut():
    assert "an error " * 9 in shown_at(WIDE, client_jobs_view.HEADINGS, JOB_ROW)[1]
