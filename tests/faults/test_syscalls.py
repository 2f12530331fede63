"""The n-th system call of a real partition fails, or is its last: EIO, ENOSPC, SIGKILL.

The partition has small segments and takes snapshots all the time, so the calls are those of
commits, zeros, rolls, snapshots, retired segments and copied texts alike. What a call is hit
in, strace decides by counting; that it was hit, it proves.
"""

from pathlib import Path

import pytest

from tests.support.battered import Battered
from tests.support.points import LONG, Points
from tests.support.strace import Strace, needs_strace, wait_until_it_reads_its_settings

BATCHES = 25
RENAME = "?rename,?renameat,?renameat2"
UNLINK = "?unlink,?unlinkat"

RUN_FAULTS = [
    ("pwrite64", "error=EIO", (1, 2, 5)),
    ("pwrite64", "error=ENOSPC", (1, 4)),
    ("fdatasync", "error=EIO", (1, 2, 7)),
    ("fdatasync", "error=ENOSPC", (3,)),
    ("fsync", "error=EIO", (1,)),
    ("openat", "error=EIO", (1,)),
    ("openat", "error=ENOSPC", (1,)),
    (RENAME, "error=EIO", (1,)),
    (RENAME, "error=ENOSPC", (1,)),
    (UNLINK, "error=EIO", (1,)),
    ("pread64", "error=EIO", (2,)),
    ("pwrite64", "signal=KILL", (1, 4)),
    ("fdatasync", "signal=KILL", (1, 5)),
    ("fsync", "signal=KILL", (1,)),
    (RENAME, "signal=KILL", (1,)),
    (UNLINK, "signal=KILL", (1,)),
]
"""Calls, what happens to them, and at which of them in the short form. In the long form: at
every one of them, until a run ends without reaching the n-th; once, and from then on."""

START_FAULTS = [
    ("pread64", "error=EIO", (1,)),
    ("pwrite64", "error=EIO", (2,)),
    ("pwrite64", "error=ENOSPC", (1,)),
    ("fdatasync", "error=EIO", (1,)),
    ("fsync", "error=EIO", (1,)),
    (RENAME, "error=EIO", (1,)),
    ("openat", "error=EIO", (2, 4)),
    ("pwrite64", "signal=KILL", (1,)),
    ("fdatasync", "signal=KILL", (1,)),
    (RENAME, "signal=KILL", (1,)),
]

LONG_MAX = 60
"""So many calls of one kind are more than a run of ``BATCHES`` makes."""


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Battered:
    """A partition with a past: there are snapshots, and segments to remove."""
    needs_strace()
    made = Battered(tmp_path_factory.mktemp("worked"))
    with made.start().wait_ready() as partition, partition.front() as front:
        assert made.work(front, 60)
    return made


@pytest.fixture
def battered(worked: Battered, tmp_path: Path) -> Battered:
    return worked.copy(tmp_path)


def name_of(fault: tuple[str, str, tuple[int, ...]]) -> str:
    calls, what, _ = fault
    return f"{calls.replace('?', '').split(',')[0]} {what.partition('=')[2]}"


def moments(short: tuple[int, ...], what: str) -> list[str]:
    """``when`` of strace: the n-th call, or every one from the n-th on."""
    if not LONG:
        return [str(at) for at in short]
    counted = range(1, LONG_MAX)
    if "signal" in what:
        return [str(at) for at in counted]  # nobody dies twice
    return [when for at in counted for when in (str(at), f"{at}+")]


def judge(code: int, what: str, words: str) -> None:
    """A fault of the disk ends it with 1: never with 3, which means that the log is damaged."""
    expected = -9 if "signal" in what else 1
    assert code == expected, words


@pytest.mark.parametrize("fault", RUN_FAULTS, ids=name_of)
def test_a_partition_whose_nth_call_fails_loses_nothing(
    fault, battered: Battered, tmp_path: Path, points: Points
):
    calls, what, short = fault
    partition = battered.start().wait_ready()
    tried = 0
    misses = 0
    for when in moments(short, what):
        with partition, partition.front() as front:
            battered.check(partition, front)
            injected = Strace(tmp_path / "strace", [partition.pid], calls, f"{what}:when={when}")
            with injected:
                lived = battered.work(front, BATCHES)
            # What is forgiven must not cost anything: it works on. A call behind the last reply
            # that is not forgiven ends it a moment later.
            lived = lived and battered.work(front, 2)
            if not lived:
                judge(partition.exit_code(), what, partition.stderr())
                assert injected.hits or "signal" in what
            if lived and not injected.hits:
                misses += 1
            else:
                tried, misses = tried + 1, 0
        partition = battered.start().wait_ready()
        if misses == 2:
            break
    with partition, partition.front() as front:
        battered.check(partition, front)
        assert battered.work(front, 2)
        battered.check(partition, front)
    points.add(f"real partition: {name_of(fault)} in a run", tried)
    assert tried >= (1 if LONG else len(short))


@pytest.mark.parametrize("fault", START_FAULTS, ids=name_of)
def test_a_start_whose_nth_call_fails_loses_nothing(
    fault, battered: Battered, tmp_path: Path, points: Points
):
    calls, what, short = fault
    tried = 0
    for when in moments(short, what):
        with battered.start(held=True) as partition:
            wait_until_it_reads_its_settings(partition.pid)
            injected = Strace(tmp_path / "strace", [partition.pid], calls, f"{what}:when={when}")
            with injected:
                partition.go()
                started = partition.started()
            if not started:
                judge(partition.exit_code(), what, partition.stderr())
            elif not injected.hits:
                break
            else:
                with partition.front() as front:
                    battered.check(partition, front)
                    assert battered.work(front, 1)
            tried += 1
    with battered.start().wait_ready() as partition, partition.front() as front:
        battered.check(partition, front)
        assert battered.work(front, 2)
    points.add(f"real partition: {name_of(fault)} in a start", tried)
    assert tried >= (1 if LONG else len(short))
