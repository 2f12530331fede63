"""Carries out the attacks of a plan, one after the other, and counts them.

After each the node must be whole again: every process runs and ``/ready`` says so, and after a
full disk a new job is accepted. That it is not, within a minute, ends the soak.
"""

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from queue_node.soak.load import Load
from queue_node.soak.node import SoakError, SoakNode, Who
from queue_node.soak.plan import Attack
from queue_node.soak.volume import Volume

_HEALS_WITHIN_S: Final = 60.0
_POLL_S: Final = 0.1


@dataclass(slots=True)
class Attacks:
    """How many there were so far."""

    partitions_killed: int = 0
    fronts_killed: int = 0
    nodes_killed: int = 0
    stalls: int = 0
    disks_filled: int = 0
    refused_when_full: int = 0
    """Of the full disks, those during which the node refused a job with 507."""

    @property
    def kills(self) -> int:
        """Of anything."""
        return self.partitions_killed + self.fronts_killed + self.nodes_killed


class Chaos:
    """Attacks in a thread, inside a ``with``; after it the node is whole."""

    def __init__(self, node: SoakNode, load: Load, volume: Volume, plan: Iterator[Attack]) -> None:
        self.done = Attacks()
        self.fault: BaseException | None = None
        self._node = node
        self._load = load
        self._volume = volume
        self._plan = plan
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos")

    def __enter__(self) -> "Chaos":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for attack in self._plan:
                if self._over.wait(attack.pause_s):
                    return
                self._carry_out(attack)
        except BaseException as error:
            self.fault = error

    def _carry_out(self, attack: Attack) -> None:
        match attack.what:
            case "kill":
                self._kill((attack.kind, attack.number))
            case "kill node":
                self._node.kill()
                self.done.nodes_killed += 1
                self._node.start()
            case "stall":
                self._stall((attack.kind, attack.number), attack.lasts_s)
            case "fill disk":
                self._fill(attack)

    def _kill(self, who: Who) -> None:
        pid = self._node.hit(who, signal.SIGKILL)
        self._count_kill(who)
        self._node.wait_replaced(who, pid)

    def _count_kill(self, who: Who) -> None:
        if who[0] == "front":
            self.done.fronts_killed += 1
        else:
            self.done.partitions_killed += 1

    def _stall(self, who: Who, seconds: float) -> None:
        self._node.hit(who, signal.SIGSTOP)
        self.done.stalls += 1
        try:
            self._over.wait(seconds)
        finally:
            self._node.hit(who, signal.SIGCONT)
        self._node.wait_ready()

    def _fill(self, attack: Attack) -> None:
        refused_before = self._refused()
        who = ("partition", attack.number)
        pid = None
        with self._volume.filled() as filler:
            self.done.disks_filled += 1
            filler.keep_full(attack.lasts_s / 2)
            if attack.kills_meanwhile:
                pid = self._node.hit(who, signal.SIGKILL)
                self._count_kill(who)
            filler.keep_full(attack.lasts_s / 2)
        self.done.refused_when_full += self._refused() > refused_before
        if pid is not None:
            self._node.wait_replaced(who, pid)
        self._wait_for_a_new_job()
        self._node.wait_ready()

    def _refused(self) -> int:
        return self._load.with_ledger(lambda ledger: ledger.counts.full)

    def _wait_for_a_new_job(self) -> None:
        def accepted() -> int:
            return self._load.with_ledger(lambda ledger: ledger.counts.accepted)

        before = accepted()
        deadline = time.monotonic() + _HEALS_WITHIN_S
        while accepted() == before and not self._over.is_set():
            if time.monotonic() > deadline:
                raise SoakError(
                    f"no job was accepted within {_HEALS_WITHIN_S:.0f} s of the disk's having room"
                    f" again; {self._node.last_words()}"
                )
            self._load.submit_now()
            time.sleep(_POLL_S)
