"""Fronts and partitions that die between the two steps of a submit with a key and a group.

The step that is not to be done yet is held up: its partition is stopped (SIGSTOP), so the message
lies in its socket until it goes on, or dies with it. Whatever dies then, the key is one job's.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from partitions.limits import CLAIM_MS
from tests.crash.test_kill9 import stopped
from tests.support.contract import Answer, Http, Parked, job, new_name
from tests.support.keyed import Keyed
from tests.support.node import RunningNode
from tests.support.points import Points
from tests.support.polling import wait_until

HOME, GROUP = 0, 1
"""The partitions of the key, and of the group."""
NAMES = {HOME: "home", GROUP: "group"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    # Each its own: a process that dies often is started again later and later.
    with RunningNode(tmp_path) as running:
        yield running


@dataclass
class Submitting:
    """A submit, others under its key, and what has to be true of them in the end."""

    http: Http
    keyed: Keyed
    queue: str
    key: str
    groups: tuple[str, str]
    """That of the submit, and one that is home."""

    def body(self, **other: object) -> dict[str, object]:
        fields = {"idempotency_key": self.key, "group": self.groups[0]}
        return job(self.queue, **(fields | other))

    @property
    def rivals(self) -> list[dict[str, object]]:
        """Bodies under the key that the claim is in the way of."""
        return [self.body(group=self.groups[1]), job(self.queue, idempotency_key=self.key)]

    def park_rivals(self, waits_for: int) -> list[Parked]:
        """Send those, once the claim is there: before that, one of them could be the first."""
        return [self.park(each) for each in self.rivals] if waits_for == GROUP else []

    def park(self, body: dict[str, object]) -> Parked:
        return self.http.park("POST", "/jobs", body, key="client")

    @contextmanager
    def held_up(self, partition: int) -> Iterator[Parked]:
        """Inside, front 0 waits for a partition that is stopped, with the submit half done."""
        node = self.http.node
        with stopped(node.partitions[partition]):
            with node.only_front(0):
                parked = self.park(self.body())
                # It is read before these, and what comes of it is sent before their answers come.
                self.ask_past(partition)
                if partition == GROUP:
                    wait_until(lambda: self.times_claimed > 0, what="the claim")
                    self.ask_past(partition)
            yield parked

    def ask_past(self, partition: int) -> None:
        """Get some answers of the other partition."""
        for _ in range(3):
            nobody = self.keyed.nobody_in(HOME + GROUP - partition)
            assert self.http.get(f"/jobs/{nobody}").status == 404

    @property
    def times_claimed(self) -> int:
        return self.keyed.times_logged(self.queue, self.key, HOME)

    def check_meanwhile(self, same: list[Answer], rivals: list[Answer]) -> None:
        """What was answered before anybody knew the outcome."""
        assert {each.status for each in same} <= {200, 201, 503}, same
        assert {each.status for each in rivals} <= {422, 503}, rivals
        # What these met has changed nothing, and may be sent again.
        assert all("retry-after" in each.headers for each in rivals if each.status == 503)

    def check_at_last(self, answers: list[Answer]) -> str:
        """The key is one job's from now on; ``answers`` are of the same body. The job's id."""
        job_ids = {each.json["job_id"] for each in answers if each.status in (200, 201)}
        assert sum(each.status == 201 for each in answers) <= 1, answers
        last = self.definite(self.body())
        assert last.status in (200, 201), last
        job_ids.add(last.json["job_id"])
        assert len(job_ids) == 1
        job_id: str = job_ids.pop()
        self.check_held(job_id)
        return job_id

    def check_held(self, job_id: str) -> None:
        # The same body claims the key anew: that comes last, or it would stand in for what is lost.
        for other in (*self.rivals, self.body(payload="other")):
            assert self.definite(other).status == 422
        again = self.definite(self.body())
        assert (again.status, again.json["job_id"]) == (200, job_id)
        assert self.http.listed(queue=self.queue) == [job_id]

    def definite(self, body: dict[str, object]) -> Answer:
        """What it answers when it no longer says 503."""
        answers: list[Answer] = []

        def is_definite() -> bool:
            answers.append(self.http.call("POST", "/jobs", body, key="client"))
            return answers[-1].status != 503

        wait_until(is_definite, what=f"an answer to {body}")
        return answers[-1]


@pytest.fixture
def submitting(node: RunningNode) -> Submitting:
    queue, keyed = new_name(), Keyed(node, 2)
    group, another = (next(keyed.groups_of(each, queue)) for each in (GROUP, HOME))
    return Submitting(Http(node), keyed, queue, next(keyed.keys_of(HOME, queue)), (group, another))


@pytest.mark.parametrize("waits_for", [HOME, GROUP], ids=NAMES.get)
def test_a_key_whose_front_died_between_the_steps_is_the_next_submits(
    node: RunningNode, submitting: Submitting, waits_for: int, points: Points
) -> None:
    with submitting.held_up(waits_for) as dying:
        pid = node.kill_front(0)
        dying.hang_up()
        same = [submitting.park(submitting.body()) for _ in range(2)]
        rivals = submitting.park_rivals(waits_for)
    answers = [each.answer() for each in same]
    submitting.check_meanwhile(answers, [each.answer() for each in rivals])
    assert submitting.times_claimed > 0
    job_id = submitting.check_at_last(answers)
    node.wait_restarted(pid)
    submitting.check_held(job_id)
    points.add("front killed between claim and job")


def test_a_claim_that_nobody_is_to_use_any_more_keeps_others_waiting_not_for_ever(
    node: RunningNode, submitting: Submitting
) -> None:
    with submitting.held_up(HOME) as dying:
        pid = node.kill_front(0)
        dying.hang_up()
    wait_until(lambda: submitting.times_claimed > 0, what="the claim")
    node.wait_restarted(pid)
    for rival in submitting.rivals:
        answer = submitting.http.call("POST", "/jobs", rival, key="client")
        assert answer.status == 503, answer
        assert "retry-after" in answer.headers
    assert submitting.http.listed(queue=submitting.queue) == []
    check_that_a_rival_gets_it(submitting)


def test_a_job_that_lay_with_a_stopped_partition_until_its_claim_was_over_is_not_stored(
    node: RunningNode, submitting: Submitting
) -> None:
    with submitting.held_up(GROUP) as dying:
        pid = node.kill_front(0)
        dying.hang_up()
        # There is nothing to be seen of it: what is waited for is that it is too late.
        time.sleep(CLAIM_MS / 1000)
    node.wait_restarted(pid)
    check_that_a_rival_gets_it(submitting)


def check_that_a_rival_gets_it(submitting: Submitting) -> None:
    """By and by; nobody else has it then."""
    rival = submitting.rivals[0]
    taken = submitting.definite(rival)
    assert taken.status == 201
    assert submitting.definite(submitting.body()).status == 422
    again = submitting.definite(rival)
    assert (again.status, again.json["job_id"]) == (200, taken.json["job_id"])
    assert submitting.http.listed(queue=submitting.queue) == [taken.json["job_id"]]


@pytest.mark.parametrize("killed", [HOME, GROUP], ids=lambda each: f"{NAMES[each]} killed")
@pytest.mark.parametrize("waits_for", [HOME, GROUP], ids=lambda each: f"waits for {NAMES[each]}")
def test_a_partition_that_dies_between_the_steps_or_after_leaves_the_key_one_jobs(
    node: RunningNode, submitting: Submitting, waits_for: int, killed: int, points: Points
) -> None:
    with submitting.held_up(waits_for) as first:
        rivals = submitting.park_rivals(waits_for)
        pids = [node.kill_partition(killed)]
    answers = [first.answer()]
    submitting.check_meanwhile(answers, [each.answer() for each in rivals])
    node.wait_restarted(pids[0])
    job_id = submitting.check_at_last(answers)
    for number in (HOME, GROUP):
        node.wait_restarted(node.kill_partition(number))
        submitting.check_held(job_id)
    points.add("partition killed between claim and job, or after", 3)


def test_keys_are_held_over_the_death_of_everything_between_the_steps(
    node: RunningNode, submitting: Submitting
) -> None:
    with submitting.held_up(GROUP) as first:
        node.kill()
        first.hang_up()
    node.start()
    submitting.check_held(submitting.check_at_last([]))
