"""A partition against a plain model: any commands in any order, and crashes in between.

``StateAgainstModel`` drives the pure state and replays its events after each step;
``LogAgainstModel`` puts the log on a disk that stops at any operation and loses what was
not synced. Both are held to the same replies.
"""

import msgspec
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from partitions.events import Event, decode_events, encode_events
from partitions.job import State
from partitions.jobs import Piece, StateHead
from partitions.log import Sizes
from partitions.messages import (
    Ack,
    Cancel,
    ClaimKeys,
    ClaimPage,
    Command,
    Enqueue,
    EnqueueMany,
    Extend,
    Extended,
    Fail,
    Filter,
    FindGone,
    Forget,
    FreeKeys,
    Get,
    JobView,
    KeyClaim,
    KeysHeld,
    Lease,
    Leased,
    LeasedMany,
    LeaseMany,
    List,
    ListClaims,
    Many,
    Page,
    Pause,
    QueueViews,
    Release,
    Replies,
    Reply,
    Retry,
    Settled,
    Sweep,
    Swept,
    Tick,
    ViewQueues,
)
from partitions.options import Options, decode_options, encode_options
from partitions.retry import Backoff
from partitions.slots import in_slot, make_claim, make_job_id
from partitions.state import PartitionState, Policy
from tests.support.driver import START_MS, Driver, filled, snapshot
from tests.support.fake_disk import FakeDisk, Faults, Halted, survivals
from tests.support.model import Model

SLOTS_OWNED = range(100, 200)
POLICY = Policy(
    slots=SLOTS_OWNED,
    backoff=Backoff(initial_ms=40, max_ms=300),
    retention_ms=2_000,
    dead_retention_ms=4_000,
    lease_ms=250,
)
# Half a dozen events fill a segment, so that a run rolls many times.
SIZES = Sizes(segment_bytes=512, extent_bytes=512, reserve_bytes=128)
FIRST_POSITION = 64
"""No text of a real log is before the end of a segment header."""
NO_JOB = bytes(16)

slots_owned = st.integers(SLOTS_OWNED.start, SLOTS_OWNED.stop - 1)
texts = st.one_of(st.sampled_from([b"", b"a", b"b"]), st.text(max_size=200).map(str.encode))
payloads = texts.filter(bool)
durations = st.integers(0, 500)
max_retries = st.integers(0, 4)
tokens = st.one_of(st.none(), st.integers(0, 30))
queues = st.sampled_from(["default", "other"])
groups = st.sampled_from(["", "", "", "g", "h"])
digests = st.sampled_from([b"", b"", b"1" * 16, b"2" * 16])
progress = st.sampled_from([b"", b"50", b'"half"'])
workers = st.sampled_from(["", "w"])
optional_durations = st.one_of(st.none(), durations)
tags = st.sampled_from([(), (("k", "v"),), (("k", "v"), ("l", "w"))])
options = st.builds(
    Options,
    queue=queues,
    priority=st.sampled_from([0, 0, 5, -1]),
    lease_ms=st.sampled_from([None, None, 100]),
    retention_ms=st.sampled_from([None, None, 0, 3_000]),
    backoff=st.sampled_from([None, None, Backoff(10, 60, 3.0, 0.0)]),
    tags=tags,
).map(encode_options)
all_options = st.one_of(st.just(b""), options)
orders = st.sampled_from([("default",), ("default",), ("other", "default"), ("none", "other")])
states = st.sampled_from(
    ["READY", "RUNNING", "RETRY", "ACKED", "DEAD", "SCHEDULED", "CANCELLED", "GONE", "no state"]
)
filters = st.builds(
    Filter,
    queue=st.one_of(st.none(), queues, st.just("none")),
    state=st.one_of(st.none(), states),
    group=st.one_of(st.none(), groups),
    tags=tags,
)


# A few keys, and groups of which some are here; one that has the slot of its key among them.
keys = st.integers(0, 3)
key_slots = st.sampled_from([SLOTS_OWNED.start, SLOTS_OWNED.start + 1, 5, 40_000])


def key_id(key: int) -> bytes:
    return make_job_id(1, key, SLOTS_OWNED.start + key)


class PartitionAgainstModel(RuleBasedStateMachine):
    """What both machines share: the commands, and what must hold after each of them."""

    ids = Bundle("ids")
    leases = Bundle("leases")
    reports = Bundle("reports")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(POLICY)
        self.now_ms = START_MS
        self.submits = 0
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
        match command, reply:
            case _, Leased():
                self.check_lease(reply)
            case _, LeasedMany():
                for each in reply.jobs:
                    self.check_lease(each)
            case Many(), Replies():
                for of_one, its_reply in zip(command.commands, reply.replies, strict=True):
                    self.check(of_one, its_reply)
            case Extend(), Extended():
                lease = self.live[command.job_id]
                assert command.lease_token == lease.lease_token, "an old token extends"
                self.live[command.job_id] = msgspec.structs.replace(
                    lease, lease_until_ms=reply.lease_until_ms
                )
            case ((Ack() | Fail() | Release() | Cancel()), Settled()):
                self.live.pop(reply.job_id, None)
            case ((Retry() | Forget()), Settled()):
                self.final.pop(reply.job_id, None)

    def check_lease(self, reply: Leased) -> None:
        before = self.live.get(reply.job_id)
        assert before is None or before.lease_until_ms <= self.now_ms, "two live leases"
        assert reply.lease_token > self.last_token_told, "tokens only grow"
        assert reply.attempt <= max(1, reply.max_retries)
        assert reply.job_id not in self.final, "a finished job runs again"
        for other in self.live.values():
            together = group_of(other) is not None and group_of(other) == group_of(reply)
            assert not together or other.lease_until_ms <= self.now_ms, "two of one group run"
        self.last_token_told = reply.lease_token
        self.live[reply.job_id] = reply

    def new_id(self, slot: int) -> bytes:
        self.submits += 1
        return make_job_id(START_MS, self.submits, slot)

    # Submitting.

    @rule(target=ids, payload=payloads, most=max_retries, slot=slots_owned)
    def submit(self, payload, most, slot):
        job_id = self.new_id(slot)
        self.step(Enqueue(job_id, payload, most, "owner"))
        return job_id

    @rule(
        target=ids,
        slot=slots_owned,
        chosen=all_options,
        most=max_retries,
        delay=st.one_of(st.just(None), st.integers(-10, 300)),
        ttl=st.one_of(st.just(None), st.integers(0, 300)),
        group=groups,
        digest=digests,
    )
    def submit_with_all_that_there_is(self, slot, chosen, most, delay, ttl, group, digest):
        job_id = self.new_id(slot)
        run_at_ms = 0 if delay is None else self.now_ms + delay
        expires_at_ms = 0 if ttl is None else self.now_ms + ttl
        self.step(
            Enqueue(job_id, b"p", most, "owner", chosen, run_at_ms, expires_at_ms, group, digest)
        )
        return job_id

    @rule(target=ids, slot=slots_owned, count=st.integers(2, 4), priority=st.integers(-1, 1))
    def submit_a_group(self, slot, count, priority):
        jobs = [
            Enqueue(
                self.new_id(slot),
                b"p",
                2,
                "owner",
                encode_options(Options(priority=priority * index)),
                group="g",
            )
            for index in range(count)
        ]
        self.step(EnqueueMany(jobs))
        return multiple(*(job.job_id for job in jobs))

    @rule(job_id=ids, payload=payloads, digest=digests)
    def submit_an_id_again(self, job_id, payload, digest):
        self.submit_again(Enqueue(job_id, payload, 2, "another owner", digest=digest))

    @rule(slot=st.integers(0, 65_535).filter(lambda slot: slot not in SLOTS_OWNED))
    def submit_to_the_wrong_partition(self, slot):
        self.step(Enqueue(make_job_id(self.now_ms, 1, slot), b"p", 1, "owner"))

    @rule(
        target=ids,
        known=st.lists(st.tuples(ids, digests), max_size=2),
        new=st.lists(st.tuples(slots_owned, digests, all_options), max_size=3),
        twice=st.booleans(),
        foreign=st.sampled_from([False, False, False, True]),
        check_only=st.booleans(),
        text=payloads,
    )
    def submit_many(self, known, new, twice, foreign, check_only, text):
        jobs = [Enqueue(job_id, text, 2, "owner", digest=digest) for job_id, digest in known]
        jobs += [
            Enqueue(self.new_id(slot), text, 3, "owner", chosen, digest=digest)
            for slot, digest, chosen in new
        ]
        if twice:
            jobs += jobs[-1:]
        if foreign:
            jobs.append(Enqueue(make_job_id(START_MS, 1, SLOTS_OWNED.stop), text, 2, "owner"))
        if not jobs:
            return multiple()
        if check_only:
            self.step(EnqueueMany(jobs, check_only=True))
        self.submit_again(EnqueueMany(jobs))
        return multiple(*(job.job_id for job in jobs))

    def submit_again(self, command):
        """An id that is forgotten may be used anew."""
        for job in command.jobs if isinstance(command, EnqueueMany) else [command]:
            if job.job_id not in self.model.jobs:
                self.final.pop(job.job_id, None)
        self.step(command)

    # Idempotency keys of jobs that are elsewhere, or here.

    @rule(target=ids, key=keys, digest=digests.filter(bool))
    def submit_with_a_key_without_a_group(self, key, digest):
        self.submit_again(Enqueue(key_id(key), b"p", 2, "owner", digest=digest))
        return key_id(key)

    @rule(claims=st.lists(st.tuples(keys, key_slots), min_size=1, max_size=3))
    def claim_keys(self, claims):
        self.step(ClaimKeys([KeyClaim(key_id(key), slot) for key, slot in claims]))

    @rule(
        target=ids,
        key=keys,
        slot=key_slots,
        digest=digests.filter(bool),
        also=st.one_of(st.none(), keys),
        by=st.sampled_from([None, -1, 0, 1]),
        claim=st.booleans(),
    )
    def store_under_a_claim(self, key, slot, digest, also, by, claim):
        job_id = in_slot(key_id(key), slot)
        jobs = [Enqueue(job_id, b"p", 2, "owner", group="g", digest=digest)]
        if also is not None:
            jobs.append(Enqueue(key_id(also), b"q", 2, "owner", digest=digest))
        by_ms = 0 if by is None else self.now_ms + by
        claims = [KeyClaim(key_id(key), slot)] if claim else []
        self.submit_again(EnqueueMany(jobs, by_ms=by_ms, claims=claims))
        return job_id

    @rule(key=keys, slot=key_slots, since=st.integers(0, 2), again=st.booleans())
    def free_keys(self, key, slot, since, again):
        reply = self.step(ClaimKeys([KeyClaim(key_id(key), slot)]))
        held = list(reply.held) if isinstance(reply, KeysHeld) else []
        if held and since:
            # Made anew since somebody looked, or somebody dreams.
            held.append(msgspec.structs.replace(held[0], claim=make_claim(slot, since)))
        if held:
            self.step(FreeKeys(held * 2 if again else held))

    @rule(job_ids=st.lists(ids, max_size=3), key=keys, slot=key_slots)
    def find_gone(self, job_ids, key, slot):
        self.step(FindGone([*job_ids, in_slot(key_id(key), slot)]))

    @rule(limit=st.integers(1, 2))
    def walk_the_claims(self, limit):
        self.model.pass_time(self.now_ms)
        self.end_of_the_claims(limit)
        found = [each.key_id for each in self.end_of_the_claims(limit)]
        assert sorted(found) == sorted(self.model.claims)

    def end_of_the_claims(self, limit):
        held = []
        while True:
            page = self.carry_out(ListClaims(limit))
            assert isinstance(page, ClaimPage)
            assert len(page.held) <= limit
            held += page.held
            if page.last:
                return held

    # Leasing.

    @rule(target=leases, duration=optional_durations)
    def lease(self, duration):
        reply = self.step(Lease(duration))
        return reply if isinstance(reply, Leased) else multiple()

    @rule(target=leases, duration=optional_durations, order=orders, worker=workers)
    def lease_from_queues(self, duration, order, worker):
        reply = self.step(Lease(duration, order, worker))
        return reply if isinstance(reply, Leased) else multiple()

    @rule(target=leases, duration=optional_durations, order=orders, count=st.integers(1, 6))
    def lease_many(self, duration, order, count):
        reply = self.step(LeaseMany(Lease(duration, order, "w"), count))
        return multiple(*reply.jobs) if isinstance(reply, LeasedMany) else multiple()

    # What the holder of a lease says.

    @rule(target=reports, lease=leases, result=st.one_of(st.none(), texts))
    def ack(self, lease, result):
        return self.report(Ack(lease.job_id, lease.lease_token, result))

    @rule(target=reports, lease=leases, error=texts)
    def fail(self, lease, error):
        return self.report(Fail(lease.job_id, lease.lease_token, error))

    @rule(target=reports, lease=leases, error=texts, retry=st.booleans(), after=optional_durations)
    def fail_and_say_how_to_go_on(self, lease, error, retry, after):
        return self.report(Fail(lease.job_id, lease.lease_token, error, retry, after))

    @rule(target=reports, lease=leases, duration=optional_durations, said=progress)
    def extend(self, lease, duration, said):
        return self.report(Extend(lease.job_id, lease.lease_token, duration, said))

    @rule(target=reports, lease=leases, delay=st.one_of(st.just(0), durations))
    def release(self, lease, delay):
        return self.report(Release(lease.job_id, lease.lease_token, delay))

    @rule(job_id=ids, token=tokens, result=texts)
    def ack_with_any_token(self, job_id, token, result):
        self.report(Ack(job_id, token, result))

    @rule(job_id=ids, token=tokens, error=texts)
    def fail_with_any_token(self, job_id, token, error):
        self.report(Fail(job_id, token, error))

    @rule(job_id=ids, token=st.integers(0, 30))
    def extend_and_release_with_any_token(self, job_id, token):
        self.report(Extend(job_id, token))
        self.report(Release(job_id, token))

    @rule(command=reports)
    def the_same_again(self, command):
        self.report(command)

    @rule(command=consumes(reports), text=texts)
    def the_same_with_another_text(self, command, text):
        if isinstance(command, Ack | Fail):
            self.report(type(command)(command.job_id, command.lease_token, text))

    @rule(
        lost=st.lists(reports, max_size=3),
        held=st.lists(st.tuples(leases, st.sampled_from("afxr")), max_size=4),
        text=texts,
    )
    def many_at_once(self, lost, held, text):
        commands: list[Ack | Fail | Extend | Release] = list(lost)
        for lease, what in held:
            job_id, token = lease.job_id, lease.lease_token
            match what:
                case "a":
                    commands.append(Ack(job_id, token, text))
                case "f":
                    commands.append(Fail(job_id, token, text))
                case "x":
                    commands.append(Extend(job_id, token, 100))
                case _:
                    commands.append(Release(job_id, token))
        if commands:
            self.step(Many(commands))

    def report(self, command):
        self.step(command)
        return command

    # Rare by chance.

    @rule(job_id=ids)
    def one_begins_anew_while_the_next_of_its_group_may_run(self, job_id):
        self.step(Cancel(job_id))
        self.step(LeaseMany(Lease(300, ("default", "other")), 3))
        self.step(Retry(job_id))
        self.step(LeaseMany(Lease(300, ("default", "other")), 2))

    @rule(error=texts)
    def a_report_after_a_release_like_the_one_before(self, error):
        first = self.step(Lease(300))
        if isinstance(first, Leased):
            self.step(Fail(first.job_id, first.lease_token, error, retry_in_ms=0))
            again = self.step(Lease(300))
            if isinstance(again, Leased):
                self.step(Release(again.job_id, again.lease_token))
                self.step(Fail(again.job_id, again.lease_token, error))

    # What anybody does.

    @rule(job_id=ids)
    def get(self, job_id):
        self.step(Get(job_id))

    @rule(job_id=st.binary(min_size=16, max_size=16))
    def an_unknown_job(self, job_id):
        for command in (Get, Cancel, Retry, Forget):
            self.step(command(job_id))

    @rule(job_id=ids)
    def cancel(self, job_id):
        self.step(Cancel(job_id))

    @rule(job_id=ids)
    def retry(self, job_id):
        self.step(Retry(job_id))

    @rule(job_id=ids)
    def forget(self, job_id):
        self.step(Forget(job_id))

    @rule(queue=st.one_of(queues, st.just("none")), paused=st.booleans())
    def pause(self, queue, paused):
        self.step(Pause(queue, paused))

    @rule(wanted=filters, limit=st.integers(1, 4))
    def walk_a_list(self, wanted, limit):
        self.model.pass_time(self.now_ms)
        found, after = [], 0
        while True:
            page = self.carry_out(List(after, limit, wanted))
            assert isinstance(page, Page)
            assert len(page.jobs) <= limit
            found += page.jobs
            if page.next_number is None:
                break
            assert page.next_number > after, "the walk goes on"
            after = page.next_number
        # A list shows no results.
        views = [self.model.view(job_id) for job_id in self.model.listed(wanted)]
        assert found == [
            msgspec.structs.replace(view, result=None)
            for view in views
            if isinstance(view, JobView)
        ]

    @rule(
        target=ids,
        queue=st.one_of(queues, st.just("none")),
        state=states,
        action=st.sampled_from(["retry", "forget"]),
        scan=st.integers(1, 4),
        slot=slots_owned,
    )
    def sweep(self, queue, state, action, scan, slot):
        self.model.pass_time(self.now_ms)
        up_to = self.model.submitted
        expected = self.model.sweep(queue, state, action, up_to)
        swept = self.carry_out(Sweep(queue, state, action, scan=scan))
        # One that comes in the middle is not meant.
        job_id = self.new_id(slot)
        self.step(Enqueue(job_id, b"late", 2, "owner", encode_options(Options(queue=queue))))
        count = 0
        while True:
            assert isinstance(swept, Swept)
            assert swept.count <= scan
            assert swept.up_to_number == up_to or not up_to
            count += swept.count
            if swept.next_number is None:
                break
            swept = self.carry_out(
                Sweep(queue, state, action, swept.next_number, swept.up_to_number, scan)
            )
        assert count == expected
        self.final = {
            each: view for each, view in self.final.items() if self.model.view(each) == view
        }
        return job_id

    @rule(queue=st.one_of(st.none(), queues, st.just("none")))
    def view_queues(self, queue):
        reply = self.carry_out(ViewQueues(queue))
        self.model.pass_time(self.now_ms)
        assert isinstance(reply, QueueViews)
        found = [
            msgspec.structs.replace(each, rates={})
            for each in sorted(reply.queues, key=lambda each: each.queue)
            # One that was asked for and is empty may be known still.
            if queue is None or each.counts or each.paused
        ]
        assert found == self.model.queues(queue)

    # Time.

    @rule()
    def tick(self):
        self.step(Tick())
        self.final = {each: view for each, view in self.final.items() if each in self.model.jobs}

    @rule(ms=st.one_of(st.integers(0, 50), st.integers(0, 5_000)))
    def time_passes(self, ms):
        self.now_ms += ms

    @rule(off_by=st.sampled_from([-1, 0, 1]))
    def time_passes_to_about_a_deadline(self, off_by):
        deadlines = [at_ms for at_ms, _ in self.model.deadlines()]
        self.now_ms = max(self.now_ms, min(deadlines, default=self.now_ms) + off_by)

    @rule(off_by=st.sampled_from([-1, 0, 1]))
    def time_passes_to_about_the_end_of_a_retention(self, off_by):
        ends = [self.model.gone_at_ms(job) for job in self.model.jobs.values()]
        first_ms = min((each for each in ends if each is not None), default=self.now_ms)
        self.now_ms = max(self.now_ms, first_ms + off_by)
        self.tick()

    @invariant()
    def what_is_finished_stays_as_it_is(self):
        for job_id, job in self.model.jobs.items():
            if job.finished_ms is not None:
                view = self.model.view(job_id)
                assert isinstance(view, JobView)
                assert self.final.setdefault(job_id, view) == view


def group_of(lease: Leased) -> tuple[str, str] | None:
    return (decode_options(lease.options).queue, lease.group) if lease.group else None


class StateAgainstModel(PartitionAgainstModel):
    """The pure state; a crash is a replay of its events."""

    def __init__(self) -> None:
        super().__init__()
        self.state = PartitionState(POLICY)
        self.events: list[Event] = []
        self.taking: Taking | None = None
        self.texts: list[bytes] = [b"no position"] * FIRST_POSITION

    def carry_out(self, command: Command) -> Reply:
        applied = self.state.apply(command, self.now_ms, self.put)
        self.events += applied.events
        return filled(applied.reply, self.texts.__getitem__)

    def put(self, text: bytes) -> int:
        self.texts.append(text)
        return len(self.texts) - 1

    @rule()
    def crash(self):
        self.state = self.replayed()
        self.taking = None

    @rule()
    def begin_a_snapshot(self):
        if self.taking is None:
            head = self.state.jobs.begin_snapshot()
            self.taking = Taking(head, self.model.copy(), len(self.events))

    @rule(count=st.integers(1, 5))
    def take_a_step_of_the_snapshot(self, count):
        if self.taking is None or self.taking.step(self.state, count):
            return
        moment, restored = self.taking.model, self.taking.restored()
        begun, self.taking = self.taking.events, None
        assert moment.differences(snapshot(restored)) == []
        # What followed leads from there to here.
        for event in self.events[begun:]:
            restored.evolve(event)
        assert snapshot(restored) == snapshot(self.state)

    @rule()
    def abandon_the_snapshot(self):
        if self.taking is not None:
            self.state.jobs.abandon_snapshot()
            self.taking = None

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
        deadline_ms = self.state.next_deadline_ms()
        for at_ms, _ in self.model.deadlines():
            assert deadline_ms is not None
            assert deadline_ms <= at_ms
        for job in self.model.jobs.values():
            gone_at_ms = self.model.gone_at_ms(job)
            if gone_at_ms is not None:
                assert deadline_ms is not None
                assert deadline_ms < gone_at_ms + 5_000

    @invariant()
    def ready_counts_what_can_be_leased(self):
        ready = sum(len(self.model.ready_ids(queue)) for queue in ("default", "other", "none"))
        assert self.state.ready == ready
        assert len(self.state) == len(self.model.jobs)

    @invariant()
    def the_counters_are_what_one_would_count(self):
        found = snapshot(self.state)
        for state in State:
            jobs = sum(job.state is state for job in found.jobs.values())
            assert jobs == sum(counts.get(state.name, 0) for counts in found.counts.values())

    @invariant()
    def of_a_group_only_one_is_running_or_ready(self):
        out = [
            group
            for job_id, job in self.model.jobs.items()
            if (group := job.group) is not None
            and (job.state == "RUNNING" or job_id in self.ready_inside())
        ]
        assert len(out) == len(set(out))

    def ready_inside(self) -> set[bytes]:
        return {job_id for ids in snapshot(self.state).ready.values() for job_id in ids}


class Taking:
    """A snapshot that is being taken, and what was to be in it."""

    def __init__(self, head: StateHead, model: Model, events: int) -> None:
        self._head = head
        self._pieces: list[bytes] = []
        self.model = model
        self.events = events
        """How many had happened."""

    def step(self, state: PartitionState, count: int) -> bool:
        """The next piece; whether there may be more."""
        piece = state.jobs.next_for_snapshot(count)
        assert len(piece.kinds) + len(piece.jobs) + len(piece.claims) <= count
        # At once: the jobs in it go on to change.
        self._pieces.append(msgspec.msgpack.encode(piece))
        return bool(piece.kinds or piece.jobs or piece.claims)

    def restored(self) -> PartitionState:
        pieces = [msgspec.msgpack.decode(each, type=Piece) for each in self._pieces]
        state = PartitionState(POLICY)
        state.jobs.restore(
            self._head,
            [kind for piece in pieces for kind in piece.kinds],
            [job for piece in pieces for job in piece.jobs],
            {key: claim for piece in pieces for key, claim in piece.claims.items()},
        )
        return state


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
        group=groups,
        operations=st.integers(0, 8),
        seed=st.integers(0, 1_000),
        which=st.integers(0, 4),
    )
    def power_cut_in_a_batch(self, known, slots, wanted, text, group, operations, seed, which):
        batch: list[Command] = [
            Enqueue(self.new_id(slot), text, 2, "", group=group) for slot in slots
        ]
        batch += [LeaseMany(Lease(200), 2)] * wanted
        batch += [Ack(each.job_id, each.lease_token, text) for each in known]
        batch += [Cancel(each.job_id) for each in known]
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
