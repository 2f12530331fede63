"""A running partition's files, copied while they change and go away."""

import os
from pathlib import Path

import pytest

from partitions import copying as under_test
from partitions.copying import Copied, FilesChangeError, copying, copying_file, files_of
from partitions.errors import CorruptLogError
from partitions.log import Sizes
from partitions.record import RECORD_MAGIC, SEAL_MAGIC
from tests.support.hand_node import HandNode

TINY = Sizes(segment_bytes=1024, extent_bytes=512, reserve_bytes=256)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A partition with several segments."""
    node = HandNode(tmp_path / "data", 1, TINY)
    path = tmp_path / "data" / "p-0000"
    while len(files_of(path)) < 5 or records_in(path / files_of(path)[-1]) < 3:
        node.submit(7, b"payload " * 10, 1, "owner")
    node.close()
    return path


def records_in(segment: Path) -> int:
    return segment.read_bytes().count(RECORD_MAGIC)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "copy"
    path.mkdir()
    return path


def copy(source: Path, target: Path, *, link: bool = True) -> Copied:
    copied = Copied()
    list(copying(source, target, copied, link=link))
    return copied


def links(path: Path) -> dict[str, int]:
    return {name: (path / name).stat().st_nlink for name in files_of(path)}


def test_all_but_the_newest_segment_are_links_and_that_one_ends_with_its_records(source, target):
    copied = copy(source, target)
    *older, newest = files_of(source)
    assert links(target) == dict.fromkeys(older, 2) | {newest: 1}
    assert copied.files == len(older) + 1
    assert copied.linked_bytes == sum((source / name).stat().st_size for name in older)
    written = (target / newest).read_bytes()
    assert (source / newest).read_bytes().startswith(written)
    assert copied.copied_bytes == len(written) < (source / newest).stat().st_size


def test_with_copies_nothing_is_shared(source, target):
    copied = copy(source, target, link=False)
    assert set(links(target).values()) == {1}
    assert copied.linked_bytes == 0
    for name in files_of(source)[:-2]:
        assert (target / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize("error", [PermissionError(1, "no"), OSError(18, "other device")])
def test_where_no_link_can_be_made_there_is_a_copy(source, target, monkeypatch, error):
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "link", refuse)
    copied = copy(source, target)
    assert copied.linked_bytes == 0
    assert files_of(target) == files_of(source)


def test_a_disk_that_fails_is_not_taken_for_one_without_links(source, target, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(OSError, match="Input/output"):
        copy(source, target)


def test_a_segment_that_is_retired_once_it_is_open_is_in_the_copy(source, target, monkeypatch):
    names = files_of(source)
    content = {name: (source / name).read_bytes() for name in names}
    real = os.link

    def retired(old: Path, new: Path) -> None:
        old.unlink()
        real(old, new)

    monkeypatch.setattr(os, "link", retired)
    copied = copy(source, target)
    assert files_of(source) == names[-1:]
    assert files_of(target) == names
    assert copied.linked_bytes == 0
    assert (target / names[0]).read_bytes() == content[names[0]]


def test_another_file_under_the_same_name_is_not_linked(source, target, monkeypatch):
    first = files_of(source)[0]
    content = (source / first).read_bytes()
    real = os.link

    def replaced(old: Path, new: Path) -> None:
        if old.name == first:
            old.unlink()
            old.write_bytes(b"another")
        real(old, new)

    monkeypatch.setattr(os, "link", replaced)
    copy(source, target)
    assert (target / first).read_bytes() == content


def test_a_file_that_goes_between_listing_and_opening_brings_a_new_listing(
    source, target, monkeypatch
):
    first, *rest = files_of(source)
    gone = iter([[first, *rest], rest])
    (source / first).unlink()
    monkeypatch.setattr(under_test, "files_of", lambda _: next(gone))
    copy(source, target)
    monkeypatch.undo()
    assert files_of(target) == rest
    assert len(os.listdir("/proc/self/fd")) < 100


def test_files_that_always_go_are_an_error_in_the_end(source, target, monkeypatch):
    monkeypatch.setattr(under_test, "files_of", lambda _: ["0000000099.seg"])
    with pytest.raises(FilesChangeError, match="keep going away"):
        copy(source, target)


def test_a_partition_that_never_ran_has_no_files(tmp_path, target):
    assert copy(tmp_path / "none", target) == Copied()


class Torn:
    """Readings of a growing segment in which the first ones mix old pages with new ones."""

    def __init__(self, path: Path, mixed: int) -> None:
        self.whole = path.read_bytes()
        # The first record's page is old, those behind it are new.
        self.mixture = self.whole[:100] + bytes(60) + self.whole[160:]
        self.left = mixed
        self.readings = 0

    def __call__(self, _: int) -> bytes:
        self.readings += 1
        if self.readings <= self.left:
            return self.mixture
        return self.whole


def test_a_reading_between_two_writes_is_done_again(source, target, monkeypatch):
    newest = files_of(source)[-1]
    torn = Torn(source / newest, mixed=3)
    monkeypatch.setattr(under_test, "_read", torn)
    monkeypatch.setattr(under_test, "_REREAD_S", 0)
    copy(source, target)
    assert torn.readings >= 4
    assert torn.whole.startswith((target / newest).read_bytes())
    assert len((target / newest).read_bytes()) > 160


def test_damage_is_still_there_when_it_is_read_again(source, target, monkeypatch):
    newest = files_of(source)[-1]
    monkeypatch.setattr(under_test, "_read", Torn(source / newest, mixed=10**6))
    monkeypatch.setattr(under_test, "_REREAD_S", 0)
    with pytest.raises(CorruptLogError, match="offset 64"):
        copy(source, target)


def test_a_torn_tail_is_cut_off(source, target, monkeypatch):
    monkeypatch.setattr(under_test, "_REREAD_S", 0)
    newest = files_of(source)[-1]
    copy(source, target)
    whole = (target / newest).read_bytes()
    (target / newest).unlink()
    (source / newest).write_bytes(whole + RECORD_MAGIC + b"torn")
    for name in files_of(target):
        (target / name).unlink()
    copy(source, target)
    assert (target / newest).read_bytes() == whole


def test_a_seal_of_the_newest_segment_is_cut_off_and_one_before_it_stays(source, target):
    sealed, newest = files_of(source)[-2:]
    (source / newest).unlink()
    copy(source, target, link=False)
    assert SEAL_MAGIC in (source / sealed).read_bytes()
    assert SEAL_MAGIC not in (target / sealed).read_bytes()
    before = files_of(source)[-2]
    assert SEAL_MAGIC in (target / before).read_bytes()


def test_one_file_is_copied_byte_for_byte(tmp_path):
    content = os.urandom(5 << 20)
    (tmp_path / "a").write_bytes(content)
    assert sum(copying_file(tmp_path / "a", tmp_path / "b")) == len(content)
    assert (tmp_path / "b").read_bytes() == content
