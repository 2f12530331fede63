"""Counting the jobs of a whole data directory or backup: see ``partitions.census``."""

from pathlib import Path
from typing import Final

import msgspec

from partitions.census import Census, counting
from partitions.disk import RealDisk
from partitions.errors import CorruptLogError
from partitions.log import identity_of
from queue_node.errors import NodeError
from queue_node.node_file import partition_name
from queue_node.progress import Stages

_disk: Final = RealDisk()


class Count(msgspec.Struct, frozen=True):
    """What jobs there are."""

    jobs: int
    states: dict[str, int]
    """``{READY: ...}``, every state."""
    digest: str
    """The same for the same jobs with the same texts, in whatever partitions they are."""
    unreadable: int
    """Texts that do not read back as they were written."""


def count_of(census: Census) -> Count:
    """The figures of a census."""
    states = {state.name: count for state, count in census.states.items()}
    return Count(census.jobs, states, census.digest, len(census.unreadable))


def count_jobs(folder: Path, partitions: int, stages: Stages, what: str) -> tuple[Count, list[str]]:
    """``(the jobs of the partitions in folder, warnings)``; changes nothing, reads all.

    Raises:
        NodeError: a partition would not start.
    """
    census = Census()
    warnings: list[str] = []
    with stages.stage(what, partitions) as stage:
        for number in range(partitions):
            directory = folder / partition_name(number)
            steps = counting(_disk, directory, identity_of(number, partitions), census)
            try:
                found = stage.follow(steps, number)
            except CorruptLogError as error:
                raise NodeError(f"the log is corrupt: {error}") from error
            warnings += [f"bad snapshot: {bad}" for bad in found.bad_snapshots]
    warnings += [f"unreadable text: {error}" for error in census.unreadable]
    return count_of(census), warnings


def rows_of(count: Count) -> list[tuple[str, str]]:
    """For people."""
    states = ", ".join(f"{number:,} {name}" for name, number in count.states.items() if number)
    return [("jobs", f"{count.jobs:,}"), ("states", states or "none"), ("digest", count.digest)]
