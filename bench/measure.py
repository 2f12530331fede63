"""One measurement: preload, warm up, measure, and what the node's processes used meanwhile."""

import functools
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final, Literal, Protocol

import msgspec

from bench import processor
from bench.errors import BenchError
from bench.fleet import Fleet, LoadOptions, OnProgress, open_fleet
from bench.messages import FlowName, Phase, PhaseResult
from bench.node import Node
from bench.processor import ProcessUse, Use

Mode = Literal["bare", "submit", "cycle", "lease"]

WINDOW_JOBS: Final = 2_000
"""Pairs of one round of ``lease``: long enough (0.2 s) that its ends do not matter, short
enough that 1,000 waiting jobs stay 1,000 to 3,000."""
_PRELOAD_CONNECTIONS_MIN: Final = 64
_BUSY_LIMIT: Final = 0.9


class Spec(msgspec.Struct, frozen=True):
    """What to measure."""

    mode: Mode
    connections: int
    duration_s: float
    warmup_s: float
    rate: float | None = None
    waiting: int = 0
    """Jobs that wait all the while, submitted before the clock starts."""
    window: int = WINDOW_JOBS


class Result(msgspec.Struct):
    """What was measured."""

    spec: Spec
    load: LoadOptions
    fronts: int | None
    partitions: int | None
    seconds: float
    phase: PhaseResult
    processes: list[ProcessUse]
    """Growth during the measurement; the load processes are in it, as one."""
    left_behind: int
    """Jobs of ours that still wait in the node."""

    @property
    def per_second(self) -> float:
        """Units a second: durable jobs, cycles, pairs, or bare requests."""
        return self.phase.done / self.seconds

    @property
    def errors(self) -> int:
        """Requests that got another answer than the one that counts."""
        return sum(self.phase.refused.values())

    def quantile_ms(self, fraction: float) -> float | None:
        """Of the unit's latency; None when nothing succeeded."""
        unit = self.phase.latencies.get(UNIT_OF[self.spec.mode])
        return unit.quantile(fraction) / 1e6 if unit else None

    def cpu_by_kind(self) -> dict[str, float]:
        """CPU seconds by kind of process."""
        seconds: dict[str, float] = {}
        for process in self.processes:
            seconds[process.kind] = seconds.get(process.kind, 0.0) + process.cpu_s
        return seconds

    def warnings(self) -> list[str]:
        """Why the figures may not mean what they seem to."""
        found = []
        share = self.phase.cpu_s / self.seconds / min(self.load.processes, self.spec.connections)
        if share > _BUSY_LIMIT:
            found.append(
                f"the load processes were busy {share:.0%} of the time and may be the bottleneck: "
                "use more --load-processes"
            )
        if self.phase.never_sent:
            found.append(
                f"{self.phase.never_sent:,} planned starts found no free connection: "
                "the node cannot keep up with the rate; their wait is in the latencies"
            )
        if self.left_behind:
            found.append(f"{self.left_behind:,} jobs of the benchmark still wait in the node")
        return found


UNIT_OF: Final[dict[Mode, str]] = {
    "bare": "bare",
    "submit": "submit",
    "cycle": "cycle",
    "lease": "lease+ack",
}


class Display(Protocol):
    """Shows how far it is; see ``display``."""

    def stage(
        self, title: str, *, count: int | None = None, duration_s: float | None = None
    ) -> AbstractContextManager[OnProgress]:
        """A bar for ``count`` units, or for a time."""


async def measure(node: Node, spec: Spec, load: LoadOptions, display: Display) -> Result:
    """Carry out ``spec``.

    Raises:
        BenchError: the figures would be void: the node went away, or answered nonsense.
    """
    ledger = _Ledger(node.pid)
    if spec.waiting:
        # Over more connections than are measured: a backlog through one takes minutes.
        many = max(spec.connections, _PRELOAD_CONNECTIONS_MIN)
        async with open_fleet(node, many, load) as fleet:
            await _preload(fleet, spec.waiting, display)
    async with open_fleet(node, spec.connections, load) as fleet:
        if spec.mode == "lease":
            result, seconds = await _measure_rounds(fleet, spec, ledger, display)
            waiting = spec.waiting
        else:
            warmup = await _warm_up(fleet, spec, display)
            phase = Phase(spec.mode, duration_s=spec.duration_s, rate=spec.rate)
            with display.stage(_title(spec), duration_s=spec.duration_s) as on_progress:
                result = await ledger.watch(fleet, phase, on_progress)
            seconds = (result.ended_ns - result.started_ns) / 1e9
            waiting = spec.waiting + (_jobs(warmup) + _jobs(result)) * (spec.mode == "submit")
    processes = ledger.processes()
    return Result(
        spec=spec,
        load=load,
        fronts=node.fronts or _count(processes, "front"),
        partitions=node.partitions or _count(processes, "partition"),
        seconds=seconds,
        phase=result,
        processes=[*processes, _load_use(result)],
        # A private node goes, and its jobs with it.
        left_behind=0 if node.directory else waiting,
    )


class _Ledger:
    """Adds up what the node's processes use, while it is watched."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._total: dict[str, ProcessUse] = {}

    async def watch(self, fleet: Fleet, phase: Phase, on_progress: OnProgress) -> PhaseResult:
        """Run a phase whose use counts."""
        before = self._now()
        result = await fleet.run(phase, on_progress)
        self._add(processor.grown(before, self._now()))
        return result

    def processes(self) -> list[ProcessUse]:
        """The totals, by name."""
        return list(self._total.values())

    def _now(self) -> Use:
        return {} if self._pid is None else processor.use_of_tree(self._pid)

    def _add(self, uses: Iterable[ProcessUse]) -> None:
        for use in uses:
            total = self._total.setdefault(use.name, ProcessUse(use.name, use.kind, 0.0, 0))
            total.cpu_s += use.cpu_s
            total.write_calls += use.write_calls


async def _preload(fleet: Fleet, count: int, display: Display) -> None:
    with display.stage(f"preload {count:,} jobs", count=count) as on_progress:
        await _submit_exactly(fleet, count, on_progress)


async def _submit_exactly(fleet: Fleet, count: int, on_progress: OnProgress) -> None:
    result = await fleet.run(Phase("submit", count=count), on_progress)
    if result.refused:
        what, example = next(iter(result.examples.items()))
        raise BenchError(
            f"the preload was refused: {result.refused}, for example {what}: {example}"
        )


async def _warm_up(fleet: Fleet, spec: Spec, display: Display) -> PhaseResult:
    flow: FlowName = spec.mode
    if not spec.warmup_s:
        return PhaseResult(started_ns=0, ended_ns=0)
    with display.stage("warm-up", duration_s=spec.warmup_s) as on_progress:
        return await fleet.run(Phase(flow, duration_s=spec.warmup_s, rate=spec.rate), on_progress)


async def _measure_rounds(
    fleet: Fleet, spec: Spec, ledger: _Ledger, display: Display
) -> tuple[PhaseResult, float]:
    """Rounds of: add a window of jobs (not measured), lease and ack a window of them.

    So the number waiting stays between ``waiting`` and ``waiting + window``. The first
    rounds, until the warm-up is over, do not count.
    """
    with display.stage("warm-up", duration_s=spec.warmup_s) as on_progress:
        await _rounds(fleet, spec, spec.warmup_s, fleet.run, on_progress)
    title = f"{_title(spec)}, {spec.waiting:,} waiting"
    with display.stage(title, duration_s=spec.duration_s) as on_progress:
        run = functools.partial(ledger.watch, fleet)
        return await _rounds(fleet, spec, spec.duration_s, run, on_progress)


async def _rounds(
    fleet: Fleet,
    spec: Spec,
    at_least_s: float,
    run: Callable[[Phase, OnProgress], Awaitable[PhaseResult]],
    on_progress: OnProgress,
) -> tuple[PhaseResult, float]:
    """At least one round, and on until the leases alone took ``at_least_s``."""
    total = PhaseResult(started_ns=0, ended_ns=0)
    seconds = 0.0
    while not seconds or seconds < at_least_s:
        await _submit_exactly(fleet, spec.window, _ignore)
        result = await run(Phase("lease", count=spec.window), _ignore)
        seconds += (result.ended_ns - result.started_ns) / 1e9
        total.extend(result)
        on_progress(total.done)
    return total, seconds


def _ignore(_done: int) -> None:
    """Rounds are too short to show."""


def _title(spec: Spec) -> str:
    pace = "" if spec.rate is None else f" at {spec.rate:,g}/s"
    return f"{spec.mode}{pace}, {spec.connections} connections"


def _jobs(result: PhaseResult) -> int:
    return result.done + result.done_late


def _count(processes: list[ProcessUse], kind: str) -> int | None:
    """How many of a kind the node has; None when we don't see its processes."""
    return sum(process.kind == kind for process in processes) or None


def _load_use(result: PhaseResult) -> ProcessUse:
    return ProcessUse("load", "load", result.cpu_s, 0)
