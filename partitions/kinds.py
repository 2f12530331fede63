"""What very many jobs have in common, once: owner, attempts, options. Pure.

A **kind** is found by the bytes of its options, its owner and its attempts, and numbered. The
numbers mean nothing outside of this process and its snapshots: the log has the options
themselves. A kind without jobs stays for a while, for the next job is often the same again.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from partitions.options import decode_options
from partitions.queues import Queue

_IDLE_MAX: Final = 4096
"""Kinds without jobs, at most."""


class Kind:
    """Jobs that differ in nothing but payload, time and ``Own``."""

    __slots__ = (
        "attempts_max",
        "backoff",
        "index",
        "jobs",
        "key",
        "lease_ms",
        "max_retries",
        "options",
        "owner",
        "priority",
        "queue",
        "retention_ms",
        "tags",
    )  # fmt: skip

    def __init__(self, index: int, key: "KindKey", queue: Queue) -> None:
        options = decode_options(key.options)
        self.index = index
        self.key = key
        self.options = key.options
        self.owner = key.owner
        self.max_retries = key.max_retries
        self.attempts_max = max(1, key.max_retries)
        """``max_retries`` counts attempts; 0 and 1 both mean one."""
        self.queue = queue
        self.priority = options.priority
        self.lease_ms = options.lease_ms
        self.backoff = options.backoff
        self.tags = options.tags
        self.retention_ms = options.retention_ms
        self.jobs = 0


class KindKey(msgspec.Struct, frozen=True, array_like=True):
    """What a kind is found by."""

    options: bytes
    owner: str
    max_retries: int


class NumberedKind(msgspec.Struct, frozen=True, array_like=True):
    """A kind in a snapshot."""

    index: int
    key: KindKey


class Kinds:
    """All kinds, and the queues that they belong to."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self._by_key: dict[tuple[bytes, str, int], Kind] = {}
        self._by_index: list[Kind | None] = []
        self._free: list[int] = []
        self._idle: dict[int, Kind] = {}
        """Those that have no jobs."""

    def __getitem__(self, index: int) -> Kind:
        kind = self._by_index[index]
        assert kind is not None, "a job has a kind that is gone"
        return kind

    def __iter__(self) -> Iterator[Kind]:
        return (kind for kind in self._by_index if kind is not None)

    def of(self, options: bytes, owner: str, max_retries: int) -> Kind:
        """The kind of such jobs, made if it is new.

        Raises:
            msgspec.MsgspecError: the bytes are no options.
        """
        kind = self._by_key.get((options, owner, max_retries))
        if kind is None:
            key = KindKey(options, owner, max_retries)
            index = self._free[-1] if self._free else len(self._by_index)
            kind = self._put(index, key)
            if self._free:
                self._free.pop()
        return kind

    def known(self, options: bytes, owner: str, max_retries: int) -> Kind | None:
        """The kind of such jobs, if there is one."""
        return self._by_key.get((options, owner, max_retries))

    def hold(self, kind: Kind, jobs: int = 1) -> None:
        """Jobs of this kind came."""
        if kind.jobs == 0:
            del self._idle[kind.index]
        kind.jobs += jobs

    def let_go(self, kind: Kind, *, keep: bool) -> None:
        """A job of this kind is gone. ``keep``: no number may be given anew just now."""
        kind.jobs -= 1
        if kind.jobs == 0:
            self._idle[kind.index] = kind
            if len(self._idle) > _IDLE_MAX and not keep:
                self.drop_idle()

    def all(self) -> list[Kind | None]:
        """All that there are now; as long as numbers are kept, those that a snapshot needs."""
        return self._by_index.copy()

    def restore(self, numbered: list[NumberedKind]) -> None:
        """Take over those of a snapshot; this table must be fresh.

        Raises:
            msgspec.MsgspecError: the options of one are none.
        """
        for each in numbered:
            self._by_index += [None] * (each.index + 1 - len(self._by_index))
            self._put(each.index, each.key)
        self._free = [index for index, kind in enumerate(self._by_index) if kind is None]

    def queue(self, name: str) -> Queue:
        """The queue of that name, made if it is new."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name)
        return queue

    def _put(self, index: int, key: KindKey) -> Kind:
        queue = self.queue(decode_options(key.options).queue)
        kind = Kind(index, key, queue)
        queue.kinds += 1
        self._idle[index] = kind
        self._by_key[key.options, key.owner, key.max_retries] = kind
        if index == len(self._by_index):
            self._by_index.append(kind)
        else:
            self._by_index[index] = kind
        return kind

    def drop_idle(self) -> None:
        """Let go of those that have no jobs; not while a snapshot is taken."""
        for kind in self._idle.values():
            del self._by_key[kind.options, kind.owner, kind.max_retries]
            self._by_index[kind.index] = None
            self._free.append(kind.index)
            kind.queue.kinds -= 1
            self.drop_if_idle(kind.queue)
        self._idle.clear()

    def drop_if_idle(self, queue: Queue) -> None:
        """Let a queue go of which there is nothing to know."""
        if queue.kinds == 0 and not queue.paused:
            del self.queues[queue.name]
