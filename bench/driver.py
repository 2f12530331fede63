"""The load of one process: many connections, one request in flight on each.

Plain sockets and ``select.epoll`` in one loop, nothing awaited: an async library or an HTTP
client would cost ten times what the node spends on a job, and the benchmark would measure
itself. What remains per request is 4 us of Python and, on the machine that it was written on,
8 us in the kernel for one send and one receive over loopback.

Closed loop: a connection begins its next unit when its last one ended, and that moment is
the planned start. Open loop (``Phase.rate``): starts are planned at even distances whatever
the node does; a start that finds no free connection waits, and the wait is in its latency,
so a node that stalls is charged for everything that should have happened meanwhile
("coordinated omission", as Gil Tene calls leaving it out).
"""

import random
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from bench.errors import BenchError, MalformedAnswerError
from bench.flows import Flow, SampledIds, Turnover, Verdict, make_flows
from bench.histogram import Histogram
from bench.messages import Phase, PhaseResult, Plan
from bench.order import History
from bench.order_flow import OrderFlow
from bench.response import Answer, ResponseScanner
from bench.workloads import Requests

_RECEIVE_BYTES: Final = 64 << 10
_REPORT_NS: Final = 200_000_000
_CONNECT_TIMEOUT_S: Final = 10.0
_NS: Final = 1_000_000_000
_WAIT_S_MAX: Final = 0.2
"""Longest sleep of the loop: so soon it notices silence and reports progress."""


class Abandoned(Exception):
    """The benchmark closed our input in the middle of a phase: end at once."""


class _Connection:
    """A socket, its flow, and what is half read or half sent."""

    __slots__ = ("flow", "pending", "planned_ns", "receive", "send", "socket", "unit_ns", "unsent")

    def __init__(self, endpoint: socket.socket) -> None:
        self.socket = endpoint
        self.receive = endpoint.recv
        self.send = endpoint.send
        self.flow: Flow | None = None  # None: no unit in progress
        self.pending = b""
        self.unsent = b""
        self.planned_ns = 0  # of the request in flight
        self.unit_ns = 0  # of the unit that it belongs to


class Talk(Protocol):
    """What is said on the connections: HTTP to a node, or the language of a peer."""

    def flows(self, phase: Phase) -> Callable[[], Flow]:
        """Makes the flow of each connection in the phase."""

    def scan(self, data: bytes) -> Answer | None:
        """The answer that ``data`` is; None while it is not whole.

        Raises:
            MalformedAnswerError: it is not an answer, or more than one.
        """

    def account(self, result: PhaseResult) -> None:
        """Write down what was seen of job ids since ``flows`` was called."""


class HttpTalk:
    """HTTP/1.1 to a node."""

    def __init__(self, plan: Plan) -> None:
        """Prepare every request."""
        self._seed = plan.seed
        self._ids = SampledIds()
        self._ids_before = 0
        self._turnover = Turnover()
        self._history = History()
        self._judges_order = False
        self._draw = random.Random(plan.seed)
        self._requests = Requests(
            f"{plan.host}:{plan.port}",
            plan.client_key,
            plan.worker_key,
            plan.seed,
            plan.payload_bytes,
        )
        self.scan = ResponseScanner().scan

    def flows(self, phase: Phase) -> Callable[[], Flow]:
        """See ``Talk.flows``."""
        self._ids_before = len(self._ids)
        self._turnover = Turnover()
        self._judges_order = phase.flow == "order"
        if phase.flow in ("order", "order-fill"):
            return lambda: OrderFlow(
                self._requests,
                self._draw,
                self._history,
                time.monotonic_ns,
                priorities=phase.priorities,
                waiting=phase.waiting,
                batch=phase.batch,
            )
        return make_flows(
            phase.flow, self._requests, self._ids, self._seed, phase.batch, self._turnover
        )

    def account(self, result: PhaseResult) -> None:
        """See ``Talk.account``."""
        result.sampled_ids = len(self._ids) - self._ids_before
        result.submitted_sum, result.leased_sum = self._turnover.sums()
        if self._judges_order and not result.refused:
            # After a refusal nobody knows which jobs wait: the measurement will say so.
            result.order = self._history.judge(result.started_ns)


class Driver:
    """Opens the connections of a plan, then runs phases on them."""

    def __init__(
        self,
        plan: Plan,
        stop_fd: int,
        report: Callable[[int], None],
        talk: Talk | None = None,
    ) -> None:
        """Connect all; input or its end on ``stop_fd`` abandons a phase.

        Raises:
            BenchError: the node cannot be reached.
        """
        self._plan = plan
        self._report = report
        self._stop_fd = stop_fd
        self._talk = talk or HttpTalk(plan)
        # Made first, so that its number is small: select() in _wait takes only those.
        self._epoll = select.epoll()
        self._epoll.register(stop_fd, select.EPOLLIN)
        self._connections: dict[int, _Connection] = {}
        for _ in range(plan.connections):
            self._open()

    def run(self, phase: Phase) -> PhaseResult:
        """One phase; returns when its last answer has come.

        Raises:
            BenchError: an answer is malformed, or the node went away or silent.
            Abandoned: the benchmark wants no more of this.
        """
        talk = self._talk
        run = _PhaseRun(self._plan, phase, talk.flows(phase), talk.scan)
        for connection in self._connections.values():
            run.use(connection)
        cpu_before_s = time.process_time()
        run.start()
        while not run.over():
            self._turn(run)
        result = run.finish()
        result.cpu_s = time.process_time() - cpu_before_s
        talk.account(result)
        return result

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()

    def _turn(self, run: "_PhaseRun") -> None:
        timeout_s = run.timeout_s()
        if run.paced and timeout_s:
            # epoll counts whole milliseconds, too coarse to start requests by.
            select.select((self._epoll,), (), (), timeout_s)
            timeout_s = 0
        connections = self._connections
        for fd, event in self._epoll.poll(timeout_s):
            if fd == self._stop_fd:
                raise Abandoned
            connection = connections[fd]
            if event & select.EPOLLOUT:
                self._flush(connection)
            if event & ~select.EPOLLOUT and not run.readable(connection):
                self._reopen(connection, run)
            if connection.unsent:
                self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        run.pump()
        for connection in run.started:
            if connection.unsent:
                fd = connection.socket.fileno()
                self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        run.started.clear()
        if run.report_due():
            self._report(run.result.done)

    def _flush(self, connection: _Connection) -> None:
        send_rest(connection)
        if not connection.unsent:
            self._epoll.modify(connection.socket.fileno(), select.EPOLLIN)

    def _open(self) -> _Connection:
        plan = self._plan
        try:
            endpoint = socket.create_connection((plan.host, plan.port), _CONNECT_TIMEOUT_S)
        except OSError as error:
            raise BenchError(f"cannot connect to {plan.host}:{plan.port}: {error}") from error
        endpoint.setblocking(False)
        endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(endpoint)
        self._connections[endpoint.fileno()] = connection
        self._epoll.register(endpoint.fileno(), select.EPOLLIN)
        return connection

    def _reopen(self, connection: _Connection, run: "_PhaseRun") -> None:
        """The node closed the connection: put a new one in its place."""
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        run.use(self._open())


class _PhaseRun:
    """The bookkeeping of one phase: who may begin, what came back, when it is over."""

    def __init__(
        self,
        plan: Plan,
        phase: Phase,
        make_flow: Callable[[], Flow],
        scan: Callable[[bytes], Answer | None],
    ) -> None:
        self.paced = phase.rate is not None
        self.started: list[_Connection] = []
        self._plan = plan
        self._make_flow = make_flow
        self._scan = scan
        self._free: deque[tuple[_Connection, Flow]] = deque()
        self._busy = 0
        self._left = phase.count  # units that may still begin; None: until the deadline
        self._interval_ns = round(_NS / phase.rate) if phase.rate is not None else 0
        self._duration_ns = round(phase.duration_s * _NS) if phase.duration_s is not None else None
        self._records: dict[str, Callable[[int], None]] = {}
        self.result = PhaseResult(started_ns=0, ended_ns=0)

    def use(self, connection: _Connection) -> None:
        """The connection is idle and may be given work."""
        self._free.append((connection, self._make_flow()))

    def start(self) -> None:
        """The clock starts now."""
        now_ns = time.monotonic_ns()
        self.result.started_ns = self._next_ns = now_ns
        self._answered_ns = self._alive_ns = self._reported_ns = now_ns
        self._deadline_ns = None if self._duration_ns is None else now_ns + self._duration_ns
        self.pump()

    def over(self) -> bool:
        """Nothing is in flight, and nothing may begin."""
        return not self._busy and not self._may_begin(time.monotonic_ns())

    def timeout_s(self) -> float:
        """How long the loop may sleep."""
        if not (self.paced and self._free):
            return _WAIT_S_MAX
        return min(_WAIT_S_MAX, max(0, self._next_ns - time.monotonic_ns()) / _NS)

    def pump(self) -> None:
        """Begin whatever may begin on the free connections."""
        now_ns = time.monotonic_ns()
        while self._free and self._may_begin(now_ns):
            planned_ns = now_ns
            if self.paced:
                if self._next_ns > now_ns:
                    break
                planned_ns = self._next_ns
                self._next_ns += self._interval_ns
            connection, flow = self._free.popleft()
            self._begin(connection, flow, planned_ns)
            self.started.append(connection)

    def readable(self, connection: _Connection) -> bool:
        """Take what has come; False when the connection is at its end.

        Raises:
            MalformedAnswerError: what has come is not the answer to what was asked.
        """
        try:
            data = connection.receive(_RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        flow = connection.flow
        if not data:
            return self._ended(connection, flow)
        if flow is None:
            raise MalformedAnswerError(f"an answer that nobody asked for: {data!r:.99}")
        if connection.pending:
            data = connection.pending + data
        answer = self._scan(data)
        if answer is None:
            connection.pending = data
            return True
        connection.pending = b""
        status, body, closes = answer
        self._answered(connection, flow, status, body, usable=not closes)
        return not closes

    def report_due(self) -> bool:
        """Whether it is time to tell of the progress; fails when nothing comes any more."""
        now_ns = time.monotonic_ns()
        if now_ns - self._reported_ns < _REPORT_NS:
            return False
        self._reported_ns = now_ns
        waiting_since_ns = max(self._answered_ns, self._alive_ns)
        if self._busy and now_ns - waiting_since_ns > self._plan.silence_s * _NS:
            raise BenchError(
                f"no progress for {self._plan.silence_s:g} s with {self._busy} requests in flight"
            )
        return True

    def finish(self) -> PhaseResult:
        """What happened, all told."""
        result = self.result
        now_ns = time.monotonic_ns()
        result.ended_ns = self._answered_ns
        if self._deadline_ns is not None:
            result.ended_ns = self._deadline_ns
            self._charge_never_sent(now_ns)
        return result

    def _charge_never_sent(self, now_ns: int) -> None:
        """Starts that found no connection waited at least until now: latencies say so."""
        assert self._deadline_ns is not None
        if not self.paced:
            return
        record = self._recorder(self._make_flow().unit)
        for planned_ns in range(self._next_ns, self._deadline_ns, self._interval_ns):
            record(now_ns - planned_ns)
            self.result.never_sent += 1

    def _may_begin(self, now_ns: int) -> bool:
        if self._left is not None and self._left <= 0:
            return False
        return self._deadline_ns is None or now_ns < self._deadline_ns

    def _begin(self, connection: _Connection, flow: Flow, planned_ns: int) -> None:
        if self._left is not None:
            self._left -= 1
        if not self._busy:
            self._alive_ns = time.monotonic_ns()  # being idle is not being silent
        self._busy += 1
        connection.flow = flow
        connection.unit_ns = planned_ns
        self._send(connection, flow.begin(), planned_ns)

    def _send(self, connection: _Connection, request: bytes, planned_ns: int) -> None:
        connection.planned_ns = planned_ns
        try:
            sent = connection.send(request)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The node hung up. The loop learns it from the socket, in its own time.
            return
        if sent != len(request):
            connection.unsent = request[sent:]

    def _answered(
        self, connection: _Connection, flow: Flow, status: int, body: bytes, *, usable: bool
    ) -> None:
        now_ns = time.monotonic_ns()
        operation = flow.operation
        step = flow.answer(status, body)
        if step is Verdict.EMPTY:
            # Not progress: should nothing ever come, report_due gives up.
            self.result.empty += 1
            step = flow.again()
        elif step is Verdict.REFUSED:
            self._refused(f"{operation} {status}", body)
        else:
            self._answered_ns = now_ns
            record = self._records.get(operation) or self._recorder(operation)
            record(now_ns - connection.planned_ns)
        if isinstance(step, bytes):
            if usable:
                self._send(connection, step, now_ns)
                return
            self._refused(f"{flow.operation} connection closed", b"")
        if step is Verdict.DONE:
            self._count_unit(flow, operation, now_ns, connection.unit_ns)
        self._busy -= 1
        connection.flow = None
        if not usable:
            return
        if not self.paced and self._may_begin(now_ns):
            self._begin(connection, flow, now_ns)
        else:
            self._free.append((connection, flow))

    def _count_unit(self, flow: Flow, operation: str, now_ns: int, unit_ns: int) -> None:
        if self._deadline_ns is None or now_ns <= self._deadline_ns:
            self.result.done += flow.jobs
        else:
            self.result.done_late += flow.jobs
        if flow.unit != operation:
            self._recorder(flow.unit)(now_ns - unit_ns)

    def _refused(self, what: str, body: bytes) -> None:
        refused = self.result.refused
        refused[what] = refused.get(what, 0) + 1
        self.result.examples.setdefault(what, body[:200].decode("utf-8", "replace"))

    def _ended(self, connection: _Connection, flow: Flow | None) -> bool:
        if connection.pending:
            raise MalformedAnswerError(f"an answer that breaks off: {connection.pending!r:.99}")
        if flow is not None:
            self._refused(f"{flow.operation} connection closed", b"")
            self._busy -= 1
            connection.flow = None
        else:
            self._free = deque(pair for pair in self._free if pair[0] is not connection)
        return False

    def _recorder(self, name: str) -> Callable[[int], None]:
        """Takes the latencies of ``name``; kept, because making a bound method costs."""
        histogram = self.result.latencies.setdefault(name, Histogram())
        return self._records.setdefault(name, histogram.record)


def send_rest(connection: _Connection) -> None:
    """Send more of a request that the socket did not take at once."""
    try:
        sent = connection.send(connection.unsent)
    except BlockingIOError:
        return
    except OSError:
        connection.unsent = b""
        return
    connection.unsent = connection.unsent[sent:]


def allow_many_connections() -> None:
    """Raise the limit of open files to what the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
