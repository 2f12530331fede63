"""The processes of the demo: a real node in a folder of its own, workers, and what kills them.

Every process gets a process group of its own: a Ctrl-C in the terminal reaches the demo
alone, which then ends the others in order.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from queue_node.config import VARIABLES
from queue_node.errors import NodeError

_START_SECONDS_MAX: Final = 60.0
_END_SECONDS_MAX: Final = 15.0
"""More than the node allows itself for its drain."""
_POLL_SECONDS: Final = 0.02

_SERVES: Final = re.compile(r"^Queue Node serves on (\S+)$", re.MULTILINE)
_CREATED: Final = re.compile(r"Created (client|worker) key: (\S+) ")
_TITLE: Final = re.compile(r"queue-node: (front|partition) (\d+)")


class DemoError(NodeError):
    """The demo cannot go on, and says why in one line."""


class DemoNode:
    """A node that serves on a free port, with development keys."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log
        self.url = ""
        self.client_key = ""
        self.worker_key = ""

    def wait_until_it_serves(self) -> None:
        """Return when every process of the node serves.

        Raises:
            DemoError: it ended instead.
        """
        deadline = time.monotonic() + _START_SECONDS_MAX
        while (found := _SERVES.search(text := self._log.read_text())) is None:
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"the node did not start in time; its log ends: {_tail(text)}")
            time.sleep(_POLL_SECONDS)
        keys = dict(_CREATED.findall(text))
        self.url, self.client_key, self.worker_key = found[1], keys["client"], keys["worker"]

    def check(self) -> None:
        """See that it still runs.

        Raises:
            DemoError: it does not.
        """
        if self._process.poll() is not None:
            raise DemoError(
                f"the node ended with {self._process.returncode}; "
                f"its log ends: {_tail(self._log.read_text())}"
            )

    def kill_one(self, kind: str) -> str:
        """SIGKILL to a "front" or "partition" of the node; says which.

        Raises:
            DemoError: none of that kind runs.
        """
        for pid, title in children_of(self._process.pid):
            match = _TITLE.match(title)
            if match is not None and match[1] == kind:
                os.kill(pid, signal.SIGKILL)
                return f"{kind} {match[2]} (process {pid})"
        raise DemoError(f"no {kind} of the node is running, so none can be killed")


class DemoWorkers:
    """Worker processes; each has a log of its own."""

    def __init__(self, processes: "list[subprocess.Popen[bytes]]", logs: list[Path]) -> None:
        self._processes = processes
        self._logs = logs

    def check(self) -> None:
        """See that all of them still run.

        Raises:
            DemoError: one does not.
        """
        for process, log in zip(self._processes, self._logs, strict=True):
            if process.poll() is not None:
                raise DemoError(
                    f"a worker ended with {process.returncode}; "
                    f"its log ends: {_tail(log.read_text())}"
                )


def check_that_processes_can_be_found() -> None:
    """See that this system shows a process's children.

    Raises:
        DemoError: it does not.
    """
    if not Path("/proc/self/stat").exists():
        raise DemoError("--chaos finds the processes to kill in /proc, which is Linux's alone")


@contextmanager
def running_node(folder: Path, settings: Mapping[str, str]) -> Iterator[DemoNode]:
    """A node with its data and its log in ``folder``; drained at the end."""
    # The node is the demo's own: nothing of the operator's settings is to reach it.
    names = {variable.name for variable in VARIABLES}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"PORT": "0", "WAL_DIR": str(folder / "data"), "LOG_FORMAT": "text"}
    log = folder / "node.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "queue_node", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment | dict(settings),
            process_group=0,
        )
    try:
        node = DemoNode(process, log)
        node.wait_until_it_serves()
        yield node
    finally:
        _end([process], lambda: process.send_signal(signal.SIGTERM))


@contextmanager
def running_workers(
    folder: Path, node: DemoNode, count: int, concurrency: int
) -> Iterator[DemoWorkers]:
    """``count`` worker processes for ``node``; stopped at the end, with nothing in hand."""
    environment = os.environ | {"QUEUE_NODE_URL": node.url, "QUEUE_NODE_KEY": node.worker_key}
    logs = [folder / f"worker-{number}.log" for number in range(count)]
    processes: list[subprocess.Popen[bytes]] = []

    def close_inputs() -> None:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()

    try:
        for log in logs:
            with log.open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        [
                            sys.executable,
                            "-m",
                            "queue_node.demo_worker",
                            f"--concurrency={concurrency}",
                        ],
                        stdin=subprocess.PIPE,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        process_group=0,
                    )
                )
        yield DemoWorkers(processes, logs)
    finally:
        _end(processes, close_inputs)


def _end(processes: "list[subprocess.Popen[bytes]]", ask: Callable[[], None]) -> None:
    """Ask the processes to end; kill what does not."""
    ask()
    deadline = time.monotonic() + _END_SECONDS_MAX
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def children_of(parent: int) -> Iterator[tuple[int, str]]:
    """``(process id, title)`` of every child that runs."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # Behind the name, which may itself hold blanks and brackets: state, parent, ...
            state, of, *_ = (entry / "stat").read_text().rpartition(") ")[2].split()
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # It has just gone.
        if int(of) == parent and state not in "XZ":
            yield int(entry.name), title


def _tail(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-3:])
