"""What is done to a node in a soak: every kind of attack soon, and the same for the same seed."""

from itertools import islice

from queue_node.soak.plan import Attack, attacks


def some(count: int, seed: int = 1, *, can_fill: bool = True) -> list[Attack]:
    return list(islice(attacks(seed, partitions=2, fronts=3, can_fill=can_fill), count))


def test_a_seed_says_it_all():
    assert some(50) == some(50)
    assert some(50) != some(50, seed=2)


def test_every_bag_has_every_attack():
    for start in (0, 8, 16):
        bag = some(24)[start : start + 8]
        assert {(each.what, each.kind) for each in bag} == {
            ("kill", "partition"),
            ("kill", "front"),
            ("kill node", ""),
            ("stall", "partition"),
            ("stall", "front"),
            ("fill disk", ""),
        }


def test_a_disk_that_cannot_be_filled_is_left_alone():
    assert all(each.what != "fill disk" for each in some(100, can_fill=False))


def test_every_process_is_hit():
    hit = {(each.kind, each.number) for each in some(200) if each.kind}
    assert hit == {("partition", 0), ("partition", 1), ("front", 0), ("front", 1), ("front", 2)}
