"""What readers see: pages bounded in rows, in work and in bytes; queues by their counters."""

import pytest

from partitions import state as state_module
from partitions import views as module
from partitions.answers import JobFound, JobsFound
from partitions.messages import (
    Ack,
    Cancel,
    Enqueue,
    Fail,
    Filter,
    Forget,
    Lease,
    List,
    Pause,
    QueueViews,
    ViewQueues,
)
from partitions.options import Options, encode_options
from partitions.positions import make_position
from partitions.state import PartitionState
from tests.support.driver import START_MS, enqueue, job_id


class World:
    """A state whose texts have a length, and nothing else."""

    def __init__(self) -> None:
        self.state = PartitionState()
        self.now_ms = START_MS
        self._offset = 64

    def put(self, text: bytes) -> int:
        self._offset += 8 + len(text)
        return make_position(1, self._offset, 8 + len(text))

    def __call__(self, command):
        return self.state.apply(command, self.now_ms, self.put).reply

    def page(self, after: int = 0, limit: int = 1000, **wanted) -> JobsFound:
        found = self(List(after, limit, Filter(**wanted)))
        assert isinstance(found, JobsFound)
        return found

    def names(self, **wanted) -> list[bytes]:
        return [each.view.job_id for each in self.page(**wanted).jobs]


@pytest.fixture
def world() -> World:
    return World()


def tagged(index: int, queue: str = "default", **tags: str) -> Enqueue:
    options = Options(queue, tags=tuple(sorted(tags.items())))
    return Enqueue(job_id(index), b"p", 3, "owner", encode_options(options), group=f"g{index % 2}")


def test_a_filter_lets_through_what_fits_all_of_it(world):
    for index, queue in enumerate(["a", "b", "a", "b", "a"]):
        world(tagged(index, queue, size="s", number=str(index)))
    world(enqueue(9))
    world(Cancel(job_id(2)))
    ids = [job_id(index) for index in range(10)]
    assert world.names() == [*ids[:5], ids[9]]
    assert world.names(queue="a") == [ids[0], ids[2], ids[4]]
    assert world.names(queue="a", state="READY") == [ids[0], ids[4]]
    assert world.names(group="g1") == [ids[1], ids[3]]
    assert world.names(tags=(("size", "s"),)) == ids[:5]
    assert world.names(tags=(("size", "s"), ("number", "3"))) == [ids[3]]
    assert world.names(tags=(("size", "l"),)) == []
    assert world.names(queue="", state="", group="") == [*ids[:5], ids[9]]


@pytest.mark.parametrize("wanted", [{"queue": "none"}, {"state": "GONE"}, {"state": "what"}])
def test_what_there_is_not_matches_nothing(world, wanted):
    world(enqueue(1))
    assert world.page(**wanted) == JobsFound([], None)


def test_a_page_ends_at_its_limit_and_says_where_to_go_on_only_if_there_is_more(world):
    for index in range(5):
        world(enqueue(index))
    first = world.page(limit=3)
    assert [each.view.job_id for each in first.jobs] == [job_id(index) for index in range(3)]
    assert first.next_number == first.jobs[-1].view.number
    second = world.page(first.next_number, limit=2)
    assert [each.view.job_id for each in second.jobs] == [job_id(3), job_id(4)]
    assert second.next_number is None


def test_a_page_that_matches_nothing_looks_at_a_bounded_number_of_jobs(world, monkeypatch):
    monkeypatch.setattr(module, "SCAN_JOBS_MAX", 10)
    for index in range(25):
        world(enqueue(index))
    pages, after = [], 0
    while after is not None:
        found = world.page(after, state="DEAD")
        pages.append(found.jobs)
        after = found.next_number
    assert pages == [[], [], []]


def test_a_page_ends_when_its_errors_are_long(world, monkeypatch):
    monkeypatch.setattr(module, "PAGE_BYTES_MAX", 1_000)
    for index in range(9):
        world(Enqueue(job_id(index), b"p", 1, "owner"))
        world(Fail(job_id(index), world(Lease(9_000)).lease_token, bytes(300)))
    found = world.page()
    assert len(found.jobs) == 4
    assert len(world.page(found.next_number).jobs) == 4


def test_a_page_has_errors_and_no_results(world):
    world(enqueue(1))
    world(Ack(job_id(1), world(Lease(9_000)).lease_token, b"result"))
    world(Enqueue(job_id(2), b"p", 1, "owner"))
    world(Fail(job_id(2), world(Lease(9_000)).lease_token, b"error"))
    acked, dead = world.page().jobs
    assert (acked.view.state, acked.outcome_at) == ("ACKED", 0)
    assert (dead.view.state, bool(dead.outcome_at)) == ("DEAD", True)
    whole = world.state.find(job_id(1))
    assert isinstance(whole, JobFound)
    assert whole.outcome_at


def test_a_walk_shows_a_job_that_was_there_all_along_exactly_once(world):
    for index in range(20):
        world(enqueue(index))
    seen, after, step = [], 0, 0
    while after is not None:
        found = world.page(after, limit=3)
        seen += [each.view.job_id for each in found.jobs]
        after = found.next_number
        # Others come and go meanwhile, in front and behind.
        world(enqueue(100 + step))
        world(Cancel(job_id(19)))
        world(Ack(job_id(step), world(Lease(9_000)).lease_token, None))
        step += 1
    assert [each for each in seen if each in [job_id(index) for index in range(20)]] == [
        job_id(index) for index in range(20)
    ]


def test_a_queue_shows_counts_the_oldest_ready_job_groups_and_rates(world):
    for index in range(4):
        world.now_ms = START_MS + index
        world(tagged(index, "q"))
    world.now_ms = START_MS + 100
    world(Lease(60_000, ("q",)))
    world.now_ms = START_MS + 5_000
    (view,) = world(ViewQueues("q")).queues
    assert view.counts == {"READY": 3, "RUNNING": 1}
    # The group of the one that runs waits for it; the other's first is job 1.
    assert view.oldest_ready_ms == START_MS + 1
    assert (view.queue, view.paused, view.groups) == ("q", False, 2)
    assert view.rates["submitted"][0] == pytest.approx(4 * view.rates["leased"][0])
    assert view.rates["submitted"][0] > view.rates["submitted"][1] > view.rates["submitted"][2] > 0
    assert view.rates["acked"] == view.rates["failed"] == (0, 0, 0)


def test_all_queues_are_those_with_jobs_and_those_that_are_paused(world):
    world(tagged(1, "a"))
    world(Pause("b", True))
    assert {each.queue: each.paused for each in world(ViewQueues()).queues} == {
        "a": False,
        "b": True,
    }
    world(Pause("b", False))
    assert [each.queue for each in world(ViewQueues()).queues] == ["a"]
    assert world(ViewQueues("nowhere")).queues == []


def test_queues_come_in_pages_by_name_whatever_comes_and_goes_meanwhile(world, monkeypatch):
    monkeypatch.setattr(state_module, "PAGE_QUEUES_MAX", 3)
    for index, name in enumerate("gfedcba"):
        world(tagged(index, name))
    first = world(ViewQueues())
    assert [each.queue for each in first.queues] == ["a", "b", "c"]
    assert first.next_after == "c"
    world(tagged(20, "aa"))
    world(tagged(21, "cc"))
    world(Cancel(job_id(3)))
    world(Forget(job_id(3)))  # the only one of d
    second = world(ViewQueues(None, "c"))
    # What became of d: not yet let go, and not shown.
    assert [each.queue for each in second.queues] == ["cc", "e"]
    assert second.next_after == "e"
    third = world(ViewQueues(None, "e"))
    assert ([each.queue for each in third.queues], third.next_after) == (["f", "g"], None)
    assert world(ViewQueues(None, "g")) == QueueViews([])
    assert [each.queue for each in world(ViewQueues("b", "x")).queues] == ["b"]
