"""bench.fleet: several load processes act as one."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import fleet
from bench.errors import BenchError
from bench.fleet import LoadOptions, open_fleet
from bench.measure import Spec, measure, measure_batch_cycle
from bench.messages import Phase
from bench.node import Node
from tests.support.fake_queue import Habits, fake_queue

OPTIONS = LoadOptions(processes=2, payload_bytes=64, seed=1, silence_s=10.0)


class NoDisplay:
    """Shows nothing, remembers the titles."""

    def __init__(self):
        self.titles = []

    def stage(self, title, *, count=None, duration_s=None):
        self.titles.append(title)
        return self

    def __enter__(self):
        return lambda _done: None

    def __exit__(self, *_):
        return None


def node_at(port):
    return Node("127.0.0.1", port, "client_k", "worker_k", None, None, None, None)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 64))
def test_shares_add_up_and_differ_by_one_at_most(whole, many):
    shares = [fleet._share(whole, index, many) for index in range(many)]
    assert sum(shares) == whole
    assert max(shares) - min(shares) <= 1


async def test_two_processes_do_exactly_what_one_was_asked_for():
    progress: list[int] = []
    with trio.fail_after(30):
        async with fake_queue() as queue, open_fleet(node_at(queue.port), 5, OPTIONS) as both:
            result = await both.run(Phase("submit", count=101), progress.append)
    assert result.done == 101
    assert len({payload for _, payload in queue.waiting}) == 101, "each has its own payloads"
    assert queue.connections == 5
    assert progress[-1] == 101


async def test_more_processes_than_connections_are_not_started():
    with trio.fail_after(30):
        async with fake_queue() as queue, open_fleet(node_at(queue.port), 1, OPTIONS) as one:
            await one.run(Phase("bare", count=3), lambda _done: None)
    assert queue.connections == 1


async def test_the_failure_of_one_ends_the_phase_of_all():
    with trio.fail_after(30):
        habits = Habits(garbage=b"what?")
        async with fake_queue(habits) as queue, open_fleet(node_at(queue.port), 4, OPTIONS) as both:
            with pytest.raises(BenchError, match="does not begin"):
                await both.run(Phase("bare", duration_s=60), lambda _done: None)


async def test_lease_keeps_the_number_waiting_and_measures_only_pairs():
    display = NoDisplay()
    spec = Spec("lease", 4, duration_s=0.05, warmup_s=0.0, waiting=30, window=20)
    with trio.fail_after(30):
        async with fake_queue() as queue:
            result = await measure(node_at(queue.port), spec, OPTIONS, display)
    assert len(queue.waiting) == 30 == result.left_behind
    assert result.phase.done % 20 == 0
    assert result.phase.done >= 20
    assert set(result.phase.latencies) == {"lease", "ack", "lease+ack"}
    assert result.seconds >= 0.05
    assert display.titles[0] == "preload 30 jobs"


async def test_a_refused_preload_ends_the_run():
    spec = Spec("cycle", 4, duration_s=1, warmup_s=0.0, waiting=30)
    with trio.fail_after(30):
        async with fake_queue(Habits(refuse_from=10)) as queue:
            with pytest.raises(BenchError, match="preload was refused"):
                await measure(node_at(queue.port), spec, OPTIONS, NoDisplay())


async def test_jobs_left_in_a_running_node_are_counted():
    spec = Spec("submit", 4, duration_s=0.1, warmup_s=0.1)
    with trio.fail_after(30):
        async with fake_queue() as queue:
            result = await measure(node_at(queue.port), spec, OPTIONS, NoDisplay())
    assert result.left_behind == len(queue.waiting) > 0


def batch_cycle(**changes):
    return Spec("batch-cycle", 4, duration_s=0.05, warmup_s=0.0, batch=10, window=200, **changes)


async def test_batch_cycle_measures_the_whole_and_leases_with_acks_alone():
    with trio.fail_after(30):
        async with fake_queue(Habits(lease_at_most=7)) as queue:
            results = await measure_batch_cycle(
                node_at(queue.port), batch_cycle(), OPTIONS, NoDisplay()
            )
    whole, alone = results
    assert not queue.waiting
    assert len(set(queue.acked)) == len(queue.acked)
    assert whole.phase.done == alone.phase.done == len(queue.acked) - 200, "one round of warm-up"
    assert set(whole.phase.latencies) == {"batch", "lease", "ack", "lease+ack"}
    assert set(alone.phase.latencies) == {"lease", "ack", "lease+ack"}
    assert (whole.spec.mode, alone.spec.mode) == ("batch-cycle", "batch-lease")
    assert whole.seconds > max(alone.seconds, 0.05)
    assert whole.per_second < alone.per_second
    assert whole.phase.cpu_s > alone.phase.cpu_s
    assert whole.left_behind == alone.left_behind == 0


@pytest.mark.parametrize(
    ("habits", "what"),
    [
        (Habits(lease_again=True), "leased twice|each once"),
        (Habits(refuse_ack=33), "1 of 10 acks were refused, the first with 409: lease lost"),
        (Habits(refuse_from=3), "the batch was refused"),
        (Habits(refuse_from=22), "the batch-lease was refused"),
    ],
)
async def test_a_batch_cycle_that_does_not_add_up_ends_the_run(habits, what):
    with trio.fail_after(30):
        async with fake_queue(habits) as queue:
            with pytest.raises(BenchError, match=what):
                await measure_batch_cycle(node_at(queue.port), batch_cycle(), OPTIONS, NoDisplay())


async def test_jobs_that_waited_before_are_not_taken_for_those_of_the_batch_cycle():
    with trio.fail_after(30):
        async with fake_queue() as queue, open_fleet(node_at(queue.port), 1, OPTIONS) as one:
            await one.run(Phase("batch", count=1, batch=10), lambda _done: None)
            with pytest.raises(BenchError, match="each once"):
                await measure_batch_cycle(node_at(queue.port), batch_cycle(), OPTIONS, NoDisplay())


async def test_batches_left_in_a_running_node_are_counted_as_jobs():
    spec = Spec("batch", 4, duration_s=0.1, warmup_s=0.1, batch=10)
    with trio.fail_after(30):
        async with fake_queue() as queue:
            result = await measure(node_at(queue.port), spec, OPTIONS, NoDisplay())
    assert result.left_behind == len(queue.waiting) > 0
    assert result.phase.done % 10 == 0
