"""Results of a shape of their own, with figures about the work in them.

A result is text, so anything that JSON can say goes: here what was found in a file, and how
long each step took. The client adds the figures of all jobs up. ::

    QUEUE_NODE_KEY=worker_... python custom_results.py work
    QUEUE_NODE_KEY=client_... python custom_results.py count FILE...
"""

import logging
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import quantiles

import msgspec

from queue_node_sdk import Client, Job, LeasedJob, QueueNodeError, Worker

QUEUE = "word-counts"


class Order(msgspec.Struct):
    """The payload: what to count."""

    path: str
    most_common: int = 3


class Metrics(msgspec.Struct):
    """What the work took."""

    bytes: int
    read_seconds: float
    count_seconds: float
    attempt: int


class Counted(msgspec.Struct):
    """The result."""

    words: int
    most_common: list[tuple[str, int]]
    metrics: Metrics


def count(job: LeasedJob) -> str:
    """The words of one file; a file that is not there fails the attempt with its error."""
    # A payload of another shape is refused here with the name of the field, and fails the job.
    order = msgspec.json.decode(job.payload, type=Order)
    began = time.perf_counter()
    content = Path(order.path).read_bytes()
    read = time.perf_counter()
    words = Counter(content.decode(errors="replace").lower().split())
    counted = time.perf_counter()
    # The same words for the same file, whoever counts: ties go by the alphabet.
    common = sorted(words.items(), key=lambda item: (-item[1], item[0]))[: order.most_common]
    metrics = Metrics(len(content), read - began, counted - read, job.attempt)
    return msgspec.json.encode(Counted(words.total(), common, metrics)).decode()


def summary(results: list[Counted]) -> str:
    """The figures of all jobs together."""
    seconds = [one.metrics.read_seconds + one.metrics.count_seconds for one in results]
    # One point alone has no quantiles.
    p95 = quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0]
    return (
        f"{len(results)} files, {sum(one.words for one in results)} words, "
        f"{sum(one.metrics.bytes for one in results)} bytes; "
        f"work {sum(seconds) * 1000:.1f} ms, p95 {p95 * 1000:.1f} ms"
    )


def submit(client: Client, paths: list[str]) -> list[Job]:
    """The finished jobs, in the order of ``paths``."""
    payloads = [msgspec.json.encode(Order(str(Path(path).resolve()))).decode() for path in paths]
    job_ids = client.submit_many(payloads, queue=QUEUE, max_retries=1)
    return [client.wait(job_id, timeout=120) for job_id in job_ids]


def main(arguments: list[str]) -> int:
    """Exit code 0 when all was counted, or the worker was told to stop."""
    try:
        match arguments:
            case ["work"]:
                logging.basicConfig(
                    level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
                )
                Worker.from_env(count, queues=[QUEUE], concurrency=4).run()
                return 0
            case ["count", *paths] if paths:
                with Client.from_env() as client:
                    jobs = submit(client, paths)
            case _:
                print("usage: custom_results.py work | count FILE...", file=sys.stderr)
                return 2
    except QueueNodeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    good: list[Counted] = []
    for path, job in zip(paths, jobs, strict=True):
        if job.result is None:
            print(f"{path}: {job.result_error}", file=sys.stderr)
            continue
        counted = msgspec.json.decode(job.result, type=Counted)
        good.append(counted)
        print(f"{path}: {counted.words} words; {counted.most_common}")
    if good:
        print(summary(good))
    return 0 if len(good) == len(jobs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
