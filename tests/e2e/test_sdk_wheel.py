"""The SDK's wheel in an environment of its own runs the README's tour against a real node."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.node import RunningNode
from tests.support.polling import DEADLINE_S
from tests.support.wheel import build_wheel, python_with

README = Path(__file__).parents[2] / "README.md"
OURS = ("queue_node", "api", "partitions", "bench")
ONLY_THE_SERVERS = ("trio", "quart", "hypercorn", "httptools", "redis", "rich", "setproctitle")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel and nothing of this one's environment."""
    directory = tmp_path_factory.mktemp("alone")
    return python_with(build_wheel(directory), directory / "environment")


def tour(node: RunningNode) -> list[str]:
    """The programs of the README's tour, with the node's URL and keys filled in."""
    section = README.read_text().partition("\n## A tour with the SDK\n")[2].partition("\n## ")[0]
    return [
        block.replace("http://127.0.0.1:8080", node.url)
        .replace("client_...", node.keys["client"])
        .replace("worker_...", node.keys["worker"])
        for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    ]


def run(python: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [python, *words],
        cwd=folder,
        env=bare_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def bare_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@contextmanager
def running(python: Path, folder: Path, *words: str) -> Iterator[None]:
    """A worker program; told to stop at the end, it ends well."""
    with subprocess.Popen(
        [python, *words], cwd=folder, env=bare_environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err


def test_there_is_nothing_of_the_server(python: Path, tmp_path: Path):
    for name in (*OURS, *ONLY_THE_SERVERS):
        done = run(python, tmp_path, "-c", f"import {name}")
        assert f"No module named '{name}'" in done.stderr
    done = run(python, tmp_path, "-c", "import queue_node_sdk; print(queue_node_sdk.__file__)")
    assert Path(done.stdout).is_relative_to(python.parents[1]), done.stderr


def test_the_tour_of_the_readme(python: Path, node: RunningNode, tmp_path: Path):
    worker, client, tasks, sender = tour(node)
    (tmp_path / "worker.py").write_text(worker)
    with running(python, tmp_path, "worker.py"):
        done = run(python, tmp_path, "-c", client)
        assert (done.returncode, done.stdout) == (0, "ACKED PROCESS THIS DATA\n"), done.stderr
    assert tasks.startswith("# sums.py\n")
    (tmp_path / "sums.py").write_text(tasks)
    with running(python, tmp_path, "-m", "sums"):
        done = run(python, tmp_path, "-c", sender)
        assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr
