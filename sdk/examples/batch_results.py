"""Submit each line of a file as a job, in batches; write results as they are, in order.

``python batch_results.py words.txt`` prints ``line <tab> state <tab> result`` for every line. A
worker such as simple_worker.py has to run. All jobs carry a tag, so that they can be found
again: ``queue-node jobs --tag batch=...``.
"""

import sys
import uuid
from collections import Counter
from pathlib import Path

from queue_node_sdk import Client, Job, QueueNodeError


def run_batch(client: Client, lines: list[str], batch: str) -> list[Job]:
    """The finished jobs, one for each of ``lines``, in their order."""
    # One request for all: they are on disk, all of them or none, when this returns.
    job_ids = client.submit_many(lines, tags={"batch": batch}, max_retries=2)
    # Each wait is one long request that the node answers when the job is finished.
    return [client.wait(job_id, timeout=300) for job_id in job_ids]


def main(arguments: list[str]) -> int:
    """Exit code 0 when every job succeeded."""
    if len(arguments) != 1:
        print("usage: batch_results.py FILE", file=sys.stderr)
        return 2
    lines = [line for line in Path(arguments[0]).read_text().splitlines() if line]
    batch = uuid.uuid4().hex[:8]
    try:
        with Client.from_env() as client:
            jobs = run_batch(client, lines, batch)
    except QueueNodeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for line, job in zip(lines, jobs, strict=True):
        print(line, job.state, job.result if job.succeeded else job.result_error, sep="\t")
    counts = Counter(job.state.value for job in jobs)
    print(f"batch {batch}: {dict(counts)}", file=sys.stderr)
    return 0 if counts.keys() <= {"ACKED"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
