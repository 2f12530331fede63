"""``queue-node worker app.tasks``: run the tasks that a module defines. Thin: the SDK does it.

With ``--reload`` this process runs no job: it starts another that does, and starts it anew
whenever a Python file below the watched folder changes. For development.
"""

import argparse
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from queue_node.errors import ExitCode, NodeError
from queue_node_sdk.errors import QueueNodeError
from queue_node_sdk.settings import KEY_VARIABLE, URL_VARIABLE, url_and_key_from_env
from queue_node_sdk.tasks import Tasks, default
from queue_node_sdk.worker import Worker

_LOOK_EVERY_S: Final = 0.5
_STOP_WITHIN_S: Final = 35.0
"""More than the worker's grace, after which it is killed."""
_OTHERS: Final = frozenset((".venv", "venv", "node_modules", "__pycache__", ".git"))
"""Folders whose files are not the user's own."""


class WorkerError(NodeError):
    """The worker cannot start."""

    exit_code = ExitCode.USAGE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may follow ``queue-node worker``."""
    parser.add_argument("module", help="defines the tasks: app.tasks, or app.tasks:NAME of a Tasks")
    parser.add_argument("--url", help=f"of the node (default: {URL_VARIABLE})")
    parser.add_argument("--concurrency", type=int, default=4, help="jobs at once (default: 4)")
    parser.add_argument(
        "--queue",
        action="append",
        dest="queues",
        metavar="QUEUE",
        help="in order of preference, repeatable (default: those of the tasks)",
    )
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument(
        "--grace", type=float, default=25.0, help="seconds to finish after SIGTERM (default: 25)"
    )
    parser.add_argument(
        "--reload", action="store_true", help="start anew when a file changes (development)"
    )
    parser.epilog = f"The key is read from {KEY_VARIABLE}: a worker key."


def run(arguments: argparse.Namespace) -> int:
    """Work until SIGTERM or SIGINT.

    Raises:
        WorkerError: the module, the node or an option cannot be used.
    """
    if arguments.reload:
        return _run_again_and_again()
    # The module of the command line is the user's: found from where they stand.
    sys.path.insert(0, "")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    # A line for each request says nothing of the jobs, and buries what the tasks log.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    tasks = load(arguments.module)
    try:
        url, key = _url_and_key(arguments.url)
        worker = Worker(
            url,
            key,
            tasks.handler,
            concurrency=arguments.concurrency,
            queues=arguments.queues or tasks.queues,
            backend=arguments.backend,
            grace=arguments.grace,
        )
        names = ", ".join(sorted(task.name for task in tasks))
        logging.getLogger("queue_node").info("worker for %s: %s", url, names)
        worker.run()
    except QueueNodeError as error:
        raise WorkerError(str(error)) from error
    return ExitCode.DRAINED


def load(target: str) -> Tasks:
    """The tasks of ``module`` or ``module:NAME``.

    Raises:
        WorkerError: there is no such module, or there are no tasks in it.
    """
    name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # One that the module itself imports is the user's to see, traceback and all.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise WorkerError(f"no module named {name!r} (looked from here)") from error
    tasks = getattr(module, attribute, None) if attribute else default
    if not isinstance(tasks, Tasks):
        raise WorkerError(f"{name} has no Tasks called {attribute!r}")
    if not len(tasks):
        raise WorkerError(f"{name} defines no tasks; expected functions with @task")
    return tasks


def _url_and_key(url: str | None) -> tuple[str, str]:
    if url is None:
        return url_and_key_from_env()
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        raise WorkerError(f"not set in the environment: {KEY_VARIABLE}")
    return url, key


# Reloading -------------------------------------------------------------------------------


def _run_again_and_again() -> int:
    # So that the worker is told too, and what it holds is finished or released.
    signal.signal(signal.SIGTERM, _raise_interrupt)
    words = [word for word in sys.argv[1:] if word != "--reload"]
    command = [sys.executable, "-m", "queue_node", *words]
    while True:
        seen = files_below(Path())
        child = subprocess.Popen(command)
        try:
            while files_below(Path()) == seen:
                time.sleep(_LOOK_EVERY_S)
        except KeyboardInterrupt:
            return ExitCode.DRAINED
        finally:
            _stop(child)
        print("queue-node worker: a file changed, starting anew", file=sys.stderr)


def _raise_interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _stop(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def files_below(folder: Path) -> dict[str, int]:
    """``{path: time of its last change}`` of the Python files that may be the user's own."""
    found: dict[str, int] = {}
    for path in folder.rglob("*.py"):
        if _OTHERS.isdisjoint(path.parts):
            try:
                found[str(path)] = path.stat().st_mtime_ns
            except OSError:
                continue  # removed meanwhile
    return found
