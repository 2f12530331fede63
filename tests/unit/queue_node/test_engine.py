"""The engine: a node in this process, and its clock."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from partitions.clock import SystemClock
from partitions.state import Policy
from queue_node.engine import Engine, EngineClosedError, EngineReply
from queue_node.engine_partition import InProcessPartition

START_MS = 1_800_000_000_000


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(start_ms=START_MS) as made:
        yield made


class Asking:
    """An admin of an engine, in JSON."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.headers = {"Authorization": f"Bearer {engine.keys['admin']}"}

    def __call__(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        content = b"" if body is None else msgspec.json.encode(body)
        reply = self.engine.request(method, path, self.headers, content, timeout_s=10)
        return reply.status, msgspec.json.decode(reply.body) if reply.body else None


@pytest.fixture
def ask(engine: Engine) -> Asking:
    return Asking(engine)


def header(reply: EngineReply, name: str) -> str | None:
    return next((value for each, value in reply.headers if each.lower() == name), None)


def test_a_job_goes_its_whole_way(ask: Asking):
    status, made = ask("POST", "/jobs", {"payload": "a"})
    assert status == 201
    _, leased = ask("POST", "/jobs/lease", {})
    assert (leased["job_id"], leased["payload"], leased["attempt"]) == (made["job_id"], "a", 1)
    done = {"result": "b", "lease_token": leased["lease_token"]}
    assert ask("POST", f"/jobs/{made['job_id']}/ack", done) == (200, None)
    _, job = ask("GET", f"/jobs/{made['job_id']}")
    assert (job["state"], job["result"]) == ("ACKED", "b")


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_batch_is_spread_and_all_of_it_is_leased(partitions: int):
    with Engine(partitions=partitions) as engine:
        ask = Asking(engine)
        jobs = [{"payload": str(n), "group": f"g{n % 7}"} for n in range(50)]
        jobs += [{"payload": str(n)} for n in range(50, 100)]
        status, made = ask("POST", "/jobs/batch", {"jobs": jobs})
        assert status == 201
        seen = set()
        while (got := ask("POST", "/jobs/lease", {"max": 10}))[0] == 200:
            acks = [
                {"job_id": job["job_id"], "lease_token": job["lease_token"], "result": ""}
                for job in got[1]["jobs"]
            ]
            assert ask("POST", "/jobs/ack", {"acks": acks})[0] == 200
            seen |= {job["job_id"] for job in got[1]["jobs"]}
        assert seen == set(made["job_ids"])
        _, queue = ask("GET", "/queues/default")
        assert queue["counts"]["ACKED"] == 100
        assert len(queue["partitions"]) <= partitions


def test_time_stands_still_until_it_is_moved(engine: Engine, ask: Asking):
    ask("POST", "/jobs", {"payload": "a", "delay": "2h"})
    assert engine.now_ms == START_MS
    assert engine.next_deadline_ms() == START_MS + 7_200_000
    engine.advance("1h59m59.999s")
    assert ask("POST", "/jobs/lease", {})[0] == 404
    engine.advance(0.001)
    assert ask("POST", "/jobs/lease", {})[0] == 200
    assert engine.now_ms == START_MS + 7_200_000


def test_a_lease_ends_by_the_moved_clock(engine: Engine, ask: Asking):
    _, made = ask("POST", "/jobs", {"payload": "a"})
    _, first = ask("POST", "/jobs/lease", {"lease_duration": "30s"})
    engine.advance("31s")
    _, second = ask("POST", "/jobs/lease", {})
    assert int(second["lease_token"]) > int(first["lease_token"])
    late = {"result": "x", "lease_token": first["lease_token"]}
    assert ask("POST", f"/jobs/{made['job_id']}/ack", late) == (409, {"error": "lease lost"})


def test_a_finished_job_is_forgotten_after_its_retention(engine: Engine, ask: Asking):
    _, made = ask("POST", "/jobs", {"payload": "a", "retention": "1h"})
    _, leased = ask("POST", "/jobs/lease", {})
    ask("POST", f"/jobs/{made['job_id']}/ack", {"lease_token": leased["lease_token"]})
    engine.advance("1h1m")
    assert ask("GET", f"/jobs/{made['job_id']}")[0] == 404


def test_answers_are_dated_by_its_clock(engine: Engine, ask: Asking):
    engine.advance("1h")
    for path in ("/jobs/lease", "/queues"):
        method = "POST" if path == "/jobs/lease" else "GET"
        reply = engine.request(method, path, ask.headers, b"{}" if method == "POST" else b"")
        assert header(reply, "date") == "Fri, 15 Jan 2027 09:00:00 GMT"


def test_moving_the_clock_ends_a_wait_that_was_begun(engine: Engine, ask: Asking):
    waiting = engine.begin("POST", "/jobs/lease", ask.headers, b'{"wait":"60s"}')
    engine.advance("61s")
    assert waiting.result(5).status == 404


def test_a_wait_ends_by_real_time_too(engine: Engine, ask: Asking):
    began = time.monotonic()
    assert ask("POST", "/jobs/lease", {"wait": "0.2s"})[0] == 404
    assert 0.15 < time.monotonic() - began < 5
    assert engine.now_ms == START_MS


def test_a_submit_wakes_a_lease_that_waits(engine: Engine, ask: Asking):
    waiting = engine.begin("POST", "/jobs/lease", ask.headers, b'{"wait":"60s"}')
    ask("POST", "/jobs", {"payload": "a"})
    assert waiting.result(5).status == 200


def test_the_end_of_a_job_is_waited_for(engine: Engine, ask: Asking):
    _, made = ask("POST", "/jobs", {"payload": "a"})
    path = f"/jobs/{made['job_id']}"
    waiting = engine.begin("GET", f"{path}?wait=60s", ask.headers)
    _, leased = ask("POST", "/jobs/lease", {})
    ask("POST", f"{path}/ack", {"lease_token": leased["lease_token"], "result": "r"})
    assert msgspec.json.decode(waiting.result(5).body)["state"] == "ACKED"


def test_a_request_that_is_given_up_takes_no_job(engine: Engine, ask: Asking):
    with pytest.raises(TimeoutError):
        engine.request("POST", "/jobs/lease", ask.headers, b'{"wait":"60s"}', timeout_s=0.05)
    _, made = ask("POST", "/jobs", {"payload": "a"})
    _, job = ask("GET", f"/jobs/{made['job_id']}")
    assert job["state"] == "READY"


def test_a_clock_that_runs(ask: Asking):
    del ask
    with Engine(running=True) as engine:
        before_ms = engine.now_ms
        time.sleep(0.02)
        assert engine.now_ms > before_ms


def test_keys_are_checked_like_a_nodes(engine: Engine):
    def status(key: str, method: str, path: str, body: bytes) -> int:
        return engine.request(method, path, {"Authorization": f"Bearer {key}"}, body).status

    submit = ("POST", "/jobs", b'{"payload":"a"}')
    assert status(engine.keys["client"], *submit) == 201
    assert status(engine.keys["worker"], *submit) == 403
    assert status("client_" + "x" * 20, *submit) == 401
    assert engine.request(*submit[:2], body=submit[2]).status == 401
    assert status(engine.keys["worker"], "POST", "/jobs/lease", b"{}") == 200


def test_a_revoked_key_is_refused_at_once(engine: Engine, ask: Asking):
    key = engine.keys["client"]
    client = {"Authorization": f"Bearer {key}"}
    assert engine.request("GET", "/queues", client).status == 200
    assert ask("DELETE", f"/keys/{key}")[0] == 200
    assert engine.request("GET", "/queues", client).status == 401


def test_wrong_requests_get_a_nodes_words(engine: Engine, ask: Asking):
    assert ask("POST", "/jobs", {"payload": ""})[0] == 400
    assert ask("GET", "/nowhere") == (404, {"error": "not found"})
    assert ask("PUT", "/jobs")[0] == 405
    huge = engine.request("POST", "/jobs", ask.headers, b" " * ((16 << 20) + 1))
    assert huge.status == 413
    assert engine.request("GET", "/health").body == b"OK"
    assert ask("GET", "/ready")[1]["partitions"] == {"0": "serving"}


def test_an_idempotency_key_in_the_header_counts(engine: Engine, ask: Asking):
    headers = {**ask.headers, "Idempotency-Key": "k"}
    first = engine.request("POST", "/jobs", headers, b'{"payload":"a"}')
    again = engine.request("POST", "/jobs", headers, b'{"payload":"a"}')
    assert (first.status, again.status) == (201, 200)
    assert header(again, "idempotent-replay") == "true"


def test_many_threads_may_ask(engine: Engine, ask: Asking):
    def submit() -> None:
        for _ in range(50):
            ask("POST", "/jobs", {"payload": "a"})

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ask("GET", "/queues/default")[1]["counts"]["READY"] == 400


def test_a_job_count_limit_is_kept():
    with Engine(jobs_max=1) as engine:
        ask = Asking(engine)
        assert ask("POST", "/jobs", {"payload": "a"})[0] == 201
        assert ask("POST", "/jobs", {"payload": "b"})[0] == 429


def test_closing_ends_what_waits_and_refuses_the_rest():
    engine = Engine()
    headers = {"Authorization": f"Bearer {engine.keys['worker']}"}
    waiting = engine.begin("POST", "/jobs/lease", headers, b'{"wait":"60s"}')
    directory = engine._directory
    assert directory.is_dir()
    engine.close()
    engine.close()
    with pytest.raises(EngineClosedError):
        waiting.result(5)
    with pytest.raises(EngineClosedError):
        engine.request("GET", "/health")
    with pytest.raises(EngineClosedError):
        engine.advance("1s")
    assert not directory.exists()


def test_what_is_no_duration_moves_nothing(engine: Engine):
    for wrong in ("soon", "-1s", -1):
        with pytest.raises(ValueError, match="not a duration"):
            engine.advance(wrong)
    assert engine.now_ms == START_MS


def test_closing_while_partitions_are_asked_is_no_failure(caplog: pytest.LogCaptureFixture):
    for _ in range(20):  # whose task ends first is by chance
        with Engine() as engine:
            headers = {"Authorization": f"Bearer {engine.keys['worker']}"}
            asking = [engine.begin("POST", "/jobs/lease", headers, b"{}") for _ in range(3)]
        for each in asking:
            with suppress(EngineClosedError):
                assert each.result(5).status == 404
    assert caplog.messages == []


async def test_it_may_be_asked_from_a_task_of_trios(ask: Asking):
    assert ask("POST", "/jobs", {"payload": "a"})[0] == 201


async def test_a_connection_that_nobody_will_serve_is_closed(tmp_path: Path):
    partition = InProcessPartition(0, 1, tmp_path / "p", SystemClock(), Policy())
    theirs = partition.connect()
    assert theirs is not None
    with trio.CancelScope() as scope:
        scope.cancel()
        await partition.run()
    with theirs:
        assert theirs.recv(1) == b""
    assert partition.connect() is None
    partition.close()
