"""Everything that the figures to reach ask for, in one run on one machine."""

from pathlib import Path

import msgspec

from bench import targets
from bench.environment import Environment, describe
from bench.fleet import LoadOptions
from bench.measure import (
    BATCH_WINDOW_JOBS,
    Display,
    Result,
    Spec,
    measure,
    measure_batch_cycle,
)
from bench.node import Node, PrivateOptions, private_node
from bench.targets import Target


class SuiteOptions(msgspec.Struct, frozen=True):
    """What may differ from one suite to the next."""

    private: PrivateOptions
    duration_s: float
    warmup_s: float
    deep_jobs: int
    cycle_connections: int


class SuiteResult(msgspec.Struct, frozen=True):
    """What came of it."""

    environment: Environment
    results: list[Result]
    targets: list[Target]


async def run(options: SuiteOptions, load: LoadOptions, display: Display) -> SuiteResult:
    """Bare, submits, bare again, cycle, lease+ack with few, many, and few waiting, batches.

    What others are judged by is measured before and after them, and its mean taken: a
    machine that is shared changes from minute to minute. Each part has a node of its own, so
    that none works on what another left behind.

    Raises:
        BenchError: a part could not be measured.
    """
    plain = Spec("bare", targets.BARE_CONNECTIONS, options.duration_s, options.warmup_s)
    results = [await _alone(_one_front(options.private), plain, load, display)]
    async with private_node(options.private) as node:
        environment = describe(_directory(node))
        for connections in (1, *targets.SHARES):
            spec = msgspec.structs.replace(plain, mode="submit", connections=connections)
            results.append(await measure(node, spec, load, display))
    results.append(await _alone(_one_front(options.private), plain, load, display))
    cycle = msgspec.structs.replace(plain, mode="cycle", connections=options.cycle_connections)
    results.append(await _alone(options.private, cycle, load, display))
    for waiting in (targets.SHALLOW_JOBS, options.deep_jobs, targets.SHALLOW_JOBS):
        lease = msgspec.structs.replace(cycle, mode="lease", waiting=waiting)
        results.append(await _alone(options.private, lease, load, display))
    batch = msgspec.structs.replace(
        plain, mode="batch", connections=targets.BATCH_CONNECTIONS, batch=targets.BATCH_JOBS
    )
    results.append(await _alone(options.private, batch, load, display))
    batch = msgspec.structs.replace(batch, mode="batch-cycle", window=BATCH_WINDOW_JOBS)
    async with private_node(options.private) as node:
        results += await measure_batch_cycle(node, batch, load, display)
    sync = environment.fdatasync
    assert sync is not None
    return SuiteResult(environment, results, targets.judge(results, sync))


async def _alone(
    private: PrivateOptions, spec: Spec, load: LoadOptions, display: Display
) -> Result:
    async with private_node(private) as node:
        return await measure(node, spec, load, display)


def _one_front(private: PrivateOptions) -> PrivateOptions:
    return msgspec.structs.replace(private, fronts=1)


def _directory(node: Node) -> Path:
    assert node.directory is not None, "a private node knows where its data is"
    return node.directory
