"""A dry run of backup, restore and reshard: refuses what the real one refuses, changes nothing."""

import json
import os
from functools import partial
from pathlib import Path

import pytest

from queue_node import cli, reshard
from queue_node.directory import hold
from queue_node.node_file import read_node_file
from queue_node.progress import stages
from tests.support.hand_node import HandNode
from tests.support.stopping import Stopping


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small node that is stopped."""
    node = HandNode(tmp_path / "data", 2)
    for number in range(20):
        node.submit(number * 3000, b"payload", 2, "owner")
    node.close()
    return tmp_path / "data"


def typed(*words: object) -> int:
    return cli.main([str(word) for word in words])


def everything_in(path: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(each): (each.stat().st_mode, each.read_bytes() if each.is_file() else b"")
        for each in path.rglob("*")
    }


def commands(data: Path) -> dict[str, list[object]]:
    return {
        "backup": ["backup", data.parent / "saved", "--directory", data],
        "reshard": ["reshard", "--partitions", 3, "--directory", data],
    }


def damage(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("command", ["backup", "reshard"])
def test_a_dry_run_refuses_a_damaged_header_as_the_real_one_does(data, command, capsys):
    damage(min((data / "p-0001").glob("*.seg")), 30)
    before = everything_in(data.parent)
    assert typed(*commands(data)[command], "--dry-run") == 1
    assert "segment header is damaged" in capsys.readouterr().err
    assert everything_in(data.parent) == before
    assert typed(*commands(data)[command]) == 1


def test_a_dry_run_of_a_reshard_refuses_any_damage_to_the_log(data, capsys):
    damage(min((data / "p-0000").glob("*.seg")), 100)
    assert typed(*commands(data)["reshard"], "--dry-run") == 1
    assert "`queue-node verify` tells more" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["backup", "reshard"])
def test_a_dry_run_refuses_a_partition_whose_log_is_gone(data, command, capsys):
    (data / "p-0001.made").touch()
    for segment in (data / "p-0001").glob("*.seg"):
        segment.unlink()
    assert typed(*commands(data)[command], "--dry-run") == 1
    assert "this partition has run before" in capsys.readouterr().err


def test_a_dry_run_of_a_reshard_refuses_a_node_that_runs(data, capsys):
    with hold(str(data)):
        before = everything_in(data)
        assert typed(*commands(data)["reshard"], "--dry-run") == 4
        assert f"is in use by another node (process {os.getpid()})" in capsys.readouterr().err
        assert everything_in(data) == before
    assert typed(*commands(data)["reshard"], "--dry-run") == 0


@pytest.mark.parametrize("command", ["backup", "reshard", "restore"])
def test_a_dry_run_refuses_where_there_is_no_room(data, command, monkeypatch, capsys):
    saved = data.parent / "made"
    assert typed("backup", saved, "--directory", data) == 0
    words = {**commands(data), "restore": ["restore", saved, "--directory", data.parent / "new"]}
    assert typed(*words[command], "--dry-run") == 0
    monkeypatch.setattr("queue_node.offline.free_bytes", lambda _: 10)
    assert typed(*words[command], "--dry-run") == 4
    assert "10 bytes are free" in capsys.readouterr().err


def test_a_dry_run_of_a_reshard_writes_nothing_and_says_what_it_needs(data, capsys):
    before = everything_in(data)
    assert typed(*commands(data)["reshard"], "--dry-run", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["needed_bytes"] >= 20 * len(b"payload")
    assert (report["count"], report["finished"]) == (None, False)
    assert everything_in(data) == before


def reshard_to(data: Path, partitions: int) -> None:
    with stages(quiet=True) as bars:
        reshard.reshard(reshard.plan(data, partitions), bars)


def test_a_reshard_that_finishes_a_cut_short_one_says_so_and_counts(data, capsys):
    for at in range(1000):
        stopping = Stopping(at)
        stopping.run(partial(reshard_to, data, 3))
        node = read_node_file(data)
        assert node is not None
        if node.moving:
            break
    assert stopping.halted
    before = everything_in(data)
    assert typed(*commands(data)["reshard"], "--dry-run") == 0
    assert "would be finished first" in capsys.readouterr().out
    assert everything_in(data) == before
    assert typed(*commands(data)["reshard"]) == 0
    out = capsys.readouterr().out
    assert "those of a reshard that was cut short were finished" in out
    assert "not touched" not in out
    assert "20 READY" in out
    assert typed(*commands(data)["reshard"]) == 0
    assert "not touched: it has so many partitions already" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["backup", "restore", "reshard"])
def test_help_says_what_a_dry_run_does_not_find_out(command, capsys):
    with pytest.raises(SystemExit):
        typed(command, "--help")
    assert "`queue-node verify" in " ".join(capsys.readouterr().out.split())


def test_a_digest_stands_in_one_line_of_80_columns(data, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert typed(*commands(data)["reshard"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [each for each in lines if each.startswith("digest")]
    assert len(line.split()[1]) == 64
