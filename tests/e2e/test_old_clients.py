"""Clients of the original system, which know Part 1 of API.md and nothing else.

Written from that page alone, over plain ``http.client``: paths, bodies, statuses and words
stand here as such a client sends and expects them. It must stay green for ever.
"""

import http.client
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from tests.support.node import RunningNode
from tests.support.polling import DEADLINE_S

NOBODYS = "6f1d3a52-8a3e-4b0c-9d57-2f4c1e7b9a10"
"""The id of no job."""

MIB = 1 << 20
LEASE = timedelta(hours=1)
"""Of the shared node: so long that no test outlasts one by accident."""
CLOCK_STEP = timedelta(milliseconds=50)
"""The node tells its wall clock from a monotonic one; the two may differ by so much."""

# What Go's time.RFC3339Nano layout accepts; its decoder for JSON is no more lenient.
_GO_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)

CLIENT_SCOPES = ["jobs:submit", "jobs:read", "keys:read", "keys:revoke"]
WORKER_SCOPES = ["jobs:lease", "jobs:ack", "jobs:read", "keys:read", "keys:revoke"]
EVERY_SCOPE = {*CLIENT_SCOPES, *WORKER_SCOPES, "keys:create"}


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The words of an error; the body has nothing else."""
        assert self.content_type.startswith("application/json")
        (words,) = [self.json["error"]]
        assert set(self.json) == {"error"}
        assert isinstance(words, str)
        return words


class OldClient:
    """One keep-alive connection of the original's SDK, with any of the node's keys."""

    def __init__(self, node: RunningNode) -> None:
        self.keys = node.keys
        self._connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=DEADLINE_S)

    def close(self) -> None:
        self._connection.close()

    def send(self, method: str, path: str, key: str | None, body: bytes | None = None) -> Answer:
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {self.keys.get(key, key)}"
        return self.send_raw(method, path, headers, body)

    def send_raw(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> Answer:
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        content = response.read()
        return Answer(response.status, response.getheader("Content-Type", ""), content)

    # The four calls of the original's SDK

    def submit(self, payload: str, max_retries: int | None = None) -> str:
        body: dict[str, Any] = {"payload": payload}
        if max_retries is not None:
            body["max_retries"] = max_retries
        answer = self.send("POST", "/jobs", "client", json.dumps(body).encode())
        assert answer.status == 201, answer
        assert set(answer.json) == {"job_id"}
        job_id = answer.json["job_id"]
        assert isinstance(job_id, str)
        assert str(uuid.UUID(job_id)) == job_id
        return job_id

    def lease(self) -> dict[str, Any] | None:
        asked_at = datetime.now(UTC)
        answer = self.send("POST", "/jobs/lease", "worker")
        if answer.status == 404:
            assert answer.json == {"error": "no jobs available"}
            return None
        assert answer.status == 200, answer
        lease: dict[str, Any] = answer.json
        assert isinstance(lease["payload"], str)
        assert type(lease["attempt"]) is int
        assert go_time(lease["lease_until"]) > asked_at
        return lease

    def poll(self) -> dict[str, Any]:
        """Lease as the original's worker does: again after a pause, while it is 404."""
        give_up_at = time.monotonic() + DEADLINE_S
        while (lease := self.lease()) is None:
            assert time.monotonic() < give_up_at, "no job came"
            time.sleep(0.01)
        return lease

    def ack(self, job_id: str, result: str = "", result_error: str = "") -> Answer:
        body = json.dumps({"result": result, "result_error": result_error}).encode()
        return self.send("POST", f"/jobs/{job_id}/ack", "worker", body)

    def status(self, job_id: str) -> dict[str, Any]:
        answer = self.send("GET", f"/jobs/{job_id}", "client")
        assert answer.status == 200, answer
        assert answer.content_type.startswith("application/json")
        job: dict[str, Any] = answer.json
        assert {"job_id", "state", "attempts", "max_retries", "created_at"} <= set(job)
        assert job["job_id"] == job_id
        assert type(job["attempts"]) is int
        assert type(job["max_retries"]) is int
        assert abs((datetime.now(UTC) - go_time(job["created_at"])).total_seconds()) < 3600
        # Go's decoder takes null for an absent string, and other clients do not.
        assert None not in job.values()
        return job


def go_time(text: object) -> datetime:
    """A time as Go's decoder reads it, which takes RFC 3339 and nothing else."""
    assert isinstance(text, str)
    match = _GO_TIME.fullmatch(text)
    assert match is not None, text
    moment, fraction, zone = match.groups()
    assert zone == "Z", text
    return datetime.fromisoformat(f"{moment}{(fraction or '.0')[:7]}+00:00")


@pytest.fixture(scope="module")
def old_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    environment = {"RETRY_BACKOFF": "50ms", "LEASE_DURATION": str(LEASE.seconds)}
    with RunningNode(tmp_path_factory.mktemp("node"), environment) as running:
        yield running


@pytest.fixture
def client(old_node: RunningNode) -> Iterator[OldClient]:
    made = OldClient(old_node)
    yield made
    # A test that leaves a job behind would hand it to the next one.
    assert made.lease() is None
    made.close()


# A job's way -----------------------------------------------------------------------------


def test_a_job_from_submit_to_result(client: OldClient):
    job_id = client.submit("process this data", 3)
    job = client.status(job_id)
    assert (job["state"], job["attempts"], job["max_retries"]) == ("READY", 0, 3)
    assert not {"lease_until", "result", "result_error"} & set(job)

    asked_at = datetime.now(UTC)
    lease = client.poll()
    answered_at = datetime.now(UTC)
    assert (lease["job_id"], lease["payload"]) == (job_id, "process this data")
    assert lease["attempt"] == 1
    granted_at = go_time(lease["lease_until"]) - LEASE
    assert asked_at - CLOCK_STEP <= granted_at <= answered_at + CLOCK_STEP
    job = client.status(job_id)
    assert (job["state"], job["attempts"]) == ("RUNNING", 1)
    assert job["lease_until"] == lease["lease_until"]

    answer = client.ack(job_id, "done")
    assert (answer.status, answer.body) == (200, b"")
    job = client.status(job_id)
    assert (job["state"], job["attempts"], job["result"]) == ("ACKED", 1, "done")
    assert "lease_until" not in job
    assert "result_error" not in job


def test_jobs_come_in_the_order_of_their_submission(old_node: RunningNode, tmp_path):
    # Over one partition; over several the order holds within each.
    directory = tmp_path / "one"
    directory.mkdir()
    with RunningNode(directory, {"PARTITIONS": "1"}) as one:
        client = OldClient(one)
        job_ids = [client.submit(f"job {number}") for number in range(5)]
        assert [client.poll()["job_id"] for _ in job_ids] == job_ids
        client.close()


def test_an_empty_queue_is_404_in_these_words(client: OldClient):
    answer = client.send("POST", "/jobs/lease", "worker")
    assert (answer.status, answer.json) == (404, {"error": "no jobs available"})


def test_a_lease_with_no_body_and_no_length_at_all(client: OldClient):
    # Go's http.Post with a nil body.
    headers = {"Authorization": f"Bearer {client.keys['worker']}", "Content-Length": "0"}
    assert client.send_raw("POST", "/jobs/lease", headers).status == 404


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b'{"result": "r"}', "ACKED"),
        (b'{"result": "r", "result_error": ""}', "ACKED"),
        (b'{"result": "", "result_error": ""}', "ACKED"),
        (b"{}", "ACKED"),
        (b"", "ACKED"),
        (b'{"result_error": "e"}', "DEAD"),
        (b'{"result": "", "result_error": "e"}', "DEAD"),
    ],
)
def test_every_form_of_an_ack(client: OldClient, body: bytes, state: str):
    job_id = client.submit("x", 1)
    assert client.poll()["job_id"] == job_id
    answer = client.send("POST", f"/jobs/{job_id}/ack", "worker", body)
    assert (answer.status, answer.body) == (200, b"")
    job = client.status(job_id)
    assert job["state"] == state
    assert job.get("result", "") == ("r" if b'"r"' in body else "")
    assert job.get("result_error", "") == ("e" if b'"e"' in body else "")


# Attempts --------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_retries", "attempts"), [(0, 1), (1, 1), (2, 2), (4, 4)])
def test_max_retries_is_the_number_of_attempts(client: OldClient, max_retries: int, attempts: int):
    job_id = client.submit("x", max_retries)
    assert client.status(job_id)["max_retries"] == max_retries
    for attempt in range(1, attempts + 1):
        lease = client.poll()
        assert (lease["job_id"], lease["attempt"]) == (job_id, attempt)
        assert client.ack(job_id, result_error=f"failure {attempt}").status == 200
        job = client.status(job_id)
        assert job["state"] == ("DEAD" if attempt == attempts else "RETRY")
        assert job["attempts"] == attempt
        assert job["result_error"] == f"failure {attempt}"
        assert "lease_until" not in job


def test_a_job_without_max_retries_gets_three(client: OldClient):
    job_id = client.submit("x")
    assert client.status(job_id)["max_retries"] == 3
    assert client.poll()["job_id"] == job_id
    assert client.ack(job_id, "r").status == 200


def test_a_success_after_a_failure(client: OldClient):
    job_id = client.submit("x", 2)
    client.poll()
    assert client.ack(job_id, result_error="not yet").status == 200
    assert client.poll()["attempt"] == 2
    assert client.ack(job_id, "now").status == 200
    job = client.status(job_id)
    assert (job["state"], job["attempts"], job["result"]) == ("ACKED", 2, "now")


def test_a_worker_that_died_costs_an_attempt_and_the_last_one_the_job(
    make_node: Callable[..., RunningNode],
):
    node = make_node(LEASE_DURATION="300ms", LEASE_CHECK_INTERVAL="100ms").start()
    client = OldClient(node)
    job_id = client.submit("x", 2)
    assert client.poll()["attempt"] == 1
    lease = client.poll()  # once the first lease has ended
    assert (lease["job_id"], lease["attempt"]) == (job_id, 2)
    give_up_at = time.monotonic() + DEADLINE_S
    while (job := client.status(job_id))["state"] != "DEAD":
        assert job["state"] == "RUNNING"
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    assert job["attempts"] == 2
    assert job["result_error"]
    assert client.lease() is None
    client.close()


# Text ------------------------------------------------------------------------------------

TEXTS = {
    "ascii": "process this data",
    "blank": " ",
    "quotes": '" \' \\" \\ {"a": [1]} </script>',
    "controls": "".join(map(chr, range(32))) + "\x7f",
    "nul": "\u0000",
    "separators": "\u2028\u2029\ufeff\ufffe\uffff",
    "wide": "é ü ß € 漢字 עברית 😀 \U0010ffff 👩‍👩‍👧",
    "1 MiB": "x" * MIB,
    "1 MiB of two bytes": "é" * (MIB // 2),
    "1 MiB of four bytes": "😀" * (MIB // 4),
    "1 MiB of NUL": "\u0000" * MIB,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_any_text_comes_back_equal(client: OldClient, text: str, ascii_only: bool):
    def encoded(value: object) -> bytes:
        return json.dumps(value, ensure_ascii=ascii_only).encode()

    answer = client.send("POST", "/jobs", "client", encoded({"payload": text}))
    assert answer.status == 201
    job_id = answer.json["job_id"]
    assert client.poll()["payload"] == text
    answer = client.send(
        "POST", f"/jobs/{job_id}/ack", "worker", encoded({"result": text, "result_error": ""})
    )
    assert answer.status == 200
    assert client.status(job_id)["result"] == text


def test_an_error_is_any_text_as_well(client: OldClient):
    text = 'boom "\u0000" é😀\n\tat line 1'
    job_id = client.submit("x", 1)
    client.poll()
    assert client.ack(job_id, result_error=text).status == 200
    assert client.status(job_id)["result_error"] == text


@pytest.mark.parametrize("text", ["x" * (MIB + 1), "é" * (MIB // 2) + "x"])
def test_a_byte_more_than_a_mib_is_413(client: OldClient, text: str):
    answer = client.send("POST", "/jobs", "client", json.dumps({"payload": text}).encode())
    assert answer.status == 413
    assert answer.error
    job_id = client.submit("x", 1)
    client.poll()
    assert client.ack(job_id, text).status == 413
    assert client.ack(job_id, result_error=text).status == 413
    # Nothing has happened: the job is still ours to finish.
    assert client.status(job_id)["state"] == "RUNNING"
    assert client.ack(job_id, "r").status == 200


# Requests that are refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"payload": ""}', "payload is required"),
        (b"{}", "payload is required"),
        (b'{"max_retries": 3}', "payload is required"),
        (b'{"payload": "x", "max_retries": -1}', "max_retries must be >= 0"),
    ],
)
def test_a_job_that_is_not_one(client: OldClient, body: bytes, words: str):
    answer = client.send("POST", "/jobs", "client", body)
    assert (answer.status, answer.error) == (400, words)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b"[]",
        b'"payload"',
        b'{"payload": 1}',
        b'{"payload": "x", "max_retries": "3"}',
        b'{"payload": "x", "max_retries": 1.5}',
        b'{"payload": "x"} trailing',
        b'{"payload": "\xff"}',
    ],
)
def test_bad_json_is_400(client: OldClient, body: bytes):
    answer = client.send("POST", "/jobs", "client", body)
    assert answer.status == 400
    assert answer.error


def test_an_unknown_field_is_refused_by_name(client: OldClient):
    answer = client.send("POST", "/jobs", "client", b'{"payload": "x", "maxretries": 3}')
    assert answer.status == 400
    assert "maxretries" in answer.error


def test_a_bad_ack_changes_nothing(client: OldClient):
    job_id = client.submit("x", 1)
    client.poll()
    for body in (b"{", b'{"result": 1}', b'{"outcome": "x"}'):
        answer = client.send("POST", f"/jobs/{job_id}/ack", "worker", body)
        assert answer.status == 400
        assert answer.error
    assert client.status(job_id)["state"] == "RUNNING"
    assert client.ack(job_id, "r").status == 200


@pytest.mark.parametrize("job_id", [NOBODYS, "nope", "00000000-0000-0000-0000-00000000000G"])
def test_a_job_that_is_not_there(client: OldClient, job_id: str):
    answer = client.send("GET", f"/jobs/{job_id}", "client")
    assert answer.status == 404
    assert answer.error.startswith("job not found: ")
    answer = client.ack(job_id, "r")
    assert answer.status == 400
    assert answer.error.startswith("failed to ack job: ")


def test_an_ack_of_a_job_that_is_not_running(client: OldClient):
    job_id = client.submit("x", 2)

    def refused() -> None:
        for result, result_error in (("again", ""), ("", "again")):
            answer = client.ack(job_id, result, result_error)
            assert answer.status == 400
            assert answer.error.startswith("failed to ack job: ")

    refused()  # READY
    client.poll()
    assert client.ack(job_id, result_error="e").status == 200
    assert client.status(job_id)["state"] == "RETRY"
    refused()
    client.poll()
    assert client.ack(job_id, "r").status == 200
    refused()  # ACKED
    job = client.status(job_id)
    assert (job["state"], job["result"], job["attempts"]) == ("ACKED", "r", 2)


def test_an_ack_of_a_dead_job(client: OldClient):
    job_id = client.submit("x", 1)
    client.poll()
    assert client.ack(job_id, result_error="e").status == 200
    assert client.ack(job_id, "r").status == 400
    job = client.status(job_id)
    assert (job["state"], job["result_error"]) == ("DEAD", "e")


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/jobs"), ("PUT", "/jobs/lease"), ("PUT", "/admin/keys"), ("PUT", "/keys")],
)
def test_another_method_is_405(client: OldClient, method: str, path: str):
    answer = client.send(method, path, "admin", b"{}")
    assert (answer.status, answer.error) == (405, "method not allowed")


def test_health_needs_no_key(client: OldClient):
    answer = client.send("GET", "/health", None)
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.content_type.startswith("text/plain")


# Keys ------------------------------------------------------------------------------------

CALLS = [
    ("POST", "/jobs", "jobs:submit"),
    ("POST", "/jobs/lease", "jobs:lease"),
    ("POST", f"/jobs/{NOBODYS}/ack", "jobs:ack"),
    ("GET", f"/jobs/{NOBODYS}", "jobs:read"),
    ("GET", "/keys", "keys:read"),
    ("DELETE", "/keys/client_00000000", "keys:revoke"),
    ("POST", "/admin/keys", "keys:create"),
    ("GET", "/admin/keys", "keys:create"),
]


@pytest.mark.parametrize(("method", "path", "scope"), CALLS)
@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "Missing Authorization header"),
        (
            {"Authorization": "Token x"},
            "Invalid Authorization header format. Expected: Bearer <token>",
        ),
        (
            {"Authorization": "client_x"},
            "Invalid Authorization header format. Expected: Bearer <token>",
        ),
        ({"Authorization": "Bearer "}, "Empty API key"),
        ({"Authorization": "Bearer client_nobody"}, "Invalid API key"),
    ],
)
def test_without_a_key_nothing_is_done(
    client: OldClient, method: str, path: str, scope: str, headers: dict[str, str], words: str
):
    answer = client.send_raw(method, path, headers, b'{"payload": "x"}')
    assert (answer.status, answer.error) == (401, words)


@pytest.mark.parametrize(("method", "path", "scope"), CALLS)
@pytest.mark.parametrize(("key", "scopes"), [("client", CLIENT_SCOPES), ("worker", WORKER_SCOPES)])
def test_a_key_may_do_what_its_scopes_say(
    client: OldClient, method: str, path: str, scope: str, key: str, scopes: list[str]
):
    answer = client.send(method, path, key, b"{" if method == "POST" else None)
    if scope in scopes:
        assert answer.status in (200, 400, 404)
    elif path.startswith("/admin/"):
        assert (answer.status, answer.error) == (403, "Admin access required")
    else:
        assert answer.status == 403
        assert answer.error.startswith("Insufficient permissions")
        assert scope in answer.error


def create(client: OldClient, kind: str, owner: str = "old-owner") -> dict[str, Any]:
    body = {"name": f"the {kind}", "owner_id": owner, "type": kind}
    answer = client.send("POST", "/admin/keys", "admin", json.dumps(body).encode())
    assert answer.status == 201, answer
    made: dict[str, Any] = answer.json
    return made


@pytest.mark.parametrize("kind", ["client", "worker", "admin"])
def test_a_key_is_made_and_shown_once(client: OldClient, kind: str):
    made = create(client, kind)
    assert {"key", "name", "owner_id", "type", "scopes", "created_at"} <= set(made)
    assert made["key"].startswith(f"{kind}_")
    assert (made["name"], made["owner_id"], made["type"]) == (f"the {kind}", "old-owner", kind)
    expected = {"client": set(CLIENT_SCOPES), "worker": set(WORKER_SCOPES)}.get(kind, EVERY_SCOPE)
    assert set(made["scopes"]) == expected
    go_time(made["created_at"])
    assert client.send("GET", "/keys", made["key"]).status == 200
    every = client.send("GET", "/admin/keys", "admin")
    assert every.status == 200
    assert made["key"].encode() not in every.body
    (listed,) = [key for key in every.json if made["key"].startswith(key["key"])]
    assert (listed["owner_id"], listed["type"]) == ("old-owner", kind)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"owner_id": "o", "type": "client"}', "name is required"),
        (b'{"name": "", "owner_id": "o", "type": "client"}', "name is required"),
        (b'{"name": "n", "type": "client"}', "owner_id is required"),
        (b'{"name": "n", "owner_id": "o"}', "type is required"),
        (b"{", "invalid JSON"),
    ],
)
def test_a_key_that_is_not_one(client: OldClient, body: bytes, words: str):
    answer = client.send("POST", "/admin/keys", "admin", body)
    assert answer.status == 400
    assert answer.error.startswith(words)


def test_a_key_of_no_known_type_is_refused(client: OldClient):
    body = b'{"name": "n", "owner_id": "o", "type": "root"}'
    assert client.send("POST", "/admin/keys", "admin", body).status == 400


def test_an_owner_sees_the_keys_of_that_owner_alone(client: OldClient):
    mine, other = create(client, "client", "mine"), create(client, "client", "other")
    listed = client.send("GET", "/keys", mine["key"])
    assert listed.status == 200
    assert {key["owner_id"] for key in listed.json} == {"mine"}
    assert other["key"].encode() not in listed.body


def test_a_revoked_key_is_out_at_once(client: OldClient):
    made = create(client, "client")
    assert client.send("GET", "/keys", made["key"]).status == 200
    answer = client.send("DELETE", f"/keys/{made['key']}", made["key"])
    assert answer.status == 200
    assert set(answer.json) == {"message", "key", "revoked_at"}
    assert answer.json["message"] == "Key revoked successfully"
    assert made["key"].startswith(answer.json["key"])
    go_time(answer.json["revoked_at"])
    answer = client.send("GET", "/keys", made["key"])
    assert (answer.status, answer.error) == (401, "API key has been revoked")
    every = client.send("GET", "/admin/keys", "admin").json
    (listed,) = [key for key in every if made["key"].startswith(key["key"])]
    go_time(listed["revoked_at"])


def test_only_the_owner_or_an_admin_revokes(client: OldClient):
    mine, other = create(client, "client", "mine"), create(client, "worker", "other")
    answer = client.send("DELETE", f"/keys/{mine['key']}", other["key"])
    assert (answer.status, answer.error) == (403, "access denied: not the owner")
    assert client.send("DELETE", f"/keys/{mine['key']}", "admin").status == 200


def test_a_key_that_is_not_there(client: OldClient):
    answer = client.send("DELETE", "/keys/client_nobody", "admin")
    assert (answer.status, answer.error) == (404, "key not found")


def test_development_keys_are_logged_in_these_words(old_node: RunningNode):
    for kind in ("client", "worker", "admin"):
        line = f"Created {kind} key: {old_node.keys[kind]} (owner: dev-{kind})"
        assert line in old_node.log
