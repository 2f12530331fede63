from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.placement import Placement
from api.submit_schemas import Submit
from partitions.clock import Clock
from partitions.messages import Enqueue
from partitions.slots import format_job_id, partition_of, slot_of
from tests.support.by_hand import partitions_of
from tests.support.stateful import START_MS

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


class StillClock(Clock):
    def now_ms(self) -> int:
        return START_MS

    def monotonic_ms(self) -> int:
        return 0


def placement_of(count: int) -> Placement:
    return Placement([each.client for each in partitions_of(count)], StillClock())


def job(queue: str = "default", group: str = "", key: str = "") -> Submit:
    return Submit(b"x", 3, queue, b"", group=group, idempotency_key=key)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_minted_id_belongs_to_the_partition_it_was_minted_for(count: int) -> None:
    placement = placement_of(count)
    for partition in range(count):
        ids = [placement.mint(partition) for _ in range(200)]
        assert len(set(ids)) == 200
        assert {partition_of(slot_of(each), count) for each in ids} == {partition}
        assert {placement.owner_of(each).partition for each in ids} == {partition}


def test_a_plain_job_goes_anywhere_that_serves_and_a_bound_one_does_not_choose() -> None:
    partitions = partitions_of(3)
    placement = Placement([each.client for each in partitions], StillClock())
    assert not placement.is_bound(job())
    assert placement.is_bound(job(group="g"))
    assert placement.is_bound(job(key="k"))
    partitions[1].lose()
    chosen = Counter(placement.choose() for _ in range(200))
    assert set(chosen) == {partitions[0].client, partitions[2].client}
    assert min(chosen.values()) > 50
    partitions[0].lose()
    partitions[2].lose()
    assert placement.choose() is None


@given(names, names, st.integers(1, 16))
def test_the_jobs_of_a_group_share_a_slot_under_ids_of_their_own(
    queue: str, group: str, count: int
) -> None:
    placement, later = placement_of(count), placement_of(count)
    ids = [placement.mint_bound("me", job(queue, group)) for _ in range(3)]
    ids.append(later.mint_bound("somebody else", job(queue, group)))
    assert len(set(ids)) == 4
    assert len({slot_of(each) for each in ids}) == 1


@given(names, names, names, st.integers(1, 16), st.integers(1, 16))
def test_the_id_of_a_key_is_the_same_each_time_wherever_it_is_minted(
    owner: str, queue: str, key: str, count: int, other_count: int
) -> None:
    keyed = job(queue, key=key)
    first = placement_of(count).mint_bound(owner, keyed)
    assert placement_of(other_count).mint_bound(owner, keyed) == first
    text = format_job_id(first)
    assert (text[14], text[19] in "89ab") == ("8", True), "a UUID of version 8"


def test_the_id_of_a_key_stays_what_it_is_from_release_to_release() -> None:
    # Else a submit that was made before an upgrade would be made again after it.
    placement = placement_of(2)
    ids = [
        format_job_id(placement.mint_bound("owner", job("mail", key="key"))),
        format_job_id(placement.mint_bound("owner", job("mail", "group", "key"))),
    ]
    assert ids == [
        "e83c7d9b-71c7-8d88-9844-a8357e59005a",
        "e83c7d9b-71c7-8d88-9844-a8357e59d19e",
    ]


parts = st.tuples(names, names, names, st.just("") | names)


@given(st.lists(parts, min_size=2, max_size=10, unique=True))
def test_keys_of_other_owners_queues_or_groups_stand_for_other_jobs(
    all_parts: list[tuple[str, str, str, str]],
) -> None:
    placement = placement_of(4)
    ids = {placement.mint_bound(o, job(q, g, k)) for o, q, k, g in all_parts}
    # Of 16 bits only, two groups may have the same slot.
    assert len(ids) >= len({(o, q, k) for o, q, k, _ in all_parts})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c", "d"), ("a", "bc", "d")),
        (("a", "bc", "d"), ("a", "b", "cd")),
        (("a", "b", "c"), ("a", "c", "b")),
        (("", "b", "c"), ("b", "", "c")),
    ],
)
def test_what_is_cut_in_another_place_is_another_key(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    placement = placement_of(4)
    first, second = (placement.mint_bound(o, job(q, key=k)) for o, q, k in (one, other))
    assert first != second


@given(names, names, names)
def test_a_key_inside_a_group_lies_where_the_group_does(queue: str, group: str, key: str) -> None:
    placement = placement_of(5)
    keyed = placement.mint_bound("me", job(queue, group, key))
    assert keyed == placement.mint_bound("me", job(queue, group, key))
    assert slot_of(keyed) == slot_of(placement.mint_bound("me", job(queue, group)))


def test_the_same_group_of_another_queue_is_another_group() -> None:
    placement = placement_of(1)
    slots = {slot_of(placement.mint_bound("me", job(f"q{number}", "g"))) for number in range(50)}
    assert len(slots) > 45


def test_groups_spread_over_partitions() -> None:
    placement = placement_of(4)
    homes = Counter(
        placement.owner_of(placement.mint_bound("me", job(group=f"g{number}"))).partition
        for number in range(400)
    )
    assert min(homes.values()) > 60  # 100 expected, five standard deviations below


def test_the_command_says_all_that_the_partition_is_to_know() -> None:
    wanted = Submit(b"x", 7, "mail", b"options", 5, 6, "group", "key", b"digest")
    assert placement_of(1).command("owner", wanted, b"\1" * 16) == Enqueue(
        b"\1" * 16, b"x", 7, "owner", b"options", 5, 6, "group", b"digest"
    )
