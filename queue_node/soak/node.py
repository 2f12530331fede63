"""The node of a soak: started, attacked, measured, and started again on the same port.

Its processes are found in /proc, which is Linux's alone. Each start appends to one log file.
"""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from queue_node.config import VARIABLES
from queue_node.demo_processes import children_of
from queue_node.errors import NodeError
from queue_node.soak.load import Target

_START_S: Final = 60.0
_END_S: Final = 20.0
"""More than the node allows itself for its drain."""
_POLL_S: Final = 0.05

_SERVES: Final = re.compile(r"Queue Node serves on http://127\.0\.0\.1:(\d+)$", re.MULTILINE)
_CREATED: Final = re.compile(r"Created (client|worker) key: (\S+) ")
_ANY_KEY: Final = re.compile(r"(?:client|worker|admin)_[A-Za-z0-9_-]{20,}")
_TITLE: Final = re.compile(r"queue-node: (front|partition) (\d+)")
_RSS: Final = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)

Who = tuple[str, int]
"""``("front" or "partition", its number)``."""


class SoakError(NodeError):
    """The soak cannot go on, and says why in one line."""


class SoakNode:
    """A node with its data in ``data`` and its log at ``log``."""

    def __init__(self, data: Path, log: Path, settings: Mapping[str, str]) -> None:
        self.data = data
        self._log = log
        self._settings = dict(settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._target = Target(0, "", "")

    @property
    def target(self) -> Target:
        """Where it listens, and keys; the same for all its life."""
        return self._target

    # Its life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            SoakError: it does not get so far.
        """
        log_from = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "queue_node", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                # A Ctrl-C in the terminal is for the soak, which then stops the node.
                process_group=0,
            )
        self._until(lambda: _SERVES.search(self._log_since(log_from)) is not None, "to serve")
        text = self._log_since(log_from)
        found = _SERVES.search(text)
        assert found is not None
        keys = dict(_CREATED.findall(text))
        if keys:
            self._target = Target(int(found[1]), keys["client"], keys["worker"])
        self.wait_ready()

    def stop(self) -> int:
        """Ask it to drain; returns its exit code, and kills what does not end."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL
        self._process = None
        return code

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        if self._process is None:
            return
        pids = [self._process.pid, *self.children().values()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def check(self) -> None:
        """See that it still runs.

        Raises:
            SoakError: it ended, and nobody told it to.
        """
        process = self._process
        if process is not None and process.poll() is not None:
            raise SoakError(f"the node ended with {process.returncode}; {self.last_words()}")

    def wait_ready(self) -> None:
        """Wait until ``/ready`` answers 200.

        Raises:
            SoakError: it does not, in all that time.
        """
        self._until(self._is_ready, "to be ready")

    # Its processes ------------------------------------------------------------------------

    def children(self) -> dict[Who, int]:
        """Process ids of fronts and partitions that run now."""
        found: dict[Who, int] = {}
        if (process := self._process) is not None:
            for pid, title in children_of(process.pid):
                if match := _TITLE.match(title):
                    found[match[1], int(match[2])] = pid
        return found

    def hit(self, who: Who, number: signal.Signals) -> int:
        """Send a signal to a child; its process id.

        Raises:
            SoakError: it does not run, and is not started.
        """
        self._until(lambda: who in self.children(), f"to run {who[0]} {who[1]}")
        pid = self.children()[who]
        os.kill(pid, number)
        return pid

    def wait_replaced(self, who: Who, pid: int) -> None:
        """Wait until ``who`` has another process than ``pid``, and the node is ready."""
        self._until(
            lambda: self.children().get(who, pid) != pid, f"to start {who[0]} {who[1]} again"
        )
        self.wait_ready()

    # Its size -----------------------------------------------------------------------------

    def memory(self) -> dict[str, int]:
        """Resident bytes by kind of process, of several the largest; ours is "checker"."""
        found = {"checker": _rss(os.getpid())}
        if (process := self._process) is not None:
            found["supervisor"] = _rss(process.pid)
        for (kind, _), pid in self.children().items():
            found[kind] = max(found.get(kind, 0), _rss(pid))
        return {kind: size for kind, size in found.items() if size}

    def disk(self) -> int:
        """Bytes that the files of all partitions take.

        Less what is being written under another name: every start copies the last segment,
        for a second or two, and with ``--chaos`` there is a start every few seconds.
        """
        total = 0
        for path in self.data.glob("p-*/*"):
            if path.suffix == ".tmp":
                continue
            with suppress(FileNotFoundError):
                total += path.stat().st_blocks * 512
        return total

    def last_words(self) -> str:
        """The end of its log, without keys."""
        lines = self._log_since(max(0, self._log.stat().st_size - 20_000)).splitlines()
        kept = [line for line in lines if not _ANY_KEY.search(line)]
        return "its log ends: " + " | ".join(kept[-3:])

    # --------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        # The node is the soak's own: nothing of the operator's settings is to reach it.
        names = {variable.name for variable in VARIABLES}
        kept = {name: value for name, value in os.environ.items() if name not in names}
        ours = {
            "PORT": str(self._target.port),
            "WAL_DIR": str(self.data),
            "SEED_DEV_KEYS": "1",
            "LOG_FORMAT": "text",
        }
        return kept | ours | self._settings

    def _log_since(self, offset: int) -> str:
        with self._log.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_S
        while not holds():
            self.check()
            if time.monotonic() > deadline:
                raise SoakError(f"waited {_START_S:.0f} s for the node {what}; {self.last_words()}")
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._target.port, timeout=5)
        try:
            connection.request("GET", "/ready")
            with connection.getresponse() as response:
                return response.status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _rss(pid: int) -> int:
    """0 when it has just gone."""
    try:
        found = _RSS.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
