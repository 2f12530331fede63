"""bench.environment: facts of the machine, and the price of a durable write."""

from pathlib import Path

import pytest

from bench import environment


def test_the_file_system_of_a_mount_point_is_the_one_mounted_there():
    assert environment.filesystem_of(Path("/proc")) == "proc"
    assert environment.filesystem_of(Path("/proc/self/task")) == "proc"


@pytest.mark.parametrize(("kind", "nothing"), [("tmpfs", True), ("ext4", False), ("xfs", False)])
def test_a_file_system_in_memory_keeps_nothing(kind, nothing):
    assert environment.keeps_nothing(kind) is nothing


def test_a_sync_is_measured_and_leaves_no_file(tmp_path):
    sync = environment.measure_fdatasync(tmp_path, samples=20)
    assert 0 < sync.median_ms <= sync.p99_ms
    assert sync.samples == 20
    assert list(tmp_path.iterdir()) == []


def test_the_machine_is_described():
    facts = environment.describe(None)
    assert facts.cores >= 1
    assert facts.python.startswith("CPython 3.")
    assert facts.versions["trio"][0].isdigit()
    assert facts.fdatasync is None
