"""A real front process, alone: no partition behind it, so only what the door itself answers."""

import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.h2_client import Certificates, H2Client, connect_tls
from tests.support.polling import DEADLINE_S, wait_until

HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


class FrontProcess:
    """``python -m api`` on a port of its own."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.log = directory / "front.log"
        directory.chmod(0o700)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = listener.getsockname()[1]
        with listener, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[listener.fileno()],
            )
            front = {
                "front": 0,
                "listen_fd": listener.fileno(),
                "partition_sockets": [str(directory / "none")],
                "keystore_path": str(directory / "keys.sqlite"),
                **settings,
            }
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(front).encode() + b"\n")
            self.process.stdin.flush()

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        with closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def front_process(directory: Path, **settings: Any) -> Iterator[FrontProcess]:
    process = FrontProcess(directory, **settings)
    try:
        yield process
    finally:
        process.close()


def receive_all(sock: socket.socket) -> bytes:
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def test_it_serves_and_drains_at_sigterm(tmp_path: Path) -> None:
    # Time enough for the rest of the busy client's request.
    with front_process(tmp_path, limits={"drain_timeout_ms": 600_000}) as front:
        front.wait_ready()
        assert front.get("/health") == (200, b"OK")
        with front.connect() as idle, front.connect() as busy:
            idle.sendall(HEALTH)
            assert idle.recv(65536).endswith(b"OK")
            busy.sendall(HEALTH[:-10])
            front.process.send_signal(signal.SIGINT)  # the supervisor's affair
            front.process.send_signal(signal.SIGTERM)
            assert receive_all(idle) == b""
            busy.sendall(HEALTH[-10:])
            answer = receive_all(busy)
            assert answer.endswith(b"OK")
            assert b"Connection: close\r\n" in answer
        assert front.process.wait(timeout=DEADLINE_S) == 0
        assert front.log.read_text() == ""


def test_it_drains_when_the_supervisor_is_gone(tmp_path: Path) -> None:
    with front_process(tmp_path) as front:
        front.wait_ready()
        assert front.process.stdin is not None
        front.process.stdin.close()
        assert front.process.wait(timeout=DEADLINE_S) == 0


def test_a_certificate_that_can_not_be_read_is_one_line(tmp_path: Path) -> None:
    with front_process(tmp_path, tls_cert="/no/cert", tls_key="/no/key") as front:
        assert front.process.wait(timeout=DEADLINE_S) == 1
        text = front.log.read_text()
        assert "TLS_CERT, TLS_KEY" in text
        assert text.count("\n") == 1


def test_without_descriptors_it_pauses_says_so_once_and_heals(tmp_path: Path) -> None:
    with front_process(tmp_path) as front:
        front.wait_ready()
        limit = front.descriptors() + 20
        resource.prlimit(front.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        idle = [front.connect() for _ in range(60)]
        wait_until(lambda: "no descriptor" in front.log.read_text())
        for sock in idle:
            sock.close()
        assert front.get("/health") == (200, b"OK")
        assert front.log.read_text().count("no descriptor") == 1


HOSTILE = [
    b"",
    b"POST /jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 67108864\r\n\r\n",
    b"POST /admin/keys HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{",
    b"GET /keys HTTP/1.1\r\nHost: a\r\n\r\n" * 20,
    b"POST /keys HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    b"GET /nope HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /hea",
]


def test_five_hundred_hostile_clients_leave_it_as_it_was(tmp_path: Path) -> None:
    limits = {"linger_ms": 100, "half_close_ms": 100}
    with front_process(tmp_path, limits=limits) as front:
        front.wait_ready()
        assert front.get("/keys")[0] == 401  # everything is loaded
        before = front.descriptors()
        for i in range(500):
            with front.connect() as sock:
                sock.sendall(HOSTILE[i % len(HOSTILE)])
                if i % 3 == 0:
                    sock.shutdown(socket.SHUT_WR)
                if i % 3 == 1:
                    sock.settimeout(0.01)
                    with suppress(TimeoutError):
                        sock.recv(1)
        wait_until(lambda: front.descriptors() <= before)
        assert front.get("/health") == (200, b"OK")
        assert front.process.poll() is None
        assert front.log.read_text() == ""


async def test_the_real_app_over_http_2(tmp_path: Path) -> None:
    certificates = Certificates(str(tmp_path))
    paths = {"tls_cert": certificates.cert, "tls_key": certificates.key}
    with front_process(tmp_path, **paths) as front:
        front.wait_ready()
        stream = await connect_tls(front.port, certificates.client("h2"))
        async with stream:
            client = H2Client(stream)
            await client.start()
            assert (await client.get("/health")).body == b"OK"
            assert (await client.get("/keys")).status == 401
            assert (await client.get("/jobs", method="POST", body=b"x" * 100_000)).status == 401
            assert (await client.get("/nope")).body == b'{"error":"not found"}'


@pytest.mark.parametrize("target", ["//health", "/keys/%00", "/keys/%ff", "/keys/%2f"])
def test_the_real_app_never_sees_a_path_with_two_spellings(tmp_path: Path, target: str) -> None:
    with front_process(tmp_path) as front:
        front.wait_ready()
        with front.connect() as sock:
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            assert receive_all(sock).startswith(b"HTTP/1.1 404 ")
