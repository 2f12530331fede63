"""What backup, restore and reshard refuse, and in which words; what they say they did."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.keys import mint
from api.keystore import open_keystore
from api.keystore.base import NewKey
from queue_node import backup, cli, reshard, restore
from queue_node.backup_keys import copy_keys
from queue_node.directory import hold
from queue_node.errors import DirectoryError, ExitCode, NodeError
from queue_node.node_file import FORMAT, NodeFile, write_node_file
from queue_node.progress import stages
from tests.support.hand_node import HandNode


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small node that is stopped, with one key."""
    node = HandNode(tmp_path / "data", 2)
    for number in range(20):
        node.submit(number * 3000, b"payload", 2, "owner")
    node.close()
    (tmp_path / "data" / "keys.sqlite").touch(mode=0o600)
    store = open_keystore(None, str(tmp_path / "data" / "keys.sqlite"), None)
    store.create(NewKey(mint("client"), "name", "owner", 1))
    store.close()
    return tmp_path / "data"


def back_up(data: Path, target: Path) -> tuple[backup.Report, list[str]]:
    with stages(quiet=True) as bars:
        return backup.back_up(backup.plan(data, target, link=True), link=True, bars=bars)


def bring_back(saved: Path, target: Path) -> restore.Report:
    with stages(quiet=True) as bars:
        return restore.restore(restore.plan(saved, target), bars)


def reshard_to(data: Path, partitions: int) -> reshard.Report:
    with stages(quiet=True) as bars:
        return reshard.reshard(reshard.plan(data, partitions), bars)


@contextmanager
def nobody_may(path: Path) -> Iterator[None]:
    """Nobody may look into ``path``, and we are nobody (root may look into everything)."""
    mode, user = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


def everything_in(path: Path) -> dict[str, Any]:
    return {str(each): each.read_bytes() if each.is_file() else None for each in path.rglob("*")}


def test_the_three_say_what_they_did(data, tmp_path):
    made, warnings = back_up(data, tmp_path / "saved")
    assert warnings == []
    assert (made.keys, made.partitions, made.dry_run) == (1, 2, False)
    assert made.count is not None
    assert made.count.states["READY"] == made.count.jobs == 20
    assert json.loads((tmp_path / "saved" / "backup.json").read_text())["count"]["jobs"] == 20
    assert bring_back(tmp_path / "saved", tmp_path / "again").count == made.count
    assert reshard_to(data, 3).count == made.count
    assert reshard_to(data, 3).count is None, "there is nothing to do"
    again = back_up(data, tmp_path / "third")[0]
    assert again.count == made.count


def test_a_dry_run_of_any_changes_nothing(data, tmp_path):
    back_up(data, tmp_path / "saved")
    before = everything_in(tmp_path)
    assert backup.plan(data, tmp_path / "other", link=True).copied_bytes > 0
    assert restore.plan(tmp_path / "saved", tmp_path / "new").copied_bytes > 0
    assert reshard.plan(data, 5).old_bytes > 0
    assert everything_in(tmp_path) == before


def test_where_no_node_has_run_all_refuse(tmp_path):
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(DirectoryError, match="no node has run here"):
            backup.plan(missing, tmp_path / "saved", link=True)
        with pytest.raises(DirectoryError, match="no node has run here"):
            reshard.plan(missing, 2)
        with pytest.raises(DirectoryError, match=r"is no backup: there is no backup\.json"):
            restore.plan(missing, tmp_path / "new")


def test_a_directory_that_may_not_be_looked_into_is_one_line(data, tmp_path):
    with nobody_may(data.parent), pytest.raises(DirectoryError, match="can't be used: Permission"):
        backup.plan(data, tmp_path / "saved", link=True)


def test_a_name_that_is_too_long_is_one_line(data):
    with pytest.raises(NodeError, match="File name too long"):
        backup.plan(data.parent / ("x" * 300), data.parent / "saved", link=True)
    with pytest.raises(NodeError, match="File name too long"):
        back_up(data, data.parent / ("x" * 300))


def test_a_backup_goes_where_nothing_is_and_not_into_the_data(data, tmp_path):
    (tmp_path / "saved").mkdir()
    with pytest.raises(NodeError, match="exists: a backup is a new directory") as caught:
        backup.plan(data, tmp_path / "saved", link=True)
    assert caught.value.exit_code is ExitCode.USAGE
    with pytest.raises(NodeError, match="is inside the data directory"):
        backup.plan(data, data / "saved", link=True)


def test_what_is_in_the_way_of_a_backup_is_left_alone(data, tmp_path):
    (tmp_path / "saved.part").mkdir()
    (tmp_path / "saved.part" / "holiday.jpg").touch()
    with pytest.raises(NodeError, match=r"holiday\.jpg in it is not of a backup"):
        back_up(data, tmp_path / "saved")


def test_a_backup_that_fails_leaves_nothing(data, tmp_path):
    newest = max((data / "p-0001").glob("*.seg"))
    content = bytearray(newest.read_bytes())
    content[30] ^= 1
    newest.write_bytes(bytes(content))
    with pytest.raises(NodeError, match="segment header is damaged"):
        back_up(data, tmp_path / "saved")
    assert [each.name for each in tmp_path.iterdir()] == ["data"]


def test_a_reshard_that_is_not_finished_is_not_backed_up(data, tmp_path):
    write_node_file(data, NodeFile(FORMAT, 3, moving=True))
    with pytest.raises(DirectoryError, match="reshard --partitions 3 --directory"):
        backup.plan(data, tmp_path / "saved", link=True)


def test_a_restore_goes_into_an_empty_directory_only(data, tmp_path):
    back_up(data, tmp_path / "saved")
    target = tmp_path / "new"
    target.mkdir()
    (target / "lost+found").mkdir()
    bring_back(tmp_path / "saved", target)
    with pytest.raises(DirectoryError, match="is not empty"):
        restore.plan(tmp_path / "saved", target)
    with pytest.raises(NodeError, match="lie in each other"):
        restore.plan(tmp_path / "saved", tmp_path / "saved" / "new")


def test_a_backup_that_rotted_is_not_restored_and_the_directory_not_served(data, tmp_path):
    back_up(data, tmp_path / "saved")
    about = tmp_path / "saved" / "backup.json"
    about.write_text(about.read_text().replace('"digest": "', '"digest": "0'))
    with pytest.raises(NodeError, match=r"is damaged: it holds 20 jobs"):
        bring_back(tmp_path / "saved", tmp_path / "new")
    with (
        hold(str(tmp_path / "new")) as directory,
        pytest.raises(DirectoryError, match="run `queue-node restore` again"),
    ):
        directory.settle_partitions(None, 1)


@pytest.mark.parametrize("content", ["{", '{"format": 9, "partitions": 1}'])
def test_a_backup_file_that_is_not_ours_is_refused(tmp_path, content):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "backup.json").write_text(content)
    with pytest.raises(DirectoryError, match=r"backup\.json is damaged"):
        restore.plan(tmp_path / "saved", tmp_path / "new")


def test_a_backup_is_restored_and_never_worked_on(data, tmp_path):
    back_up(data, tmp_path / "saved")
    before = everything_in(tmp_path / "saved")
    with pytest.raises(DirectoryError, match=r"is a backup: `queue-node restore .*saved "):
        reshard.plan(tmp_path / "saved", 3)
    with (
        pytest.raises(DirectoryError, match=r"is a backup: `queue-node restore .*saved "),
        hold(str(tmp_path / "saved")),
    ):
        pass
    assert everything_in(tmp_path / "saved") == before


def test_a_log_that_does_not_check_says_what_to_do(data, tmp_path):
    (segment,) = (data / "p-0001").glob("*.seg")
    with segment.open("r+b") as file:
        file.seek(100)
        file.write(b"!!")
    for tool in (lambda: back_up(data, tmp_path / "saved"), lambda: reshard_to(data, 3)):
        with pytest.raises(
            NodeError, match=r"\.seg: offset \d+: .*; `queue-node verify` tells more"
        ):
            tool()


@pytest.mark.parametrize("partitions", ["x", "", "0", "-3", "1025", "1.5"])
def test_a_number_of_partitions_that_is_none_is_said_in_words(partitions, capsys):
    with pytest.raises(SystemExit):
        cli.main(["reshard", f"--partitions={partitions}"])
    assert f"{partitions!r} is not a number from 1 to 1024" in capsys.readouterr().err


def test_a_disk_without_room_is_noticed_before_anything_is_written(data, tmp_path, monkeypatch):
    back_up(data, tmp_path / "saved")
    before = everything_in(tmp_path)
    monkeypatch.setattr("queue_node.offline.free_bytes", lambda _: 10)
    for action in (
        lambda: back_up(data, tmp_path / "other"),
        lambda: bring_back(tmp_path / "saved", tmp_path / "new"),
        lambda: reshard_to(data, 3),
    ):
        with pytest.raises(DirectoryError, match=r"needs .*, 10 bytes are free"):
            action()
    before.pop(str(data / "lock"), None)
    after = everything_in(tmp_path)
    after.pop(str(data / "lock"), None)
    assert after == before


def test_a_node_that_runs_is_not_resharded(data):
    with hold(str(data)), pytest.raises(DirectoryError, match="is in use by another node"):
        reshard_to(data, 3)


def test_keys_are_copied_while_somebody_writes_them(data, tmp_path):
    writer = sqlite3.connect(data / "keys.sqlite", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE keys SET name = 'half'")
    assert copy_keys(data / "keys.sqlite", tmp_path / "copy.sqlite") == 1
    writer.execute("COMMIT")
    writer.close()
    copy = sqlite3.connect(tmp_path / "copy.sqlite")
    assert copy.execute("SELECT name FROM keys").fetchall() == [("name",)]
    copy.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy.sqlite", "data"]


def test_without_a_key_store_there_is_none_in_the_copy(tmp_path):
    assert copy_keys(tmp_path / "none", tmp_path / "copy.sqlite") is None
    assert not (tmp_path / "copy.sqlite").exists()


def test_a_key_store_that_is_none_is_said_in_one_line(tmp_path):
    (tmp_path / "keys.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(NodeError, match=r"key store .*keys\.sqlite: file is not a database"):
        copy_keys(tmp_path / "keys.sqlite", tmp_path / "copy.sqlite")
