import threading
import time
from collections.abc import Callable

import pytest

from queue_node_sdk import (
    AuthError,
    BadRequest,
    Client,
    ConfigurationError,
    JobState,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    QueueNodeError,
    ServerError,
    StorageFull,
    Timeout,
    UnexpectedAnswer,
    Unreachable,
)
from tests.support.fake_node import CLIENT_KEY, WORKER_KEY, Answer, FakeNode, HangUp, Stall
from tests.support.running_worker import RunningWorker

BUSY = Answer(503, b'{"error": "overloaded"}', headers=(("Retry-After", "0"),))


def test_a_job_is_submitted_and_read(node: FakeNode, client: Client):
    job_id = client.submit('q"\x00é😀', max_retries=5)
    job = client.get_status(job_id)
    assert (job.job_id, job.state, job.attempts, job.max_retries) == (job_id, "READY", 0, 5)
    assert node.jobs[job_id].payload == 'q"\x00é😀'
    assert job.created_at.tzinfo is not None


def test_a_request_says_who_asks(node: FakeNode, client: Client):
    client.submit("x")
    headers = node.seen[0].headers
    assert headers["authorization"] == f"Bearer {CLIENT_KEY}"
    assert headers["user-agent"].startswith("queue-node-sdk/")
    assert headers["content-type"] == "application/json"


def test_submit_and_wait_brings_the_result(
    client: Client, start_worker: Callable[..., RunningWorker]
):
    start_worker(lambda job: job.payload.upper())
    job = client.submit_and_wait("hello", timeout=20)
    assert job.succeeded
    assert job.result == "HELLO"


def test_a_wait_ends_with_a_dead_job_too(
    client: Client, start_worker: Callable[..., RunningWorker]
):
    def fail(_job: object) -> str:
        raise ValueError("no way")

    start_worker(fail)
    job = client.submit_and_wait("hello", max_retries=2, timeout=20)
    assert job.state is JobState.DEAD
    assert job.finished
    assert not job.succeeded
    assert (job.attempts, job.result_error) == (2, "ValueError: no way")


def test_a_wait_that_is_too_long_raises_and_the_job_stays(client: Client):
    job_id = client.submit("x")
    with pytest.raises(Timeout, match="READY"):
        client.wait_for_completion(job_id, timeout=0.05)
    assert client.get_status(job_id).state == "READY"


def test_a_wait_asks_quickly_first_and_seldom_later(node: FakeNode, client: Client):
    job_id = client.submit("x")
    with pytest.raises(Timeout):
        client.wait_for_completion(job_id, timeout=0.5)
    # At 0, 10, 25, 47, 81, 132, 208, 322, 493 and 500 ms; fewer on a slow machine.
    assert 2 <= node.count("get") <= 10


def test_a_wait_gets_over_an_outage_until_its_end(node: FakeNode, client: Client):
    job_id = client.submit("x")
    node.stop()
    with pytest.raises(Timeout) as caught:
        client.wait_for_completion(job_id, timeout=0.3)
    assert isinstance(caught.value.__cause__, Unreachable)


def test_a_wait_without_end_gives_up_on_a_node_that_is_gone(node: FakeNode):
    with Client(node.url, CLIENT_KEY, retry_for=0.2) as client:
        job_id = client.submit("x")
        node.stop()
        with pytest.raises(Unreachable):
            client.wait_for_completion(job_id, timeout=None)


def test_what_is_not_there_is_not_found(client: Client):
    with pytest.raises(NotFound, match="job not found: nope") as caught:
        client.get_status("nope")
    assert caught.value.status == 404
    with pytest.raises(NotFound):
        client.wait_for_completion("nope")


def test_a_wrong_a_revoked_and_a_foreign_key_are_told_apart(node: FakeNode):
    with Client(node.url, "client_typo") as client, pytest.raises(AuthError, match="Invalid API"):
        client.submit("x")
    node.revoked.add(CLIENT_KEY)
    with Client(node.url, CLIENT_KEY) as client, pytest.raises(AuthError, match="revoked"):
        client.submit("x")
    with Client(node.url, WORKER_KEY) as client, pytest.raises(PermissionDenied):
        client.submit("x")


def test_a_busy_node_is_asked_again(node: FakeNode, client: Client):
    node.fail("submit", BUSY, Answer(429), BUSY)
    node.fail("get", BUSY)
    job_id = client.submit("x")
    client.get_status(job_id)
    assert (node.count("submit"), node.count("get"), len(node.jobs)) == (4, 2, 1)


def test_retry_after_is_kept(node: FakeNode, client: Client):
    node.fail("submit", Answer(503, headers=(("Retry-After", "1"),)))
    began = time.monotonic()
    client.submit("x")
    assert time.monotonic() - began >= 1


def test_a_retry_after_beyond_the_patience_is_raised_at_once(node: FakeNode, client: Client):
    node.fail("submit", Answer(503, headers=(("Retry-After", "3600"),)))
    with pytest.raises(Overloaded) as caught:
        client.submit("x")
    assert caught.value.retry_after_seconds == 3600


def test_patience_ends(node: FakeNode):
    node.fail("submit", *[BUSY] * 1000)
    with Client(node.url, CLIENT_KEY, retry_for=0.3) as client, pytest.raises(Overloaded):
        client.submit("x")
    assert node.count("submit") >= 2
    assert not node.jobs


def test_a_submit_without_its_answer_is_not_sent_again(node: FakeNode, client: Client):
    node.fail("submit", HangUp(ran=True))
    with pytest.raises(OutcomeUnknown):
        client.submit("x")
    assert (node.count("submit"), len(node.jobs)) == (1, 1)


def test_a_submit_over_which_the_node_broke_down_is_not_sent_again(node: FakeNode, client: Client):
    for answer in (Answer(503), Answer(500), Answer(502, b"<html>")):
        node.fail("submit", answer)
        with pytest.raises(ServerError):
            client.submit("x")
    assert node.count("submit") == 3


def test_a_read_without_its_answer_is_sent_again(node: FakeNode, client: Client):
    job_id = client.submit("x")
    node.fail("get", HangUp(ran=True), HangUp(ran=False))
    assert client.get_status(job_id).job_id == job_id
    assert node.count("get") == 3


def test_a_submit_waits_for_a_node_that_starts(node: FakeNode, caplog: pytest.LogCaptureFixture):
    node.stop()
    with Client(node.url, CLIENT_KEY, retry_for=20) as client:
        done: list[str] = []
        thread = threading.Thread(target=lambda: done.append(client.submit("x")))
        thread.start()
        deadline = time.monotonic() + 20
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.005)
        node.start()
        thread.join(20)
        assert done == ["job-0"]
    assert [record.name for record in caplog.records] == ["queue_node"]
    assert "cannot reach" in caplog.text


def test_a_restarted_node_breaks_no_submit(node: FakeNode, client: Client):
    client.submit("x")
    node.stop()  # cuts the connection that the client keeps
    node.start()
    client.submit("y")
    assert len(node.jobs) == 2


def test_a_node_that_does_not_answer_is_given_up(node: FakeNode):
    release = threading.Event()
    node.fail("submit", Stall(release))
    node.fail("get", Stall(release))
    with Client(node.url, CLIENT_KEY, request_timeout=0.1) as client:
        with pytest.raises(OutcomeUnknown, match="ReadTimeout"):
            client.submit("x")
        release.set()


def test_a_full_disk_and_an_internal_error_are_raised_at_once(node: FakeNode, client: Client):
    node.fail("submit", Answer(507, headers=(("Retry-After", "5"),)))
    with pytest.raises(StorageFull):
        client.submit("x")
    assert node.count("submit") == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>Welcome", content_type="text/html"),
        Answer(404, b"<html>Not here", content_type="text/html"),
        Answer(301, b"", headers=(("Location", "http://127.0.0.1:1/"),)),
        Answer(201, b'{"id": "x"}'),
        Answer(201, b"\x1f\x8b broken", headers=(("Content-Encoding", "identity"),)),
    ],
)
def test_another_server_at_the_url_is_recognised(node: FakeNode, client: Client, answer: Answer):
    node.fail("submit", answer)
    with pytest.raises(UnexpectedAnswer, match="URL"):
        client.submit("x")


def test_a_bad_payload_never_leaves_the_process(node: FakeNode, client: Client):
    for payload in ("", "\udc80"):
        with pytest.raises(BadRequest):
            client.submit(payload)
    assert not node.seen


def test_a_closed_client_says_so(node: FakeNode):
    client = Client(node.url, CLIENT_KEY)
    client.close()
    with pytest.raises(QueueNodeError, match="closed"):
        client.submit("x")


@pytest.mark.parametrize("url", ["http://" + "x" * 70000, "http://\u2603.\u0000", "http://a\nb"])
def test_a_host_that_cannot_be_one_is_refused(url: str):
    with pytest.raises(ConfigurationError):
        Client(url, CLIENT_KEY)


def test_the_key_is_in_no_repr(client: Client):
    assert CLIENT_KEY not in repr(client)


def test_from_env(node: FakeNode, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("QUEUE_NODE_URL", raising=False)
    monkeypatch.setenv("QUEUE_NODE_KEY", CLIENT_KEY)
    with pytest.raises(ConfigurationError, match="QUEUE_NODE_URL"):
        Client.from_env()
    monkeypatch.setenv("QUEUE_NODE_URL", node.url)
    with Client.from_env() as client:
        client.submit("x")
    assert len(node.jobs) == 1


@pytest.mark.parametrize("options", [{"request_timeout": 0}, {"request_timeout": -1}])
def test_options_that_cannot_be_right(options: dict[str, float]):
    with pytest.raises(ConfigurationError):
        Client("http://127.0.0.1:1", "k", **options)  # type: ignore[arg-type]


def test_threads_share_a_client(node: FakeNode, client: Client):
    threads = [
        threading.Thread(target=lambda: [client.submit("x") for _ in range(20)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(node.jobs) == 160
