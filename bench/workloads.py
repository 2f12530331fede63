"""What is submitted: seeded payloads, and the requests around them as ready-made bytes. Pure.

Everything that a load process sends over and over is built once, before the clock starts.
"""

import random
import string
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


class _Submit(msgspec.Struct, frozen=True):
    payload: str


_encode: Final = msgspec.json.Encoder().encode


def payloads(seed: int, payload_bytes: int) -> list[str]:
    """A pool of texts of exactly ``payload_bytes`` ASCII bytes, the same for the same seed.

    Random text, so that nothing between here and the disk can profit from repetition. At
    most 512 of them and about 8 MiB: a load process goes round and round in its pool.

    Raises:
        ValueError: the size is outside of what the contract and the mark allow.
    """
    if not PAYLOAD_BYTES_MIN <= payload_bytes <= PAYLOAD_BYTES_MAX:
        raise ValueError(
            f"a payload has {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX} bytes, not {payload_bytes}"
        )
    draw = random.Random(seed)
    many = max(1, min(_POOL_PAYLOADS, _POOL_BYTES // payload_bytes))
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
        """Build them all; ``authority`` is the ``host:port`` of the Host header."""
        host = f"Host: {authority}\r\n"
        submit = f"POST /jobs HTTP/1.1\r\n{host}{_bearer(client_key)}{_JSON}"
        self.submits = [
            _with_body(submit, _encode(_Submit(payload)))
            for payload in payloads(seed, payload_bytes)
        ]
        self.bare = f"GET /health HTTP/1.1\r\n{host}\r\n".encode("ascii")
        self.lease = _with_body(f"POST /jobs/lease HTTP/1.1\r\n{host}{_bearer(worker_key)}", b"")
        self._ack_tail = f" HTTP/1.1\r\n{host}{_bearer(worker_key)}{_JSON}".encode("ascii")

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


_JSON: Final = "Content-Type: application/json\r\n"


def _bearer(key: str) -> str:
    return f"Authorization: Bearer {key}\r\n"


def _with_body(head: str, body: bytes) -> bytes:
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body
