"""bench.flows: which answers count, and what is asked next."""

import itertools
import json
import uuid

import pytest

from bench.errors import MalformedAnswerError
from bench.flows import (
    Batch,
    BatchPair,
    Cycle,
    Pair,
    SampledIds,
    Submit,
    Turnover,
    Verdict,
    make_flows,
)
from bench.messages import IDS_MODULUS, PhaseResult
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


# Batches ------------------------------------------------------------------------------

IDS = [str(uuid.UUID(int=(number + 1) << 64 | number * 7919)) for number in range(6)]


def batch_submitted(ids):
    return json.dumps({"job_ids": ids}).encode()


def batch_leased(ids, **changes):
    jobs = [
        {"job_id": job_id, "payload": PAYLOAD, "lease_token": "4", "queue": "default"} | changes
        for job_id in ids
    ]
    return json.dumps({"jobs": jobs}).encode()


def acked(*statuses):
    return json.dumps({"results": [{"status": status} for status in statuses]}).encode()


def batch_flow(jobs, turnover=None):
    requests = itertools.cycle(REQUESTS.batches(jobs))
    return Batch(requests, jobs, SampledIds(), turnover or Turnover())


def test_a_batch_counts_as_its_jobs():
    flow = batch_flow(3)
    assert flow.begin() == REQUESTS.batches(3)[0]
    assert flow.answer(201, batch_submitted(IDS[:3])) is Verdict.DONE
    assert flow.jobs == 3
    assert flow.begin() == REQUESTS.batches(3)[1]


@pytest.mark.parametrize("status", [200, 207, 400, 413, 422, 429, 503, 507])
def test_only_201_counts_as_a_batch(status):
    assert batch_flow(3).answer(status, batch_submitted(IDS[:3])) is Verdict.REFUSED


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "without job_ids"),
        (b'{"job_ids":["' + IDS[0].encode(), "without job_ids"),
        (b'{"job_ids":[1,2,3]}', "without job_ids"),
        (b'{"job_ids":[],"results":[]}', "without job_ids"),
        (batch_submitted([]), "given 0"),
        (batch_submitted(IDS[:2]), "given 2"),
        (batch_submitted(IDS[:4]), "given 4"),
        (batch_submitted([*IDS[:2], "short"]), "no job ids"),
        (batch_submitted([*IDS[:2], IDS[2][:-1]]), "job ids|36 characters"),
        (batch_submitted([*IDS[:2], IDS[2][:-1] + "g"]), "no job ids"),
        (batch_submitted([*IDS[:2], IDS[2].replace("-", "0")]), "36 characters"),
        (batch_submitted([*IDS[:2], IDS[0]]), f"same id: {IDS[0]}"),
    ],
)
def test_a_batch_without_an_id_for_each_job_stops_the_run(body, what):
    with pytest.raises(MalformedAnswerError, match=what):
        batch_flow(3).answer(201, body)


def test_an_id_of_an_earlier_batch_stops_the_run():
    flow = batch_flow(1)
    flow.answer(201, batch_submitted([JOB_ID]))
    with pytest.raises(MalformedAnswerError, match="same id"):
        flow.answer(201, batch_submitted([JOB_ID]))


def test_a_batch_of_leases_is_acked_in_one_request():
    flow = BatchPair(REQUESTS, 3, Turnover())
    assert flow.begin() == REQUESTS.lease_up_to(3)
    step = flow.answer(200, batch_leased(IDS[:3]))
    assert step == REQUESTS.ack_all((job_id, "4") for job_id in IDS[:3])
    assert flow.operation == "ack"
    assert flow.answer(200, acked(200, 200, 200)) is Verdict.DONE
    assert flow.jobs == 3


def test_fewer_leases_than_asked_for_are_followed_by_the_rest():
    flow = BatchPair(REQUESTS, 5, Turnover())
    flow.begin()
    flow.answer(200, batch_leased(IDS[:2]))
    assert flow.answer(200, acked(200, 200)) == REQUESTS.lease_up_to(3)
    assert flow.operation == "lease"
    assert flow.answer(404, b"") is Verdict.EMPTY
    assert flow.again() == REQUESTS.lease_up_to(3)
    flow.answer(200, batch_leased(IDS[2:5]))
    assert flow.answer(200, acked(200, 200, 200)) is Verdict.DONE
    assert flow.begin() == REQUESTS.lease_up_to(5)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "without jobs"),
        (leased(), "without jobs"),
        (batch_leased(IDS[:1], lease_token=4), "without jobs"),
        (batch_leased(IDS[:1], lease_token='4"'), "is digits"),
        (batch_leased(IDS[:1], lease_token="\u0664"), "is digits"),
        (batch_leased(IDS[:1], lease_token=""), "is digits"),
        (batch_leased([]), "up to 3 jobs gave 0"),
        (batch_leased(IDS[:4]), "up to 3 jobs gave 4"),
        (batch_leased(["short"]), "no job ids"),
        (batch_leased(IDS[:1], payload="charge the customer"), "real work"),
        (batch_leased([IDS[0], IDS[0]]), f"{IDS[0]} was leased twice"),
    ],
)
def test_leases_that_are_not_of_our_jobs_stop_the_run(body, what):
    flow = BatchPair(REQUESTS, 3, Turnover())
    flow.begin()
    with pytest.raises(MalformedAnswerError, match=what):
        flow.answer(200, body)


def test_a_job_that_another_connection_leased_before_stops_the_run():
    make = make_flows("batch-lease", REQUESTS, SampledIds(), 0, 2, Turnover())
    one, other = make(), make()
    one.answer(200, batch_leased(IDS[:2]))
    with pytest.raises(MalformedAnswerError, match=f"{IDS[1]} was leased twice"):
        other.answer(200, batch_leased(IDS[1:3]))


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "without results"),
        (b"{}", "without results"),
        (acked(200), "2 acks were given 1"),
        (acked(200, 200, 200), "2 acks were given 3"),
        (acked(200, 409), "1 of 2 acks were refused, the first with 409"),
    ],
)
def test_acks_that_do_not_all_succeed_stop_the_run(body, what):
    flow = BatchPair(REQUESTS, 2, Turnover())
    flow.begin()
    flow.answer(200, batch_leased(IDS[:2]))
    with pytest.raises(MalformedAnswerError, match=what):
        flow.answer(200, body)


@pytest.mark.parametrize("status", [400, 409, 503])
def test_a_refused_request_ends_the_pair_of_batches(status):
    flow = BatchPair(REQUESTS, 2, Turnover())
    flow.begin()
    assert flow.answer(status, b"") is Verdict.REFUSED
    flow.begin()
    flow.answer(200, batch_leased(IDS[:2]))
    assert flow.answer(status, b"") is Verdict.REFUSED


def sums_of(submitted, leased):
    """What two load processes make of batches, together."""
    total = PhaseResult(0, 0)
    for ids, method in ((submitted, Turnover.submitted), (leased, Turnover.leased)):
        for first in range(0, len(ids), 2):
            turnover = Turnover()
            method(turnover, ids[first : first + 2])
            result = PhaseResult(0, 0)
            result.submitted_sum, result.leased_sum = turnover.sums()
            total.extend(result)
    return total.submitted_sum, total.leased_sum


def test_sums_are_the_same_when_every_job_is_leased_once_in_whatever_order():
    submitted, leased = sums_of(IDS, IDS[::-1])
    assert submitted == leased == sum(uuid.UUID(each).int for each in IDS) % IDS_MODULUS


def test_sums_differ_when_another_process_leased_a_job_in_place_of_another():
    submitted, leased = sums_of(IDS, [*IDS[:2], IDS[0], *IDS[3:]])
    assert submitted != leased
