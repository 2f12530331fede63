"""The keyring: memory, grace, revocations, over real stores."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from api import keyring as keyring_module
from api.caller import Caller
from api.keyring import Keyring, bearer_text
from api.keys import Token, TokenHasher, checksum, mint, parse_token
from api.keystore.base import (
    KeyRecord,
    KeyStore,
    KeyStoreUnreachableError,
    NewKey,
    Subscription,
)
from api.keystore.redis import RedisKeyStore
from api.keystore.sqlite import SqliteKeyStore
from api.problems import (
    BAD_AUTHORIZATION,
    EMPTY_KEY,
    INVALID_KEY,
    KEY_NOT_FOUND,
    KEYSTORE_UNREACHABLE,
    MISSING_AUTHORIZATION,
    NOT_THE_OWNER,
    REVOKED_KEY,
    Problem,
)

DEADLINE_S = 20.0
HASHER = TokenHasher("pepper")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class WatchedStore(SqliteKeyStore):
    """The embedded store, which counts its look-ups and can be gone."""

    def __init__(self, path: str) -> None:
        super().__init__(path, HASHER)
        self.finds = 0
        self.touches: list[dict[str, int]] = []
        self.gone = False
        self.full = False
        self.before_find: Callable[[], None] = lambda: None

    def find(self, token: Token) -> KeyRecord | None:
        self.finds += 1
        self._check()
        record = super().find(token)
        self.before_find()
        return record

    def create(self, new: NewKey) -> KeyRecord:
        self._check()
        return super().create(new)

    def touch(self, last_used_s: Mapping[str, int]) -> None:
        self._check()
        if self.full:
            raise KeyStoreUnreachableError(self.name, "database or disk is full")
        self.touches.append(dict(last_used_s))
        super().touch(last_used_s)

    def list_all(self) -> list[KeyRecord]:
        self._check()
        return super().list_all()

    def ping(self) -> None:
        self._check()
        super().ping()

    def _check(self) -> None:
        if self.gone:
            raise KeyStoreUnreachableError(self.name, "gone")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path):
    store = WatchedStore(str(tmp_path / "keys.sqlite"))
    yield store
    store.close()


@pytest.fixture
def keyring(store, clock):
    return Keyring(store, cache_ttl_ms=5_000, grace_ms=300_000, clock=clock)


def add(store: KeyStore, key_type: str = "client", owner_id: str = "owner") -> str:
    """A new key, as it stands in a header."""
    token = mint(key_type)  # type: ignore[arg-type]
    store.create(NewKey(token, "a name", owner_id, 1_700_000_000))
    return f"Bearer {token.text}"


def token_of(header: str) -> Token:
    token = parse_token(header.removeprefix("Bearer "))
    assert token is not None
    return token


async def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds; a test that waits in vain fails."""
    with trio.fail_after(DEADLINE_S):
        while not condition():
            await trio.sleep(0.01)


async def until_answer(keyring: Keyring, header: str, wanted: object) -> None:
    with trio.fail_after(DEADLINE_S):
        while await keyring.identify(header) != wanted:
            await trio.sleep(0.01)


@asynccontextmanager
async def running(*keyrings: Keyring) -> AsyncIterator[None]:
    """The keyrings with their background tasks, each subscribed."""
    async with trio.open_nursery() as nursery:
        for each in keyrings:
            await nursery.start(each.run)
        for each in keyrings:
            with trio.fail_after(DEADLINE_S):
                while not each.reachable:
                    await trio.sleep(0.01)
        yield
        nursery.cancel_scope.cancel()


class TestHeader:
    @pytest.mark.parametrize(
        ("header", "answer"),
        [
            (None, MISSING_AUTHORIZATION),
            ("", MISSING_AUTHORIZATION),
            ("   ", MISSING_AUTHORIZATION),
            ("Basic dXNlcjpwYXNz", BAD_AUTHORIZATION),
            ("Bearer", EMPTY_KEY),
            ("Bearerx y", BAD_AUTHORIZATION),
            ("Bearer\tx", BAD_AUTHORIZATION),
            ("client_aaaaaaaa", BAD_AUTHORIZATION),
            ("Bearer ", EMPTY_KEY),
            ("bearer   ", EMPTY_KEY),
            ("Bearer x", "x"),
            ("bearer x", "x"),
            ("BEARER x", "x"),
            ("Bearer  x", "x"),
            ("Bearer x ", "x"),
            ("Bearer x y", "x y"),
            ("Bearer x,y", "x,y"),
        ],
    )
    def test_a_header_is_read(self, header, answer):
        assert bearer_text(header) == answer

    @pytest.mark.parametrize(
        "text", ["x", "x" * 10_000, "\x00", "client_\xff", "client_" + "é" * 38, "a b", "{}"]
    )
    async def test_nonsense_is_refused_without_a_look_up(self, keyring, store, text):
        assert await keyring.identify(f"Bearer {text}") == INVALID_KEY
        assert store.finds == 0

    async def test_a_typing_error_is_refused_without_a_look_up(self, keyring, store):
        header = add(store)
        wrong = header[:-1] + ("x" if header[-1] != "x" else "y")
        for each in (wrong, header + "x", header + " x", header[:-1]):
            assert await keyring.identify(each) == INVALID_KEY
        assert store.finds == 0

    async def test_the_scheme_has_no_case_and_spaces_do_not_count(self, keyring, store):
        header = add(store)
        for each in (header, header.replace("Bearer", "bEARER "), header + "  "):
            caller = await keyring.identify(each)
            assert isinstance(caller, Caller)
            assert caller.owner_id == "owner"
        assert store.finds == 1


class TestMemory:
    async def test_a_yes_is_remembered_for_its_time(self, keyring, store, clock):
        header = add(store)
        assert keyring.recall(header) is None
        caller = await keyring.identify(header)
        assert isinstance(caller, Caller)
        clock.now_s += 4.999
        assert keyring.recall(header) is caller
        assert await keyring.identify(header) is caller
        assert store.finds == 1
        clock.now_s += 0.001
        assert keyring.recall(header) is None
        assert await keyring.identify(header) == caller
        assert store.finds == 2
        assert keyring.recall(header) == caller

    @pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic x", "bearer x"])
    def test_recall_says_nothing_about_other_headers(self, keyring, header):
        assert keyring.recall(header) is None

    async def test_a_no_is_remembered_for_a_second(self, keyring, store, clock):
        token = mint("client")
        header = f"Bearer {token.text}"
        for _ in range(3):
            assert await keyring.identify(header) == INVALID_KEY
        assert store.finds == 1
        store.create(NewKey(token, "n", "o", 1))
        clock.now_s += 1.0
        assert isinstance(await keyring.identify(header), Caller)

    async def test_memory_is_bounded(self, keyring, store, monkeypatch):
        monkeypatch.setattr(keyring_module, "KNOWN_MAX", 3)
        monkeypatch.setattr(keyring_module, "REFUSED_MAX", 3)
        headers = [add(store) for _ in range(5)]
        for header in headers:
            await keyring.identify(header)
            await keyring.identify(f"Bearer {mint('worker').text}")
        assert [bool(keyring.recall(header)) for header in headers] == [False] * 2 + [True] * 3
        assert len(keyring._known) == len(keyring._token_of) == len(keyring._refused) == 3

    async def test_a_made_up_key_with_a_known_id_pushes_nothing_out(self, keyring, store):
        header = add(store)
        await keyring.identify(header)
        text = token_of(header).key_id + "0" * 24
        assert await keyring.identify(f"Bearer {text}{checksum(text)}") == INVALID_KEY
        assert store.finds == 2
        assert keyring.recall(header) is not None

    async def test_many_requests_with_one_key_share_a_look_up(self, keyring, store):
        header = add(store)
        answers: list[Caller | Problem] = []

        async def ask() -> None:
            answers.append(await keyring.identify(header))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        assert store.finds == 1
        assert len(answers) == 50
        assert all(answer == answers[0] for answer in answers)
        assert isinstance(answers[0], Caller)
        assert not keyring._flights

    async def test_a_cancelled_request_does_not_take_others_with_it(self, keyring, store):
        header = add(store)
        scope = trio.CancelScope()
        answers: list[Caller | Problem] = []

        async def ask_and_hang_up() -> None:
            with scope:
                await keyring.identify(header)

        async def ask() -> None:
            answers.append(await keyring.identify(header))

        async with trio.open_nursery() as nursery:
            with store._lock:
                nursery.start_soon(ask_and_hang_up)
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                assert len(keyring._flights) == 1
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                assert answers == []
        assert [isinstance(answer, Caller) for answer in answers] == [True]
        assert not keyring._flights


class TestStoreGone:
    async def test_a_known_key_goes_on_for_the_grace_time(self, keyring, store, clock):
        header = add(store)
        caller = await keyring.identify(header)
        store.gone = True
        for _ in range(59):
            clock.now_s += 5.0
            assert await keyring.identify(header) == caller
        clock.now_s += 5.0
        assert await keyring.identify(header) == KEYSTORE_UNREACHABLE

    async def test_an_unknown_key_gets_503(self, keyring, store, clock):
        header = add(store)
        store.gone = True
        assert await keyring.identify(header) == KEYSTORE_UNREACHABLE
        assert await keyring.identify(f"Bearer {mint('admin').text}") == KEYSTORE_UNREACHABLE
        # What needs no store is still told apart.
        assert await keyring.identify("Bearer x") == INVALID_KEY
        store.gone = False
        clock.now_s += 1.0
        assert isinstance(await keyring.identify(header), Caller)

    async def test_a_revoked_key_gets_no_yes(self, keyring, store, clock):
        header = add(store)
        store.revoke(token_of(header).key_id, 1)
        assert await keyring.identify(header) == REVOKED_KEY
        store.gone = True
        clock.now_s += 100.0
        assert await keyring.identify(header) == REVOKED_KEY

    async def test_a_store_that_failed_is_left_alone_for_a_second(self, keyring, store, clock):
        store.gone = True
        for _ in range(20):
            header = f"Bearer {mint('client').text}"
            assert await keyring.identify(header) == KEYSTORE_UNREACHABLE
        assert store.finds == 1
        clock.now_s += 1.0
        for _ in range(20):
            await keyring.identify(f"Bearer {mint('client').text}")
        assert store.finds == 2

    async def test_it_is_logged_once_and_serving_ends_with_the_grace_time(
        self, keyring, store, clock, caplog
    ):
        header = add(store)
        assert not keyring.serving
        await keyring.identify(header)
        assert (keyring.reachable, keyring.serving) == (True, True)
        store.gone = True
        for _ in range(10):
            clock.now_s += 10.0
            await keyring.identify(header)
        assert (keyring.reachable, keyring.serving) == (False, True)
        assert len(caplog.records) == 1
        assert "gone" in caplog.text
        clock.now_s += 300.0
        assert not keyring.serving
        store.gone = False
        await keyring.identify(header)
        assert (keyring.reachable, keyring.serving) == (True, True)
        assert "reachable again" in caplog.text

    async def test_a_slow_store_does_not_hold_a_request(self, keyring, store, monkeypatch):
        monkeypatch.setattr(keyring_module, "LOOKUP_TIMEOUT_S", 0.05)
        header = add(store)
        with store._lock:
            assert await keyring.identify(header) == KEYSTORE_UNREACHABLE

    async def test_administration_says_so_too(self, keyring, store):
        store.gone = True
        with pytest.raises(KeyStoreUnreachableError):
            await keyring.create("client", "n", "o")
        with pytest.raises(KeyStoreUnreachableError):
            await keyring.list_all()

    async def test_it_is_noticed_that_the_store_is_back(self, store):
        keyring = Keyring(store, cache_ttl_ms=5_000, grace_ms=300_000)
        async with running(keyring):
            store.gone = True
            await keyring.identify(add_behind(store))
            assert not keyring.reachable
            store.gone = False
            # Nobody asks for a key meanwhile.
            await until(lambda: keyring.reachable)


def add_behind(store: WatchedStore) -> str:
    """A key that is made although the store is gone for the keyring."""
    gone, store.gone = store.gone, False
    header = add(store)
    store.gone = gone
    return header


class TestLastUsed:
    async def test_a_use_is_written_at_most_once_a_minute(self, keyring, store, clock):
        header = add(store)
        key_id = token_of(header).key_id

        async def use_and_flush() -> None:
            assert await keyring.identify(header)
            assert keyring.recall(header)
            await keyring._flush(clock.now_s - keyring_module.TOUCH_EVERY_S)

        for _ in range(10):
            await use_and_flush()
        assert [list(touch) for touch in store.touches] == [[key_id]]
        clock.now_s += 59.9
        await use_and_flush()
        assert len(store.touches) == 1
        clock.now_s += 0.1
        await use_and_flush()
        assert len(store.touches) == 2

    async def test_nothing_is_written_without_a_use(self, keyring, store, clock):
        await keyring.identify(add(store))
        await keyring._flush(clock.now_s)
        clock.now_s += 120.0
        await keyring._flush(clock.now_s - keyring_module.TOUCH_EVERY_S)
        assert len(store.touches) == 1

    async def test_uses_are_written_together_and_when_draining(self, store):
        keyring = Keyring(store, cache_ttl_ms=5_000, grace_ms=300_000)
        headers = [add(store) for _ in range(3)]
        async with running(keyring):
            for header in headers:
                await keyring.identify(header)
        assert [len(touch) for touch in store.touches] == [3]
        assert all(record.last_used_s for record in store.list_all())

    @pytest.mark.parametrize("how", ["gone", "full"])
    async def test_a_use_that_could_not_be_written_is_written_later(
        self, keyring, store, clock, how
    ):
        header = add(store)
        await keyring.identify(header)
        setattr(store, how, True)
        await keyring._flush(clock.now_s)
        assert store.touches == []
        setattr(store, how, False)
        await keyring._flush(clock.now_s)
        assert len(store.touches) == 1

    async def test_a_full_disk_does_not_keep_new_keys_out(self, keyring, store, clock, caplog):
        store.full = True
        for _ in range(3):
            assert isinstance(await keyring.identify(add(store)), Caller)
            await keyring._flush(clock.now_s)
        assert (keyring.reachable, keyring.serving) == (True, True)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "disk is full" in caplog.text

    async def test_the_last_use_of_a_revoked_key_is_written(self, keyring, store, clock):
        header = add(store)
        caller = await keyring.identify(header)
        await keyring.revoke(caller.key_id, caller)
        await keyring._flush(clock.now_s - keyring_module.TOUCH_EVERY_S)
        assert store.list_all()[0].last_used_s is not None
        await keyring._flush(clock.now_s - keyring_module.TOUCH_EVERY_S)
        assert len(store.touches) == 1


class TestRevocation:
    async def test_an_owner_and_an_admin_may_others_may_not(self, keyring, store):
        header = add(store)
        key_id = token_of(header).key_id
        stranger = Caller("client_stranger", "stranger", "client", frozenset())
        admin = Caller("admin_adminadm", "admin", "admin", frozenset())
        owner = Caller("client_xxxxxxxx", "owner", "worker", frozenset())
        assert await keyring.revoke(key_id, stranger) == NOT_THE_OWNER
        assert isinstance(await keyring.identify(header), Caller)
        for caller in (owner, admin):
            record = await keyring.revoke(key_id, caller)
            assert isinstance(record, KeyRecord)
            assert record.revoked_s is not None
        assert keyring.recall(header) is None
        assert await keyring.identify(header) == REVOKED_KEY

    @pytest.mark.parametrize(
        "text", ["", "x", "client_*", "client_aaaaaaaa\x00", "client_aaaaaaaa", "%00", "é" * 15]
    )
    async def test_what_names_no_key_is_not_found(self, keyring, store, text):
        admin = Caller("admin_adminadm", "admin", "admin", frozenset())
        assert await keyring.revoke(text, admin) == KEY_NOT_FOUND

    async def test_a_revocation_during_a_look_up_is_not_forgotten(self, keyring, store, clock):
        header = add(store)
        key_id = token_of(header).key_id

        def revoke_meanwhile() -> None:
            # The look-up has read the key; before its answer arrives, the key is revoked.
            store.revoke(key_id, 1)
            trio.from_thread.run_sync(keyring._take_back, frozenset({key_id}))

        store.before_find = revoke_meanwhile
        assert isinstance(await keyring.identify(header), Caller)
        store.before_find = lambda: None
        assert keyring.recall(header) is None
        assert await keyring.identify(header) == REVOKED_KEY


@pytest.fixture(params=["redis", "sqlite"])
def two_stores(request: pytest.FixtureRequest, tmp_path: Path):
    """Two fronts' view of one store."""
    stores: list[KeyStore]
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
        stores = [RedisKeyStore(url, HASHER) for _ in range(2)]
    else:
        stores = [SqliteKeyStore(str(tmp_path / "keys.sqlite"), HASHER) for _ in range(2)]
    yield stores
    for store in stores:
        store.close()


async def test_a_revocation_reaches_another_front_at_once(two_stores):
    # A time to live beyond the test's: only the subscription can be what is seen.
    one, other = (
        Keyring(store, cache_ttl_ms=3_600_000, grace_ms=3_600_000) for store in two_stores
    )
    header = add(two_stores[0])
    async with running(one, other):
        assert isinstance(await one.identify(header), Caller)
        caller = await other.identify(header)
        assert isinstance(caller, Caller)
        await one.revoke(token_of(header).key_id, caller)
        assert await one.identify(header) == REVOKED_KEY
        await until(lambda: other.recall(header) is None)
        assert await other.identify(header) == REVOKED_KEY


async def test_a_cache_hit_survives_the_use_of_other_keys(two_stores):
    one, other = (
        Keyring(store, cache_ttl_ms=3_600_000, grace_ms=3_600_000) for store in two_stores
    )
    header, another = add(two_stores[0]), add(two_stores[0])
    async with running(one, other):
        for each in (header, another):
            await one.identify(each)
            await other.identify(each)
        await other._flush(trio.current_time())
        await other.revoke(token_of(another).key_id, Caller("x", "owner", "admin", frozenset()))
        await until(lambda: one.recall(another) is None)
        assert one.recall(header) is not None


class TestRedisGone:
    @pytest.fixture
    def store(self, own_redis):
        store = RedisKeyStore(own_redis.url, HASHER)
        yield store
        store.close()

    @pytest.fixture
    def keyring(self, store):
        return Keyring(store, cache_ttl_ms=0, grace_ms=300_000)

    @pytest.mark.parametrize("how", ["freeze", "kill"])
    async def test_known_keys_go_on_and_others_wait(self, own_redis, store, keyring, how):
        header, unknown = add(store), add(store)
        async with running(keyring):
            caller = await keyring.identify(header)
            assert isinstance(caller, Caller)
            getattr(own_redis, how)()
            with trio.fail_after(DEADLINE_S):
                for _ in range(20):
                    assert await keyring.identify(header) == caller
                    assert await keyring.identify(unknown) == KEYSTORE_UNREACHABLE
            assert not keyring.reachable
            assert keyring.serving
            {"freeze": own_redis.thaw, "kill": own_redis.start}[how]()
            await until(lambda: keyring.reachable)
            await until_answer(keyring, header, caller)
            await until(lambda: keyring.reachable)
            assert isinstance(await keyring.identify(unknown), Caller)

    async def test_what_was_revoked_while_away_is_noticed(self, own_redis, store):
        keyring = Keyring(store, cache_ttl_ms=3_600_000, grace_ms=3_600_000)
        header = add(store)
        async with running(keyring):
            await keyring.identify(header)
            own_redis.kill()
            await until(lambda: not keyring.reachable)
            assert isinstance(await keyring.identify(header), Caller)
            own_redis.start()
            # By another node, before this front has subscribed again or after: either way.
            other = RedisKeyStore(own_redis.url, HASHER)
            other.revoke(token_of(header).key_id, 1)
            other.close()
            await until_answer(keyring, header, REVOKED_KEY)

    async def test_a_front_starts_without_redis_and_waits_for_it(
        self, own_redis, store, keyring, caplog
    ):
        header = add(store)
        own_redis.kill()
        async with trio.open_nursery() as nursery:
            await nursery.start(keyring.run)
            await until(lambda: caplog.records)
            assert not keyring.serving
            assert await keyring.identify(header) == KEYSTORE_UNREACHABLE
            own_redis.start()
            await until(lambda: keyring.serving)
            assert isinstance(await keyring.identify(header), Caller)
            nursery.cancel_scope.cancel()
        assert f"redis://127.0.0.1:{own_redis.port}/0" in caplog.text


async def test_no_key_is_ever_logged(own_redis, caplog):
    caplog.set_level(logging.DEBUG)
    store = RedisKeyStore(own_redis.url, HASHER)
    keyring = Keyring(store, cache_ttl_ms=0, grace_ms=300_000)
    headers = [add(store) for _ in range(3)]
    wrong = f"Bearer {mint('admin').text}"
    async with running(keyring):
        for header in (*headers, wrong):
            await keyring.identify(header)
        token, _record = await keyring.create("client", "n", "o")
        admin = Caller("admin_adminadm", "admin", "admin", frozenset())
        await keyring.revoke(headers[0].removeprefix("Bearer "), admin)
        own_redis.kill()
        for header in (*headers, wrong):
            await keyring.identify(header)
    store.close()
    assert caplog.records
    for text in (*headers, wrong, token.text):
        assert text.removeprefix("Bearer ")[16:36] not in caplog.text


def test_a_subscription_is_what_the_protocol_says(store):
    subscription: Subscription = store.subscribe()
    assert subscription.wait() == frozenset()
    subscription.close()
