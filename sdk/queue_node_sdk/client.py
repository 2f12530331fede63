"""The side that submits jobs and waits for their results: a thin shell, synchronous.

Any number of threads may share one ``Client``; what they submit at the same time travels
together (``batching``). ``aclient`` is the same for tasks.
"""

import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, Unpack
from uuid import uuid4

import httpx2

from queue_node_sdk import answers, calls
from queue_node_sdk.batching import Batching, Item
from queue_node_sdk.delivery import Abilities, Delivery
from queue_node_sdk.errors import Overloaded, QueueNodeError, Unreachable
from queue_node_sdk.models import Job, JobState, LeasedJob, QueueInfo, QueueList
from queue_node_sdk.options import Duration, JobOptions, Submit, submit_body
from queue_node_sdk.protocol import Reply
from queue_node_sdk.settings import url_and_key_from_env
from queue_node_sdk.telemetry import traced
from queue_node_sdk.transport import Transport
from queue_node_sdk.waiting import Waiting


class Client:
    """Submits jobs to one node and reads what became of them.

    Connection errors, lost answers, 429 and 503 are got over by trying again, with back-off,
    for ``retry_for`` seconds per call; a longer outage is raised.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        retry_for: float = 30.0,
        request_timeout: float = 10.0,
        verify: ssl.SSLContext | bool = True,
        http_transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: of the node, such as ``http://127.0.0.1:8080``.
            key: a client key (``client_...``) or an admin key.
            retry_for: seconds that one call may take with all its tries.
            request_timeout: seconds that one try may wait for the node.
            verify: how a node's certificate is checked: an ``ssl.SSLContext`` for a
                private authority.
            http_transport: what carries the requests instead of a network: a proxy of your
                own, or a node in the same process.

        Raises:
            ConfigurationError: the URL or the key cannot be right.
        """
        self._retry_for = retry_for
        self._transport = Transport(
            url,
            key,
            request_timeout=request_timeout,
            verify=verify,
            http_transport=http_transport,
        )
        self._lock = threading.Lock()
        """Of ``_batching``."""
        self._node = Abilities()
        self._batching: Batching[threading.Event] = Batching(self._node)

    @classmethod
    def from_env(cls) -> Self:
        """A client for the node in ``QUEUE_NODE_URL``, with the key in ``QUEUE_NODE_KEY``.

        Raises:
            ConfigurationError: one of them is not set, or cannot be right.
        """
        return cls(*url_and_key_from_env())

    # Submitting

    def submit(self, payload: str, **options: Unpack[JobOptions]) -> str:
        """Store a job and return its id. When this returns, the job is on disk.

        Every submit carries an idempotency key, its own or one that is made up, so it is sent
        again until it is answered and never makes a second job. What others submit through
        this client while a request is out goes along with the next one.

        Args:
            payload: any text that is not empty, 1 MiB in UTF-8 at most.
            options: see ``JobOptions``: ``max_retries``, ``queue``, ``priority``, ``delay``,
                ``run_at``, ``ttl``, ``lease_duration``, ``backoff``, ``group``,
                ``idempotency_key``, ``retention``, ``tags``.

        Raises:
            BadRequest: the node does not take this job (``TooLarge``: over its limit;
                ``IdempotencyConflict``: another job was stored under this key).
            AuthError: the key is wrong, or may not submit.
            TlsError: the node's certificate is not trusted; nothing was sent.
            OutcomeUnknown, ServerError: ``retry_for`` is over and no answer came: the job may
                be stored, or not.
            Overloaded, Unreachable, StorageFull: the job is not stored.
        """
        body = _body_of(payload, options)
        item = Item(body, time.monotonic() + self._retry_for, threading.Event())
        with self._lock:
            leads = self._batching.add(item)
        try:
            if not leads:
                item.bell.wait()
            if item.batch is not None:
                self._lead(item)
        except BaseException:
            # Interrupted, above all. Whom it led, another one leads.
            with self._lock:
                woken = self._batching.abandon(item)
            _wake(woken)
            raise
        return _id_or_raise(item.outcome)

    def submit_many(self, jobs: Iterable[str | Submit], **options: Unpack[JobOptions]) -> list[str]:
        """Store jobs and return their ids, in order. When this returns, all are on disk.

        They go in requests of up to 1,000, one after another, each stored whole or not at
        all. A job that is refused is named by its index (``jobs[3]: ...``); the requests
        before its own are stored, and with idempotency keys of your own you may simply
        submit all of them again.

        Args:
            jobs: payloads, or ``Submit("payload", queue=...)``.
            options: of all jobs; those of a ``Submit`` go first.

        Raises:
            QueueNodeError: as ``submit``.
        """
        bodies = [_body_of(job, options) for job in jobs]
        if not bodies:
            return []
        delivery = Delivery(bodies, apart=False, node=self._node)
        self._transport.deliver(delivery, time.monotonic() + self._retry_for)
        return [_id_or_raise(outcome) for outcome in delivery.outcomes]

    def submit_and_wait(
        self,
        payload: str,
        *,
        timeout: float | None = 60.0,
        poll_interval: float = 1.0,
        **options: Unpack[JobOptions],
    ) -> Job:
        """``submit`` and ``wait`` in one; ``timeout`` is for the waiting."""
        job_id = self.submit(payload, **options)
        return self.wait_for_completion(job_id, timeout, poll_interval)

    # Reading

    def get(self, job_id: str) -> Job:
        """The job as it stands now.

        Raises:
            NotFound: the node knows no such job (any more).
        """
        return answers.job_of(self._exchange(calls.status_call(job_id)))

    def get_status(self, job_id: str) -> Job:
        """``get``, by its first name."""
        return self.get(job_id)

    def wait(self, job_id: str, timeout: float | None = 60.0) -> Job:
        """Wait until a job is finished, and return it: done, dead or cancelled.

        The node answers in the moment when it is; nothing is asked over and over.

        Args:
            job_id: what ``submit`` returned.
            timeout: seconds; ``None``: for as long as it takes and the node can be reached.

        Raises:
            Timeout: the job was not finished in time (or the node not reachable until then).
            NotFound: the node knows no such job (any more).
        """
        return self.wait_for_completion(job_id, timeout)

    def wait_for_completion(
        self, job_id: str, timeout: float | None = 60.0, poll_interval: float = 1.0
    ) -> Job:
        """``wait``, by its first name.

        ``poll_interval`` is the longest pause between two looks at a node that does not keep
        a read waiting.
        """
        waiting = Waiting(
            job_id,
            timeout=timeout,
            poll_interval=poll_interval,
            retry_for=self._retry_for,
            now=time.monotonic(),
        )
        while True:
            call, in_all_seconds, failing_seconds = waiting.call(time.monotonic())
            try:
                job = answers.job_of(
                    self._transport.exchange(call, in_all_seconds, failing_seconds)
                )
            except (Unreachable, Overloaded) as error:
                raised = waiting.gave_up(error)
                if raised is error:
                    raise
                raise raised from error
            if job.finished:
                return job
            time.sleep(waiting.pause_seconds(job, time.monotonic()))

    def jobs(
        self,
        *,
        queue: str | None = None,
        state: JobState | str | None = None,
        tag: str | Sequence[str] | Mapping[str, str] | None = None,
        group: str | None = None,
        page_size: int = 100,
    ) -> Iterator[Job]:
        """All jobs that match, oldest first, without their results; asked for page by page.

        A job that is there all the while comes exactly once.

        Args:
            queue: jobs of this queue.
            state: jobs in this state.
            tag: ``"key:value"``, several of them, or a mapping: jobs that have all.
            group: jobs of this group.
            page_size: how many to ask for at once, 1 to 1000.
        """
        cursor: str | None = None
        while True:
            call = calls.list_call(
                queue=queue, state=state, tag=tag, group=group, limit=page_size, cursor=cursor
            )
            page = answers.page_of(self._exchange(call))
            yield from page.jobs
            cursor = page.next_cursor
            if cursor is None:
                return

    # Changing

    def cancel(self, job_id: str) -> Job:
        """Take a job back; a worker that has it learns so at its next word to the node.

        Raises:
            WrongState: it is finished.
            NotFound: the node knows no such job (any more).
        """
        return answers.job_of(self._exchange(calls.cancel_call(job_id)))

    def retry(self, job_id: str) -> Job:
        """Start a DEAD or CANCELLED job again, with its attempts at zero.

        Raises:
            WrongState: it is neither.
            NotFound: the node knows no such job (any more).
            OutcomeUnknown: the answer was lost; ``get`` shows whether it started.
        """
        return answers.job_of(self._exchange(calls.retry_call(job_id)))

    def delete(self, job_id: str) -> None:
        """Forget a finished job (admin key).

        Raises:
            WrongState: it is not finished.
            NotFound: the node knows no such job (any more).
        """
        self._exchange(calls.delete_call(job_id))

    # Working, for those who want no ``Worker``

    def lease(
        self,
        *,
        queues: Sequence[str] | None = None,
        wait: float = 0.0,
        lease_duration: Duration | None = None,
        worker: str = "",
    ) -> LeasedJob | None:
        """Take one job (worker key); ``None``: there is none. For the rest see ``lease_many``."""
        jobs = self.lease_many(
            1, queues=queues, wait=wait, lease_duration=lease_duration, worker=worker
        )
        return jobs[0] if jobs else None

    def lease_many(
        self,
        max_jobs: int,
        *,
        queues: Sequence[str] | None = None,
        wait: float = 0.0,
        lease_duration: Duration | None = None,
        worker: str = "",
    ) -> list[LeasedJob]:
        """Take up to ``max_jobs`` jobs (worker key); none when there are none.

        Each is ours until its ``lease_until``: ``ack``, ``fail`` or ``release`` it by then, or
        ``extend`` its lease, or another worker gets it. A ``Worker`` does all that by itself.

        Args:
            max_jobs: 1 to 1000.
            queues: in order of preference; ``None``: ``default``.
            wait: seconds that the node may keep us waiting until there is work, 60 at most.
            lease_duration: how long they are ours; ``None``: as the job or the node says.
            worker: a name, which shows in the job.

        Raises:
            OutcomeUnknown: the answer was lost. Jobs may be leased; they come back when their
                leases end.
        """
        call = calls.lease_call(queues, max_jobs, wait, lease_duration, worker)
        return answers.leases_of(self._exchange(call))

    def ack(self, job: LeasedJob, result: str | None = None) -> None:
        """The job is done. The same ack sent again changes nothing.

        Raises:
            LeaseLost: the lease ended, and another worker may have the job
                (``JobCancelled``: it was cancelled).
            TooLarge: the result is over the node's limit.
            BadRequest, NotFound: there is no such job (any more).
        """
        self._exchange(calls.ack_call(job, result=result))

    def fail(
        self,
        job: LeasedJob,
        error: str,
        *,
        retry: bool = True,
        retry_in: Duration | None = None,
    ) -> None:
        """The attempt failed.

        Args:
            job: what was leased.
            error: why; it shows in the job.
            retry: whether there may be another attempt; else the job is DEAD now.
            retry_in: the pause before it; ``None``: the job's backoff.

        Raises:
            QueueNodeError: as ``ack``.
        """
        self._exchange(calls.fail_call(job, error, retry=retry, retry_in=retry_in))

    def extend(
        self,
        job: LeasedJob,
        lease_duration: Duration | None = None,
        *,
        progress: float | str | None = None,
    ) -> datetime:
        """Keep a job for longer; the new end of its lease, by the node's clock.

        Args:
            job: what was leased.
            lease_duration: from now on; ``None``: as long as it was leased for.
            progress: a number from 0 to 100, or text, which shows in the job.

        Raises:
            LeaseLost: the lease has ended (``JobCancelled``: the job was cancelled).
            BadRequest: the job has no lease token, as its node knows none.
        """
        call = calls.extend_call(job, lease_duration, progress)
        return answers.extended_until(self._exchange(call))

    def release(self, job: LeasedJob, delay: Duration | None = None) -> None:
        """Give a job back, for another worker; the attempt does not count.

        Args:
            job: what was leased.
            delay: how long nobody gets it; ``None``: at once.

        Raises:
            LeaseLost: the lease has ended (``JobCancelled``: the job was cancelled).
            BadRequest: the job has no lease token, as its node knows none.
            OutcomeUnknown: the answer was lost.
        """
        self._exchange(calls.release_call(job.job_id, calls.token_of(job), delay))

    # Queues

    def queues(self) -> QueueList:
        """All queues, by name; its ``unavailable`` are the partitions that did not answer."""
        return answers.queues_of(self._exchange(calls.QUEUES_CALL))

    def queue(self, name: str) -> QueueInfo:
        """One queue: counts by state, age of the oldest ready job, rates."""
        return answers.queue_of(self._exchange(calls.queue_call(name)))

    def pause(self, queue: str) -> QueueInfo:
        """No leases of this queue any more; submits go on (admin key)."""
        return answers.queue_of(self._exchange(calls.pause_call(queue)))

    def resume(self, queue: str) -> QueueInfo:
        """Leases of this queue again (admin key)."""
        return answers.queue_of(self._exchange(calls.resume_call(queue)))

    def retry_dead(self, queue: str) -> int:
        """Start all DEAD jobs of a queue again (admin key); how many there were."""
        return answers.count_of(self._exchange(calls.retry_dead_call(queue)))

    def purge(self, queue: str, state: JobState | str = JobState.DEAD) -> int:
        """Forget all jobs of a queue in a state, any but RUNNING (admin key); how many."""
        return answers.count_of(self._exchange(calls.purge_call(queue, state)))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        # Never the key.
        return f"Client({self._transport.url!r})"

    def _exchange(self, call: calls.Call) -> Reply:
        # What the node lets wait on purpose is not counted as patience.
        return self._transport.exchange(
            call,
            self._retry_for + call.wait_seconds,
            self._retry_for if call.wait_seconds else None,
        )

    def _lead(self, leader: Item[threading.Event]) -> None:
        """Send what has come together, and wake those whom it concerns."""
        batch, delivery = leader.batch, leader.delivery
        assert batch is not None, "this one does not lead"
        assert delivery is not None, "this one does not lead"

        def handed_on() -> bool:
            with self._lock:
                woken = self._batching.pause(leader)
            _wake(woken)
            return leader.batch is None

        self._transport.deliver(delivery, min(item.give_up_at for item in batch), handed_on)
        if leader.batch is not None:
            with self._lock:
                woken = self._batching.settle(leader)
            _wake(woken)


def _wake(items: Iterable[Item[threading.Event]]) -> None:
    for item in items:
        item.bell.set()


def _body_of(job: str | Submit, options: JobOptions) -> bytes:
    if isinstance(job, Submit):
        return _body_of(job.payload, {**options, **job.options})
    return submit_body(job, traced(options), uuid4().hex)


def _id_or_raise(outcome: str | QueueNodeError | None) -> str:
    assert outcome is not None, "a delivery ends with an outcome for each"
    if isinstance(outcome, QueueNodeError):
        raise outcome
    return outcome
