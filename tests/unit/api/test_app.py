"""The app through Quart's test client: key routes, node routes, the framework's refusals."""

import logging
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from api import problems
from api.app import create_app
from api.caller import SCOPES_OF, KeyType
from api.endpoints import JobEndpoints
from api.keyring import Keyring
from api.keys import KEY_TYPES, Token, TokenHasher, mint, parse_token
from api.keystore.base import KeyStoreUnreachableError, NewKey
from api.keystore.redis import RedisKeyStore
from api.keystore.sqlite import SqliteKeyStore
from api.services import Services
from api.settings import DoorLimits, FrontSettings

HASHER = TokenHasher("pepper")


class PartitionsStandIn:
    """The states that a test sets."""

    def __init__(self) -> None:
        self.states = {0: "serving", 1: "serving"}

    def partition_states(self) -> Mapping[int, str]:
        return self.states

    def drain(self) -> None:
        """Nobody waits here."""


class Front:
    """An app over a store, with a key of each type and a revoked one."""

    def __init__(self, store: SqliteKeyStore | RedisKeyStore) -> None:
        self.store = store
        self.keyring = Keyring(store, cache_ttl_ms=5_000, grace_ms=300_000)
        self.partitions = PartitionsStandIn()
        settings = FrontSettings(
            front=0,
            listen_fd=-1,
            partition_sockets=(),
            keystore_path="",
            limits=DoorLimits(body_bytes_max=100_000),
        )
        # No job route is called here.
        endpoints = JobEndpoints(self.keyring, cast("Any", None), settings)
        self.app = create_app(Services(self.keyring, self.partitions, endpoints, settings))
        self.keys: dict[str, str] = {
            key_type: self.add(key_type, f"{key_type}-owner") for key_type in KEY_TYPES
        }
        self.keys["revoked"] = self.add("admin", "admin-owner")
        store.revoke(self.id_of("revoked"), 1_700_000_001)

    def add(self, key_type: KeyType, owner_id: str) -> str:
        token = mint(key_type)
        self.store.create(NewKey(token, f"{key_type} key", owner_id, 1_700_000_000))
        return token.text

    def id_of(self, who: str) -> str:
        return token_of(self.keys[who]).key_id

    async def call(
        self, method: str, path: str, who: str = "none", body: object = b""
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, body (JSON when it is), headers."""
        key = self.keys.get(who)
        client: Any = self.app.test_client()
        response = await client.open(
            path,
            method=method,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            data=body if isinstance(body, bytes) else msgspec.json.encode(body),
        )
        data = await response.get_data(as_text=False)
        if response.content_type == "application/json":
            data = msgspec.json.decode(data)
        return response.status_code, data, {k.lower(): v for k, v in response.headers.items()}


@pytest.fixture(params=["sqlite", "redis"])
def front(request: pytest.FixtureRequest, tmp_path: Path):
    store: SqliteKeyStore | RedisKeyStore
    if request.param == "redis":
        store = RedisKeyStore(request.getfixturevalue("redis_server").url, HASHER)
    else:
        store = SqliteKeyStore(str(tmp_path / "keys.sqlite"), HASHER)
    yield Front(store)
    store.close()


def token_of(text: str) -> Token:
    token = parse_token(text)
    assert token is not None
    return token


def error(problem: problems.Problem) -> tuple[int, dict[str, str]]:
    return problem.status, {"error": problem.error}


NEW_KEY = {"name": "a name", "owner_id": "new-owner", "type": "client"}


class TestScopes:
    @pytest.mark.parametrize("who", ["none", "client", "worker", "admin", "revoked"])
    @pytest.mark.parametrize(
        ("method", "path", "allowed", "refusal"),
        [
            ("POST", "/admin/keys", {"admin": 201}, problems.ADMIN_REQUIRED),
            ("GET", "/admin/keys", {"admin": 200}, problems.ADMIN_REQUIRED),
            ("HEAD", "/admin/keys", {"admin": 200}, problems.ADMIN_REQUIRED),
            ("GET", "/keys", dict.fromkeys(KEY_TYPES, 200), None),
            ("HEAD", "/keys", dict.fromkeys(KEY_TYPES, 200), None),
            ("DELETE", "/keys/client_aaaaaaaa", dict.fromkeys(KEY_TYPES, 404), None),
        ],
    )
    async def test_every_route_is_for_those_it_is_for(
        self, front, who, method, path, allowed, refusal
    ):
        body = NEW_KEY if method == "POST" else b""
        status, answer, headers = await front.call(method, path, who, body)
        assert headers["cache-control"] == "no-store"
        if who in allowed:
            assert status == allowed[who]
            return
        wanted = {
            "none": problems.MISSING_AUTHORIZATION,
            "revoked": problems.REVOKED_KEY,
        }.get(who, refusal)
        assert (status, answer) == error(wanted)
        assert headers.get("www-authenticate") == ("Bearer" if status == 401 else None)

    @pytest.mark.parametrize("scope", sorted(SCOPES_OF["admin"]))
    async def test_a_single_scope_opens_what_it_names(self, redis_server, scope):
        store = RedisKeyStore(redis_server.url, HASHER)
        front = Front(store)
        name = f"api_key:{front.id_of('worker')}"
        redis_server.client.hset(name, "scopes", msgspec.json.encode([scope]))
        for method, path, needed in (
            ("GET", "/keys", "keys:read"),
            ("DELETE", f"/keys/{front.id_of('worker')}", "keys:revoke"),
        ):
            status, answer, _ = await front.call(method, path, "worker")
            if scope == needed:
                assert status == 200
            else:
                assert (status, answer) == error(problems.missing_scope(needed))
                assert answer["error"] == f"Insufficient permissions: {needed} is required"
        status, answer, _ = await front.call("POST", "/admin/keys", "worker", NEW_KEY)
        assert status in (401, 403)
        store.close()

    def test_every_route_of_keys_is_in_the_matrix(self, front):
        """A route that is added must be added above as well."""
        routes = {
            (method, rule.rule)
            for rule in front.app.url_map.iter_rules()
            for method in (rule.methods or set()) - {"OPTIONS"}
            if "keys" in rule.rule
        }
        assert routes == {
            ("POST", "/admin/keys"),
            ("GET", "/admin/keys"),
            ("HEAD", "/admin/keys"),
            ("GET", "/keys"),
            ("HEAD", "/keys"),
            ("DELETE", "/keys/<key>"),
        }

    @pytest.mark.parametrize(
        ("header", "words"),
        [
            (None, "Missing Authorization header"),
            ("", "Missing Authorization header"),
            ("client_x", "Invalid Authorization header format. Expected: Bearer <token>"),
            ("Bearer", "Empty API key"),
            ("Basic eDp5", "Invalid Authorization header format. Expected: Bearer <token>"),
            ("Bearer ", "Empty API key"),
            ("Bearer x", "Invalid API key"),
            ("Bearer " + "x" * 10_000, "Invalid API key"),
            ("Bearer client_é", "Invalid API key"),
        ],
    )
    async def test_a_401_has_the_contracts_words(self, front, header, words):
        headers = {} if header is None else {"Authorization": header}
        response = await front.app.test_client().get("/keys", headers=headers)
        assert response.status_code == 401
        assert await response.get_json() == {"error": words}
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert response.headers["Cache-Control"] == "no-store"

    async def test_two_authorizations_are_refused(self, front):
        headers = [("Authorization", f"Bearer {front.keys[who]}") for who in ("client", "admin")]
        response = await front.app.test_client().get("/keys", headers=headers)
        assert response.status_code == 400
        assert "Authorization" in (await response.get_json())["error"]


class TestCreate:
    @pytest.mark.parametrize("key_type", KEY_TYPES)
    async def test_a_new_key_is_shown_whole_and_works_at_once(self, front, key_type):
        wanted = NEW_KEY | {"type": key_type}
        status, body, _ = await front.call("POST", "/admin/keys", "admin", wanted)
        assert status == 201
        assert list(body) == [
            *("key", "name", "owner_id", "type", "scopes", "created_at", "last_used_at")
        ]
        assert {name: body[name] for name in wanted} == wanted
        assert body["scopes"] == list(SCOPES_OF[key_type])
        assert body["last_used_at"] is None
        assert token_of(body["key"]).type == key_type
        front.keys["new"] = body["key"]
        status, keys, _ = await front.call("GET", "/keys", "new")
        assert status == 200
        assert [key["key"] for key in keys] == [token_of(body["key"]).key_id]

    async def test_times_are_rfc_3339_with_z(self, front):
        _, body, _ = await front.call("POST", "/admin/keys", "admin", NEW_KEY)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["created_at"])
        age = datetime.now().astimezone() - datetime.fromisoformat(body["created_at"])
        assert 0 <= age.total_seconds() < 60

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"", "invalid JSON"),
            (b"{", "invalid JSON"),
            (b'{"name":"\xff"}', "invalid JSON"),
            (b'{"name":"\\ud800"}', "invalid JSON"),
            (b"\xef\xbb\xbf{}", "invalid JSON"),
            (b'{"name":NaN}', "invalid JSON"),
            (b"{}", "name is required"),
            (b'{"name":"","owner_id":"o","type":"client"}', "name is required"),
            (b'{"name":null,"owner_id":"o","type":"client"}', "name is required"),
            (b'{"name":"n"}', "owner_id is required"),
            (b'{"name":"n","owner_id":""}', "owner_id is required"),
            (b'{"name":"n","owner_id":"o"}', "type is required"),
            (b'{"name":"n","owner_id":"o","type":""}', "type is required"),
        ],
    )
    async def test_what_is_missing_is_said_in_the_contracts_words(self, front, body, words):
        status, answer, _ = await front.call("POST", "/admin/keys", "admin", body)
        assert (status, answer) == (400, {"error": words})

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"type": "root"}, "type must be client, worker or admin"),
            ({"owner_id": "a:keys"}, "owner_id"),
            ({"owner_id": "a b"}, "owner_id"),
            ({"owner_id": "a\n"}, "owner_id"),
            ({"owner_id": "é"}, "owner_id"),
            ({"owner_id": "a" * 129}, "owner_id"),
            ({"name": "n" * 257}, "name is longer"),
            ({"name": 7}, "name"),
            ({"scopes": ["keys:create"]}, "scopes"),
            ({"key": "client_" + "A" * 32}, "key"),
            ({"name": [[]] * 50}, "name"),
        ],
    )
    async def test_what_is_wrong_is_named(self, front, change, named):
        before = front.store.list_all()
        status, answer, _ = await front.call("POST", "/admin/keys", "admin", NEW_KEY | change)
        assert status == 400
        assert named in answer["error"]
        assert front.store.list_all() == before

    @pytest.mark.parametrize("body", [b"[" * 50_000, b'{"name":' + b"[" * 50_000])
    async def test_deep_nesting_is_refused(self, front, body):
        status, answer, _ = await front.call("POST", "/admin/keys", "admin", body)
        assert status == 400
        assert answer["error"].startswith("invalid JSON")

    async def test_a_body_over_the_limit_is_refused(self, front):
        body = NEW_KEY | {"name": "n" * 100_001}
        status, answer, _ = await front.call("POST", "/admin/keys", "admin", body)
        assert (status, answer) == (413, {"error": "body too large: at most 100000 bytes"})


class TestLists:
    async def test_an_admin_sees_all_keys_by_id(self, front):
        status, keys, _ = await front.call("GET", "/admin/keys", "admin")
        assert status == 200
        assert {key["key"] for key in keys} == {front.id_of(who) for who in front.keys}
        revoked = [key for key in keys if "revoked_at" in key]
        assert [key["key"] for key in revoked] == [front.id_of("revoked")]
        assert revoked[0]["revoked_at"] == "2023-11-14T22:13:21Z"
        assert {key["created_at"] for key in keys} == {"2023-11-14T22:13:20Z"}

    @pytest.mark.parametrize("who", KEY_TYPES)
    async def test_an_owner_sees_its_own(self, front, who):
        other = front.add("worker", f"{who}-owner")
        _, keys, _ = await front.call("GET", "/keys", who)
        wanted = {front.id_of(who), token_of(other).key_id}
        if who == "admin":
            wanted.add(front.id_of("revoked"))
        assert {key["key"] for key in keys} == wanted


class TestRevoke:
    @pytest.mark.parametrize("whole", [False, True])
    async def test_a_key_is_revoked_by_id_or_whole(self, front, whole):
        text = front.keys["client"] if whole else front.id_of("client")
        status, body, _ = await front.call("DELETE", f"/keys/{text}", "client")
        assert status == 200
        assert list(body) == ["message", "key", "revoked_at"]
        assert body["message"] == "Key revoked successfully"
        assert body["key"] == front.id_of("client")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["revoked_at"])
        status, answer, _ = await front.call("GET", "/keys", "client")
        assert (status, answer) == error(problems.REVOKED_KEY)
        # Again, by somebody else: the same, with the time of the first.
        again = await front.call("DELETE", f"/keys/{text}", "admin")
        assert again[:2] == (200, body)

    async def test_only_the_owner_and_an_admin_may(self, front):
        path = f"/keys/{front.id_of('worker')}"
        status, answer, _ = await front.call("DELETE", path, "client")
        assert (status, answer) == (403, {"error": "access denied: not the owner"})
        assert (await front.call("GET", "/keys", "worker"))[0] == 200
        assert (await front.call("DELETE", path, "admin"))[0] == 200
        assert (await front.call("GET", "/keys", "worker"))[0] == 401

    @pytest.mark.parametrize(
        "key",
        [
            *("client_aaaaaaaa", "x", "%00", "%ff", "*", "client_*", "client_aaaaaaaa%00", "."),
            *("client_" + "a" * 38, "client_" + "a" * 32, "a" * 3000, "%E2%82%AC", "%2e%2e"),
        ],
    )
    async def test_what_names_no_key_is_404(self, front, key):
        status, answer, _ = await front.call("DELETE", f"/keys/{key}", "admin")
        assert (status, answer) == (404, {"error": "key not found"})


class TestStoreGone:
    @pytest.fixture
    def gone(self, front, monkeypatch):
        """The store ends in the middle of it."""

        def fail(*_arguments: object) -> None:
            raise KeyStoreUnreachableError("somewhere", "gone")

        for name in ("find", "get", "list_all", "list_owned", "create", "revoke", "ping"):
            monkeypatch.setattr(front.store, name, fail)

    @pytest.mark.usefixtures("gone")
    @pytest.mark.parametrize("who", [*KEY_TYPES, "revoked"])
    async def test_an_unknown_key_gets_503_and_no_401(self, front, who):
        status, answer, headers = await front.call("GET", "/keys", who)
        assert (status, answer) == error(problems.KEYSTORE_UNREACHABLE)
        assert headers["retry-after"] == "1"

    async def test_administration_gets_503_with_a_known_key(self, front, request):
        assert (await front.call("GET", "/keys", "admin"))[0] == 200
        request.getfixturevalue("gone")
        for method, path, body in (
            ("POST", "/admin/keys", NEW_KEY),
            ("GET", "/admin/keys", b""),
            ("GET", "/keys", b""),
            ("DELETE", f"/keys/{front.id_of('client')}", b""),
        ):
            status, answer, _ = await front.call(method, path, "admin", body)
            assert (status, answer) == error(problems.KEYSTORE_UNREACHABLE)


class TestNode:
    async def test_health_is_ok_in_text(self, front):
        status, body, headers = await front.call("GET", "/health")
        assert (status, body) == (200, b"OK")
        assert headers["content-type"].startswith("text/plain")

    async def test_ready_names_partitions_and_key_store(self, front):
        await front.call("GET", "/keys", "client")
        status, body, _ = await front.call("GET", "/ready")
        assert status == 200
        assert body == {"partitions": {"0": "serving", "1": "serving"}, "keystore": "serving"}
        front.partitions.states[1] = "restarting"
        status, body, _ = await front.call("GET", "/ready")
        assert status == 503
        assert body["partitions"] == {"0": "serving", "1": "restarting"}

    async def test_not_ready_before_the_key_store_was_reached(self, front):
        status, body, _ = await front.call("GET", "/ready")
        assert status == 503
        assert body["keystore"] == "unreachable"

    async def test_a_key_store_that_went_away_leaves_it_ready_and_says_so(self, front):
        await front.call("GET", "/keys", "client")
        with pytest.raises(KeyStoreUnreachableError):
            await front.keyring._read(_unreachable)
        status, body, _ = await front.call("GET", "/ready")
        assert (status, body["keystore"]) == (200, "unreachable")


def _unreachable() -> None:
    raise KeyStoreUnreachableError("somewhere", "gone")


class TestFramework:
    @pytest.mark.parametrize(
        "path",
        ["/nope", "/keys/", "/admin", "/admin//keys", "/health/", "/static/x", "/keys/a/b",
         "/KEYS", "/%00", "/jobs//x", "/.."],
    )  # fmt: skip
    async def test_another_path_is_404_in_json(self, front, path):
        status, answer, _ = await front.call("GET", path, "admin")
        assert (status, answer) == (404, {"error": "not found"})

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("PUT", "/keys", "GET, HEAD, OPTIONS"),
            ("DELETE", "/keys", "GET, HEAD, OPTIONS"),
            ("PATCH", "/admin/keys", "GET, HEAD, OPTIONS, POST"),
            ("GET", "/keys/client_aaaaaaaa", "DELETE, OPTIONS"),
            ("POST", "/health", "GET, HEAD, OPTIONS"),
            ("TRACE", "/keys", "GET, HEAD, OPTIONS"),
            ("PUT", "/jobs", "GET, HEAD, OPTIONS, POST"),
            ("GET", "/jobs/lease", "OPTIONS, POST"),
            ("DELETE", "/jobs/ack", "OPTIONS, POST"),
            ("PUT", "/jobs/leases", "DELETE, GET, HEAD, OPTIONS"),
        ],
    )
    async def test_another_method_is_405_in_json(self, front, method, path, allow):
        status, answer, headers = await front.call(method, path, "admin")
        assert (status, answer) == (405, {"error": "method not allowed"})
        assert headers["allow"] == allow

    async def test_options_names_the_methods(self, front):
        status, body, headers = await front.call("OPTIONS", "/admin/keys")
        assert (status, body) == (200, b"")
        assert set(headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
        assert "access-control-allow-origin" not in headers

    async def test_a_bug_is_500_without_a_traceback_and_logged_once(
        self, front, monkeypatch, caplog
    ):
        def fail(*_arguments: object) -> None:
            raise ZeroDivisionError("inner words")

        text = front.keys["client"]
        monkeypatch.setattr(front.store, "revoke", fail)
        status, answer, _ = await front.call("DELETE", f"/keys/{text}", "admin")
        assert (status, answer) == error(problems.INTERNAL)
        assert [record.message for record in caplog.records] == ["DELETE /keys/<key> failed"]
        assert "ZeroDivisionError" in caplog.text
        assert text[16:36] not in caplog.text

    async def test_no_key_is_logged(self, front, caplog):
        caplog.set_level(logging.DEBUG)
        _, made, _ = await front.call("POST", "/admin/keys", "admin", NEW_KEY)
        front.keys["new"] = made["key"]
        for who in front.keys:
            await front.call("GET", "/keys", who)
            await front.call("GET", f"/nope/{front.keys[who]}", who)
            await front.call("PUT", f"/keys/{front.keys[who]}", who)
            await front.call("DELETE", f"/keys/{front.keys['client']}", who)
        for text in front.keys.values():
            assert text[16:36] not in caplog.text
