"""What jobs there are, in figures and in one digest: are two sets of partitions the same jobs?

The digest is the sum, modulo 2^256, of a BLAKE2b hash of every job: its id, owner, options, state,
what its attempts left, time of submission, due time, and its texts. So it depends
neither on the order in which jobs are counted nor on the partition that they are in. So it is with
the claims of idempotency keys, which are no jobs and have their part in the digest.
"""

from collections.abc import Generator
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from partitions.disk import Disk
from partitions.errors import BlobUnreadableError
from partitions.job import EMPTY_AT, Job, Run, State
from partitions.kinds import KindKey
from partitions.log import Identity, Log
from partitions.recovery import Recovered, recovering
from partitions.state import PartitionState
from partitions.untouched import UntouchedDisk

_JOBS_PER_STEP: Final = 500
_MODULUS: Final = 1 << 256
_UNREADABLE: Final = -1
_NO_RUN: Final = Run()
_encode: Final = msgspec.msgpack.Encoder().encode

Text = bytes | int
"""A text, or the number that stands in place of its position (``job``)."""


class Census:
    """Jobs that were counted."""

    def __init__(self) -> None:
        self.states: dict[State, int] = dict.fromkeys(State, 0)
        self.unreadable: list[BlobUnreadableError] = []
        """Texts that do not read back as they were written; the digest knows of them."""
        self._sum = 0

    @property
    def jobs(self) -> int:
        """How many."""
        return sum(self.states.values())

    @property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        return f"{self._sum:064x}"

    def add(self, job: Job, kind: KindKey, payload: Text, outcome: Text) -> None:
        """Count a job with its texts, as ``text_at`` gives them."""
        self.states[job.state] += 1
        body = _encode(
            (
                job.job_id,
                kind,
                int(job.state),
                # A job that came to its end without an attempt has none, or an empty one.
                msgspec.structs.replace(job.run, outcome_at=0) if job.run else _NO_RUN,
                job.own,
                job.created_at_ms,
                job.due_ms,
                payload,
                outcome,
            )
        )
        self._add(body)

    def add_claim(self, key_id: bytes, claim: int) -> None:
        """Count the claim of an idempotency key."""
        self._add(_encode((key_id, claim)))

    def _add(self, body: bytes) -> None:
        digest = blake2b(body, digest_size=32).digest()
        self._sum = (self._sum + int.from_bytes(digest, "big")) % _MODULUS

    def read(self, log: Log, position: int) -> Text:
        """The text at a position of a job; one that is unreadable is noted."""
        try:
            return text_at(log, position)
        except BlobUnreadableError as error:
            self.unreadable.append(error)
            return _UNREADABLE


def text_at(log: Log, position: int) -> Text:
    """The text at a position of a job, or the word that stands there instead.

    Raises:
        BlobUnreadableError: it does not read back as it was written.
    """
    return log.read(position) if position > EMPTY_AT else position


def counting(
    disk: Disk, directory: Path, identity: Identity, census: Census
) -> Generator[float, None, Recovered]:
    """Count the jobs of a partition that nobody writes to, and read all of their texts.

    Recovers it as a start would, and changes nothing. Yields how much is done, from 0 to 1.

    Raises:
        CorruptLogError: no partition would start there.
    """
    state = PartitionState()
    steps = recovering(UntouchedDisk(disk), directory, identity, state)
    while True:
        try:
            yield next(steps) / 2
        except StopIteration as end:
            found: Recovered = end.value
            break
    for key_id, claim in state.jobs.claims.items():
        census.add_claim(key_id, claim)
    try:
        for done, job in enumerate(state.jobs.order):
            payload = census.read(found.log, job.payload_at)
            outcome = census.read(found.log, job.outcome_at)
            census.add(job, state.jobs.kind(job).key, payload, outcome)
            if done % _JOBS_PER_STEP == 0:
                yield (1 + done / len(state)) / 2
    finally:
        found.log.close()
    return found
