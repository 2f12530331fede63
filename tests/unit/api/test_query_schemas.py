import pytest

from api import problems
from api.problems import Problem
from api.query_schemas import (
    STATES,
    ListRequest,
    check_queue,
    decode_bulk_state,
    decode_list,
    decode_wait,
)
from partitions.messages import Filter
from tests.support.awkward import words


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], ListRequest(None, 100, Filter())),
        ([("limit", "1000"), ("cursor", "c")], ListRequest("c", 1000)),
        (
            [("queue", "q"), ("state", "DEAD"), ("group", "g ü")],
            ListRequest(filter=Filter("q", "DEAD", "g ü")),
        ),
        (
            [("tag", "a:b"), ("tag", "url:http://x"), ("tag", "c:")],
            ListRequest(filter=Filter(tags=(("a", "b"), ("url", "http://x"), ("c", "")))),
        ),
        ([("tag", ":a:b")], ListRequest(filter=Filter(tags=(("", "a:b"),)))),
        ([("tag", "k:" + "v" * 319)], ListRequest(filter=Filter(tags=(("k", "v" * 319),)))),
    ],
)
def test_a_list_may_be_narrowed(args: list[tuple[str, str]], expected: ListRequest) -> None:
    assert decode_list(args) == expected


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ([("limit", "0")], "limit"),
        ([("limit", "1001")], "limit"),
        ([("limit", "-1")], "limit"),
        ([("limit", "+1")], "limit"),
        ([("limit", "1.0")], "limit"),
        ([("limit", "")], "limit"),
        ([("limit", "\u0661")], "limit"),
        ([("limit", "9" * 10_000)], "limit"),
        ([("limit", "1"), ("limit", "1")], "limit"),
        ([("state", "ready")], "state"),
        ([("state", "")], "state"),
        ([("queue", "a b")], "queue"),
        ([("queue", "")], "queue"),
        ([("group", "")], "group"),
        ([("group", "\ud800")], "group"),
        ([("group", "g" * 257)], "group"),
        ([("tag", "a")], "tag"),
        ([("tag", ":b")], "tag"),
        ([("tag", "a:\udfff")], "tag"),
        ([("tag", "k" * 65 + ":")], "tag"),
        ([("tag", "k:" + "v" * 320)], "tag"),
        ([("tag", "a:b")] * 17, "tag"),
        ([("after", "1")], "after"),
        ([("\ud800", "1")], "ud800"),
        ([("x" * 10_000, "1")], "xxx"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_list_that_is_wrong_is_told_the_parameter(
    args: list[tuple[str, str]], named: str
) -> None:
    problem = decode_list(args)
    assert named in words(problem)
    assert isinstance(problem, Problem)
    assert len(problems.to_answer(problem).body) < 400


def test_how_long_a_read_may_wait() -> None:
    assert decode_wait([]) == 0
    assert decode_wait([("wait", "30s")]) == 30_000
    assert decode_wait([("wait", "1.5")]) == 1_500
    assert decode_wait([("wait", "60s")]) == 60_000
    for text in ("61s", "-1", "", "x", "60.001"):
        assert "wait" in words(decode_wait([("wait", text)]))
    assert "wait" in words(decode_wait([("wait", "1"), ("wait", "1")]))
    # Clients of the first contract may send what they like; it was never looked at.
    assert decode_wait([("queue", "a"), ("wait", "1")]) == 1_000


def test_a_purge_names_a_state_and_never_takes_running_jobs() -> None:
    for state in STATES:
        decoded = decode_bulk_state([("state", state)])
        assert isinstance(decoded, Problem) if state == "RUNNING" else decoded == state
    assert words(decode_bulk_state([])) == "state is required"
    assert "state" in words(decode_bulk_state([("state", "x")]))
    assert "queue" in words(decode_bulk_state([("queue", "x")]))


def test_a_queue_in_a_path() -> None:
    assert check_queue("a.B_c:d-9") is None
    for name in ("", "a b", "a/b", "q" * 129, "\ud800", "ä", "a\n"):
        assert "queue" in words(check_queue(name))
