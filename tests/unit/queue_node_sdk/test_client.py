import threading
import time
from collections.abc import Callable

import httpx2
import pytest

from queue_node_sdk import (
    AsyncClient,
    AuthError,
    BadRequest,
    Client,
    ConfigurationError,
    IdempotencyConflict,
    JobState,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    QueueNodeError,
    ServerError,
    StorageFull,
    Submit,
    Timeout,
    TooLarge,
    UnexpectedAnswer,
    Unreachable,
    Worker,
    WrongState,
)
from tests.support.fake_node import CLIENT_KEY, WORKER_KEY, Answer, FakeNode, HangUp, Stall
from tests.support.polling import wait_until
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


def test_a_submit_without_its_answer_is_sent_again_and_is_one_job(node: FakeNode, client: Client):
    node.fail("submit", HangUp(ran=True), HangUp(ran=False), HangUp(ran=True))
    assert client.submit("x") == "job-0"
    assert (node.count("submit"), len(node.jobs)) == (4, 1)


def test_a_submit_over_which_the_node_breaks_down_is_sent_again(node: FakeNode, client: Client):
    node.fail("submit", Answer(503), Answer(500), Answer(502, b"<html>"))
    client.submit("x")
    assert (node.count("submit"), len(node.jobs)) == (4, 1)


def test_a_node_that_goes_on_breaking_down_is_told(node: FakeNode):
    node.fail("submit", *[Answer(500)] * 1000)
    with Client(node.url, CLIENT_KEY, retry_for=0.2) as client, pytest.raises(ServerError):
        client.submit("x")


def test_what_an_early_try_may_have_stored_is_told_at_the_end(node: FakeNode):
    node.fail("submit", HangUp(ran=True), *[BUSY] * 1000)
    with Client(node.url, CLIENT_KEY, retry_for=0.3) as client, pytest.raises(OutcomeUnknown):
        client.submit("x")
    assert len(node.jobs) == 1


def test_a_key_that_was_used_for_another_job_is_a_conflict(client: Client):
    first = client.submit("x", idempotency_key="order-7")
    assert client.submit("x", idempotency_key="order-7") == first
    with pytest.raises(IdempotencyConflict):
        client.submit("y", idempotency_key="order-7")


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
    with Client(node.url, CLIENT_KEY, request_timeout=0.1, retry_for=0.1) as client:
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


@pytest.mark.parametrize(
    ("name", "value"), [("SSL_CERT_FILE", "/there/is/none"), ("HTTP_PROXY", "odd://127.0.0.1:1")]
)
def test_certificates_and_proxies_that_cannot_be_used_are_told(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(name, value)
    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigurationError, match=name):
            kind("https://127.0.0.1:1", "k")
    with pytest.raises(ConfigurationError, match=name):
        Worker("https://127.0.0.1:1", "k", lambda _job: None).run()


@pytest.mark.parametrize("options", [{"request_timeout": 0}, {"request_timeout": -1}])
def test_options_that_cannot_be_right(options: dict[str, float]):
    with pytest.raises(ConfigurationError):
        Client("http://127.0.0.1:1", "k", **options)  # type: ignore[arg-type]


def in_threads(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_share_a_client_and_its_requests(node: FakeNode, client: Client):
    ids: dict[str, str] = {}

    def submit(number: int) -> None:
        for turn in range(20):
            payload = f"{number}/{turn}"
            ids[client.submit(payload)] = payload

    in_threads(8, submit)
    assert ids == {job_id: job.payload for job_id, job in node.jobs.items()}
    assert len(ids) == 160
    assert node.count("batch") > 0
    assert node.count("submit") + node.count("batch") < 160


def test_what_comes_while_one_is_out_leaves_together(node: FakeNode, client: Client):
    release = threading.Event()
    node.fail("submit", Stall(release))
    first = threading.Thread(target=client.submit, args=("first",))
    first.start()
    node.wait_until(lambda: node.count("submit") == 1)
    others = [threading.Thread(target=client.submit, args=(f"other {n}",)) for n in range(5)]
    for thread in others:
        thread.start()
    # Seen from inside: nothing that they do shows outside until the first is back.
    wait_until(lambda: len(client._batching._waiting) == 5)
    release.set()
    for thread in (first, *others):
        thread.join()
    assert (node.count("submit"), node.count("batch"), len(node.jobs)) == (1, 1, 6)


def test_a_refused_job_does_not_harm_those_that_travel_with_it(node: FakeNode, client: Client):
    node.payload_characters_max = 10
    refused: list[str] = []

    def submit(number: int) -> None:
        try:
            client.submit("x" * (11 if number % 4 == 0 else 1))
        except TooLarge as error:
            refused.append(str(error))

    in_threads(24, submit)
    assert refused == ["submit: payload too large (413)"] * 6
    assert len(node.jobs) == 18


def test_many_go_in_one_request(node: FakeNode, client: Client):
    node.fail("batch", HangUp(ran=True), BUSY)
    ids = client.submit_many(["a", Submit("b", max_retries=7), "c"], max_retries=2)
    assert [(node.jobs[each].payload, node.jobs[each].max_retries) for each in ids] == [
        ("a", 2), ("b", 7), ("c", 2),
    ]  # fmt: skip
    assert (node.count("batch"), len(node.jobs)) == (3, 3)
    assert client.submit_many([]) == []


def test_one_refused_of_many_is_named_and_its_request_stores_nothing(
    node: FakeNode, client: Client
):
    node.payload_characters_max = 10
    with pytest.raises(TooLarge, match=r"jobs\[2\]: payload too large"):
        client.submit_many(["a", "b", "x" * 11, "d"])
    assert not node.jobs
    # 1,000 are one request, and the index is still that of the caller.
    with pytest.raises(TooLarge, match=r"jobs\[1002\]: payload too large"):
        client.submit_many(["a"] * 1002 + ["x" * 11, "d"])
    assert len(node.jobs) == 1000


def answering(*answers: tuple[int, object]) -> tuple[Client, list[str]]:
    """A client whose requests are answered in this order, and what it asked."""
    left, asked = list(answers), list[str]()

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(f"{request.method} {request.url.raw_path.decode()}")
        status, body = left.pop(0)
        return httpx2.Response(status, json=body)

    transport = httpx2.MockTransport(answer)
    return Client("http://node", CLIENT_KEY, http_transport=transport), asked


JOB = {"job_id": "j", "state": "CANCELLED", "attempts": 0, "max_retries": 3,
       "created_at": "2026-01-02T12:00:00Z"}  # fmt: skip
QUEUE = {"queue": "q", "counts": {"READY": 1}}


def test_each_call_is_the_contracts():
    client, asked = answering(
        (200, JOB), (200, JOB), (200, None), (200, {"queues": [QUEUE]}), (200, QUEUE),
        (200, QUEUE), (200, QUEUE), (200, {"count": 2}), (200, {"count": 3}),
    )  # fmt: skip
    assert client.cancel("j").state is JobState.CANCELLED
    assert client.retry("j").job_id == "j"
    client.delete("j")
    assert client.queues() == [client.queue("q")]
    assert client.pause("q") == client.resume("q")
    assert (client.retry_dead("q"), client.purge("q", "ACKED")) == (2, 3)
    assert asked == [
        "POST /jobs/j/cancel", "POST /jobs/j/retry", "DELETE /jobs/j", "GET /queues",
        "GET /queues/q", "POST /queues/q/pause", "POST /queues/q/resume",
        "POST /queues/q/retry-dead", "DELETE /queues/q/jobs?state=ACKED",
    ]  # fmt: skip


def test_a_list_is_asked_for_page_by_page():
    client, asked = answering(
        (200, {"jobs": [JOB, JOB], "next_cursor": "c1"}),
        (200, {"jobs": [], "next_cursor": "c2"}),
        (200, {"jobs": [JOB], "next_cursor": None}),
    )
    jobs = client.jobs(queue="q", page_size=2)
    assert not asked
    assert next(jobs).job_id == "j"
    assert asked == ["GET /jobs?queue=q&limit=2"]
    assert len(list(jobs)) == 2
    assert asked[1:] == [
        "GET /jobs?queue=q&cursor=c1&limit=2",
        "GET /jobs?queue=q&cursor=c2&limit=2",
    ]


def test_a_state_that_does_not_allow_it_is_told():
    client, _ = answering((409, {"error": "job j cannot do this: its state is RUNNING"}))
    with pytest.raises(WrongState, match="RUNNING"):
        client.retry("j")
