"""``queue-node demo`` as an operator types it, on a few files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.polling import DEADLINE_S, wait_until

COMMAND = (sys.executable, "-m", "queue_node", "demo")


def demo(*arguments: str, temporary: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = dict(os.environ)
    if temporary is not None:
        environment["TMPDIR"] = str(temporary)
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=600, env=environment
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02} é").write_text("a word and another\n" * number)
    (folder / os.fsdecode(b"no utf-8 \xff")).write_bytes(bytes(range(256)))
    (folder / "empty").touch()
    return folder


def figures(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_file_becomes_a_job_and_comes_back_right(files: Path, tmp_path: Path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    found = figures(demo(str(files), "--json", temporary=temporary))
    assert found["jobs"] == 42
    assert (found["lost"], found["wrong"], found["killed"]) == (0, 0, [])
    assert found["jobs_per_second"] > 0
    assert not list(temporary.iterdir())  # it cleans up behind itself


def test_chaos_loses_nothing(files: Path):
    found = figures(demo(str(files), "--chaos", "--json"))
    assert (found["jobs"], found["lost"], found["wrong"]) == (42, 0, 0)
    partition, front = found["killed"]
    assert partition.startswith("partition ")
    assert front.startswith("front ")


def test_chaos_on_a_single_file(files: Path):
    found = figures(demo(str(files / "empty"), "--chaos", "--json", "--workers", "1"))
    assert (found["jobs"], found["lost"], len(found["killed"])) == (1, 0, 2)


def test_the_standard_library_is_the_default_and_a_table_the_answer():
    done = demo("--limit", "5")
    assert done.returncode == 0, done.stderr
    for row in ("jobs", "jobs/s", "p50", "p99", "retries", "wrong", "lost"):
        assert row in done.stdout
    assert "5 files; starting a node" in done.stderr


@pytest.mark.parametrize("arguments", [("/no/such/path",), ("--limit", "0"), ("--workers", "-1")])
def test_wrong_usage_is_told_in_a_line(arguments: tuple[str, ...]):
    done = demo(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert arguments[-1] in done.stderr


def test_a_folder_without_files_is_told(tmp_path: Path):
    done = demo(str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing to do" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with subprocess.Popen(
        [*COMMAND, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    ) as process:
        # The workers' logs are made once the node serves.
        wait_until(lambda: len(list(temporary.glob("*/worker-*.log"))) == 2)
        children = _descendants(process.pid)
        assert len(children) >= 4
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, err) == (5, "", "queue-node: interrupted\n")
    wait_until(lambda: not [pid for pid in children if _runs(pid)])
    assert not list(temporary.iterdir())


def _descendants(pid: int) -> list[int]:
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(entry)):
            below.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        children = below.get(todo.pop(), [])
        found += children
        todo += children
    return found


def _stat(entry: Path) -> list[str]:
    try:
        return (entry / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _runs(pid: int) -> bool:
    fields = _stat(Path(f"/proc/{pid}"))
    return bool(fields) and fields[0] not in "XZ"
