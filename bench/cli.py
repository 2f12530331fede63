"""``queue-node bench``: arguments in, report out.

Exit codes: 0 measured; 1 some requests were refused, or with ``--strict`` a target was
missed; 2 wrong usage, or the run failed; 128 + signal when stopped.
"""

import argparse
import functools
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import trio
from rich.console import Console

from bench import environment, report, sdk, suite, targets, workloads
from bench.display import TerminalDisplay
from bench.errors import BenchError
from bench.fleet import LoadOptions
from bench.measure import (
    BATCH_WINDOW_JOBS,
    WINDOW_JOBS,
    Display,
    Spec,
    measure,
    measure_batch_cycle,
    measure_order,
)
from bench.micro import cli as micro
from bench.node import Node, PrivateOptions, private_node, running_node
from bench.suite import SuiteOptions, SuiteResult

DESCRIPTION: Final = "Measure what a node does on this machine, over HTTP, with durable jobs only."
_EPILOG: Final = """\
Without --url (or QUEUE_NODE_URL) a private node is started in a new directory below --dir,
and removed afterwards. Against a running node the benchmark's jobs go into its queue: use
one that does no real work.
"""

_WIDTH_WITHOUT_TERMINAL: Final = 120
# The contract's, of one request; the last is the default of MAX_BODY.
_SUBMITS_MAX: Final = 10_000
_LEASES_MAX: Final = 1_000
_PRIORITY_MAX: Final = 100
_BODY_BYTES_MAX: Final = 16 << 20

EXIT_OK: Final = 0
EXIT_ERRORS: Final = 1
EXIT_FAILED: Final = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands of ``bench`` and their options."""
    parser.epilog = _EPILOG
    modes = parser.add_subparsers(dest="mode", required=True, metavar="MODE")
    against = [_common_arguments(duration_s=10.0, warmup_s=2.0), _node_arguments()]

    submit = modes.add_parser("submit", parents=against, help="durable one-job submits")
    _add_rate(submit, "submits")
    cycle = modes.add_parser("cycle", parents=against, help="submit, lease one, ack one")
    _add_rate(cycle, "cycles")
    cycle.add_argument(
        "--backlog",
        type=_count_from(0),
        default=0,
        metavar="N",
        help="jobs that wait all the while",
    )
    lease = modes.add_parser("lease", parents=against, help="lease one, ack one")
    lease.add_argument(
        "--waiting",
        type=_count_from(0),
        default=1000,
        metavar="N",
        help="jobs that wait all the while (default: 1000)",
    )
    lease.add_argument(
        "--window",
        type=_count_from(1),
        default=WINDOW_JOBS,
        metavar="N",
        help=f"pairs between two refills (default: {WINDOW_JOBS})",
    )
    _add_batch_modes(modes)
    _add_order(modes)
    modes.add_parser(
        "bare",
        parents=against,
        help="GET /health: what the door alone does; a private node then has one front",
    )
    whole = modes.add_parser(
        "suite",
        aliases=["targets"],
        parents=[_common_arguments(duration_s=5.0, warmup_s=1.0)],
        help="every figure to reach, with verdicts",
    )
    whole.add_argument(
        "--deep",
        type=_count_from(targets.SHALLOW_JOBS + 1),
        default=targets.DEEP_JOBS,
        metavar="N",
        help="jobs waiting in the deep flat check (default: 200000)",
    )
    whole.add_argument("--strict", action="store_true", help="exit code 1 when a target is missed")
    whole.set_defaults(mode="suite")
    micro.add_arguments(modes)
    sdk.add_arguments(modes)


def _add_batch_modes(modes: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    common = _common_arguments(duration_s=10.0, warmup_s=2.0, connections=targets.BATCH_CONNECTIONS)
    against = [common, _node_arguments()]
    batch = modes.add_parser("batch", parents=against, help="durable submits, many a request")
    _add_batch(batch, _SUBMITS_MAX)
    cycle = modes.add_parser(
        "batch-cycle", parents=against, help="submit, lease and ack, each many a request"
    )
    _add_batch(cycle, _LEASES_MAX)
    cycle.add_argument(
        "--window",
        type=_count_from(1),
        default=BATCH_WINDOW_JOBS,
        metavar="N",
        help=f"jobs submitted, then leased and acked (default: {BATCH_WINDOW_JOBS})",
    )


def _add_order(modes: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    common = _common_arguments(duration_s=10.0, warmup_s=2.0)
    order = modes.add_parser(
        "order",
        parents=[common, _node_arguments()],
        help="how many jobs are leased before better ones; a private node then has 2 fronts and "
        "4 partitions",
    )
    _add_rate(order, "units (a submit, or a lease with its ack)")
    order.add_argument(
        "--waiting",
        type=_count_from(1),
        default=1000,
        metavar="N",
        help="jobs that wait on average (default: 1000)",
    )
    order.add_argument(
        "--priorities",
        type=_count_within(0, _PRIORITY_MAX),
        default=2,
        metavar="N",
        help="drawn from -N to N (default: 2)",
    )
    order.add_argument(
        "--batch",
        type=_count_within(1, _LEASES_MAX),
        default=1,
        metavar="N",
        help='jobs that a lease asks for; above 1 with "max" (default: 1)',
    )
    # One history, by one clock.
    order.set_defaults(fronts=2, partitions=4, load_processes=1)


def _add_batch(parser: argparse.ArgumentParser, most: int) -> None:
    parser.add_argument(
        "--batch",
        type=_count_within(1, most),
        default=targets.BATCH_JOBS,
        metavar="N",
        help=f"jobs of one request; figures count jobs (default: {targets.BATCH_JOBS})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out what was asked; the exit code."""
    if arguments.mode == "micro":
        return micro.run(arguments)
    if arguments.mode == "sdk":
        return sdk.run(arguments)
    measure_all = _measure_suite if arguments.mode == "suite" else _measure_one
    try:
        with TerminalDisplay() as display:
            outcome = trio.run(_until_signal, functools.partial(measure_all, arguments, display))
    except BenchError as error:
        print(f"queue-node bench: {error}", file=sys.stderr)
        return EXIT_FAILED
    if isinstance(outcome, signal.Signals):
        print(f"queue-node bench: stopped by {outcome.name}; nothing to report", file=sys.stderr)
        return 128 + outcome
    return _report(arguments, outcome)


def _report(arguments: argparse.Namespace, outcome: SuiteResult) -> int:
    if arguments.json:
        print(report.to_json(outcome.environment, outcome.results, outcome.targets))
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH_WITHOUT_TERMINAL)
        report.print_tables(console, outcome.environment, outcome.results, outcome.targets)
    errors = any(result.errors for result in outcome.results) and not arguments.allow_errors
    missed = any(target.verdict != "reached" for target in outcome.targets)
    if errors or (missed and arguments.strict):
        return EXIT_ERRORS
    return EXIT_OK


async def _until_signal(
    work: Callable[[], Awaitable[SuiteResult]],
) -> SuiteResult | signal.Signals:
    """The work's result, or the signal that cut it short (everything is cleaned up then)."""
    outcome: SuiteResult | signal.Signals | None = None
    failure: BenchError | None = None

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal outcome
                async for number in signals:
                    outcome = signal.Signals(number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                outcome = await work()
            except BenchError as error:
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    assert outcome is not None
    return outcome


async def _measure_one(arguments: argparse.Namespace, display: Display) -> SuiteResult:
    spec = Spec(
        mode=arguments.mode,
        connections=arguments.connections,
        duration_s=arguments.duration,
        warmup_s=arguments.warmup,
        rate=getattr(arguments, "rate", None),
        waiting=getattr(arguments, "backlog", getattr(arguments, "waiting", 0)),
        window=getattr(arguments, "window", WINDOW_JOBS),
        batch=getattr(arguments, "batch", 1),
        priorities=getattr(arguments, "priorities", 0),
    )
    if spec.mode == "order" and arguments.load_processes != 1:
        raise BenchError("order is judged by one clock: --load-processes must be 1")
    _check_body(spec.batch, arguments.payload_bytes)
    async with AsyncExitStack() as stack:
        node = await _node(arguments, stack)
        facts = environment.describe(node.directory)
        load = _load_options(arguments)
        if spec.mode == "batch-cycle":
            results = await measure_batch_cycle(node, spec, load, display)
        elif spec.mode == "order":
            results = [await measure_order(node, spec, load, display)]
        else:
            results = [await measure(node, spec, load, display)]
    return SuiteResult(facts, results, [])


def _check_body(batch: int, payload_bytes: int) -> None:
    if batch * payload_bytes > _BODY_BYTES_MAX:
        raise BenchError(
            f"{batch} jobs with --payload-bytes {payload_bytes} are more than a request may have "
            f"({_BODY_BYTES_MAX} bytes)"
        )


async def _measure_suite(arguments: argparse.Namespace, display: Display) -> SuiteResult:
    _check_body(targets.BATCH_JOBS, arguments.payload_bytes)
    private = _private_options(arguments)
    options = SuiteOptions(
        private=PrivateOptions(private.parent, private.fronts or 1, private.partitions or 1),
        duration_s=arguments.duration,
        warmup_s=arguments.warmup,
        deep_jobs=arguments.deep,
        cycle_connections=arguments.connections,
    )
    return await suite.run(options, _load_options(arguments), display)


async def _node(arguments: argparse.Namespace, stack: AsyncExitStack) -> Node:
    if arguments.url is None:
        private = _private_options(arguments)
        if arguments.mode == "bare" and private.fronts is None:
            private = PrivateOptions(private.parent, 1, private.partitions)
        return await stack.enter_async_context(private_node(private))
    node = running_node(arguments.url, arguments.client_key or "", arguments.worker_key or "")
    missing = [
        f"--{kind}-key (or QUEUE_NODE_{kind.upper()}_KEY)"
        for kind in _keys_needed(arguments.mode)
        if not getattr(arguments, f"{kind}_key")
    ]
    if missing:
        raise BenchError(f"a running node needs {' and '.join(missing)}")
    return node


def _keys_needed(mode: str) -> tuple[str, ...]:
    if mode == "bare":
        return ()
    return ("client",) if mode in ("submit", "batch") else ("client", "worker")


def _load_options(arguments: argparse.Namespace) -> LoadOptions:
    return LoadOptions(
        processes=arguments.load_processes,
        payload_bytes=arguments.payload_bytes,
        seed=arguments.seed,
        silence_s=arguments.timeout,
    )


def _private_options(arguments: argparse.Namespace) -> PrivateOptions:
    return PrivateOptions(arguments.dir, arguments.fronts, arguments.partitions)


def _common_arguments(
    *, duration_s: float, warmup_s: float, connections: int = 64
) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    load = common.add_argument_group("load")
    load.add_argument(
        "--connections",
        type=_count_from(1),
        default=connections,
        metavar="N",
        help="keep-alive connections, one request in flight on each (default: %(default)s)",
    )
    load.add_argument(
        "--duration",
        type=_seconds_above(0),
        default=duration_s,
        metavar="S",
        help="seconds measured, of each figure (default: %(default)g)",
    )
    load.add_argument(
        "--warmup",
        type=_seconds_above(None),
        default=warmup_s,
        metavar="S",
        help="seconds before that, not measured (default: %(default)g)",
    )
    load.add_argument(
        "--payload-bytes",
        type=_payload_bytes,
        metavar="N",
        default=workloads.PAYLOAD_BYTES_DEFAULT,
        help="(default: 256)",
    )
    load.add_argument(
        "--seed",
        type=_count_from(0),
        default=1,
        metavar="N",
        help="same seed, same payloads (default: 1)",
    )
    load.add_argument(
        "--load-processes",
        type=_count_from(1),
        metavar="N",
        default=_default_load_processes(),
        help="processes that make the load (default: one for every four cores)",
    )
    load.add_argument(
        "--timeout",
        type=_seconds_above(0),
        default=30.0,
        metavar="S",
        help="the run fails when no answer comes for so long (default: 30)",
    )
    private = common.add_argument_group("private node")
    private.add_argument(
        "--dir",
        type=_directory,
        default=Path(),
        metavar="DIR",
        help="its data is made below it (default: the current directory)",
    )
    private.add_argument(
        "--fronts",
        type=_count_from(1),
        metavar="N",
        help="(default: the node's own; bare and suite: 1)",
    )
    private.add_argument(
        "--partitions", type=_count_from(1), metavar="N", help="(default: the node's own; suite: 1)"
    )
    common.add_argument("--json", action="store_true", help="the report as JSON")
    common.add_argument(
        "--allow-errors", action="store_true", help="exit code 0 even when requests were refused"
    )
    return common


def _node_arguments() -> argparse.ArgumentParser:
    against = argparse.ArgumentParser(add_help=False)
    running = against.add_argument_group("running node")
    running.add_argument(
        "--url",
        default=os.environ.get("QUEUE_NODE_URL"),
        help="http://host:port (or QUEUE_NODE_URL)",
    )
    running.add_argument(
        "--client-key",
        default=os.environ.get("QUEUE_NODE_CLIENT_KEY"),
        metavar="KEY",
        help="to submit (or QUEUE_NODE_CLIENT_KEY)",
    )
    running.add_argument(
        "--worker-key",
        default=os.environ.get("QUEUE_NODE_WORKER_KEY"),
        metavar="KEY",
        help="to lease and ack (or QUEUE_NODE_WORKER_KEY)",
    )
    return against


def _add_rate(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--rate",
        type=_rate,
        metavar="R",
        help=f"open loop: R {what} a second are planned, latency counts from the plan "
        "(default: closed loop, as fast as answers come)",
    )


def _default_load_processes() -> int:
    return max(1, len(os.sched_getaffinity(0)) // 4)


def _count_from(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} up")
        return value

    return parse


def _count_within(least: int, most: int) -> Callable[[str], int]:
    count_from = _count_from(least)

    def parse(text: str) -> int:
        value = count_from(text)
        if value > most:
            raise argparse.ArgumentTypeError(f"{text!r} is more than {most}")
        return value

    return parse


def _seconds_above(limit: float | None) -> Callable[[str], float]:
    """Parses seconds: above ``limit``, or with None from zero up."""

    def parse(text: str) -> float:
        value = _number(text)
        if not (value >= 0 if limit is None else value > limit):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above zero")
        return value

    return parse


def _rate(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate above 0 and up to 1,000,000")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _payload_bytes(text: str) -> int:
    least, most = workloads.PAYLOAD_BYTES_MIN, workloads.PAYLOAD_BYTES_MAX
    value = _count_from(least)(text)
    if value > most:
        raise argparse.ArgumentTypeError(f"{text!r} is more than a payload may have ({most})")
    return value


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return path
