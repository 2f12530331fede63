"""Handlers in processes of their own: for work that keeps a core busy, or that may crash.

One process behind each of the worker's threads, started afresh (``spawn``), so the handler has
to be a function that can be imported. Jobs and endings cross a pipe as MessagePack. A process
that dies, of a signal or of a lack of memory, is the failure of one attempt; one whose job is
lost is killed. When the worker itself dies, its processes see the pipe end, and end.
"""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess  # noqa: TC003 - as every other import here
from queue import SimpleQueue
from time import monotonic
from typing import Final, Protocol, runtime_checkable

import msgspec

from queue_node_sdk.errors import ConfigurationError
from queue_node_sdk.models import LeasedJob
from queue_node_sdk.options import plain
from queue_node_sdk.worker_context import JobContext, context_of
from queue_node_sdk.worker_core import Done, Ending, Failed, GivenBack, Loss
from queue_node_sdk.worker_endings import attempt, described
from queue_node_sdk.worker_threads import InThread

_log: Final = logging.getLogger("queue_node")

_NEWS_SECONDS: Final = 1.0
"""How often a process hears how long its lease lasts now."""
_END_SECONDS: Final = 5.0
"""For a process without a job to end by itself."""
_NO_PROCESS_SECONDS: Final = 5.0
"""Pause of a job for which no process can be started (guess)."""
_ORPHAN: Final = 3
"""Exit status of a process whose worker is gone: nobody is left to see it."""


# What crosses the pipe


class _Begin(msgspec.Struct, frozen=True, tag=True):
    job: LeasedJob
    seconds_left: float


class _Lease(msgspec.Struct, frozen=True, tag=True):
    seconds_left: float


class _Progress(msgspec.Struct, frozen=True, tag=True):
    value: float | str


class _Ask(msgspec.Struct, frozen=True, tag=True):
    seconds: float


_encode: Final = msgspec.msgpack.Encoder(enc_hook=plain).encode
_to_process: Final = msgspec.msgpack.Decoder(_Begin | _Lease)
_from_process: Final = msgspec.msgpack.Decoder(_Progress | _Ask | Done | Failed | GivenBack)


def check_handler(handler: Callable[[JobContext], object]) -> None:
    """Whether a new process could import it.

    Raises:
        ConfigurationError: it is a lambda, or defined inside of a function.
    """
    try:
        pickle.dumps(handler)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigurationError(
            f"process=True needs a handler that a new process can import: {error}"
        ) from error


@runtime_checkable
class InProcesses(Protocol):
    """A handler of which some jobs run in processes, the others in threads."""

    def __call__(self, job: JobContext, /) -> object:
        """Work on a job, in whichever of them."""

    def in_process(self, job: LeasedJob, /) -> bool:
        """Whether this one runs in a process."""
        ...


class InEither:
    """A thread with a process beside it, which is started for the first job that wants it."""

    def __init__(self, handler: InProcesses) -> None:
        self._handler = handler
        self._thread = InThread(handler)
        self._process = InProcess(handler)

    def open(self) -> None:
        """Nothing to do yet."""

    def work(self, job: JobContext) -> Ending:
        """Where the handler says."""
        bench = self._process if self._handler.in_process(job) else self._thread
        return bench.work(job)

    def lose(self, job: JobContext) -> None:
        """Kill the process, if it is at this job."""
        self._process.lose(job)

    def close(self) -> None:
        """Let the process end, if there is one."""
        self._process.close()


class InProcess:
    """A bench whose handler runs in another process, which lasts over many jobs."""

    def __init__(self, handler: Callable[[JobContext], object]) -> None:
        self._handler = handler
        # So that a job that is lost never costs the next one its process.
        self._lock = threading.Lock()
        self._job: JobContext | None = None
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def open(self) -> None:
        """Start the process, which takes a moment; without one ``work`` tries again."""
        try:
            self._start()
        except Exception:
            # No memory, descriptor or process is left. The thread lives on: a job that nobody
            # runs would be extended for ever.
            _log.exception("no process for the handler")

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(theirs, self._handler), name="queue-node-handler", daemon=True
        )
        try:
            process.start()
        except BaseException:  # whatever it was, it goes on, and our end has nobody behind it
            ours.close()
            raise
        finally:
            theirs.close()
        self._process, self._pipe = process, ours

    def work(self, job: JobContext) -> Ending:
        """Send it over and wait for its ending."""
        if self._process is None or not self._process.is_alive():
            self._bury()
            self.open()
        if self._process is None:
            # It is no fault of the job's, and another worker may do better.
            return GivenBack(_NO_PROCESS_SECONDS)
        with self._lock:
            self._job = job
        try:
            return self._follow(job)
        except (EOFError, OSError):
            return Failed(f"the handler's process ended: {self._bury()}")
        finally:
            with self._lock:
                self._job = None

    def lose(self, job: JobContext) -> None:
        """Kill the process, if it is at this job."""
        with self._lock:
            if self._job is job and self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Let the process end."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.join(_END_SECONDS)

    def _follow(self, job: JobContext) -> Ending:
        assert self._pipe is not None
        assert self._process is not None
        plain = LeasedJob(**{name: getattr(job, name) for name in LeasedJob.__struct_fields__})
        self._pipe.send_bytes(_encode(_Begin(plain, job.seconds_left)))
        if job.lost:  # ... before there was a job to kill the process for.
            self._process.kill()
        while True:
            if not self._pipe.poll(_NEWS_SECONDS):
                self._pipe.send_bytes(_encode(_Lease(job.seconds_left)))
                continue
            match _from_process.decode(self._pipe.recv_bytes()):
                case _Progress(value=value):
                    job._control.tell_progress(value)
                case _Ask(seconds=seconds):
                    job._control.ask(seconds)
                case Done() | Failed() | GivenBack() as ending:
                    return ending

    def _bury(self) -> str:
        """Put away a process that died; how it ended, in words."""
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if pipe is not None:
            pipe.close()
        if process is None:
            return "it was never started"
        # The pipe may break before the process is gone.
        process.join(_END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        code = process.exitcode or 0
        process.close()
        return f"exit status {code}" if code >= 0 else _signal_name(-code)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# In the other process ------------------------------------------------------------------------


class _Remote:
    """The ``Control`` of a job whose worker is at the other end of the pipe."""

    loss: Loss | None = None
    """Never set: who loses the job is killed."""

    def __init__(self, send: Callable[[object], None], seconds_left: float) -> None:
        self._send = send
        self.ends_at = monotonic() + seconds_left

    def tell_progress(self, progress: float | str) -> None:
        """Tell the worker."""
        self._send(_Progress(progress))

    def ask(self, seconds: float) -> None:
        """Tell the worker."""
        self._send(_Ask(seconds))


def _serve(pipe: Connection, handler: Callable[[JobContext], object]) -> None:
    """Work on jobs until the pipe ends."""
    # Ctrl-C and a service manager reach all processes: what becomes of the jobs in hand is
    # the worker's to decide.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    jobs: SimpleQueue[tuple[LeasedJob, _Remote]] = SimpleQueue()
    sending = threading.Lock()

    def send(message: object) -> None:
        data = _encode(message)
        with sending:
            pipe.send_bytes(data)

    threading.Thread(target=_listen, args=(pipe, jobs, send), daemon=True).start()
    while True:
        job, control = jobs.get()
        ending = attempt(handler, context_of(job, control))
        try:
            send(ending)
        except UnicodeEncodeError as error:
            send(Failed(described(error)))


def _listen(
    pipe: Connection,
    jobs: "SimpleQueue[tuple[LeasedJob, _Remote]]",
    send: Callable[[object], None],
) -> None:
    control: _Remote | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            match _to_process.decode(pipe.recv_bytes()):
                case _Begin(job=job, seconds_left=seconds_left):
                    control = _Remote(send, seconds_left)
                    jobs.put((job, control))
                case _Lease(seconds_left=seconds_left) if control is not None:
                    control.ends_at = monotonic() + seconds_left
    # Whatever the handler is at: there is nobody left to tell.
    os._exit(_ORPHAN)
