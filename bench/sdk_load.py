"""The process under ``queue-node bench sdk``: many tasks that submit through one AsyncClient.

Prints one JSON object: jobs stored in the measured time, and the CPU time it took of this
process. The node and the key come by the SDK's own variables of the environment.
"""

import argparse
import json
import sys
import time

import anyio

from queue_node_sdk import AsyncClient


async def submit_all(tasks: int, warmup_s: float, duration_s: float, payload: str) -> None:
    """Submit in ``tasks`` loops until the time is over, then print."""
    counts = [0] * tasks

    async with AsyncClient.from_env() as client:

        async def submit_on(number: int) -> None:
            while True:
                await client.submit(payload)
                counts[number] += 1

        async with anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(submit_on, number)
            await anyio.sleep(warmup_s)
            began_s, cpu_s, before = time.perf_counter(), time.process_time(), sum(counts)
            await anyio.sleep(duration_s)
            done = sum(counts) - before
            elapsed_s = time.perf_counter() - began_s
            cpu_s = time.process_time() - cpu_s
            group.cancel_scope.cancel()
    print(json.dumps({"jobs": done, "elapsed_s": elapsed_s, "cpu_s": cpu_s}))


def main() -> int:
    """Arguments in, figures out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=("asyncio", "trio"), required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--warmup", type=float, required=True)
    parser.add_argument("--duration", type=float, required=True)
    parser.add_argument("--payload-bytes", type=int, required=True)
    asked = parser.parse_args()
    payload = "x" * asked.payload_bytes
    anyio.run(submit_all, asked.tasks, asked.warmup, asked.duration, payload, backend=asked.loop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
