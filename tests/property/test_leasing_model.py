"""N partitions behind the leasing of a front against one queue, for what holds across partitions.

Every step of the pipes is drawn: what is sent waits, what is answered waits, hints come late, pipes
break, clients hang up. No time passes that would end a lease. Then: no job is leased twice, none is
leased to nobody, "no jobs" is heard only when every partition had none in the meantime, and nobody
waits while there is a job for him.
"""

from collections.abc import Sequence
from functools import partial
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import PartitionUnavailableError
from api.lease_schemas import LeaseRequest
from api.leasing import Leasing
from api.parking import Deadlines, Parked
from partitions.job import State
from partitions.messages import (
    Ack,
    Enqueue,
    Lease,
    Leased,
    LeasedMany,
    Many,
    NothingReady,
    Pause,
    Release,
    Request,
    Response,
)
from partitions.options import Options, encode_options
from partitions.slots import first_slot, make_job_id, partition_of, slot_of
from tests.support.by_hand import HandPartition, Run, partitions_of, settle
from tests.support.driver import jobs_of
from tests.support.stateful import START_MS

QUEUES = ("a", "b")
WISHES = (("a",), ("b",), ("a", "b"), ("b", "a"))


class HandDeadlines(Deadlines):
    """Waits end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.parked: list[Parked] = []

    def park(self, wait_s: float) -> Parked:
        parked = Parked(inf)
        self.parked.append(parked)
        return parked

    def leave(self, parked: Parked) -> None:
        self.parked.remove(parked)


class Caller:
    """Somebody who leases, and what must be true of the answer."""

    def __init__(self, queues: tuple[str, ...], waits: bool, partitions: int) -> None:
        self.queues = queues
        self.waits = waits
        self.gone = False
        self.had_all_along = set(range(partitions))
        """Partitions that had a job for him at every moment since he asked."""
        self.run: Run


class Conversation:
    """What is on its way between the front and one partition."""

    def __init__(self) -> None:
        self.sent: list[Request] = []
        self.said: list[Response] = []


class LeasingAgainstOneQueue:
    """See the module."""

    def __init__(self, count: int) -> None:
        self.partitions = partitions_of(count)
        self.talks = [Conversation() for _ in range(count)]
        self.deadlines = HandDeadlines()
        self.leasing = Leasing([each.client for each in self.partitions], self.deadlines)
        self.connected = [True] * count
        self.stored = 0
        self.callers: list[Caller] = []
        self.held: dict[bytes, int] = {}
        self.acked: set[bytes] = set()
        self.excused: set[bytes] = set()
        """Leases that a broken pipe may have lost."""

    # What happens ---------------------------------------------------------------------------

    def step(self, what: str, number: int, detail: int) -> None:
        """One step; ``number`` says of whom or where, ``detail`` how."""
        match what:
            case "submit":
                self.submit(number, QUEUES[detail % 2], detail // 2 - 1)
            case "lease":
                self.lease(WISHES[detail % 4], None if number % 2 else 3, waits=detail >= 4)
            case "hang up" if self.callers:
                caller = self.callers[number % len(self.callers)]
                caller.gone = True
                if detail % 2:
                    caller.run.hang_up()
            case "end a wait" if parked := self.deadlines.parked:
                parked[number % len(parked)].end()
            case "finish" if self.held:
                self.finish(sorted(self.held)[number % len(self.held)], acks=detail % 2 == 0)
            case "pause":
                self.one(number).carry_out(Pause(QUEUES[detail % 2], detail < 2))
            case "pass":
                # More than a partition waits until it tells of another next job.
                self.one(number).now_ms += 300
            case "come to rest":
                self.come_to_rest()
            case "carry out" | "send" | "answer" | "hear" | "tell" | "lose" | "connect":
                getattr(self, what.replace(" ", "_"))(number)
            case _:
                pass
        self.check()

    def submit(self, number: int, queue: str, priority: int) -> None:
        partition = self.one(number)
        self.stored += 1
        count = len(self.partitions)
        job_id = make_job_id(START_MS, self.stored, first_slot(partition.partition, count))
        options = encode_options(Options(queue, priority))
        partition.carry_out(Enqueue(job_id, b"x", 3, "me", options))

    def lease(self, queues: tuple[str, ...], most: int | None, *, waits: bool) -> None:
        caller = Caller(queues, waits, len(self.partitions))
        self.callers.append(caller)
        self.look()
        request = LeaseRequest(queues, most, wait_ms=1 if waits else 0, duration_ms=10**9)
        caller.run = Run(self.leasing.lease(request, partial(getattr, caller, "gone")))

    def carry_out(self, number: int) -> None:
        talk, partition = self.talk(number), self.one(number)
        for request in [*talk.sent, *partition.take()]:
            talk.said += partition.carry_out_all([request])
            self.look()
        talk.sent = []

    def send(self, number: int) -> None:
        self.talk(number).sent += self.one(number).take()

    def answer(self, number: int) -> None:
        self.carry_out(number)
        self.hear(number)

    def hear(self, number: int) -> None:
        talk, partition = self.talk(number), self.one(number)
        said, talk.said = talk.said, []
        if self.connected[partition.partition]:
            partition.say(said)

    def tell(self, number: int) -> None:
        # Behind what was said before: a pipe keeps its order.
        partition = self.one(number)
        if self.connected[partition.partition] and not self.talk(number).said:
            partition.tell()

    def lose(self, number: int) -> None:
        partition, talk = self.one(number), self.talk(number)
        if not self.connected[partition.partition]:
            return
        self.connected[partition.partition] = False
        talk.sent, talk.said = [], []
        partition.lose()
        jobs = jobs_of(partition.state).values()
        self.excused |= {
            job.job_id for job in jobs if job.state is State.RUNNING and job.job_id not in self.held
        }
        self.look()

    def connect(self, number: int) -> None:
        partition = self.one(number)
        if not self.connected[partition.partition]:
            self.connected[partition.partition] = True
            partition.connect()

    def finish(self, job_id: bytes, *, acks: bool) -> None:
        token = self.held.pop(job_id)
        partition = self.home(job_id)
        partition.carry_out(Ack(job_id, token, b"r") if acks else Release(job_id, token))
        if acks:
            self.acked.add(job_id)

    def come_to_rest(self) -> None:
        """Everything arrives, and nothing is left undone."""
        for number in range(len(self.partitions)):
            self.connect(number)
        for _ in range(100):
            for number in range(len(self.partitions)):
                self.answer(number)
                self.tell(number)
            self.collect()
            if not any(partition.asked for partition in self.partitions):
                break
        else:
            raise AssertionError("it never comes to rest")
        for caller in self.callers:
            assert caller.waits, "who does not wait has heard an answer"
            if not caller.gone:
                assert not any(self.has(each, caller.queues) for each in self.partitions)
        for partition in self.partitions:
            for job in jobs_of(partition.state).values():
                if job.state is State.RUNNING and job.job_id not in self.held:
                    assert job.job_id in self.excused, "leased to nobody"

    # What must be true ----------------------------------------------------------------------

    def check(self) -> None:
        """What holds at every moment."""
        self.look()
        self.collect()
        self.nothing_is_lost()
        self.nothing_is_kept_for_those_who_have_gone()

    def collect(self) -> None:
        """Every answer that was heard is a right one."""
        self.look()
        for caller in [each for each in self.callers if each.run.done]:
            self.callers.remove(caller)
            match caller.run.result:
                case Leased():
                    self.hold([caller.run.result])
                case LeasedMany():
                    self.hold(caller.run.result.jobs)
                case NothingReady() if not caller.gone:
                    assert not caller.had_all_along, "it had a job all the time"
                case None if caller.run.error is not None:
                    assert isinstance(caller.run.error, PartitionUnavailableError)
                case _:
                    assert caller.gone

    def nothing_is_lost(self) -> None:
        found = [job_id for partition in self.partitions for job_id in jobs_of(partition.state)]
        assert len(found) == self.stored
        assert not self.acked & set(self.held)
        for caller in self.callers:
            assert not caller.run.done

    def nothing_is_kept_for_those_who_have_gone(self) -> None:
        waiting = {caller for caller in self.callers if caller.waits}
        assert len(self.deadlines.parked) == len(waiting)
        wanted = {queue for caller in waiting for queue in caller.queues}
        assert set(self.leasing._waiters) == wanted

    def hold(self, leases: Sequence[Leased]) -> None:
        for lease in leases:
            assert lease.job_id not in self.held, "leased twice"
            assert lease.job_id not in self.acked, "leased after its end"
            self.held[lease.job_id] = lease.lease_token

    # ----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Note which partitions have nothing for whom."""
        for caller in self.callers:
            for number in list(caller.had_all_along):
                partition = self.partitions[number]
                if not (self.connected[number] and self.has(partition, caller.queues)):
                    caller.had_all_along.discard(number)

    @staticmethod
    def has(partition: HandPartition, queues: Sequence[str]) -> bool:
        known = partition.state.jobs.kinds.queues
        return any(name in known and known[name].top is not None for name in queues)

    def one(self, number: int) -> HandPartition:
        return self.partitions[number % len(self.partitions)]

    def talk(self, number: int) -> Conversation:
        return self.talks[number % len(self.partitions)]

    def home(self, job_id: bytes) -> HandPartition:
        return self.partitions[partition_of(slot_of(job_id), len(self.partitions))]


MUCH = ("submit", "lease", "carry out", "answer", "tell") * 3
SOME = ("send", "hear", "hang up", "finish") * 2
SELDOM = ("pass", "pause", "lose", "connect", "end a wait", "come to rest")
steps = st.tuples(st.sampled_from([*MUCH, *SOME, *SELDOM]), st.integers(0, 11), st.integers(0, 7))


@given(count=st.integers(1, 3), steps=st.lists(steps, min_size=60, max_size=100))
def test_leasing_keeps_its_promises_over_partitions(
    count: int, steps: list[tuple[str, int, int]]
) -> None:
    leasing = LeasingAgainstOneQueue(count)
    for what, number, detail in steps:
        leasing.step(what, number, detail)
    leasing.come_to_rest()
    leasing.check()


jobs = st.tuples(st.integers(0, 3), st.sampled_from(QUEUES), st.integers(-3, 3))


@given(
    count=st.integers(1, 4),
    told_all=st.booleans(),
    steps=st.lists(
        jobs | st.sampled_from(WISHES) | st.sampled_from(["release", "pass"]), max_size=60
    ),
)
def test_with_fresh_hints_the_order_is_that_of_one_queue(
    count: int, told_all: bool, steps: list[tuple[int, str, int] | tuple[str, ...] | str]
) -> None:
    # By itself a partition tells of each other priority, but not of each other age.
    partitions = partitions_of(count)
    leasing = Leasing([each.client for each in partitions], HandDeadlines())
    ready: dict[str, list[tuple[int, int, bytes]]] = {queue: [] for queue in QUEUES}
    released: list[tuple[str, tuple[int, int, bytes]]] = []
    now_ms = START_MS
    for number, step in enumerate(steps):
        now_ms += 100
        for partition in partitions:
            partition.now_ms = now_ms
            if told_all:
                partition.tell_all()
            else:
                partition.tell()
        match step:
            case (int(where), str(queue), int(priority)):
                home = partitions[where % count]
                job_id = make_job_id(now_ms, number, first_slot(home.partition, count))
                options = encode_options(Options(queue, priority))
                home.carry_out(Enqueue(job_id, b"x", 3, "me", options))
                ready[queue].append((-priority, now_ms, job_id))
            case "release" if released:
                queue, place = released.pop(0)
                job = jobs_of(partitions[partition_of(slot_of(place[2]), count)].state)[place[2]]
                home = partitions[partition_of(slot_of(place[2]), count)]
                home.carry_out(Many([Release(place[2], job.lease_token)]))
                ready[queue].append(place)
            case (str(), *_) if isinstance(step, tuple):
                names = [str(name) for name in step]
                run = Run(
                    leasing.lease(LeaseRequest(tuple(names), duration_ms=10**9), lambda: False)
                )
                settle(partitions)
                best = next((name for name in names if ready[name]), None)
                if best is None:
                    assert run.result == NothingReady()
                    continue
                assert isinstance(run.result, Leased)
                (place,) = (each for each in ready[best] if each[2] == run.result.job_id)
                first = min(ready[best])
                assert place == first if told_all else place[0] == first[0]
                ready[best].remove(place)
                released.append((best, place))
            case _:
                pass


def test_the_model_is_not_blind() -> None:
    # A partition that leases a job twice would be noticed: here it is made to.
    machine = LeasingAgainstOneQueue(1)
    machine.submit(0, "a", 0)
    machine.lease(("a",), None, waits=False)
    machine.come_to_rest()
    (job_id,) = machine.held
    token = machine.held[job_id]
    machine.partitions[0].carry_out(Release(job_id, token))
    machine.lease(("a",), None, waits=False)
    assert isinstance(machine.partitions[0].asked[0], Lease)
    with pytest.raises(AssertionError, match="leased twice"):
        machine.come_to_rest()
