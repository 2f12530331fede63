"""A partition that has run and has no file any more: what each command makes of it."""

import shutil
from pathlib import Path

import pytest

from partitions.disk import RealDisk
from partitions.errors import CorruptLogError
from partitions.made import is_made, mark_made, mark_of
from queue_node import backup, repair, reshard, restore
from queue_node.directory import hold
from queue_node.dump import lines_of
from queue_node.errors import DirectoryError, NodeError
from queue_node.node_file import KEYS, NODE, marks_of, partition_name
from queue_node.progress import stages
from queue_node.verify import verify
from tests.support.hand_node import HandNode, opened

WORDS = "this partition has run before"
_disk = RealDisk()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two partitions of a node that has run and is stopped."""
    node = HandNode(tmp_path / "data", 2)
    for number in range(20):
        node.submit(number * 3000, b"payload", 2, "owner")
    node.close()
    mark_all(node.path, 2)
    return node.path


def mark_all(path: Path, partitions: int) -> None:
    """What a start of the node leaves behind."""
    for number in range(partitions):
        mark_made(_disk, path / partition_name(number))


def lose(data: Path, number: int) -> None:
    shutil.rmtree(data / partition_name(number))


def start(path: Path, partitions: int) -> int:
    """What each partition does at its start; how many jobs there are."""
    jobs = 0
    for number in range(partitions):
        partition = opened(_disk, path, number, partitions)
        partition.log.close()
        jobs += len(partition.state)
    mark_all(path, partitions)
    return jobs


def reshard_to(data: Path, partitions: int) -> None:
    with stages(quiet=True) as bars:
        reshard.reshard(reshard.plan(data, partitions), bars)


def back_up(data: Path, target: Path) -> None:
    with stages(quiet=True) as bars:
        backup.back_up(backup.plan(data, target, link=True), link=True, bars=bars)


def repair_to(data: Path, target: Path) -> repair.Report:
    with stages(quiet=True) as bars:
        return repair.repair(data, target, dry_run=False, bars=bars)


def test_a_start_refuses_it_and_only_it(data):
    lose(data, 1)
    opened(_disk, data, 0, 2).log.close()
    with pytest.raises(CorruptLogError, match=WORDS):
        opened(_disk, data, 1, 2)


def test_a_directory_from_before_there_were_marks_starts_and_has_them_then(data):
    for mark in marks_of(data).values():
        mark.unlink()
    assert start(data, 2) == 20
    assert sorted(marks_of(data)) == [0, 1]


def test_verify_and_dump_say_it(data):
    lose(data, 1)
    (data / partition_name(1)).mkdir()
    with stages(quiet=True) as bars:
        report = verify(data, deep=False, bars=bars)
    (fault,) = report.partitions[1].faults
    assert WORDS in fault.what
    assert "queue-node repair" in fault.advice
    assert report.partitions[0].faults == []
    with pytest.raises(CorruptLogError, match=WORDS):
        list(lines_of(data, 1, 2, 1, texts=False))


def test_it_is_neither_backed_up_nor_resharded(data, tmp_path):
    lose(data, 1)
    (data / partition_name(1)).mkdir()
    with pytest.raises(NodeError, match=WORDS):
        back_up(data, tmp_path / "saved")
    with pytest.raises(NodeError, match=WORDS):
        reshard_to(data, 3)
    assert not (tmp_path / "saved").exists()
    assert verify_is_good(data, 0)


def verify_is_good(data: Path, number: int) -> bool:
    with stages(quiet=True) as bars:
        return not verify(data, deep=True, bars=bars).partitions[number].faults


def test_repair_keeps_the_others_and_its_copy_starts(data, tmp_path):
    lose(data, 1)
    report = repair_to(data, tmp_path / "repaired")
    assert [each.damaged for each in report.partitions] == [False, True]
    assert report.partitions[1].gaps
    assert start(tmp_path / "repaired", 2) == report.partitions[0].jobs > 0
    assert sorted(marks_of(tmp_path / "repaired")) == [0, 1]


def test_a_backup_has_no_marks_and_what_is_restored_from_it_starts(data, tmp_path):
    back_up(data, tmp_path / "saved")
    assert marks_of(tmp_path / "saved") == {}
    with stages(quiet=True) as bars:
        restore.restore(restore.plan(tmp_path / "saved", tmp_path / "again"), bars)
    assert start(tmp_path / "again", 2) == 20
    lose(tmp_path / "again", 0)
    with pytest.raises(CorruptLogError, match=WORDS):
        opened(_disk, tmp_path / "again", 0, 2)


@pytest.mark.parametrize("counts", [(1, 3, 2), (3, 1, 3), (4, 4, 1)])
def test_resharded_from_any_number_to_any_it_starts_and_has_the_marks_of_its_own(data, counts):
    for count in counts:
        reshard_to(data, count)
        assert all(number < count for number in marks_of(data))
        assert start(data, count) == 20
        assert sorted(marks_of(data)) == list(range(count))
    lose(data, count - 1)
    with pytest.raises(CorruptLogError, match=WORDS):
        opened(_disk, data, count - 1, count)


def test_a_directory_whose_partitions_are_all_gone_takes_no_other_number(data):
    lose(data, 0)
    lose(data, 1)
    with hold(str(data)) as directory:
        assert directory.settle_partitions(None, 7) == 2
        with pytest.raises(DirectoryError, match="made with PARTITIONS=2"):
            directory.settle_partitions(3, 7)
    (data / NODE).unlink()
    with hold(str(data)) as directory, pytest.raises(DirectoryError, match="there are partitions"):
        directory.settle_partitions(None, 7)


def test_other_names_are_no_marks(data):
    for name in (f"{KEYS}.made", "p-1.made", "p-0002.made.old"):
        (data / name).touch()
    assert marks_of(data) == {number: mark_of(data / partition_name(number)) for number in (0, 1)}
    assert is_made(_disk, data / partition_name(0))
    assert not is_made(_disk, data / partition_name(2))
