"""The load processes of a run: started, told what to do, their results made one."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from bench.errors import BenchError
from bench.messages import (
    Failed,
    Phase,
    PhaseResult,
    Plan,
    Progress,
    Ready,
    decode_report,
    encode_line,
)
from bench.node import Node, with_our_packages

_LINE_BYTES_MAX: Final = 16 << 20
_RECEIVE_BYTES: Final = 64 << 10

OnProgress = Callable[[int], None]
"""Called with the units done so far in the phase, all processes together."""


class LoadOptions(msgspec.Struct, frozen=True):
    """How the load is made."""

    processes: int
    payload_bytes: int
    seed: int
    silence_s: float


class _Member:
    """One load process and the lines it writes."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = b""

    async def run(self, phase: Phase) -> AsyncIterator[Progress | PhaseResult]:
        """What it reports of a phase; the result is the last.

        Raises:
            BenchError: the process failed, or ended.
        """
        await self.send(phase)
        while True:
            report = await self.receive()
            assert not isinstance(report, Ready)
            yield report
            if isinstance(report, PhaseResult):
                return

    async def send(self, message: Plan | Phase) -> None:
        """Tell it what to do.

        Raises:
            BenchError: the process ended.
        """
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(encode_line(message))
        except trio.BrokenResourceError as error:
            raise BenchError("a load process ended unasked") from error

    async def receive(self) -> Ready | Progress | PhaseResult:
        """The next report.

        Raises:
            BenchError: the process failed, or ended.
        """
        while b"\n" not in self._buffer:
            assert self._process.stdout is not None
            data = await self._process.stdout.receive_some(_RECEIVE_BYTES)
            if not data or len(self._buffer) > _LINE_BYTES_MAX:
                raise BenchError("a load process ended unasked")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        report = decode_report(line)
        if isinstance(report, Failed):
            raise BenchError(report.error)
        return report

    async def stop(self) -> None:
        """Kill it if it still runs: it holds nothing that would need an orderly end."""
        if self._process.poll() is None:
            self._process.kill()
        await self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                await stream.aclose()


class Fleet:
    """Load processes with open connections."""

    def __init__(self, members: list[_Member]) -> None:
        """Made by ``open_fleet``."""
        self._members = members

    async def run(self, phase: Phase, on_progress: OnProgress) -> PhaseResult:
        """Run ``phase``, split evenly over the processes, and wait for its end.

        Raises:
            BenchError: a load process failed.
        """
        results: list[PhaseResult] = []
        failures: list[BenchError] = []
        done = dict.fromkeys(range(len(self._members)), 0)

        async def lead(index: int, share: Phase) -> None:
            try:
                async for report in self._members[index].run(share):
                    done[index] = report.done
                    if isinstance(report, PhaseResult):
                        results.append(report)
                    on_progress(sum(done.values()))
            except BenchError as error:
                # One voice is enough: the others only say that they were cut off.
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for index, share in enumerate(self._shares(phase)):
                nursery.start_soon(lead, index, share)
        if failures:
            raise failures[0]
        total = results[0]
        for result in results[1:]:
            total.merge(result)
        return total

    def _shares(self, phase: Phase) -> list[Phase]:
        many = len(self._members)
        rate = None if phase.rate is None else phase.rate / many
        counts = (
            None if phase.count is None else _share(phase.count, index, many)
            for index in range(many)
        )
        return [msgspec.structs.replace(phase, count=count, rate=rate) for count in counts]


@asynccontextmanager
async def open_fleet(node: Node, connections: int, options: LoadOptions) -> AsyncIterator[Fleet]:
    """Load processes that share ``connections`` to ``node``; killed at the end of the block.

    Raises:
        BenchError: a connection could not be opened.
    """
    members: list[_Member] = []
    try:
        many = min(options.processes, connections)
        for index in range(many):
            member = _Member(await _spawn())
            members.append(member)
            await member.send(_plan(node, _share(connections, index, many), options, index))
        for member in members:
            report = await member.receive()
            assert isinstance(report, Ready)
        yield Fleet(members)
    finally:
        with trio.CancelScope(shield=True):
            for member in members:
                await member.stop()


def _share(whole: int, index: int, many: int) -> int:
    """The part of ``whole`` that falls to ``index`` of ``many``; the parts add up to it."""
    return whole * (index + 1) // many - whole * index // many


async def _spawn() -> trio.Process:
    return await trio.lowlevel.open_process(
        [sys.executable, "-m", "bench.load_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=with_our_packages(os.environ),
        # Ctrl-C is for us; should we be killed, the end of their input ends them.
        start_new_session=True,
    )


def _plan(node: Node, connections: int, options: LoadOptions, index: int) -> Plan:
    return Plan(
        host=node.host,
        port=node.port,
        client_key=node.client_key,
        worker_key=node.worker_key,
        connections=connections,
        # Each process another seed, so that no two submit the same payloads.
        seed=options.seed * 1000 + index,
        payload_bytes=options.payload_bytes,
        silence_s=options.silence_s,
    )
