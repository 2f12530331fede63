"""A real node for tests: ``queue-node serve`` as its own process tree, on a free port.

Blocking on purpose, so that sync and trio tests can use it alike; nothing takes longer than
a start. What another process does is polled for, under a deadline.
"""

import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from queue_node.config import VARIABLES
from tests.support.polling import DEADLINE_S
from tests.support.ports import ReservedPort

_PROBE_S = 1.0
"""How long the other fronts stand still at most while one is asked whether it is ready."""

_LISTENING = re.compile(r"listening on ([^\s;]+).*; fronts: (\d+), partitions: (\d+)")
_CREATED = re.compile(r"Created (client|worker|admin) key: (\S+) \(owner: (\S+)\)")
_TITLE = re.compile(r"queue-node: (front|partition) (\d+)")


class Response(NamedTuple):
    """An answer of the node, read to its end."""

    status: int
    headers: dict[str, str]
    """Names in lower case; the last of several counts."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RunningNode:
    """A node with its data below ``directory``; ``start`` it, or use it with ``with``.

    Args:
        directory: where its data and its log go; usually ``tmp_path``.
        environment: configuration variables, over ``FRONTS=2 PARTITIONS=2``.
        command: what to run, ``queue-node serve`` by default.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, "-m", "queue_node", "serve"),
    ) -> None:
        self.data = directory / "data"
        self.log_path = directory / "node.log"
        self.url = ""
        """Set by ``start``; stays the same over a restart."""
        self.keys: dict[str, str] = {}
        """Development keys by type, ``client``, ``worker`` and ``admin``."""
        self._command = command
        self._overrides = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0
        self._killed: dict[int, tuple[str, int]] = {}
        # The same over every restart, and nobody else's in between.
        self._reserved = ReservedPort()
        self._fronts_expected = 0

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Its life ------------------------------------------------------------------------

    def start(self, *, ready: bool = True, environment: Mapping[str, str] | None = None) -> Self:
        """Start it, and with ``ready`` wait until every front says so.

        ``environment`` is added to what it was made with, for good.
        """
        assert self._process is None
        self._overrides |= environment or {}
        self._log_from = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
            )
        self._until(lambda: _LISTENING.search(self.log_now) is not None, "to listen")
        found = _LISTENING.search(self.log_now)
        assert found is not None
        self.url = found[1]
        self._fronts_expected = int(found[2])
        if ready:
            self._until(lambda: "Queue Node serves on" in self.log_now, "to serve")
            self.wait_ready()
            for kind, token, _ in _CREATED.findall(self.log_now):
                self.keys[kind] = token
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to drain, and wait for its end; returns its exit code."""
        self.signal(number)
        return self.wait()

    def restart(self, environment: Mapping[str, str] | None = None) -> Self:
        """Drain it, then start it again on the same port, with ``environment`` added."""
        self.stop()
        return self.start(environment=environment)

    def kill(self) -> None:
        """SIGKILL to everything that is left of it; a node that is not running is fine."""
        if self._process is None:
            return
        everybody = [self.pid, *self._children().values()]
        for pid in everybody:
            _signal(pid, signal.SIGKILL)
        self.wait()
        for pid in everybody:
            _wait_for_end(pid)

    def close(self) -> None:
        """The end: kill what is left, and remove what it could not remove itself."""
        self.kill()
        self._reserved.close()
        lock = self.data / "lock"
        if lock.exists() and (content := lock.read_bytes()):
            shutil.rmtree(json.loads(content)["runtime"], ignore_errors=True)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for the supervisor's end; returns its exit code."""
        assert self._process is not None
        code = self._process.wait(timeout_s)
        self._process = None
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # Its processes -------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self._process is not None
        return self._process.pid

    @property
    def fronts(self) -> dict[int, int]:
        """Process id by number, of the fronts that run now."""
        return {number: pid for (kind, number), pid in self._children().items() if kind == "front"}

    @property
    def partitions(self) -> dict[int, int]:
        """Process id by number, of the partitions that run now."""
        children = self._children().items()
        return {number: pid for (kind, number), pid in children if kind == "partition"}

    def kill_front(self, number: int) -> int:
        """SIGKILL; returns the id of the process that was hit. See ``wait_restarted``."""
        return self._kill_child("front", number)

    def kill_partition(self, number: int) -> int:
        """SIGKILL; returns the id of the process that was hit. See ``wait_restarted``."""
        return self._kill_child("partition", number)

    def wait_restarted(self, killed_pid: int) -> None:
        """Wait until a process that was killed has its successor and the node is ready."""
        who = self._killed[killed_pid]
        self._until(
            lambda: self._children().get(who, killed_pid) != killed_pid,
            f"to replace process {killed_pid}",
        )
        self.wait_ready()

    def _kill_child(self, kind: str, number: int) -> int:
        self._until(lambda: (kind, number) in self._children(), f"{kind} {number} to run")
        pid = self._children()[kind, number]
        os.kill(pid, signal.SIGKILL)
        self._killed[pid] = kind, number
        _wait_for_end(pid)
        return pid

    def _children(self) -> dict[tuple[str, int], int]:
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _parent_of(entry) == self.pid and _runs(int(entry.name)):
                title = _TITLE.match(_title_of(entry))
                if title is not None:
                    found[title[1], int(title[2])] = int(entry.name)
        return found

    # Talking to it -------------------------------------------------------------------

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def request(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        json_body: object = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = DEADLINE_S,
    ) -> Response:
        """One request on a connection of its own; ``key`` is a type of development key."""
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {self.keys.get(key, key)}"
        if json_body is not None:
            body = json.dumps(json_body).encode()
        connection = self._connect(timeout_s)
        try:
            connection.request(method, path, body, sent)
            with connection.getresponse() as answer:
                content = answer.read()
                names = {name.lower(): value for name, value in answer.getheaders()}
                return Response(answer.status, names, content)
        finally:
            connection.close()

    def wait_ready(self) -> None:
        """Wait until ``/ready`` answers 200 whichever front is asked.

        Each finds its partitions for itself, so that one is ready says nothing of the others.
        """
        for number in range(self._fronts_expected):
            self._until(lambda number=number: self._is_ready(number), f"front {number} to be ready")  # type: ignore[misc]

    def ask_every_front(self, method: str, path: str, *, key: str | None = None) -> list[Response]:
        """The answers of all fronts, in their order; each is waited for until it runs."""
        answers = []
        for number in range(self._fronts_expected):
            self._until(lambda number=number: number in self.fronts, f"front {number} to run")  # type: ignore[misc]
            with self.only_front(number):
                answers.append(self.request(method, path, key=key))
        return answers

    @contextmanager
    def only_front(self, number: int) -> Iterator[None]:
        """Inside, every new connection is answered by this front: the others stand still."""
        others = [pid for other, pid in self.fronts.items() if other != number]
        for pid in others:
            _signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in others:
                _signal(pid, signal.SIGCONT)

    def _is_ready(self, front: int) -> bool:
        if front not in self.fronts:
            return False
        with self.only_front(front):
            try:
                return self.request("GET", "/ready", timeout_s=_PROBE_S).status == 200
            except (OSError, http.client.HTTPException):
                return False

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        # The node's certificate is a test's own; what we talk to is our own child.
        trusting = ssl._create_unverified_context()  # noqa: S323
        return http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout_s, context=trusting
        )

    # Its log -------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """All that it and its children wrote, over all starts."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def log_now(self) -> str:
        """The same since the last start."""
        return self.log_path.read_bytes()[self._log_from :].decode()

    # ---------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        """Ours without what the developer may have set, plus what the test wants."""
        ours = {variable.name for variable in VARIABLES}
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        port = str(self._reserved.number)
        wanted = {"FRONTS": "2", "PARTITIONS": "2", "LOG_FORMAT": "text", "PORT": port}
        return kept | wanted | {"WAL_DIR": str(self.data)} | self._overrides

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        def met() -> bool:
            if self._process is not None and self._process.poll() is not None:
                code = self.wait()
                raise AssertionError(f"the node exited with {code}:\n{self.log_now}")
            return condition()

        try:
            _wait_until(met, f"the node {what}")
        except TimeoutError as error:
            raise AssertionError(f"{error}; its log:\n{self.log_now}") from None


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {DEADLINE_S:.0f} s for {what}")
        time.sleep(0.01)


def _wait_for_end(pid: int) -> None:
    _wait_until(lambda: not _runs(pid), f"the end of process {pid}")


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _stat_of(entry: Path) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, ..."""
    try:
        return (entry / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ["X", "0"]  # it has just gone


def _parent_of(entry: Path) -> int:
    return int(_stat_of(entry)[1])


def _runs(pid: int) -> bool:
    """Whether the process can still do something: a zombie can't."""
    return _stat_of(Path(f"/proc/{pid}"))[0] not in "XZ"


def _title_of(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
