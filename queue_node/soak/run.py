"""One soak from its first to its last job: node, load and attacks joined, samples taken."""

import copy
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from partitions.limits import SEGMENT_BYTES
from queue_node.errors import NodeError
from queue_node.soak.chaos import Attacks, Chaos
from queue_node.soak.growth import (
    MemoryVerdict,
    Sample,
    Samples,
    disk_verdict,
    memory_verdicts,
)
from queue_node.soak.history import Kind
from queue_node.soak.ledger import Counts, Ledger, lines_of
from queue_node.soak.load import Crew, Load
from queue_node.soak.node import SoakError, SoakNode
from queue_node.soak.plan import attacks
from queue_node.soak.report import Verdict, complaints, minute_line
from queue_node.soak.volume import Volume, volume

FRONTS: Final = 2
PARTITIONS: Final = 2

_SAMPLE_S: Final = 1.0
_FINISH_WITHIN_S: Final = 180.0
_LAST_FINISH_WITHIN_S: Final = 30.0
"""For the few jobs that came to light in the last moment."""
_READ_WITHIN_S: Final = 180.0
_COMPLAINTS_MAX: Final = 20


@dataclass(frozen=True)
class Wish:
    """What kind of soak."""

    minutes: float
    chaos: bool
    crew: Crew


class Soak:
    """Runs once."""

    def __init__(self, wish: Wish, folder: Path, say: Callable[[str], None]) -> None:
        self._wish = wish
        self._folder = folder
        self._say = say
        crew = wish.crew
        self._ledger = Ledger(lease_ms=crew.lease_ms, retention_ms=crew.retention_ms)
        self._samples = Samples()
        self._attacks = Attacks()
        self._faults: list[str] = []
        self._stalled_workers = crew.workers
        self.share_done = 0.0
        """From 0 to 1, of the time that was wished for."""
        self._minutes = 0.0

    def run(self, tick: Callable[[], None]) -> Verdict:
        """To the end, or until Ctrl-C, which ends it early; ``tick`` is called every second.

        Raises:
            SoakError: the node did not even start.
        """
        with ExitStack() as stack:
            disk = stack.enter_context(volume(self._folder, own_disk=self._wish.chaos))
            if self._wish.chaos and not disk.fillable:
                self._say("full-disk phases are skipped: no right to mount a disk (be root)")
            node = SoakNode(disk.path / "data", self._folder / "node.log", self._settings())
            stack.callback(node.kill)
            node.start()
            try:
                self._under_load(node, disk, tick)
            except NodeError as error:
                self._faults.append(str(error))
            self._stop(node)
        return self._verdict(disk)

    def _settings(self) -> dict[str, str]:
        crew = self._wish.crew
        return {
            "FRONTS": str(FRONTS),
            "PARTITIONS": str(PARTITIONS),
            "LEASE_DURATION": f"{crew.lease_ms}ms",
            "LEASE_CHECK_INTERVAL": "500ms",
            "RETRY_BACKOFF": "100ms",
            "RETRY_BACKOFF_MAX": "2s",
            "RETENTION": f"{crew.retention_ms}ms",
            "DEAD_RETENTION": f"{crew.retention_ms}ms",
        }

    # The run ------------------------------------------------------------------------------

    def _under_load(self, node: SoakNode, disk: Volume, tick: Callable[[], None]) -> None:
        load = Load(node.target, self._ledger, self._wish.crew)
        started = time.monotonic()
        with load:
            # An early end is an end like any other.
            with suppress(KeyboardInterrupt), ExitStack() as stack:
                chaos = None
                if self._wish.chaos:
                    plan = attacks(
                        self._wish.crew.seed,
                        partitions=PARTITIONS,
                        fronts=FRONTS,
                        can_fill=disk.fillable,
                    )
                    chaos = stack.enter_context(Chaos(node, load, disk, plan))
                    self._attacks = chaos.done
                self._watch(node, load, chaos, tick, started)
            self._minutes = (time.monotonic() - started) / 60
            if chaos is not None and chaos.fault is not None:
                self._raise(chaos.fault)
            load.stop_submitting()
            self._wait_for_the_end(node, load)
        if load.faults:
            self._raise(load.faults[0])
        load.finish(_LAST_FINISH_WITHIN_S)
        load.read_all(self._ledger.unfinished() + self._ledger.finished(), _READ_WITHIN_S)
        counts = self._ledger.counts
        # A kill or a stall can also take a lease that its front then passed over, one for each
        # worker.
        hits = self._attacks.kills + self._attacks.stalls
        self._ledger.close(counts.lost_leases + hits * self._wish.crew.workers)

    def _watch(
        self,
        node: SoakNode,
        load: Load,
        chaos: Chaos | None,
        tick: Callable[[], None],
        started: float,
    ) -> None:
        lasts_s = self._wish.minutes * 60
        before, told_s, minute = Counts(), 0.0, 0
        while (passed_s := time.monotonic() - started) < lasts_s:
            time.sleep(min(_SAMPLE_S, lasts_s - passed_s))
            if load.faults or (chaos is not None and chaos.fault is not None):
                return
            if chaos is None:
                node.check()
            live = load.with_ledger(lambda ledger: ledger.live_bytes)
            sample = Sample(node.memory(), node.disk(), live)
            self._samples.add(sample)
            self.share_done = min(passed_s / lasts_s, 1.0)
            tick()
            passed_s = time.monotonic() - started
            if passed_s >= (minute + 1) * 60:
                minute = int(passed_s / 60)
                counts = load.with_ledger(lambda ledger: copy.deepcopy(ledger.counts))
                self._say(
                    minute_line(minute, counts, before, passed_s - told_s, self._attacks, sample)
                )
                before, told_s = counts, passed_s

    def _wait_for_the_end(self, node: SoakNode, load: Load) -> None:
        deadline = time.monotonic() + _FINISH_WITHIN_S
        while load.with_ledger(lambda ledger: ledger.open) and not load.faults:
            node.check()
            if time.monotonic() > deadline:
                return  # those that did not end are judged, and found wrong
            time.sleep(0.1)

    def _stop(self, node: SoakNode) -> None:
        code = node.stop()
        if code != 0:
            self._faults.append(f"the node did not stop well: exit code {code}")

    def _raise(self, fault: BaseException) -> None:
        if isinstance(fault, SoakError):
            raise fault
        raise RuntimeError("a bug of the soak itself") from fault

    # Its end ------------------------------------------------------------------------------

    def _verdict(self, disk: Volume) -> Verdict:
        counts, done = self._ledger.counts, self._attacks
        memory = memory_verdicts(self._samples.kept)
        use = disk_verdict(self._samples.kept, partitions=PARTITIONS, segment_bytes=SEGMENT_BYTES)
        total = sum(counts.by_kind.values())
        lines = list(lines_of(self._ledger.violations, _COMPLAINTS_MAX))
        if total > len(self._ledger.violations):
            lines.append(f"{total} violations in all")
        found = list(complaints(counts, lines, memory, use, self._faults))
        return Verdict(
            good=not found,
            minutes=round(self._minutes, 2),
            seed=self._wish.crew.seed,
            jobs=counts.accepted,
            keyed=counts.keyed,
            replayed=counts.replayed,
            conflicts=counts.conflicts,
            finished=counts.finished,
            verified=counts.verified,
            seen_gone=counts.seen_gone,
            unverified=counts.unverified,
            leases=counts.leases,
            retries=counts.retries,
            settled=counts.settled,
            refused=counts.refused,
            resent=counts.resent,
            lost_leases=counts.lost_leases,
            unseen_leases=counts.unseen_leases,
            kills={
                "partition": done.partitions_killed,
                "front": done.fronts_killed,
                "whole node": done.nodes_killed,
            },
            stalls=done.stalls,
            full_disks=done.disks_filled,
            refused_when_full=done.refused_when_full,
            full_disks_skipped=self._wish.chaos and not disk.fillable,
            lost=counts.by_kind[Kind.LOST],
            doubled=counts.by_kind[Kind.DOUBLED],
            wrong=counts.by_kind[Kind.WRONG],
            memory={each.kind: _sizes(each) for each in memory},
            disk=(
                {"bytes": use.disk_bytes, "live": use.live_bytes, "limit": use.limit_bytes}
                if use is not None
                else {}
            ),
            complaints=found,
        )


def _sizes(verdict: MemoryVerdict) -> dict[str, int]:
    return {"middle": verdict.middle_bytes, "last": verdict.last_bytes}
