"""Who is calling, and what they may do. Pure.

Scopes by key type, as in the contract: client keys submit and read, worker keys lease, ack
and read, admin keys do everything.
"""

from typing import Final, Literal

import msgspec

KeyType = Literal["client", "worker", "admin"]

SUBMIT: Final = "jobs:submit"
LEASE: Final = "jobs:lease"
ACK: Final = "jobs:ack"
READ: Final = "jobs:read"
KEYS_READ: Final = "keys:read"
KEYS_REVOKE: Final = "keys:revoke"
KEYS_CREATE: Final = "keys:create"

SCOPES_OF: Final[dict[str, tuple[str, ...]]] = {
    "client": (SUBMIT, READ, KEYS_READ, KEYS_REVOKE),
    "worker": (LEASE, ACK, READ, KEYS_READ, KEYS_REVOKE),
    "admin": (SUBMIT, LEASE, ACK, READ, KEYS_READ, KEYS_REVOKE, KEYS_CREATE),
}


class Caller(msgspec.Struct, frozen=True):
    """A key that was presented, known and not revoked."""

    key_id: str
    owner_id: str
    type: KeyType
    scopes: frozenset[str]
