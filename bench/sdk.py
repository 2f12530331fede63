"""``queue-node bench sdk``: what one process gets through one ``AsyncClient``, durable.

Tasks that each submit in a loop, on asyncio and on trio, against a private node on the same
cores. Unlike the other modes it measures our client as much as our node.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Final

import msgspec
import trio

from bench.errors import BenchError
from bench.node import Node, PrivateOptions, private_node

LOOPS: Final = ("asyncio", "trio")
TARGET_JOBS_S: Final = 15_000
_SPARE_S: Final = 30.0


class Figure(msgspec.Struct, frozen=True):
    """What one process reached."""

    loop: str
    tasks: int
    jobs_s: float
    client_us: float
    """CPU time of the client's process for each job."""


class _Measured(msgspec.Struct, frozen=True):
    jobs: int
    elapsed_s: float
    cpu_s: float


def add_arguments(modes: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The subcommand and its options."""
    parser = modes.add_parser("sdk", help="submits of many tasks through one AsyncClient")
    parser.add_argument("--loop", choices=(*LOOPS, "both"), default="both")
    parser.add_argument("--tasks", type=int, default=1000, metavar="N")
    parser.add_argument("--duration", type=float, default=10.0, metavar="S")
    parser.add_argument("--warmup", type=float, default=2.0, metavar="S")
    parser.add_argument("--payload", type=int, default=256, metavar="BYTES")
    parser.add_argument("--dir", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure; the exit code."""
    if min(arguments.tasks, arguments.payload) < 1 or not arguments.duration > 0:
        print("queue-node bench: --tasks, --payload, --duration: must be > 0", file=sys.stderr)
        return 2
    loops = LOOPS if arguments.loop == "both" else (arguments.loop,)
    try:
        figures = [trio.run(_measure, arguments, loop) for loop in loops]
    except BenchError as error:
        print(f"queue-node bench: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(msgspec.to_builtins(figures)))
        return 0
    for figure in figures:
        print(
            f"{figure.loop:8} {figure.tasks} tasks: {figure.jobs_s:,.0f} jobs/s, "
            f"{figure.client_us:.1f} us of client CPU each (wanted: {TARGET_JOBS_S:,} jobs/s)"
        )
    return 0


async def _measure(arguments: argparse.Namespace, loop: str) -> Figure:
    async with private_node(PrivateOptions(arguments.dir.resolve())) as node:
        measured = await _load(node, arguments, loop)
    if not measured.jobs:
        raise BenchError("not one job was stored")
    return Figure(
        loop,
        arguments.tasks,
        measured.jobs / measured.elapsed_s,
        measured.cpu_s / measured.jobs * 1e6,
    )


async def _load(node: Node, arguments: argparse.Namespace, loop: str) -> _Measured:
    options = {
        "--loop": loop,
        "--tasks": arguments.tasks,
        "--warmup": arguments.warmup,
        "--duration": arguments.duration,
        "--payload-bytes": arguments.payload,
    }
    words = [str(word) for option in options.items() for word in option]
    where = {
        "QUEUE_NODE_URL": f"http://{node.host}:{node.port}",
        "QUEUE_NODE_KEY": node.client_key,
    }
    with trio.move_on_after(arguments.warmup + arguments.duration + _SPARE_S) as budget:
        done = await trio.run_process(
            [sys.executable, "-m", "bench.sdk_load", *words],
            env=os.environ | where,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    if budget.cancelled_caught:
        raise BenchError("the client did not end")
    if done.returncode:
        raise BenchError(f"the client failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    return msgspec.json.decode(done.stdout, type=_Measured)
