"""Job ids, their slots, and which partition owns a slot. Pure.

A job id is a UUID version 7 (RFC 9562 section 5.7): 48 bits of milliseconds since 1970, so
ids sort by time, then random bits; that of a submit with an idempotency key is a hash of the key.
Its last 16 bits are its **slot** (0..65535). Partition
``i`` of ``n`` owns the contiguous slots from ``i * 65536 // n`` up to the next one's first.

**Claims.** The hash of an idempotency key names one partition, the group of a job another. Such a
job has the hash with the slot of its group, and the partition of the hash itself, the **key id**,
keeps a claim: in which slot the key's job is, and since when it is claimed, in one number.
"""

import re
from typing import Final

SLOTS: Final = 1 << 16
JOB_ID_BYTES: Final = 16
_SLOT_BITS: Final = 16
_SLOT_BYTES: Final = 2

_CANONICAL: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_VERSION_7: Final = 0x7 << 76
_VERSION_8: Final = 0x8 << 76
_VARIANT: Final = 0b10 << 62


def make_job_id(created_at_ms: int, random_bits: int, slot: int) -> bytes:
    """The id of a job: ``random_bits`` fills the 58 bits that time and slot leave.

    ``created_at_ms`` must be below 2**48, ``slot`` below 65536.
    """
    rand_a = random_bits & 0xFFF
    rand_b = (random_bits >> 12) & ((1 << 46) - 1)
    value = (created_at_ms << 80) | _VERSION_7 | (rand_a << 64) | _VARIANT | (rand_b << 16) | slot
    return value.to_bytes(JOB_ID_BYTES, "big")


RANDOM_ID_BITS: Final = 80
_RANDOM: Final = ((1 << RANDOM_ID_BITS) - 1) & ~(0xF << 76) & ~(0b11 << 62) & ~(SLOTS - 1)
_FIXED: Final = _VERSION_7 | _VARIANT


def random_job_id(created_at_ms: int, random_bits: int, slot: int) -> bytes:
    """The same of ``RANDOM_ID_BITS``, of which those that the id has no room for are dropped."""
    value = created_at_ms << 80 | random_bits & _RANDOM | _FIXED | slot
    return value.to_bytes(JOB_ID_BYTES, "big")


def with_hash(hashed: bytes) -> bytes:
    """16 bytes of a hash as a UUID version 8 (RFC 9562 section 5.8), which is for such ids."""
    value = int.from_bytes(hashed, "big")
    value = (value & ~(0xF << 76) & ~(0b11 << 62)) | _VERSION_8 | _VARIANT
    return value.to_bytes(JOB_ID_BYTES, "big")


def slot_of(job_id: bytes) -> int:
    """The slot of a 16-byte job id."""
    return (job_id[14] << 8) | job_id[15]


def in_slot(job_id: bytes, slot: int) -> bytes:
    """The id that differs in nothing but its slot."""
    return job_id[:-_SLOT_BYTES] + slot.to_bytes(_SLOT_BYTES, "big")


def make_claim(slot: int, at_ms: int) -> int:
    """A claim, in 32 bytes of memory until the year 2500."""
    return at_ms << _SLOT_BITS | slot


def claim_slot(claim: int) -> int:
    """In which slot the key's job is, or is to be."""
    return claim & (SLOTS - 1)


def claim_at_ms(claim: int) -> int:
    """When it was made, or made again."""
    return claim >> _SLOT_BITS


def partition_of(slot: int, partitions: int) -> int:
    """The partition that owns ``slot`` when there are ``partitions``."""
    # first_slot(i) is a floor, so the owner is the largest i with floor(i*S/n) <= slot.
    return ((slot + 1) * partitions - 1) // SLOTS


def first_slot(partition: int, partitions: int) -> int:
    """The first slot of ``partition``; its slots end where the next one's begin."""
    return partition * SLOTS // partitions


def parse_job_id(text: str) -> bytes | None:
    """The bytes of a canonical lower-case UUID, or None for anything else."""
    if _CANONICAL.fullmatch(text) is None:
        return None
    return bytes.fromhex(text.replace("-", ""))


def format_job_id(job_id: bytes) -> str:
    """The canonical form, 36 characters."""
    digits = job_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
