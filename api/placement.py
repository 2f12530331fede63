"""Where a new job goes, and the id that says so.

A job's id names its slot, and the slot its partition (``partitions.slots``). A plain job gets a
random slot of a partition that serves; the jobs of a group get the slot of a hash of its name, so
that one partition sees all of them; with an idempotency key the whole id is a hash of the key, so
that the same submit again meets the first one. With both it is the hash of the key but for the
slot, which is the group's; what keeps the key from standing for two jobs then is in ``claims``.
"""

import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from api.partition_client import PartitionClient
from api.submit_schemas import Submit
from partitions.clock import Clock
from partitions.limits import CLAIM_MS
from partitions.messages import Enqueue
from partitions.slots import (
    JOB_ID_BYTES,
    RANDOM_ID_BITS,
    SLOTS,
    first_slot,
    in_slot,
    partition_of,
    random_job_id,
    slot_of,
    with_hash,
)

_SLOT_BITS: Final = SLOTS.bit_length() - 1
_SLOT_BYTES: Final = 2


class Placement:
    """Ids for new jobs of a node's partitions."""

    def __init__(self, clients: Sequence[PartitionClient], clock: Clock) -> None:
        self._clients = tuple(clients)
        count = len(self._clients)
        self._slots = [
            (first_slot(i, count), first_slot(i + 1, count) - first_slot(i, count))
            for i in range(count)
        ]
        """``[(first slot, how many)]`` of each partition."""
        self._clock = clock
        self._random = random.Random(random.SystemRandom().getrandbits(256))  # noqa: S311 - ids need to be unique, not secret

    def owner_of(self, job_id: bytes) -> PartitionClient:
        """The partition that has the job, if there is one."""
        return self._clients[partition_of(slot_of(job_id), len(self._clients))]

    def choose(self) -> PartitionClient | None:
        """A partition for a job that may go to any; None: none serves."""
        clients = self._clients
        if len(clients) == 1:
            return clients[0] if clients[0].serving else None
        serving = [client for client in clients if client.serving]
        return self._random.choice(serving) if serving else None

    def is_bound(self, job: Submit) -> bool:
        """Whether the job has to go to one certain partition."""
        return bool(job.group or job.idempotency_key)

    def mint(self, partition: int) -> bytes:
        """An id for a job of that partition."""
        low, width = self._slots[partition]
        bits = self._random.getrandbits(RANDOM_ID_BITS)
        # Its last bits, which are the slot's in the id, choose the slot.
        slot = low + ((bits & (SLOTS - 1)) * width >> _SLOT_BITS)
        return random_job_id(self._clock.now_ms(), bits, slot)

    def mint_bound(self, owner: str, job: Submit) -> bytes:
        """An id for a job that ``is_bound``."""
        if not job.idempotency_key:
            bits = self._random.getrandbits(RANDOM_ID_BITS)
            return random_job_id(self._clock.now_ms(), bits, self.group_slot(job))
        key_id = self.key_id(owner, job)
        return in_slot(key_id, self.group_slot(job)) if job.group else key_id

    def key_id(self, owner: str, job: Submit) -> bytes:
        """The hash of the job's idempotency key: of a job without a group, its id."""
        return with_hash(_hash((owner, job.queue, job.idempotency_key), JOB_ID_BYTES))

    def group_slot(self, job: Submit) -> int:
        """The slot of all jobs of the job's group."""
        return int.from_bytes(_hash((job.queue, job.group), _SLOT_BYTES), "big")

    def claim_ends_ms(self) -> int:
        """Until when a job may be stored whose key is claimed from now on."""
        return self._clock.now_ms() + CLAIM_MS

    def command(self, owner: str, job: Submit, job_id: bytes) -> Enqueue:
        """What the partition is told."""
        return Enqueue(
            job_id,
            job.payload,
            job.max_retries,
            owner,
            job.options,
            job.run_at_ms,
            job.expires_at_ms,
            job.group,
            job.digest,
        )


def _hash(parts: tuple[str, ...], size: int) -> bytes:
    # Each with its length in front, so that no two sequences look the same.
    hashed = blake2b(digest_size=size, person=b"queue-node-id")
    for part in parts:
        encoded = part.encode()
        hashed.update(len(encoded).to_bytes(4, "big") + encoded)
    return hashed.digest()
