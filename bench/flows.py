"""What one connection asks, answer by answer, and what a right answer looks like. Pure.

A flow makes **units**: one request, or a few in a row of which each needs the answer before
it. The driver sends what ``begin`` gives, hands each answer to ``answer`` and obeys: bytes
are the next request of the unit, a ``Verdict`` ends it.
"""

import enum
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final, Protocol

import msgspec

from bench.errors import MalformedAnswerError
from bench.messages import FlowName
from bench.workloads import Requests, is_ours

JOB_ID_CHARACTERS: Final = 36
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
        if job_id[_SAMPLED_DIGIT] != "0":
            return
        if job_id in self._seen:
            raise MalformedAnswerError(f"two jobs were given the same id: {job_id}")
        self._seen.add(job_id)

    def __len__(self) -> int:
        """How many ids were compared."""
        return len(self._seen)


class _Submitted(msgspec.Struct, forbid_unknown_fields=True):
    job_id: str


class _Leased(msgspec.Struct):
    job_id: str
    payload: str
    lease_until: str
    attempt: int
    lease_token: str | None = None


_decode_submitted: Final = msgspec.json.Decoder(_Submitted).decode
_decode_leased: Final = msgspec.json.Decoder(_Leased).decode


class Bare:
    """``GET /health``, answered by the front alone."""

    unit = operation = "bare"

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


def check_submitted(body: bytes, ids: SampledIds) -> None:
    """Raise MalformedAnswerError unless ``body`` is a 201's: one id of 36 characters."""
    try:
        job_id = _decode_submitted(body).job_id
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedAnswerError(f"a 201 without a job_id: {body!r:.99} ({error})") from error
    if len(job_id) != JOB_ID_CHARACTERS:
        raise MalformedAnswerError(f"a job_id has {JOB_ID_CHARACTERS} characters: {job_id!r:.99}")
    ids.check(job_id)


def ack_of(body: bytes, requests: Requests) -> bytes:
    """The ack for the lease that ``body`` tells of."""
    try:
        leased = _decode_leased(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedAnswerError(f"a lease without a job: {body!r:.99} ({error})") from error
    if len(leased.job_id) != JOB_ID_CHARACTERS or leased.attempt < 1:
        raise MalformedAnswerError(f"a lease of no possible job: {body!r:.99}")
    if not is_ours(leased.payload):
        # Its lease will expire and the job run again: nothing is taken from anybody.
        raise MalformedAnswerError(
            f"job {leased.job_id} was not submitted by a benchmark: this node does real work"
        )
    return requests.ack(leased.job_id, leased.lease_token)


def make_flows(
    name: FlowName, requests: Requests, ids: SampledIds, offset: int
) -> Callable[[], Flow]:
    """A maker of flows that share one round of payloads, begun at ``offset``."""
    submits = requests.submits
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
