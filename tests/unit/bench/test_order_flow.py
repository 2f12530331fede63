"""bench.order_flow: which requests are made, and what is written down of them."""

import itertools
import json
import random
import uuid

import pytest

from bench.errors import MalformedAnswerError
from bench.flows import Verdict
from bench.order import History
from bench.order_flow import FILL, OrderFlow
from bench.workloads import Requests, payloads

REQUESTS = Requests("h:1", "client_key", "worker_key", seed=1, payload_bytes=32)
PAYLOAD = payloads(1, 32)[0]
ID = "01890a5d-ac96-774b-bcce-b30209908057"


class Node:
    """Answers at once, in no order of its own."""

    def __init__(self):
        self.waiting = {}

    def answer(self, request):
        head, _, body = request.partition(b"\r\n\r\n")
        path = head.split()[1]
        if path == b"/jobs":
            job_id = str(uuid.uuid4())
            self.waiting[job_id] = json.loads(body)
            return 201, json.dumps({"job_id": job_id}).encode()
        if path == b"/jobs/lease":
            return self._lease(json.loads(body)["max"] if body else None)
        if path == b"/jobs/ack":
            acks = json.loads(body)["acks"]
            return 200, json.dumps({"results": [{"status": 200}] * len(acks)}).encode()
        return 200, b""

    def _lease(self, most):
        jobs: list[dict[str, object]] = []
        while self.waiting and len(jobs) < (most or 1):
            job_id, job = self.waiting.popitem()
            lease = {"lease_until": "2025-12-26T10:30:00Z", "attempt": 1, "lease_token": "4"}
            jobs.append({"job_id": job_id, "payload": job["payload"], **lease})
        if not jobs:
            return 404, b"{}"
        return 200, json.dumps({"jobs": jobs} if most else jobs[0]).encode()


def flow_of(history, *, waiting, batch=1, priorities=2):
    clock_ns = itertools.count().__next__
    return OrderFlow(
        REQUESTS,
        random.Random(7),
        history,
        clock_ns,
        priorities=priorities,
        waiting=waiting,
        batch=batch,
    )


def run_unit(flow, node):
    step = flow.begin()
    while isinstance(step, bytes):
        step = flow.answer(*node.answer(step))
        if step is Verdict.EMPTY:
            step = flow.again()
    assert step is Verdict.DONE


def test_to_fill_is_to_submit_jobs_of_every_priority():
    node, history = Node(), History()
    flow = flow_of(history, waiting=FILL)
    for _ in range(200):
        run_unit(flow, node)
        assert (flow.unit, flow.jobs) == ("submit", 1)
    assert history.waiting == len(node.waiting) == 200
    assert {job["priority"] for job in node.waiting.values()} == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("batch", [1, 10])
def test_about_so_many_jobs_wait_as_are_to(batch):
    node, history = Node(), History()
    flow = flow_of(history, waiting=500, batch=batch)
    counts = []
    for turn in range(20_000):
        run_unit(flow, node)
        if turn > 10_000:
            counts.append(history.waiting)
    assert history.waiting == len(node.waiting)
    assert 400 < sum(counts) / len(counts) < 600


@pytest.mark.parametrize("batch", [1, 10])
def test_a_lease_is_acked_and_counts_its_jobs(batch):
    node, history = Node(), History()
    for _ in range(30):
        run_unit(flow_of(history, waiting=FILL), node)
    flow = flow_of(history, waiting=1, batch=batch)
    flow.again()
    step = flow.answer(*node.answer(flow.again()))
    assert flow.operation == "ack"
    assert flow.jobs == batch
    assert flow.answer(*node.answer(step)) is Verdict.DONE
    assert history.judge(0).leases == batch


def test_times_are_taken_around_each_request():
    node, history = Node(), History()
    fill = flow_of(history, waiting=FILL, priorities=0)
    run_unit(fill, node)  # sent at 0, answered at 1
    (job_id,) = node.waiting
    expected = History()
    expected.submitted(job_id, 0, 0, 1)
    assert history.__dict__ == expected.__dict__


def test_an_empty_lease_is_asked_again_and_refusals_end_the_unit():
    flow = flow_of(History(), waiting=10)
    flow.again()
    assert flow.answer(404, b"{}") is Verdict.EMPTY
    assert flow.answer(503, b"{}") is Verdict.REFUSED
    flow = flow_of(History(), waiting=FILL)
    flow.begin()
    assert flow.answer(503, b"{}") is Verdict.REFUSED


def test_an_answer_that_is_none_stops_the_run():
    flow = flow_of(History(), waiting=FILL)
    flow.begin()
    with pytest.raises(MalformedAnswerError, match="job_id"):
        flow.answer(201, b"{}")
    flow = flow_of(History(), waiting=10, batch=2)
    flow.again()
    lease = {"payload": PAYLOAD, "lease_token": "4"}
    three = {"jobs": [{"job_id": f"{number}{ID[1:]}", **lease} for number in range(3)]}
    with pytest.raises(MalformedAnswerError, match="up to 2 gave 3"):
        flow.answer(200, json.dumps(three).encode())
