"""A worker process of the demo: describes the file that each job names.

A payload is the path as a JSON string, which carries any file name: bytes that are no UTF-8
come as escaped lone surrogates (``os.fsdecode``). The result is a JSON object:
``{"sha256": "...", "lines": 1, "words": 2}``.

It is an ordinary user of the SDK; only its end is special. Standard input is a pipe from the
demo, and when that closes the worker stops, so a demo that was killed leaves no worker behind.
"""

import argparse
import hashlib
import json
import logging
import sys
import threading
from typing import Final

from queue_node_sdk import LeasedJob, QueueNodeError, Worker

_CHUNK_BYTES: Final = 1 << 20


def describe(path: str) -> dict[str, str | int]:
    """SHA-256, number of lines and of words (between ASCII white space) of a file.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    lines = words = 0
    in_word = False
    with open(path, "rb", buffering=0) as file:
        # In chunks, so that a file may be larger than the memory.
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            words += len(chunk.split())
            if in_word and not chunk[:1].isspace():
                words -= 1  # It began in the chunk before, and was counted there.
            in_word = not chunk[-1:].isspace()
    return {"sha256": digest.hexdigest(), "lines": lines, "words": words}


def handle(job: LeasedJob) -> str:
    """The result of a job; a file that cannot be read is the error of its attempt."""
    return json.dumps(describe(json.loads(job.payload)))


def main() -> int:
    """Work until standard input ends."""
    parser = argparse.ArgumentParser(prog="queue_node.demo_worker", description=__doc__)
    parser.add_argument("--concurrency", type=int, default=4)
    concurrency = parser.parse_args().concurrency
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    try:
        worker = Worker.from_env(handle, concurrency=concurrency)
        threading.Thread(target=_stop_at_the_end_of_input, args=(worker,), daemon=True).start()
        worker.run()
    except QueueNodeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _stop_at_the_end_of_input(worker: Worker) -> None:
    sys.stdin.buffer.read()
    worker.stop()


if __name__ == "__main__":
    sys.exit(main())
