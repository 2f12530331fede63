"""An idempotency key is one job's, with whatever groups it is used."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import pytest

from partitions.disk import RealDisk
from tests.support import quick_sweep
from tests.support.contract import DONE, Answer, Http, job, new_name
from tests.support.hand_node import opened
from tests.support.keyed import Keyed
from tests.support.node import RunningNode
from tests.support.polling import wait_until


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    with RunningNode(tmp_path_factory.mktemp("node"), {"PARTITIONS": "4"}) as node:
        yield Http(node)


def submit(http: Http, queue: str, key: str, group: str) -> Answer:
    fields: dict[str, Any] = {"group": group} if group else {}
    return http.submit(queue, idempotency_key=key, **fields)


def hold(http: Http, queue: str, first: dict[str, tuple[str, str]]) -> None:
    """Each key is its first job's: ``{key: (group, job id)}``."""
    for key, (own, job_id) in first.items():
        for group in ("", "a", "b"):
            answer = submit(http, queue, key, group)
            if group == own:
                assert (answer.status, answer.json["job_id"]) == (200, job_id)
            else:
                assert answer.status == 422, answer
                fields = {"group": group} if group else {}
                batch = [job(queue), job(queue, idempotency_key=key, **fields)]
                assert http.submit_batch(batch).status == 422


def test_the_first_submit_has_the_key_in_every_order_and_over_restarts(http: Http):
    queue = new_name()
    first = {}
    for number, order in enumerate([*permutations(("", "a", "b"))] * 3):
        key = f"k{number}"
        answers = [submit(http, queue, key, group) for group in order]
        assert [answer.status for answer in answers] == [201, 422, 422]
        first[key] = (order[0], answers[0].json["job_id"])
    hold(http, queue, first)
    http.node.kill()
    http.node.start()
    hold(http, queue, first)
    http.node.stop(signal.SIGTERM)
    http.node.start()
    hold(http, queue, first)
    assert sum(http.counts(queue).values()) == len(first)


def test_of_many_at_once_exactly_one_makes_a_job(http: Http):
    queue = new_name()
    with ThreadPoolExecutor(12) as pool:
        for number in range(10):
            groups = ("", "a", "b", "c") * 3
            submits = [pool.submit(submit, http, queue, f"n{number}", each) for each in groups]
            answers = [each.result() for each in submits]
            statuses = [answer.status for answer in answers]
            assert statuses.count(201) == 1, statuses
            assert set(statuses) <= {200, 201, 422, 503}
            assert sum(http.counts(queue).values()) == number + 1


def test_keys_of_jobs_that_are_gone_are_let_go_without_anybody_asking_and_others_are_kept(
    tmp_path: Path,
):
    home, partition, queue = 0, 1, "default"
    forgetful = {"RETENTION": "100ms", "DEAD_RETENTION": "100ms"}
    with RunningNode(tmp_path, forgetful, quick_sweep.COMMAND) as node:
        http, keyed = Http(node), Keyed(node, 2)
        group, another = islice(keyed.groups_of(partition, queue), 2)
        keys = list(islice(keyed.keys_of(home, queue), 4))
        answers = [submit(http, queue, key, group) for key in keys]
        assert [answer.status for answer in answers] == [201] * 4
        job_ids = [answer.json["job_id"] for answer in answers]
        http.acked(http.leased(queue))
        assert {http.cancel(each).status for each in job_ids[1:3]} <= {*DONE}
        assert http.delete(job_ids[2]).status in (*DONE, 404)
        *gone, kept = keys

        def let_go() -> list[str]:
            # Named once by its claim, once more by the end of it.
            return [key for key in keys if keyed.times_logged(queue, key, home) > 1]

        wait_until(lambda: let_go() == gone, what=f"the end of the claims of {gone}")
        assert http.listed(queue=queue) == job_ids[3:]
        for key in gone:
            assert submit(http, queue, key, another).status == 201
        again = submit(http, queue, kept, group)
        assert (again.status, again.json["job_id"]) == (200, job_ids[3])
        hold(http, queue, {kept: (group, job_ids[3])})
        assert node.stop() == 0
    state = opened(RealDisk(), node.data, home, 2).state
    assert state.jobs.claims.keys() == {keyed.key_id(queue, key) for key in keys}
