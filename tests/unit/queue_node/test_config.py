"""The environment becomes a Config, or one clear line."""

import msgspec
import pytest

from api.settings import DoorLimits, FrontSettings
from partitions.settings import PartitionSettings
from queue_node import config
from queue_node.config import VARIABLES, Config, read
from queue_node.errors import ConfigError, ExitCode


def test_an_empty_environment_gives_the_defaults_of_the_contract():
    assert read({}) == Config()
    told = read({}).front_settings(0, 3, ("/s",), "/k", "text", 5)
    assert told == FrontSettings(
        front=0, listen_fd=3, partition_sockets=("/s",), keystore_path="/k", clock_ahead_ms=5
    )
    assert read({}).partition_settings(1, 2, "/d", "/s", "text", 5) == PartitionSettings(
        partition=1,
        partitions=2,
        directory="/d",
        socket="/s",
        clock_ahead_ms=5,
        disk_free_min_bytes=64 << 20,
    )


def test_every_variable_reaches_the_processes_that_it_is_for():
    set_by_hand = {
        "HOST": "::1",
        "PORT": "9000",
        "WAL_DIR": "/srv/q",
        "PARTITIONS": "3",
        "FRONTS": "4",
        "LEASE_DURATION": "1m30s",
        "LEASE_CHECK_INTERVAL": "250ms",
        "REDIS_URL": "cache:6379",
        "DEFAULT_MAX_RETRIES": "7",
        "RETRY_BACKOFF": "2",
        "RETRY_BACKOFF_MAX": "3m",
        "RETENTION": "1h",
        "DEAD_RETENTION": "2h",
        "MAX_PAYLOAD": "64KiB",
        "MAX_JOBS": "30",
        "DISK_FREE_MIN": "1MiB",
        "AUTH_CACHE_TTL": "1s",
        "AUTH_GRACE": "2s",
        "SEED_DEV_KEYS": "1",
        "KEY_PEPPER": "pepper",
        "TLS_CERT": "/c.pem",
        "TLS_KEY": "/k.pem",
        "LOG_FORMAT": "JSON",
        "LOG_LEVEL": "debug",
        "MAX_BODY": "1MiB",
        "MAX_BODIES": "2MiB",
        "MAX_HEAD": "4KiB",
        "MAX_URL": "1KiB",
        "MAX_HEADERS": "10",
        "MAX_CONNECTIONS": "11",
        "MAX_CONNECTIONS_PER_ADDRESS": "12",
        "MAX_PIPELINED": "13",
        "MAX_OUTPUT": "14KiB",
        "IDLE_TIMEOUT": "15s",
        "HEAD_TIMEOUT": "16s",
        "BODY_TIMEOUT": "17s",
        "WRITE_TIMEOUT": "18s",
        "HALF_CLOSE_TIMEOUT": "19s",
        "LINGER_TIMEOUT": "20s",
        "HANDSHAKE_TIMEOUT": "21s",
        "DRAIN_TIMEOUT": "1.5s",
    }
    assert set(set_by_hand) == {variable.name for variable in VARIABLES}
    set_by_hand["REDIS_URL"] = "redis://:secret@cache:6379/2"
    made = read(set_by_hand)
    assert (made.host, made.port, made.wal_dir) == ("::1", 9000, "/srv/q")
    assert (made.partitions, made.fronts) == (3, 4)
    assert made.seed_dev_keys == "always"
    assert (made.log_format, made.log_level) == ("json", "debug")
    assert made.partition_settings(0, 3, "/d", "/s", "json", 5) == PartitionSettings(
        partition=0,
        partitions=3,
        directory="/d",
        socket="/s",
        clock_ahead_ms=5,
        lease_check_interval_ms=250,
        retry_backoff_ms=2000,
        retry_backoff_max_ms=180_000,
        retention_ms=3_600_000,
        dead_retention_ms=7_200_000,
        lease_duration_ms=90_000,
        jobs_max=10,
        disk_free_min_bytes=1 << 20,
        log_format="json",
        log_level="debug",
    )
    assert made.front_settings(2, 5, ("/a", "/b"), "/k", "json", 5) == FrontSettings(
        front=2,
        listen_fd=5,
        partition_sockets=("/a", "/b"),
        keystore_path="/k",
        clock_ahead_ms=5,
        redis_url="redis://:secret@cache:6379/2",
        key_pepper="pepper",
        auth_cache_ttl_ms=1000,
        auth_grace_ms=2000,
        default_max_retries=7,
        retry_backoff_ms=2000,
        retry_backoff_max_ms=180_000,
        payload_bytes_max=1 << 16,
        tls_cert="/c.pem",
        tls_key="/k.pem",
        log_format="json",
        log_level="debug",
        limits=DoorLimits(
            connections_max=11,
            connections_per_address_max=12,
            head_bytes_max=4096,
            url_bytes_max=1024,
            headers_max=10,
            body_bytes_max=1 << 20,
            bodies_bytes_max=2 << 20,
            pipelined_max=13,
            output_bytes_max=14 << 10,
            idle_timeout_ms=15_000,
            head_timeout_ms=16_000,
            body_timeout_ms=17_000,
            write_timeout_ms=18_000,
            half_close_ms=19_000,
            linger_ms=20_000,
            handshake_timeout_ms=21_000,
            drain_timeout_ms=1_500,
        ),
    )


def test_every_field_can_be_set_by_exactly_one_variable():
    fields = [variable.field for variable in VARIABLES]
    assert len(set(fields)) == len(fields)
    own = {field.name for field in msgspec.structs.fields(Config)} - {"limits"}
    door = {f"limits.{field.name}" for field in msgspec.structs.fields(DoorLimits)}
    assert set(fields) == own | door


def test_every_default_is_a_value_that_its_own_variable_allows():
    for variable in VARIABLES:
        value: object = Config()
        for name in variable.field.split("."):
            value = getattr(value, name)
        if value is not None:
            assert variable.kind.parse(variable.default) == value, variable.name


def test_an_empty_variable_counts_as_unset_and_unknown_ones_are_ignored():
    assert read({"PORT": "", "REDIS_URL": "  ", "PORTS": "x", "PATH": "/bin"}) == Config()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "80a", "a whole number from 0 to 65535"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("LEASE_DURATION", "soon", "a duration from 100ms to 8760h"),
        ("MAX_BODY", "lots", "a size from 1KiB to 1GiB"),
        ("LOG_LEVEL", "loud", "debug, info, warning or error"),
        ("PARTITIONS", "0", "a whole number from 1 to 1024"),
        ("DRAIN_TIMEOUT", "9s", "a duration from 0s to 8s"),
        ("SEED_DEV_KEYS", "maybe", "auto, 1, 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable_and_what_is_allowed(name, value, allowed):
    with pytest.raises(ConfigError) as caught:
        read({name: value})
    assert str(caught.value).startswith(f"{name}={value}: must be {allowed}")
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_wrong_value_stays_on_one_line():
    with pytest.raises(ConfigError) as caught:
        read({"PORT": "1\n2\x1b[2J"})
    assert str(caught.value).startswith("PORT=1\\x0a2\\x1b[2J: must be")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://localhost:6379", "scheme"),
        ("redis://localhost:port", "does not parse"),
        ("cache:6379", "without a password"),
    ],
)
def test_a_wrong_redis_url_gets_the_words_of_the_key_store(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read({"REDIS_URL": text})
    assert caught.value.variable == "REDIS_URL"


def test_a_secret_is_not_shown_even_when_it_is_wrong():
    for name, value in [("REDIS_URL", "redis://:hunter2@x:y"), ("KEY_PEPPER", "hunter2\n.")]:
        with pytest.raises(ConfigError) as caught:
            read({name: value})
        assert str(caught.value).startswith(f"{name}=***: ")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TLS_CERT": "/c"}, "TLS_KEY=: must be set as well"),
        ({"TLS_KEY": "/k"}, "TLS_CERT=: must be set as well"),
        ({"RETRY_BACKOFF": "1h"}, "RETRY_BACKOFF_MAX=10m: must be at least RETRY_BACKOFF"),
        ({"MAX_BODY": "1KiB"}, "MAX_BODY=1KiB: must be at least MAX_PAYLOAD"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(environment, words):
    with pytest.raises(ConfigError) as caught:
        read(environment)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("127.0.0.1.example", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host, loopback):
    assert config.is_loopback(host) is loopback


def test_each_partition_has_its_share_of_the_jobs_rounded_up():
    config = read({"MAX_JOBS": "10"})
    shares = [config.partition_settings(i, 4, "/d", "/s", "text", 5).jobs_max for i in range(4)]
    assert shares == [3] * 4
    assert read({}).partition_settings(0, 4, "/d", "/s", "text", 5).jobs_max is None
    assert read({"DISK_FREE_MIN": "0"}).disk_free_min_bytes == 0
