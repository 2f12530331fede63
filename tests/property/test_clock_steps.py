"""Steps of the wall clock, at any moment and of any size, against P14 and the order of things.

A partition with a log of its events lives through runs and restarts on a machine whose two
clocks are moved by hand. When each lease ends in real time, which no process sees, is foretold
to the millisecond: only a start of the node may move it, and only as ``partitions.clock`` says.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from partitions.answers import Answer, JobFound, LeaseGranted
from partitions.clock import SystemClock, wall_ahead_ms
from partitions.messages import Ack, Command, Enqueue, Lease, LeaseLost, Settled, Tick
from partitions.slots import make_job_id
from partitions.state import PartitionState, Policy

if TYPE_CHECKING:
    from partitions.events import Event

LEASE_MS = 30_000
HOUR_MS = 3_600_000
NEVER_MS = 10**12
STEPS = st.one_of(
    st.sampled_from([HOUR_MS, -HOUR_MS, 24 * HOUR_MS, -24 * HOUR_MS]),
    st.integers(-2 * HOUR_MS, 2 * HOUR_MS),
)


def no_text(text: bytes) -> int:
    """No job here has one, and so nothing is put into the log."""
    raise AssertionError(text)


class Machine:
    """Its two clocks, in milliseconds."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000_000
        self.monotonic = 1_000

    def time_ns(self) -> int:
        return self.wall * 1_000_000

    def monotonic_ns(self) -> int:
        return self.monotonic * 1_000_000


@dataclass
class Held:
    """A lease; ``ends`` in real time, which is the machine's monotonic time."""

    job_id: bytes
    token: int
    ends: int


class Steps(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.log: list[tuple[int, tuple[Event, ...]]] = []
        self.held: dict[bytes, Held] = {}
        self.tokens = [0]
        self.created = [0]

    @initialize()
    def begin(self) -> None:
        with self.our_time():
            self.ahead_ms = wall_ahead_ms()
        self.start_partition()

    # Processes -------------------------------------------------------------------------------

    @contextmanager
    def our_time(self) -> Iterator[None]:
        with patch("partitions.clock.time", self.machine):
            yield

    @property
    def now_ms(self) -> int:
        with self.our_time():
            return self.clock.now_ms()

    @property
    def newest_ms(self) -> int:
        return self.log[-1][0] if self.log else 0

    def start_partition(self) -> None:
        self.state = PartitionState(Policy(retention_ms=NEVER_MS, dead_retention_ms=NEVER_MS))
        for _, events in self.log:
            for event in events:
                self.state.evolve(event)
        with self.our_time():
            self.clock = SystemClock(self.newest_ms, ahead_ms=self.ahead_ms)

    def pass_time(self, ms: int) -> None:
        self.machine.wall += ms
        self.machine.monotonic += ms

    def apply(self, command: Command) -> Answer:
        now_ms = self.now_ms
        applied = self.state.apply(command, now_ms, no_text)
        if applied.events:
            assert now_ms >= self.newest_ms, "a record is older than the one before"
            self.log.append((now_ms, applied.events))
        return applied.reply

    # What happens ----------------------------------------------------------------------------

    @rule(ms=st.integers(0, LEASE_MS * 2))
    def time_passes(self, ms: int) -> None:
        self.pass_time(ms)

    @rule(step=STEPS)
    def the_wall_clock_is_set(self, step: int) -> None:
        self.machine.wall += step

    @rule(ms=st.integers(0, 2_000))
    def the_partition_is_killed(self, ms: int) -> None:
        self.pass_time(ms)
        before_ms, was_raised = self.now_ms, self.clock.raised_ms > 0
        self.start_partition()
        gained_ms = self.now_ms - before_ms
        assert gained_ms == 0 or (was_raised and gained_ms < 0)
        self.move_ends(gained_ms)

    @rule(ms=st.integers(0, HOUR_MS), step=STEPS)
    def the_node_is_started_again(self, ms: int, step: int) -> None:
        self.pass_time(ms)
        self.machine.wall += step
        before_ms = self.now_ms
        with self.our_time():
            self.ahead_ms = wall_ahead_ms()
        self.start_partition()
        self.move_ends(self.now_ms - before_ms)

    def move_ends(self, gained_ms: int) -> None:
        """A clock that is set forward by a start ends leases earlier, one set back later."""
        for held in self.held.values():
            held.ends -= gained_ms
            left_ms = held.ends - self.machine.monotonic
            assert left_ms <= LEASE_MS, "from a start on a lease lasts longer than its duration"

    @rule()
    def a_job_is_submitted(self) -> None:
        number = len(self.created)
        job_id = make_job_id(number, number, 0)
        self.apply(Enqueue(job_id, b"", 1_000_000, "me"))
        found = self.state.find(job_id)
        assert isinstance(found, JobFound)
        self.created.append(found.view.created_at_ms)

    @rule()
    def a_job_is_leased(self) -> None:
        reply = self.apply(Lease(LEASE_MS))
        if not isinstance(reply, LeaseGranted):
            return
        real_ms = self.machine.monotonic
        before = self.held.get(reply.job_id)
        assert before is None or real_ms >= before.ends, "leased while a lease is live"
        self.tokens.append(reply.lease_token)
        self.held[reply.job_id] = Held(reply.job_id, reply.lease_token, real_ms + LEASE_MS)

    @rule(draw=st.integers(0, 1000))
    def a_worker_acks(self, draw: int) -> None:
        if not self.held:
            return
        held = list(self.held.values())[draw % len(self.held)]
        reply = self.apply(Ack(held.job_id, held.token, None))
        if self.machine.monotonic < held.ends:
            assert isinstance(reply, Settled), "a lease was cut short"
            del self.held[held.job_id]
        else:
            assert isinstance(reply, LeaseLost), "a lease outlived its end"

    @rule()
    def time_is_caught_up(self) -> None:
        self.apply(Tick())
        for held in self.held.values():
            found = self.state.find(held.job_id)
            assert isinstance(found, JobFound)
            live = self.machine.monotonic < held.ends
            assert (found.view.state == "RUNNING") is live, "a lease ended early, or never"

    @invariant()
    def nothing_goes_back(self) -> None:
        assert self.tokens == sorted(set(self.tokens))
        assert self.created == sorted(self.created)


Steps.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestSteps = Steps.TestCase
