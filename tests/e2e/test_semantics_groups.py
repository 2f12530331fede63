"""Jobs of a group run one at a time, in the order of their submission."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.contract import DONE, Http, ids, job, new_name
from tests.support.node import RunningNode


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    environment = {"LEASE_DURATION": "1h", "RETRY_BACKOFF": "50ms"}
    with RunningNode(tmp_path_factory.mktemp("node"), environment) as node:
        yield Http(node)


@pytest.fixture
def queue() -> str:
    return new_name()


def submitted_group(http: Http, queue: str, size: int, group: str = "g") -> list[str]:
    return [http.submitted(queue, group=group) for _ in range(size)]


def test_one_at_a_time_and_in_order(http: Http, queue: str):
    job_ids = submitted_group(http, queue, 5)
    for job_id in job_ids:
        lease = http.polled(queue)
        assert lease["job_id"] == job_id
        assert http.nothing_to_lease(queue)
        assert http.lease(queue, max=10).status == 404
        http.acked(lease)
    assert http.counts(queue) == {"ACKED": 5}


def test_a_group_of_a_batch_is_in_the_batchs_order(http: Http, queue: str):
    job_ids = http.submitted_batch([job(queue, group="g") for _ in range(20)])
    done = []
    for _ in job_ids:
        (lease,) = http.polled(queue, max=10)["jobs"]
        http.acked(lease)
        done.append(lease["job_id"])
    assert done == job_ids


def test_priority_counts_for_nothing_inside_a_group(http: Http, queue: str):
    job_ids = [http.submitted(queue, group="g", priority=n) for n in (-100, 0, 100)]
    for job_id in job_ids:
        lease = http.polled(queue)
        assert lease["job_id"] == job_id
        http.acked(lease)


def test_groups_run_beside_each_other(http: Http, queue: str):
    groups = [submitted_group(http, queue, 3, f"g{n}") for n in range(8)]
    for turn in range(3):
        leases = http.drained(queue)
        assert sorted(ids(leases)) == sorted(group[turn] for group in groups)
        for lease in leases:
            http.acked(lease)
    assert http.counts(queue) == {"ACKED": 24}


def test_a_job_of_no_group_waits_for_none(http: Http, queue: str):
    first, _ = submitted_group(http, queue, 2)
    alone = [http.submitted(queue), http.submitted(queue)]
    assert sorted(ids(http.drained(queue))) == sorted([first, *alone])


def test_every_queue_has_groups_of_its_own(http: Http, queue: str):
    other = new_name()
    in_this = submitted_group(http, queue, 2)
    in_other = submitted_group(http, other, 2)
    assert ids(http.drained(queue)) == in_this[:1]
    assert ids(http.drained(other)) == in_other[:1]


def test_the_order_holds_across_retries(http: Http, queue: str):
    first, second = submitted_group(http, queue, 2)
    for attempt in (1, 2):
        lease = http.polled(queue)
        assert (lease["job_id"], lease["attempt"]) == (first, attempt)
        http.failed(lease)
    lease = http.polled(queue)
    assert (lease["job_id"], lease["attempt"]) == (first, 3)
    http.acked(lease)
    assert http.polled(queue)["job_id"] == second


def test_the_order_holds_when_a_worker_dies(http: Http, queue: str):
    first, second = submitted_group(http, queue, 2)
    assert http.leased(queue, lease_duration="200ms")["job_id"] == first
    lease = http.polled(queue)
    assert (lease["job_id"], lease["attempt"]) == (first, 2)
    http.acked(lease)
    assert http.polled(queue)["job_id"] == second


def test_a_dead_job_lets_the_next_go_on(http: Http, queue: str):
    first, second, third = submitted_group(http, queue, 3)
    lease = http.polled(queue)
    assert lease["job_id"] == first
    http.failed(lease, retry=False)
    lease = http.polled(queue)
    assert lease["job_id"] == second
    http.failed(lease, retry=False)
    assert http.polled(queue)["job_id"] == third
    assert http.state(first) == http.state(second) == "DEAD"


def test_an_expired_job_lets_the_next_go_on(http: Http, queue: str):
    first = http.submitted(queue, group="g", delay="1h", ttl="200ms")
    second = http.submitted(queue, group="g")
    assert http.polled(queue)["job_id"] == second
    assert http.job(first)["result_error"] == "expired"


def delayed(http: Http, queue: str) -> str:
    return http.submitted(queue, group="g", delay="1h")


def retrying(http: Http, queue: str) -> str:
    lease = http.submitted_and_leased(queue, group="g")
    http.failed(lease, retry_in="1h")
    return str(lease["job_id"])


def released(http: Http, queue: str) -> str:
    lease = http.submitted_and_leased(queue, group="g")
    assert http.release(lease, delay="1h").status in DONE
    return str(lease["job_id"])


@pytest.mark.parametrize("held_back", [delayed, retrying, released])
def test_a_first_job_that_is_not_due_holds_back_the_rest(
    http: Http, queue: str, held_back: Callable[[Http, str], str]
):
    first = held_back(http, queue)
    second, third = submitted_group(http, queue, 2)
    assert http.nothing_to_lease(queue)
    assert http.lease(queue, max=10).status == 404
    # Cancelled, it holds back nobody any more.
    assert http.cancel(first).status in DONE
    assert ids(http.drained(queue)) == [second]
    assert http.state(third) == "READY"


def test_a_first_job_that_becomes_due_is_the_first(http: Http, queue: str):
    first = http.submitted(queue, group="g", delay="300ms")
    second = http.submitted(queue, group="g")
    lease = http.polled(queue)
    assert lease["job_id"] == first
    http.acked(lease)
    assert http.polled(queue)["job_id"] == second


def test_a_released_first_job_is_first_again(http: Http, queue: str):
    first, _ = submitted_group(http, queue, 2)
    lease = http.leased(queue)
    assert http.release(lease).status in DONE
    lease = http.polled(queue)
    assert (lease["job_id"], lease["attempt"]) == (first, 1)


def test_a_waiting_job_of_a_group_can_be_cancelled(http: Http, queue: str):
    first, second, third = submitted_group(http, queue, 3)
    assert http.cancel(second).status in DONE
    lease = http.polled(queue)
    assert lease["job_id"] == first
    http.acked(lease)
    assert http.polled(queue)["job_id"] == third


def test_many_workers_never_run_two_of_a_group(http: Http, queue: str):
    jobs = [job(queue, group=f"g{n % 7}", payload=f"{n}") for n in range(140)]
    http.submitted_batch(jobs)
    done: dict[int, list[int]] = {}
    while leases := http.drained(queue, most=3):
        groups = [int(lease["payload"]) % 7 for lease in leases]
        assert len(set(groups)) == len(groups)
        for lease in leases:
            number = int(lease["payload"])
            done.setdefault(number % 7, []).append(number)
            http.acked(lease)
    assert done == {group: list(range(group, 140, 7)) for group in range(7)}


# Last, because it stops the node ------------------------------------------------------------


def test_the_order_holds_over_a_restart(http: Http, queue: str):
    first, second, third = submitted_group(http, queue, 3)
    lease = http.leased(queue)
    assert lease["job_id"] == first
    http.node.restart()
    assert http.nothing_to_lease(queue)
    http.acked(lease)
    assert http.polled(queue)["job_id"] == second
    assert http.state(third) == "READY"
