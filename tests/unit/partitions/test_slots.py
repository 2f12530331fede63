"""Slots: every slot has one owner, and an id carries its slot."""

import sys
import uuid

import pytest

from partitions.slots import (
    RANDOM_ID_BITS,
    SLOTS,
    claim_at_ms,
    claim_slot,
    first_slot,
    format_job_id,
    in_slot,
    make_claim,
    make_job_id,
    parse_job_id,
    partition_of,
    random_job_id,
    slot_of,
)


@pytest.mark.parametrize("partitions", [*range(1, 18), 31, 64, 100, 255, 256, 1000])
def test_every_slot_belongs_to_exactly_the_partition_whose_range_holds_it(partitions):
    bounds = [first_slot(each, partitions) for each in range(partitions + 1)]
    assert bounds[0] == 0
    assert bounds[-1] == SLOTS
    owners = [
        partition
        for partition in range(partitions)
        for _ in range(bounds[partition], bounds[partition + 1])
    ]
    assert [partition_of(slot, partitions) for slot in range(SLOTS)] == owners


@pytest.mark.parametrize("partitions", [1, 3, 7, 1000])
def test_partitions_own_as_many_slots_as_each_other_give_or_take_one(partitions):
    sizes = {
        first_slot(each + 1, partitions) - first_slot(each, partitions)
        for each in range(partitions)
    }
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("slot", [0, 1, 255, 256, 40_000, SLOTS - 1])
def test_an_id_is_a_version_7_uuid_that_carries_time_and_slot(slot):
    made = make_job_id(1_800_000_000_123, (1 << 58) - 1, slot)
    read = uuid.UUID(bytes=made)
    assert (read.version, read.variant) == (7, uuid.RFC_4122)
    assert int.from_bytes(made[:6], "big") == 1_800_000_000_123
    assert slot_of(made) == slot


def test_ids_sort_by_time_whatever_their_random_bits():
    assert make_job_id(1, (1 << 58) - 1, SLOTS - 1) < make_job_id(2, 0, 0)


def test_each_of_the_58_random_bits_makes_another_id():
    made = {make_job_id(1, 1 << bit, 0) for bit in range(58)} | {make_job_id(1, 0, 0)}
    assert len(made) == 59
    assert make_job_id(1, 1 << 58, 0) == make_job_id(1, 0, 0)


def test_an_id_of_random_bits_takes_the_58_that_it_has_room_for():
    made = {random_job_id(1, 1 << bit, 0) for bit in range(RANDOM_ID_BITS)}
    assert len(made) == 58 + 1  # the others are dropped
    assert random_job_id(1, 0, 0) == make_job_id(1, 0, 0)
    for slot in (0, 40_000, SLOTS - 1):
        read = random_job_id(1_800_000_000_123, (1 << RANDOM_ID_BITS) - 1, slot)
        assert read == make_job_id(1_800_000_000_123, (1 << 58) - 1, slot)


def test_an_id_reads_back_as_it_was_written():
    made = make_job_id(1_800_000_000_123, 0x2AAAAAAAAAAAAAA, 54_321)
    assert format_job_id(made) == str(uuid.UUID(bytes=made))
    assert parse_job_id(format_job_id(made)) == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0198c0de-0000-7000-8000-00000000000",
        "0198c0de-0000-7000-8000-0000000000000",
        "0198C0DE-0000-7000-8000-000000000000",
        "0198c0de00007000800000000000000000000",
        "{198c0de-0000-7000-8000-00000000000}",
        "0198c0de-0000-7000-8000-00000000000\n",
        "0198c0de-0000-7000-8000-000000000000\n",
        "\u0660198c0de-0000-7000-8000-000000000000",
    ],
)
def test_anything_but_a_canonical_uuid_is_no_id(text):
    assert parse_job_id(text) is None


def test_a_claim_is_a_slot_and_a_time_in_32_bytes():
    claim = make_claim(65_535, 2**44 - 1)
    assert (claim_slot(claim), claim_at_ms(claim)) == (65_535, 2**44 - 1)
    assert sys.getsizeof(claim) <= 32


def test_an_id_in_another_slot_differs_in_nothing_else():
    job_id = bytes(range(16))
    moved = in_slot(job_id, 0x1234)
    assert (slot_of(moved), moved[:14]) == (0x1234, job_id[:14])
    assert in_slot(moved, slot_of(job_id)) == job_id
