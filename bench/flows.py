"""What one connection asks, answer by answer, and what a right answer looks like. Pure.

A flow makes **units**: one request, or a few in a row of which each needs the answer before
it. The driver sends what ``begin`` gives, hands each answer to ``answer`` and obeys: bytes
are the next request of the unit, a ``Verdict`` ends it.
"""

import enum
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final, Protocol

import msgspec

from bench.errors import MalformedAnswerError
from bench.messages import IDS_MODULUS, FlowName
from bench.workloads import Requests, is_ours

JOB_ID_CHARACTERS: Final = 36
_ID_DIGITS: Final = 32
_SAMPLED_DIGIT: Final = -5


class Verdict(enum.Enum):
    """How a unit, or an attempt at its request, ended."""

    DONE = enum.auto()
    EMPTY = enum.auto()
    """Nothing to lease just now: begin the request anew (``again``)."""
    REFUSED = enum.auto()
    """A status that the unit cannot go on with; counted, never as work done."""


class Flow(Protocol):
    """One connection's part in a phase."""

    unit: str
    """Name of the whole; the same as ``operation`` when it is a single request."""
    operation: str
    """Name of the request that is to be answered next."""
    jobs: int
    """What a unit that is DONE counts as: its jobs where it has many, else 1."""

    def begin(self) -> bytes:
        """The first request of a new unit."""

    def answer(self, status: int, body: bytes) -> "bytes | Verdict":
        """Judge the answer to the last request.

        Raises:
            MalformedAnswerError: it claims success, and is not what success looks like.
        """

    def again(self) -> bytes:
        """The request that met an EMPTY, anew."""


class SampledIds:
    """Job ids must be distinct: remembers the one in 16 whose last random digit is 0.

    Chosen by a digit of the id, not by turn, so that of a doubled id both copies are in the
    sample. The last four digits are the slot, which repeats; the one before is random.
    """

    def __init__(self) -> None:
        """Start with none seen."""
        self._seen: set[str] = set()

    def check(self, job_id: str) -> None:
        """Raise MalformedAnswerError when the id was handed out before."""
        if job_id[_SAMPLED_DIGIT] == "0":
            self._check_sampled(job_id)

    def check_all(self, job_ids: list[str]) -> None:
        """Raise MalformedAnswerError when one of the ids was handed out before."""
        for job_id in job_ids:
            if job_id[_SAMPLED_DIGIT] == "0":
                self._check_sampled(job_id)

    def _check_sampled(self, job_id: str) -> None:
        if job_id in self._seen:
            raise MalformedAnswerError(f"two jobs were given the same id: {job_id}")
        self._seen.add(job_id)

    def __len__(self) -> int:
        """How many ids were compared."""
        return len(self._seen)


class Turnover:
    """Whether the jobs that were submitted in batches are those that are leased, each once.

    Sums of ids, because they can be added over load processes: a job that was leased twice
    makes them differ, for as many leases then leave another one out. Leases of one process
    are compared one by one besides, so that the job can be named.
    """

    def __init__(self) -> None:
        """Start with none seen."""
        self._submitted = 0
        self._leased = 0
        self._leased_ids: set[str] = set()

    def submitted(self, ids: list[str]) -> None:
        """Count ids that a batch was given.

        Raises:
            MalformedAnswerError: they are no job ids, or one comes twice.
        """
        self._submitted += _id_sum(ids)
        if len(set(ids)) != len(ids):
            raise MalformedAnswerError(f"two jobs were given the same id: {_doubled(ids)}")

    def leased(self, ids: list[str]) -> None:
        """Count ids that were leased.

        Raises:
            MalformedAnswerError: they are no job ids, or one was leased before in this phase.
        """
        self._leased += _id_sum(ids)
        before = len(self._leased_ids)
        if not self._leased_ids.isdisjoint(ids):
            again = next(job_id for job_id in ids if job_id in self._leased_ids)
            raise MalformedAnswerError(f"job {again} was leased twice")
        self._leased_ids.update(ids)
        if len(self._leased_ids) != before + len(ids):
            raise MalformedAnswerError(f"job {_doubled(ids)} was leased twice")

    def sums(self) -> tuple[int, int]:
        """Of submitted and of leased ids, modulo ``IDS_MODULUS``."""
        return self._submitted % IDS_MODULUS, self._leased % IDS_MODULUS


def _id_sum(ids: list[str]) -> int:
    """A number that is the sum of the ids modulo ``IDS_MODULUS``: 0.07 us an id of a hundred."""
    digits = "".join(ids).replace("-", "")
    try:
        number = int.from_bytes(bytes.fromhex(digits), "big")
    except ValueError as error:
        raise MalformedAnswerError(f"these are no job ids: {ids!s:.99}") from error
    if set(map(len, ids)) != {JOB_ID_CHARACTERS} or len(digits) != len(ids) * _ID_DIGITS:
        raise MalformedAnswerError(f"a job_id has {JOB_ID_CHARACTERS} characters: {ids!s:.99}")
    return number


def _doubled(ids: list[str]) -> str:
    return Counter(ids).most_common(1)[0][0]


class _Submitted(msgspec.Struct, forbid_unknown_fields=True):
    job_id: str


class _Leased(msgspec.Struct):
    job_id: str
    payload: str
    lease_until: str
    attempt: int
    lease_token: str | None = None


class _SubmittedBatch(msgspec.Struct, forbid_unknown_fields=True):
    job_ids: list[str]


class _BatchLeased(msgspec.Struct):
    job_id: str
    payload: str
    lease_token: str


class _LeasedBatch(msgspec.Struct, forbid_unknown_fields=True):
    jobs: list[_BatchLeased]


class _AckResult(msgspec.Struct, forbid_unknown_fields=True):
    status: int
    error: str = ""


class _AckResults(msgspec.Struct, forbid_unknown_fields=True):
    results: list[_AckResult]


_decode_submitted: Final = msgspec.json.Decoder(_Submitted).decode
_decode_leased: Final = msgspec.json.Decoder(_Leased).decode
_decode_submitted_batch: Final = msgspec.json.Decoder(_SubmittedBatch).decode
_decode_leased_batch: Final = msgspec.json.Decoder(_LeasedBatch).decode
_decode_ack_results: Final = msgspec.json.Decoder(_AckResults).decode


class Bare:
    """``GET /health``, answered by the front alone."""

    unit = operation = "bare"
    jobs = 1

    def __init__(self, requests: Requests) -> None:
        """Ask the same request for ever."""
        self._request = requests.bare

    def begin(self) -> bytes:
        """The request."""
        return self._request

    def answer(self, status: int, body: bytes) -> Verdict:
        """200 and ``OK``."""
        if status != 200:
            return Verdict.REFUSED
        if body != b"OK":
            raise MalformedAnswerError(f"/health answered {body!r:.99}, not OK")
        return Verdict.DONE

    again = begin


class Submit:
    """One durable job after another."""

    unit = operation = "submit"
    jobs = 1

    def __init__(self, bodies: Iterator[bytes], ids: SampledIds) -> None:
        """Take requests from ``bodies``, which never ends."""
        self._bodies = bodies
        self._ids = ids

    def begin(self) -> bytes:
        """The next job."""
        return next(self._bodies)

    def answer(self, status: int, body: bytes) -> Verdict:
        """201 and an id that was not seen before."""
        if status != 201:
            return Verdict.REFUSED
        check_submitted(body, self._ids)
        return Verdict.DONE

    again = begin


class Pair:
    """Lease one job, acknowledge it."""

    unit = "lease+ack"
    jobs = 1

    def __init__(self, requests: Requests) -> None:
        """Begin with a lease."""
        self._requests = requests
        self.operation = "lease"

    def begin(self) -> bytes:
        """Lease a job."""
        self.operation = "lease"
        return self._requests.lease

    def answer(self, status: int, body: bytes) -> bytes | Verdict:
        """200 with a job of ours, then 200 without a body."""
        if self.operation == "lease":
            return self._leased(status, body)
        if status != 200:
            return Verdict.REFUSED
        if body:
            raise MalformedAnswerError(f"an ack was answered with a body: {body!r:.99}")
        return Verdict.DONE

    again = begin

    def _leased(self, status: int, body: bytes) -> bytes | Verdict:
        if status == 404:
            return Verdict.EMPTY
        if status != 200:
            return Verdict.REFUSED
        self.operation = "ack"
        return ack_of(body, self._requests)


class Cycle:
    """Submit one job, lease one (whosesoever), acknowledge it."""

    unit = "cycle"
    jobs = 1

    def __init__(self, requests: Requests, bodies: Iterator[bytes], ids: SampledIds) -> None:
        """Begin with a submit."""
        self._submit = Submit(bodies, ids)
        self._pair = Pair(requests)
        self.operation = "submit"

    def begin(self) -> bytes:
        """Submit a job."""
        self.operation = "submit"
        return self._submit.begin()

    def answer(self, status: int, body: bytes) -> bytes | Verdict:
        """What Submit and Pair want, one after the other."""
        if self.operation == "submit":
            verdict = self._submit.answer(status, body)
            return self.again() if verdict is Verdict.DONE else verdict
        step = self._pair.answer(status, body)
        self.operation = self._pair.operation
        return step

    def again(self) -> bytes:
        """Lease: only that can be empty."""
        self.operation = "lease"
        return self._pair.begin()


class Batch:
    """One request full of jobs after another, each durable as a whole."""

    unit = operation = "batch"

    def __init__(
        self, requests: Iterator[bytes], jobs: int, ids: SampledIds, turnover: Turnover
    ) -> None:
        """Take requests of ``jobs`` jobs each from an iterator that never ends."""
        self._requests = requests
        self._ids = ids
        self._turnover = turnover
        self.jobs = jobs

    def begin(self) -> bytes:
        """The next batch."""
        return next(self._requests)

    def answer(self, status: int, body: bytes) -> Verdict:
        """201 and as many ids as there were jobs, none seen before."""
        if status != 201:
            return Verdict.REFUSED
        try:
            job_ids = _decode_submitted_batch(body).job_ids
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedAnswerError(f"a 201 without job_ids: {body!r:.99} ({error})") from error
        if len(job_ids) != self.jobs:
            raise MalformedAnswerError(f"{self.jobs} jobs were given {len(job_ids)} job_ids")
        self._turnover.submitted(job_ids)
        self._ids.check_all(job_ids)
        return Verdict.DONE

    again = begin


class BatchPair:
    """Lease a batch of jobs, acknowledge them in one request.

    A lease may give fewer jobs than it asks for: then it is followed by another for the rest,
    so a unit is always the same number of jobs, and no connection takes what others are due.
    """

    unit = "lease+ack"

    def __init__(self, requests: Requests, jobs: int, turnover: Turnover) -> None:
        """Units of ``jobs`` jobs."""
        self._requests = requests
        self._turnover = turnover
        self._due = jobs
        self._held = 0
        self.jobs = jobs
        self.operation = "lease"

    def begin(self) -> bytes:
        """Lease all of them."""
        self._due = self.jobs
        return self.again()

    def again(self) -> bytes:
        """Lease those that are still due."""
        self.operation = "lease"
        return self._requests.lease_up_to(self._due)

    def answer(self, status: int, body: bytes) -> bytes | Verdict:
        """200 with jobs of ours, then 200 with a 200 for each of them."""
        if self.operation == "lease":
            return self._leased(status, body)
        if status != 200:
            return Verdict.REFUSED
        check_acked(body, self._held)
        self._due -= self._held
        return self.again() if self._due else Verdict.DONE

    def _leased(self, status: int, body: bytes) -> bytes | Verdict:
        if status == 404:
            return Verdict.EMPTY
        if status != 200:
            return Verdict.REFUSED
        jobs = leased_batch(body)
        self._held = len(jobs)
        if not 1 <= self._held <= self._due:
            raise MalformedAnswerError(f"a lease of up to {self._due} jobs gave {self._held}")
        self._turnover.leased([job.job_id for job in jobs])
        self.operation = "ack"
        return self._requests.ack_all([(job.job_id, job.lease_token) for job in jobs])


def leased_batch(body: bytes) -> list[_BatchLeased]:
    """The jobs of ours that a lease with ``max`` gave; else raise MalformedAnswerError."""
    try:
        jobs = _decode_leased_batch(body).jobs
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedAnswerError(f"a lease without jobs: {body!r:.99} ({error})") from error
    for job in jobs:
        if not is_ours(job.payload):
            raise _not_ours(job.job_id)
        # It goes into the ack as it is.
        if not (job.lease_token.isascii() and job.lease_token.isdigit()):
            raise MalformedAnswerError(f"a lease_token is digits: {job.lease_token!r:.99}")
    return jobs


def check_acked(body: bytes, jobs: int) -> None:
    """Raise MalformedAnswerError unless ``body`` says 200 of each of so many jobs."""
    try:
        results = _decode_ack_results(body).results
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedAnswerError(f"acks without results: {body!r:.99} ({error})") from error
    if len(results) != jobs:
        raise MalformedAnswerError(f"{jobs} acks were given {len(results)} results")
    refused = [each for each in results if each.status != 200]
    if refused:
        raise MalformedAnswerError(
            f"{len(refused)} of {jobs} acks were refused, the first with {refused[0].status}: "
            f"{refused[0].error:.99}"
        )


def check_submitted(body: bytes, ids: SampledIds) -> None:
    """Raise MalformedAnswerError unless ``body`` is a 201's, and its id new."""
    ids.check(submitted_id(body))


def submitted_id(body: bytes) -> str:
    """The id that a 201 gave; raise MalformedAnswerError unless it is one of 36 characters."""
    try:
        job_id = _decode_submitted(body).job_id
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedAnswerError(f"a 201 without a job_id: {body!r:.99} ({error})") from error
    if len(job_id) != JOB_ID_CHARACTERS:
        raise MalformedAnswerError(f"a job_id has {JOB_ID_CHARACTERS} characters: {job_id!r:.99}")
    return job_id


def ack_of(body: bytes, requests: Requests) -> bytes:
    """The ack for the lease that ``body`` tells of."""
    leased = leased_one(body)
    return requests.ack(leased.job_id, leased.lease_token)


def leased_one(body: bytes) -> _Leased:
    """The job of ours that a lease gave; else raise MalformedAnswerError."""
    try:
        leased = _decode_leased(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedAnswerError(f"a lease without a job: {body!r:.99} ({error})") from error
    if len(leased.job_id) != JOB_ID_CHARACTERS or leased.attempt < 1:
        raise MalformedAnswerError(f"a lease of no possible job: {body!r:.99}")
    if not is_ours(leased.payload):
        raise _not_ours(leased.job_id)
    return leased


def _not_ours(job_id: str) -> MalformedAnswerError:
    # Its lease will expire and the job run again: nothing is taken from anybody.
    return MalformedAnswerError(
        f"job {job_id} was not submitted by a benchmark: this node does real work"
    )


def make_flows(
    name: FlowName,
    requests: Requests,
    ids: SampledIds,
    offset: int,
    batch: int = 1,
    turnover: Turnover | None = None,
) -> Callable[[], Flow]:
    """A maker of flows that share one round of payloads, begun at ``offset``.

    Those that ask for many jobs at once ask for ``batch``, and tell ``turnover``.
    """
    turnover = turnover or Turnover()
    submits = requests.batches(batch) if name == "batch" else requests.submits
    bodies = (submits[index % len(submits)] for index in count(offset))
    match name:
        case "bare":
            return lambda: Bare(requests)
        case "submit":
            return lambda: Submit(bodies, ids)
        case "lease":
            return lambda: Pair(requests)
        case "cycle":
            return lambda: Cycle(requests, bodies, ids)
        case "batch":
            return lambda: Batch(bodies, batch, ids, turnover)
        case "batch-lease":
            return lambda: BatchPair(requests, batch, turnover)
        case "order" | "order-fill":
            raise AssertionError("they have a history: order_flow makes them")
