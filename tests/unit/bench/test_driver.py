"""bench.driver: real sockets against a small node that can misbehave."""

import os
from contextlib import contextmanager

import pytest
import trio
import trio.lowlevel

from bench.driver import Abandoned, Driver
from bench.errors import BenchError, MalformedAnswerError
from bench.histogram import highest_in
from bench.messages import Phase, Plan
from tests.support.fake_queue import Habits, fake_queue

SAME_ID = "01890a5d-ac96-774b-bcce-b30209908057"


@contextmanager
def driver_for(queue, *, connections=4, silence_s=10.0, payload_bytes=64, report=None):
    """A driver and the far end of its input."""
    stop_fd, far_end = os.pipe()
    plan = Plan(
        "127.0.0.1", queue.port, "client_k", "worker_k", connections, 1, payload_bytes, silence_s
    )
    driver = Driver(plan, stop_fd, report or (lambda _done: None))
    try:
        yield driver, far_end
    finally:
        driver.close()
        os.close(stop_fd)
        os.close(far_end)


async def run(driver, phase):
    with trio.fail_after(20):
        return await trio.to_thread.run_sync(driver.run, phase, abandon_on_cancel=True)


async def test_a_counted_phase_does_exactly_so_many():
    async with fake_queue() as queue:
        with driver_for(queue) as (driver, _):
            result = await run(driver, Phase("submit", count=101))
    assert (result.done, result.done_late, result.refused) == (101, 0, {})
    assert len(queue.waiting) == 101
    assert len(result.latencies["submit"]) == 101
    assert result.ended_ns > result.started_ns


async def test_a_timed_phase_ends_with_every_answer_read():
    async with fake_queue() as queue:
        with driver_for(queue) as (driver, _):
            result = await run(driver, Phase("submit", duration_s=0.2))
    assert result.done > 0
    assert result.done + result.done_late == len(queue.waiting) == queue.requests
    assert result.ended_ns - result.started_ns == 200_000_000


async def test_a_cycle_acks_what_it_leases_and_times_each_request():
    async with fake_queue() as queue:
        with driver_for(queue) as (driver, _):
            result = await run(driver, Phase("cycle", count=50))
    assert result.done == 50
    assert len(set(queue.acked)) == 50
    assert not queue.waiting
    counts = {name: len(latencies) for name, latencies in result.latencies.items()}
    assert counts == {"submit": 50, "lease": 50, "ack": 50, "cycle": 50}


async def test_batches_count_their_jobs_and_time_their_requests():
    async with fake_queue() as queue:
        with driver_for(queue) as (driver, _):
            result = await run(driver, Phase("batch", count=12, batch=25))
    assert result.done == len(queue.waiting) == 300
    assert queue.requests == len(result.latencies["batch"]) == 12
    assert len({payload for _, payload in queue.waiting}) == 300
    assert result.submitted_sum
    assert result.leased_sum == 0


@pytest.mark.parametrize("at_most", [1_000, 10, 7, 1])
async def test_batches_are_leased_whole_however_few_come_at_once(at_most):
    async with fake_queue(Habits(lease_at_most=at_most)) as queue:
        with driver_for(queue) as (driver, _):
            submitted = await run(driver, Phase("batch", count=10, batch=20))
            result = await run(driver, Phase("batch-lease", count=10, batch=20))
    assert (result.done, result.refused) == (200, {})
    assert len(queue.acked) == len(set(queue.acked)) == 200
    assert len(result.latencies["lease+ack"]) == 10
    assert len(result.latencies["lease"]) == len(result.latencies["ack"])
    assert max(queue.leases_asked) == 20
    assert submitted.submitted_sum == result.leased_sum


async def test_an_answer_larger_than_one_read_is_put_together():
    async with fake_queue() as queue:
        with driver_for(queue, connections=2, payload_bytes=4_000) as (driver, _):
            await run(driver, Phase("batch", count=4, batch=100))
            result = await run(driver, Phase("batch-lease", count=4, batch=100))
    assert result.done == len(set(queue.acked)) == 400


async def test_a_refused_batch_is_one_refusal_and_no_jobs():
    async with fake_queue(Habits(refuse_from=4, refuse_status=507)) as queue:
        with driver_for(queue) as (driver, _):
            result = await run(driver, Phase("batch", count=5, batch=10))
    assert (result.done, result.refused) == (30, {"batch 507": 2})


async def test_phases_follow_each_other_on_the_same_connections():
    async with fake_queue() as queue:
        with driver_for(queue, connections=3) as (driver, _):
            await run(driver, Phase("submit", count=20))
            result = await run(driver, Phase("lease", count=20))
            bare = await run(driver, Phase("bare", count=5))
    assert (result.done, bare.done) == (20, 5)
    assert queue.connections == 3


async def test_answers_in_single_bytes_are_read():
    async with fake_queue(Habits(bytewise=True)) as queue:
        with driver_for(queue, connections=2) as (driver, _):
            result = await run(driver, Phase("cycle", count=3))
    assert result.done == 3


async def test_a_request_larger_than_the_socket_takes_is_sent_whole():
    async with fake_queue() as queue:
        with driver_for(queue, connections=3, payload_bytes=1 << 20) as (driver, _):
            result = await run(driver, Phase("submit", count=12))
    assert result.done == 12
    assert {len(payload) for _, payload in queue.waiting} == {1 << 20}


async def test_refusals_are_counted_by_status_and_never_as_jobs():
    async with fake_queue(Habits(refuse_from=11, refuse_status=507)) as queue:
        with driver_for(queue) as (driver, _):
            result = await run(driver, Phase("submit", count=30))
    assert result.done == 10
    assert result.refused == {"submit 507": 20}
    assert "not now" in result.examples["submit 507"]
    assert len(result.latencies["submit"]) == 10


async def test_a_closed_connection_is_an_error_and_is_replaced():
    async with fake_queue(Habits(hang_up_request=5)) as queue:
        with driver_for(queue, connections=2) as (driver, _):
            result = await run(driver, Phase("submit", count=20))
    assert result.refused == {"submit connection closed": 1}
    assert result.done == 19
    assert queue.connections == 3


async def test_an_answer_that_closes_counts_and_the_connection_is_replaced():
    async with fake_queue(Habits(close_after_request=5)) as queue:
        with driver_for(queue, connections=2) as (driver, _):
            result = await run(driver, Phase("submit", count=20))
    assert (result.done, result.refused) == (20, {})
    assert queue.connections == 3


async def test_a_repeated_id_stops_the_run():
    async with fake_queue(Habits(same_id=SAME_ID)) as queue:
        with driver_for(queue) as (driver, _), pytest.raises(MalformedAnswerError, match="same id"):
            await run(driver, Phase("submit", count=20))


async def test_bytes_that_are_no_answer_stop_the_run():
    async with fake_queue(Habits(garbage=b"SSH-2.0-OpenSSH\r\n")) as queue:
        with (
            driver_for(queue) as (driver, _),
            pytest.raises(MalformedAnswerError, match="does not begin"),
        ):
            await run(driver, Phase("bare", count=1))


async def test_a_node_that_never_answers_is_given_up():
    async with fake_queue(Habits(never_answer=True)) as queue:
        with (
            driver_for(queue, silence_s=0.3) as (driver, _),
            pytest.raises(BenchError, match="with 4 requests in flight"),
        ):
            await run(driver, Phase("bare", count=10))


async def test_a_queue_that_stays_empty_is_given_up():
    async with fake_queue() as queue:
        with (
            driver_for(queue, silence_s=0.3) as (driver, _),
            pytest.raises(BenchError, match="no progress"),
        ):
            await run(driver, Phase("lease", count=1))
    assert queue.requests > 1


async def test_the_end_of_input_abandons_a_phase():
    async with fake_queue(Habits(never_answer=True)) as queue:
        with driver_for(queue) as (driver, far_end):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_abandoned, driver)
                while not queue.requests:
                    await trio.lowlevel.checkpoint()
                os.write(far_end, b"x")
    assert queue.requests


async def expect_abandoned(driver):
    with pytest.raises(Abandoned):
        await run(driver, Phase("bare", count=10))


async def test_nobody_listening_is_said_clearly():
    async with fake_queue() as queue:
        pass
    with pytest.raises(BenchError, match=f"cannot connect to .*:{queue.port}"), driver_for(queue):
        pass


async def test_an_open_loop_starts_what_was_planned():
    async with fake_queue() as queue:
        with driver_for(queue) as (driver, _):
            result = await run(driver, Phase("submit", duration_s=0.5, rate=200))
    # The last planned start may find that the time is over.
    planned = result.done + result.done_late + result.never_sent
    assert planned == len(result.latencies["submit"]) == 100


async def test_a_stall_is_charged_to_every_start_that_it_delayed():
    # One connection, a start every 5 ms, and the node sleeps 400 ms over the first: the 80
    # starts planned meanwhile waited 400 ms down to 5 ms, so more than 50 over 100 ms. A
    # generator that waits politely would report a single slow request.
    async with fake_queue(Habits(stall_request=1, stall_s=0.4)) as queue:
        with driver_for(queue, connections=1) as (driver, _):
            result = await run(driver, Phase("submit", duration_s=0.6, rate=200))
    latencies = result.latencies["submit"]
    slow = sum(count for bucket, count in latencies.counts.items() if bucket_floor(bucket) > 1e8)
    assert slow > 50


async def test_starts_that_never_found_a_connection_are_in_the_latencies():
    async with fake_queue(Habits(stall_request=1, stall_s=0.5)) as queue:
        with driver_for(queue, connections=1) as (driver, _):
            result = await run(driver, Phase("submit", duration_s=0.2, rate=100))
    assert result.never_sent == 19
    assert len(result.latencies["submit"]) == 20
    assert result.latencies["submit"].quantile(0.01) >= 0.3e9


async def test_progress_is_reported_while_it_runs():
    seen: list[int] = []
    async with fake_queue() as queue:
        with driver_for(queue, report=seen.append) as (driver, _):
            result = await run(driver, Phase("submit", duration_s=0.7))
    assert len(seen) >= 2
    assert seen == sorted(seen)
    assert seen[-1] <= result.done


def bucket_floor(bucket):
    """The largest value below ``bucket``."""
    return highest_in(bucket - 1) if bucket else -1
