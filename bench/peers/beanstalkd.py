"""``python -m bench.peers.beanstalkd``: durable puts/s of beanstalkd.

It is the closest peer that every Debian has: one process, a binlog, ``-f 0`` to sync it at
every write. (Without ``-b`` and ``-f 0`` a put is in memory, and no comparison to ours.) Its
text protocol is lighter than HTTP: ``put <pri> <delay> <ttr> <bytes>``, a line of data, and
the answer ``INSERTED <id>``.

A private beanstalkd is started in a new directory below ``--dir`` and removed afterwards.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Final

import msgspec

from bench import environment, processor
from bench.driver import Driver, allow_many_connections
from bench.errors import BenchError, MalformedAnswerError
from bench.flows import Verdict
from bench.messages import Phase, PhaseResult, Plan
from bench.response import Answer
from bench.workloads import PAYLOAD_BYTES_DEFAULT, payloads

_INSERTED: Final = re.compile(rb"INSERTED [0-9]+")
_LINE_BYTES_MAX: Final = 1024
_START_S: Final = 10.0
_OK: Final = 201
_REFUSED: Final = 500


class Put:
    """One durable job after another."""

    unit = operation = "put"
    jobs = 1

    def __init__(self, requests: Iterator[bytes]) -> None:
        """Take requests from an iterator that never ends."""
        self._requests = requests

    def begin(self) -> bytes:
        """The next job."""
        return next(self._requests)

    def answer(self, status: int, body: bytes) -> Verdict:
        """``INSERTED`` and a number."""
        if status != _OK:
            return Verdict.REFUSED
        if _INSERTED.fullmatch(body) is None:
            raise MalformedAnswerError(f"not an id: {body!r:.99}")
        return Verdict.DONE

    again = begin


class BeanstalkTalk:
    """beanstalkd's protocol, as much of it as a put needs."""

    def __init__(self, plan: Plan) -> None:
        """Prepare every request."""
        self._requests = cycle(
            put_request(payload.encode("ascii"))
            for payload in payloads(plan.seed, plan.payload_bytes)
        )

    def flows(self, phase: Phase) -> Callable[[], Put]:
        """Puts, whatever the phase is called."""
        assert phase.flow == "submit"
        return lambda: Put(self._requests)

    def scan(self, data: bytes) -> Answer | None:
        """A line; its status is ours: 201 when it says INSERTED."""
        line, end, rest = data.partition(b"\r\n")
        if rest or len(line) > _LINE_BYTES_MAX:
            raise MalformedAnswerError(f"not one line: {data!r:.99}")
        if not end:
            return None
        return (_OK if line.startswith(b"INSERTED ") else _REFUSED), line, False

    def account(self, result: PhaseResult) -> None:
        """Nothing to say: ids are counters."""


def put_request(payload: bytes) -> bytes:
    """A job of normal priority, without delay, that a worker may hold for a minute."""
    return b"put 1024 0 60 %d\r\n%b\r\n" % (len(payload), payload)


class Seen(msgspec.Struct, frozen=True):
    """What was measured."""

    peer: str
    connections: int
    payload_bytes: int
    puts_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    errors: dict[str, int]
    cpu_us_per_put: float
    load_cpu_us_per_put: float
    fdatasync_median_ms: float


def main() -> int:
    """Measure and print JSON; the exit code is 0, or 2 when it could not be measured."""
    parser = argparse.ArgumentParser(description="Durable puts/s of a private beanstalkd.")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--duration", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--dir", type=Path, default=Path())
    parser.add_argument("--beanstalkd", default="beanstalkd", help="the program")
    arguments = parser.parse_args()
    try:
        with _beanstalkd(arguments.beanstalkd, arguments.dir) as (pid, port):
            sync = environment.measure_fdatasync(arguments.dir)
            seen = _measure(
                pid, port, arguments.connections, arguments.duration, arguments.warmup, sync
            )
    except (BenchError, OSError) as error:
        print(f"beanstalkd: {error}", file=sys.stderr)
        return 2
    print(msgspec.json.format(msgspec.json.encode(seen), indent=2).decode("utf-8"))
    return 0


def _measure(
    pid: int,
    port: int,
    connections: int,
    duration_s: float,
    warmup_s: float,
    sync: environment.DiskSync,
) -> Seen:
    plan = Plan("127.0.0.1", port, "", "", connections, 1, PAYLOAD_BYTES_DEFAULT, silence_s=30.0)
    allow_many_connections()
    # Nobody stops us in the middle but Ctrl-C, which needs no descriptor.
    stop_fd, never = os.pipe()
    driver = Driver(plan, stop_fd, lambda _done: None, BeanstalkTalk(plan))
    try:
        driver.run(Phase("submit", duration_s=warmup_s))
        before = processor.use_of_tree(pid)
        result = driver.run(Phase("submit", duration_s=duration_s))
        used = processor.grown(before, processor.use_of_tree(pid))
    finally:
        driver.close()
        os.close(stop_fd)
        os.close(never)
    if not result.done:
        raise BenchError(f"no put succeeded: {result.examples}")
    puts = result.latencies["put"]
    done = result.done + result.done_late
    return Seen(
        peer="beanstalkd",
        connections=connections,
        payload_bytes=plan.payload_bytes,
        puts_per_s=round(result.done / duration_s, 1),
        p50_ms=puts.quantile(0.5) / 1e6,
        p99_ms=puts.quantile(0.99) / 1e6,
        p999_ms=puts.quantile(0.999) / 1e6,
        errors=result.refused,
        cpu_us_per_put=round(sum(use.cpu_s for use in used) * 1e6 / done, 1),
        load_cpu_us_per_put=round(result.cpu_s * 1e6 / done, 1),
        fdatasync_median_ms=sync.median_ms,
    )


@contextmanager
def _beanstalkd(program: str, parent: Path) -> Iterator[tuple[int, int]]:
    """A private one; its process id and port."""
    filesystem = environment.filesystem_of(parent)
    if environment.keeps_nothing(filesystem):
        raise BenchError(f"{parent} is on {filesystem}, where nothing is durable")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="queue-node-beanstalkd-", dir=parent) as directory:
        process = subprocess.Popen(
            [program, "-l", "127.0.0.1", "-p", str(port), "-b", directory, "-f", "0"]
        )
        try:
            _await_listening(process, port)
            yield process.pid, port
        finally:
            process.terminate()
            process.wait()


def _await_listening(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"it ended with exit code {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise BenchError(f"it did not listen within {_START_S:g} s")


if __name__ == "__main__":
    sys.exit(main())
