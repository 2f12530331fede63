"""The three development keys of an empty store."""

from typing import Final

import msgspec
import trio

from api.caller import KeyType
from api.keys import KEY_TYPES, mint
from api.keystore.base import KeyStore, NewKey, wall_s

_OWNERS: Final[dict[KeyType, str]] = {
    "client": "dev-client",
    "worker": "dev-worker",
    "admin": "dev-admin",
}


class SeededKey(msgspec.Struct, frozen=True):
    """A development key that was just made: the only time it is known."""

    type: KeyType
    owner_id: str
    token: str

    @property
    def log_line(self) -> str:
        """The contract's words, key in full: people take it from the start-up log."""
        return f"Created {self.type} key: {self.token} (owner: {self.owner_id})"

    def __repr__(self) -> str:
        return f"SeededKey({self.type}, {self.owner_id})"


async def seed_dev_keys(store: KeyStore) -> list[SeededKey]:
    """Make one key of each type if ``store`` never had a key; else make none, return [].

    Atomic in the store: of two nodes that start at once, one makes them.

    Raises:
        KeyStoreUnreachableError: nothing was made, or (when the answer was lost) keys were
            made that nobody saw. Try again.
    """
    tokens = [mint(key_type) for key_type in KEY_TYPES]
    created_s = wall_s()
    new = [
        NewKey(token, f"development {token.type}", _OWNERS[token.type], created_s)
        for token in tokens
    ]
    if not await trio.to_thread.run_sync(store.create_first, new):
        return []
    return [SeededKey(token.type, _OWNERS[token.type], token.text) for token in tokens]
