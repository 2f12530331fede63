"""What a node's processes used: CPU seconds and writes, by process, from /proc.

Process titles say which is which (``queue-node: partition 0``). CPU time there counts in
steps of 10 ms, which over seconds of load is well below 1 %.
"""

import os
import re
from pathlib import Path
from typing import Final

import msgspec

_PROC: Final = Path("/proc")
_TITLE: Final = re.compile(r"queue-node: (supervisor|partition|front)( \d+)?")
_MODULES: Final = {"partitions": "partition", "api": "front", "queue_node": "supervisor"}


class ProcessUse(msgspec.Struct):
    """Totals of one process since its start, or what they grew by."""

    name: str
    kind: str
    cpu_s: float
    write_calls: int
    """``write``-like calls on anything but sockets: in a partition nearly all are commits.

    Not the bytes: the kernel counts a whole large folio for each small write into it."""


Use = dict[int, ProcessUse]
"""By process id."""


def use_of_tree(root: int) -> Use:
    """The process ``root`` and all below it; those that end meanwhile are left out."""
    parents = {pid: _parent(pid) for pid in _process_ids()}
    wanted = {root}
    grown = True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in wanted}
        grown = not below <= wanted
        wanted |= below
    found = {pid: _use(pid) for pid in sorted(wanted)}
    return {pid: use for pid, use in found.items() if use is not None}


def grown(before: Use, after: Use) -> list[ProcessUse]:
    """What each process of ``after`` used since ``before``, in order of name."""
    uses = []
    for pid, now in after.items():
        then = before.get(pid, ProcessUse(now.name, now.kind, 0.0, 0))
        uses.append(
            ProcessUse(
                now.name,
                now.kind,
                now.cpu_s - then.cpu_s,
                now.write_calls - then.write_calls,
            )
        )
    return sorted(uses, key=lambda use: use.name)


def listener_of(port: int) -> int | None:
    """The oldest process here that listens on TCP ``port``: the supervisor, when it is a node.

    None when there is none, or it is not ours to look into.
    """
    inodes = _listening_inodes(port)
    owners = [pid for pid in _process_ids() if _holds_socket(pid, inodes)]
    # The supervisor is the one whose parent does not hold the socket.
    roots = [pid for pid in owners if _parent(pid) not in owners]
    return roots[0] if len(roots) == 1 else None


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    return inodes


def _holds_socket(pid: int, inodes: set[str]) -> bool:
    try:
        return any(os.readlink(link) in inodes for link in (_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return False  # it ended, or belongs to somebody else


def _process_ids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _stat_fields(pid: int) -> list[str] | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold anything, parentheses too: count from behind it.
    return stat.rpartition(")")[2].split()


def _parent(pid: int) -> int | None:
    fields = _stat_fields(pid)
    return None if fields is None else int(fields[1])


def _use(pid: int) -> ProcessUse | None:
    fields = _stat_fields(pid)
    if fields is None:
        return None
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    try:
        name, kind = _name_and_kind(pid)
        io = (_PROC / str(pid) / "io").read_text(encoding="ascii")
    except OSError:
        return None
    counters = dict(line.split(": ") for line in io.splitlines())
    return ProcessUse(name, kind, cpu_s, int(counters["syscw"]))


def _name_and_kind(pid: int) -> tuple[str, str]:
    raw = (_PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace")
    words = raw.strip("\0").split("\0")
    title = _TITLE.match(words[0])
    if title is not None:
        return title[0].removeprefix("queue-node: "), title[1]
    if "-m" in words[:-1]:
        kind = _MODULES.get(words[words.index("-m") + 1])
        if kind is not None:
            return f"{kind} (process {pid})", kind
    return f"other (process {pid})", "other"
