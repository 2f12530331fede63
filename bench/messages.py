"""What the benchmark and its load processes say to each other: lines of JSON on pipes.

To a load process: one ``Plan``, then ``Phase`` after ``Phase``; the end of its input ends it.
From it: ``Ready`` when all connections are open, then for each phase any number of
``Progress`` and one ``PhaseResult``; or ``Failed``, and it ends.
"""

from typing import Final, Literal

import msgspec

from bench.histogram import Histogram
from bench.order import Order

FlowName = Literal[
    "bare", "submit", "lease", "cycle", "batch", "batch-lease", "order-fill", "order"
]

IDS_MODULUS: Final = (1 << 64) - 1
"""Sums of job ids are kept modulo this: it fits an integer of JSON, and 2**64 is 1, so that a
run of ids read as one long number has the sum of the ids (each its high half and its low)."""


class Plan(msgspec.Struct, frozen=True):
    """What a load process needs to know before it opens its connections."""

    host: str
    port: int
    client_key: str
    worker_key: str
    connections: int
    seed: int
    payload_bytes: int
    silence_s: float
    """No answer to anything for so long is a failure of the run."""


class Phase(msgspec.Struct, frozen=True):
    """One stretch of load: until ``duration_s`` is over or ``count`` units are begun.

    A unit is what the flow begins at once: a request, or the requests of one cycle or pair.
    """

    flow: FlowName
    duration_s: float | None = None
    count: int | None = None
    rate: float | None = None
    """Units a second, planned at even distances (open loop); None: closed loop."""
    batch: int = 1
    """Jobs of one unit, in the flows whose requests carry many."""
    priorities: int = 0
    """``order`` and ``order-fill``: drawn from minus this to this."""
    waiting: int = 0
    """``order``: so many jobs wait on average."""


class _Report(msgspec.Struct, tag=True):
    pass


class Ready(_Report):
    """All connections are open."""


class Progress(_Report):
    """Units done in the phase so far; of batches, jobs."""

    done: int


class PhaseResult(_Report):
    """What one load process, or all of them together, did in one phase."""

    started_ns: int
    """Monotonic time of the machine, the same for all processes."""
    ended_ns: int
    """When the phase was over, or its last answer came if that was earlier."""
    done: int = 0
    """Units that succeeded before ``ended_ns``: these count. A batch counts as its jobs."""
    done_late: int = 0
    """Units that succeeded after a phase's time was over; in the latencies, not in the rate."""
    never_sent: int = 0
    """Open loop: planned in time, but no connection was free up to the end."""
    empty: int = 0
    """Leases answered 404 (tried again at once)."""
    refused: dict[str, int] = {}
    """``"submit 503"`` -> how often."""
    examples: dict[str, str] = {}
    """One body for each kind of refusal."""
    latencies: dict[str, Histogram] = {}
    """Nanoseconds by operation, and by unit where that is more than one operation."""
    sampled_ids: int = 0
    """Job ids that were checked to be distinct (one in 16)."""
    submitted_sum: int = 0
    """Of the ids that batches were given, modulo ``IDS_MODULUS``."""
    leased_sum: int = 0
    """Of the ids that were leased in batches: if each was leased once, the same."""
    order: Order | None = None
    """Of a phase of ``order``."""
    cpu_s: float = 0.0
    """CPU seconds of the load process itself."""

    def merge(self, other: "PhaseResult") -> None:
        """Add what another load process did in the same phase."""
        self.started_ns = min(self.started_ns, other.started_ns)
        self.ended_ns = max(self.ended_ns, other.ended_ns)
        self.extend(other)

    def extend(self, other: "PhaseResult") -> None:
        """Add the counts of another process or phase, but not its time."""
        self.done += other.done
        self.done_late += other.done_late
        self.never_sent += other.never_sent
        self.empty += other.empty
        self.sampled_ids += other.sampled_ids
        self.submitted_sum = (self.submitted_sum + other.submitted_sum) % IDS_MODULUS
        self.leased_sum = (self.leased_sum + other.leased_sum) % IDS_MODULUS
        self.cpu_s += other.cpu_s
        if other.order is not None:
            self.order = self.order or Order()
            self.order.extend(other.order)
        for what, count in other.refused.items():
            self.refused[what] = self.refused.get(what, 0) + count
        self.examples = other.examples | self.examples
        for name, latencies in other.latencies.items():
            self.latencies.setdefault(name, Histogram()).merge(latencies)


class Failed(_Report):
    """The load process gives up; the run is void."""

    error: str


Report = Ready | Progress | PhaseResult | Failed

_encoder: Final = msgspec.json.Encoder()
decode_plan: Final = msgspec.json.Decoder(Plan).decode
decode_phase: Final = msgspec.json.Decoder(Phase).decode
_report_decoder: Final[msgspec.json.Decoder[Report]] = msgspec.json.Decoder(Report)
decode_report: Final = _report_decoder.decode


def encode_line(message: Plan | Phase | Report) -> bytes:
    """The message as one line."""
    return _encoder.encode(message) + b"\n"
