"""One child process: kept alive, drained, never left behind."""

import logging
import os
import signal
from pathlib import Path

import pytest
import trio

from queue_node import backoff
from queue_node.child import Child, Program, describe_exit
from tests.support.record import DEADLINE_S, Record


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")


@pytest.fixture
def impatient(monkeypatch):
    """Deaths are followed by a new start at once."""
    monkeypatch.setattr(backoff, "FIRST_S", 0.001)


def fake(record: Record, behaviour: str) -> Child:
    return Child("front 0", Program(record.command(behaviour), b'{"front": 0}'))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def stopped(child: Child) -> None:
    child.stop()
    with trio.fail_after(DEADLINE_S):
        await child.gone.wait()


async def test_a_child_gets_its_settings_and_a_process_group_of_its_own(record, nursery):
    child = fake(record, "serve")
    nursery.start_soon(child.run)
    with trio.fail_after(DEADLINE_S):
        await child.serving.wait()
    [line] = record.lines
    pid, group = line.split()[3:]
    assert line.startswith("front 0 started")
    assert pid == group
    await stopped(child)


async def test_a_stopped_child_drains_and_is_not_started_again(record, nursery):
    child = fake(record, "serve")
    nursery.start_soon(child.run)
    await record.until("front 0 started")
    await stopped(child)
    assert record.count("front 0 started") == 1
    assert record.lines[-1] == "front 0 drained"
    assert not child.was_killed
    assert not alive(record.pids("front 0")[0])


async def test_a_child_that_is_stopped_before_it_runs_never_starts(record):
    child = fake(record, "serve")
    child.stop()
    await child.run()
    assert record.lines == []
    assert child.gone.is_set()


async def test_a_child_that_was_killed_is_started_again(record, nursery, caplog):
    child = fake(record, "serve")
    nursery.start_soon(child.run)
    for round_ in range(1, 4):
        await record.until("front 0 started", times=round_)
        os.kill(record.pids("front 0")[-1], signal.SIGKILL)
    await record.until("front 0 started", times=4)
    assert "front 0 was ended by SIGKILL; starting it again in 0.1 s" in caplog.messages
    assert "front 0 was ended by SIGKILL; starting it again in 0.4 s" in caplog.messages
    await stopped(child)


async def test_a_child_with_damaged_data_stays_down(record, caplog):
    child = fake(record, "damaged")
    with trio.fail_after(DEADLINE_S):
        await child.run()
    assert record.count("front 0 started") == 1
    assert "front 0 found damaged data and stays down; the rest of the node serves" in caplog.text


async def test_a_child_in_a_crash_loop_is_said_so_once_a_try(record, nursery, caplog, impatient):
    child = fake(record, "crash")
    nursery.start_soon(child.run)
    await record.until("front 0 started", times=6)
    with trio.fail_after(DEADLINE_S):
        while "it keeps dying" not in caplog.text:
            await trio.sleep(0.005)
    assert caplog.messages.count("front 0 exited with 1; starting it again in 0.0 s") == 5
    # It waits 10 s now; a stop must not.
    with trio.fail_after(5):
        await stopped(child)
    assert record.count("front 0 started") == 6


async def test_a_command_that_can_not_be_run_is_tried_again(nursery, caplog, impatient):
    child = Child("front 0", Program(("/nonexistent/python",), b"{}"))
    nursery.start_soon(child.run)
    with trio.fail_after(DEADLINE_S):
        while caplog.text.count("front 0 can't be started") < 3:
            await trio.sleep(0.005)
    await stopped(child)


async def test_a_killed_child_is_gone_for_good_and_known_to_be_killed(record, nursery):
    child = fake(record, "stubborn")
    nursery.start_soon(child.run)
    await record.until("front 0 started")
    child.stop()
    child.kill()
    with trio.fail_after(DEADLINE_S):
        await child.gone.wait()
    assert child.was_killed
    assert record.count("front 0 started") == 1


@pytest.mark.parametrize("killed", [False, True])
async def test_what_is_said_while_the_process_is_made_reaches_it(record, monkeypatch, killed):
    child = fake(record, "serve")
    open_process = trio.lowlevel.open_process

    async def open_and_say(*arguments, **options):
        process = await open_process(*arguments, **options)
        child.kill() if killed else child.stop()
        return process

    monkeypatch.setattr(trio.lowlevel, "open_process", open_and_say)
    with trio.fail_after(DEADLINE_S):
        await child.run()
    assert child.was_killed is killed
    assert record.count("front 0 started") <= 1


async def test_no_process_is_left_when_the_supervisor_is_cancelled(record):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake(record, "stubborn").run)
        await record.until("front 0 started")
        nursery.cancel_scope.cancel()
    assert not alive(record.pids("front 0")[0])


async def test_what_a_child_prints_beside_the_protocol_is_logged(record, nursery, caplog):
    caplog.set_level(logging.INFO)
    child = fake(record, "chatty")
    nursery.start_soon(child.run)
    with trio.fail_after(DEADLINE_S):
        await child.serving.wait()
    assert "front 0 printed b'something else'" in caplog.messages
    await stopped(child)


@pytest.mark.parametrize(
    ("status", "words"),
    [(1, "exited with 1"), (-9, "was ended by SIGKILL"), (-200, "was ended by signal 200")],
)
def test_an_exit_is_described_in_words(status, words):
    assert describe_exit(status) == words
