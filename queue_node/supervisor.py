"""The node's processes as one: all alive while it serves, drained in order when it stops.

Order of the stop, at the first SIGTERM or SIGINT: fronts stop accepting, finish what is in
flight and end; then partitions, which nobody asks anything any more, commit and end. All of
it has ``DRAIN_SECONDS_MAX``; what is left then is killed. A second signal kills at once.
Killing loses nothing that was acknowledged, it only costs a recovery at the next start.
"""

import logging
import math
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from queue_node.child import Child
from queue_node.config import DRAIN_SECONDS_MAX
from queue_node.errors import ExitCode, NodeError

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_FRONTS_MARGIN_S: Final = 1.0
"""What fronts get beyond their own drain timeout, to close and to exit."""

_SAME_STOP_S: Final = 0.5
"""Signals this close together are one wish: `make` passes on what its group got as well."""

_logger = logging.getLogger(__name__)


def hear_stop_signals() -> list[int]:
    """From now on no stop signal ends this process; those that nobody heeds are in the list."""
    heard: list[int] = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, _frame: heard.append(number))
    return heard


def ignore_stop_signals() -> None:
    """The node has ended: a signal must not cut off what is left, nor change the exit code.

    Ignored, not handled: Python takes its handlers away before the process is gone. Not for
    earlier: children would inherit it.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Supervisor:
    """Runs the children of a node until it is told to stop."""

    def __init__(
        self,
        partitions: Sequence[Child],
        fronts: Sequence[Child],
        listener: socket.socket,
        *,
        front_drain_s: float,
        drain_s: float = DRAIN_SECONDS_MAX,
        heard: Sequence[int] = (),
    ) -> None:
        self._partitions = partitions
        self._fronts = fronts
        self._listener = listener
        self._front_drain_s = front_drain_s
        self._drain_s = drain_s
        self._heard = heard
        self._stopping = trio.Event()
        self._fault: NodeError | None = None

    async def run(self, welcome: Callable[[], Awaitable[None]]) -> ExitCode:
        """Serve until a signal, then drain. Signals in ``heard`` came before; they count.

        ``welcome`` runs beside the children, and is cancelled when the node stops.

        Raises:
            NodeError: that ``welcome`` raised; the children were drained all the same.
        """
        async with trio.open_nursery() as nursery:
            # Before the first child: a signal from now on must drain them all.
            await nursery.start(self._heed_signals)
            for child in self._children:
                nursery.start_soon(child.run)
            nursery.start_soon(self._guard, welcome)
            await self._stopping.wait()
            await self._drain()
            nursery.cancel_scope.cancel()
        code = self._how_it_ended()
        if self._fault is not None:
            raise self._fault
        return code

    @property
    def _children(self) -> list[Child]:
        return [*self._partitions, *self._fronts]

    def _how_it_ended(self) -> ExitCode:
        faulted = [child for child in self._children if child.drain_fault is not None]
        for child in faulted:
            # Whatever had an answer is on disk; what the drain was to finish may not be.
            _logger.error("%s did not drain: it %s", child.name, child.drain_fault)
        if any(child.was_killed for child in self._children):
            return ExitCode.CUT_SHORT
        return ExitCode.FAULT if faulted else ExitCode.DRAINED

    async def _heed_signals(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
            if self._heard:
                self._stopping.set()
            task_status.started()
            heeded_at = -math.inf
            async for number in signals:
                name = signal.Signals(number).name
                if not self._stopping.is_set():
                    _logger.info("%s: draining", name)
                    heeded_at = trio.current_time()
                    self._stopping.set()
                elif trio.current_time() - heeded_at > _SAME_STOP_S:
                    _logger.warning("%s again: ending at once", name)
                    self._kill()

    async def _guard(self, welcome: Callable[[], Awaitable[None]]) -> None:
        try:
            await welcome()
        except NodeError as error:
            self._fault = error
            self._stopping.set()

    async def _drain(self) -> None:
        # Ours is the last descriptor that keeps the port once the fronts have closed theirs.
        self._listener.close()
        with trio.move_on_after(self._drain_s):
            with trio.move_on_after(self._front_drain_s + _FRONTS_MARGIN_S):
                await _stop(self._fronts)
            for child in self._fronts:
                child.kill()
            await _stop(self._partitions)
        self._kill()
        for child in self._children:
            await child.gone.wait()
        _logger.info("stopped")

    def _kill(self) -> None:
        for child in self._children:
            if not child.gone.is_set():
                _logger.warning("%s did not drain in time and is killed", child.name)
                child.kill()


async def _stop(children: Sequence[Child]) -> None:
    for child in children:
        child.stop()
    for child in children:
        await child.gone.wait()
