"""One child process of the node, kept alive: started, watched, started again, drained.

The protocol between the supervisor and a child:

* standard input is a pipe: one line of JSON settings, then nothing; its end tells the
  child that the supervisor is gone, and it drains (so a killed supervisor leaves no orphans);
* standard output is a pipe: the line ``ready`` once it serves;
* standard error is ours: log lines;
* SIGTERM drains it; it is in a process group of its own, so a Ctrl-C in the terminal
  reaches the supervisor alone;
* it exits with 0 (drained), 3 (its data is damaged: starting it again does not help), or
  anything else (a fault: it is started again, with back-off).
"""

import logging
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from queue_node.backoff import Backoff

EXIT_DAMAGED: Final = 3

_READY: Final = b"ready"
_OUTPUT_BYTES: Final = 4096

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Program:
    """What a child runs: its words, its line of settings, and the descriptors that it gets."""

    command: Sequence[str]
    settings: bytes
    descriptors: tuple[int, ...] = ()


class Child:
    """A process that is started again whenever it dies, until it is stopped.

    ``run`` returns when the process is gone for good: it was stopped and has ended, or it
    said that its data is damaged.
    """

    def __init__(self, name: str, program: Program) -> None:
        self.name = name
        self._program = program
        self._process: trio.Process | None = None
        self._stopping = trio.Event()
        self._killing = False
        self._backoff = Backoff()
        self.serving = trio.Event()
        """Set when it said ``ready`` for the first time; it may have died since."""
        self.gone = trio.Event()
        """Set when ``run`` has returned."""
        self.was_killed = False
        """It did not drain: ``kill`` ended it."""
        self.drain_fault: str | None = None
        """It ended by itself when it was to drain, and not well: how, in words."""

    async def run(self) -> None:
        """Keep the process alive; see the class."""
        try:
            while not self._stopping.is_set():
                status = await self._run_once()
                if status == EXIT_DAMAGED:
                    # Also while the node stops: it never served, so it had nothing to finish.
                    _logger.error(
                        "%s found damaged data and stays down; the rest of the node serves",
                        self.name,
                    )
                    return
                if self._stopping.is_set():
                    self._note_end(status)
                    return
                await self._wait_after_death(status)
        finally:
            self.gone.set()

    def stop(self) -> None:
        """Ask the process to drain; ``gone`` tells when it has."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the process at once, and for good."""
        self._stopping.set()
        self._killing = True
        if self._process is not None and self._process.returncode is None:
            self.was_killed = True
            self._process.kill()

    def _note_end(self, status: int | None) -> None:
        # SIGTERM ends a child only before it heeds it, when it holds nothing yet.
        if status not in (None, 0, -signal.SIGTERM) and not self.was_killed:
            self.drain_fault = describe_exit(status)

    async def _run_once(self) -> int | None:
        """Start the process and wait for its end.

        Returns its exit status (negative: the signal that ended it), or None when the
        operating system could not start it.
        """
        try:
            process = await trio.lowlevel.open_process(
                self._program.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=self._program.descriptors,
                process_group=0,
            )
        except OSError as error:
            _logger.error("%s can't be started: %s", self.name, error)
            return None
        self._process = process
        try:
            _logger.debug("%s started (process %d)", self.name, process.pid)
            # Said while the process was being made, so there was none to tell.
            if self._killing:
                self.kill()
            elif self._stopping.is_set():
                self.stop()
            await self._attend(process)
        finally:
            await _bury(process)
        return process.returncode

    async def _attend(self, process: trio.Process) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_settings, process)
            nursery.start_soon(self._watch_output, process)
            await process.wait()
            nursery.cancel_scope.cancel()

    async def _send_settings(self, process: trio.Process) -> None:
        assert process.stdin is not None
        try:
            await process.stdin.send_all(self._program.settings + b"\n")
        except trio.BrokenResourceError:
            # It died before it read them; its exit status says more than we know here.
            return

    async def _watch_output(self, process: trio.Process) -> None:
        """Log the moment when the child serves; it has nothing else to say there."""
        assert process.stdout is not None
        rest = b""
        while chunk := await process.stdout.receive_some(_OUTPUT_BYTES):
            *lines, rest = (rest + chunk)[-_OUTPUT_BYTES:].split(b"\n")
            for line in lines:
                if line == _READY:
                    _logger.info("%s serves (process %d)", self.name, process.pid)
                    self.serving.set()
                else:
                    _logger.warning("%s printed %r", self.name, line)

    async def _wait_after_death(self, status: int | None) -> None:
        delay_s = self._backoff.after_death(trio.current_time())
        how = "" if status is None else f" {describe_exit(status)};"
        if self._backoff.in_crash_loop:
            _logger.error(
                "%s%s it keeps dying: tried again every %.0f s, the rest of the node serves",
                self.name,
                how,
                delay_s,
            )
        else:
            _logger.warning("%s%s starting it again in %.1f s", self.name, how, delay_s)
        with trio.move_on_after(delay_s):
            await self._stopping.wait()


def describe_exit(status: int) -> str:
    """In words: ``exited with 1``, ``was ended by SIGKILL``."""
    if status >= 0:
        return f"exited with {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


async def _bury(process: trio.Process) -> None:
    """Leave no process and no descriptor behind, however we got here."""
    assert process.stdin is not None
    assert process.stdout is not None
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            # Only when we were cancelled: nobody will watch it any more.
            process.kill()
            await process.wait()
        await process.stdin.aclose()
        await process.stdout.aclose()
