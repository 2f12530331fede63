"""SIGKILL of real processes under load, and what clients may see of it.

Zero violations in n kills means fewer than about 3/n at 95 %: the suite kills a dozen times
each run, the figure grows with every run.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.support.history import History, View, violations
from tests.support.load import Load
from tests.support.node import Response, RunningNode
from tests.support.polling import wait_until

JOB = b'{"payload": "text"}'
LEASE_MS = 1000
WORKERS = 4
SETTLED_BETWEEN_KILLS = 150
NodeMaker = Callable[..., RunningNode]

ROUNDS = (
    "partition 0",
    "front 0",
    "everything",
    "partition 1",
    "front 1",
    "partition 0",
    "everything",
    "partition 1",
)


def quick_node(make_node: NodeMaker, **environment: str) -> RunningNode:
    """A node whose leases and retries are short."""
    lasting = {
        "LEASE_DURATION": f"{LEASE_MS}ms",
        "LEASE_CHECK_INTERVAL": "200ms",
        "RETRY_BACKOFF": "50ms",
        "RETRY_BACKOFF_MAX": "200ms",
    }
    return make_node(**(lasting | environment))


def strike(node: RunningNode, target: str) -> None:
    """Kill, and wait until the node serves again."""
    kind, _, number = target.partition(" ")
    if kind == "everything":
        node.kill()
        node.start()
        return
    before = processes(node)
    kill = node.kill_partition if kind == "partition" else node.kill_front
    node.wait_restarted(kill(int(number)))
    after = processes(node)
    assert {who for who in before if before[who] != after[who]} == {target}, "others died too"


def processes(node: RunningNode) -> dict[str, int]:
    fronts = {f"front {number}": pid for number, pid in node.fronts.items()}
    return fronts | {f"partition {number}": pid for number, pid in node.partitions.items()}


def work_through(node: RunningNode, targets: tuple[str, ...]) -> Load:
    """Put load on the node, kill the targets one after the other, finish all work."""
    with Load(node, workers=WORKERS, lease_ms=LEASE_MS) as load:
        for target in targets:
            goal = load.settled + SETTLED_BETWEEN_KILLS
            wait_until(partial(made_progress, load, goal), what="progress")
            strike(node, target)
        load.stop_submitting()
        finish(load)
    assert not load.faults, load.faults
    load.read_all()
    return load


def made_progress(load: Load, goal: int) -> bool:
    return load.settled >= goal or bool(load.faults)


def finish(load: Load) -> None:
    left = load.accepted

    def nothing_left() -> bool:
        nonlocal left
        left = load.unfinished(left)
        return not left or bool(load.faults)

    wait_until(nothing_left, what="the end of all jobs")


def found_in(history: History, lost_leases_max: int) -> list[str]:
    return violations(history, lease_ms=LEASE_MS, lost_leases_max=lost_leases_max)


def lost_leases_max(load: Load, kills: int) -> int:
    # A kill can also take a lease that its front then passed over, one for each worker.
    return load.lost_leases + kills * WORKERS


def test_kills_under_load_lose_nothing_and_repeat_nothing(make_node: NodeMaker) -> None:
    node = quick_node(make_node).start()
    load = work_through(node, ROUNDS)
    history = load.history
    assert len(load.accepted) > len(ROUNDS) * SETTLED_BETWEEN_KILLS / 3
    # Each connection that was open when everything was killed is one.
    assert load.unanswered > 0, "no kill hit a request"
    assert any(lease.attempt > 1 for lease in history.leases), "nothing was ever retried"
    assert found_in(history, lost_leases_max(load, len(ROUNDS))) == []
    assert node.stop() == 0
    check_that_the_checker_checks(history, lost_leases_max(load, len(ROUNDS)))


def check_that_the_checker_checks(history: History, allowed: int) -> None:
    """Negative control: the same history, falsified as a node that loses things would."""
    acked = next(each for each in history.reports if each.status == 200 and not each.failed)
    view = next(each for each in history.views if each.job_id == acked.job_id)
    lease = next(each for each in history.leases if each.job_id == acked.job_id)
    others = [each for each in history.views if each is not view]
    falsified = {
        "a job lost": replace(history, views=[*others, View(view.job_id, None)]),
        "an ack lost": replace(history, views=[*others, replace(view, state="RETRY")]),
        "another result": replace(history, views=[*others, replace(view, result="x")]),
        "leased again": replace(
            history,
            leases=[*history.leases, replace(lease, token=1 << 40, attempt=view.attempts + 1)],
        ),
    }
    for what, wrong in falsified.items():
        assert found_in(wrong, allowed), what


def test_a_node_that_does_lose_its_jobs_is_found_out(make_node: NodeMaker) -> None:
    # The control of the whole arrangement: one partition's log disappears in a crash, and with it
    # the mark that there was one, without which the partition takes itself for a new one.
    node = quick_node(make_node).start()
    with Load(node, workers=WORKERS, lease_ms=LEASE_MS) as load:
        goal = SETTLED_BETWEEN_KILLS
        wait_until(partial(made_progress, load, goal), what="progress")
    assert not load.faults, load.faults
    node.kill()
    for segment in (node.data / "p-0000").glob("*.seg"):
        segment.unlink()
    (node.data / "p-0000.made").unlink()
    node.start()
    load.read_all()
    found = found_in(load.history, lost_leases_max(load, 1))
    assert any(each.endswith(": lost") for each in found)
    assert any("got 200, but it is" in each for each in found)


# The supervisor ----------------------------------------------------------------------------


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "XZ"
    except OSError:
        return True


def answered(node: RunningNode, method: str, path: str, body: object = None) -> Response:
    """What it answers when it no longer says 503: fronts find their partitions one by one."""
    answers: list[Response] = []

    def is_definite() -> bool:
        answers.append(node.request(method, path, key="client", json_body=body))
        return answers[-1].status != 503

    wait_until(is_definite, what=f"an answer to {method} {path}")
    return answers[-1]


def submit(node: RunningNode, payload: str = "text") -> str:
    answer = answered(node, "POST", "/jobs", {"payload": payload})
    assert answer.status == 201, answer
    job_id: str = answer.json["job_id"]
    return job_id


def state_of(node: RunningNode, job_id: str) -> str:
    answer = answered(node, "GET", f"/jobs/{job_id}")
    assert answer.status == 200, answer
    state: str = answer.json["state"]
    return state


def test_without_their_supervisor_the_children_end_by_themselves(make_node: NodeMaker) -> None:
    node = make_node().start()
    job_id = submit(node)
    children = [*node.fronts.values(), *node.partitions.values()]
    assert len(children) == 4
    node.signal(signal.SIGKILL)
    node.wait()
    wait_until(lambda: all(map(gone, children)), what="the end of the children")
    node.start()
    assert state_of(node, job_id) == "READY"
    submit(node)


def test_a_new_node_takes_over_from_orphans_that_still_end(make_node: NodeMaker) -> None:
    node = make_node().start()
    for _ in range(2):
        job_id = submit(node)
        node.signal(signal.SIGKILL)
        node.wait()
        node.start()
        assert state_of(node, job_id) == "READY"


# A partition that hangs ------------------------------------------------------------------------


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing inside the block, and does not know it; it may be killed there."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def partition_of(job_id: str) -> int:
    return int(job_id[-4:], 16) >> 15


@pytest.fixture
def two_homes(make_node: NodeMaker) -> tuple[RunningNode, list[str], list[str]]:
    """A node, and jobs of each of its two partitions."""
    node = quick_node(make_node, LEASE_DURATION="1h").start()
    homes: tuple[list[str], list[str]] = ([], [])
    while min(map(len, homes)) < 5:
        job_id = submit(node)
        homes[partition_of(job_id)].append(job_id)
    return node, *homes


def test_a_partition_that_hangs_does_not_hold_up_the_jobs_of_the_other(
    two_homes: tuple[RunningNode, list[str], list[str]],
) -> None:
    node, theirs, ours = two_homes
    with stopped(node.partitions[0]):
        for job_id in ours:
            assert state_of(node, job_id) == "READY"
            refused = node.request("POST", f"/jobs/{job_id}/ack", key="worker")
            assert refused.status == 400
    for job_id in theirs:
        assert state_of(node, job_id) == "READY"


def test_a_partition_that_hangs_is_503_and_the_node_goes_on_without_it(
    two_homes: tuple[RunningNode, list[str], list[str]],
) -> None:
    node, theirs, ours = two_homes

    def read_through_every_front() -> set[int]:
        # Each finds out for itself.
        answers = node.ask_every_front("GET", f"/jobs/{theirs[0]}", key="client")
        # A read has changed nothing: it may be sent again.
        assert all("retry-after" in answer.headers for answer in answers)
        return {answer.status for answer in answers}

    with stopped(node.partitions[0]):
        assert read_through_every_front() == {503}
        listed = node.request("GET", "/jobs", key="client")
        assert (listed.status, "retry-after" in listed.headers) == (503, True)
        assert {each.status for each in node.ask_every_front("GET", "/ready")} == {503}
        new = [node.request("POST", "/jobs", key="client", body=JOB) for _ in range(20)]
        assert {answer.status for answer in new} == {201}
        assert {partition_of(answer.json["job_id"]) for answer in new} == {1}
        for _ in range(len(ours) + 20):
            leased = node.request("POST", "/jobs/lease", key="worker")
            assert leased.status == 200
            assert partition_of(leased.json["job_id"]) == 1
        # Whether there is more, nobody can say now.
        assert node.request("POST", "/jobs/lease", key="worker").status == 503
    for job_id in theirs:
        assert state_of(node, job_id) == "READY"
    assert node.stop() == 0
