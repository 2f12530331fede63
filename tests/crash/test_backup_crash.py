"""Backups beside a partition that goes on, and backups and restores that are killed.

The partition runs on a real disk whose operations are counted. At any of them a backup may
begin, and each operation lets every backup under way do one step: so files are sealed,
replaced and retired between any two steps of a backup.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from partitions.checkpoint import Checkpoints
from partitions.copying import Copied, copying
from partitions.disk import File, RealDisk
from partitions.job import EMPTY_AT
from partitions.log import Sizes, identity_of
from queue_node import backup, restore
from queue_node.backup_file import read_backup_file
from queue_node.census import Count
from queue_node.directory import hold
from queue_node.errors import DirectoryError
from queue_node.node_file import partition_name
from queue_node.progress import stages
from tests.property.test_reshard import EVERY_STATE, filled_node, jobs_in
from tests.support.driver import START_MS
from tests.support.hand_node import HandPartition, opened
from tests.support.mixed import Mixed
from tests.support.points import LONG, Points
from tests.support.stopping import Stopping
from tests.support.witness import Witness, differences, whole

TINY = Sizes(segment_bytes=1024, extent_bytes=512, reserve_bytes=256)
GROWTH_BYTES = 700
BATCHES = 60
EVERY = 1 if LONG else 3
"""A backup begins at every so many operations."""


class HookedDisk(RealDisk):
    """A real disk that says so before it changes anything."""

    def __init__(self, hook: Callable[[], None]) -> None:
        self._hook = hook

    def create(self, path: Path) -> File:
        self._hook()
        return cast("File", HookedFile(super().create(path), self._hook))

    def open(self, path: Path, *, writable: bool = False) -> File:
        return cast("File", HookedFile(super().open(path, writable=writable), self._hook))

    def rename(self, old: Path, new: Path) -> None:
        self._hook()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._hook()
        super().remove(path)

    def sync_directory(self, path: Path) -> None:
        self._hook()
        super().sync_directory(path)


class HookedFile:
    """One of its files."""

    def __init__(self, file: File, hook: Callable[[], None]) -> None:
        self._file = file
        self._hook = hook

    def write(self, data: bytes, offset: int) -> None:
        self._hook()
        self._file.write(data, offset)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class OneBackup:
    """A backup under way, and what clients had been told when it began."""

    def __init__(self, source: Path, target: Path, witness: Witness, link: bool) -> None:
        self.target = target
        self._witness = witness
        self._committed = witness.committed
        self.copied = Copied()
        target.mkdir()
        self.steps: Iterator[int] = copying(source, target, self.copied, link=link)

    def step(self) -> bool:
        """Whether there is more to do."""
        return next(self.steps, None) is not None

    def losses(self) -> list[str]:
        """It is the partition as it was at some moment, and not one before it began."""
        found = opened(RealDisk(), self.target.parent, 0, 1, TINY)
        try:
            records = found.log.next_lsn - 1
            if records < self._committed:
                return [f"it holds {records} records, {self._committed} were there"]
            wanted = self._witness.after(records)
            return differences(whole(found.state), wanted) or wrong_texts(self._witness, found)
        finally:
            found.log.close()


def wrong_texts(witness: Witness, found: HandPartition) -> list[str]:
    return [
        f"a text of job {job.job_id.hex()} is another"
        for job in found.state.jobs.order
        for at in (job.payload_at, job.outcome_at)
        if at > EMPTY_AT and found.log.read(at) != witness.texts[at]
    ]


class Beside:
    """A partition with a client, and backups that are made of it meanwhile."""

    def __init__(self, folder: Path, *, link: bool) -> None:
        self.folder = folder
        self.directory = folder / "data" / partition_name(0)
        self.link = link
        self.operations = 0
        self.witness = Witness()
        self.under_way: list[OneBackup] = []
        self.done: list[OneBackup] = []
        self._quiet = True
        self._client = Mixed(5, 10_000, (1, 30, 100))

    def hook(self) -> None:
        """Before each operation of the partition."""
        if self._quiet:
            return
        self.operations += 1
        if self.operations % EVERY == 0:
            target = self.folder / f"backup-{self.operations}" / partition_name(0)
            target.parent.mkdir()
            self.under_way.append(OneBackup(self.directory, target, self.witness, self.link))
        self.advance()

    def advance(self) -> None:
        for each in list(self.under_way):
            if not each.step():
                self.under_way.remove(each)
                self.done.append(each)

    def play(self) -> None:
        disk = HookedDisk(self.hook)
        partition = opened(disk, self.folder / "data", 0, 1, TINY)
        checkpoints = Checkpoints(
            disk,
            self.directory,
            identity_of(0, 1),
            partition.state.jobs,
            partition.log,
            growth_bytes_min=GROWTH_BYTES,
            step_jobs=5,
            duty=0,
        )
        self.witness.watch(partition.log)
        self._quiet = False
        for number in range(BATCHES):
            now_ms = START_MS + 3 * number
            for command in self._client.batch(now_ms):
                self._client.hear([partition.step(command, now_ms)])
                checkpoints.step(now_ms)
        self._quiet = True
        while self.under_way:
            self.advance()
        partition.log.close()


@pytest.mark.parametrize("link", [True, False], ids=["links", "copies"])
def test_a_backup_begun_at_any_operation_holds_all_that_was_told_before(
    tmp_path: Path, points: Points, link: bool
) -> None:
    beside = Beside(tmp_path, link=link)
    Stopping().run(beside.play)
    numbers = [int(path.stem) for path in beside.directory.glob("*.seg")]
    assert len(numbers) < max(numbers) - 3, "nothing retired"
    assert len(beside.done) > 20
    assert max(each.copied.files for each in beside.done) > 5
    assert any(each.copied.linked_bytes for each in beside.done) is link
    losses = []
    Stopping().run(lambda: losses.extend([each.losses() for each in beside.done]))
    assert losses == [[]] * len(beside.done)
    points.add("backup begun between two operations of a partition", len(beside.done))


# Killed ----------------------------------------------------------------------------------


def back_up(source: Path, target: Path) -> None:
    with stages(quiet=True) as bars:
        backup.back_up(backup.plan(source, target, link=True), link=True, bars=bars)


def bring_back(source: Path, target: Path) -> None:
    with stages(quiet=True) as bars:
        restore.restore(restore.plan(source, target), bars)


def test_a_backup_that_is_killed_anywhere_is_no_backup_and_the_next_one_is(
    tmp_path: Path, points: Points
) -> None:
    source = tmp_path / "data"
    filled_node(source, 2, EVERY_STATE)
    expected = jobs_in(source)
    at = 0
    while True:
        target = tmp_path / f"backup-{at}"
        stopping = Stopping(at)
        stopping.run(partial(back_up, source, target))
        if not target.exists():
            Stopping().run(partial(back_up, source, target))
        assert not target.with_name(f"{target.name}.part").exists()
        assert read_backup_file(target).count == expected
        if not stopping.halted:
            break
        at += 1
    assert at > 20
    points.add("backup killed before an operation", at)


def test_a_restore_that_is_killed_anywhere_is_run_again_and_is_not_served_before(
    tmp_path: Path, points: Points
) -> None:
    source, saved = tmp_path / "data", tmp_path / "backup"
    filled_node(source, 2, EVERY_STATE)
    expected = jobs_in(source)
    back_up(source, saved)
    at = refused = 0
    while True:
        target = tmp_path / f"restored-{at}"
        stopping = Stopping(at)
        stopping.run(partial(bring_back, saved, target))
        if stopping.halted:
            refused += is_refused(target, expected)
            again(saved, target)
        assert jobs_in_quietly(target) == expected
        shutil.rmtree(target)
        if not stopping.halted:
            break
        at += 1
    assert refused > 20
    points.add("restore killed before an operation", at)


def again(saved: Path, target: Path) -> None:
    """Restore into what a killed restore left, unless it had ended: then it is refused."""
    if target.exists() and (target / "node.json").exists() and not (target / "restoring").exists():
        return
    Stopping().run(partial(bring_back, saved, target))


def is_refused(target: Path, expected: Count) -> bool:
    """Whether no node would serve it; if one would, then everything is there, or nothing yet."""
    if not target.exists() or not {each.name for each in target.iterdir()} - {"lock"}:
        return False
    try:
        with hold(str(target)) as directory:
            directory.settle_partitions(None, 1)
    except DirectoryError as error:
        return "run `queue-node restore` again" in str(error)
    assert jobs_in_quietly(target) == expected
    return False


def jobs_in_quietly(path: Path) -> Count:
    found: list[Count] = []
    Stopping().run(lambda: found.append(jobs_in(path)))
    return found[0]
