"""Many tasks of one program submit at once and wait for their results, in trio.

They share connections, and requests as well: what is submitted while another submit is under way
travels together, so a thousand tasks are a few requests. ``python trio_client.py hello world``,
with a worker such as simple_worker.py.
"""

import sys

import trio

from queue_node_sdk import AsyncClient, QueueNodeError


async def one(client: AsyncClient, text: str, lines: list[str], number: int) -> None:
    """Submit a job; line ``number`` is to say what became of it."""
    job = await client.submit_and_wait(text, timeout=60)
    lines[number] = f"{text!r}: {job.state} {job.result if job.succeeded else job.result_error}"


async def main(texts: list[str]) -> int:
    """Exit code 0 when all jobs are finished."""
    lines = [""] * len(texts)
    failed = False
    try:
        async with AsyncClient.from_env() as client, trio.open_nursery() as nursery:
            for number, text in enumerate(texts):
                nursery.start_soon(one, client, text, lines, number)
    except* QueueNodeError as group_of_errors:
        # The others were cancelled; their jobs are stored, and are worked on all the same.
        error = group_of_errors.exceptions[0]
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        failed = True
    print("\n".join(line for line in lines if line))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(trio.run(main, sys.argv[1:] or ["hello"]))
