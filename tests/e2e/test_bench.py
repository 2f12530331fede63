"""The benchmark against a real node of its own: figures that add up, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio

from bench import environment as machine
from bench import processor

ROOT = Path(__file__).resolve().parents[2]
SECONDS = {"bare": "1", "submit": "1", "cycle": "1", "lease": "1", "batch": "1"}
UNITS = {
    "bare": "bare",
    "submit": "submit",
    "cycle": "cycle",
    "lease": "lease+ack",
    "batch": "batch",
}


def command(*words):
    return [sys.executable, "-m", "queue_node", "bench", *words]


def environment():
    """Ours, without what would name a running node."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("QUEUE_NODE_")}
    return env | {"PYTHONPATH": str(ROOT)}


def bench(directory, *words, timeout=600):
    """The report of a run in ``directory``, which must be empty again afterwards."""
    done = subprocess.run(
        command(*words), cwd=directory, env=environment(), capture_output=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr.decode()
    assert list(directory.iterdir()) == [], "the private node's data is gone"
    return json.loads(done.stdout)


@pytest.fixture
def on_disk(tmp_path):
    """An empty directory for private nodes; where /tmp is in memory, beside the sources."""
    if not machine.keeps_nothing(machine.filesystem_of(tmp_path)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="bench-test-", dir=ROOT) as directory:
        yield Path(directory)


@pytest.mark.parametrize("mode", ["bare", "submit", "cycle", "lease", "batch"])
def test_a_mode_measures_a_private_node(mode, on_disk):
    seconds = ["--duration", SECONDS[mode], "--warmup", "0.1"]
    seen = bench(on_disk, mode, "--connections", "8", *seconds, "--partitions", "1", "--json")
    (result,) = seen["results"]
    assert (result["mode"], result["unit"]) == (mode, UNITS[mode])
    assert result["done"] > 0
    assert result["errors"] == {}
    assert result["partitions"] == 1
    assert result["fronts"] >= 1
    assert result["latency_ms"][UNITS[mode]]["p50"] > 0
    kinds = {process["kind"] for process in result["processes"]}
    assert kinds == {"supervisor", "front", "partition", "load"}
    assert seen["environment"]["fdatasync"]["median_ms"] > 0
    if mode != "bare":
        assert result["cpu"]["partition"]["seconds"] > 0
        assert any(
            process["write_calls"] > 0
            for process in result["processes"]
            if process["kind"] == "partition"
        )


def test_batches_are_submitted_leased_and_acked(on_disk):
    batches = ["--connections", "4", "--batch", "50", "--window", "1000", "--partitions", "2"]
    seconds = ["--duration", "0.5", "--warmup", "0"]
    whole, alone = bench(on_disk, "batch-cycle", *batches, *seconds, "--json")["results"]
    assert (whole["mode"], alone["mode"]) == ("batch-cycle", "batch-lease")
    assert whole["done"] == alone["done"]
    assert whole["done"] % 1000 == 0 < whole["done"]
    assert whole["per_second"] < alone["per_second"]
    assert whole["latency_ms"]["batch"]["count"] == whole["done"] / 50
    assert whole["latency_ms"]["lease+ack"]["count"] == whole["done"] / 50
    assert whole["cpu"]["partition"]["seconds"] > 0
    assert whole["errors"] == alone["errors"] == {}


@pytest.mark.parametrize("batch", ["1", "10"])
def test_one_partition_leases_in_order(batch, on_disk):
    load = ["--connections", "16", "--waiting", "200", "--batch", batch]
    seconds = ["--duration", "1", "--warmup", "0.2"]
    seen = bench(on_disk, "order", *load, *seconds, "--fronts", "2", "--partitions", "1", "--json")
    (result,) = seen["results"]
    order = result["order"]
    assert result["errors"] == {}
    assert order["leases"] == result["done"] + result["done_late"] > 0
    assert result["latency_ms"]["submit"]["count"] > 0
    assert set(order["inversions"].values()) == {0}
    # Between two fronts age is as exact as their clocks.
    assert order["overtaking"]["20"] == 0


def test_the_order_over_partitions_is_measured(on_disk):
    load = ["--connections", "16", "--waiting", "200"]
    seen = bench(on_disk, "order", *load, "--duration", "1", "--warmup", "0.2", "--json")
    (result,) = seen["results"]
    assert (result["fronts"], result["partitions"]) == (2, 4)
    order = result["order"]
    assert 0 <= order["inversions"]["0"] < order["leases"] / 2


def test_an_open_loop_keeps_its_rate(on_disk):
    seconds = ["--duration", "1", "--warmup", "0"]
    seen = bench(on_disk, "submit", "--rate", "200", "--connections", "16", *seconds, "--json")
    (result,) = seen["results"]
    assert result["done"] + result["done_late"] + result["never_sent"] == 200
    assert result["errors"] == {}


def test_the_suite_judges_every_target(on_disk):
    seen = bench(on_disk, "suite", "--duration", "0.3", "--warmup", "0", "--deep", "1500", "--json")
    assert len(seen["targets"]) == 8
    assert {target["verdict"] for target in seen["targets"]} <= {"reached", "missed"}
    modes = [(result["mode"], result["connections"]) for result in seen["results"]]
    assert modes == [
        ("bare", 256),
        ("submit", 1),
        ("submit", 16),
        ("submit", 64),
        ("submit", 256),
        ("bare", 256),
        ("cycle", 64),
        *[("lease", 64)] * 3,
        ("batch", 8),
        ("batch-cycle", 8),
        ("batch-lease", 8),
    ]
    assert all(result["errors"] == {} for result in seen["results"])


def test_a_node_that_does_not_start_is_quoted(on_disk):
    done = subprocess.run(
        command("submit", "--duration", "1"),
        cwd=on_disk,
        env=environment() | {"PARTITIONS": "many"},
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 2
    said = done.stderr.decode()
    assert said.startswith("queue-node bench: the private node did not start\n")
    assert "PARTITIONS" in said
    assert "Traceback" not in said
    assert list(on_disk.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_stops_everything_cleanly(number, code, on_disk):
    process = await trio.lowlevel.open_process(
        command("submit", "--duration", "600", "--connections", "4"),
        cwd=on_disk,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with trio.fail_after(600):
        while "load" not in kinds_below(process.pid):
            await trio.sleep(0.05)
        tree = set(processor.use_of_tree(process.pid))
        process.send_signal(number)
        assert process.stderr is not None
        said = b"".join([data async for data in process.stderr]).decode()
        assert await process.wait() == code
    assert said == f"queue-node bench: stopped by {number.name}; nothing to report\n"
    assert list(on_disk.iterdir()) == []
    assert not [pid for pid in tree if processor.use_of_tree(pid)]


def kinds_below(pid):
    """Kinds of the processes below ``pid``, load processes as ``load``."""
    kinds = set()
    for each in processor.use_of_tree(pid):
        try:
            words = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        kinds.add("load" if b"bench.load_process" in words else "")
    return kinds
