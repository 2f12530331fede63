"""A reshard of any small node: every job is what it was, and where it belongs."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from partitions.disk import RealDisk
from partitions.messages import Cancel, Forget, Retry
from queue_node import reshard
from queue_node.census import Count, count_jobs
from queue_node.directory import hold
from queue_node.node_file import read_node_file
from queue_node.progress import stages
from tests.support.driver import jobs_of
from tests.support.hand_node import QUEUES, SHAPES, HandNode, differences, opened
from tests.support.stopping import Stopping

OWNERS = ("ann", "bob", "")
texts = st.sampled_from((b"", b"t", b"text" * 20, "\u2603".encode() * 200))
submits = st.tuples(
    st.just("submit"),
    st.integers(0, 65535),
    texts,
    st.integers(0, 3),
    st.sampled_from(OWNERS),
    st.sampled_from(SHAPES),
)
steps = st.one_of(
    submits,
    submits,
    st.tuples(
        st.just("lease"),
        st.integers(0, 3),
        st.permutations(QUEUES).map(lambda queues: tuple(queues[:2])),
        st.integers(1, 3),
    ),
    st.tuples(
        st.just("hold"),
        st.integers(0, 9),
        st.sampled_from(("extend", "release", "release later")),
    ),
    st.tuples(st.just("call"), st.sampled_from((Cancel, Retry, Forget)), st.integers(0, 30)),
    st.tuples(st.just("claim"), st.integers(0, 65535), st.integers(0, 65535)),
    st.tuples(st.just("pause"), st.sampled_from(QUEUES), st.booleans()),
    st.tuples(st.just("settle"), st.integers(0, 9), texts, st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from((0, 1, 900, 6_000))),
)
counts = st.integers(1, 4)


def filled_node(path: Path, partitions: int, script: list[Any]) -> HandNode:
    node = HandNode(path, partitions)
    for name, *arguments in script:
        match name:
            case "submit":
                node.submit(*arguments)
            case "claim":
                node.claim(*arguments)
            case "lease":
                node.lease(*arguments)
            case "settle":
                index, text, failed = arguments
                node.settle(index, text, failed=failed)
            case "hold":
                node.hold(*arguments)
            case "call":
                node.call(*arguments)
            case "pause":
                queue, paused = arguments
                node.pause(queue, paused=paused)
            case "wait":
                node.wait(*arguments)
    node.close()
    return node


def reshard_to(path: Path, partitions: int) -> reshard.Report:
    with stages(quiet=True) as bars:
        return reshard.reshard(reshard.plan(path, partitions), bars)


def jobs_in(path: Path) -> Count:
    with hold(str(path)) as directory, stages(quiet=True) as bars:
        return count_jobs(path, directory.settle_partitions(None, 1), bars, "")[0]


def check(path: Path, node: HandNode, partitions: int) -> None:
    """The directory has so many partitions, and every job is what it was."""
    found = [opened(RealDisk(), path, number, partitions) for number in range(partitions)]
    assert differences(found, node) == []
    for partition in found:
        head = partition.state.jobs.begin_snapshot()
        numbers = [job.number for job in jobs_of(partition.state).values()]
        assert len(set(numbers)) == len(numbers)
        assert head.last_number >= max(numbers, default=0)
        if partitions != node.count:
            assert head.last_token == node.last_token
        partition.log.close()
    names = {entry.name for entry in path.iterdir()} - {"lock"}
    assert names == {"node.json", *(f"p-{number:04d}" for number in range(partitions))}
    made_with = read_node_file(path)
    assert made_with is not None
    assert (made_with.partitions, made_with.moving) == (partitions, False)


EVERY_STATE = [
    *(
        ("submit", slot, b"payload %d" % slot, 2, OWNERS[slot % 3])
        for slot in range(0, 65536, 3900)
    ),
    *(("lease", number) for number in range(12)),
    ("settle", 0, b"result", False),
    ("settle", 1, b"", False),
    ("settle", 0, b"error", True),
    ("settle", 1, b"", True),
    ("wait", 6_000),
    ("wait", 6_000),
    *(("lease", number) for number in range(8)),
    ("settle", -1, b"dead", True),
    ("settle", -2, b"result again", False),
    ("settle", -1, b"", True),
    ("submit", 7, b"late", 0, "ann"),
    *(
        ("submit", 9_000 * number % 65536, b"shape", 3, OWNERS[number % 3], shape)
        for number, shape in enumerate([*SHAPES, *SHAPES])
    ),
    *(("claim", slot, 65_535 - slot) for slot in range(0, 65536, 7_000)),
    *(("lease", number, ("slow", "mail"), 3) for number in range(4)),
    ("hold", -1, "extend"),
    ("hold", -2, "release"),
    ("hold", -2, "release later"),
    ("call", Cancel, 3),
    ("call", Cancel, -1),
    ("call", Retry, -1),
    ("call", Cancel, -4),
    ("call", Forget, -4),
    ("call", Cancel, -6),
    ("call", Cancel, -8),
    ("claim", 7_000, 58_535),
    ("claim", 7_000, 7_000),
    ("pause", "mail", True),
    ("wait", 1),
]
"""Jobs in all states, and of all shapes; keys that are claimed, once, again, and in vain."""


@example(2, 3, EVERY_STATE)
@example(3, 2, EVERY_STATE)
@example(4, 1, [])
@given(counts, counts, st.lists(steps, max_size=40))
@settings(max_examples=25)
def test_every_job_stays_what_it_is_and_in_its_order(before, after, script):
    with tempfile.TemporaryDirectory() as folder:
        node = filled_node(Path(folder) / "data", before, script)
        Stopping().run(lambda: reshard_to(node.path, after))
        Stopping().run(lambda: check(node.path, node, after))


@given(counts, counts, st.lists(steps, max_size=25), st.integers(0, 150))
@settings(max_examples=25)
def test_one_that_is_killed_anywhere_is_run_again_and_nothing_is_lost_or_doubled(
    before, after, script, at
):
    with tempfile.TemporaryDirectory() as folder:
        node = filled_node(Path(folder) / "data", before, script)
        Stopping(at).run(lambda: reshard_to(node.path, after))
        Stopping().run(lambda: reshard_to(node.path, after))
        Stopping().run(lambda: check(node.path, node, after))
