"""A client that records what is submitted and sends nothing: for tests of who submits.

    fake = FakeClient()
    order(fake)
    assert [job.payload for job in fake.submits] == ["..."]

What is submitted is checked as the real client checks it before it sends; what only a node can
refuse is not. Nobody works on the jobs: ``finish`` and ``fail`` say what became of one.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, Unpack
from uuid import uuid4

import msgspec

from queue_node_sdk.errors import NotFound, Timeout
from queue_node_sdk.models import Job, JobState
from queue_node_sdk.options import JobOptions, Submit, submit_body

_DEFAULT_RETRIES = 3
_THEN = datetime(2000, 1, 1, tzinfo=UTC)
"""``created_at`` of every job: a test that looks at it should not depend on the time."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job as it was submitted."""

    job_id: str
    payload: str
    options: JobOptions

    @property
    def queue(self) -> str:
        """Where it went."""
        return self.options.get("queue") or "default"


class FakeClient:
    """Stands for a ``Client`` where jobs are submitted. Any number of threads may use it."""

    def __init__(self) -> None:
        self.submits: list[Submitted] = []
        """In order; what an idempotency key repeated is not in it again."""
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[tuple[str, str], str] = {}

    def submit(self, payload: str, **options: Unpack[JobOptions]) -> str:
        """Record a job.

        Raises:
            BadRequest: the job could not be sent.
        """
        return self._record([Submit(payload, **options)])[0]

    def submit_many(self, jobs: Iterable[str | Submit], **options: Unpack[JobOptions]) -> list[str]:
        """Record jobs, all or none.

        Raises:
            BadRequest: one of them could not be sent.
        """
        return self._record(
            [
                Submit(job.payload, **_both(options, job.options))
                if isinstance(job, Submit)
                else Submit(job, **options)
                for job in jobs
            ]
        )

    def get(self, job_id: str) -> Job:
        """The job: READY, or what ``finish`` or ``fail`` made of it.

        Raises:
            NotFound: it was not submitted here.
        """
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(f"job {job_id} not found", status=404)
        return job

    def wait(self, job_id: str, timeout: float | None = 60.0) -> Job:
        """The job, if it is finished.

        Raises:
            Timeout: it is not, and waiting would not help: nobody works here.
            NotFound: it was not submitted here.
        """
        job = self.get(job_id)
        if not job.finished:
            shown = "for ever" if timeout is None else f"{timeout:g} s"
            raise Timeout(f"job {job_id} is {job.state} after {shown} (fake: see finish())")
        return job

    wait_for_completion = wait

    # What a test says

    def finish(self, job_id: str, result: str | None = None) -> None:
        """The job was done.

        Raises:
            NotFound: it was not submitted here.
        """
        self._end(job_id, JobState.ACKED, result=result)

    def fail(self, job_id: str, error: str) -> None:
        """The job is DEAD.

        Raises:
            NotFound: it was not submitted here.
        """
        self._end(job_id, JobState.DEAD, result_error=error)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self.submits.clear()
            self._jobs.clear()
            self._by_key.clear()

    def close(self) -> None:
        """Nothing to close; the records stay."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _record(self, jobs: list[Submit]) -> list[str]:
        for job in jobs:
            submit_body(job.payload, job.options, "key")  # refuses what cannot be sent
        with self._lock:
            return [self._record_one(job) for job in jobs]

    def _record_one(self, submit: Submit) -> str:
        options = submit.options
        queue = options.get("queue") or "default"
        key = options.get("idempotency_key")
        if key and (known := self._by_key.get((queue, key))) is not None:
            return known
        job_id = str(uuid4())
        if key:
            self._by_key[queue, key] = job_id
        retries = options.get("max_retries")
        self.submits.append(Submitted(job_id, submit.payload, options))
        self._jobs[job_id] = Job(
            job_id=job_id,
            state=JobState.READY,
            attempts=0,
            max_retries=_DEFAULT_RETRIES if retries is None else retries,
            created_at=_THEN,
            queue=queue,
            priority=options.get("priority") or 0,
            tags=dict(options.get("tags") or {}),
            group=options.get("group") or "",
        )
        return job_id

    def _end(
        self,
        job_id: str,
        state: JobState,
        *,
        result: str | None = None,
        result_error: str | None = None,
    ) -> None:
        job = self.get(job_id)
        ended = msgspec.structs.replace(
            job, state=state, attempts=1, result=result, result_error=result_error
        )
        with self._lock:
            self._jobs[job_id] = ended


def _both(general: JobOptions, own: JobOptions) -> JobOptions:
    """The options of all jobs, and on top of them those of one."""
    both = general.copy()
    both.update(own)
    return both
