"""Bytes that change on their way between a partition and its disk: strace writes over them.

On its way out nobody can know: what is stored is wrong, and whoever reads it must find that. On
its way in every byte passes a checksum before it counts.

strace changes the memory of the process. Where that is a constant (the zeros that are made ahead,
the magic of a snapshot) it stays changed, and all that are written from then on are hit: no start
may take that for good either.
"""

import signal
from pathlib import Path

import pytest

from partitions.log import segment_name
from partitions.messages import Enqueued, Get, JobView, Lease, Leased, Reply, Unreadable
from partitions.record import (
    SEGMENT_HEADER_BYTES,
    Record,
    SegmentHeader,
    decode_segment_header,
    scan,
)
from tests.support.battered import Battered
from tests.support.driver import enqueue, job_id
from tests.support.partition_process import PartitionProcess, ProcessFront
from tests.support.points import LONG, Points
from tests.support.polling import wait_until
from tests.support.strace import Strace, needs_strace, wait_until_it_reads_its_settings

BATCHES = 25
LONG_MAX = 80
"""So many writes, or reads, are more than a run or a start makes."""
FLIPPED = "@arg2=5a"
"""The first byte of what is written or read: a header, a record (no magic begins so), a frame."""
DAMAGED = 3
"""The exit code of a partition that finds its log corrupt."""


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Battered:
    """A partition with a past: there are snapshots, and segments to remove."""
    needs_strace()
    made = Battered(tmp_path_factory.mktemp("worked"))
    with made.start().wait_ready() as partition, partition.front() as front:
        assert made.work(front, 60)
    return made


def stored(path: Path, jobs: int, flip_at: int | None = None) -> None:
    """A partition that took so many jobs, one record each, and was killed."""
    with PartitionProcess(path).wait_ready() as partition, partition.front() as front:
        for number in range(1, jobs + 1):
            submit = enqueue(number)
            if number != flip_at:
                assert front.ask(submit) == [Enqueued(submit.job_id)]
                continue
            inject = f"poke_enter={FLIPPED}:when=1"
            with Strace(path / "strace", [partition.pid], "pwrite64", inject) as injected:
                assert front.ask(submit) == [Enqueued(submit.job_id)]
            assert injected.hits == 1
        partition.signal(signal.SIGKILL)
        partition.exit_code()


def test_a_record_that_is_damaged_on_its_way_out_is_refused_by_name_and_offset(tmp_path: Path):
    needs_strace()
    stored(tmp_path, 3, flip_at=2)
    log = tmp_path / "p-0000" / segment_name(1)
    first = next(iter(scan(log.read_bytes(), header_of(log))))
    with PartitionProcess(tmp_path) as partition:
        assert not partition.started()
        assert partition.exit_code() == DAMAGED
        assert isinstance(first, Record)
        assert (
            f"{log}: offset {first.end_bytes}: no record begins here, yet record 3 is valid"
            in partition.stderr()
        )


def header_of(path: Path) -> SegmentHeader:
    header = decode_segment_header(path.read_bytes()[:SEGMENT_HEADER_BYTES])
    assert isinstance(header, SegmentHeader)
    return header


def test_a_segment_that_is_damaged_on_its_way_in_is_refused_and_served_the_next_time(
    tmp_path: Path,
):
    needs_strace()
    stored(tmp_path, 3)
    with PartitionProcess(tmp_path, held=True) as partition:
        wait_until_it_reads_its_settings(partition.pid)
        inject = f"poke_exit={FLIPPED}:when=1+"
        more = ("-P", str(tmp_path / "p-0000" / segment_name(1)))
        with Strace(tmp_path / "out", [partition.pid], "pread64", inject, more) as injected:
            partition.go()
            assert not partition.started()
        assert injected.hits
        assert partition.exit_code() == DAMAGED
        assert "not a segment: the magic bytes are missing" in partition.stderr()
    with PartitionProcess(tmp_path).wait_ready() as partition, partition.front() as front:
        for number in range(1, 4):
            assert isinstance(front.ask(Get(job_id(number)))[0], JobView)


def test_after_any_write_that_stores_another_byte_a_start_has_all_or_refuses(
    worked: Battered, tmp_path: Path, points: Points
):
    for nth in range(1, LONG_MAX) if LONG else (1, 4, 8, 25):
        battered = worked.copy(tmp_path / str(nth))
        with battered.start().wait_ready() as partition:
            inject = f"poke_enter={FLIPPED}:when={nth}"
            out = tmp_path / f"strace-{nth}"
            with partition.front() as front:
                with Strace(out, [partition.pid], "pwrite64", inject) as injected:
                    assert battered.work(front, BATCHES)
                # More follows, so it is no torn tail.
                assert battered.work(front, 3)
            partition.signal(signal.SIGKILL)
            partition.exit_code()
        if not injected.hits:
            break
        starts_rightly_or_refuses(battered)
        points.add("real partition: a write that stores another byte")


def starts_rightly_or_refuses(battered: Battered) -> None:
    """Start on what is stored: nothing may be missing without a word."""
    before = content_of(battered)
    with battered.start() as partition:
        if partition.started():
            # A snapshot was hit, or what one covers by now, or zeros.
            with partition.front() as front:
                battered.check(partition, front, bad_snapshots=1)
            return
        assert partition.exit_code() == DAMAGED, partition.stderr()
        words = partition.stderr()
        assert "the log is corrupt" in words
        assert str(battered.directory) in words
        assert ": offset " in words
    assert content_of(battered) == before, "what is damaged is left as it is"


def content_of(battered: Battered) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in battered.directory.iterdir()}


def test_a_start_that_reads_other_bytes_than_are_stored_changes_nothing_by_it(
    worked: Battered, tmp_path: Path, points: Points
):
    battered = worked.copy(tmp_path / "copy")
    for nth in range(1, LONG_MAX) if LONG else (1, 5, 14):
        with battered.start(held=True) as partition:
            wait_until_it_reads_its_settings(partition.pid)
            inject = f"poke_exit={FLIPPED}:when={nth}"
            with Strace(tmp_path / f"strace-{nth}", [partition.pid], "pread64", inject) as injected:
                partition.go()
                started = partition.started()
            if started:
                with partition.front() as front:
                    battered.check(partition, front)
            else:
                assert partition.exit_code() == DAMAGED, partition.stderr()
                assert "the log is corrupt" in partition.stderr()
        if not injected.hits:
            break
        points.add("real partition: a read that gives another byte, in a start")
        with battered.start().wait_ready() as partition, partition.front() as front:
            battered.check(partition, front)


def test_a_text_that_is_damaged_on_its_way_in_is_not_shown_and_is_whole_the_next_time(
    tmp_path: Path, points: Points
):
    needs_strace()
    with PartitionProcess(tmp_path).wait_ready() as partition, partition.front() as front:
        assert front.ask(enqueue(1), enqueue(2)) == [Enqueued(job_id(1)), Enqueued(job_id(2))]
        inject = f"poke_exit={FLIPPED}:when=1"
        with Strace(tmp_path / "out", [partition.pid], "pread64", inject) as injected:
            damaged, other = front.ask(Lease(1), Lease(60_000))
        assert injected.hits == 1
        assert damaged == Unreadable(job_id(1))
        assert isinstance(other, Leased)
        assert (other.job_id, other.payload) == (job_id(2), b"payload")
        again = leased_again(front)
        assert (again.job_id, again.payload, again.attempt) == (job_id(1), b"payload", 2)
    points.add("real partition: a read that gives another byte, of a text")


def leased_again(front: ProcessFront) -> Leased:
    """The job whose lease ends in a moment."""
    found: list[Reply] = []

    def is_leased() -> bool:
        found[:] = front.ask(Lease(60_000))
        return isinstance(found[0], Leased)

    wait_until(is_leased, what="the end of the lease")
    (leased,) = found
    assert isinstance(leased, Leased)
    return leased


@pytest.mark.parametrize("stopped", [signal.SIGTERM, signal.SIGKILL])
def test_the_last_record_of_all_is_missed_after_a_clean_end_and_counted_after_a_kill(
    stopped: signal.Signals, tmp_path: Path
):
    needs_strace()
    with PartitionProcess(tmp_path).wait_ready() as partition:
        with partition.front() as front:
            assert front.ask(enqueue(1)) == [Enqueued(job_id(1))]
            inject = f"poke_enter={FLIPPED}:when=1"
            with Strace(tmp_path / "out", [partition.pid], "pwrite64", inject) as injected:
                assert front.ask(enqueue(2)) == [Enqueued(job_id(2))]
        assert injected.hits == 1
        partition.signal(stopped)
        partition.exit_code()
    with PartitionProcess(tmp_path) as again:
        started = again.started()
        again.signal(signal.SIGKILL)
        words = again.stderr()
    if stopped is signal.SIGTERM:
        # The last snapshot knows how far the log went.
        assert not started
        assert "the log ends before record 2, which the snapshot covers" in words
    else:
        # It looks like the write that a crash cut, which this one is taken for: said, not silent.
        assert started
        assert "torn tail" in words
        assert "recovered 1 jobs" in words
