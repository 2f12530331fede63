"""The partition process: what its supervisor and its fronts can rely on."""

import contextlib
import os
import resource
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from partitions.limits import FRAME_BYTES_MAX
from partitions.log import segment_name
from partitions.messages import (
    Ack,
    Enqueued,
    Get,
    Hello,
    Hint,
    JobNotFound,
    JobView,
    Lease,
    Leased,
    Settled,
)
from tests.support.driver import enqueue, job_id
from tests.support.partition_process import TIMEOUT_S, PartitionProcess

PAYLOAD = "é€😀\0".encode()


@pytest.fixture
def start(tmp_path):
    """Start a partition on the test's directory; call it again for the next life."""
    started: list[PartitionProcess] = []

    def start_one(**settings: Any) -> PartitionProcess:
        started.append(PartitionProcess(tmp_path, **settings))
        return started[-1]

    yield start_one
    for each in started:
        each.__exit__(None, None, None)


def test_it_greets_a_front_and_serves_it(start):
    with start().wait_ready().front() as front:
        assert front.ask(enqueue(1, PAYLOAD)) == [Enqueued(job_id(1))]
        (leased,) = front.ask(Lease(60_000))
        assert isinstance(leased, Leased)
        assert leased.payload == PAYLOAD
        assert front.ask(Ack(job_id(1), leased.lease_token, b"r")) == [Settled(job_id(1))]
        # Nothing was ready when it came; then there was, and then there was not.
        hello, *hints = front.pushes
        assert hello == Hello(0, 1)
        assert hints
        assert [
            (head.queue, head.priority)
            for hint in hints
            if isinstance(hint, Hint)
            for head in hint.heads
        ] == [("default", 0), ("default", None)][: len(hints)]


def test_what_was_answered_is_there_after_kill_9_and_again(start):
    for life in range(3):
        partition = start().wait_ready()
        with partition.front() as front:
            views = front.ask(*(Get(job_id(index)) for index in range(life * 50)))
            assert all(isinstance(view, JobView) for view in views)
            front.ask(*(enqueue(life * 50 + index, PAYLOAD) for index in range(50)))
            (leased,) = front.ask(Lease(60_000))
            assert isinstance(leased, Leased)
            assert (leased.job_id, leased.lease_token) == (job_id(life), life + 1)
        partition.signal(signal.SIGKILL)
        assert partition.exit_code() == -signal.SIGKILL


@pytest.mark.parametrize("how", ["SIGTERM", "end of input"])
def test_it_drains_and_ends_with_0(start, how):
    partition = start().wait_ready()
    with partition.front() as front:
        front.ask(enqueue(1))
        if how == "SIGTERM":
            partition.signal(signal.SIGTERM)
        else:
            partition.close_stdin()
        front.wait_for_the_end()
    assert partition.exit_code() == 0
    with start().wait_ready().front() as front:
        assert isinstance(front.ask(Get(job_id(1)))[0], JobView)


def test_ctrl_c_is_not_its_affair(start):
    partition = start().wait_ready()
    partition.signal(signal.SIGINT)
    with partition.front() as front:
        assert front.ask(Get(job_id(1))) == [JobNotFound(job_id(1))]


def test_a_corrupt_log_ends_it_with_3_and_names_file_and_offset(start, tmp_path):
    partition = start().wait_ready()
    with partition.front() as front:
        for index in range(3):
            front.ask(enqueue(index))
    partition.signal(signal.SIGKILL)
    partition.exit_code()
    path = tmp_path / "p-0000" / segment_name(1)
    with path.open("r+b") as file:
        file.seek(70)
        file.write(b"\0\0\0\0")
    again = start()
    assert again.exit_code() == 3
    assert f"{path}: offset 64:" in again.stderr()


def test_a_torn_tail_is_cut_off_and_reported(start, tmp_path):
    partition = start().wait_ready()
    with partition.front() as front:
        front.ask(enqueue(1))
    partition.signal(signal.SIGKILL)
    partition.exit_code()
    path = tmp_path / "p-0000" / segment_name(1)
    end = len(path.read_bytes().rstrip(b"\0"))
    with path.open("r+b") as file:
        file.seek(end + 1)
        file.write(b"\xff\xfeQR half a record")
    again = start().wait_ready()
    with again.front() as front:
        assert isinstance(front.ask(Get(job_id(1)))[0], JobView)
    again.signal(signal.SIGTERM)
    assert "torn tail" in again.stderr()


def test_a_disk_that_fails_ends_it_with_1_and_without_a_reply(start):
    partition = start().wait_ready()
    with partition.front() as front:
        front.ask(enqueue(1))
        # Every write fails from now on (EFBIG), like those of a broken disk.
        resource.prlimit(partition.pid, resource.RLIMIT_FSIZE, (0, 0))
        with pytest.raises(EOFError):
            front.ask(enqueue(2))
    assert partition.exit_code() == 1
    assert "the disk failed, this partition stops" in partition.stderr()
    with start().wait_ready().front() as front:
        assert isinstance(front.ask(Get(job_id(1)))[0], JobView)


def test_a_second_one_waits_until_the_first_lets_go_of_the_files(start):
    first = start().wait_ready()
    with first.front() as front:
        front.ask(enqueue(1))
    second = start()
    first.signal(signal.SIGKILL)
    with second.wait_ready().front() as front:
        assert isinstance(front.ask(Get(job_id(1)))[0], JobView)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
        b"\0\0\0\x01\xc1",
        b"\0\0\0\x06\x91\x92\x01\x92\x05\xa0",
        b"\0\0\0\x0a" + b"\x91" * 10,
    ],
)
def test_a_front_that_sends_garbage_loses_its_connection_and_nobody_else_does(start, garbage):
    partition = start().wait_ready()
    with partition.front() as good, partition.front() as bad:
        good.ask(enqueue(1))
        bad.send(garbage)
        bad.wait_for_the_end()
        assert isinstance(good.ask(Get(job_id(1)))[0], JobView)


def test_a_front_that_hangs_up_with_requests_open_costs_nothing(start):
    partition = start().wait_ready()
    with partition.front() as front:
        front.ask(enqueue(1_000))
        before = open_sockets(partition.pid)
    for index in range(30):
        with partition.front() as front:
            front.send(b"\0\0\xff\xff half a frame")
        with partition.front() as front:
            front.ask(enqueue(index))
    deadline = time.monotonic() + TIMEOUT_S
    while open_sockets(partition.pid) >= before:
        assert time.monotonic() < deadline, "sockets leak"
        time.sleep(0.01)


def open_sockets(pid: int) -> int:
    count = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        # One that is closed meanwhile is none.
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(each).startswith("socket")
    return count


def test_its_files_are_for_their_owner_alone(start, tmp_path):
    start().wait_ready()
    directory = tmp_path / "p-0000"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()] == [0o600]


def test_its_title_says_what_it_is(start):
    partition = start().wait_ready()
    title = Path(f"/proc/{partition.pid}/cmdline").read_bytes()
    assert title.startswith(b"queue-node: partition 0")
