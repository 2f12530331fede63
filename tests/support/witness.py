"""All that a partition commits, as it commits it: what must be there after whatever happens.

A record is all of a batch or nothing, so a partition that starts again is what the records make
whose commit returned, or these and the one that was under way. In every respect: options, groups,
attempts, who holds what until when, order of leasing, paused queues, texts.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from partitions.events import Event
from partitions.job import EMPTY_AT, Job
from partitions.kinds import KindKey
from partitions.log import Log
from partitions.state import PartitionState
from tests.support.driver import Driver, snapshot

Group = tuple[list[bytes], bytes | None, bytes | None]


class Whole(msgspec.Struct, frozen=True):
    """A state, whatever its kinds are numbered and in what order the same moment is kept."""

    jobs: dict[bytes, tuple[KindKey, Job]]
    groups: dict[tuple[str, str], Group]
    """``{(queue, group): (its jobs in order, the one offered, the one running)}``."""
    live: dict[int, int]
    rest: dict[str, Any]


def whole(state: PartitionState) -> Whole:
    """All of ``state`` that a restart must bring back."""
    found = snapshot(state)
    rest = {name: getattr(found, name) for name in found.__struct_fields__ if name != "jobs"}
    due_ms = {each: job.due_ms for each, job in found.jobs.items()}
    # Those that ended in the same millisecond are forgotten together.
    rest["finished"] = {
        each: sorted((due_ms[job], job) for job in queue) for each, queue in found.finished.items()
    }
    kinds = state.jobs.kinds
    return Whole(
        {
            each: (kinds[job.kind].key, msgspec.structs.replace(job, kind=0))
            for each, job in found.jobs.items()
        },
        {
            (queue.name, name): (
                [job.job_id for job in group.members],
                None if group.offered is None else group.offered.job_id,
                None if group.running is None else group.running.job_id,
            )
            for queue in kinds.queues.values()
            for name, group in queue.groups.items()
        },
        dict(state.jobs.live.by_segment),
        rest,
    )


def differences(found: Whole, wanted: Whole) -> list[str]:
    """Where one is not the other, in words."""
    wrong = [
        f"job {each.hex()} is {found.jobs.get(each)}, not {wanted.jobs.get(each)}"
        for each in found.jobs.keys() | wanted.jobs.keys()
        if found.jobs.get(each) != wanted.jobs.get(each)
    ]
    if found.groups != wanted.groups:
        wrong.append(f"groups are {found.groups}, not {wanted.groups}")
    if found.live != wanted.live:
        wrong.append(f"live texts are {found.live}, not {wanted.live}")
    return wrong + [
        f"{name} is {found.rest[name]}, not {wanted.rest[name]}"
        for name in wanted.rest
        if found.rest[name] != wanted.rest[name]
    ]


def replayed(records: Sequence[Sequence[Event]]) -> PartitionState:
    """The state that the events make."""
    state = PartitionState()
    for events in records:
        for event in events:
            state.evolve(event)
    return state


class Witness:
    """Sees every record that logs commit, and every text, and whether the commit returned."""

    def __init__(self) -> None:
        self.records: list[list[Event]] = []
        self.texts: dict[int, bytes] = {}
        self.committed = 0
        """Records whose commit returned; the others may be there, or not."""
        self._made: dict[int, Whole] = {}

    def watch(self, log: Log) -> None:
        """See what this one commits from now on."""
        commit, put = log.commit, log.put

        def watched(events: Sequence[Event], now_ms: int) -> None:
            self.records.append(list(events))
            commit(events, now_ms)
            self.committed = len(self.records)

        def kept(text: bytes) -> int:
            position = put(text)
            self.texts[position] = text
            return position

        log.commit, log.put = watched, kept  # type: ignore[method-assign]

    def losses(self, found: Driver) -> list[str]:
        """What a partition that started again is not, in words; empty is good.

        No time may have passed in ``found``.
        """
        got = whole(found.state)
        wrong = differences(got, self.after(self.committed))
        if wrong and self.committed < len(self.records):
            wrong = differences(got, self.after(len(self.records)))
        return wrong or self._wrong_texts(found)

    def after(self, records: int) -> Whole:
        """The state that the first so many records make."""
        if records not in self._made:
            self._made[records] = whole(replayed(self.records[:records]))
        return self._made[records]

    def _wrong_texts(self, found: Driver) -> list[str]:
        return [
            f"a text of job {job.job_id.hex()} is another"
            for job in found.state.jobs.order
            for position in (job.payload_at, job.outcome_at)
            if position > EMPTY_AT and found.log.read(position) != self.texts[position]
        ]
