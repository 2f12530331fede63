"""A partition against a plain model: any commands in any order, and crashes in between.

``StateAgainstModel`` drives the pure state and replays its events after each step;
``LogAgainstModel`` puts the log on a disk that stops at any operation and loses what was
not synced. Both are held to the same replies.
"""

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from partitions.events import Event, decode_events, encode_events
from partitions.log import Sizes
from partitions.messages import (
    Ack,
    Command,
    Enqueue,
    Fail,
    Get,
    JobView,
    Lease,
    Leased,
    Reply,
    Settled,
    Tick,
)
from partitions.retry import Backoff
from partitions.slots import make_job_id
from partitions.state import PartitionState, Policy
from tests.support.driver import START_MS, Driver, filled, snapshot, text_of
from tests.support.fake_disk import FakeDisk, Faults, Halted, survivals
from tests.support.model import Model

SLOTS_OWNED = range(100, 200)
POLICY = Policy(
    slots=SLOTS_OWNED,
    backoff=Backoff(initial_ms=40, max_ms=300),
    retention_ms=2_000,
    dead_retention_ms=4_000,
)
# Half a dozen events fill a segment, so that a run rolls many times.
SIZES = Sizes(segment_bytes=512, extent_bytes=512, reserve_bytes=128)

slots_owned = st.integers(SLOTS_OWNED.start, SLOTS_OWNED.stop - 1)
texts = st.one_of(st.sampled_from([b"", b"a", b"b"]), st.text(max_size=200).map(str.encode))
payloads = texts.filter(bool)
FIRST_POSITION = 64
"""No text of a real log is before the end of a segment header."""
durations = st.integers(1, 500)
max_retries = st.integers(0, 4)
tokens = st.one_of(st.none(), st.integers(0, 30))


class PartitionAgainstModel(RuleBasedStateMachine):
    """What both machines share: the commands, and what must hold after each of them."""

    ids = Bundle("ids")
    leases = Bundle("leases")
    settlings = Bundle("settlings")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(POLICY)
        self.now_ms = START_MS
        self.last_token_told = 0
        self.live: dict[bytes, Leased] = {}
        self.final: dict[bytes, Reply] = {}

    def step(self, command: Command) -> Reply:
        """Carry out a command, both ways, and compare."""
        reply = self.carry_out(command)
        expected = self.model.step(command, self.now_ms)
        assert reply == expected, f"{command} at {self.now_ms}"
        self.check(command, reply)
        return reply

    def carry_out(self, command: Command) -> Reply:
        raise NotImplementedError

    def check(self, command: Command, reply: Reply) -> None:
        """What no client may ever see, whatever the model says."""
        if isinstance(reply, Leased):
            before = self.live.get(reply.job_id)
            assert before is None or before.lease_until_ms <= self.now_ms, "two live leases"
            assert reply.lease_token > self.last_token_told, "tokens only grow"
            assert reply.attempt <= max(1, reply.max_retries)
            assert reply.job_id not in self.final, "a finished job runs again"
            self.last_token_told = reply.lease_token
            self.live[reply.job_id] = reply
        if isinstance(reply, Settled):
            self.live.pop(reply.job_id, None)

    @rule(target=ids, payload=payloads, most=max_retries, slot=slots_owned)
    def submit(self, payload, most, slot):
        job_id = make_job_id(self.now_ms, self.model.submitted, slot)
        self.step(Enqueue(job_id, payload, most, "owner"))
        return job_id

    @rule(job_id=ids, payload=payloads)
    def submit_an_id_again(self, job_id, payload):
        if self.model.view(job_id) == self.model.view(bytes(16)):
            self.final.pop(job_id, None)
        self.step(Enqueue(job_id, payload, 2, "another owner"))

    @rule(slot=st.integers(0, 65_535).filter(lambda slot: slot not in SLOTS_OWNED))
    def submit_to_the_wrong_partition(self, slot):
        self.step(Enqueue(make_job_id(self.now_ms, 1, slot), b"p", 1, "owner"))

    @rule(target=leases, duration=durations)
    def lease(self, duration):
        reply = self.step(Lease(duration))
        return reply if isinstance(reply, Leased) else multiple()

    @rule(target=settlings, lease=leases, result=st.one_of(st.none(), texts))
    def ack(self, lease, result):
        return self.settle(Ack(lease.job_id, lease.lease_token, result))

    @rule(target=settlings, lease=leases, error=texts)
    def fail(self, lease, error):
        return self.settle(Fail(lease.job_id, lease.lease_token, error))

    @rule(job_id=ids, token=tokens, result=texts)
    def ack_with_any_token(self, job_id, token, result):
        self.settle(Ack(job_id, token, result))

    @rule(job_id=ids, token=tokens, error=texts)
    def fail_with_any_token(self, job_id, token, error):
        self.settle(Fail(job_id, token, error))

    @rule(command=settlings)
    def the_same_again(self, command):
        self.settle(command)

    @rule(command=consumes(settlings), text=texts)
    def the_same_with_another_text(self, command, text):
        self.settle(type(command)(command.job_id, command.lease_token, text))

    def settle(self, command):
        self.step(command)
        return command

    @rule(job_id=ids)
    def get(self, job_id):
        self.step(Get(job_id))

    @rule(job_id=st.binary(min_size=16, max_size=16))
    def get_an_unknown_job(self, job_id):
        self.step(Get(job_id))

    @rule()
    def tick(self):
        self.step(Tick())
        self.final = {each: view for each, view in self.final.items() if each in self.model.jobs}

    @rule(ms=st.one_of(st.integers(0, 50), st.integers(0, 5_000)))
    def time_passes(self, ms):
        self.now_ms += ms

    @rule(off_by=st.sampled_from([-1, 0, 1]))
    def time_passes_to_about_a_deadline(self, off_by):
        deadlines = [job.wait_until_ms for job in self.model.jobs.values() if job.wait_until_ms]
        self.now_ms = max(self.now_ms, min(deadlines, default=self.now_ms) + off_by)

    @rule(off_by=st.sampled_from([-1, 0, 1]))
    def time_passes_to_about_the_end_of_a_retention(self, off_by):
        ends = [
            job.finished_ms + (4_000 if job.state == "DEAD" else 2_000)
            for job in self.model.jobs.values()
            if job.finished_ms is not None
        ]
        self.now_ms = max(self.now_ms, min(ends, default=self.now_ms) + off_by)
        self.tick()

    @invariant()
    def what_is_finished_stays_as_it_is(self):
        for job_id, job in self.model.jobs.items():
            if job.finished_ms is not None:
                view = self.model.view(job_id)
                assert isinstance(view, JobView)
                assert view.state in ("ACKED", "DEAD")
                assert self.final.setdefault(job_id, view) == view


class StateAgainstModel(PartitionAgainstModel):
    """The pure state; a crash is a replay of its events."""

    def __init__(self) -> None:
        super().__init__()
        self.state = PartitionState(POLICY)
        self.events: list[Event] = []
        self.texts: list[bytes] = [b"no position"] * FIRST_POSITION

    def carry_out(self, command: Command) -> Reply:
        text = text_of(command)
        applied = self.state.apply(command, self.now_ms, len(self.texts) if text else 0)
        if applied.keeps_text and text:
            self.texts.append(text)
        self.events += applied.events
        return filled(applied.reply, command, self.texts.__getitem__)

    @rule()
    def crash(self):
        self.state = self.replayed()

    def replayed(self) -> PartitionState:
        state = PartitionState(POLICY)
        # Through bytes, as recovery does it.
        for event in decode_events(encode_events(self.events)):
            state.evolve(event)
        return state

    @invariant()
    def it_holds_what_the_model_holds(self):
        assert self.model.differences(snapshot(self.state)) == []

    @invariant()
    def replay_gives_the_same_state(self):
        assert snapshot(self.replayed()) == snapshot(self.state)

    @invariant()
    def it_wakes_up_in_time(self):
        waiting = [job.wait_until_ms for job in self.model.jobs.values() if job.wait_until_ms]
        deadline_ms = self.state.next_deadline_ms()
        if waiting:
            assert deadline_ms is not None
            assert deadline_ms <= min(waiting)
        if any(job.finished_ms is not None for job in self.model.jobs.values()):
            assert deadline_ms is not None

    @invariant()
    def ready_counts_what_can_be_leased(self):
        assert self.state.ready == len(self.model.ready_ids())
        assert len(self.state) == len(self.model.jobs)


class LogAgainstModel(PartitionAgainstModel):
    """State and log on a disk that may stop at any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = FakeDisk()
        self.driver = Driver(self.disk, POLICY, SIZES)

    def carry_out(self, command: Command) -> Reply:
        (reply,) = self.driver.handle([command], self.now_ms)
        self.driver.make_room(self.now_ms)
        return reply

    @rule(seed=st.integers(0, 1_000), which=st.integers(0, 4))
    def power_cut(self, seed, which):
        self.start_again(self.disk.crash(survivals(seed)[which]))
        assert self.model.differences(snapshot(self.driver.state)) == []

    @rule()
    def killed(self):
        self.start_again(self.disk.restarted())
        assert self.model.differences(snapshot(self.driver.state)) == []

    @rule(
        known=st.lists(PartitionAgainstModel.leases, max_size=3),
        slots=st.lists(slots_owned, max_size=3),
        wanted=st.integers(0, 3),
        text=payloads,
        operations=st.integers(0, 8),
        seed=st.integers(0, 1_000),
        which=st.integers(0, 4),
    )
    def power_cut_in_a_batch(self, known, slots, wanted, text, operations, seed, which):
        batch: list[Command] = [
            Enqueue(
                make_job_id(self.now_ms, self.model.submitted + 1_000 + index, slot), text, 2, ""
            )
            for index, slot in enumerate(slots)
        ]
        batch += [Lease(200)] * wanted
        batch += [Ack(each.job_id, each.lease_token, text) for each in known]
        before, after = self.model, self.model.copy()
        expected = [after.step(command, self.now_ms) for command in batch]
        replies: list[Reply] | None = None
        self.disk.faults = Faults(halt_at=len(self.disk.operations) + operations)
        try:
            replies = self.driver.handle(batch, self.now_ms)
            self.driver.make_room(self.now_ms)
        except Halted:
            note(f"halted after {operations} operations")
        self.start_again(self.disk.crash(survivals(seed)[which]))
        found = snapshot(self.driver.state)
        if replies is not None:
            assert replies == expected
            for command, reply in zip(batch, replies, strict=True):
                self.check(command, reply)
            assert after.differences(found) == [], "a reply was sent, and its effect is lost"
        else:
            # Nobody was told anything: all of the batch or nothing of it.
            assert [] in (before.differences(found), after.differences(found))
        self.model = before if after.differences(found) else after
        self.live = {
            job_id: lease
            for job_id, lease in self.live.items()
            if (job := self.model.jobs.get(job_id)) and job.token == lease.lease_token
            if job.state == "RUNNING"
        }

    def start_again(self, disk: FakeDisk) -> None:
        self.disk = disk
        self.driver = Driver(disk, POLICY, SIZES)

    @invariant()
    def every_payload_reads_back(self):
        for job_id, job in self.model.jobs.items():
            assert self.driver.payload(job_id) in (job.submit.payload, None)
            assert self.driver.view(job_id) == self.model.view(job_id)


TestStateAgainstModel = StateAgainstModel.TestCase
TestLogAgainstModel = LogAgainstModel.TestCase
