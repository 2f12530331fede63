"""The commands of a client, as somebody types them, against a real node."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from queue_node.cli import main
from queue_node.client_exit import ClientExit
from tests.support.node import RunningNode
from tests.support.polling import DEADLINE_S
from tests.support.ports import ReservedPort

NOBODY = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(autouse=True)
def environment(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("QUEUE_NODE_URL", node.url)
    monkeypatch.setenv("QUEUE_NODE_KEY", node.keys["admin"])
    return monkeypatch


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]):
    """``typed("get", job_id)``: its exit code, its lines and its errors."""

    def type_(*words: str) -> SimpleNamespace:
        code = main(words)
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, lines=out.splitlines(), err=err, out=out)

    return type_


def feed(environment: pytest.MonkeyPatch, content: bytes) -> None:
    environment.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def rows(done: SimpleNamespace) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.lines]


def test_a_job_goes_its_way_from_submit_to_its_result(typed):
    done = typed("submit", "é work", "--queue", "way", "--tag", "customer=42", "--priority", "5")
    assert (done.code, done.err) == (0, "")
    (job_id,) = done.lines
    (leased,) = rows(typed("lease", "way", "--worker", "me", "--lease-duration", "1m"))
    assert (leased["job_id"], leased["payload"], leased["attempt"]) == (job_id, "é work", 1)
    (running,) = rows(typed("get", job_id))
    assert (running["state"], running["worker"], running["tags"]) == (
        "RUNNING",
        "me",
        {"customer": "42"},
    )
    done = typed("ack", job_id, "--token", leased["lease_token"], "--result", "é done")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert typed("get", job_id, "--result").out == "é done\n"
    assert typed("get", job_id, "--wait", "10s", "--result").code == 0


def test_a_table_shows_what_json_shows(typed):
    (job_id,) = typed("submit", "x", "--queue", "table", "--group", "g\x1b[31m").lines
    (row,) = rows(typed("jobs", "--queue", "table"))
    assert row["job_id"] == job_id
    assert "result" not in row
    heading, line = typed("jobs", "--queue", "table", "--no-json").lines
    assert heading.split()[:3] == ["JOB", "STATE", "QUEUE"]
    assert line.split()[:4] == [job_id, "READY", "table", "0/3"]
    record = typed("get", job_id, "--no-json").out
    assert r"g\u001b[31m" in record
    assert "\x1b" not in record


def test_every_line_of_standard_input_is_a_job(typed, environment):
    feed(environment, "one\n\ntwo é\r\nthree".encode())
    job_ids = typed("submit", "--lines", "--queue", "lines").lines
    leased = rows(typed("lease", "lines", "--max", "10"))
    # Ids in the order of the lines; leases of several partitions are nearly in order.
    expected = dict(zip(job_ids, ["one", "two é", "three"], strict=True))
    assert {job["job_id"]: job["payload"] for job in leased} == expected


def test_a_payload_comes_from_standard_input_or_a_file(typed, environment, tmp_path):
    feed(environment, b"from\nthere")
    assert typed("submit", "-", "--queue", "texts").code == 0
    file = tmp_path / "payload"
    file.write_text("of a file\n")
    assert typed("submit", "--file", str(file), "--queue", "texts").code == 0
    leased = rows(typed("lease", "texts", "--max", "10"))
    assert sorted(job["payload"] for job in leased) == ["from\nthere", "of a file\n"]


def test_the_same_idempotency_key_is_the_same_job(typed):
    first = typed("submit", "x", "--idempotency-key", "once").lines
    assert typed("submit", "x", "--idempotency-key", "once").lines == first
    other = typed("submit", "y", "--idempotency-key", "once")
    assert (other.code, other.out) == (ClientExit.REFUSED, "")


def test_a_wait_that_ends_in_dead_or_in_nothing_is_one(typed):
    late = typed("submit", "x", "--queue", "waits", "--wait", "50ms", "--max-retries", "1")
    assert (late.code, late.out) == (ClientExit.REFUSED, "")
    (leased,) = rows(typed("lease", "waits"))
    job_id = leased["job_id"]
    assert job_id in late.err
    typed("ack", job_id, "--token", leased["lease_token"], "--error", "broken é")
    done = typed("get", job_id, "--wait", "10s")
    assert done.code == ClientExit.REFUSED
    (job,) = rows(done)
    assert (job["state"], job["result_error"]) == ("DEAD", "broken é")


def test_dead_letters_are_listed_retried_and_purged(typed):
    job_ids = [typed("submit", "x", "--queue", "dead", "--max-retries", "9").lines[0] for _ in "ab"]
    for job in rows(typed("lease", "dead", "--max", "10")):
        token = ("--token", job["lease_token"])
        assert typed("ack", job["job_id"], *token, "--error", "no", "--no-retry").code == 0
    listed = rows(typed("dead", "list", "--queue", "dead"))
    assert sorted(job["job_id"] for job in listed) == sorted(job_ids)
    assert typed("dead", "retry", "dead").out == "2\n"
    assert typed("dead", "list", "--queue", "dead").out == ""
    for job in rows(typed("lease", "dead", "--max", "10")):
        token = ("--token", job["lease_token"])
        typed("ack", job["job_id"], *token, "--error", "no", "--no-retry")
    assert typed("retry", job_ids[0]).out == f"{job_ids[0]} READY\n"
    assert rows(typed("dead", "purge", "dead", "--yes", "--json")) == [{"count": 1}]
    assert typed("get", job_ids[1]).code == ClientExit.NOT_FOUND


def test_nothing_is_purged_unless_somebody_says_yes(typed, environment):
    feed(environment, b"")
    done = typed("dead", "purge", "dead")
    assert (done.code, done.out) == (ClientExit.USAGE, "")
    assert "--yes" in done.err


def test_a_paused_queue_gives_nothing_until_it_is_resumed(typed):
    typed("submit", "x", "--queue", "halt")
    assert typed("pause", "halt").out == "halt paused\n"
    assert "halt paused" in typed("queues", "halt", "--no-json").out
    empty = typed("lease", "halt")
    assert (empty.code, empty.out) == (ClientExit.NOT_FOUND, "")
    assert empty.err == "queue-node: no jobs available\n"
    assert typed("resume", "halt").code == 0
    assert typed("lease", "halt").code == 0


def test_one_bad_id_does_not_keep_the_others(typed):
    (job_id,) = typed("submit", "x", "--queue", "ids").lines
    done = typed("cancel", NOBODY, job_id)
    assert (done.code, done.out) == (ClientExit.NOT_FOUND, f"{job_id} CANCELLED\n")
    assert NOBODY in done.err


def test_a_job_without_a_result_says_why(typed):
    (job_id,) = typed("submit", "x", "--queue", "no-result").lines
    typed("cancel", job_id)
    for waiting in ((), ("--wait", "1s")):
        got = typed("get", job_id, "--result", *waiting)
        assert got.code == ClientExit.REFUSED
        assert got.err == f"queue-node: {job_id} has no result, its state is CANCELLED\n"


def test_a_late_ack_is_refused(typed):
    typed("submit", "x", "--queue", "late")
    (leased,) = rows(typed("lease", "late"))
    done = typed("ack", leased["job_id"], "--token", "999999", "--result", "x")
    assert done.code == ClientExit.REFUSED
    assert "lease lost" in done.err
    assert typed("ack", NOBODY, "--token", "1").code == ClientExit.NOT_FOUND


def test_a_list_says_when_there_is_more(typed, environment):
    feed(environment, b"x\n" * 12)
    typed("submit", "--lines", "--queue", "many")
    short = typed("jobs", "--queue", "many", "--limit", "5")
    assert len(short.lines) == 5
    assert "there are more" in short.err
    whole = typed("jobs", "--queue", "many", "--all")
    assert (len(whole.lines), whole.err) == (12, "")
    assert typed("jobs", "--queue", "many", "--limit", "12").err == ""


def test_a_look_of_top_is_for_scripts_and_for_people(typed):
    typed("submit", "x", "--queue", "tops")
    (look,) = rows(typed("top", "tops", "--once", "--json"))
    (queue,) = look["queues"]
    assert (queue["queue"], queue["counts"]["READY"]) == ("tops", 1)
    assert sum(look["partitions"].values()) == 1
    assert look["unavailable"] == []
    shown = typed("top", "tops", "--once", "--no-json").out
    assert "1 queues  1 unfinished" in shown
    assert "PARTITION" in shown


def test_top_is_live_until_q(node: RunningNode):
    """In a terminal of its own: it draws what is submitted while it runs, and q ends it."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "150", "LINES": "40"}
    command = (sys.executable, "-m", "queue_node", "top", "live", "--interval", "100ms")
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment
    ) as process:
        try:
            os.close(follower)
            _read_until(leader, b"no queues")
            body = {"payload": "x", "queue": "live"}
            assert node.request("POST", "/jobs", key="client", json_body=body).status == 201
            _read_until(leader, b"1 unfinished")
            os.write(leader, b"q")
            _read_until(leader, b"\x1b[?1049l")  # the screen from before is back
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
            os.close(leader)


def _read_until(descriptor: int, wanted: bytes) -> None:
    seen, give_up_at = b"", time.monotonic() + DEADLINE_S
    while wanted not in seen:
        ready, _, _ = select.select([descriptor], [], [], give_up_at - time.monotonic())
        assert ready, seen
        try:
            seen += os.read(descriptor, 65_536)
        except OSError as end:  # how Linux says that nobody holds the other side
            raise AssertionError(seen) from end


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("get", NOBODY), ClientExit.NOT_FOUND, "job not found"),
        (("submit", ""), ClientExit.REFUSED, "payload is required"),
        (("submit", "x", "--queue", "no/queue"), ClientExit.REFUSED, "queue"),
        (("submit", "x", "--url", "ftp://here"), ClientExit.USAGE, "http://host:port"),
        (("submit", "x", "--key", "client_no"), ClientExit.REFUSED, "Invalid API key"),
        (("submit", "x", "--ca-file", "/no/file"), ClientExit.USAGE, "/no/file"),
        (("submit", "--file", "/no/file"), ClientExit.USAGE, "/no/file"),
        (("submit", "a", "b", "--wait", "1s"), ClientExit.USAGE, "--wait is for one job"),
        (("submit", "x", "--tag", "a=1", "--tag", "a=2"), ClientExit.USAGE, "comes twice"),
        (("get", "a", "b", "--wait", "1s"), ClientExit.USAGE, "--wait is for one job"),
        (("ack", NOBODY, "--no-retry"), ClientExit.USAGE, "--error"),
        (("ack", NOBODY, "--error", ""), ClientExit.USAGE, "--error is empty"),
        (("top", "--interval", "1ms"), ClientExit.USAGE, "--interval"),
        (("lease", "--wait", "2m"), ClientExit.REFUSED, "wait"),
    ],
)
def test_what_cannot_be_is_one_line_and_a_code(typed, words, code, said):
    done = typed(*words)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.startswith("queue-node: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [("submit", "x"), ("lease",), ("queues",), ("top", "--once"), ("cancel", NOBODY, NOBODY)],
)
def test_a_node_that_is_away_is_three(typed, words):
    nobody = ReservedPort()
    url = f"http://127.0.0.1:{nobody.number}"
    done = typed(*words, "--url", url, "--retry-for", "0")
    nobody.close()
    assert (done.code, done.out) == (ClientExit.UNREACHABLE, "")
    assert "cannot reach the node" in done.err
    assert done.err.endswith(f"({url})\n")


def test_without_a_key_it_is_wrong_usage(typed, environment):
    environment.delenv("QUEUE_NODE_KEY")
    done = typed("queues")
    assert (done.code, done.out) == (ClientExit.USAGE, "")
    assert "QUEUE_NODE_KEY" in done.err


def test_input_that_is_no_text_is_told(typed, environment):
    for words in (("submit",), ("submit", "--lines"), ("ack", NOBODY, "--result", "-")):
        feed(environment, b"\xff\xfe")
        done = typed(*words)
        assert (done.code, done.out) == (ClientExit.USAGE, "")
        assert "not UTF-8" in done.err


def test_a_reader_that_has_had_enough_is_no_failure(typed, environment):
    feed(environment, b"x\n" * 500)
    typed("submit", "--lines", "--queue", "pipe", "--tag", f"long={'x' * 250}")
    words = f"{sys.executable} -m queue_node jobs --queue pipe --all | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["queue"] == "pipe"
