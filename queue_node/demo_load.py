"""The load of the demo: submits a job for each file, reads every result back, checks it.

Several threads submit and several read, as fast as they can: nobody waits for the workers
before the next submit. The time from submit to done therefore holds the time in the queue,
and ends when the submitting side has read the result.

``lost`` is a job that was accepted (201) and then is not there or does not get done. A submit
whose outcome is not known (the connection broke before the answer) is sent again: the job may
then exist twice, which is counted as ``possibly_doubled`` and nothing else.
"""

import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from queue_node.demo_worker import describe
from queue_node_sdk import (
    Client,
    Job,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    ServerError,
    Timeout,
    Unreachable,
)

MAX_RETRIES: Final = 6
"""Attempts of a job: a kill costs one at most, and a file that vanished has it all told soon."""

_SUBMITTERS: Final = 2
_READERS: Final = 3
"""Guess: enough that waiting for the node is not what limits; the CPU is."""
_STALL_SECONDS: Final = 60.0
"""When no job at all got done for so long, those that are left are lost."""
_WAIT_SECONDS: Final = 5.0
_COMPLAINTS_MAX: Final = 10


class Report(msgspec.Struct, kw_only=True):
    """What came of it; ``--json`` prints it as it is."""

    jobs: int = 0
    """Jobs accepted and read back as done."""
    seconds: float = 0.0
    """From the first submit to the last result."""
    jobs_per_second: float = 0.0
    p50_ms: float = 0.0
    """From a job's submit to its result, time in the queue included."""
    p99_ms: float = 0.0
    retries: int = 0
    """Attempts beyond the first, of all jobs."""
    lost: int = 0
    wrong: int = 0
    """Results that differ from a direct computation."""
    possibly_doubled: int = 0
    """Submits sent again because the first one's outcome was not known."""
    changed: int = 0
    """Files that changed, or could not be read, meanwhile: their results prove nothing."""
    skipped: int = 0
    """Files that could not be read from the first; no job was made."""
    killed: list[str] = msgspec.field(default_factory=list)
    complaints: list[str] = msgspec.field(default_factory=list)
    """About the first of what was lost or wrong."""

    @property
    def good(self) -> bool:
        """Nothing lost and nothing wrong."""
        return self.lost == 0 and self.wrong == 0


class _Submitted(msgspec.Struct, frozen=True):
    path: str
    signature: tuple[int, int, int] | None
    job_id: str
    at: float


class Load:
    """One run over ``paths``; ``start()``, then look at it until ``finished``.

    Args:
        client: of the node; all threads share it.
        paths: of the files, as ``os.fsdecode`` gives them.
        kills: for chaos, what to call one after another in the middle of the run; each says
            what it killed.
    """

    def __init__(
        self, client: Client, paths: Sequence[str], kills: Sequence[Callable[[], str]] = ()
    ) -> None:
        self._client = client
        self._paths = paths
        self._report = Report()
        self._times_ms: list[float] = []
        self._lock = threading.Lock()
        self._next = 0
        self._submitted: queue.SimpleQueue[_Submitted | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._finished = threading.Event()
        self._began = self._last_done = 0.0
        total = len(paths)
        # Two kills: when a quarter and when a half is done. The last quarter is not
        # submitted before, so that a short run has its kills in the middle as well.
        self._kills = [
            (total * number // (2 * len(kills)), kill) for number, kill in enumerate(kills, 1)
        ]
        self._held_from = math.ceil(total * 3 / 4) if kills else total
        self._all_killed = threading.Event()
        self.submitted = 0
        self.done = 0

    def start(self) -> None:
        """Begin, in threads that end with the run."""
        self._began = self._last_done = time.monotonic()
        self._kill_what_is_due()
        submitters = [threading.Thread(target=self._guarded, args=(self._submit_all,), daemon=True)
                      for _ in range(_SUBMITTERS)]  # fmt: skip
        readers = [threading.Thread(target=self._guarded, args=(self._read_all,), daemon=True)
                   for _ in range(_READERS)]  # fmt: skip

        def see_to_the_end() -> None:
            for thread in submitters:
                thread.join()
            for _ in readers:
                self._submitted.put(None)
            for thread in readers:
                thread.join()
            self._finished.set()

        for thread in (*submitters, *readers):
            thread.start()
        threading.Thread(target=see_to_the_end, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait for the end for at most ``seconds``; whether it has come.

        Raises:
            QueueNodeError: the node refused what it should not.
        """
        finished = self._finished.wait(seconds)
        if self._failure is not None:
            raise self._failure
        return finished

    @property
    def killed(self) -> Sequence[str]:
        """What chaos has killed so far."""
        return self._report.killed

    def report(self) -> Report:
        """What came of the run, once it is over."""
        report, times = self._report, sorted(self._times_ms)
        report.seconds = round(self._last_done - self._began, 3)
        if times:
            report.jobs_per_second = round(report.jobs / max(report.seconds, 0.001), 1)
            report.p50_ms = round(_percentile(times, 50), 1)
            report.p99_ms = round(_percentile(times, 99), 1)
        return report

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            # Raised in the main thread by wait(), which looks several times a second.
            self._failure = error

    # Submitting

    def _submit_all(self) -> None:
        while (path := self._next_path()) is not None:
            signature = _signature(path)
            at = time.monotonic()
            job_id = self._submit(json.dumps(path))
            with self._lock:
                self.submitted += 1
            self._submitted.put(_Submitted(path, signature, job_id, at))

    def _next_path(self) -> str | None:
        with self._lock:
            index = self._next
            self._next += 1
        if index >= len(self._paths) or self._failure is not None:
            return None
        if index >= self._held_from:
            self._all_killed.wait()
        return self._paths[index]

    def _submit(self, payload: str) -> str:
        give_up_at = time.monotonic() + _STALL_SECONDS
        while True:
            try:
                return self._client.submit(payload, max_retries=MAX_RETRIES)
            except (OutcomeUnknown, ServerError):
                if time.monotonic() > give_up_at:
                    raise
                with self._lock:
                    self._report.possibly_doubled += 1

    # Reading back

    def _read_all(self) -> None:
        while (submitted := self._submitted.get()) is not None and self._failure is None:
            job = self._finished_job(submitted)
            now = time.monotonic()
            if job is not None:
                verdict = _check(submitted, job)
                with self._lock:
                    self._report.jobs += 1
                    self._report.retries += job.attempts - 1
                    self._times_ms.append((now - submitted.at) * 1000)
                    self._last_done = now
                    if verdict == "":
                        self._report.changed += 1
                    elif verdict is not None:
                        self._report.wrong += 1
                        self._complain(f"{submitted.path!r}: {verdict}")
            with self._lock:
                self.done += 1
            self._kill_what_is_due()

    def _finished_job(self, submitted: _Submitted) -> Job | None:
        """Wait until the job is done; ``None`` when it is lost."""
        while True:
            try:
                return self._client.wait_for_completion(submitted.job_id, timeout=_WAIT_SECONDS)
            except NotFound as error:
                reason = str(error)
                break
            except (Timeout, Unreachable, Overloaded, ServerError) as error:
                # Others got done meanwhile, so this one is only waiting for its turn.
                if time.monotonic() - self._last_done > _STALL_SECONDS:
                    reason = f"{error}, and nothing else got done either"
                    break
        with self._lock:
            self._report.lost += 1
            self._complain(f"{submitted.path!r}: lost: {reason}")
        return None

    def _complain(self, complaint: str) -> None:
        if len(self._report.complaints) < _COMPLAINTS_MAX:
            self._report.complaints.append(complaint)

    def _kill_what_is_due(self) -> None:
        with self._lock:
            while self._kills and self.done >= self._kills[0][0]:
                _, kill = self._kills.pop(0)
                self._report.killed.append(kill())
        if not self._kills:
            self._all_killed.set()


def _check(submitted: _Submitted, job: Job) -> str | None:
    """``None``: right. "": the file changed, nobody can tell. Else what is wrong."""
    try:
        expected = describe(submitted.path)
    except OSError:
        return ""
    if job.succeeded and job.result is not None and json.loads(job.result) == expected:
        return None
    if submitted.signature is None or submitted.signature != _signature(submitted.path):
        return ""
    if not job.succeeded:
        return f"{job.state}: {job.result_error}"
    return f"the result is {job.result}, should be {json.dumps(expected)}"


def _signature(path: str) -> tuple[int, int, int] | None:
    """What changes when a file does; ``None`` when it is gone."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """By nearest rank."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def find_files(root: str, limit: int | None, without: frozenset[str]) -> tuple[list[str], int]:
    """Regular files at or below ``root``, in order, and how many cannot be read.

    Symbolic links are not followed, folders named in ``without`` are left out. ``limit``
    bounds the files that are returned.
    """
    found: list[str] = []
    unreadable = 0
    for path in _regular_files(root, without):
        if limit is not None and len(found) >= limit:
            break
        if os.access(path, os.R_OK):
            found.append(path)
        else:
            unreadable += 1
    return found, unreadable


def _regular_files(root: str, without: frozenset[str]) -> Iterator[str]:
    if Path(root).is_file():
        yield root
        return
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in without)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path
