"""The clients of a soak: submitters, workers and readers, which note everything in a ledger.

Plain threads with keep-alive connections of ``http.client``: nothing of ours stands between
what the node sends and what is noted. The rate is the submitters'; they pause while more than
``_OPEN_MAX`` jobs have not ended, so a node that stands still does not fill up.
"""

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from partitions.clock import wall_ms
from queue_node.errors import NodeError
from queue_node.soak.history import Lease, View
from queue_node.soak.ledger import Ledger

_T = TypeVar("_T")

_TIMEOUT_S: Final = 20.0
_PAUSE_S: Final = 0.02
_OPEN_MAX: Final = 1_000
_HOUSEKEEPING_S: Final = 10.0

_FAILED: Final = 0.1
_ABANDONED: Final = 0.05
_LATE: Final = 0.02
_RESENT: Final = 0.05
"""Shares of the leases: the attempt fails; the worker dies; it reports when the lease ends,
plus or minus a fifth; it sends its ack again. The rest is acked."""

_KEYED: Final = 0.25
"""Share of the submits that have an idempotency key and a group."""
_REUSED: Final = 0.2
"""Share of those whose key is used again, for the same body and for others."""
_GROUPS: Final = 100
_SENT_AGAIN_WITHIN_S: Final = 8.0
"""From the first use of a key to the last. No longer: once the job is forgotten the key makes
another one, and a message may lie with stopped processes for a while."""

_SIZES: Final = (0, 10, 300, 300, 1_000, 5_000)
_LARGE_BYTES: Final = 100_000
_LARGE: Final = 0.01
_WORDS: Final = "\u2603\x00'\"\\\n\u00e4\U0001f40c "
"""What encoders get wrong: it is in every text."""


@dataclass(frozen=True)
class Target:
    """Where the node is."""

    port: int
    client_key: str
    worker_key: str


@dataclass(frozen=True)
class Answer:
    """What came back; ``status`` None: nothing, and anything may have happened."""

    status: int | None
    body: Any = None
    nothing_happened: bool = False
    """The node vouches for it: a refusal, or a 503 with Retry-After."""


@dataclass(frozen=True)
class Crew:
    """How many clients of each kind, and what they do together."""

    rate: float = 60.0
    """Jobs submitted a second."""
    submitters: int = 4
    workers: int = 12
    readers: int = 2
    lease_ms: int = 2_000
    retention_ms: int = 30_000
    seed: int = 1


class Caller:
    """One keep-alive connection, made anew whenever it breaks."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {key}"}
        self._connection: http.client.HTTPConnection | None = None

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        """Ask, and wait for the answer."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=_TIMEOUT_S
            )
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            self._connection.request(method, path, data, self._headers)
            # The connection does not close an answer that breaks off and was its last.
            with self._connection.getresponse() as response:
                text = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            # Nobody may listen for the moment; do not spin.
            time.sleep(_PAUSE_S)
            return Answer(None)
        status = response.status
        safe = 400 <= status < 500 or status == 507
        if status == 503:
            safe = response.getheader("Retry-After") is not None
        return Answer(status, json.loads(text) if text else None, safe)

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Load:
    """All clients in threads, inside a ``with``; after it all of them have ended."""

    def __init__(self, target: Target, ledger: Ledger, crew: Crew) -> None:
        self._target = target
        self._ledger = ledger
        self._crew = crew
        self._lock = threading.Lock()
        self._submitted = threading.Event()
        self._going = threading.Event()
        self._at_ease = False
        self._extra = 0
        self._extra_draws = random.Random(f"extra {crew.seed}")
        self.faults: list[BaseException] = []
        """Bugs of the clients themselves."""
        roles = (
            ("submitter", self._submit, crew.submitters),
            ("worker", self._work, crew.workers),
            ("reader", self._read, crew.readers),
        )
        threads = {
            name: [
                threading.Thread(
                    target=self._guard, args=(role, name, number), name=f"{name}{number}"
                )
                for number in range(count)
            ]
            for name, role, count in roles
        }
        self._submitters = threads["submitter"]
        self._threads = [thread for each in threads.values() for thread in each]

    def __enter__(self) -> Self:
        self._going.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._submitted.set()
        self._going.clear()
        for thread in self._threads:
            thread.join()

    def stop_submitting(self) -> None:
        """Return when no submit is under way any more; from then on none follows.

        The workers only finish what is there from now on, and abandon nothing.
        """
        self._submitted.set()
        self._at_ease = True
        for thread in self._submitters:
            thread.join()

    def submit_now(self) -> None:
        """Try to submit one job from this thread, however many have not ended."""
        caller = Caller(self._target.port, self._target.client_key)
        self._extra += 1
        self._submit_one(caller, self._extra_draws, f"extra.{self._extra}")
        caller.close()

    def with_ledger(self, do: Callable[[Ledger], _T]) -> _T:
        """Look into the ledger while nobody writes to it."""
        with self._lock:
            return do(self._ledger)

    # The threads --------------------------------------------------------------------------

    def _guard(self, role: Callable[[random.Random, int], None], name: str, number: int) -> None:
        try:
            role(random.Random(f"{name} {number} {self._crew.seed}"), number)
        except BaseException as error:
            self.faults.append(error)

    def _submit(self, draws: random.Random, number: int) -> None:
        caller = Caller(self._target.port, self._target.client_key)
        interval_s = self._crew.submitters / self._crew.rate
        next_s = time.monotonic()
        turn = 0
        while True:
            next_s = max(next_s + interval_s, time.monotonic() - 1)
            if self._submitted.wait(max(0.0, next_s - time.monotonic())):
                break
            if self._ledger.open < _OPEN_MAX:
                turn += 1
                self._submit_one(caller, draws, f"{number}.{turn}")
        caller.close()

    def _submit_one(self, caller: Caller, draws: random.Random, key: str) -> None:
        payload = _text(key, draws)
        max_retries = draws.randint(0, 6)
        body: dict[str, object] = {"payload": payload, "max_retries": max_retries}
        with self._lock:
            self._ledger.submitting(payload, max_retries, wall_ms())
        if draws.random() < _KEYED:
            body |= {"idempotency_key": key, "group": f"g{draws.randrange(_GROUPS)}"}
            self._submit_keyed(caller, draws, key, body)
            return
        answer = caller.call("POST", "/jobs", body)
        self._note_submit(key, answer, (201,))
        if answer.status != 201:
            time.sleep(_PAUSE_S)

    def _note_submit(self, key: str, answer: Answer, accepted: Collection[int]) -> None:
        with self._lock:
            if answer.status in accepted:
                self._ledger.submitted(key, answer.body["job_id"], wall_ms())
            elif answer.nothing_happened:
                self._ledger.not_submitted(key)
            self._ledger.counts.full += answer.status == 507
            if answer.status not in (*accepted, 503, 507, None):
                self._ledger.strange(key, f"submit: {answer.status} {answer.body}")

    def _submit_keyed(
        self, caller: Caller, draws: random.Random, key: str, body: Mapping[str, object]
    ) -> None:
        """Submit until it is known what came of it; whatever did is one job."""
        last_s = time.monotonic() + _SENT_AGAIN_WITHIN_S
        answer = self._known_outcome(caller, body, last_s)
        # 200 also at the first time: its front may have asked again, under a partition that died.
        self._note_submit(key, answer, (200, 201))
        if answer.status not in (200, 201):
            time.sleep(_PAUSE_S)
            return
        with self._lock:
            self._ledger.counts.keyed += 1
            self._ledger.counts.replayed += answer.status == 200
        if draws.random() < _REUSED:
            self._reuse(caller, key, body, answer.body["job_id"], last_s)

    def _known_outcome(self, caller: Caller, body: Mapping[str, object], last_s: float) -> Answer:
        in_doubt = False
        while (answer := caller.call("POST", "/jobs", body)).status in (503, 507, None):
            in_doubt = in_doubt or not answer.nothing_happened
            if not in_doubt:
                break
            if self._submitted.is_set() or time.monotonic() > last_s:
                # That this one was refused, if it was, says nothing of those before.
                return Answer(None)
            time.sleep(_PAUSE_S)
        return answer

    def _reuse(
        self, caller: Caller, key: str, body: Mapping[str, object], job_id: str, last_s: float
    ) -> None:
        """Use the key of a job again: for other bodies, and for its own."""
        rivals = ({"group": "another"}, {"payload": f"{key}? not what {key} stands for"})
        for other in (*rivals, {}):
            if self._submitted.is_set() or time.monotonic() > last_s:
                return
            answer = caller.call("POST", "/jobs", {**body, **other})
            status = answer.status
            with self._lock:
                if status == 200 and not other:
                    self._ledger.replayed(key, job_id, answer.body["job_id"])
                elif status not in (422 if other else None, 503, 507, None):
                    self._ledger.strange(job_id, f"{key} again: {status} {answer.body}")
                self._ledger.counts.conflicts += status == 422

    def _work(self, draws: random.Random, number: int) -> None:
        del number
        caller = Caller(self._target.port, self._target.worker_key)
        while self._going.is_set():
            self._lease_and_work(caller, draws)
        caller.close()

    def _lease_and_work(self, caller: Caller, draws: random.Random) -> None:
        answer = caller.call("POST", "/jobs/lease")
        if answer.status == 200:
            self._work_on(caller, draws, self._note_lease(answer.body))
            return
        with self._lock:
            if answer.status in (503, None):
                # A partition that died with it may have given a lease: Retry-After says
                # that it can be asked again, not that no attempt was used up.
                self._ledger.counts.lost_leases += 1
            elif answer.status not in (404, 507):
                self._ledger.strange("lease", f"{answer.status} {answer.body}")
        time.sleep(_PAUSE_S)

    def _note_lease(self, body: Mapping[str, Any]) -> Lease:
        lease = Lease(
            body["job_id"],
            int(body["lease_token"]),
            body["attempt"],
            body["payload"],
            _ms_of(body["lease_until"]),
        )
        with self._lock:
            self._ledger.leased(lease, wall_ms())
        return lease

    def _work_on(self, caller: Caller, draws: random.Random, lease: Lease) -> None:
        draw, failed = draws.random(), draws.random() < _FAILED
        if not self._at_ease:
            if draw < _ABANDONED:
                return
            if draw < _ABANDONED + _LATE:
                # A worker that is slower than its lease: what it says must change nothing.
                time.sleep(self._crew.lease_ms * draws.uniform(0.8, 1.2) / 1000)
        what = "failed" if failed else "done"
        text = _text(f"{lease.job_id}/{lease.token}/{what}", draws)
        # A worker whose report was not answered sends it again until it is.
        while (status := self._report(caller, lease, text, failed=failed)) not in (200, 400, 409):
            if not self._going.is_set():
                return
        if status == 200 and not failed and draws.random() < _RESENT:
            self._report(caller, lease, text, failed=False)
            self._report(caller, lease, text + "?", failed=False)
            with self._lock:
                self._ledger.counts.resent += 1

    def _report(self, caller: Caller, lease: Lease, text: str, *, failed: bool) -> int | None:
        """Send one report; its status."""
        job_id = lease.job_id
        with self._lock:
            number = self._ledger.reporting(
                job_id, lease.token, text, asked_ms := wall_ms(), failed=failed
            )
        body = {"lease_token": str(lease.token), "result_error" if failed else "result": text}
        answer = caller.call("POST", f"/jobs/{job_id}/ack", body)
        status = answer.status
        forgotten = status == 400 and asked_ms > lease.lease_until_ms + self._crew.retention_ms
        with self._lock:
            self._ledger.reported(
                job_id, number, status, wall_ms(), refused=answer.nothing_happened
            )
            if status not in (200, 409, 503, 507, None) and not forgotten:
                self._ledger.strange(job_id, f"report: {status} {answer.body}")
        if status in (503, 507, None):
            time.sleep(_PAUSE_S)
        return status

    def _read(self, draws: random.Random, number: int) -> None:
        del draws
        caller = Caller(self._target.port, self._target.client_key)
        swept_s = time.monotonic()
        while self._going.is_set():
            with self._lock:
                job_id = self._ledger.next_to_read(wall_ms())
                if number == 0 and time.monotonic() - swept_s > _HOUSEKEEPING_S:
                    swept_s = time.monotonic()
                    self._ledger.forget_old_doubts(wall_ms())
            if job_id is None:
                time.sleep(_PAUSE_S)
            else:
                self._read_one(caller, job_id)
        caller.close()

    def _read_one(self, caller: Caller, job_id: str) -> None:
        asked_ms = wall_ms()
        answer = caller.call("GET", f"/jobs/{job_id}")
        with self._lock:
            if answer.status in (200, 404):
                self._ledger.viewed(_view(job_id, answer), asked_ms, wall_ms())
                return
            self._ledger.not_viewed(job_id, wall_ms())
            if answer.status not in (503, None):
                self._ledger.strange(job_id, f"read: {answer.status} {answer.body}")

    def finish(self, within_s: float) -> None:
        """Work on what has not ended, and read it until it has; the threads must have ended.

        A submit whose answer was lost becomes a job as late as a worker leases it, which may be
        in the last moment of workers and readers.
        """
        give_up_at_s = time.monotonic() + within_s
        draws = random.Random(f"finish {self._crew.seed}")
        self._going.set()  # of the threads none is there any more to see it
        with closing(Caller(self._target.port, self._target.worker_key)) as caller:
            while (left := self._ledger.unfinished()) and time.monotonic() < give_up_at_s:
                self._lease_and_work(caller, draws)
                self.read_all(left, within_s)
        self._going.clear()

    def read_all(self, job_ids: list[str], within_s: float) -> None:
        """Read these jobs now, each until there is an answer; the threads must have ended.

        Raises:
            NodeError: one of them could not be read in time.
        """
        give_up_at_s = time.monotonic() + within_s
        with closing(Caller(self._target.port, self._target.client_key)) as caller:
            for job_id in job_ids:
                while (answer := caller.call("GET", f"/jobs/{job_id}")).status not in (200, 404):
                    if time.monotonic() > give_up_at_s:
                        what = f"{answer.status} {answer.body}"
                        raise NodeError(f"job {job_id} cannot be read: {what}")
                    time.sleep(_PAUSE_S)
                now_ms = wall_ms()
                self._ledger.viewed(_view(job_id, answer), now_ms, now_ms)


def _text(key: str, draws: random.Random) -> str:
    size = _LARGE_BYTES if draws.random() < _LARGE else draws.choice(_SIZES)
    filler = f"{_WORDS}{draws.getrandbits(64):x} "
    return f"{key} {(filler * (size // len(filler) + 1))[: size + 1]}"


def _view(job_id: str, answer: Answer) -> View:
    if answer.status == 404:
        return View(job_id, None)
    body = answer.body
    return View(
        job_id, body["state"], body["attempts"], body.get("result"), body.get("result_error")
    )


def _ms_of(time_text: str) -> int:
    return round(datetime.fromisoformat(time_text).timestamp() * 1000)
