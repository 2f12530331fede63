"""bench.flows: which answers count, and what is asked next."""

import itertools
import json

import pytest

from bench.errors import MalformedAnswerError
from bench.flows import Cycle, Pair, SampledIds, Submit, Verdict, make_flows
from bench.workloads import Requests, payloads

JOB_ID = "01890a5d-ac96-774b-bcce-b30209908057"  # its sampled digit is 0
OTHER_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
REQUESTS = Requests("h:1", "client_key", "worker_key", seed=1, payload_bytes=32)
PAYLOAD = payloads(1, 32)[0]


def submitted(job_id=JOB_ID):
    return json.dumps({"job_id": job_id}).encode()


def leased(**changes):
    lease = {
        "job_id": JOB_ID,
        "payload": PAYLOAD,
        "lease_until": "2025-12-26T10:30:00Z",
        "attempt": 1,
        "lease_token": "42",
    }
    lease |= changes
    return json.dumps({name: value for name, value in lease.items() if value != ""}).encode()


def submit_flow():
    return Submit(itertools.cycle(REQUESTS.submits), SampledIds())


@pytest.mark.parametrize("status", [200, 202, 400, 401, 429, 500, 503, 507])
def test_only_201_counts_as_a_submit(status):
    assert submit_flow().answer(status, submitted()) is Verdict.REFUSED


def test_a_201_with_an_id_is_a_job():
    assert submit_flow().answer(201, submitted()) is Verdict.DONE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        submitted()[:-1],
        b'{"job_id":1}',
        b'{"job_id":"short"}',
        b'{"error":"no"}',
        b'{"job_id":"' + JOB_ID.encode() + b'","more":1}',
    ],
)
def test_a_201_with_anything_else_stops_the_run(body):
    with pytest.raises(MalformedAnswerError, match="job_id"):
        submit_flow().answer(201, body)


def test_an_id_that_comes_twice_stops_the_run():
    flow = submit_flow()
    flow.answer(201, submitted())
    with pytest.raises(MalformedAnswerError, match="same id"):
        flow.answer(201, submitted())


def test_ids_outside_of_the_sample_are_not_kept():
    ids = SampledIds()
    ids.check(OTHER_ID)
    ids.check(OTHER_ID)
    assert len(ids) == 0


def test_a_pair_leases_then_acks_the_job_that_it_got():
    flow = Pair(REQUESTS)
    assert flow.begin() == REQUESTS.lease
    assert flow.answer(200, leased()) == REQUESTS.ack(JOB_ID, "42")
    assert flow.operation == "ack"
    assert flow.answer(200, b"") is Verdict.DONE
    assert flow.begin() == REQUESTS.lease
    assert flow.operation == "lease"


def test_a_lease_without_a_token_is_acked_without_one():
    flow = Pair(REQUESTS)
    flow.begin()
    assert flow.answer(200, leased(lease_token="")) == REQUESTS.ack(JOB_ID, None)


def test_an_empty_queue_is_no_error():
    flow = Pair(REQUESTS)
    flow.begin()
    assert flow.answer(404, b'{"error":"no jobs available"}') is Verdict.EMPTY
    assert flow.again() == REQUESTS.lease


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "without a job"),
        (leased(lease_until=""), "without a job"),
        (leased(job_id="short"), "no possible job"),
        (leased(attempt=0), "no possible job"),
        (leased(payload="charge the customer"), "real work"),
    ],
)
def test_a_lease_that_is_not_of_our_job_stops_the_run(body, what):
    flow = Pair(REQUESTS)
    flow.begin()
    with pytest.raises(MalformedAnswerError, match=what):
        flow.answer(200, body)


def test_an_ack_that_was_refused_is_not_a_pair():
    flow = Pair(REQUESTS)
    flow.begin()
    flow.answer(200, leased())
    assert flow.answer(409, b'{"error":"lease lost"}') is Verdict.REFUSED


def test_an_ack_with_a_body_stops_the_run():
    flow = Pair(REQUESTS)
    flow.begin()
    flow.answer(200, leased())
    with pytest.raises(MalformedAnswerError, match="body"):
        flow.answer(200, b"{}")


def test_a_cycle_is_submit_lease_ack():
    flow = Cycle(REQUESTS, itertools.cycle(REQUESTS.submits), SampledIds())
    assert flow.begin() == REQUESTS.submits[0]
    assert flow.operation == "submit"
    assert flow.answer(201, submitted()) == REQUESTS.lease
    assert flow.operation == "lease"
    assert flow.answer(404, b"") is Verdict.EMPTY
    assert flow.again() == REQUESTS.lease
    assert flow.answer(200, leased()) == REQUESTS.ack(JOB_ID, "42")
    assert flow.operation == "ack"
    assert flow.answer(200, b"") is Verdict.DONE
    assert flow.begin() == REQUESTS.submits[1]


def test_a_cycle_whose_submit_was_refused_leases_nothing():
    flow = Cycle(REQUESTS, itertools.cycle(REQUESTS.submits), SampledIds())
    flow.begin()
    assert flow.answer(507, b'{"error":"storage full"}') is Verdict.REFUSED


def test_bare_wants_ok():
    flow = make_flows("bare", REQUESTS, SampledIds(), 0)()
    assert flow.begin() == REQUESTS.bare
    assert flow.answer(200, b"OK") is Verdict.DONE
    assert flow.answer(503, b"") is Verdict.REFUSED
    with pytest.raises(MalformedAnswerError, match="OK"):
        flow.answer(200, b"<html>")


def test_flows_of_one_process_share_the_round_of_payloads():
    make = make_flows("submit", REQUESTS, SampledIds(), 5)
    assert [make().begin(), make().begin()] == REQUESTS.submits[5:7]
