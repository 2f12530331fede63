"""Snapshot files: there and back, and what is no snapshot."""

import errno
import struct
from collections.abc import Generator
from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from partitions.job import Job, State
from partitions.jobs import Jobs, Piece, StateHead
from partitions.kinds import KindKey, NumberedKind
from partitions.positions import make_position
from partitions.slots import make_claim
from partitions.snapshot import (
    MAGIC,
    BadSnapshotError,
    SnapshotHead,
    SnapshotWriter,
    load_snapshot,
    read_head,
    snapshot_lsns,
    snapshot_name,
    write_pieces,
)
from tests.support.fake_disk import FakeDisk, Faults, survivals

DIRECTORY = Path("/data")
JOBS = 25
PAYLOAD_AT = make_position(1, 64, 100)
KIND = NumberedKind(0, KindKey(b"", "owner", 3))


def job(number: int) -> Job:
    return Job(number.to_bytes(16, "big"), number, PAYLOAD_AT, 0, State.READY)


def head(jobs: int = JOBS, lsn: int = 42) -> SnapshotHead:
    return SnapshotHead(1, 0, 512, lsn, 9, 2, StateHead(jobs, jobs, 7, ["paused"], {1: 100}))


def written(disk: FakeDisk, of: SnapshotHead | None = None) -> Path:
    disk.make_directory(DIRECTORY)
    writer = SnapshotWriter(disk, DIRECTORY, of or head())
    writer.add(Piece([KIND], []))
    for first in range(1, JOBS + 1, 10):
        writer.add(Piece([], [job(number) for number in range(first, min(first + 10, JOBS + 1))]))
    writer.finish()
    return DIRECTORY / snapshot_name((of or head()).lsn)


def loaded(disk: FakeDisk, path: Path) -> tuple[SnapshotHead, Jobs, list[float]]:
    jobs, shares = Jobs(), []

    def run() -> Generator[float, None, SnapshotHead]:
        return (yield from load_snapshot(disk, path, jobs))

    steps = run()
    while True:
        try:
            shares.append(next(steps))
        except StopIteration as end:
            return end.value, jobs, shares


def frames(*bodies: bytes) -> bytes:
    crc, data = 0, MAGIC
    for body in bodies:
        crc = crc32(body, crc)
        data += struct.pack("<II", len(body), crc) + body
    return data


def test_what_was_written_is_read():
    disk = FakeDisk()
    path = written(disk)
    found, jobs, shares = loaded(disk, path)
    assert found == read_head(disk, path) == head()
    assert [each.number for each in jobs.order] == list(range(1, JOBS + 1))
    queue = jobs.kinds.queues["default"]
    assert list(queue.ready) == list(jobs.order)
    assert jobs.kinds.queues["paused"].paused
    assert jobs.last_token == 7
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert jobs.live.by_segment == {1: 100}


def test_claims_are_read_and_one_that_is_missing_is_missed():
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    claims = {number.to_bytes(16, "big"): make_claim(number, 9) for number in range(5_000)}
    of = msgspec.structs.replace(
        head(1), state=msgspec.structs.replace(head(1).state, claims=len(claims))
    )
    write_pieces(SnapshotWriter(disk, DIRECTORY, of), [KIND], [job(1)], dict(claims))
    found, jobs, _ = loaded(disk, path := DIRECTORY / snapshot_name(42))
    assert (found, jobs.claims) == (of, claims)
    claims.popitem()
    write_pieces(SnapshotWriter(disk, DIRECTORY, of), [KIND], [job(1)], claims)
    with pytest.raises(BadSnapshotError, match="4999 of 5000 claims"):
        loaded(disk, path)


def test_format_2_which_knew_no_claims_is_read():
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    state = [1, 1, 7, ["paused"], {1: 100}]
    encode = msgspec.msgpack.encode
    content = frames(
        encode([1, 0, 512, 42, 9, 2, state]),
        encode([[KIND], []]),
        encode([[], [job(1)]]),
        encode([[], []]),
    )
    disk.put(path := DIRECTORY / snapshot_name(42), b"QNSNAP\xff\x02" + content[len(MAGIC) :])
    found, jobs, _ = loaded(disk, path)
    assert (found, jobs.claims) == (head(1), {})
    assert [each.number for each in jobs.order] == [1]


def test_a_snapshot_survives_a_power_cut_once_it_is_finished():
    disk = FakeDisk()
    path = written(disk)
    for survival in survivals(seed=1):
        assert loaded(disk.crash(survival), path)[0] == head()


def test_an_unfinished_one_has_no_name_and_an_abandoned_one_leaves_nothing():
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    writer = SnapshotWriter(disk, DIRECTORY, head())
    writer.add(Piece([], [job(1)]))
    assert disk.names(DIRECTORY) == [f"{snapshot_name(42)}.tmp"]
    writer.abandon()
    assert disk.names(DIRECTORY) == []


def test_a_disk_that_is_full_at_the_first_write_leaves_nothing():
    disk = FakeDisk(Faults(fail_at=0, fail_kinds=("write",), error=errno.ENOSPC, for_good=True))
    disk.make_directory(DIRECTORY)
    with pytest.raises(OSError, match="space"):
        SnapshotWriter(disk, DIRECTORY, head())
    assert disk.names(DIRECTORY) == []


_HEAD = msgspec.msgpack.encode(head())
_END = msgspec.msgpack.encode(Piece([], []))
_ONE = msgspec.msgpack.encode(Piece([KIND], [job(1)]))
_BAD_KIND = msgspec.msgpack.encode(Piece([NumberedKind(0, KindKey(b"\xc1", "owner", 3))], []))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "magic"),
        (b"QNSNAP\xff\x04", "magic"),
        (b"QNSNAP\xff\x01", "earlier version"),
        (MAGIC, "ends before its last frame"),
        (frames(_END), "no head"),
        (frames(_HEAD, _END), f"0 of {JOBS} jobs"),
        (frames(_HEAD, _ONE, _END), f"1 of {JOBS} jobs"),
        (frames(_HEAD, _ONE), "ends before its last frame"),
        (frames(_HEAD, _END) + b"\0", "something follows"),
        (frames(b"\xc1", _END), "cannot be read"),
        (frames(_HEAD, b"\x91\xc1", _END), "cannot be read"),
        (frames(_HEAD, _BAD_KIND, _END), "cannot be read"),
        (frames(_ONE, _END), "cannot be read"),
        (MAGIC + struct.pack("<II", 1 << 31, 0), "claims 2147483648 bytes"),
        (frames(_HEAD)[:-1], "claims|checksum"),
    ],
)
def test_anything_else_is_a_bad_snapshot_and_changes_no_state(content, what):
    disk = FakeDisk()
    disk.make_directory(DIRECTORY)
    path = DIRECTORY / snapshot_name(42)
    disk.put(path, content)
    jobs = Jobs()
    with pytest.raises(BadSnapshotError, match=what) as caught:
        list(load_snapshot(disk, path, jobs))
    assert caught.value.path == path
    assert (len(jobs.by_id), list(jobs.kinds)) == (0, [])


def test_frames_cannot_be_swapped_or_left_out():
    disk = FakeDisk()
    path = written(disk)
    content = disk.content(path)
    parts, at = [], len(MAGIC)
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        parts.append(content[at : at + 8 + length])
        at += 8 + length
    assert len(parts) == 6
    for order in ([0, 1, 3, 2, 4, 5], [0, 2, 3, 4, 5], [0, 1, 2, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5]):
        disk.put(path, MAGIC + b"".join(parts[index] for index in order))
        with pytest.raises(BadSnapshotError):
            loaded(disk, path)


def test_names_are_sorted_by_what_they_cover_and_others_are_no_snapshots():
    names = [snapshot_name(100), "0000000001.seg", snapshot_name(9), f"{snapshot_name(10)}.tmp"]
    assert snapshot_lsns(names) == [9, 100]
