"""What a soak says: a line a minute, and the verdict. Pure."""

from collections.abc import Iterator
from typing import Final

import msgspec

from queue_node.soak.chaos import Attacks
from queue_node.soak.growth import DiskVerdict, MemoryVerdict, Sample
from queue_node.soak.history import Kind
from queue_node.soak.ledger import Counts

_UNVERIFIED_SHARE_MAX: Final = 0.01


class Verdict(msgspec.Struct):
    """All that came of a soak; what ``--json`` prints."""

    good: bool
    minutes: float
    seed: int
    jobs: int
    """Accepted with 201, or under a key with 200."""
    keyed: int
    """Of those, with an idempotency key and a group."""
    replayed: int
    """Submits under a key that were answered with 200."""
    conflicts: int
    """Other bodies under the key of a job, all refused with 422."""
    finished: int
    verified: int
    seen_gone: int
    """Verified jobs that were gone after their retention."""
    unverified: int
    """Jobs that were forgotten before the checker could read them."""
    leases: int
    retries: int
    settled: int
    refused: int
    resent: int
    lost_leases: int
    unseen_leases: int
    kills: dict[str, int]
    stalls: int
    full_disks: int
    refused_when_full: int
    full_disks_skipped: bool
    lost: int
    doubled: int
    wrong: int
    memory: dict[str, dict[str, int]]
    """By kind of process: medians of the middle and of the last third, bytes."""
    disk: dict[str, int]
    complaints: list[str]


def minute_line(
    minute: int, counts: Counts, before: Counts, seconds: float, attacks: Attacks, sample: Sample
) -> str:
    """The state of things at the end of a minute, which took ``seconds``."""
    rate = (counts.finished - before.finished) / seconds
    memory = " ".join(f"{kind} {_mib(size)}" for kind, size in sorted(sample.memory.items()))
    by_kind = counts.by_kind
    return (
        f"{minute:4d} min  {rate:5.0f} jobs/s  {counts.finished:,} done"
        f" | {attacks.kills} kills, {attacks.stalls} stalls, {attacks.disks_filled} full disks"
        f" | lost {by_kind[Kind.LOST]}, doubled {by_kind[Kind.DOUBLED]},"
        f" wrong {by_kind[Kind.WRONG]}"
        f" | RSS MiB: {memory} | disk {_mib(sample.disk)}, live {_mib(sample.live)}"
    )


def complaints(
    counts: Counts,
    violations: list[str],
    memory: list[MemoryVerdict],
    disk: DiskVerdict | None,
    faults: list[str],
) -> Iterator[str]:
    """Everything that makes a soak a failure, in words."""
    yield from faults
    yield from violations
    for verdict in memory:
        if verdict.grows:
            yield (
                f"memory of the {verdict.kind} grows: median {_mib(verdict.middle_bytes)} MiB in"
                f" the middle third, {_mib(verdict.last_bytes)} MiB in the last"
            )
    if disk is not None and disk.too_much:
        yield (
            f"disk: {_mib(disk.disk_bytes)} MiB for {_mib(disk.live_bytes)} MiB of live data,"
            f" at most {_mib(disk.limit_bytes)} MiB are allowed"
        )
    if counts.unverified > counts.finished * _UNVERIFIED_SHARE_MAX:
        yield (
            f"{counts.unverified} of {counts.finished} jobs were forgotten before they could be"
            " checked: the machine is too slow for this rate (--rate)"
        )
    if not counts.finished:
        yield "no job was finished at all"


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """For people."""
    kills = ", ".join(f"{count} {kind}s" for kind, count in verdict.kills.items())
    yield (
        f"{'PASS' if verdict.good else 'FAIL'} after {verdict.minutes:.1f} minutes"
        f" (seed {verdict.seed}): lost {verdict.lost}, doubled {verdict.doubled},"
        f" wrong {verdict.wrong}"
    )
    yield (
        f"  jobs: {verdict.jobs:,} accepted, {verdict.finished:,} finished,"
        f" {verdict.verified:,} verified ({verdict.seen_gone:,} until they were forgotten),"
        f" {verdict.unverified:,} not"
    )
    yield (
        f"  keys: {verdict.keyed:,} jobs with a key and a group, {verdict.replayed:,} submits"
        f" answered 200 under them, {verdict.conflicts:,} other bodies refused (422)"
    )
    yield (
        f"  leases: {verdict.leases:,} ({verdict.retries:,} retries), {verdict.settled:,} reports"
        f" taken, {verdict.refused:,} refused (409), {verdict.resent:,} acks sent again"
    )
    yield (
        f"  attacks: killed {kills}; {verdict.stalls} stalls; {verdict.full_disks} full disks"
        f" ({verdict.refused_when_full} of them refused jobs)"
        + (", skipped: no right to mount a disk" if verdict.full_disks_skipped else "")
    )
    for kind, sizes in verdict.memory.items():
        yield f"  memory of {kind}: {_mib(sizes['middle'])} MiB, then {_mib(sizes['last'])} MiB"
    if verdict.disk:
        yield (
            f"  disk at its fullest: {_mib(verdict.disk['bytes'])} MiB for"
            f" {_mib(verdict.disk['live'])} MiB live, limit {_mib(verdict.disk['limit'])} MiB"
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f}"
