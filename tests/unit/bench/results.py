"""Results to report on and to judge."""

from bench.environment import DiskSync, Environment
from bench.fleet import LoadOptions
from bench.histogram import Histogram
from bench.measure import UNIT_OF, Result, Spec
from bench.messages import PhaseResult
from bench.processor import ProcessUse

SYNC = DiskSync(median_ms=0.1, p99_ms=0.3, samples=400)
ENVIRONMENT = Environment(
    measured_at="2026-01-02T03:04:05+00:00",
    cpu="Some CPU",
    cores=2,
    memory_gib=8.0,
    kernel="Linux 6.1",
    python="CPython 3.11.7",
    versions={"trio": "0.35.0"},
    directory_filesystem="ext4",
    fdatasync=SYNC,
)


def a_result(
    mode="submit", *, connections=64, done=1000, latency_ms=2.0, waiting=0, batch=1, **changes
):
    """A measurement of one second in which every unit took ``latency_ms``."""
    latencies = Histogram()
    for _ in range(done):
        latencies.record(round(latency_ms * 1e6))
    phase = PhaseResult(
        started_ns=0, ended_ns=10**9, done=done, latencies={UNIT_OF[mode]: latencies}, cpu_s=0.2
    )
    for name, value in changes.items():
        setattr(phase, name, value)
    return Result(
        spec=Spec(mode, connections, 1.0, 0.0, waiting=waiting, batch=batch),
        load=LoadOptions(processes=1, payload_bytes=256, seed=1, silence_s=30.0),
        fronts=2,
        partitions=1,
        seconds=1.0,
        phase=phase,
        processes=[
            ProcessUse("front 0", "front", 0.5, 0),
            ProcessUse("front 1", "front", 0.25, 0),
            ProcessUse("partition 0", "partition", 0.4, 100),
            ProcessUse("load", "load", 0.2, 0),
        ],
        left_behind=0,
    )
