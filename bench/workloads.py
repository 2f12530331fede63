"""What is submitted: seeded payloads, and the requests around them as ready-made bytes. Pure.

Everything that a load process sends over and over is built once, before the clock starts.
"""

import random
import string
from collections.abc import Iterable
from typing import Final

import msgspec

PAYLOAD_BYTES_DEFAULT: Final = 256
PAYLOAD_BYTES_MIN: Final = 16
PAYLOAD_BYTES_MAX: Final = 1 << 20
MARK: Final = "qn-bench "
"""First characters of every payload of ours: a lease that gives another one is not our job."""

_ALPHABET: Final = string.ascii_letters + string.digits + " .,:-_"
_POOL_PAYLOADS: Final = 512
_POOL_BYTES: Final = 8 << 20
_BATCHES_BYTES: Final = 2 << 20
"""Payloads of all batches together: more would only miss the cache at each send."""
_BATCHES_MIN: Final = 2
_BATCH_MAX_RETRIES: Final = 3


class _Submit(msgspec.Struct, frozen=True):
    payload: str


class _PrioritySubmit(msgspec.Struct, frozen=True):
    payload: str
    priority: int


class _BatchJob(msgspec.Struct, frozen=True):
    payload: str
    max_retries: int


class _Batch(msgspec.Struct, frozen=True):
    jobs: list[_BatchJob]


_encode: Final = msgspec.json.Encoder().encode


def payloads(seed: int, payload_bytes: int) -> list[str]:
    """A pool of texts of exactly ``payload_bytes`` ASCII bytes, the same for the same seed.

    Random text, so that nothing between here and the disk can profit from repetition. At
    most 512 of them and about 8 MiB: a load process goes round and round in its pool.

    Raises:
        ValueError: the size is outside of what the contract and the mark allow.
    """
    _check_size(payload_bytes)
    return _texts(seed, payload_bytes, max(1, min(_POOL_PAYLOADS, _POOL_BYTES // payload_bytes)))


def batches(seed: int, payload_bytes: int, jobs: int) -> list[bytes]:
    """Bodies of submits of ``jobs`` jobs, no payload twice: at most 512 and about 2 MiB.

    Raises:
        ValueError: as ``payloads``.
    """
    _check_size(payload_bytes)
    many = max(_BATCHES_MIN, min(_POOL_PAYLOADS, _BATCHES_BYTES // (jobs * payload_bytes)))
    texts = _texts(seed, payload_bytes, many * jobs)
    each = [_BatchJob(text, _BATCH_MAX_RETRIES) for text in texts]
    return [_encode(_Batch(each[first : first + jobs])) for first in range(0, len(each), jobs)]


def _check_size(payload_bytes: int) -> None:
    if not PAYLOAD_BYTES_MIN <= payload_bytes <= PAYLOAD_BYTES_MAX:
        raise ValueError(
            f"a payload has {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX} bytes, not {payload_bytes}"
        )


def _texts(seed: int, payload_bytes: int, many: int) -> list[str]:
    draw = random.Random(seed)
    length = payload_bytes - len(MARK)
    return [MARK + "".join(draw.choices(_ALPHABET, k=length)) for _ in range(many)]


def is_ours(payload: str) -> bool:
    """Whether a leased job was submitted by a benchmark."""
    return payload.startswith(MARK)


class Requests:
    """The requests of one load process to one node."""

    def __init__(
        self, authority: str, client_key: str, worker_key: str, seed: int, payload_bytes: int
    ) -> None:
        """Build them all, but batches; ``authority`` is the ``host:port`` of the Host header."""
        host = f"Host: {authority}\r\n"
        client_tail = f" HTTP/1.1\r\n{host}{_bearer(client_key)}{_JSON}"
        worker_tail = f" HTTP/1.1\r\n{host}{_bearer(worker_key)}{_JSON}"
        self._submit_head = f"POST /jobs{client_tail}"
        self.submits = [
            _with_body(self._submit_head, _encode(_Submit(payload)))
            for payload in payloads(seed, payload_bytes)
        ]
        self.bare = f"GET /health HTTP/1.1\r\n{host}\r\n".encode("ascii")
        self.lease = _with_body(f"POST /jobs/lease HTTP/1.1\r\n{host}{_bearer(worker_key)}", b"")
        self._ack_tail = worker_tail.encode("ascii")
        self._seed = seed
        self._payload_bytes = payload_bytes
        self._batch_head = f"POST /jobs/batch{client_tail}"
        self._submits: dict[int, list[bytes]] = {}
        self._batches: dict[int, list[bytes]] = {}
        self._lease_head = f"POST /jobs/lease{worker_tail}"
        self._leases: dict[int, bytes] = {}
        self._acks_head = f"POST /jobs/ack{worker_tail}"

    def ack(self, job_id: str, lease_token: str | None) -> bytes:
        """A success with the result ``ok``, held to the lease when that has a token."""
        token = "" if lease_token is None else f'"lease_token":"{lease_token}",'
        body = f'{{{token}"result":"ok"}}'.encode("ascii")
        return b"POST /jobs/%b/ack%bContent-Length: %d\r\n\r\n%b" % (
            job_id.encode("ascii"),
            self._ack_tail,
            len(body),
            body,
        )

    def submits_of(self, priority: int) -> list[bytes]:
        """Submits of one job each, of that priority; built the first time."""
        if priority not in self._submits:
            texts = payloads(self._seed, self._payload_bytes)
            self._submits[priority] = [
                _with_body(self._submit_head, _encode(_PrioritySubmit(text, priority)))
                for text in texts
            ]
        return self._submits[priority]

    def batches(self, jobs: int) -> list[bytes]:
        """Submits of so many jobs each; built the first time."""
        if jobs not in self._batches:
            bodies = batches(self._seed, self._payload_bytes, jobs)
            self._batches[jobs] = [_with_body(self._batch_head, body) for body in bodies]
        return self._batches[jobs]

    def lease_up_to(self, jobs: int) -> bytes:
        """A lease of at most so many."""
        request = self._leases.get(jobs)
        if request is None:
            request = _with_body(self._lease_head, b'{"max":%d}' % jobs)
            self._leases[jobs] = request
        return request

    def ack_all(self, leases: Iterable[tuple[str, str]]) -> bytes:
        """A success of each of these pairs of job id and lease token, which are plain ASCII."""
        acks = ",".join(
            [f'{{"job_id":"{job_id}","lease_token":"{token}"}}' for job_id, token in leases]
        )
        return _with_body(self._acks_head, f'{{"acks":[{acks}]}}'.encode("ascii"))


_JSON: Final = "Content-Type: application/json\r\n"


def _bearer(key: str) -> str:
    return f"Authorization: Bearer {key}\r\n"


def _with_body(head: str, body: bytes) -> bytes:
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body
