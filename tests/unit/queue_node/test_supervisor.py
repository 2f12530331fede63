"""The children of a node together: who starts, who drains when, who is killed."""

import os
import signal
import socket
from pathlib import Path

import pytest
import trio

from queue_node.child import Child, Program
from queue_node.errors import AddressError, ExitCode
from queue_node.supervisor import STOP_SIGNALS, Supervisor, hear_stop_signals
from tests.support.record import DEADLINE_S, Record


class Node:
    """A supervisor of fake children, and what it exited with."""

    def __init__(
        self, record: Record, front: str, partition: str, drain_s: float, heard: list[int]
    ) -> None:
        self.record = record
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.exit_code: ExitCode | None = None
        self.welcomed = trio.Event()
        self.supervisor = Supervisor(
            [self._child("partition", number, partition) for number in range(2)],
            [self._child("front", number, front) for number in range(2)],
            self.listener,
            front_drain_s=drain_s,
            drain_s=drain_s,
            heard=heard,
        )

    def _child(self, kind: str, number: int, behaviour: str) -> Child:
        settings = f'{{"{kind}": {number}}}'.encode()
        return Child(f"{kind} {number}", Program(self.record.command(behaviour), settings))

    async def run(self) -> None:
        async def welcome() -> None:
            self.welcomed.set()
            await trio.sleep_forever()

        self.exit_code = await self.supervisor.run(welcome)

    async def until_all_started(self) -> None:
        for name in ("partition 0", "partition 1", "front 0", "front 1"):
            await self.record.until(f"{name} started")


@pytest.fixture
def make_node(tmp_path: Path):
    nodes = []

    def make(
        front: str = "serve",
        partition: str = "serve",
        drain_s: float = 10.0,
        heard: list[int] | None = None,
    ) -> Node:
        nodes.append(Node(Record(tmp_path / "record"), front, partition, drain_s, heard or []))
        return nodes[-1]

    yield make
    for node in nodes:
        node.listener.close()


def tell(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_fronts_before_partitions(make_node, number):
    node = make_node()
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            await node.until_all_started()
            tell(number)
    assert node.exit_code is ExitCode.DRAINED
    ends = [line for line in node.record.lines if line.endswith("drained")]
    assert sorted(ends[:2]) == ["front 0 drained", "front 1 drained"]
    assert sorted(ends[2:]) == ["partition 0 drained", "partition 1 drained"]
    assert len(node.record.lines) == 8


async def test_a_drained_node_leaves_its_port(make_node):
    node = make_node()
    address = node.listener.getsockname()
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            await node.until_all_started()
            tell(signal.SIGTERM)
    with socket.socket() as probe:
        probe.bind(address)


async def test_a_child_that_is_killed_comes_back_and_the_others_stay(make_node):
    node = make_node()
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            await node.until_all_started()
            os.kill(node.record.pids("partition 1")[0], signal.SIGKILL)
            await node.record.until("partition 1 started", times=2)
            tell(signal.SIGTERM)
    assert node.exit_code is ExitCode.DRAINED
    assert node.record.count("partition 0 started") == 1
    assert node.record.count("front 0 started") == 1


async def test_a_front_that_does_not_drain_is_killed_and_partitions_drain_all_the_same(
    make_node, monkeypatch
):
    monkeypatch.setattr("queue_node.supervisor._FRONTS_MARGIN_S", -0.5)
    node = make_node(front="stubborn", drain_s=1.0)
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            await node.until_all_started()
            tell(signal.SIGTERM)
    assert node.exit_code is ExitCode.CUT_SHORT
    assert sorted(node.record.lines[-2:]) == ["partition 0 drained", "partition 1 drained"]


async def test_a_partition_that_does_not_drain_is_killed_when_time_is_up(make_node, caplog):
    node = make_node(partition="stubborn", drain_s=0.5)
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            await node.until_all_started()
            tell(signal.SIGTERM)
    assert node.exit_code is ExitCode.CUT_SHORT
    assert node.record.count("front 0 drained") == 1
    assert "partition 0 did not drain in time and is killed" in caplog.messages


async def test_a_partition_that_fails_while_it_drains_is_named_and_a_fault(make_node, caplog):
    node = make_node(partition="faulty")
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            await node.until_all_started()
            tell(signal.SIGTERM)
    assert node.exit_code is ExitCode.FAULT
    said = [line for line in caplog.messages if "did not drain" in line]
    assert said == [f"partition {number} did not drain: it exited with 1" for number in (0, 1)]


async def test_a_second_signal_ends_everything_at_once(make_node, monkeypatch):
    monkeypatch.setattr("queue_node.supervisor._SAME_STOP_S", 0.0)
    node = make_node(front="stubborn", drain_s=3600)
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            await node.until_all_started()
            tell(signal.SIGTERM)
            # Signals that arrive together count as one.
            while node.listener.fileno() != -1:
                await trio.sleep(0.005)
            tell(signal.SIGINT)
    assert node.exit_code is ExitCode.CUT_SHORT


async def test_a_signal_that_came_before_the_supervisor_drains_it_too(make_node):
    node = make_node(heard=[signal.SIGTERM])
    with trio.fail_after(DEADLINE_S):
        await node.run()
    assert node.exit_code is ExitCode.DRAINED


def test_a_signal_that_nobody_heeds_is_heard_and_ends_nothing():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    try:
        heard = hear_stop_signals()
        for number in STOP_SIGNALS:
            tell(number)
        assert heard == list(STOP_SIGNALS)
    finally:
        for number, handler in zip(STOP_SIGNALS, before, strict=True):
            signal.signal(number, handler)


async def test_a_signal_that_arrives_twice_at_once_is_one(make_node, monkeypatch):
    monkeypatch.setattr("queue_node.supervisor._SAME_STOP_S", DEADLINE_S)
    node = make_node()
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            await node.until_all_started()
            tell(signal.SIGTERM)
            while node.listener.fileno() != -1:
                await trio.sleep(0.005)
            tell(signal.SIGTERM)
    assert node.exit_code is ExitCode.DRAINED


async def test_damaged_partitions_do_not_stop_the_node(make_node):
    node = make_node(partition="damaged")
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            await node.until_all_started()
            tell(signal.SIGTERM)
    assert node.exit_code is ExitCode.DRAINED
    assert node.record.count("partition 0 started") == 1
    assert node.record.count("front 1 drained") == 1


async def test_damage_that_is_found_while_the_node_stops_is_none_of_the_drain(make_node, caplog):
    node = make_node(partition="recovering")
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            await node.until_all_started()
            tell(signal.SIGTERM)
    assert node.exit_code is ExitCode.DRAINED
    assert "partition 1 found damaged data and stays down; the rest of the node serves" in (
        caplog.messages
    )


async def test_a_welcome_that_fails_drains_the_node_and_says_why(make_node):
    node = make_node()

    async def welcome() -> None:
        await node.until_all_started()
        raise AddressError("nobody is welcome")

    with trio.fail_after(DEADLINE_S), pytest.raises(AddressError, match="nobody is welcome"):
        await node.supervisor.run(welcome)
    assert node.record.count("front 0 drained") == 1
    assert node.record.count("partition 1 drained") == 1
