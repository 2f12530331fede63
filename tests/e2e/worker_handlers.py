"""Handlers for processes of their own, which have to import them."""

import os
import time
from pathlib import Path

from queue_node_sdk import JobContext


class Text(str):
    """As some libraries return it."""

    __slots__ = ()


def handle(job: JobContext) -> str:
    """Does what the payload says; names the process it ran in."""
    match job.payload.split():
        case ["die", code]:
            os._exit(int(code))
        case ["busy", seconds]:
            until = time.monotonic() + float(seconds)
            while time.monotonic() < until:
                pass
        case ["progress"]:
            job.progress(42)
            time.sleep(60)
        case ["tell", path]:
            Path(path).write_text(f"{os.getpid()} ")
            time.sleep(600)
        case ["raise"]:
            raise ValueError("no")
        case ["text"]:
            return Text("a text")
    return f"{job.payload} {os.getpid() != os.getppid()}"
