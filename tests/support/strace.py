"""System calls of a running process that fail, are slow, or kill it: strace, attached to it.

Two traps. strace counts calls for each thread: a partition makes its file calls from one. And
a fault that was never hit proves nothing: ask ``hits``.
"""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Self

import pytest

from tests.support.polling import wait_until

_LONGEST_S = 120
"""strace may outlive whoever started it; nothing here takes so long."""


def needs_strace() -> None:
    """Skip the test, with the reason, where strace cannot do what is needed."""
    if reason := _why_not():
        pytest.skip(reason)


@cache
def _why_not() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed (apt-get install strace)"
    with subprocess.Popen(["sleep", "60"]) as victim:
        try:
            tried = subprocess.run(
                ["timeout", "1", "strace", "-qq", "-p", str(victim.pid)],
                stderr=subprocess.PIPE,
                check=False,
            )
        finally:
            victim.kill()
    # It is timeout that ends one that works.
    return "" if tried.returncode == 124 else f"strace cannot attach: {tried.stderr.decode()}"


class Strace:
    """strace attached to processes, inside a ``with``; it lets go of them at the end.

    Args:
        out: where it writes its lines.
        pids: whom to attach to, with all of their threads.
        calls: a set of system calls as strace takes it, ``fdatasync,fsync``.
        inject: what shall happen to them, ``error=EIO:when=3``; nothing by default.
        more: further arguments.
    """

    def __init__(
        self, out: Path, pids: list[int], calls: str, inject: str = "", more: tuple[str, ...] = ()
    ) -> None:
        self._out = out
        self._pids = pids
        words = ["timeout", str(_LONGEST_S), "strace", "-f", "-qq", "-o", str(out), *more]
        words += ["-e", f"trace={calls}", "-e", "signal=none"]
        if inject:
            words += ["-e", f"inject={calls}:{inject}"]
        for pid in pids:
            words += ["-p", str(pid)]
        self._words = words

    def __enter__(self) -> Self:
        self._strace = subprocess.Popen(self._words, stderr=subprocess.PIPE)
        try:
            wait_until(self._is_attached, what="strace to attach")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._strace.terminate()
        self._strace.communicate()

    @property
    def lines(self) -> list[str]:
        """What it wrote; all of it once the ``with`` is over."""
        return self._out.read_text().splitlines() if self._out.exists() else []

    @property
    def hits(self) -> int:
        """Calls that got an injected error or a delay."""
        return sum("(INJECTED" in line or "(DELAYED" in line for line in self.lines)

    def _is_attached(self) -> bool:
        if self._strace.poll() is not None:
            assert self._strace.stderr is not None
            words = self._strace.stderr.read().decode()
            # Without a word: it has hit already, and there is nobody left to be traced.
            assert not words, f"strace ended: {words}"
            return True
        return all(_is_traced(task) for pid in self._pids for task in _tasks(pid))


def _tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


def _is_traced(task: Path) -> bool:
    try:
        status = (task / "status").read_text()
    except OSError:
        return True  # a thread that has just ended
    return "TracerPid:\t0\n" not in status


def wait_until_it_reads_its_settings(pid: int) -> None:
    """Return when a child has imported all it needs and waits at its standard input."""
    call = Path(f"/proc/{pid}/syscall")
    read_of_0 = f"{_READ} 0x0 "
    wait_until(lambda: call.read_text().startswith(read_of_0), what="a read of standard input")


_READ = {"x86_64": 0, "aarch64": 63}.get(os.uname().machine, 0)
