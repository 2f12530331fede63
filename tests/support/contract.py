"""The HTTP contract as a test speaks it: one method per call, answers as the client sees them.

Every call goes over a connection of its own, so it meets any of the fronts. What another process
does by itself (a delay that ends, a lease that expires) is polled for, under a deadline.
"""

import http.client
import itertools
import json
import re
import selectors
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from tests.support.node import RunningNode
from tests.support.polling import DEADLINE_S, wait_until

Json = dict[str, Any]
T = TypeVar("T")

NOBODYS = "01890a5d-ac96-774b-bcce-b302099a8057"
"""The id of no job."""

CLOCK_STEP = timedelta(milliseconds=50)
"""The node tells its wall clock from a monotonic one; the two may differ by so much."""

DONE = (200, 204)
"""Of a call whose answer says nothing but that it is done, API.md leaves the status open."""

_numbers = itertools.count(1)


class Answer(NamedTuple):
    """What came back, read to its end."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The words of a refusal."""
        assert self.status >= 400, self
        words = self.json["error"]
        assert isinstance(words, str)
        assert words
        return words


class Parked:
    """A request that was sent and whose answer nobody waits for yet."""

    def __init__(self, port: int, method: str, path: str, body: bytes, key: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        self.connection.request(method, path, body, {"Authorization": f"Bearer {key}"})

    @property
    def is_answered(self) -> bool:
        return bool(first_answered([self], within_s=0))

    def answer(self) -> Answer:
        """Wait for the answer, which ends the connection."""
        answer = _read(self.connection)
        self.connection.close()
        return answer

    def hang_up(self) -> None:
        """Close the connection, as a client does that was stopped."""
        self.connection.close()


def first_answered(waiting: Sequence[Parked], within_s: float = DEADLINE_S) -> list[Parked]:
    """Those with an answer, as soon as there is one; none when none came in time."""
    with selectors.DefaultSelector() as selector:
        for one in waiting:
            selector.register(one.connection.sock, selectors.EVENT_READ, one)
        return [key.data for key, _ in selector.select(within_s)]


class Http:
    """A node's HTTP contract, with the key that each call needs.

    Methods named like a call return its answer, whatever it is; those in the past tense insist
    that it was done.

    Args:
        node: runs already.
        suffix: added to a target that has no query. ``?`` names the same resource and takes
            the way through the app instead of the lane.
    """

    def __init__(self, node: RunningNode, suffix: str = "") -> None:
        self.node = node
        self._suffix = suffix

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = "admin",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send ``body`` as it is when it is bytes, else as JSON; ``None`` is no body."""
        answer = self.node.request(
            method, self._spelled(path), key=key, body=_encoded(body), headers=headers
        )
        return Answer(*answer)

    def park(self, method: str, path: str, body: object = None, *, key: str = "admin") -> Parked:
        """Send a request and leave it open."""
        token = self.node.keys.get(key, key)
        encoded = _encoded(body) or b""
        return Parked(self.node.port, method, self._spelled(path), encoded, token)

    def _spelled(self, path: str) -> str:
        return path if "?" in path else path + self._suffix

    # Submit --------------------------------------------------------------------------

    def submit(
        self,
        queue: str | None = None,
        *,
        key: str = "client",
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> Answer:
        return self.call("POST", "/jobs", job(queue, **fields), key=key, headers=headers)

    def submitted(self, queue: str | None = None, **fields: Any) -> str:
        """The id of a new job."""
        return _id_of(self.submit(queue, **fields))

    def submit_batch(self, jobs: Sequence[object], *, key: str = "client") -> Answer:
        return self.call("POST", "/jobs/batch", {"jobs": jobs}, key=key)

    def submitted_batch(self, jobs: Sequence[object]) -> list[str]:
        answer = self.submit_batch(jobs)
        assert answer.status == 201, answer
        job_ids: list[str] = answer.json["job_ids"]
        assert len(set(job_ids)) == len(jobs)
        return job_ids

    # Lease ---------------------------------------------------------------------------

    def lease(self, *queues: str, **fields: object) -> Answer:
        return self.call("POST", "/jobs/lease", _lease_body(queues, fields), key="worker")

    def park_lease(self, *queues: str, **fields: object) -> Parked:
        return self.park("POST", "/jobs/lease", _lease_body(queues, fields), key="worker")

    def leased(self, *queues: str, **fields: object) -> Json:
        answer = self.lease(*queues, **fields)
        assert answer.status == 200, answer
        lease: Json = answer.json
        return lease

    def polled(self, *queues: str, **fields: object) -> Json:
        """Lease again and again until there is a job."""
        answers: list[Answer] = []

        def came() -> bool:
            answers.append(self.lease(*queues, **fields))
            assert answers[-1].status in (200, 404), answers[-1]
            return answers[-1].status == 200

        wait_until(came, what=f"a job in {queues}")
        lease: Json = answers[-1].json
        return lease

    def submitted_and_leased(self, queue: str, **fields: Any) -> Json:
        job_id = self.submitted(queue, **fields)
        lease = self.leased(queue)
        assert lease["job_id"] == job_id
        return lease

    def drained(self, *queues: str, most: int = 1000, **fields: object) -> list[Json]:
        """Lease everything that can be leased now, in the order in which it comes."""
        leases: list[Json] = []
        while (answer := self.lease(*queues, max=most, **fields)).status == 200:
            jobs = answer.json["jobs"]
            assert 1 <= len(jobs) <= most
            leases += jobs
        assert answer.status == 404, answer
        return leases

    def nothing_to_lease(self, *queues: str) -> bool:
        answer = self.lease(*queues)
        if answer.status == 404:
            assert answer.json == {"error": "no jobs available"}
        return answer.status == 404

    # What a worker says of its lease ---------------------------------------------------

    def ack(self, lease: Json, **fields: object) -> Answer:
        return self._of_lease("ack", lease, fields)

    def acked(self, lease: Json, **fields: object) -> None:
        answer = self.ack(lease, **fields)
        assert (answer.status, answer.body) == (200, b""), answer

    def failed(self, lease: Json, error: str = "boom", **fields: object) -> None:
        self.acked(lease, result_error=error, **fields)

    def extend(self, lease: Json, **fields: object) -> Answer:
        return self._of_lease("extend", lease, fields)

    def release(self, lease: Json, **fields: object) -> Answer:
        return self._of_lease("release", lease, fields)

    def ack_many(self, acks: Sequence[object]) -> Answer:
        return self.call("POST", "/jobs/ack", {"acks": acks}, key="worker")

    def extend_many(self, extends: Sequence[object]) -> Answer:
        return self.call("POST", "/jobs/extend", {"extends": extends}, key="worker")

    def _of_lease(self, verb: str, lease: Json, fields: Json) -> Answer:
        body = {"lease_token": lease["lease_token"], **fields}
        return self.call("POST", f"/jobs/{lease['job_id']}/{verb}", body, key="worker")

    # Jobs ----------------------------------------------------------------------------

    def get(self, path: str, **query: object) -> Answer:
        return self.call("GET", with_query(path, query), key="client")

    def job(self, job_id: str) -> Json:
        answer = self.get(f"/jobs/{job_id}")
        assert answer.status == 200, answer
        found: Json = answer.json
        return found

    def state(self, job_id: str) -> str:
        state = self.job(job_id)["state"]
        assert isinstance(state, str)
        return state

    def wait_for_state(self, job_id: str, *states: str) -> Json:
        """Poll until the job is in one of ``states``."""
        wait_until(lambda: self.state(job_id) in states, what=f"{job_id} in {states}")
        return self.job(job_id)

    def cancel(self, job_id: str) -> Answer:
        return self.call("POST", f"/jobs/{job_id}/cancel", key="client")

    def retry(self, job_id: str) -> Answer:
        return self.call("POST", f"/jobs/{job_id}/retry", key="client")

    def delete(self, job_id: str) -> Answer:
        return self.call("DELETE", f"/jobs/{job_id}")

    def in_state(self, state: str, queue: str, **fields: Any) -> str:
        """The id of a new job that stays in ``state`` by itself; the queue is empty before."""
        if state == "READY":
            return self.submitted(queue, **fields)
        if state == "SCHEDULED":
            return self.submitted(queue, delay="1h", **fields)
        if state == "CANCELLED":
            job_id = self.submitted(queue, **fields)
            assert self.cancel(job_id).status in DONE
            return job_id
        lease = self.submitted_and_leased(queue, **fields)
        match state:
            case "RUNNING":
                pass
            case "RETRY":
                self.failed(lease, retry_in="1h")
            case "ACKED":
                self.acked(lease, result="r")
            case "DEAD":
                self.failed(lease, retry=False)
            case _:
                raise ValueError(state)
        job_id = str(lease["job_id"])
        assert self.state(job_id) == state
        return job_id

    # Lists and queues ------------------------------------------------------------------

    def pages(self, limit: int | None = None, **filters: object) -> Iterator[list[Json]]:
        """Walk the list from its start to its end."""
        query = {**filters, **({} if limit is None else {"limit": limit})}
        cursor: str | None = None
        seen: set[str] = set()
        while True:
            answer = self.get("/jobs", **query, **({} if cursor is None else {"cursor": cursor}))
            assert answer.status == 200, answer
            assert set(answer.json) >= {"jobs", "next_cursor"}
            yield answer.json["jobs"]
            cursor = answer.json["next_cursor"]
            if cursor is None:
                return
            assert isinstance(cursor, str)
            assert cursor not in seen, "the walk goes in a circle"
            seen.add(cursor)

    def listed(self, limit: int | None = None, **filters: object) -> list[str]:
        """The ids of a whole walk."""
        return [one["job_id"] for page in self.pages(limit, **filters) for one in page]

    def queues(self) -> dict[str, Json]:
        """``GET /queues`` by name; API.md leaves open whether the array has an envelope."""
        answer = self.get("/queues")
        assert answer.status == 200, answer
        listed = answer.json["queues"] if isinstance(answer.json, dict) else answer.json
        return {one["queue"]: one for one in listed}

    def queue(self, name: str) -> Json:
        answer = self.get(f"/queues/{quote(name)}")
        assert answer.status == 200, answer
        found: Json = answer.json
        return found

    def counts(self, queue: str) -> dict[str, int]:
        """Jobs by state, without the states that none is in."""
        answer = self.get(f"/queues/{quote(queue)}")
        if answer.status == 404:
            return {}  # nothing was ever there
        assert answer.status == 200, answer
        return without_zeros(answer.json["counts"])

    def all_counts(self) -> dict[str, dict[str, int]]:
        """The same of every queue that has jobs."""
        counted = {name: without_zeros(one["counts"]) for name, one in self.queues().items()}
        return {name: counts for name, counts in counted.items() if counts}

    def of_queue(self, method: str, queue: str, verb: str, *, key: str = "admin") -> Answer:
        """One of an operator's calls: ``of_queue("POST", "q", "pause")``."""
        return self.call(method, f"/queues/{quote(queue)}/{verb}", key=key)

    def pause(self, queue: str) -> None:
        answer = self.of_queue("POST", queue, "pause")
        assert answer.status in DONE, answer

    def resume(self, queue: str) -> None:
        answer = self.of_queue("POST", queue, "resume")
        assert answer.status in DONE, answer


def job(queue: str | None = None, **fields: object) -> Json:
    """The body of a submit."""
    named = {} if queue is None else {"queue": queue}
    return {"payload": "x", **named, **fields}


def new_name(prefix: str = "q") -> str:
    """A name that no other test of this process has: for a queue, a group or a key."""
    return f"{prefix}-{next(_numbers)}"


def held(lease: Json, **fields: object) -> Json:
    """An item of many: which lease it is about, and the rest."""
    return {"job_id": lease["job_id"], "lease_token": lease["lease_token"], **fields}


def ids(leases: Collection[Json]) -> list[str]:
    return [lease["job_id"] for lease in leases]


def statuses(answer: Answer) -> list[int]:
    """Of every item of an answer to many."""
    assert answer.status == 200, answer
    return [result["status"] for result in answer.json["results"]]


def token(lease: Json) -> int:
    """The fencing number of a lease."""
    text = lease["lease_token"]
    assert isinstance(text, str)
    assert re.fullmatch(r"\d+", text, re.ASCII), text
    return int(text)


def moment(text: object) -> datetime:
    """A time of an answer."""
    assert isinstance(text, str)
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def with_query(path: str, query: Mapping[str, object]) -> str:
    return f"{path}?{urlencode(query, doseq=True)}" if query else path


def without_zeros(counts: Mapping[str, int]) -> dict[str, int]:
    return {state: count for state, count in counts.items() if count}


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make all the calls at the same time; their answers in order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(one) for one in calls]
        return [future.result(DEADLINE_S) for future in futures]


class Stopwatch:
    """How long something took, by this process's clock."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self._started_at

    def has_passed(self, least_s: float) -> bool:
        """Whether at least so much has passed, as far as the clocks of two processes agree."""
        return self.passed_s >= least_s - CLOCK_STEP.total_seconds()


def _encoded(body: object) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    return json.dumps(body).encode()


def _lease_body(queues: Sequence[str], fields: Mapping[str, object]) -> Json | None:
    body = {**({"queues": list(queues)} if queues else {}), **fields}
    return body or None


def _id_of(answer: Answer) -> str:
    assert answer.status == 201, answer
    job_id = answer.json["job_id"]
    assert isinstance(job_id, str)
    return job_id


def _read(connection: http.client.HTTPConnection) -> Answer:
    answer = connection.getresponse()
    content = answer.read()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return Answer(answer.status, headers, content)
