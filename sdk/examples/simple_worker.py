"""Turn the text of each job to upper case, until SIGTERM or Ctrl-C.

QUEUE_NODE_URL=http://127.0.0.1:8080 QUEUE_NODE_KEY=worker_... python simple_worker.py
"""

import logging
import sys

from queue_node_sdk import LeasedJob, QueueNodeError, Worker


def shout(job: LeasedJob) -> str:
    """The result of a job; what is raised here is the error of its attempt."""
    if job.payload.isspace():
        raise ValueError("nothing to shout")
    return job.payload.upper()


def main() -> int:
    """Exit code 0 when it was told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        Worker.from_env(shout, concurrency=8).run()
    except QueueNodeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
