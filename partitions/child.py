"""What every child process of a node has in common: how the supervisor talks to it.

* Standard input: one line of JSON, the settings; then silence. Its end means that the
  supervisor is gone, so no process outlives it and keeps a lock.
* Standard output: the line ``ready`` once it serves, nothing else.
* SIGTERM: drain and exit 0. SIGINT is the supervisor's affair: a terminal sends it to all.
"""

import gc
import os
import signal
import sys
from typing import Final, TypeVar

import msgspec
import trio

_SETTINGS_BYTES_MAX: Final = 1 << 20
_COLLECT_AFTER: Final = 50_000
"""Objects more than before, until cycles are looked for. Python's 700 are fewer than what a few
hundred requests in flight hold, so it looked all the time and found nothing: 8 % of a front's
time (perf). Nothing on the paths that run often makes cycles."""

Settings = TypeVar("Settings", bound=msgspec.Struct)


def read_settings(kind: type[Settings]) -> Settings:
    """The settings from standard input; call it before anything else reads there.

    Raises:
        msgspec.MsgspecError: the line is not the JSON of ``kind``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Until ``told_to_stop`` listens nothing is held, so there is nothing to drain.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    line = bytearray()
    # Byte by byte, unbuffered: nothing behind the line may be taken from the descriptor,
    # because its end is a signal. Done once, so the cost does not matter.
    while not line.endswith(b"\n") and len(line) < _SETTINGS_BYTES_MAX:
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            break
        line += byte
    return msgspec.json.decode(line, type=kind)


def say_ready() -> None:
    """Tell the supervisor that this process serves; what it has built by now, stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
    os.write(sys.stdout.fileno(), b"ready\n")


async def told_to_stop() -> None:
    """Return at SIGTERM, or when standard input ends because the supervisor is gone."""
    async with trio.open_nursery() as nursery:

        async def at_signal() -> None:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

        async def at_end_of_input() -> None:
            descriptor = sys.stdin.fileno()
            while True:
                await trio.lowlevel.wait_readable(descriptor)
                if not os.read(descriptor, 4096):
                    break
            nursery.cancel_scope.cancel()

        nursery.start_soon(at_signal)
        nursery.start_soon(at_end_of_input)
