"""Submit the words of the command line as jobs, wait for each, print what became of them.

``QUEUE_NODE_URL`` and ``QUEUE_NODE_KEY`` (a client key) say where: ``python simple_client.py
hello world``.
"""

import sys

from queue_node_sdk import Client, QueueNodeError


def main(texts: list[str]) -> int:
    """Exit code 0 when every job succeeded."""
    try:
        with Client.from_env() as client:
            # All are submitted before the first is waited for, so that workers share them.
            job_ids = [client.submit(text) for text in texts]
            jobs = [client.wait_for_completion(job_id, timeout=60) for job_id in job_ids]
    except QueueNodeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for text, job in zip(texts, jobs, strict=True):
        print(f"{text!r}: {job.state} {job.result if job.succeeded else job.result_error}")
    return 0 if all(job.succeeded for job in jobs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["hello"]))
