"""What a key store is: the Protocol that Redis and SQLite fulfil, its records and its faults.

Every method of a store blocks; who owns the event loop calls it in a worker thread. A store
may be called from several threads at once. A store hashes tokens itself, so nothing outside
it knows the pepper, and no record can hold a key in the clear.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from api.caller import SCOPES_OF, KeyType
from api.keys import NO_PEPPER, Token
from partitions.clock import wall_ms

SUBSCRIPTION_WAIT_S: Final = 0.25
"""Longest that ``Subscription.wait`` blocks: a draining front waits for it."""


class KeyStoreError(Exception):
    """Base of every fault of a key store. Its words name no secret."""


class KeyStoreUnreachableError(KeyStoreError):
    """The store did not do what was asked, for now: down, slow, full, refusing. Try again."""

    def __init__(self, store: str, what: str) -> None:
        super().__init__(f"key store {store}: {what}")
        self.store = store
        self.what = what


class KeyStoreUnusableError(KeyStoreError):
    """The store cannot be used as it is configured; trying again does not help."""


class OtherPepperError(KeyStoreUnusableError):
    """The keys in the store were made under another pepper: not one of them would be found."""

    def __init__(self, store: str, stored: str, ours: str) -> None:
        if stored == NO_PEPPER:
            said = "were made without one: unset it"
        elif ours == NO_PEPPER:
            said = "were made with one: set it as it was"
        else:
            said = "were made with another one: set it as it was"
        super().__init__(
            f"the keys in {store} {said}, or start with an empty key store;"
            " not one of them would work"
        )


class KeyIdTakenError(KeyStoreError):
    """Another key has the id of the one to create: mint again."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"key id {key_id} is taken")
        self.key_id = key_id


class NewKey(msgspec.Struct, frozen=True):
    """A key to be stored."""

    token: Token
    name: str
    owner_id: str
    created_s: int


class KeyRecord(msgspec.Struct, frozen=True):
    """What a store knows of a key. Times are whole seconds since 1970, as in the original."""

    key_id: str
    name: str
    owner_id: str
    type: KeyType
    scopes: tuple[str, ...]
    created_s: int
    last_used_s: int | None = None
    revoked_s: int | None = None


def record_of(new: NewKey) -> KeyRecord:
    """The record that a key has when it was just made."""
    return KeyRecord(
        key_id=new.token.key_id,
        name=new.name,
        owner_id=new.owner_id,
        type=new.token.type,
        scopes=SCOPES_OF[new.token.type],
        created_s=new.created_s,
    )


class Everything:
    """A change that is not known in detail: whatever was remembered may be out of date."""


EVERYTHING: Final = Everything()
Revocations = frozenset[str] | Everything
"""Ids of keys that were revoked, or ``EVERYTHING``."""


class Subscription(Protocol):
    """Revocations made anywhere, from the moment of ``KeyStore.subscribe`` on."""

    def wait(self) -> Revocations:
        """Block for at most ``SUBSCRIPTION_WAIT_S``; return what was revoked, maybe nothing.

        Raises:
            KeyStoreUnreachableError: the subscription is broken and revocations may be missed.
        """

    def close(self) -> None:
        """Let go of connections; never raises."""


class KeyStore(Protocol):
    """Keys at rest. Every method may raise ``KeyStoreUnreachableError``."""

    @property
    def name(self) -> str:
        """Where the store is, in words that may be logged."""

    def create(self, new: NewKey) -> KeyRecord:
        """Store a key, durable when this returns.

        Raises:
            KeyIdTakenError: nothing was stored.
        """

    def create_first(self, keys: Sequence[NewKey]) -> bool:
        """Store ``keys`` if the store never had any; atomic, so of two callers one gets True."""

    def find(self, token: Token) -> KeyRecord | None:
        """The record of a key in the clear, revoked or not."""

    def get(self, key_id: str) -> KeyRecord | None:
        """The record of a public id, revoked or not."""

    def list_all(self) -> list[KeyRecord]:
        """Every key, oldest first."""

    def list_owned(self, owner_id: str) -> list[KeyRecord]:
        """Every key of an owner, oldest first."""

    def revoke(self, key_id: str, now_s: int) -> KeyRecord | None:
        """Revoke a key for good, durable and published when this returns.

        A key that is revoked already keeps the time it has. None: there is no such key.
        """

    def touch(self, last_used_s: Mapping[str, int]) -> None:
        """Write when keys were last used, ``{key_id: seconds}``; never turns a time back."""

    def subscribe(self) -> Subscription:
        """Start to watch for revocations."""

    def ping(self) -> None:
        """Return if the store answers."""

    def check_pepper(self) -> None:
        """Hold the store to the pepper of its keys; a store without keys takes on ours.

        Raises:
            OtherPepperError: it has keys, and theirs is another.
        """

    def is_empty(self) -> bool:
        """Whether the store never had a key."""

    def close(self) -> None:
        """Let go of connections and files; never raises."""


def wall_s(ago_s: float = 0.0) -> int:
    """Seconds since 1970, now or some time ago, for what a key's record shows.

    Nothing is decided by it.
    """
    return int(wall_ms() / 1000 - ago_s)


def in_order(records: list[KeyRecord]) -> list[KeyRecord]:
    """Oldest first, and always the same order."""
    return sorted(records, key=lambda record: (record.created_s, record.key_id))
