"""One measurement: preload, warm up, measure, and what the node's processes used meanwhile."""

import functools
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final, Literal, Protocol

import msgspec

from bench import processor
from bench.errors import BenchError
from bench.fleet import Fleet, LoadOptions, OnProgress, open_fleet
from bench.messages import Phase, PhaseResult
from bench.node import Node
from bench.processor import ProcessUse, Use

Mode = Literal["bare", "submit", "cycle", "lease", "batch", "batch-cycle", "batch-lease", "order"]

WINDOW_JOBS: Final = 2_000
"""Pairs of one round of ``lease``: long enough (0.2 s) that its ends do not matter, short
enough that 1,000 waiting jobs stay 1,000 to 3,000."""
BATCH_WINDOW_JOBS: Final = 50_000
"""Jobs of one round of ``batch-cycle``: a second, so that its ends, where connections have
nothing left to do, are a small part."""
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
    batch: int = 1
    """Jobs of one request, in the modes that have batches."""
    priorities: int = 0
    """``order``: drawn from minus this to this."""


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
        """Units a second: durable jobs, cycles, pairs, or bare requests; never batches."""
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
    "batch": "batch",
    "batch-cycle": "batch-cycle",
    "batch-lease": "lease+ack",
    "order": "lease+ack",
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
            phase = _timed(spec, spec.duration_s)
            with display.stage(_title(spec), duration_s=spec.duration_s) as on_progress:
                result = await ledger.watch(fleet, phase, on_progress)
            seconds = (result.ended_ns - result.started_ns) / 1e9
            added = (_jobs(warmup) + _jobs(result)) * (spec.mode in ("submit", "batch"))
            waiting = spec.waiting + added
    return _result(node, spec, load, ledger.processes(), result, seconds, waiting)


async def measure_batch_cycle(
    node: Node, spec: Spec, load: LoadOptions, display: Display
) -> list[Result]:
    """Rounds of: submit a window of jobs in batches, then lease and ack all of them in batches.

    Two results: of both together, jobs submitted, leased and acked by the time of all three;
    and of the leases and acks alone.

    Raises:
        BenchError: the figures would be void: as in ``measure``, or a request was refused, or
            the jobs leased were not those submitted, each once.
    """
    async with open_fleet(node, spec.connections, load) as fleet:
        with display.stage("warm-up", duration_s=spec.warmup_s) as on_progress:
            unmeasured = _Part(node.pid), _Part(node.pid)
            await _turn_over(fleet, spec, spec.warmup_s, unmeasured, on_progress)
        with display.stage(_title(spec), duration_s=spec.duration_s) as on_progress:
            submits, pairs = _Part(node.pid), _Part(node.pid)
            await _turn_over(fleet, spec, spec.duration_s, (submits, pairs), on_progress)
    alone = msgspec.structs.replace(spec, mode="batch-lease")
    whole = _Part(node.pid)
    whole.extend(submits)
    whole.extend(pairs)
    whole.total.done = pairs.total.done
    return [whole.measured(node, spec, load), pairs.measured(node, alone, load)]


async def measure_order(node: Node, spec: Spec, load: LoadOptions, display: Display) -> Result:
    """Jobs of drawn priorities come and go; how many of them were leased out of their order.

    Raises:
        BenchError: the figures would be void: as in ``measure``, or a request was refused.
    """
    assert load.processes == 1, "one history, by one clock"
    ledger = _Ledger(node.pid)
    async with open_fleet(node, spec.connections, load) as fleet:
        with display.stage(f"preload {spec.waiting:,} jobs", count=spec.waiting) as on_progress:
            fill = Phase("order-fill", count=spec.waiting, priorities=spec.priorities)
            _check_nothing_refused(await fleet.run(fill, on_progress), "preload")
        _check_nothing_refused(await _warm_up(fleet, spec, display), "warm-up")
        with display.stage(_title(spec), duration_s=spec.duration_s) as on_progress:
            result = await ledger.watch(fleet, _timed(spec, spec.duration_s), on_progress)
    _check_nothing_refused(result, spec.mode)
    seconds = (result.ended_ns - result.started_ns) / 1e9
    return _result(node, spec, load, ledger.processes(), result, seconds, spec.waiting)


def _result(
    node: Node,
    spec: Spec,
    load: LoadOptions,
    processes: list[ProcessUse],
    phase: PhaseResult,
    seconds: float,
    waiting: int,
) -> Result:
    return Result(
        spec=spec,
        load=load,
        fronts=node.fronts or _count(processes, "front"),
        partitions=node.partitions or _count(processes, "partition"),
        seconds=seconds,
        phase=phase,
        processes=[*processes, _load_use(phase)],
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
        self.add(processor.grown(before, self._now()))
        return result

    def processes(self) -> list[ProcessUse]:
        """The totals, by name."""
        return list(self._total.values())

    def add(self, uses: Iterable[ProcessUse]) -> None:
        """Count what was used in some other time too."""
        for use in uses:
            total = self._total.setdefault(use.name, ProcessUse(use.name, use.kind, 0.0, 0))
            total.cpu_s += use.cpu_s
            total.write_calls += use.write_calls

    def _now(self) -> Use:
        return {} if self._pid is None else processor.use_of_tree(self._pid)


class _Part:
    """What one kind of phase took, over all rounds."""

    def __init__(self, pid: int | None) -> None:
        self._ledger = _Ledger(pid)
        self.total = PhaseResult(started_ns=0, ended_ns=0)
        self.seconds = 0.0

    async def run(self, fleet: Fleet, phase: Phase) -> PhaseResult:
        """Run one of them.

        Raises:
            BenchError: a load process failed, or a request was refused.
        """
        result = await self._ledger.watch(fleet, phase, _ignore)
        _check_nothing_refused(result, phase.flow)
        self.seconds += (result.ended_ns - result.started_ns) / 1e9
        self.total.extend(result)
        return result

    def extend(self, other: "_Part") -> None:
        """Take another part in."""
        self._ledger.add(other._ledger.processes())
        self.seconds += other.seconds
        self.total.extend(other.total)

    def measured(self, node: Node, spec: Spec, load: LoadOptions) -> Result:
        """All of it, as a measurement; it leaves no jobs behind."""
        processes = self._ledger.processes()
        return _result(node, spec, load, processes, self.total, self.seconds, 0)


async def _turn_over(
    fleet: Fleet, spec: Spec, at_least_s: float, parts: tuple[_Part, _Part], on_progress: OnProgress
) -> None:
    """At least one round, and on until all together took ``at_least_s``."""
    submits, pairs = parts
    units = max(1, spec.window // spec.batch)
    while not submits.seconds or submits.seconds + pairs.seconds < at_least_s:
        submitted = await submits.run(fleet, Phase("batch", count=units, batch=spec.batch))
        leased = await pairs.run(fleet, Phase("batch-lease", count=units, batch=spec.batch))
        if submitted.submitted_sum != leased.leased_sum:
            raise BenchError(
                "the jobs that were leased are not those that were submitted, each once "
                "(or other jobs of a benchmark waited in the node before)"
            )
        on_progress(pairs.total.done)


async def _preload(fleet: Fleet, count: int, display: Display) -> None:
    with display.stage(f"preload {count:,} jobs", count=count) as on_progress:
        await _submit_exactly(fleet, count, on_progress)


async def _submit_exactly(fleet: Fleet, count: int, on_progress: OnProgress) -> None:
    result = await fleet.run(Phase("submit", count=count), on_progress)
    _check_nothing_refused(result, "preload")


def _check_nothing_refused(result: PhaseResult, what: str) -> None:
    if result.refused:
        kind, example = next(iter(result.examples.items()))
        raise BenchError(f"the {what} was refused: {result.refused}, for example {kind}: {example}")


async def _warm_up(fleet: Fleet, spec: Spec, display: Display) -> PhaseResult:
    if not spec.warmup_s:
        return PhaseResult(started_ns=0, ended_ns=0)
    with display.stage("warm-up", duration_s=spec.warmup_s) as on_progress:
        return await fleet.run(_timed(spec, spec.warmup_s), on_progress)


def _timed(spec: Spec, duration_s: float) -> Phase:
    assert spec.mode != "batch-cycle", "it has rounds"
    return Phase(
        spec.mode,
        duration_s=duration_s,
        rate=spec.rate,
        batch=spec.batch,
        priorities=spec.priorities,
        waiting=spec.waiting,
    )


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
    batch = f" of {spec.batch:,}" if spec.batch > 1 else ""
    return f"{spec.mode}{batch}{pace}, {spec.connections} connections"


def _jobs(result: PhaseResult) -> int:
    return result.done + result.done_late


def _count(processes: list[ProcessUse], kind: str) -> int | None:
    """How many of a kind the node has; None when we don't see its processes."""
    return sum(process.kind == kind for process in processes) or None


def _load_use(result: PhaseResult) -> ProcessUse:
    return ProcessUse("load", "load", result.cpu_s, 0)
