"""An idempotency key is one job's, with whatever groups it is used."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Any

import pytest

from tests.support.contract import Answer, Http, job, new_name
from tests.support.node import RunningNode


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
