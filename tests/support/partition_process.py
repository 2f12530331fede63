"""A real partition process, as the supervisor starts one, and a front of its own to it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from partitions.framing import Deframer, frame
from partitions.messages import (
    PUSH_ID,
    Command,
    Reply,
    Request,
    decode_responses,
    encode_requests,
)
from partitions.settings import PartitionSettings

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0
"""Nothing here takes so long; a test that hangs is to end."""


class PartitionProcess:
    """``python -m partitions`` on a directory below ``path``; killed at the end of a ``with``.

    With ``held``, it waits for its settings, and so does nothing yet, until ``go``.
    """

    def __init__(
        self,
        path: Path,
        *,
        command: tuple[str, ...] = (sys.executable, "-m", "partitions"),
        held: bool = False,
        **settings: object,
    ) -> None:
        self.settings = PartitionSettings(
            partition=0,
            partitions=1,
            directory=str(path / "p-0000"),
            socket=str(path / "p.sock"),
            **settings,  # type: ignore[arg-type]
        )
        self._child = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        if not held:
            self.go()

    def go(self) -> None:
        """Send the settings."""
        assert self._child.stdin is not None
        self._child.stdin.write(msgspec.json.encode(self.settings) + b"\n")

    @property
    def pid(self) -> int:
        return self._child.pid

    def wait_ready(self) -> "PartitionProcess":
        """Return when it serves; fails when it ended instead."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line == b"ready\n", f"not ready but {line!r}: {self.stderr()}"
        return self

    def started(self) -> bool:
        """Wait; whether it serves. If not, it has ended or will."""
        assert self._child.stdout is not None
        return self._child.stdout.readline() == b"ready\n"

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def close_stdin(self) -> None:
        """What it sees when the supervisor is gone."""
        assert self._child.stdin is not None
        self._child.stdin.close()

    def exit_code(self) -> int:
        """Wait for its end."""
        return self._child.wait(TIMEOUT_S)

    def stderr(self) -> str:
        """All that it logged; it must be at its end, or on its way there."""
        self.exit_code()
        assert self._child.stderr is not None
        return self._child.stderr.read().decode()

    def front(self) -> "ProcessFront":
        """Connect."""
        return ProcessFront(self.settings.socket)

    def __enter__(self) -> "PartitionProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for end in (self._child.stdin, self._child.stdout, self._child.stderr):
            assert end is not None
            end.close()


class ProcessFront:
    """A connection to a partition; one request at a time."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(path)
        self._deframer = Deframer()
        self._last_id = 0
        self.pushes: list[Reply] = []

    def ask(self, *commands: Command) -> list[Reply]:
        """The replies to one frame of commands.

        Raises:
            EOFError: the partition ended, or closed this connection.
        """
        first = self._last_id + 1
        self._last_id += len(commands)
        requests = [Request(first + index, command) for index, command in enumerate(commands)]
        self.send(frame(encode_requests(requests)))
        replies: dict[int, Reply] = {}
        while len(replies) < len(commands):
            for response in self._receive():
                if response.request_id == PUSH_ID:
                    self.pushes.append(response.reply)
                else:
                    replies[response.request_id] = response.reply
        return [replies[request.request_id] for request in requests]

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EOFError from error

    def wait_for_the_end(self) -> None:
        """Return when the partition closes this connection."""
        try:
            while self._receive():
                pass
        except EOFError:
            return

    def close(self) -> None:
        self._socket.close()

    def _receive(self):
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            bodies = self._deframer.feed(data)
            if bodies:
                return [each for body in bodies for each in decode_responses(body)]

    def __enter__(self) -> "ProcessFront":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
