"""What is special about the store in Redis: addresses, layout, the original system's keys."""

import ssl

import pytest

from api.caller import SCOPES_OF
from api.keys import Token, TokenHasher, mint, parse_token
from api.keystore.address import parse_redis_url
from api.keystore.base import (
    KeyRecord,
    KeyStoreUnreachableError,
    KeyStoreUnusableError,
    NewKey,
    Subscription,
)
from api.keystore.redis import RedisKeyStore
from tests.support.ports import ReservedPort
from tests.support.redis import RedisServer

HASHER = TokenHasher("pepper")
ZERO_TIME = "-62135596800"  # What Go's zero time is in Unix seconds: never used.


@pytest.fixture
def store(redis_server):
    store = RedisKeyStore(redis_server.url, HASHER)
    yield store
    store.close()


def original_token(body: str = "aB3-_xYzaB3-_xYzaB3-_xYzaB3-_xYz", key_type="client") -> Token:
    token = parse_token(f"{key_type}_{body}")
    assert token is not None
    return token


def fill_as_the_original(server: RedisServer, token: Token, revoked_at: str = "") -> None:
    """Exactly the commands that the original system sends for a new, and a revoked, key."""
    client, text = server.client, token.text
    client.hset(
        f"api_key:{text}",
        mapping={
            "key": text,
            "name": "old key",
            "owner_id": "old owner: with a colon",
            "type": token.type,
            "scopes": '["jobs:submit","jobs:read","keys:read","keys:revoke"]',
            "created_at": 1_700_000_000,
            "revoked_at": "",
            "last_used_at": ZERO_TIME,
        },
    )
    client.sadd("owner:old owner: with a colon:keys", text)
    client.sadd(f"keys:type:{token.type}", text)
    client.sadd("keys:active", text)
    if revoked_at:
        client.hset(f"api_key:{text}", "revoked_at", revoked_at)
        client.srem("keys:active", text)
        client.sadd("keys:revoked", text)


def wait_for_a_fault(subscription: Subscription) -> None:
    for _ in range(100):
        assert subscription.wait() == frozenset()


OLD_RECORD = KeyRecord(
    key_id="client_aB3-_xYz",
    name="old key",
    owner_id="old owner: with a colon",
    type="client",
    scopes=SCOPES_OF["client"],
    created_s=1_700_000_000,
)


class TestLayout:
    def test_a_key_is_laid_out_as_the_contract_says(self, store, redis_server):
        new = NewKey(mint("client"), "n", "owner", 1_700_000_000)
        store.create(new)
        key_id, client = new.token.key_id, redis_server.client
        digest = HASHER.digest(new.token)
        assert client.hgetall(f"api_key:{key_id}") == {
            "name": "n",
            "owner_id": "owner",
            "type": "client",
            "scopes": '["jobs:submit","jobs:read","keys:read","keys:revoke"]',
            "created_at": "1700000000",
            "revoked_at": "",
            "last_used_at": "",
            "key_hash": digest,
            "prefix": key_id,
            "last4": new.token.text[-4:],
        }
        assert client.get(f"keyhash:{digest}") == key_id
        for name in ("keys:active", "owner:owner:keys", "keys:type:client"):
            assert client.smembers(name) == {key_id}
        assert len(client.keys("*")) == 5
        store.revoke(key_id, 1_700_000_001)
        assert client.smembers("keys:active") == set()
        assert client.smembers("keys:revoked") == {key_id}
        assert client.hget(f"api_key:{key_id}", "revoked_at") == "1700000001"

    @pytest.mark.parametrize(
        ("field", "value"),
        [("key_hash", "0" * 64), ("key_hash", ""), ("type", "root"), ("type", "")],
    )
    def test_a_hash_that_does_not_fit_is_no_key(self, store, redis_server, field, value):
        new = NewKey(mint("client"), "n", "owner", 1)
        store.create(new)
        redis_server.client.hset(f"api_key:{new.token.key_id}", field, value)
        assert store.find(new.token) is None

    def test_unreadable_scopes_are_none_and_an_unreadable_end_is_one(self, store, redis_server):
        new = NewKey(mint("admin"), "n", "owner", 1)
        store.create(new)
        name = f"api_key:{new.token.key_id}"
        redis_server.client.hset(name, mapping={"scopes": "{", "revoked_at": "yes"})
        record = store.find(new.token)
        assert record is not None
        assert record.scopes == ()
        assert record.revoked_s == 0

    def test_bytes_that_are_no_text_do_no_harm(self, store, redis_server):
        new = NewKey(mint("admin"), "n", "owner", 1)
        store.create(new)
        redis_server.client.hset(f"api_key:{new.token.key_id}", "name", b"\xff\xfe")
        redis_server.client.sadd("keys:active", b"\xff\xfe")
        assert len(store.list_all()) == 1


class TestKeysOfTheOriginal:
    def test_one_works_and_its_clear_text_goes(self, store, redis_server):
        token = original_token()
        fill_as_the_original(redis_server, token)
        assert store.find(token) == OLD_RECORD
        assert token.text not in redis_server.dump()
        client = redis_server.client
        for name in ("keys:active", "owner:old owner: with a colon:keys", "keys:type:client"):
            assert client.smembers(name) == {OLD_RECORD.key_id}
        assert client.smembers("keys:revoked") == set()
        assert client.hget(f"api_key:{OLD_RECORD.key_id}", "key") is None
        assert store.find(token) == OLD_RECORD
        assert store.get(OLD_RECORD.key_id) == OLD_RECORD

    def test_a_revoked_one_stays_revoked(self, store, redis_server):
        token = original_token()
        fill_as_the_original(redis_server, token, revoked_at="1700000009")
        record = store.find(token)
        assert record is not None
        assert record.revoked_s == 1_700_000_009
        assert token.text not in redis_server.dump()
        assert redis_server.client.smembers("keys:revoked") == {OLD_RECORD.key_id}
        assert redis_server.client.smembers("keys:active") == set()

    def test_one_sign_of_a_revocation_is_enough(self, store, redis_server):
        token = original_token()
        fill_as_the_original(redis_server, token)
        redis_server.client.sadd("keys:revoked", token.text)
        record = store.find(token)
        assert record is not None
        assert record.revoked_s is not None
        assert token.text not in redis_server.dump()

    def test_lists_show_one_by_the_id_that_it_will_get(self, store, redis_server):
        token = original_token()
        fill_as_the_original(redis_server, token)
        assert store.list_all() == [OLD_RECORD]
        assert store.list_owned(OLD_RECORD.owner_id) == [OLD_RECORD]
        assert store.get(OLD_RECORD.key_id) == OLD_RECORD

    def test_one_is_revoked_by_its_id_before_it_was_ever_used(self, store, redis_server):
        token = original_token()
        fill_as_the_original(redis_server, token)
        record = store.revoke(OLD_RECORD.key_id, 1_700_000_123)
        assert record is not None
        assert record.revoked_s == 1_700_000_123
        assert token.text not in redis_server.dump()
        found = store.find(token)
        assert found is not None
        assert found.revoked_s == 1_700_000_123

    def test_one_counts_as_a_key_that_was_there(self, store, redis_server):
        fill_as_the_original(redis_server, original_token())
        assert not store.create_first([NewKey(mint("client"), "n", "o", 1)])

    def test_one_with_the_id_of_another_key_is_refused(self, store, redis_server):
        first, second = original_token("A" * 32), original_token("A" * 31 + "B")
        fill_as_the_original(redis_server, first)
        fill_as_the_original(redis_server, second)
        assert store.find(first) is not None
        assert store.find(second) is None

    def test_a_hash_without_the_key_in_it_is_no_key(self, store, redis_server):
        token = original_token()
        fill_as_the_original(redis_server, token)
        redis_server.client.hset(f"api_key:{token.text}", "key", original_token("x" * 32).text)
        assert store.find(token) is None
        assert store.list_all() == []


class TestFaults:
    def test_a_server_that_is_not_there_is_unreachable(self):
        nobody = ReservedPort()
        store = RedisKeyStore(f"127.0.0.1:{nobody.number}", HASHER)
        with pytest.raises(KeyStoreUnreachableError, match="refused"):
            store.ping()
        with pytest.raises(KeyStoreUnreachableError):
            store.subscribe()
        store.close()
        nobody.close()

    def test_a_server_that_hangs_is_unreachable_within_its_time(self, own_redis):
        store = RedisKeyStore(own_redis.url, HASHER)
        subscription = store.subscribe()
        own_redis.freeze()
        with pytest.raises(KeyStoreUnreachableError):
            store.ping()
        # The subscription's connection is up: only its missing echo tells.
        with pytest.raises(KeyStoreUnreachableError, match="no answer"):
            wait_for_a_fault(subscription)
        own_redis.thaw()
        subscription.close()
        store.ping()
        store.close()

    def test_a_server_that_comes_back_is_used_again(self, own_redis):
        store = RedisKeyStore(own_redis.url, HASHER)
        new = NewKey(mint("client"), "n", "o", 1)
        store.create(new)
        subscription = store.subscribe()
        own_redis.kill()
        with pytest.raises(KeyStoreUnreachableError):
            store.find(new.token)
        with pytest.raises(KeyStoreUnreachableError):
            wait_for_a_fault(subscription)
        own_redis.start()
        assert store.find(new.token) is not None
        subscription.close()
        store.close()

    def test_the_servers_words_do_not_give_a_key_away(self, store, redis_server):
        token = original_token()
        redis_server.client.set(f"api_key:{token.key_id}", "not a hash")
        redis_server.client.set(f"api_key:{token.text}", "not a hash")
        with pytest.raises(KeyStoreUnreachableError) as caught:
            store.find(token)
        assert token.text not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    def test_a_password_is_used_and_never_shown(self, tmp_path):
        server = RedisServer(tmp_path, password="s3cret-word")
        server.start()
        try:
            store = RedisKeyStore(server.url, HASHER)
            store.ping()
            assert store.name == f"redis://127.0.0.1:{server.port}/0"
            store.close()
            wrong = RedisKeyStore(server.url.replace("s3cret", "other"), HASHER)
            with pytest.raises(KeyStoreUnreachableError) as caught:
                wrong.ping()
            wrong.close()
            assert "other-word" not in str(caught.value)
        finally:
            server.close()


class TestAddresses:
    def test_certificates_are_verified(self):
        store = RedisKeyStore("rediss://:pw@far.example:6380/2", HASHER)
        connection = store._client.connection_pool.make_connection()
        assert connection.cert_reqs == ssl.CERT_REQUIRED
        assert connection.check_hostname
        assert (connection.host, connection.port, connection.db) == ("far.example", 6380, 2)
        store.close()

    @pytest.mark.parametrize(
        ("text", "url", "shown"),
        [
            ("localhost:6379", "redis://localhost:6379", "redis://localhost:6379"),
            ("redis://127.0.0.1", "redis://127.0.0.1", "redis://127.0.0.1:6379"),
            ("redis://[::1]:7/3", "redis://[::1]:7/3", "redis://[::1]:7/3"),
            ("redis://:pw@redis:6379/0", "redis://:pw@redis:6379/0", "redis://redis:6379/0"),
            ("rediss://u:pw@far.example/1", "rediss://u:pw@far.example/1",
             "rediss://far.example:6379/1"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock", "unix:///run/redis.sock"),
        ],
    )  # fmt: skip
    def test_an_address_is_read(self, text, url, shown):
        address = parse_redis_url(text)
        assert (address.url, address.shown) == (url, shown)
        assert "pw" not in repr(address)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "localhost",
            "http://localhost:6379",
            "redis://",
            "redis://localhost:sesame",
            "redis://:sesame@localhost:99999",
            "redis://:sesame@host/zero",
            "redis://:sesame@[host",
            "redis://redis:6379",
            "10.0.0.1:6379",
            "rediss://:sesame@host?ssl_cert_reqs=none",
        ],
    )
    def test_another_is_refused_without_its_password(self, text):
        with pytest.raises(ValueError, match=r"allowed|password") as caught:
            parse_redis_url(text)
        assert "sesame" not in str(caught.value)
        with pytest.raises(KeyStoreUnusableError, match="REDIS_URL"):
            RedisKeyStore(text, HASHER)
