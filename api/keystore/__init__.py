"""Where keys are at rest: ``open_keystore`` picks Redis or the embedded SQLite file."""

from api.keys import TokenHasher
from api.keystore.base import KeyStore
from api.keystore.sqlite import SqliteKeyStore


def open_keystore(redis_url: str | None, path: str, pepper: str | None) -> KeyStore:
    """The store that the settings name. Redis is not contacted before it is used.

    Raises:
        KeyStoreUnusableError: the address or the file cannot be used; says why.
    """
    hasher = TokenHasher(pepper)
    if redis_url is None:
        return SqliteKeyStore(path, hasher)
    # Imported here: a node with the embedded store needs no Redis client in memory.
    from api.keystore.redis import RedisKeyStore

    return RedisKeyStore(redis_url, hasher)
