from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import problems
from api.listing import Listed, Listing
from api.problems import Problem
from api.query_schemas import ListRequest
from partitions import state, views
from partitions.messages import (
    Cancel,
    Enqueue,
    Filter,
    Forget,
    JobView,
    List,
    Pause,
    StorageFull,
    Sweep,
    Swept,
    ViewQueues,
)
from partitions.options import Options, encode_options
from partitions.slots import first_slot, make_job_id
from tests.support.by_hand import HandPartition, Run, partitions_of, settle


class Node:
    """Lists over partitions by hand, whose clocks the test moves."""

    def __init__(self, count: int) -> None:
        self.partitions = partitions_of(count)
        self.listing = Listing([each.client for each in self.partitions])
        self._numbers = 0

    def store(self, partition: int, queue: str = "default") -> bytes:
        home = self.partitions[partition]
        self._numbers += 1
        first = first_slot(partition, len(self.partitions))
        job_id = make_job_id(home.now_ms, self._numbers, first)
        home.carry_out(Enqueue(job_id, b"x", 3, "me", encode_options(Options(queue))))
        return job_id

    def page(self, request: ListRequest) -> Listed | Problem:
        run = Run(self.listing.page(request))
        settle(self.partitions)
        assert isinstance(run.result, Listed | Problem)
        return run.result

    def sweep(self, sweep: Sweep) -> int | Problem:
        run = Run(self.listing.sweep(sweep))
        settle(self.partitions)
        assert isinstance(run.result, int | Problem)
        return run.result

    def walk(
        self,
        limit: int,
        wanted: Filter = Filter(),  # noqa: B008 - frozen
        between: Callable[[], object] = lambda: None,
    ) -> list[list[JobView]]:
        """All pages; ``between`` happens between them."""
        pages: list[list[JobView]] = []
        cursor = None
        while True:
            listed = self.page(ListRequest(cursor, limit, wanted))
            assert isinstance(listed, Listed)
            pages.append(listed.jobs)
            if listed.cursor is None:
                return pages
            cursor = listed.cursor
            assert len(pages) < 2_000, "it does not come to its end"
            between()


def ids(pages: Sequence[Sequence[JobView]]) -> list[bytes]:
    return [view.job_id for page in pages for view in page]


# Pages -----------------------------------------------------------------------------------------


def test_nothing_is_one_empty_page() -> None:
    assert Node(3).page(ListRequest()) == Listed([], None)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_pages_are_merged_in_order_of_submission(count: int, limit: int) -> None:
    node = Node(count)
    expected = []
    for number in range(40):
        for partition in node.partitions:
            partition.now_ms += 1
        expected.append(node.store(number * 7 % count))
    pages = node.walk(limit)
    assert ids(pages) == expected
    assert all(len(page) <= limit for page in pages)
    assert all(len(page) == limit for page in pages[: 40 // limit])


def test_pages_are_full_where_the_partitions_can_fill_them() -> None:
    node = Node(2)
    for number in range(10):
        node.store(number % 2)
    assert [len(page) for page in node.walk(5)] == [5, 5]


def test_a_filter_that_matches_little_ends_a_page_and_gives_a_cursor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "SCAN_JOBS_MAX", 10)
    node = Node(2)
    wanted = []
    for number in range(200):
        for partition in node.partitions:
            partition.now_ms += 1
        rare = number in (57, 150)
        job_id = node.store(number % 2, "rare" if rare else "default")
        if rare:
            wanted.append(job_id)
    pages = node.walk(100, Filter(queue="rare"))
    assert ids(pages) == wanted
    assert len(pages) >= 10, "no page looks at more than so many"


def test_a_cursor_of_a_node_with_other_partitions_is_refused() -> None:
    one, other = Node(1), Node(2)
    for _ in range(3):
        one.store(0)
    listed = one.page(ListRequest(limit=1))
    assert isinstance(listed, Listed)
    refused = other.page(ListRequest(listed.cursor))
    assert isinstance(refused, Problem)
    assert refused.status == 400
    assert not other.partitions[0].commands


def test_a_partition_that_is_at_its_end_is_not_asked_again() -> None:
    node = Node(2)
    for number in range(5):
        node.partitions[0].now_ms += 1
        node.store(0 if number else 1)
    node.walk(1)
    asked = [sum(isinstance(each, List) for each in part.commands) for part in node.partitions]
    assert asked[0] == 5
    assert asked[1] < 5


def test_with_a_partition_down_there_is_no_page() -> None:
    node = Node(2)
    node.store(0)
    node.partitions[1].lose()
    assert node.page(ListRequest()) is problems.PARTITION_DOWN


Change = tuple[str, int, int]
changes = st.lists(
    st.tuples(
        st.sampled_from(["store", "forget", "cancel", "pass"]),
        st.integers(0, 9),
        st.integers(0, 99),
    ),
    max_size=8,
)


@given(
    count=st.integers(1, 4),
    before=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=40),
    limit=st.integers(1, 9),
    scan=st.integers(1, 12),
    only=st.none() | st.just("mail"),
    rounds=st.lists(changes, max_size=12),
)
def test_a_job_that_is_there_all_along_is_given_exactly_once_whatever_changes_meanwhile(
    count: int,
    before: list[tuple[int, int, bool]],
    limit: int,
    scan: int,
    only: str | None,
    rounds: list[list[Change]],
) -> None:
    # Clocks of partitions differ, jobs share a millisecond, pages end early, and between two of
    # them jobs come, end and go.
    node = Node(count)
    alive: dict[bytes, int] = {}
    created_in: dict[bytes, int] = {}
    matching: set[bytes] = set()

    def store(partition: int, pass_ms: int, mail: bool) -> bytes:
        home = node.partitions[partition % count]
        home.now_ms += pass_ms
        job_id = node.store(home.partition, "mail" if mail else "default")
        alive[job_id] = home.partition
        created_in[job_id] = home.partition
        if mail or only is None:
            matching.add(job_id)
        return job_id

    for partition, pass_ms, mail in before:
        store(partition, pass_ms, mail)
    at_first = set(alive)
    left = iter(rounds)

    def change() -> None:
        for what, one, other in next(left, []):
            if what == "store":
                store(one, other % 3, other % 2 == 0)
            elif what == "pass":
                node.partitions[one % count].now_ms += other
            elif alive:
                job_id = sorted(alive)[other % len(alive)]
                home = node.partitions[alive[job_id]]
                home.carry_out(Cancel(job_id))
                if what == "forget":
                    home.carry_out(Forget(job_id))
                    del alive[job_id]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "SCAN_JOBS_MAX", scan)
        pages = node.walk(limit, Filter(queue=only), change)
    given_ids = ids(pages)
    assert len(set(given_ids)) == len(given_ids), "none comes twice"
    assert set(given_ids) <= matching
    assert at_first & set(alive) & matching <= set(given_ids), "none is missing"
    assert all(len(page) <= limit for page in pages)
    times = [view.created_at_ms for page in pages for view in page]
    if not rounds:
        assert times == sorted(times)
    for page in pages:
        in_page = [view.created_at_ms for view in page]
        assert in_page == sorted(in_page)
    numbers: dict[int, list[int]] = {}
    for view in (view for page in pages for view in page):
        numbers.setdefault(created_in[view.job_id], []).append(view.number)
    assert all(own == sorted(own) for own in numbers.values())


# Queues and bulk calls -------------------------------------------------------------------------


def test_queues_come_from_all_that_answer_and_the_silent_are_named() -> None:
    node = Node(3)
    for number in range(6):
        node.store(number % 3, "mail")
    node.partitions[1].lose()
    run = Run(node.listing.queues("mail"))
    settle(node.partitions)
    found, silent = run.result
    assert [(partition, view.counts) for partition, view in found] == [
        (0, {"READY": 2}),
        (2, {"READY": 2}),
    ]
    assert silent == [1]


def test_many_queues_are_asked_for_a_page_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "PAGE_QUEUES_MAX", 2)
    node = Node(3)
    for partition, names in enumerate(("edcba", "b", "")):
        for name in names:
            node.store(partition, name)
    run = Run(node.listing.queues(None))
    settle(node.partitions)
    found, silent = run.result
    assert silent == []
    assert [(partition, view.queue) for partition, view in found] == [
        *((0, name) for name in "abcde"),
        (1, "b"),
    ]
    asked = [[command.after for command in each.commands if isinstance(command, ViewQueues)]
             for each in node.partitions]  # fmt: skip
    assert asked == [["", "b", "d"], [""], [""]]


def test_of_a_partition_that_fails_in_the_middle_no_queue_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state, "PAGE_QUEUES_MAX", 2)
    node = Node(2)
    for name in "abc":
        node.store(0, name)
        node.store(1, name)
    fails = node.partitions[1]
    fails.answer = lambda command: (
        StorageFull() if command == ViewQueues(None, "b") else fails.carry_out(command)
    )
    run = Run(node.listing.queues(None))
    settle(node.partitions)
    found, silent = run.result
    assert [(partition, view.queue) for partition, view in found] == [(0, n) for n in "abc"]
    assert silent == [1]


def test_a_pause_is_told_to_every_partition_or_to_none() -> None:
    node = Node(3)
    node.partitions[2].lose()
    run = Run(node.listing.pause("mail", paused=True))
    assert run.result is problems.PARTITION_DOWN
    assert not any(partition.asked for partition in node.partitions)
    node.partitions[2].connect()
    run = Run(node.listing.pause("mail", paused=True))
    settle(node.partitions)
    assert run.done
    assert run.result is None
    assert [partition.commands for partition in node.partitions] == [[Pause("mail", True)]] * 3


def cancelled(node: Node, partition: int, jobs: int) -> None:
    for _ in range(jobs):
        node.partitions[partition].carry_out(Cancel(node.store(partition, "mail")))


def test_a_sweep_goes_in_steps_over_all_partitions_and_counts() -> None:
    node = Node(2)
    cancelled(node, 0, 25)
    node.store(0, "mail")
    cancelled(node, 1, 7)
    assert node.sweep(Sweep("mail", "CANCELLED", "forget", scan=10)) == 32
    assert [len(partition.state) for partition in node.partitions] == [1, 0]
    steps = [sum(isinstance(each, Sweep) for each in part.commands) for part in node.partitions]
    assert steps == [3, 1]
    assert node.sweep(Sweep("mail", "CANCELLED", "forget")) == 0


def test_a_sweep_does_not_run_after_jobs_that_come_meanwhile() -> None:
    node = Node(1)
    (home,) = node.partitions
    cancelled(node, 0, 20)

    def one_more(command: object) -> Swept:
        assert isinstance(command, Sweep)
        swept = HandPartition.carry_out(home, command)
        assert isinstance(swept, Swept)
        cancelled(node, 0, 5)
        return swept

    home.answer = one_more
    assert node.sweep(Sweep("mail", "CANCELLED", "forget", scan=5)) == 20
    assert len(home.state) == 20


def test_a_sweep_needs_every_partition() -> None:
    node = Node(2)
    cancelled(node, 0, 3)
    node.partitions[1].lose()
    assert node.sweep(Sweep("mail", "CANCELLED", "forget")) is problems.PARTITION_DOWN
    assert len(node.partitions[0].state) == 3


def test_a_step_that_was_lost_is_not_taken_again() -> None:
    node = Node(1)
    (home,) = node.partitions
    cancelled(node, 0, 3)
    run = Run(node.listing.sweep(Sweep("mail", "CANCELLED", "retry")))
    home.take()
    home.lose()
    assert run.result is problems.OUTCOME_UNKNOWN


def test_steps_keep_what_was_asked_for() -> None:
    node = Node(1)
    cancelled(node, 0, 12)
    node.sweep(Sweep("mail", "CANCELLED", "retry", scan=5))
    steps = [each for each in node.partitions[0].commands if isinstance(each, Sweep)]
    bare = {msgspec.structs.replace(each, after_number=0, up_to_number=0) for each in steps}
    assert bare == {Sweep("mail", "CANCELLED", "retry", scan=5)}
    assert len(steps) == 3
