"""A child of the supervisor that does nothing but keep its protocol, or break it on demand.

Arguments: how it behaves, and a file to which it appends a line for whatever happens to it:

* ``serve``: ready at once; drains at SIGTERM and when standard input ends;
* ``stubborn``: ready at once; heeds neither;
* ``faulty``: the same as ``serve``, but SIGTERM makes it exit with 1;
* ``damaged``: exits with 3; ``crash``: exits with 1;
* ``recovering``: as ``serve``, but never ready, and SIGTERM finds it where ``damaged`` ends;
* ``chatty``: prints something else, then serves.
"""

import json
import os
import signal
import sys
from types import FrameType


class Told(BaseException):
    """SIGTERM arrived."""


def main(behaviour: str, record: str) -> int:
    name = "nobody"
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "stubborn" else _raise_told)
        told = json.loads(sys.stdin.buffer.readline())
        kind = "partition" if "partition" in told else "front"
        name = f"{kind} {told[kind]}"
        note(record, f"{name} started {os.getpid()} {os.getpgid(0)}")
        if behaviour in ("damaged", "crash"):
            return 3 if behaviour == "damaged" else 1
        if behaviour == "chatty":
            os.write(sys.stdout.fileno(), b"something else\n")
        if behaviour != "recovering":
            os.write(sys.stdout.fileno(), b"ready\n")
        sys.stdin.buffer.read()
        while behaviour == "stubborn":
            signal.pause()
        note(record, f"{name} orphaned")
    except Told:
        if behaviour in ("faulty", "recovering"):
            return 1 if behaviour == "faulty" else 3
        note(record, f"{name} drained")
    return 0


def note(record: str, line: str) -> None:
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def _raise_told(number: int, frame: FrameType | None) -> None:
    raise Told


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
