"""Two sets of jobs have the same digest exactly when they are the same jobs."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from partitions.census import Census, counting
from partitions.checkpoint import Checkpoints
from partitions.disk import RealDisk
from partitions.job import EXPIRED_AT, Job, Own, Run, State
from partitions.kinds import KindKey
from partitions.log import identity_of
from partitions.recovery import recover
from partitions.state import PartitionState
from tests.support.driver import SMALL, START_MS
from tests.support.hand_node import HandNode

KEY = KindKey(b"options", "ann", 3)
JOB_ID = b"0123456789abcdef"
JOB = Job(JOB_ID, 5 << 19, 77, 0, run=Run(1, 4), own=Own("group", b"digest", 9))

Counted = tuple[Job, KindKey, bytes | int, bytes | int]


def digest(*counted: Counted) -> str:
    census = Census()
    for each in counted:
        census.add(*each)
    return census.digest


def counted_as(
    key: KindKey = KEY, payload: bytes | int = b"payload", outcome: bytes | int = 0, **changes: Any
) -> Counted:
    """The job with some things about it changed."""
    return msgspec.structs.replace(JOB, **changes), key, payload, outcome


def test_neither_order_nor_place_nor_number_matter():
    one = counted_as()
    other = (Job(b"another job's id", 9 << 19, 9, 1), KEY, b"", b"result")
    moved = counted_as(number=(5 << 19) + 1, payload_at=99, kind=2, run=Run(1, 4, outcome_at=55))
    assert digest(one, other) == digest(other, moved)
    assert digest() == "0" * 64


def test_a_job_without_an_attempt_may_have_an_empty_one():
    assert digest(counted_as(run=None)) == digest(counted_as(run=Run()))


@pytest.mark.parametrize(
    "changed",
    [
        counted_as(KindKey(b"options", "bob", 3)),
        counted_as(KindKey(b"options", "ann", 2)),
        counted_as(KindKey(b"others", "ann", 3)),
        counted_as(payload=b"Payload"),
        counted_as(payload=0),
        counted_as(outcome=EXPIRED_AT),
        counted_as(outcome=b""),
        counted_as(job_id=b"0123456789abcdeg"),
        counted_as(number=6 << 19),
        counted_as(state=State.RETRY),
        counted_as(due_ms=1),
        *(
            counted_as(run=msgspec.structs.replace(Run(1, 4), **{name: value}))
            for name, value in (
                ("attempts", 2), ("lease_token", 5), ("lease_ms", 1), ("crashes", 1),
                ("progress", b"1"), ("worker", "w"),
            )
        ),
        counted_as(run=None),
        counted_as(own=None),
        counted_as(own=Own("another", b"digest", 9)),
        counted_as(own=Own("group", b"", 9)),
        counted_as(own=Own("group", b"digest", 0)),
    ],
)  # fmt: skip
def test_everything_else_does(changed):
    assert digest(changed) != digest(counted_as())


def test_a_job_that_is_there_twice_is_not_there_once():
    one = counted_as()
    assert len({digest(), digest(one), digest(one, one), digest(one, one, one)}) == 4


def counted(directory: Path) -> Census:
    census = Census()
    shares = list(counting(RealDisk(), directory, identity_of(0, 1), census))
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    return census


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    node = HandNode(tmp_path / "data", 1)
    for number in range(40):
        node.submit(number, b"payload %d" % number, 2, "owner")
    node.lease(0)
    node.close()
    return tmp_path / "data" / "p-0000"


def test_counting_changes_nothing(directory):
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in directory.iterdir()}
    census = counted(directory)
    assert census.states == dict.fromkeys(State, 0) | {State.READY: 39, State.RUNNING: 1}
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in directory.iterdir()} == before
    assert counted(directory).digest == census.digest


def test_a_directory_that_is_not_there_has_no_jobs_and_is_not_made(tmp_path):
    assert counted(tmp_path / "none").jobs == 0
    assert not (tmp_path / "none").exists()


def test_a_text_that_is_unreadable_is_noted_and_changes_the_digest(directory):
    good = counted(directory)
    newest = max(directory.iterdir())
    segments = sorted(directory.iterdir())
    # Old segments are replayed too, so the flip must be one that only the text's own checksum
    # sees: a record that a snapshot stands for.
    assert newest == segments[-1]
    snapshot_all(directory)
    data = bytearray(segments[0].read_bytes())
    at = data.index(b"payload 3")
    data[at] ^= 1
    segments[0].write_bytes(bytes(data))
    found = counted(directory)
    assert found.jobs == good.jobs
    assert [error.path for error in found.unreadable] == [segments[0]]
    assert found.digest != good.digest


def snapshot_all(directory: Path) -> None:
    state = PartitionState()
    log = recover(RealDisk(), directory, identity_of(0, 1), state, SMALL).log
    checkpoints = Checkpoints(RealDisk(), directory, identity_of(0, 1), state.jobs, log)
    assert checkpoints.finish(START_MS, 60_000)
    log.close()
