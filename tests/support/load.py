"""Clients that work on a node while it is killed, and note everything in a ``History``.

Plain threads with keep-alive connections of ``http.client``: nothing of ours stands between
what the node sends and what is noted.
"""

import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from tests.support.history import History, Lease, Report, Submit, View
from tests.support.node import RunningNode

_TIMEOUT_S = 120.0
_PAUSE_S = 0.01
_WAITING_MAX = 400
"""Jobs that submitters leave unfinished: the load is to go round, not to pile up."""


def now_ms() -> int:
    """Wall time."""
    return time.time_ns() // 1_000_000


class Caller:
    """One keep-alive connection, made anew whenever it breaks."""

    def __init__(self, node: RunningNode, key: str) -> None:
        self.unanswered = 0
        """Calls whose answer never came."""
        self._port = node.port
        self._headers = {"Authorization": f"Bearer {node.keys[key]}"}
        self._connection: http.client.HTTPConnection | None = None

    def call(self, method: str, path: str, body: object = None) -> tuple[int | None, Any]:
        """Status and JSON; status None when no answer came: anything may have happened."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=_TIMEOUT_S
            )
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            self._connection.request(method, path, data, self._headers)
            # The connection does not close an answer that breaks off and was its last.
            with self._connection.getresponse() as answer:
                text = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            self.unanswered += 1
            # Nobody may listen for the moment; do not spin.
            time.sleep(_PAUSE_S)
            return None, None
        return answer.status, json.loads(text) if text else None

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass(frozen=True)
class Mix:
    """What becomes of a lease, as shares of all; the rest is acked."""

    failed: float = 0.1
    abandoned: float = 0.05
    late: float = 0.02


class Load:
    """Submitters and workers in threads, inside a ``with``; after it all of them have ended."""

    def __init__(
        self,
        node: RunningNode,
        *,
        submitters: int = 3,
        workers: int = 4,
        lease_ms: int = 1000,
        mix: Mix | None = None,
        seed: int = 1,
        broken_disk: bool = False,
    ) -> None:
        """With ``broken_disk``, 500 (a text cannot be read now) counts as no answer."""
        self._broken_disk = broken_disk
        self.history = History.empty()
        self.lost_leases = 0
        """Lease calls whose outcome is unknown to the worker."""
        self.unanswered = 0
        """Calls of all clients whose answer never came; complete after the ``with``."""
        self.settled = 0
        """Reports that were answered with 200."""
        self.faults: list[BaseException] = []
        self._node = node
        self._lease_ms = lease_ms
        self._mix = mix or Mix()
        self._lock = threading.Lock()
        self._submitting = threading.Event()
        self._working = threading.Event()
        self._threads = [
            threading.Thread(target=self._guard, args=(role, number, seed), name=f"{name}{number}")
            for name, role, count in (
                ("submitter", self._submit_until_told, submitters),
                ("worker", self._work_until_told, workers),
            )
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        self._submitting.set()
        self._working.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._submitting.clear()
        self._working.clear()
        for thread in self._threads:
            thread.join()

    def stop_submitting(self) -> None:
        """From now on the workers only finish what is there, and abandon nothing."""
        self._submitting.clear()
        self._mix = Mix(0, 0, 0)

    @property
    def accepted(self) -> list[str]:
        """Ids of the jobs that were answered with 201."""
        return [each.job_id for each in list(self.history.submits) if each.job_id]

    def unfinished(self, job_ids: list[str]) -> list[str]:
        """Those that are neither ACKED nor DEAD, as the node says now."""
        caller = Caller(self._node, "client")
        try:
            return [each for each in job_ids if not _finished(self._read(caller, each).state)]
        finally:
            caller.close()

    def read_all(self) -> None:
        """Note how every job ended; all of the load must be over."""
        caller = Caller(self._node, "client")
        job_ids = {*self.accepted, *(each.job_id for each in self.history.leases)}
        self.history.views = [self._read(caller, each) for each in sorted(job_ids)]
        caller.close()

    # The threads -----------------------------------------------------------------------

    def _guard(self, role: Callable[[int, int], None], number: int, seed: int) -> None:
        try:
            role(number, seed)
        except BaseException as error:
            self.faults.append(error)

    def _submit_until_told(self, number: int, seed: int) -> None:
        draws = random.Random(f"submitter {number} {seed}")
        caller = Caller(self._node, "client")
        turn = 0
        while self._submitting.is_set():
            if len(self.history.submits) - self.settled > _WAITING_MAX:
                time.sleep(_PAUSE_S)
                continue
            turn += 1
            size = draws.choice((0, 10, 300, 5000))
            payload = f"{number}.{turn} \u2603\x00'\"\n" + "x" * size
            max_retries = draws.randint(0, 6)
            body = {"payload": payload, "max_retries": max_retries}
            status, answer = caller.call("POST", "/jobs", body)
            job_id = answer["job_id"] if status == 201 else None
            assert status in (201, 503, None), f"submit: {status} {answer}"
            with self._lock:
                self.history.submits.append(Submit(payload, max_retries, job_id))
        self._end(caller)

    def _work_until_told(self, number: int, seed: int) -> None:
        draws = random.Random(f"worker {number} {seed}")
        caller = Caller(self._node, "worker")
        while self._working.is_set():
            status, answer = self._call(caller, "/jobs/lease")
            if status == 200:
                self._work(caller, draws, self._note_lease(answer))
                continue
            assert status in (404, 503, None), f"lease: {status} {answer}"
            if status != 404:
                with self._lock:
                    self.lost_leases += 1
            time.sleep(_PAUSE_S)
        self._end(caller)

    def _call(self, caller: Caller, path: str, body: object = None) -> tuple[int | None, Any]:
        status, answer = caller.call("POST", path, body)
        if status == 500 and self._broken_disk:
            return None, None
        return status, answer

    def _end(self, caller: Caller) -> None:
        with self._lock:
            self.unanswered += caller.unanswered
        caller.close()

    def _note_lease(self, answer: Any) -> Lease:
        lease = Lease(
            answer["job_id"],
            int(answer["lease_token"]),
            answer["attempt"],
            answer["payload"],
            _ms_of(answer["lease_until"]),
        )
        with self._lock:
            self.history.leases.append(lease)
        return lease

    def _work(self, caller: Caller, draws: random.Random, lease: Lease) -> None:
        mix, draw = self._mix, draws.random()
        if draw < mix.abandoned:
            return
        if draw < mix.abandoned + mix.late:
            # A worker that is slower than its lease: what it says must change nothing.
            time.sleep(self._lease_ms * draws.uniform(0.8, 1.2) / 1000)
        failed = draws.random() < mix.failed
        # A worker whose report was not answered sends it again until it is.
        while self._working.is_set() and not self._report(caller, lease, failed=failed):
            pass

    def _report(self, caller: Caller, lease: Lease, *, failed: bool) -> bool:
        """Send one report; whether the answer was a definite one."""
        text = f"{lease.job_id}/{lease.token}/{'failed' if failed else 'done'}"
        body = {
            "lease_token": str(lease.token),
            "result_error" if failed else "result": text,
        }
        asked_ms = now_ms()
        status, answer = self._call(caller, f"/jobs/{lease.job_id}/ack", body)
        assert status in (200, 409, 503, None), f"ack: {status} {answer}"
        with self._lock:
            self.history.reports.append(
                Report(lease.job_id, lease.token, failed, text, asked_ms, status)
            )
            self.settled += status == 200
        if status in (503, None):
            time.sleep(_PAUSE_S)
        return status in (200, 409)

    @staticmethod
    def _read(caller: Caller, job_id: str) -> View:
        while True:
            status, answer = caller.call("GET", f"/jobs/{job_id}")
            match status:
                case 200:
                    return View(
                        job_id,
                        answer["state"],
                        answer["attempts"],
                        answer.get("result"),
                        answer.get("result_error"),
                    )
                case 404:
                    return View(job_id, None)
                case _:
                    assert status in (503, None), f"read: {status} {answer}"


def _finished(state: str | None) -> bool:
    # A job that is not there will not get any better.
    return state in ("ACKED", "DEAD", None)


def _ms_of(time_text: str) -> int:
    moment = datetime.fromisoformat(time_text)
    return round(moment.timestamp() * 1000)
