"""The data directory: private, locked, made with one number of partitions."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from queue_node.directory import hold
from queue_node.errors import DirectoryError, ExitCode


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def private_files():
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_missing_directory_is_made_with_all_above_it_and_for_the_owner_only(tmp_path):
    path = tmp_path / "a" / "b"
    with hold(str(path)) as directory:
        assert directory.path == path
        assert mode_of(path) == 0o700
        assert mode_of(path / "lock") == 0o600
        assert mode_of(directory.runtime) == 0o700
        assert not directory.after_a_crash


def test_the_runtime_directory_has_short_paths_and_goes_with_the_node(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with hold(str(tmp_path / "data")) as directory:
        assert directory.runtime.is_dir()
        assert len(os.fsencode(directory.partition_socket(1023))) <= 107
    assert not directory.runtime.exists()
    assert list(deep.iterdir()) == []


def test_a_relative_directory_is_below_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hold("./data") as directory:
        assert directory.path == tmp_path / "data"


def test_a_second_node_is_refused_and_told_who_holds_the_directory(tmp_path):
    with hold(str(tmp_path)), pytest.raises(DirectoryError) as caught, hold(str(tmp_path)):
        pass
    assert str(caught.value) == (
        f"WAL_DIR={tmp_path} is in use by another node (process {os.getpid()})"
    )
    assert caught.value.exit_code is ExitCode.DIRECTORY


def test_the_directory_is_free_again_when_the_node_has_ended(tmp_path):
    with hold(str(tmp_path)):
        pass
    with hold(str(tmp_path)) as directory:
        assert not directory.after_a_crash


KILLED = """
import os, signal, sys
from queue_node.directory import hold
with hold(sys.argv[1]) as directory:
    print(directory.runtime, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_kill_the_directory_is_free_and_the_dead_nodes_sockets_go(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    left = Path(done.stdout.strip())
    assert left.is_dir()
    with hold(str(tmp_path)) as directory:
        assert directory.after_a_crash
        assert not left.exists()


def test_only_a_runtime_directory_is_removed_after_a_kill(tmp_path):
    bystander = tmp_path / "precious"
    bystander.mkdir()
    data = tmp_path / "data"
    data.mkdir()
    (data / "lock").write_text(f'{{"pid": 1, "runtime": "{bystander}"}}')
    with hold(str(data)) as directory:
        assert directory.after_a_crash
    assert bystander.is_dir()


def test_others_lose_their_permissions_on_our_own_directory(tmp_path, caplog):
    path = tmp_path / "data"
    path.mkdir()
    path.chmod(0o755)
    with hold(str(path)):
        assert mode_of(path) == 0o700
    assert f"WAL_DIR={path} had mode 0755, changed to 0700" in caplog.messages
    path.chmod(0o770)
    with hold(str(path)):
        assert mode_of(path) == 0o700


def test_a_new_file_system_counts_as_empty(tmp_path):
    (tmp_path / "lost+found").mkdir()
    tmp_path.chmod(0o755)
    with hold(str(tmp_path)):
        assert mode_of(tmp_path) == 0o700


def test_a_directory_with_files_of_others_is_not_touched(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    tmp_path.chmod(0o755)
    with (
        pytest.raises(DirectoryError, match="mode 0755 and files of somebody else"),
        hold(str(tmp_path)),
    ):
        pass
    assert mode_of(tmp_path) == 0o755
    assert [entry.name for entry in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("below", ["", "/data"])
def test_a_file_in_the_way_is_named(tmp_path, below):
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(DirectoryError, match="not a directory"), hold(f"{in_the_way}{below}"):
        pass


def test_where_no_directory_can_be_made_is_said_in_one_line():
    # Not even root can make one here.
    with pytest.raises(DirectoryError) as caught, hold("/sys/queue-node"):
        pass
    assert str(caught.value).startswith("WAL_DIR=/sys/queue-node can't be used: ")


def test_a_new_directory_gets_the_number_asked_for_or_the_default(tmp_path):
    with hold(str(tmp_path / "a")) as directory:
        assert directory.settle_partitions(3, default=1) == 3
        assert not (directory.path / "node.json").exists()
        directory.keep_partitions(3)
        assert (directory.path / "node.json").read_text() == '{"format":1,"partitions":3}\n'
    with hold(str(tmp_path / "b")) as directory:
        assert directory.settle_partitions(None, default=5) == 5


def test_a_directory_keeps_its_number_when_nobody_asks_for_another(tmp_path):
    with hold(str(tmp_path)) as directory:
        directory.keep_partitions(3)
        assert directory.settle_partitions(None, default=8) == 3
        assert directory.settle_partitions(3, default=8) == 3


def test_another_number_of_partitions_is_refused_with_both_numbers(tmp_path):
    with hold(str(tmp_path)) as directory:
        directory.keep_partitions(3)
        directory.partition_path(0).mkdir()
        with pytest.raises(DirectoryError, match=r"made with PARTITIONS=3 .* with PARTITIONS=4"):
            directory.settle_partitions(4, default=1)


def test_a_directory_in_which_no_partition_ran_takes_another_number(tmp_path):
    with hold(str(tmp_path)) as directory:
        directory.keep_partitions(3)
        assert directory.settle_partitions(4, default=1) == 4
        directory.keep_partitions(4)
        assert directory.settle_partitions(None, default=1) == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is damaged"),
        ('{"format":1}', "is damaged"),
        ('{"format":1,"partitions":0}', "is damaged: partitions=0"),
        ('{"format":2,"partitions":1}', "has format 2; this version knows 1"),
    ],
)
def test_a_node_file_that_is_not_ours_is_refused(tmp_path, content, words):
    with hold(str(tmp_path)) as directory:
        (tmp_path / "node.json").write_text(content)
        with pytest.raises(DirectoryError, match=words):
            directory.settle_partitions(None, default=1)


def test_partitions_without_a_node_file_are_not_counted_by_guessing(tmp_path):
    with hold(str(tmp_path)) as directory:
        directory.partition_path(0).mkdir()
        with pytest.raises(DirectoryError, match=r"node\.json is missing, but there are"):
            directory.settle_partitions(None, default=1)


def test_every_partition_has_a_directory_and_a_socket_of_its_own(tmp_path):
    with hold(str(tmp_path)) as directory:
        assert directory.partition_path(0) == tmp_path / "p-0000"
        assert directory.partition_path(11) == tmp_path / "p-0011"
        assert directory.partition_socket(0) != directory.partition_socket(1)
        assert directory.keystore_path.parent == tmp_path
