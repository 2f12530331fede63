"""bench.processor: whose CPU time it was."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

from bench import processor
from bench.processor import ProcessUse

BUSY = "sum(range(3_000_000)); print('done', flush=True); input()"


@contextmanager
def child(title, code=BUSY):
    """A Python process with a command line that begins with ``title``; it has worked a bit."""
    with subprocess.Popen(
        [title, "-c", code],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        yield process
        process.communicate(b"\n")


def test_a_process_is_known_by_its_title():
    with child("queue-node: partition 3") as process:
        use = processor.use_of_tree(process.pid)[process.pid]
    assert (use.name, use.kind) == ("partition 3", "partition")
    assert use.cpu_s > 0


def test_a_process_without_a_title_is_known_by_its_module():
    with child("-c") as process:
        use = processor.use_of_tree(process.pid)[process.pid]
    assert use.kind == "other"


def test_children_belong_to_the_tree():
    with child("queue-node: front 0") as process:
        tree = processor.use_of_tree(os.getpid())
    assert {os.getpid(), process.pid} <= set(tree)


def test_a_process_that_is_gone_is_left_out():
    with child("x") as process:
        pass
    assert processor.use_of_tree(process.pid) == {}


def test_growth_counts_a_new_process_from_its_start():
    before = {1: ProcessUse("front 0", "front", 5.0, 10)}
    after = {
        2: ProcessUse("partition 0", "partition", 1.0, 7),
        1: ProcessUse("front 0", "front", 5.5, 12),
    }
    assert processor.grown(before, after) == [
        ProcessUse("front 0", "front", 0.5, 2),
        ProcessUse("partition 0", "partition", 1.0, 7),
    ]


def test_whoever_listens_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert processor.listener_of(port) == os.getpid()
    assert processor.listener_of(port) is None
