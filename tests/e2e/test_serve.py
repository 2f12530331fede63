"""A real node: how it starts, survives, drains, and what it says when it can't."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from queue_node.config import VARIABLES
from queue_node.errors import ExitCode
from tests.support.node import RunningNode
from tests.support.polling import DEADLINE_S, wait_until
from tests.support.redis import RedisServer

SMALL = {"FRONTS": "1", "PARTITIONS": "1"}
"""For what more processes would only make slower."""


def submit(node: RunningNode, payload: str = "x") -> str:
    answer = node.request("POST", "/jobs", key="client", json_body={"payload": payload})
    assert answer.status == 201, answer
    return str(answer.json["job_id"])


def state_of(node: RunningNode, job_id: str) -> str:
    answer = node.request("GET", f"/jobs/{job_id}", key="client")
    assert answer.status == 200, answer
    return str(answer.json["state"])


def half_a_submit(node: RunningNode) -> socket.socket:
    """A request in flight: its head and half of its body have arrived."""
    client = socket.create_connection(("127.0.0.1", node.port), timeout=DEADLINE_S)
    client.sendall(
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n"
        b"Authorization: Bearer %b\r\nExpect: 100-continue\r\n\r\n" % node.keys["client"].encode()
    )
    # The interim answer proves that the head was read, not only sent.
    assert client.recv(100).startswith(b"HTTP/1.1 100")
    client.sendall(b'{"payloa')
    return client


def listens(node: RunningNode) -> bool:
    """Whether anybody listens on the node's port."""
    try:
        socket.create_connection(("127.0.0.1", node.port), timeout=DEADLINE_S).close()
    except ConnectionRefusedError:
        return False
    return True


def refused(environment: dict[str, str], *, directory: Path) -> tuple[int, str]:
    """Exit code and standard error of a node that does not start."""
    ours = {variable.name for variable in VARIABLES}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-m", "queue_node", "serve"],
        env=kept | {"PORT": "0", "WAL_DIR": str(directory / "data")} | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


# Starting ---------------------------------------------------------------------------------


def test_process_titles_tell_which_is_which(node):
    assert sorted(node.fronts) == [0, 1]
    assert sorted(node.partitions) == [0, 1]
    title = Path(f"/proc/{node.pid}/cmdline").read_bytes()
    assert title.startswith(b"queue-node: supervisor")


def test_what_is_on_disk_is_the_owners_alone(node):
    submit(node)
    found = [node.data, *node.data.rglob("*")]
    assert len(found) > 5
    for path in found:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_every_child_has_a_process_group_of_its_own(node):
    groups = {os.getpgid(pid) for pid in [*node.fronts.values(), *node.partitions.values()]}
    assert len(groups) == 4
    assert os.getpgid(node.pid) not in groups


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is what the lines are for")
def test_the_three_lines_beneath_the_keys_work_as_pasted(make_node):
    node = make_node(**SMALL).start()
    wait_until(lambda: "/ack" in node.log)
    lines = [line for line in node.log.splitlines() if "curl -s" in line]
    pasted = "\n".join(lines)
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail"], input=pasted, capture_output=True, text=True, check=True
    )
    submitted, leased, acked = done.stdout.replace("}{", "}\n{").splitlines()
    assert json.loads(leased)["job_id"] == json.loads(submitted)["job_id"]
    assert json.loads(leased)["payload"] == "hello"
    assert acked == "200"
    assert state_of(node, json.loads(leased)["job_id"]) == "ACKED"


def test_development_keys_are_made_once(make_node):
    node = make_node(**SMALL).start()
    assert sorted(node.keys) == ["admin", "client", "worker"]
    before = dict(node.keys)
    node.restart()
    assert "Created" not in node.log_now
    assert node.keys == before
    submit(node)


def test_in_json_every_line_is_an_object_on_both_streams(make_node):
    node = make_node(LOG_FORMAT="json").start()
    killed = node.kill_partition(0)
    node.wait_restarted(killed)
    assert node.stop() == ExitCode.DRAINED
    records = [json.loads(line) for line in node.log.splitlines()]
    assert {"supervisor", "front 0", "partition 1"} <= {record["process"] for record in records}
    for kind, key in node.keys.items():
        shown = [record for record in records if key in record["message"]]
        assert [record["message"] for record in shown] == [
            f"Created {kind} key: {key} (owner: dev-{kind})"
        ]


def test_in_json_a_refusal_is_an_object(tmp_path):
    code, error = refused({"LOG_FORMAT": "json", "PORT": "x"}, directory=tmp_path)
    assert code == ExitCode.USAGE
    assert error.count("\n") == 1
    assert json.loads(error)["message"].startswith("PORT=x: must be")


def test_a_node_for_everybody_says_so(make_node):
    node = make_node(**SMALL, HOST="0.0.0.0", SEED_DEV_KEYS="1").start()
    everybody = f"{node.url} and every other IPv4 address of this machine (0.0.0.0)"
    assert node.url == f"http://127.0.0.1:{node.port}"
    assert f"listening on {everybody};" in node.log
    assert f"Queue Node serves on {everybody}\n" in node.log


def test_a_failed_start_fixes_no_number_of_partitions(make_node):
    node = make_node()
    with socket.create_server(("127.0.0.1", 0)) as other:
        wanted = {"WAL_DIR": str(node.data), "PARTITIONS": "3"}
        code, _ = refused(wanted | {"PORT": str(other.getsockname()[1])}, directory=node.data)
    assert code == ExitCode.ADDRESS
    assert not (node.data / "node.json").exists()
    node.start()
    assert sorted(node.partitions) == [0, 1]


def test_another_pepper_than_that_of_the_keys_is_one_line(make_node):
    node = make_node(**SMALL, KEY_PEPPER="pepper").start()
    node.stop()
    for pepper, said in (("other", "made with another one"), ("", "made with one: set it")):
        wanted = {"WAL_DIR": str(node.data), "KEY_PEPPER": pepper}
        code, error = refused(wanted, directory=node.data)
        assert code == ExitCode.USAGE
        assert_one_line(error)
        assert error.startswith("queue-node: KEY_PEPPER=")
        assert said in error
        assert "other:" not in error
    node.start()
    submit(node)


def test_the_number_of_partitions_stays_when_nobody_names_it(make_node):
    node = make_node(PARTITIONS="3").start()
    node.stop()
    code, error = refused({"WAL_DIR": str(node.data), "PARTITIONS": "2"}, directory=node.data)
    assert code == ExitCode.DIRECTORY
    assert_one_line(error)
    assert "made with PARTITIONS=3 and can't be used with PARTITIONS=2" in error
    node.start(environment={"PARTITIONS": ""})
    assert sorted(node.partitions) == [0, 1, 2]


# Refusing to start ------------------------------------------------------------------------


def assert_one_line(error: str) -> None:
    assert error.startswith("queue-node: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_a_wrong_value_is_one_line(tmp_path):
    code, error = refused({"LEASE_DURATION": "soon"}, directory=tmp_path)
    assert code == ExitCode.USAGE
    assert_one_line(error)
    assert "LEASE_DURATION=soon: must be a duration" in error
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        code, error = refused({"PORT": port}, directory=tmp_path)
    assert code == ExitCode.ADDRESS
    assert_one_line(error)
    assert f"port {port} is in use" in error


def test_a_second_node_on_the_same_directory_is_one_line(node):
    code, error = refused({"WAL_DIR": str(node.data)}, directory=node.data)
    assert code == ExitCode.DIRECTORY
    assert_one_line(error)
    assert f"is in use by another node (process {node.pid})" in error
    submit(node)


def test_a_directory_that_can_not_be_made_is_one_line(tmp_path):
    code, error = refused({"WAL_DIR": "/sys/queue-node"}, directory=tmp_path)
    assert code == ExitCode.DIRECTORY
    assert_one_line(error)
    assert "WAL_DIR=/sys/queue-node can't be used" in error


def test_a_certificate_that_is_none_is_one_line(tmp_path):
    (tmp_path / "cert.pem").write_text("nothing")
    files = {"TLS_CERT": str(tmp_path / "cert.pem"), "TLS_KEY": str(tmp_path / "key.pem")}
    code, error = refused(files, directory=tmp_path)
    assert code == ExitCode.USAGE
    assert_one_line(error)
    assert "TLS_CERT=" in error


def test_an_interrupt_while_it_starts_is_one_line(tmp_path, monkeypatch, capsys):
    from queue_node import cli, serve

    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "serve", interrupted)
    assert cli.main(["serve"]) == ExitCode.CUT_SHORT
    assert capsys.readouterr().err == "queue-node: interrupted\n"


# Stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_nothing_is_left(make_node, number):
    node = make_node().start()
    job_id = submit(node)
    pids = [*node.fronts.values(), *node.partitions.values()]
    # Within 10 s, else it would have been cut short.
    assert node.stop(number) == ExitCode.DRAINED
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not listens(node)
    node.start()
    assert state_of(node, job_id) == "READY"


def test_a_request_in_flight_is_finished_while_new_clients_are_refused(make_node):
    node = make_node(**SMALL, DRAIN_TIMEOUT="8s").start()
    with half_a_submit(node) as client:
        node.signal(signal.SIGTERM)
        wait_until(lambda: not listens(node))
        client.sendall(b'd": "y"}')
        answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 201 "), answer
    assert node.wait() == ExitCode.DRAINED
    node.start()
    assert state_of(node, json.loads(answer.partition(b"\r\n\r\n")[2])["job_id"]) == "READY"


def test_a_client_that_does_not_finish_is_cut_at_the_drain_timeout(make_node):
    node = make_node(**SMALL, DRAIN_TIMEOUT="200ms").start()
    with half_a_submit(node) as client:
        node.signal(signal.SIGTERM)
        assert node.wait() == ExitCode.DRAINED
        assert b"201" not in client.recv(4096)


def test_a_second_signal_ends_at_once(make_node):
    node = make_node(**SMALL, DRAIN_TIMEOUT="8s").start()
    with half_a_submit(node):
        node.signal(signal.SIGTERM)
        wait_until(lambda: "SIGTERM: draining" in node.log)
        # Two that come together are one, so say it until it is heard.
        wait_until(lambda: node.signal(signal.SIGTERM) or not node.running)
        assert node.wait() == ExitCode.CUT_SHORT
    assert "SIGTERM again: ending at once" in node.log


# Surviving --------------------------------------------------------------------------------


def test_a_killed_partition_comes_back_with_its_jobs(make_node):
    node = make_node().start()
    jobs = [submit(node) for _ in range(20)]
    for number in (0, 1):
        killed = node.kill_partition(number)
        node.wait_restarted(killed)
    assert {state_of(node, job_id) for job_id in jobs} == {"READY"}


def test_a_killed_front_comes_back_while_the_other_serves(make_node):
    node = make_node().start()
    killed = node.kill_front(0)
    submit(node)
    node.wait_restarted(killed)
    killed = node.kill_front(1)
    submit(node)
    node.wait_restarted(killed)
    assert node.stop() == ExitCode.DRAINED


def test_children_end_by_themselves_when_the_supervisor_is_killed(make_node):
    node = make_node().start()
    job_id = submit(node)
    orphans = [*node.fronts.values(), *node.partitions.values()]
    with half_a_submit(node):
        node.signal(signal.SIGKILL)
        node.wait()
        # At once on the same port and directory, while an orphan still drains.
        node.start()
        assert state_of(node, job_id) == "READY"
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))


def test_everything_killed_at_once_keeps_what_was_answered(make_node):
    node = make_node().start()
    jobs = [submit(node, f"payload {number}") for number in range(20)]
    sockets = Path(json.loads((node.data / "lock").read_text())["runtime"])
    node.kill()
    assert sockets.exists()
    node.start()
    assert {state_of(node, job_id) for job_id in jobs} == {"READY"}
    assert not sockets.exists()


def test_a_partition_with_damaged_data_stays_down_and_the_rest_serves(make_node):
    node = make_node().start()
    jobs = [submit(node, f"payload-{number}-") for number in range(40)]
    node.stop()
    damage(node.data / "p-0000", b"payload-")
    node.start(ready=False)
    wait_until(lambda: "partition 0 found damaged data and stays down" in node.log_now)
    wait_until(lambda: "partition 1 serves" in node.log_now)
    assert [each.status for each in node.ask_every_front("GET", "/health")] == [200, 200]

    def seen_of(partition: str) -> set[str]:
        answers = node.ask_every_front("GET", "/ready")
        assert {each.status for each in answers} == {503}
        return {each.json["partitions"][partition] for each in answers}

    wait_until(lambda: seen_of("1") == {"serving"})
    assert "serving" not in seen_of("0")
    statuses = {node.request("GET", f"/jobs/{job_id}", key="client").status for job_id in jobs}
    assert statuses == {200, 503}
    submit(node)
    assert node.stop() == ExitCode.DRAINED


def damage(partition: Path, mark: bytes) -> None:
    """Flip a bit in the first of several payloads, so that good records are behind it."""
    for path in sorted(partition.glob("*.seg")):
        content = bytearray(path.read_bytes())
        if content.count(mark) > 2:
            content[content.index(mark)] ^= 1
            path.write_bytes(content)
            return
    raise AssertionError(f"no payloads in {partition}")


# The key store ----------------------------------------------------------------------------


def test_redis_down_at_the_start_is_waited_for(make_node, tmp_path):
    redis = RedisServer(tmp_path)
    node = make_node(**SMALL, REDIS_URL=redis.url)
    try:
        node.start(ready=False)
        wait_until(lambda: "trying again in" in node.log)
        assert "key store" in node.log
        wait_until(lambda: node.request("GET", "/health").status == 200)
        assert node.request("GET", "/ready").status == 503
        redis.start()
        node.wait_ready()
        wait_until(lambda: "Created admin key" in node.log)
        assert redis.client.scard("keys:active") == 3
        assert node.stop() == ExitCode.DRAINED
    finally:
        node.close()
        redis.close()


def test_tls_is_served_when_it_is_set(make_node, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(tmp_path / "cert.pem"), append=True)
    node = make_node(
        **SMALL, TLS_CERT=str(tmp_path / "cert.pem"), TLS_KEY=str(tmp_path / "key.pem")
    )
    node.start()
    assert node.url.startswith("https://")
    submit(node)
    assert node.stop() == ExitCode.DRAINED
