"""The key store in Redis, shared by all fronts and nodes. The only user of the Redis client.

Layout (that of the original system, with ids where it had keys in the clear):

- hash ``api_key:<id>``: ``name owner_id type scopes created_at revoked_at last_used_at``,
  times in whole seconds since 1970 (``revoked_at`` and ``last_used_at`` may be empty), scopes
  a JSON array; in place of the original's field ``key``: ``key_hash prefix last4``.
- string ``keyhash:<hex>``: the id of the key with this digest.
- sets of ids: ``keys:active``, ``keys:revoked``, ``owner:<owner_id>:keys``,
  ``keys:type:<type>``.
- string ``keys:pepper``: tells under which pepper the digests are (``TokenHasher.mark``).
- channel ``keys:revocations``: the id of every key that is revoked.

A Redis that the original system filled has hashes ``api_key:<key in the clear>`` with the
field ``key``, and such members in the sets. Such a key is rewritten in one MULTI, and its
clear text deleted, when it is first used or revoked (``_upgrade``). Until then lists show it
under the id that it will get.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.caller import SCOPES_OF
from api.keys import KEY_TYPES, Token, TokenHasher, parse_token, without_secrets
from api.keystore.address import parse_redis_url
from api.keystore.base import (
    EVERYTHING,
    SUBSCRIPTION_WAIT_S,
    KeyIdTakenError,
    KeyRecord,
    KeyStoreUnreachableError,
    KeyStoreUnusableError,
    NewKey,
    OtherPepperError,
    Revocations,
    in_order,
    record_of,
)

_TIMEOUT_S: Final = 1.0
"""For connecting and for an answer: a request waits so long on a Redis that hangs (guess)."""
_PING_EVERY_S: Final = 1.0
_DEAF_AFTER_S: Final = 3.0
"""A subscription that heard nothing, not even its pings' echo, for so long is broken."""
_LIST_CHUNK: Final = 500
"""Hashes read in one round trip."""
_ACTIVE: Final = "keys:active"
_REVOKED: Final = "keys:revoked"
_PEPPER: Final = "keys:pepper"
_CHANNEL: Final = "keys:revocations"

_log: Final = logging.getLogger(__name__)
_Client = Any
"""A client or pipeline. Their annotations describe the asyncio twin too, so every answer would
need a cast; what comes back is checked in ``_record`` instead."""
_Fields = dict[str, str]
_decode_scopes: Final = msgspec.json.Decoder(tuple[str, ...]).decode


class RedisKeyStore:
    """See ``api.keystore.base.KeyStore``."""

    def __init__(self, url: str, hasher: TokenHasher) -> None:
        """Does not connect.

        Raises:
            KeyStoreUnusableError: the address is not one that may be used.
        """
        try:
            address = parse_redis_url(url)
        except ValueError as error:
            raise KeyStoreUnusableError(f"REDIS_URL: {error}") from error
        self._name = address.shown
        self._hasher = hasher
        self._client = _connect(address.url)

    @property
    def name(self) -> str:
        """See ``KeyStore.name``."""
        return self._name

    def create(self, new: NewKey) -> KeyRecord:
        """See ``KeyStore.create``."""
        names = self._names_taken_by(new)

        def store(pipe: _Client) -> None:
            if pipe.exists(*names):
                raise KeyIdTakenError(new.token.key_id)
            pipe.multi()
            self._write_new(pipe, new)

        with self._faults():
            self._client.transaction(store, *names)
        return record_of(new)

    def create_first(self, keys: Sequence[NewKey]) -> bool:
        """See ``KeyStore.create_first``."""

        def store(pipe: _Client) -> bool:
            if pipe.exists(_ACTIVE, _REVOKED):
                return False
            pipe.multi()
            for new in keys:
                self._write_new(pipe, new)
            return True

        with self._faults():
            # Watched: when another node makes its keys meanwhile, ours are not written and
            # ``store`` runs again, to find them.
            made = self._client.transaction(store, _ACTIVE, _REVOKED, value_from_callable=True)
        return bool(made)

    def find(self, token: Token) -> KeyRecord | None:
        """See ``KeyStore.find``."""
        with self._faults():
            return self._find_hashed(token) or self._upgrade(token)

    def get(self, key_id: str) -> KeyRecord | None:
        """See ``KeyStore.get``."""
        with self._faults():
            if record := _record(key_id, self._client.hgetall(f"api_key:{key_id}")):
                return record
            if token := self._clear_token_of(key_id):
                return _record(token.text, self._client.hgetall(f"api_key:{token.text}"))
        return None

    def list_all(self) -> list[KeyRecord]:
        """See ``KeyStore.list_all``."""
        with self._faults():
            return self._list(_ACTIVE, _REVOKED)

    def list_owned(self, owner_id: str) -> list[KeyRecord]:
        """See ``KeyStore.list_owned``."""
        with self._faults():
            return self._list(f"owner:{owner_id}:keys")

    def revoke(self, key_id: str, now_s: int) -> KeyRecord | None:
        """See ``KeyStore.revoke``."""
        name = f"api_key:{key_id}"

        def mark(pipe: _Client) -> KeyRecord | None:
            record = _record(key_id, pipe.hgetall(name))
            if record is None or record.revoked_s is not None:
                return record
            pipe.multi()
            pipe.hset(name, "revoked_at", now_s)
            pipe.srem(_ACTIVE, key_id)
            pipe.sadd(_REVOKED, key_id)
            pipe.publish(_CHANNEL, key_id)
            return msgspec.structs.replace(record, revoked_s=now_s)

        with self._faults():
            if not self._client.exists(name) and (token := self._clear_token_of(key_id)):
                self._upgrade(token)
            record = self._client.transaction(mark, name, value_from_callable=True)
        assert record is None or isinstance(record, KeyRecord)
        return record

    def touch(self, last_used_s: Mapping[str, int]) -> None:
        """See ``KeyStore.touch``."""
        with self._faults():
            for key_id, used_s in last_used_s.items():
                self._touch_one(key_id, used_s)

    def subscribe(self) -> "RedisSubscription":
        """See ``KeyStore.subscribe``."""
        return RedisSubscription(self._client, self._name)

    def ping(self) -> None:
        """See ``KeyStore.ping``."""
        with self._faults():
            self._client.ping()

    def check_pepper(self) -> None:
        """See ``KeyStore.check_pepper``."""
        ours = self._hasher.mark

        def hold(pipe: _Client) -> str:
            mark = pipe.get(_PEPPER)
            if mark is None or (mark != ours and not pipe.exists(_ACTIVE, _REVOKED)):
                pipe.multi()
                pipe.set(_PEPPER, ours)
                return ours
            return str(mark)

        with self._faults():
            # Watched, like ``create_first``: nobody makes keys under another between the two.
            mark = self._client.transaction(
                hold, _PEPPER, _ACTIVE, _REVOKED, value_from_callable=True
            )
        if mark != ours:
            raise OtherPepperError(self._name, mark, ours)

    def is_empty(self) -> bool:
        """See ``KeyStore.is_empty``."""
        with self._faults():
            return not self._client.exists(_ACTIVE, _REVOKED)

    def close(self) -> None:
        """See ``KeyStore.close``."""
        self._client.close()

    def _faults(self) -> AbstractContextManager[None]:
        return _faults(self._name)

    def _names_taken_by(self, new: NewKey) -> tuple[str, str]:
        return f"api_key:{new.token.key_id}", f"keyhash:{self._hasher.digest(new.token)}"

    def _write_new(self, pipe: _Client, new: NewKey) -> None:
        record = record_of(new)
        fields = {
            "name": record.name,
            "owner_id": record.owner_id,
            "type": record.type,
            "scopes": msgspec.json.encode(record.scopes).decode(),
            "created_at": str(record.created_s),
            "revoked_at": "",
            "last_used_at": "",
        }
        self._write_fields(pipe, new.token, fields)
        pipe.sadd(_ACTIVE, record.key_id)
        pipe.sadd(f"owner:{record.owner_id}:keys", record.key_id)
        pipe.sadd(f"keys:type:{record.type}", record.key_id)

    def _write_fields(self, pipe: _Client, token: Token, fields: _Fields) -> None:
        digest = self._hasher.digest(token)
        hashed = {"key_hash": digest, "prefix": token.key_id, "last4": token.last4}
        pipe.hset(f"api_key:{token.key_id}", mapping=fields | hashed)
        pipe.set(f"keyhash:{digest}", token.key_id)

    def _find_hashed(self, token: Token) -> KeyRecord | None:
        key_id = self._client.get(f"keyhash:{self._hasher.digest(token)}")
        if key_id is None:
            return None
        fields = self._client.hgetall(f"api_key:{key_id}")
        if not self._hasher.fits(token, fields.get("key_hash", "")):
            return None
        return _record(key_id, fields)

    def _upgrade(self, token: Token) -> KeyRecord | None:
        """Replace a key in the clear by its digest; None if there is no such key.

        All of it in one MULTI, so at no moment is the key unknown or its clear text kept twice.
        """
        clear = f"api_key:{token.text}"
        hashed = f"api_key:{token.key_id}"

        def rewrite(pipe: _Client) -> bool:
            fields = pipe.hgetall(clear)
            if fields.pop("key", None) != token.text:
                return False
            if pipe.exists(hashed):
                _log.error("two keys have the id %s: the one in the clear is refused", token.key_id)
                return False
            # The sets and the field are written one after the other by the original, so a
            # crash may leave either: one sign of a revocation is enough.
            revoked = bool(pipe.sismember(_REVOKED, token.text))
            if revoked and not fields.get("revoked_at"):
                fields["revoked_at"] = fields.get("created_at") or "0"
            revoked = revoked or bool(fields.get("revoked_at"))
            pipe.multi()
            self._write_fields(pipe, token, fields)
            for name in (
                _REVOKED if revoked else _ACTIVE,
                f"owner:{fields.get('owner_id', '')}:keys",
                f"keys:type:{fields.get('type', token.type)}",
            ):
                pipe.sadd(name, token.key_id)
                pipe.srem(name, token.text)
            pipe.srem(_ACTIVE, token.text)
            pipe.delete(clear)
            return True

        self._client.transaction(rewrite, clear, hashed, value_from_callable=True)
        # Also when it was not there: another front may have rewritten it a moment ago.
        return self._find_hashed(token)

    def _clear_token_of(self, key_id: str) -> Token | None:
        """The key in the clear, left by the original system, that will get this id."""
        key_type = key_id.partition("_")[0]
        # The form of an id was checked: it holds none of the pattern's special characters.
        members = self._client.sscan_iter(f"keys:type:{key_type}", match=f"{key_id}*")
        for member in members:
            token = parse_token(member)
            if token is not None and token.key_id == key_id:
                return token
        return None

    def _list(self, *sets: str) -> list[KeyRecord]:
        members = sorted(set().union(*(self._client.smembers(name) for name in sets)))
        records: dict[str, KeyRecord] = {}
        for start in range(0, len(members), _LIST_CHUNK):
            chunk = members[start : start + _LIST_CHUNK]
            pipe = self._client.pipeline(transaction=False)
            for member in chunk:
                pipe.hgetall(f"api_key:{member}")
            for member, fields in zip(chunk, pipe.execute(), strict=True):
                if record := _record(member, fields):
                    records[record.key_id] = record
        return in_order(list(records.values()))

    def _touch_one(self, key_id: str, used_s: int) -> None:
        name = f"api_key:{key_id}"

        def write(pipe: _Client) -> None:
            record = _record(key_id, pipe.hgetall(name))
            # Only a hash that is there: HSET on a deleted key would make half of one anew.
            if record is not None and (record.last_used_s or 0) < used_s:
                pipe.multi()
                pipe.hset(name, "last_used_at", used_s)

        self._client.transaction(write, name)


class RedisSubscription:
    """See ``api.keystore.base.Subscription``."""

    def __init__(self, client: _Client, name: str) -> None:
        self._name = name
        self._pubsub = client.pubsub()
        self._pinged_s = self._heard_s = time.monotonic()
        try:
            with _faults(name):
                self._pubsub.subscribe(_CHANNEL)
                # Until the server has confirmed it, a revocation would not reach us.
                confirmed = self._pubsub.get_message(timeout=_TIMEOUT_S)
            if confirmed is None:
                raise KeyStoreUnreachableError(name, "no answer to a subscription")
        except BaseException:
            self.close()
            raise

    def wait(self) -> Revocations:
        """See ``Subscription.wait``."""
        with _faults(self._name):
            self._check_alive()
            revoked: set[str] = set()
            message = self._pubsub.get_message(timeout=SUBSCRIPTION_WAIT_S)
            while message is not None:
                self._heard_s = time.monotonic()
                if message["type"] == "subscribe":
                    # The client has reconnected by itself: what was said meanwhile is lost.
                    return EVERYTHING
                if message["type"] == "message":
                    revoked.add(message["data"])
                message = self._pubsub.get_message(timeout=0)
        return frozenset(revoked)

    def close(self) -> None:
        """See ``Subscription.close``."""
        self._pubsub.close()

    def _check_alive(self) -> None:
        """A cut network says nothing by itself: ask for an echo, and expect it."""
        now_s = time.monotonic()
        if now_s - self._heard_s > _DEAF_AFTER_S:
            raise KeyStoreUnreachableError(self._name, "no answer on the subscription")
        if now_s - self._pinged_s > _PING_EVERY_S:
            self._pinged_s = now_s
            self._pubsub.ping()


def _connect(url: str) -> _Client:
    tls = {"ssl_check_hostname": True} if url.startswith("rediss:") else {}
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        # A store that another program filled may hold anything; no byte of it may raise.
        encoding_errors="replace",
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        socket_keepalive=True,
        # A repeat is the keyring's to decide: it knows the time budget.
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **tls,
    )


@contextmanager
def _faults(name: str) -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as error:
        # The server's words may quote the command, and so a key in the clear: not ``from
        # error``, whose text a traceback would print.
        what = without_secrets(f"{error}")[:200] or type(error).__name__
        raise KeyStoreUnreachableError(name, what) from None


def _record(member: str, fields: _Fields) -> KeyRecord | None:
    """A hash as a record; None if it is missing or not that of a key."""
    key_id = member
    if "key_hash" not in fields:
        token = parse_token(fields.get("key", ""))
        if token is None or token.text != member:
            return None
        key_id = token.key_id
    key_type = next((each for each in KEY_TYPES if each == fields.get("type")), None)
    if key_type is None:
        return None
    return KeyRecord(
        key_id=key_id,
        name=fields.get("name", ""),
        owner_id=fields.get("owner_id", ""),
        type=key_type,
        scopes=_scopes(fields.get("scopes", ""), SCOPES_OF[key_type]),
        created_s=_seconds(fields.get("created_at", "")) or 0,
        last_used_s=_seconds(fields.get("last_used_at", "")),
        revoked_s=_revoked(fields.get("revoked_at", "")),
    )


def _scopes(text: str, default: tuple[str, ...]) -> tuple[str, ...]:
    if not text:
        return default
    try:
        return _decode_scopes(text)
    except msgspec.DecodeError:
        # Not readable: no rights rather than all of them.
        return ()


def _seconds(text: str) -> int | None:
    """Seconds since 1970; None for nothing, for what is no number, and for Go's zero time."""
    try:
        seconds = int(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < 1 << 40 else None


def _revoked(text: str) -> int | None:
    # Whatever stands there, something does: a key is not alive because its end is unreadable.
    return None if not text else _seconds(text) or 0
