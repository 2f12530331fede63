"""The order of system calls: nothing is answered before it is on disk. Proof without a crash.

strace watches a front and its partition while clients submit and ack, many at once. For each
``201`` and each ``200`` of an ack: the record that holds the job was written, then the file was
synced, and that sync had returned before the answer began to leave.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.support.node import RunningNode
from tests.support.points import LONG, Points
from tests.support.strace import Strace, needs_strace

JOBS = 2_000 if LONG else 120
CLIENTS = 12

_LINE = re.compile(
    r"(?P<pid>\d+)\s+(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>\w+)\()(?P<rest>.*)"
)


class Call(NamedTuple):
    """A system call in the order of strace's lines: when it began, and when it was over."""

    pid: int
    name: str
    text: str
    began: int
    ended: int


def calls_in(lines: list[str]) -> list[Call]:
    """Calls that strace saw begin; those that another process interrupted are put together."""
    open_calls: dict[tuple[int, str], tuple[int, str]] = {}
    found = []
    for number, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None:
            continue
        pid, rest = int(match["pid"]), match["rest"]
        if match["resumed"]:
            began, text = open_calls.pop((pid, match["resumed"]))
            found.append(Call(pid, match["resumed"], text + rest, began, number))
        elif rest.endswith("<unfinished ...>"):
            open_calls[pid, match["call"]] = number, rest
        else:
            found.append(Call(pid, match["call"], rest, number, number))
    return sorted(found, key=lambda call: call.began)


def hexed(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


class Order:
    """What strace wrote, to be asked when something was on disk and when it was told."""

    def __init__(self, lines: list[str]) -> None:
        calls = calls_in(lines)
        segment = hexed(b".seg") + ">"
        self._writes = [c for c in calls if c.name == "pwrite64" and segment in c.text]
        self._syncs = [
            c for c in calls if c.name == "fdatasync" and segment in c.text and "= 0" in c.text
        ]
        self._sends = [c for c in calls if c.name == "sendto"]

    def durable_at(self, what: str) -> int:
        """Number of the line at which the first write that holds it had been synced."""
        write = next(call for call in self._writes if what in call.text)
        sync = next(c for c in self._syncs if c.pid == write.pid and c.began > write.ended)
        return sync.ended

    def next_200_after_writing(self, what: str) -> int:
        """Number of the line at which the next ``200`` began to leave."""
        write = next(call for call in self._writes if what in call.text)
        ok = hexed(b"HTTP/1.1 200")
        return next(c.began for c in self._sends if c.began > write.began and ok in c.text)

    def told_at(self, *what: str) -> int:
        """Number of the line at which an answer with all of this began to leave."""
        return next(c.began for c in self._sends if all(each in c.text for each in what))


def too_early(order: Order, told: list[tuple[str, str]]) -> list[str]:
    """Of ``(what was written, what was told)`` those that were told first."""
    return [
        what
        for what, answer in told
        if order.told_at(hexed(b"HTTP/1.1 20"), answer) <= order.durable_at(what)
    ]


def told_in(node: RunningNode) -> Iterator[tuple[str, str]]:
    """Work on the node; what must be in the log, and what is in the answer that says so."""

    def submit(index: int) -> tuple[str, str]:
        body = {"payload": f"the payload number {index:06}."}
        answer = node.request("POST", "/jobs", key="client", json_body=body)
        assert answer.status == 201
        return body["payload"], answer.json["job_id"]

    with ThreadPoolExecutor(CLIENTS) as pool:
        for payload, job_id in pool.map(submit, range(JOBS)):
            yield hexed(payload.encode()), hexed(job_id.encode())


def test_every_201_leaves_after_the_sync_of_its_job(tmp_path: Path, points: Points):
    needs_strace()
    node = RunningNode(tmp_path, {"PARTITIONS": "1", "FRONTS": "1"})
    out = tmp_path / "order"
    try:
        node.start()
        pids = [node.partitions[0], node.fronts[0]]
        calls = "pwrite64,fdatasync,sendto"
        with Strace(out, pids, calls, more=("-y", "-xx", "-s", "100000")) as strace:
            told = list(told_in(node))
            acked = acks_in(node)
        order = Order(strace.lines)
        assert len(told) == JOBS
        assert too_early(order, told) == []
        assert acked_too_early(order, acked) == []
    finally:
        node.close()
    points.add("node: a 201 or 200 seen to follow its sync", len(told) + len(acked))
    check_the_checker(strace.lines, told)


def acks_in(node: RunningNode) -> list[str]:
    """Ack some jobs, one after the other; their results."""
    results = []
    for index in range(JOBS // 4):
        leased = node.request("POST", "/jobs/lease", key="worker").json
        result = f"the result number {index:06}."
        body = {"lease_token": leased["lease_token"], "result": result}
        path = f"/jobs/{leased['job_id']}/ack"
        assert node.request("POST", path, key="worker", json_body=body).status == 200
        results.append(hexed(result.encode()))
    return results


def acked_too_early(order: Order, results: list[str]) -> list[str]:
    """Results whose ack was answered between their write and its sync.

    The answer to an ack is empty; they were asked for one by one, so the next that leaves after
    the write is the one.
    """
    return [
        result
        for result in results
        if order.next_200_after_writing(result) <= order.durable_at(result)
    ]


def check_the_checker(lines: list[str], told: list[tuple[str, str]]) -> None:
    """The control: the same lines without the syncs of the first half, and it must complain."""
    half = len(lines) // 2
    without = [
        line for number, line in enumerate(lines) if "fdatasync" not in line or number > half
    ]
    assert too_early(Order(without), told)
