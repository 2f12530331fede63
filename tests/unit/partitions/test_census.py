"""Two sets of jobs have the same digest exactly when they are the same jobs."""

from pathlib import Path

import pytest

from partitions.census import Census, counting
from partitions.checkpoint import Checkpoints
from partitions.disk import RealDisk
from partitions.job import EXPIRED_AT, Job, State
from partitions.log import identity_of
from partitions.recovery import recover
from partitions.state import PartitionState
from tests.support.driver import SMALL, START_MS
from tests.support.hand_node import HandNode

JOB = Job(b"0123456789abcdef", 5 << 19, 77, 3, 0, State.READY, 1, 4, 0, 0)


def digest(*counted: tuple[Job, str, bytes | int, bytes | int]) -> str:
    census = Census()
    for each in counted:
        census.add(*each)
    return census.digest


def test_neither_order_nor_place_nor_number_matter():
    one = (JOB, "ann", b"payload", 0)
    other = (Job(b"another job's id", 9 << 19, 9, 1, 0), "ann", b"", b"result")
    moved = Job(b"0123456789abcdef", (5 << 19) + 1, 99, 3, 2, State.READY, 1, 4, 0, 0)
    assert digest(one, other) == digest(other, (moved, "ann", b"payload", 0))
    assert digest() == "0" * 64


@pytest.mark.parametrize(
    "changed",
    [
        (JOB, "bob", b"payload", 0),
        (JOB, "ann", b"Payload", 0),
        (JOB, "ann", 0, 0),
        (JOB, "ann", b"payload", EXPIRED_AT),
        (JOB, "ann", b"payload", b""),
        (Job(b"0123456789abcdeg", 5 << 19, 77, 3, 0, State.READY, 1, 4), "ann", b"payload", 0),
        (Job(b"0123456789abcdef", 6 << 19, 77, 3, 0, State.READY, 1, 4), "ann", b"payload", 0),
        (Job(b"0123456789abcdef", 5 << 19, 77, 2, 0, State.READY, 1, 4), "ann", b"payload", 0),
        (Job(b"0123456789abcdef", 5 << 19, 77, 3, 0, State.RETRY, 1, 4), "ann", b"payload", 0),
        (Job(b"0123456789abcdef", 5 << 19, 77, 3, 0, State.READY, 2, 4), "ann", b"payload", 0),
        (Job(b"0123456789abcdef", 5 << 19, 77, 3, 0, State.READY, 1, 5), "ann", b"payload", 0),
        (Job(b"0123456789abcdef", 5 << 19, 77, 3, 0, State.READY, 1, 4, 1), "ann", b"payload", 0),
    ],
)
def test_everything_else_does(changed):
    same = Job(b"0123456789abcdef", 5 << 19, 77, 3, 0, State.READY, 1, 4)
    assert digest((same, "ann", b"payload", 0)) == digest((JOB, "ann", b"payload", 0))
    assert digest(changed) != digest((JOB, "ann", b"payload", 0))


def test_a_job_that_is_there_twice_is_not_there_once():
    one = (JOB, "ann", b"payload", 0)
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
    checkpoints = Checkpoints(RealDisk(), directory, identity_of(0, 1), state, log)
    assert checkpoints.finish(START_MS, 60_000)
    log.close()
