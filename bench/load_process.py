"""``python -m bench.load_process``: a child of the benchmark that makes load.

Plan and phases come in on standard input, reports go out on standard output (``messages``).

It runs under ``SCHED_BATCH``: on a core that it shares with the node each answer wakes it, and
it would take the core from the front at once, some 12,000 times a second. With it, it waits for
its turn, as a client on another host does not disturb the node either: 5 to 12 % more submits.
"""

import gc
import os
import sys

from bench import driver
from bench.errors import BenchError
from bench.messages import (
    Failed,
    Progress,
    Ready,
    Report,
    decode_phase,
    decode_plan,
    encode_line,
)

_STDIN = 0
_STDOUT = 1


class _Lines:
    """Lines of standard input, read without reading ahead of what epoll can see."""

    def __init__(self) -> None:
        self._buffer = b""

    def next(self) -> bytes | None:
        """The next line, or None at the end of input."""
        while b"\n" not in self._buffer:
            data = os.read(_STDIN, 64 << 10)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _report(report: Report) -> None:
    line = encode_line(report)
    while line:
        line = line[os.write(_STDOUT, line) :]


def main() -> int:
    """Obey until the input ends."""
    driver.allow_many_connections()
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    lines = _Lines()
    plan = lines.next()
    if plan is None:
        return 0
    try:
        load = driver.Driver(decode_plan(plan), _STDIN, lambda done: _report(Progress(done)))
        _report(Ready())
        # Nothing here makes cycles, and a collection in the middle would show as latency.
        gc.collect()
        gc.freeze()
        gc.disable()
        while (phase := lines.next()) is not None:
            _report(load.run(decode_phase(phase)))
        load.close()
    except BenchError as error:
        _report(Failed(str(error)))
        return 1
    except (driver.Abandoned, BrokenPipeError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
