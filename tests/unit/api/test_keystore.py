"""Both key stores against the same tests."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio

from api.caller import SCOPES_OF
from api.keys import KEY_TYPES, mint
from api.keystore import open_keystore
from api.keystore.base import (
    SUBSCRIPTION_WAIT_S,
    KeyIdTakenError,
    KeyRecord,
    KeyStore,
    NewKey,
    OtherPepperError,
    Subscription,
)
from api.keystore.seed import seed_dev_keys
from tests.support.redis import RedisServer

OpenStore = Callable[..., KeyStore]


@pytest.fixture(params=["redis", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the same store as often as it is called: as several fronts do."""
    url = request.getfixturevalue("redis_server").url if request.param == "redis" else None
    opened: list[KeyStore] = []

    def open_one(pepper: str | None = "pepper") -> KeyStore:
        opened.append(open_keystore(url, str(tmp_path / "keys.sqlite"), pepper))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> KeyStore:
    return open_store()


def new_key(owner_id: str = "someone", created_s: int = 1_700_000_000) -> NewKey:
    return NewKey(mint("client"), "a name", owner_id, created_s)


def gather(subscription: Subscription, wanted: int) -> set[str]:
    """What a subscription says until ``wanted`` ids came; gives up after two minutes."""
    ids: set[str] = set()
    for _ in range(480):
        said = subscription.wait()
        assert isinstance(said, frozenset)
        ids |= said
        if len(ids) >= wanted:
            break
    return ids


class TestPepper:
    def test_the_same_pepper_is_fine_as_often_as_it_is_checked(self, open_store):
        open_store().check_pepper()
        open_store().create(new_key())
        open_store().check_pepper()

    @pytest.mark.parametrize(
        ("before", "now", "said"),
        [
            ("pepper", "salt", "made with another one"),
            ("pepper", None, "made with one: set it as it was"),
            (None, "salt", "made without one: unset it"),
        ],
    )
    def test_another_pepper_is_refused_once_there_are_keys(self, open_store, before, now, said):
        first = open_store(before)
        first.check_pepper()
        new = new_key()
        first.create(new)
        other = open_store(now)
        with pytest.raises(OtherPepperError, match=said) as caught:
            other.check_pepper()
        assert not any(pepper in str(caught.value) for pepper in ("salt", "pepper "))
        # The refusal has changed nothing.
        first.check_pepper()
        assert first.find(new.token) is not None

    def test_a_store_without_keys_takes_any_pepper(self, open_store):
        open_store("pepper").check_pepper()
        open_store("salt").check_pepper()
        open_store(None).check_pepper()

    def test_a_store_that_was_filled_before_this_was_kept_takes_the_first_it_sees(self, open_store):
        open_store("pepper").create(new_key())
        open_store("pepper").check_pepper()
        with pytest.raises(OtherPepperError):
            open_store("salt").check_pepper()

    def test_a_store_is_empty_until_it_has_its_first_key_and_never_again(self, store):
        assert store.is_empty()
        new = new_key()
        store.create(new)
        assert not store.is_empty()
        store.revoke(new.token.key_id, 1_800_000_000)
        assert not store.is_empty()


class TestKeyStore:
    @pytest.mark.parametrize("key_type", KEY_TYPES)
    def test_a_created_key_is_found_by_token_and_by_id(self, store, key_type):
        new = NewKey(mint(key_type), "a name", "someone", 1_700_000_000)
        record = store.create(new)
        assert record == KeyRecord(
            key_id=new.token.key_id,
            name="a name",
            owner_id="someone",
            type=key_type,
            scopes=SCOPES_OF[key_type],
            created_s=1_700_000_000,
        )
        assert store.find(new.token) == record
        assert store.get(new.token.key_id) == record

    def test_what_was_not_created_is_not_found(self, store):
        store.create(new_key())
        token = mint("client")
        assert store.find(token) is None
        assert store.get(token.key_id) is None
        assert store.revoke(token.key_id, 1_800_000_000) is None
        assert store.list_owned("nobody") == []

    @pytest.mark.parametrize("name", ["ü\U0001f600 ' \" % \\", "a\x00b\r\n", "x" * 256, "[red]"])
    def test_a_name_comes_back_as_it_was(self, store, name):
        new = NewKey(mint("client"), name, "someone", 1)
        store.create(new)
        assert store.list_all()[0].name == name

    def test_an_id_is_given_once(self, store):
        new = new_key()
        store.create(new)
        with pytest.raises(KeyIdTakenError):
            store.create(NewKey(new.token, "another", "another", 2))
        assert [record.name for record in store.list_all()] == ["a name"]

    def test_a_token_with_the_id_of_another_is_not_found(self, store):
        new = new_key()
        store.create(new)
        other = mint("client")
        forged = type(other)(new.token.text[:15] + other.text[15:], "client")
        assert forged.key_id == new.token.key_id
        assert store.find(forged) is None

    def test_lists_are_ordered_by_age_and_show_revoked_keys(self, store):
        keys = [new_key(f"owner{number % 2}", 1000 + number) for number in (3, 1, 2, 0)]
        for new in keys:
            store.create(new)
        store.revoke(keys[1].token.key_id, 2000)
        assert [record.created_s for record in store.list_all()] == [1000, 1001, 1002, 1003]
        assert [record.revoked_s for record in store.list_all()] == [None, 2000, None, None]
        assert [record.created_s for record in store.list_owned("owner1")] == [1001, 1003]

    def test_a_revocation_is_for_good_and_keeps_its_time(self, store):
        new = new_key()
        store.create(new)
        revoked = store.revoke(new.token.key_id, 1_700_000_500)
        assert revoked.revoked_s == 1_700_000_500
        assert store.revoke(new.token.key_id, 1_700_000_900) == revoked
        assert store.find(new.token) == revoked
        assert store.get(new.token.key_id) == revoked

    def test_a_key_survives_the_store_being_opened_anew(self, open_store):
        new = new_key()
        first = open_store()
        first.create(new)
        first.revoke(new.token.key_id, 5)
        first.close()
        assert open_store().find(new.token).revoked_s == 5

    def test_another_pepper_does_not_know_the_key(self, open_store):
        new = new_key()
        open_store("one").create(new)
        assert open_store("two").find(new.token) is None
        assert open_store(None).find(new.token) is None
        assert open_store("one").find(new.token) is not None

    def test_last_used_only_grows_and_only_where_there_is_a_key(self, store):
        new, unused = new_key(), new_key()
        store.create(new)
        store.create(unused)
        unknown = mint("worker").key_id
        for used_s, shown_s in ((100, 100), (50, 100), (200, 200)):
            store.touch({new.token.key_id: used_s, unknown: used_s})
            assert store.find(new.token).last_used_s == shown_s
        assert store.find(unused.token).last_used_s is None
        assert store.get(unknown) is None
        assert len(store.list_all()) == 2

    def test_of_many_seeders_at_once_one_makes_the_keys(self, open_store):
        stores = [open_store() for _ in range(4)]
        start = threading.Barrier(len(stores))

        def seed(store: KeyStore) -> bool:
            keys = [NewKey(mint(key_type), "dev", "dev", 1) for key_type in KEY_TYPES]
            start.wait()
            return store.create_first(keys)

        with ThreadPoolExecutor(len(stores)) as threads:
            made = list(threads.map(seed, stores))
        assert sorted(made) == [False, False, False, True]
        assert len(stores[0].list_all()) == 3

    async def test_development_keys_are_made_once(self, store):
        seeded = await seed_dev_keys(store)
        assert [key.owner_id for key in seeded] == ["dev-client", "dev-worker", "dev-admin"]
        assert seeded[0].log_line == f"Created client key: {seeded[0].token} (owner: dev-client)"
        assert seeded[0].token not in repr(seeded)
        for record in store.list_all():
            store.revoke(record.key_id, 1)
        # Not even when all are revoked: they would come back from the dead.
        assert await seed_dev_keys(store) == []

    def test_a_subscription_tells_what_others_revoke(self, open_store):
        one, other = open_store(), open_store()
        keys = [new_key() for _ in range(3)]
        for new in keys:
            one.create(new)
        one.revoke(keys[0].token.key_id, 1)
        subscription = one.subscribe()
        other.revoke(keys[1].token.key_id, 1)
        one.revoke(keys[2].token.key_id, 1)
        ids = gather(subscription, 2)
        subscription.close()
        assert ids == {keys[1].token.key_id, keys[2].token.key_id}

    def test_a_subscription_is_silent_about_the_rest(self, open_store):
        one, other = open_store(), open_store()
        subscription = one.subscribe()
        new = new_key()
        other.create(new)
        other.touch({new.token.key_id: 5})
        assert [subscription.wait() for _ in range(3)] == [frozenset()] * 3
        subscription.close()

    async def test_a_subscription_waits_no_longer_than_it_says(self, store):
        subscription = store.subscribe()
        with trio.fail_after(SUBSCRIPTION_WAIT_S + 5):
            await trio.to_thread.run_sync(subscription.wait)
        subscription.close()


def test_many_threads_share_a_store(store):
    keys = [new_key() for _ in range(40)]

    def use(new):
        store.create(new)
        store.touch({new.token.key_id: 7})
        store.revoke(new.token.key_id, 9)
        return store.find(new.token).revoked_s

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(use, keys)) == [9] * 40
    assert len(store.list_all()) == 40


def test_no_store_shows_a_key_in_the_clear(open_store: OpenStore, redis_server: RedisServer):
    store = open_store()
    new = new_key()
    store.create(new)
    store.find(new.token)
    store.revoke(new.token.key_id, 1)
    secret = new.token.text[len(new.token.key_id) :][:24]
    if store.name.startswith("redis"):
        assert secret not in redis_server.dump()
    else:
        for path in Path(store.name).parent.glob("keys.sqlite*"):
            assert secret.encode() not in path.read_bytes()
