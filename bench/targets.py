"""The figures that the node is to reach, and whether it did. Pure.

Shares of a bare request's rate instead of jobs a second, and an addition to the disk's own
latency instead of milliseconds: so they mean the same on another machine. Cycles and batches
are jobs a second on two cores.
"""

from statistics import mean
from typing import Final, Literal

import msgspec

from bench.environment import DiskSync
from bench.measure import Mode, Result

SHARES: Final = {16: 0.30, 64: 0.50, 256: 0.65}
"""Connections -> durable submits/s as a share of one front's bare requests/s."""
BARE_CONNECTIONS: Final = 256
ONE_CONNECTION_EXTRA_MS: Final = 0.4
CYCLES_PER_S: Final = 6_000
BATCH_JOBS: Final = 100
BATCH_CONNECTIONS: Final = 8
BATCH_JOBS_PER_S: Final = 130_000
"""Submitted in batches. A prototype did 170,000 on two cores."""
BATCH_CYCLES_PER_S: Final = 50_000
"""Jobs submitted, leased and acked, all in batches."""
FLAT_SHARE: Final = 0.8
SHALLOW_JOBS: Final = 1_000
DEEP_JOBS: Final = 200_000

Verdict = Literal["reached", "missed", "not measured"]


class Target(msgspec.Struct, frozen=True):
    """One line of the table."""

    what: str
    wanted: str
    seen: str
    verdict: Verdict


def judge(results: list[Result], sync: DiskSync) -> list[Target]:
    """Every target against ``results``; ``sync`` was measured in the same run."""
    bares = [result.per_second for result in results if result.spec.mode == "bare"]
    bare = mean(bares) if bares else 0.0
    submits = {
        result.spec.connections: result for result in results if result.spec.mode == "submit"
    }
    return [
        *(_share(submits.get(many), many, wanted, bare) for many, wanted in SHARES.items()),
        _one_connection(submits.get(1), sync),
        _floor(
            "full cycles (submit, lease one, ack one)/s", CYCLES_PER_S, _first(results, "cycle")
        ),
        _flat([result for result in results if result.spec.mode == "lease"]),
        _floor("jobs/s submitted in batches", BATCH_JOBS_PER_S, _first(results, "batch")),
        _floor(
            "jobs/s submitted, leased and acked in batches",
            BATCH_CYCLES_PER_S,
            _first(results, "batch-cycle"),
        ),
    ]


def _share(result: Result | None, connections: int, wanted: float, bare: float) -> Target:
    what = f"submits/s at {connections} connections, share of bare requests/s of one front"
    want = f">= {wanted:.2f}"
    if result is None or not bare:
        return Target(what, want, "-", "not measured")
    share = result.per_second / bare
    seen = f"{share:.2f} ({result.per_second:,.0f} of {bare:,.0f})"
    return Target(what, want, seen, _verdict(share >= wanted))


def _one_connection(result: Result | None, sync: DiskSync) -> Target:
    limit_ms = sync.median_ms + ONE_CONNECTION_EXTRA_MS
    what = f"submit p50 at 1 connection: fdatasync + {ONE_CONNECTION_EXTRA_MS} ms"
    want = f"<= {limit_ms:.3f} ms"
    p50_ms = None if result is None else result.quantile_ms(0.5)
    if p50_ms is None:
        return Target(what, want, "-", "not measured")
    seen = f"{p50_ms:.3f} ms (fdatasync {sync.median_ms:.3f} ms)"
    return Target(what, want, seen, _verdict(p50_ms <= limit_ms))


def _first(results: list[Result], mode: Mode) -> Result | None:
    return next((result for result in results if result.spec.mode == mode), None)


def _floor(what: str, least: int, result: Result | None) -> Target:
    want = f">= {least:,}"
    if result is None:
        return Target(what, want, "-", "not measured")
    batch = f", {result.spec.batch:,} a request" if result.spec.batch > 1 else ""
    seen = f"{result.per_second:,.0f} at {result.spec.connections} connections{batch}"
    return Target(what, want, seen, _verdict(result.per_second >= least))


def _flat(results: list[Result]) -> Target:
    """The deepest backlog against the shallowest; each the mean of its measurements."""
    want = f">= {FLAT_SHARE:.2f}"
    rates: dict[int, list[float]] = {}
    for result in results:
        rates.setdefault(result.spec.waiting, []).append(result.per_second)
    shallow, deep = min(rates, default=0), max(rates, default=0)
    if shallow == deep or not sum(rates[shallow]):
        return Target("flat: lease+ack pairs/s, deep against shallow", want, "-", "not measured")
    shallow_rate, deep_rate = mean(rates[shallow]), mean(rates[deep])
    share = deep_rate / shallow_rate
    return Target(
        f"flat: lease+ack pairs/s with {deep:,} waiting, share of that with {shallow:,}",
        want,
        f"{share:.2f} ({deep_rate:,.0f} of {shallow_rate:,.0f})",
        _verdict(share >= FLAT_SHARE),
    )


def _verdict(reached: bool) -> Verdict:
    return "reached" if reached else "missed"
