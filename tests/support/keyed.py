"""Idempotency keys of jobs with a group, as a front places them: where the claim is, and the job.

With a key's home and its group's partition known, a test can stop one of them and so hold a submit
before either of its two steps.
"""

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from api.placement import Placement
from api.submit_schemas import Submit
from partitions.clock import SystemClock
from partitions.slots import format_job_id, make_job_id, partition_of, slot_of
from queue_node.node_file import partition_name
from tests.support.node import RunningNode

_OWNER = re.compile(r"Created client key: \S+ \(owner: (\S+)\)")


class Keyed:
    """What a node with so many partitions makes of the keys and groups of its client."""

    def __init__(self, node: RunningNode, partitions: int) -> None:
        self._node = node
        self._partitions = partitions
        self._placement = Placement([], SystemClock())
        owner = _OWNER.search(node.log)
        assert owner is not None
        self._owner = owner[1]

    def keys_of(self, home: int, queue: str) -> Iterator[str]:
        """Idempotency keys whose claims belong there, without end."""
        for key in map("k{}".format, count()):
            if self._partition(slot_of(self.key_id(queue, key))) == home:
                yield key

    def groups_of(self, partition: int, queue: str) -> Iterator[str]:
        """Names of groups whose jobs belong there, without end."""
        for name in map("g{}".format, count()):
            if self._partition(self._placement.group_slot(_submit(queue, group=name))) == partition:
                yield name

    def key_id(self, queue: str, key: str) -> bytes:
        """What the key's home knows it by."""
        return self._placement.key_id(self._owner, _submit(queue, key=key))

    def times_logged(self, queue: str, key: str, partition: int) -> int:
        """How often the log of a partition names the key: when it is claimed, when it is let go."""
        key_id, folder = self.key_id(queue, key), self._node.data / partition_name(partition)
        return sum(_read(path).count(key_id) for path in folder.glob("*.seg"))

    def nobody_in(self, partition: int) -> str:
        """The id of no job, which that partition is asked for."""
        slots = range(1 << 16)
        slot = next(each for each in slots if self._partition(each) == partition)
        return format_job_id(make_job_id(0, 0, slot))

    def _partition(self, slot: int) -> int:
        return partition_of(slot, self._partitions)


def _submit(queue: str, *, key: str = "", group: str = "") -> Submit:
    return Submit(b"", 0, queue, b"", group=group, idempotency_key=key)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""  # it has just been retired
