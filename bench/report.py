"""Results as tables for people and as JSON for programs. Pure, but for printing."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.environment import Environment
from bench.histogram import Histogram
from bench.measure import UNIT_OF, Result
from bench.order import ABOVE_MS, Order
from bench.targets import Target

_KINDS: Final = ("supervisor", "front", "partition", "other", "load")
_VERDICT_STYLES: Final = {"reached": "green", "missed": "red", "not measured": "yellow"}


def to_json(environment: Environment, results: list[Result], targets: list[Target]) -> str:
    """Everything, for a program or for the record."""
    whole = {
        "environment": msgspec.to_builtins(environment),
        "results": [_as_dict(result) for result in results],
        "targets": msgspec.to_builtins(targets),
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode("utf-8")


def print_tables(
    console: Console, environment: Environment, results: list[Result], targets: list[Target]
) -> None:
    """The same for people."""
    console.print(_environment_line(environment), highlight=False, soft_wrap=True)
    console.print(_results_table(results))
    console.print(_cpu_table(results))
    for result in results:
        if result.phase.order is not None:
            console.print(_order_table(result, result.phase.order))
    for line in _remarks(results):
        console.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)
    if targets:
        console.print(_targets_table(targets))


def _as_dict(result: Result) -> dict[str, Any]:
    phase = result.phase
    return {
        "mode": result.spec.mode,
        "unit": UNIT_OF[result.spec.mode],
        "connections": result.spec.connections,
        "rate_planned_per_s": result.spec.rate,
        "batch_jobs": result.spec.batch,
        "waiting_jobs": result.spec.waiting,
        "fronts": result.fronts,
        "partitions": result.partitions,
        "load_processes": result.load.processes,
        "payload_bytes": result.load.payload_bytes,
        "seed": result.load.seed,
        "warmup_s": result.spec.warmup_s,
        "seconds": round(result.seconds, 3),
        "done": phase.done,
        "done_late": phase.done_late,
        "per_second": round(result.per_second, 1),
        "latency_ms": {
            name: _latency(histogram) for name, histogram in sorted(phase.latencies.items())
        },
        "errors": phase.refused,
        "error_examples": phase.examples,
        "empty_leases": phase.empty,
        "never_sent": phase.never_sent,
        "ids_checked_distinct": phase.sampled_ids,
        "order": msgspec.to_builtins(phase.order),
        "cpu": {
            kind: {"seconds": round(seconds, 3), "us_per_unit": _us_per_unit(result, seconds)}
            for kind, seconds in sorted(result.cpu_by_kind().items())
        },
        "processes": msgspec.to_builtins(result.processes),
        "warnings": result.warnings(),
    }


def _latency(histogram: Histogram) -> dict[str, float | int]:
    return {
        "count": len(histogram),
        "mean": round(histogram.mean() / 1e6, 4),
        "p50": _ms(histogram, 0.5),
        "p99": _ms(histogram, 0.99),
        "p99.9": _ms(histogram, 0.999),
        "max": round(histogram.highest / 1e6, 4),
    }


def _ms(histogram: Histogram, fraction: float) -> float:
    return round(histogram.quantile(fraction) / 1e6, 4)


def _us_per_unit(result: Result, seconds: float) -> float | None:
    units = result.phase.done + result.phase.done_late
    return round(seconds * 1e6 / units, 2) if units else None


def _environment_line(environment: Environment) -> str:
    sync = environment.fdatasync
    disk = (
        ""
        if sync is None
        else (
            f"; write + fdatasync of 300 bytes {sync.median_ms:.3f} ms "
            f"(p99 {sync.p99_ms:.3f}) on {environment.directory_filesystem}"
        )
    )
    return (
        f"{environment.measured_at}: {environment.cpu}, {environment.cores} cores, "
        f"{environment.memory_gib:g} GiB, "
        f"{environment.kernel}, {environment.python}{disk}"
    )


def _results_table(results: Iterable[Result]) -> Table:
    table = Table(title="units/s and latency from the planned start (ms)")
    table.add_column("what", no_wrap=True)
    for name in ("node", "connections", "units/s", "p50", "p99", "p99.9", "max", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        unit = UNIT_OF[result.spec.mode]
        # The unit first, then the requests that it is made of.
        for name in (unit, *sorted(result.phase.latencies.keys() - {unit})):
            table.add_row(*_row(result, name))
    return table


def _row(result: Result, name: str) -> list[str]:
    histogram = result.phase.latencies.get(name)
    latencies = ["-"] * 4
    if histogram:
        latencies = [f"{_ms(histogram, fraction):.3f}" for fraction in (0.5, 0.99, 0.999)]
        latencies.append(f"{histogram.highest / 1e6:.3f}")
    if name != UNIT_OF[result.spec.mode]:
        return [f"  {name}", "", "", "", *latencies, ""]
    waiting = f", {result.spec.waiting:,} waiting" if result.spec.waiting else ""
    pace = "" if result.spec.rate is None else f" at {result.spec.rate:,g}/s"
    batch = f", {result.spec.batch:,} a request" if result.spec.batch > 1 else ""
    return [
        f"{name}{batch}{pace}{waiting}",
        _node(result),
        str(result.spec.connections),
        f"{result.per_second:,.0f}",
        *latencies,
        f"{result.errors:,}",
    ]


def _cpu_table(results: list[Result]) -> Table:
    table = Table(title="CPU microseconds per unit by kind of process, and how busy they were")
    table.add_column("what", no_wrap=True)
    table.add_column("connections", justify="right")
    seen = {kind for result in results for kind in result.cpu_by_kind()}
    kinds = [kind for kind in _KINDS if kind in seen]
    for kind in kinds:
        table.add_column(kind, justify="right")
    table.add_column("units per partition write", justify="right")
    for result in results:
        cpu = result.cpu_by_kind()
        cells = [_cpu_cell(result, cpu[kind]) if kind in cpu else "-" for kind in kinds]
        table.add_row(
            UNIT_OF[result.spec.mode], str(result.spec.connections), *cells, _per_write(result)
        )
    return table


def _cpu_cell(result: Result, seconds: float) -> str:
    per_unit = _us_per_unit(result, seconds)
    busy = f"({seconds / result.seconds:.0%})"
    return busy if per_unit is None else f"{per_unit:.1f} {busy}"


def _order_table(result: Result, order: Order) -> Table:
    """How many of the jobs leased, and their share; by more than so many milliseconds."""
    batch = "" if result.spec.batch == 1 else f", {result.spec.batch:,} a request"
    table = Table(title=f"out of order, of {order.leases:,} jobs leased{batch} ({_node(result)})")
    table.add_column("while the one to be leased first", no_wrap=True)
    table.add_column("in all", justify="right")
    for above_ms in ABOVE_MS[1:]:
        table.add_column(f"> {above_ms} ms", justify="right")
    for what, counts in (
        ("has a higher priority, and waits for", order.inversions),
        ("has the same priority, and is older by", order.overtaking),
    ):
        cells = [_share_cell(counts.get(above_ms, 0), order.leases) for above_ms in ABOVE_MS]
        table.add_row(what, *cells)
    return table


def _share_cell(count: int, whole: int) -> str:
    return f"{count:,} ({count / whole:.2%})" if count else "0"


def _per_write(result: Result) -> str:
    """How many units share one commit: the partition's writes are its commits, nearly."""
    writes = sum(use.write_calls for use in result.processes if use.kind == "partition")
    if not writes or result.spec.mode == "bare":
        return "-"
    return f"{(result.phase.done + result.phase.done_late) / writes:.1f}"


def _remarks(results: Iterable[Result]) -> list[str]:
    lines = []
    for result in results:
        where = f"{result.spec.mode}, {result.spec.connections} connections"
        for what, count in result.phase.refused.items():
            lines.append(f"{where}: {count:,} x {what}: {result.phase.examples[what]}".rstrip(": "))
        lines += [f"{where}: {warning}" for warning in result.warnings()]
    return lines


def _targets_table(targets: Iterable[Target]) -> Table:
    table = Table(title="figures to reach")
    for name in ("target", "wanted", "seen", "verdict"):
        table.add_column(name)
    for target in targets:
        style = _VERDICT_STYLES[target.verdict]
        table.add_row(target.what, target.wanted, target.seen, f"[{style}]{target.verdict}[/]")
    return table


def _node(result: Result) -> str:
    """``2F 1P``: fronts and partitions, as far as they are known."""
    known = ((result.fronts, "F"), (result.partitions, "P"))
    return " ".join(f"{count}{kind}" for count, kind in known if count is not None) or "-"
