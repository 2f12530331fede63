"""bench.workloads: seeded payloads, and requests that any HTTP parser reads as meant."""

import json

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import workloads
from bench.workloads import Requests, batches, is_ours, payloads

JOB_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


class Parsed:
    """One request as llhttp reads it; more or less than one is an error."""

    def __init__(self, data):
        self.headers = {}
        self.body = b""
        self.complete = 0
        self.url = b""
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.method = parser.get_method()
        assert self.complete == 1

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        assert name.lower() not in self.headers
        self.headers[name.lower()] = value

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.complete += 1


@pytest.fixture
def requests():
    return Requests("127.0.0.1:8080", "client_key", "worker_key", seed=1, payload_bytes=256)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.integers(workloads.PAYLOAD_BYTES_MIN, 1000))
def test_payloads_have_the_size_asked_for_and_repeat_with_the_seed(seed, size):
    pool = payloads(seed, size)
    assert pool == payloads(seed, size)
    assert {len(payload.encode()) for payload in pool} == {size}
    assert all(is_ours(payload) for payload in pool)


def test_another_seed_gives_other_payloads():
    assert not set(payloads(1, 256)) & set(payloads(2, 256))


def test_a_pool_of_large_payloads_stays_small_in_memory():
    assert sum(map(len, payloads(1, workloads.PAYLOAD_BYTES_MAX))) <= 8 << 20


@pytest.mark.parametrize(
    "size", [0, workloads.PAYLOAD_BYTES_MIN - 1, workloads.PAYLOAD_BYTES_MAX + 1]
)
def test_an_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match="bytes"):
        payloads(1, size)
    with pytest.raises(ValueError, match="bytes"):
        batches(1, size, 10)


def test_a_job_of_somebody_else_is_not_ours():
    assert not is_ours("charge the customer")


def test_a_submit_carries_one_payload_and_the_client_key(requests):
    pool = payloads(1, 256)
    for data, payload in zip(requests.submits, pool, strict=True):
        request = Parsed(data)
        assert (request.method, request.url) == (b"POST", b"/jobs")
        assert request.headers[b"authorization"] == b"Bearer client_key"
        assert request.headers[b"host"] == b"127.0.0.1:8080"
        assert json.loads(request.body) == {"payload": payload}


@pytest.mark.parametrize(("jobs", "size"), [(1, 256), (100, 256), (1_000, 64), (2, 1 << 20)])
def test_no_payload_comes_twice_in_the_batches_of_a_process(jobs, size):
    bodies = [json.loads(body)["jobs"] for body in batches(1, size, jobs)]
    assert 2 <= len(bodies) <= 512
    assert {len(each) for each in bodies} == {jobs}
    seen = [job["payload"] for each in bodies for job in each]
    assert len(set(seen)) == len(seen)
    assert {len(payload) for payload in seen} == {size}
    assert all(is_ours(payload) for payload in seen)


def test_batches_stay_small_in_memory():
    assert sum(map(len, batches(1, 256, 100))) <= 3 << 20


def test_a_batch_carries_its_jobs_and_the_client_key(requests):
    for data, body in zip(requests.batches(10), batches(1, 256, 10), strict=True):
        request = Parsed(data)
        assert (request.method, request.url) == (b"POST", b"/jobs/batch")
        assert request.headers[b"authorization"] == b"Bearer client_key"
        assert request.headers[b"content-type"] == b"application/json"
        assert request.body == body
        (jobs,) = json.loads(body).values()
        assert all(job.keys() == {"payload", "max_retries"} for job in jobs)
    assert requests.batches(10) is requests.batches(10), "built once"


def test_a_lease_of_many_says_how_many(requests):
    for jobs in (1, 100, 100):
        request = Parsed(requests.lease_up_to(jobs))
        assert (request.method, request.url) == (b"POST", b"/jobs/lease")
        assert request.headers[b"authorization"] == b"Bearer worker_key"
        assert json.loads(request.body) == {"max": jobs}


def test_acks_of_many_name_each_job_and_its_token(requests):
    request = Parsed(requests.ack_all([(JOB_ID, "1"), (JOB_ID[::-1], "22")]))
    assert (request.method, request.url) == (b"POST", b"/jobs/ack")
    assert request.headers[b"authorization"] == b"Bearer worker_key"
    assert json.loads(request.body) == {
        "acks": [
            {"job_id": JOB_ID, "lease_token": "1"},
            {"job_id": JOB_ID[::-1], "lease_token": "22"},
        ]
    }


def test_a_lease_has_the_worker_key_and_an_empty_body(requests):
    request = Parsed(requests.lease)
    assert (request.method, request.url) == (b"POST", b"/jobs/lease")
    assert request.headers[b"authorization"] == b"Bearer worker_key"
    assert request.headers[b"content-length"] == b"0"


@pytest.mark.parametrize(
    ("token", "body"),
    [("12345", {"lease_token": "12345", "result": "ok"}), (None, {"result": "ok"})],
)
def test_an_ack_names_the_job_and_its_token_when_there_is_one(requests, token, body):
    request = Parsed(requests.ack(JOB_ID, token))
    assert (request.method, request.url) == (b"POST", f"/jobs/{JOB_ID}/ack".encode())
    assert request.headers[b"authorization"] == b"Bearer worker_key"
    assert json.loads(request.body) == body


def test_the_bare_request_shows_no_key(requests):
    request = Parsed(requests.bare)
    assert (request.method, request.url) == (b"GET", b"/health")
    assert b"authorization" not in request.headers
