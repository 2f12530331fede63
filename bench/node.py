"""The node under test: one that runs already, or a private one, started and stopped here.

A private node has its data in a new directory on a real disk, a free port, and development
keys that it logs; the directory goes when it stops.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import trio

from bench import environment, processor
from bench.errors import BenchError

_HOST: Final = "127.0.0.1"
_START_S: Final = 30.0
_STOP_S: Final = 15.0
_POLL_S: Final = 0.05
_KEY_LINE: Final = re.compile(r"Created (client|worker) key: ((?:client|worker)_[A-Za-z0-9_-]+)")
_ANY_KEY: Final = re.compile(r"(?:client|worker|admin)_[A-Za-z0-9_-]{20,}")
_UNWANTED: Final = (
    "REDIS_URL",
    "TLS_CERT",
    "TLS_KEY",
    "KEY_PEPPER",
    "MAX_JOBS",
    "MAX_PAYLOAD",
    "MAX_BODY",
)
_LOG_TAIL_LINES: Final = 15


class Node(msgspec.Struct, frozen=True):
    """Where to send requests, and what is known of who answers."""

    host: str
    port: int
    client_key: str
    worker_key: str
    pid: int | None
    """The supervisor, when it runs here: its tree's CPU time is reported."""
    directory: Path | None
    """Where the data is; None when we don't know."""
    fronts: int | None
    partitions: int | None


class PrivateOptions(msgspec.Struct, frozen=True):
    """How a private node is to be."""

    parent: Path
    """The directory with its data is made below this one."""
    fronts: int | None = None
    partitions: int | None = None
    """None leaves it to the node."""


def running_node(url: str, client_key: str, worker_key: str) -> Node:
    """The node at ``url``.

    Raises:
        BenchError: the URL is not of a kind that the load can be sent to.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise BenchError(
            f"--url: {url!r} is not of the form http://host:port (TLS is not measured)"
        )
    if parts.path not in ("", "/") or parts.query:
        raise BenchError(f"--url: {url!r} has a path; the contract's paths begin at the root")
    try:
        port = parts.port or 80
    except ValueError as error:
        raise BenchError(f"--url: {url!r}: {error}") from error
    pid = processor.listener_of(port) if _is_here(parts.hostname) else None
    return Node(parts.hostname, port, client_key, worker_key, pid, None, None, None)


@asynccontextmanager
async def private_node(options: PrivateOptions) -> AsyncIterator[Node]:
    """A node of our own, ready for requests; gone, with its data, at the end of the block.

    Raises:
        BenchError: the disk is none, or the node does not start; its last words are in it.
    """
    filesystem = environment.filesystem_of(options.parent)
    if environment.keeps_nothing(filesystem):
        raise BenchError(
            f"{options.parent} is on {filesystem}, where nothing is durable and a sync is free: "
            "choose a directory on a disk (--dir)"
        )
    try:
        directory = Path(tempfile.mkdtemp(prefix="queue-node-bench-", dir=options.parent))
    except OSError as error:
        raise BenchError(f"cannot make a directory below {options.parent}: {error}") from error
    try:
        async with _started(directory, options) as node:
            yield node
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def _started(directory: Path, options: PrivateOptions) -> AsyncIterator[Node]:
    port = _free_port()
    log_path = directory / "node.log"
    with log_path.open("wb") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "queue_node", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_node_environment(os.environ, directory, port, options),
            # Ctrl-C is for us; the node is told by SIGTERM and drains.
            start_new_session=True,
        )
    try:
        with trio.move_on_after(_START_S) as budget:
            keys = await _until_ready(process, log_path, port)
        if budget.cancelled_caught:
            raise BenchError(f"the node was not ready in {_START_S:g} s:\n{_tail(log_path)}")
        yield Node(
            _HOST,
            port,
            keys["client"],
            keys["worker"],
            process.pid,
            directory,
            options.fronts,
            options.partitions,
        )
    except BenchError as error:
        # Whatever went wrong, that the node is gone explains it better.
        if process.poll() is None:
            raise
        raise BenchError(f"{error}\n{_ended(process, log_path)}") from error
    finally:
        with trio.CancelScope(shield=True):
            await _stop(process)


async def _until_ready(process: trio.Process, log_path: Path, port: int) -> dict[str, str]:
    """Wait for ``/ready``; the development keys from the log, by type."""
    while True:
        if process.poll() is not None:
            raise BenchError("the private node did not start")
        keys = _keys_in(log_path)
        if len(keys) == 2 and await _is_ready(port):
            return keys
        await trio.sleep(_POLL_S)


async def _is_ready(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream(_HOST, port)
    except OSError:
        return False
    request = f"GET /ready HTTP/1.1\r\nHost: {_HOST}:{port}\r\nConnection: close\r\n\r\n"
    async with stream:
        try:
            await stream.send_all(request.encode("ascii"))
            start = await stream.receive_some(4096)
        except trio.BrokenResourceError:
            return False
    return bytes(start).startswith(b"HTTP/1.1 200 ")


async def _stop(process: trio.Process) -> None:
    """SIGTERM and time to drain; what is left of the process group then is killed."""
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(_STOP_S):
            await process.wait()
    if process.poll() is None:
        # It may go while we look.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _node_environment(
    base: Mapping[str, str], directory: Path, port: int, options: PrivateOptions
) -> dict[str, str]:
    """Ours, less what would make it another node than the one that we report on."""
    env = {name: value for name, value in base.items() if name not in _UNWANTED}
    env |= {
        "HOST": _HOST,
        "PORT": str(port),
        "WAL_DIR": str(directory / "data"),
        "SEED_DEV_KEYS": "1",
        "LOG_FORMAT": "text",
        "LOG_LEVEL": "info",
    }
    if options.fronts is not None:
        env["FRONTS"] = str(options.fronts)
    if options.partitions is not None:
        env["PARTITIONS"] = str(options.partitions)
    return with_our_packages(env)


def with_our_packages(base: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a child finds our packages, installed or in a checkout."""
    root = str(Path(__file__).resolve().parent.parent)
    return {
        **base,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, base.get("PYTHONPATH")))),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_here(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _keys_in(log_path: Path) -> dict[str, str]:
    return dict(_KEY_LINE.findall(log_path.read_text(encoding="utf-8", errors="replace")))


def _ended(process: trio.Process, log_path: Path) -> str:
    return f"the node ended with exit code {process.returncode}:\n{_tail(log_path)}"


def _tail(log_path: Path) -> str:
    """The node's last words, less its keys: a message may end up anywhere."""
    text = log_path.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if not _ANY_KEY.search(line)]
    return "\n".join(lines[-_LOG_TAIL_LINES:])
