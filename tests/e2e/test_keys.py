"""Keys on a real node with two fronts, over both key stores."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.keys import mint
from tests.support.node import RunningNode
from tests.support.polling import wait_until
from tests.support.redis import RedisServer

MANY = 40
TTL = {"AUTH_CACHE_TTL": "1h"}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    directory = tmp_path / "redis"
    directory.mkdir()
    server = RedisServer(directory, password="sesame")
    server.start()
    yield server
    server.close()


def statuses(node: RunningNode, key: str) -> set[int]:
    """What the key is answered, by every front."""
    return {answer.status for answer in node.ask_every_front("GET", "/keys", key=key)}


@pytest.mark.parametrize("kind", ["redis", "embedded"])
def test_a_revocation_is_effective_on_all_fronts_at_once(tmp_path, redis, kind):
    environment = TTL | ({"REDIS_URL": redis.url} if kind == "redis" else {})
    with RunningNode(tmp_path, environment) as node:
        wanted = {"name": "n", "owner_id": "o", "type": "client"}
        made = node.request("POST", "/admin/keys", key="admin", json_body=wanted).json["key"]
        assert statuses(node, made) == {200}
        assert node.request("DELETE", f"/keys/{made}", key="admin").status == 200
        # The fronts remember a yes for an hour: what ends it is the word from the other one.
        wait_until(lambda: statuses(node, made) == {401})
        assert node.stop() == 0
        # Of keys only those are in the log that were made for development.
        assert made[16:] not in node.log
        assert sum(node.log.count(key) for key in node.keys.values()) >= 3


def test_a_redis_of_the_original_system_works(tmp_path, redis):
    texts = {}
    for key_type in ("client", "admin"):
        text = texts[key_type] = mint(key_type).text[: len(key_type) + 33]
        scopes = {"client": '["jobs:submit","jobs:read"]', "admin": '["keys:read","keys:create"]'}
        redis.client.hset(
            f"api_key:{text}",
            mapping={
                "key": text,
                "name": "old",
                "owner_id": "old",
                "type": key_type,
                "scopes": scopes[key_type],
                "created_at": 1_700_000_000,
                "revoked_at": "",
                "last_used_at": -62_135_596_800,
            },
        )
        for name in ("keys:active", "owner:old:keys", f"keys:type:{key_type}"):
            redis.client.sadd(name, text)
    with RunningNode(tmp_path, {"REDIS_URL": redis.url, "SEED_DEV_KEYS": "1"}) as node:
        assert node.keys == {}, "the store was not empty"
        for front in sorted(node.fronts):
            with node.only_front(front):
                answer = node.request(
                    "POST", "/jobs", key=texts["client"], json_body={"payload": "x"}
                )
            assert answer.status == 201
        (client, admin) = sorted(
            node.request("GET", "/admin/keys", key=texts["admin"]).json,
            key=lambda key: key["type"],
            reverse=True,
        )
        assert client["key"] == texts["client"][:15]
        assert admin["created_at"] == "2023-11-14T22:13:20Z"
        assert not any(text in redis.dump() for text in texts.values())


def test_a_node_starts_without_redis_says_so_and_waits(tmp_path, redis):
    redis.kill()
    node = RunningNode(tmp_path, {"REDIS_URL": redis.url})
    try:
        node.start(ready=False)
        wait_until(lambda: "front 0 serves" in node.log and "front 1 serves" in node.log)
        answer = node.request("GET", "/ready")
        assert answer.status == 503
        assert answer.json["keystore"] == "unreachable"
        assert node.request("GET", "/health").status == 200
        assert node.request("GET", "/keys", key=mint("client").text).status == 503
        assert node.request("GET", "/keys", key="nonsense").status == 401
        assert f"redis://127.0.0.1:{redis.port}" in node.log
        assert "sesame" not in node.log
        redis.start()
        node.wait_ready()
        wait_until(lambda: "Created admin key" in node.log)
    finally:
        node.close()


def test_known_keys_go_on_while_redis_is_gone(tmp_path, redis):
    # One front: each remembers the keys that it has seen, and no client chooses its front.
    environment = {"REDIS_URL": redis.url, "AUTH_CACHE_TTL": "100ms", "FRONTS": "1"}
    with RunningNode(tmp_path, environment) as node:
        client = node.keys["client"]
        assert statuses(node, client) == {200}
        redis.freeze()
        submits = {
            node.request("POST", "/jobs", key=client, json_body={"payload": "x"}).status
            for _ in range(MANY)
        }
        assert submits == {201}
        assert statuses(node, mint("client").text) == {503}
        redis.thaw()
        wait_until(lambda: statuses(node, node.keys["worker"]) == {200})
