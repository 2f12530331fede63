"""What a regrouping leaves on the disk; what becomes of jobs is in ``property/test_reshard``."""

from pathlib import Path
from typing import Any

import pytest

from partitions.answers import Answer, LeaseGranted
from partitions.census import Census, counting
from partitions.checkpoint import Checkpoints
from partitions.disk import RealDisk
from partitions.errors import BlobUnreadableError, CorruptLogError
from partitions.log import Sizes, identity_of
from partitions.messages import Ack, Claimed, ClaimKeys, Command, KeyClaim, Lease
from partitions.recovery import recover
from partitions.regroup import Source, loading, regrouping
from partitions.slots import SLOTS, make_job_id, partition_of, slot_of
from partitions.state import PartitionState
from tests.support.driver import SMALL, START_MS
from tests.support.fake_disk import FakeDisk, survivals
from tests.support.hand_node import HandNode, HandPartition, opened

NEW = Sizes(segment_bytes=2048, extent_bytes=0, reserve_bytes=0)


@pytest.fixture
def node(tmp_path: Path) -> HandNode:
    node = HandNode(tmp_path / "data", 2)
    for number in range(120):
        node.submit(number * 500, b"payload %d " % number * 5, 2, "owner")
    for number in range(20):
        node.lease(number)
        node.settle(0, b"result" * number, failed=number % 3 == 0)
    node.close()
    return node


def load(node: HandNode) -> list[Source]:
    sources = []
    for number in range(node.count):
        steps = loading(RealDisk(), node.path / f"p-{number:04d}", identity_of(number, node.count))
        while True:
            try:
                next(steps)
            except StopIteration as end:
                sources.append(end.value)
                break
    return sources


def regroup(disk: Any, node: HandNode, new: list[Path]) -> Census:
    census = Census()
    list(regrouping(disk, new, load(node), census, NEW))
    return census


def count(disk: Any, new: list[Path]) -> Census:
    census = Census()
    for number, directory in enumerate(new):
        list(counting(disk, directory, identity_of(number, len(new)), census))
    return census


def folders(count: int) -> list[Path]:
    return [Path(f"/new/p-{number:04d}") for number in range(count)]


def test_all_of_it_is_durable_when_it_is_done(node, monkeypatch):
    monkeypatch.setattr("partitions.regroup._RECORD_TEXT_BYTES", 300)
    disk = FakeDisk()
    census = regroup(disk, node, folders(3))
    assert census.jobs == 120
    assert sum(name.endswith(".seg") for name in disk.names(folders(3)[0])) > 2
    for survival in survivals(seed=1):
        left = count(disk.crash(survival), folders(3))
        assert (left.digest, left.states) == (census.digest, census.states), survival


def test_claims_go_where_their_keys_belong_now(tmp_path):
    node = HandNode(tmp_path / "data", 2)
    for slot in range(0, SLOTS, 1_000):
        key_id = make_job_id(1, slot, slot)
        partition = node.partitions[partition_of(slot, 2)]
        claiming = ClaimKeys([KeyClaim(key_id, SLOTS - 1 - slot)])
        assert take(partition, claiming, START_MS) == Claimed()
    before = [dict(each.state.jobs.claims) for each in node.partitions]
    node.close()
    disk = FakeDisk()
    census = regroup(disk, node, folders(3))
    assert count(disk, folders(3)).digest == census.digest
    found = []
    for number in range(3):
        state = PartitionState()
        recover(disk.restarted(), folders(3)[number], identity_of(number, 3), state)
        found.append(state.jobs.claims)
        assert {partition_of(slot_of(each), 3) for each in state.jobs.claims} == {number}
    assert found[0] | found[1] | found[2] == before[0] | before[1]
    found[0].popitem()
    other = Census()
    for claims in found:
        for key_id, claim in claims.items():
            other.add_claim(key_id, claim)
    assert other.digest != census.digest, "a claim that is lost shows"


def test_one_of_the_two_snapshots_may_go_bad_and_both_are_never_taken_for_an_empty_log(node):
    disk = FakeDisk()
    census = regroup(disk, node, folders(1))
    directory = folders(1)[0]
    older, newer = [name for name in disk.names(directory) if name.endswith(".snap")]
    for name in (newer, older):
        disk.put(directory / name, disk.content(directory / name)[:-1])
        if name is newer:
            assert count(disk.restarted(), folders(1)).digest == census.digest
    with pytest.raises(CorruptLogError, match="no snapshot stands for it"):
        count(disk.restarted(), folders(1))


def test_its_texts_are_copied_forward_like_any_other(node, tmp_path, monkeypatch):
    monkeypatch.setattr("partitions.regroup._RECORD_TEXT_BYTES", 300)
    new = [tmp_path / "new" / "p-0000"]
    regroup(RealDisk(), node, new)
    partition = opened(RealDisk(), tmp_path / "new", 0, 1)
    checkpoints = Checkpoints(
        RealDisk(), new[0], identity_of(0, 1), partition.state.jobs, partition.log,
        growth_bytes_min=1, duty=0,
    )  # fmt: skip
    first = sorted(name.name for name in new[0].glob("*.seg"))[0]
    now_ms = START_MS + 10**6
    for _ in range(60):
        leased = take(partition, Lease(10**6), now_ms)
        assert isinstance(leased, LeaseGranted)
        take(partition, Ack(leased.job_id, leased.lease_token, None), now_ms)
        for _ in range(60):
            checkpoints.step(now_ms)
            now_ms += 1
    assert not (new[0] / first).exists(), "its first segment was never freed"
    census = Census()
    partition.log.close()
    list(counting(RealDisk(), new[0], identity_of(0, 1), census))
    assert census.jobs == 120
    assert census.unreadable == []


def take(partition: HandPartition, command: Command, now_ms: int) -> Answer:
    """What the actor does, without looking at any text."""
    applied = partition.state.apply(command, now_ms, partition.log.put)
    partition.log.commit(list(applied.events), now_ms)
    partition.log.make_room(now_ms)
    return applied.reply


def test_a_damaged_text_stops_it(node):
    directory = node.path / "p-0000"
    partition = opened(RealDisk(), node.path, 0, 2)
    checkpoints = Checkpoints(
        RealDisk(), directory, identity_of(0, 2), partition.state.jobs, partition.log
    )
    assert checkpoints.finish(START_MS, 60_000)
    partition.log.close()
    segments = directory.glob("*.seg")
    segment = next(each for each in segments if b"payload 30" in each.read_bytes())
    data = bytearray(segment.read_bytes())
    data[data.index(b"payload 30")] ^= 1
    segment.write_bytes(bytes(data))
    with pytest.raises(BlobUnreadableError):
        regroup(FakeDisk(), node, folders(1))


def test_no_jobs_at_all_are_no_trouble(tmp_path):
    node = HandNode(tmp_path / "data", 2, SMALL)
    node.close()
    disk = FakeDisk()
    assert regroup(disk, node, folders(4)).jobs == 0
    assert count(disk, folders(4)).jobs == 0
