"""Who sends what: callers, cancelled ones too, against a node whose answers hypothesis draws."""

import json

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from queue_node_sdk.batching import STUMBLING_MAX, Batching, Item
from queue_node_sdk.delivery import BATCH_BYTES_MAX, BATCH_JOBS_MAX, Abilities
from queue_node_sdk.errors import BadRequest, OutcomeUnknown
from queue_node_sdk.options import submit_body
from queue_node_sdk.protocol import AnswerLost, NotSent, Outcome, Reply

GOOD, BUSY, LOST, AWAY = "good", "busy", "lost", "away"


def item_of(number: int, payload: str = "x") -> Item[int]:
    return Item(submit_body(payload, {}, str(number)), 0.0, number)


class Callers(RuleBasedStateMachine):
    """Each item is a caller that waits for its bell, or leads."""

    @initialize(old=st.booleans())
    def begin(self, old: bool) -> None:
        self.old = old
        self.node = Abilities()
        self.batching: Batching[int] = Batching(self.node)
        self.items: list[Item[int]] = []
        self.leaders: list[Item[int]] = []
        self.stored: set[str] = set()
        self.stored_since_known: set[str] = set()
        """By a node of which the client knows that it knows no keys."""

    # What callers do

    @rule(payload=st.sampled_from(["fine", "fine", "fine", "bad"]))
    def submit(self, payload: str) -> None:
        item = item_of(len(self.items), payload)
        self.items.append(item)
        if self.batching.add(item):
            self.leaders.append(item)

    @precondition(lambda self: self.leaders)
    @rule(data=st.data(), faults=st.lists(st.sampled_from([GOOD, GOOD, BUSY, LOST, AWAY])))
    def lead(self, data: st.DataObject, faults: list[str]) -> None:
        self.send(data.draw(st.sampled_from(self.leaders)), faults)

    @precondition(lambda self: self.leaders)
    @rule(data=st.data(), requests=st.integers(1, 4))
    def cancel_a_leader_in_the_middle(self, data: st.DataObject, requests: int) -> None:
        leader = data.draw(st.sampled_from(self.leaders))
        assert leader.delivery is not None
        for _ in range(requests):
            if (call := leader.delivery.next_call()) is not None:
                leader.delivery.note(self.answer(call.body, GOOD))
        self.cancel(leader)

    @rule(data=st.data())
    def cancel_anybody(self, data: st.DataObject) -> None:
        if here := [item for item in self.items if not item.gone]:
            self.cancel(data.draw(st.sampled_from(here)))

    # How

    def cancel(self, item: Item[int]) -> None:
        if item in self.leaders:
            self.leaders.remove(item)
        self.wake(self.batching.abandon(item))

    def send(self, leader: Item[int], faults: list[str]) -> None:
        """One round, as the transports do it."""
        delivery = leader.delivery
        assert delivery is not None
        while (call := delivery.next_call()) is not None:
            delivery.note(self.answer(call.body, faults.pop() if faults else GOOD))
        if delivery.pause_seconds("http://node", 3600, 0.5) is None:
            self.leaders.remove(leader)
            self.wake(self.batching.settle(leader))
            return
        woken = self.batching.pause(leader)
        # Whose own job is answered does not stay for the others'.
        assert (leader.batch is None) == (leader.outcome is not None)
        if leader.batch is None:
            self.leaders.remove(leader)
        self.wake(woken)

    def wake(self, woken: list[Item[int]]) -> None:
        for item in woken:
            if item.batch is not None:
                assert item not in self.leaders
                self.leaders.append(item)
            else:
                assert item.outcome is not None, "woken for nothing"

    def answer(self, body: bytes, fault: str) -> Outcome:
        sent = json.loads(body)
        if self.old and "jobs" in sent:
            return Reply(405, b'{"error": "method not allowed"}', {})
        jobs = sent.get("jobs", [sent])
        for index, job in enumerate(jobs):
            if job["payload"] == "bad":
                where = f"jobs[{index}]: " if "jobs" in sent else ""
                return Reply(400, json.dumps({"error": f"{where}bad"}).encode(), {})
        if fault == AWAY:
            return NotSent("refused")
        if fault == BUSY:
            return Reply(503, b'{"error": "overloaded"}', {"retry-after": "1"})
        ids = [job["idempotency_key"] for job in jobs]
        if self.old and not self.node.batches:
            # It does not know the keys: sent twice is stored twice.
            assert not self.stored_since_known.intersection(ids)
            self.stored_since_known.update(ids)
        self.stored.update(ids)
        if fault == LOST:
            return AnswerLost("cut")
        said = {"job_ids": ids} if "jobs" in sent else {"job_id": ids[0]}
        return Reply(201, json.dumps(said).encode(), {})

    # What holds

    @invariant()
    def nobody_waits_for_a_leader_that_is_not_there(self) -> None:
        if not self.leaders:
            assert all(item.gone or item.outcome is not None for item in self.items)

    @invariant()
    def one_request_is_out_beside_those_that_stumble(self) -> None:
        if self.node.batches:
            stumbling = sum(leader.stumbled for leader in self.leaders)
            assert stumbling <= STUMBLING_MAX
            assert len(self.leaders) - stumbling <= 1

    @invariant()
    def each_outcome_is_its_own(self) -> None:
        for number, item in enumerate(self.items):
            if isinstance(item.outcome, str):
                assert item.outcome == str(number)
                assert b'"bad"' not in item.body
                assert str(number) in self.stored

    def teardown(self) -> None:
        if not hasattr(self, "items"):
            return
        for _ in range(10_000):
            if not self.leaders:
                break
            self.send(self.leaders[0], [])
        assert not self.leaders, "it never ends"
        for item in self.items:
            if not item.gone and b'"bad"' in item.body:
                assert isinstance(item.outcome, BadRequest)
        assert self.batching.add(item_of(len(self.items))), "an idle client waits for nothing"


TestCallers = Callers.TestCase


def test_a_request_is_bounded_in_jobs_and_in_bytes():
    batching: Batching[int] = Batching(Abilities())
    first = item_of(0)
    assert batching.add(first)
    assert not any(batching.add(item_of(1 + number)) for number in range(BATCH_JOBS_MAX + 5))
    [leader] = batching.abandon(first)
    assert leader.batch is not None
    assert len(leader.batch) == BATCH_JOBS_MAX
    large = [item_of(-1 - number, "x" * (BATCH_BYTES_MAX // 3)) for number in range(4)]
    assert not any(batching.add(item) for item in large)
    [rest] = batching.abandon(leader)
    assert rest.batch is not None
    # Those that were given back have waited longest, and are the next request.
    assert [item.bell for item in rest.batch[:2]] == [2, 3]
    assert all(len(item.body) < 1000 for item in rest.batch)


def test_what_a_cancelled_leader_may_have_sent_is_not_said_to_be_nowhere():
    batching: Batching[int] = Batching(Abilities())
    first, second, third = (item_of(number) for number in range(3))
    assert batching.add(first)
    assert not any(batching.add(item) for item in (second, third))
    [leader] = batching.abandon(first)
    assert leader is second
    assert batching.abandon(second) == [third]
    assert third.delivery is not None
    assert third.delivery.next_call() is not None
    third.delivery.note(NotSent("refused"))
    assert third.delivery.pause_seconds("http://node", 0, 0.5) is None
    assert batching.settle(third) == []
    assert isinstance(third.outcome, OutcomeUnknown)


def test_where_there_are_no_batches_everybody_leads():
    node = Abilities()
    batching: Batching[int] = Batching(node)
    first, *others = (item_of(number) for number in range(4))
    assert batching.add(first)
    assert not any(batching.add(item) for item in others)
    node.batches = False
    assert batching.add(item_of(4))
    assert batching.abandon(first) == others
    assert all(item.batch == [item] for item in others)
