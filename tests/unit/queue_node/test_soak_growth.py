"""Whether memory and disk grow: a leak is found, ups and downs are not a leak."""

import random
from itertools import pairwise

import pytest

from queue_node.soak.growth import (
    SAMPLES_MAX,
    SAMPLES_MIN,
    Sample,
    Samples,
    disk_verdict,
    memory_verdicts,
)

MIB = 1 << 20


def samples(sizes: list[float]) -> list[Sample]:
    return [Sample({"front": int(size * MIB)}, 0, 0) for size in sizes]


def grows(sizes: list[float]) -> bool:
    (verdict,) = memory_verdicts(samples(sizes))
    return verdict.grows


DRAWS = random.Random(1)
NOT_A_LEAK = {
    "flat": [40.0] * 90,
    "warm-up": [10.0 + turn for turn in range(30)] + [40.0] * 60,
    "young processes now and then": [DRAWS.choice([20, 40, 41]) for _ in range(90)],
    "one peak": [40.0] * 70 + [400.0] * 5 + [40.0] * 15,
    "a little": [40 + turn / 20 for turn in range(90)],
}
LEAKS = {
    "steady": [40 + turn / 2 for turn in range(90)],
    "steady, with young processes": [DRAWS.choice([0.5, 1, 1]) * (40 + turn) for turn in range(90)],
    "a step": [40.0] * 65 + [60.0] * 25,
    "large and slow": [1000 + 5 * turn for turn in range(90)],
}


@pytest.mark.parametrize("sizes", NOT_A_LEAK.values(), ids=NOT_A_LEAK)
def test_ups_and_downs_are_no_growth(sizes: list[float]):
    assert not grows(sizes)


@pytest.mark.parametrize("sizes", LEAKS.values(), ids=LEAKS)
def test_a_leak_is_growth(sizes: list[float]):
    assert grows(sizes)


def test_too_few_samples_say_nothing():
    few = samples([1.0] * (SAMPLES_MIN - 1))
    assert memory_verdicts(few) == []
    assert disk_verdict(few, partitions=1, segment_bytes=1) is None


def test_each_kind_of_process_is_judged_for_itself():
    kept = [Sample({"front": 40 * MIB, "partition": (30 + turn) * MIB}, 0, 0) for turn in range(60)]
    assert [(each.kind, each.grows) for each in memory_verdicts(kept)] == [
        ("front", False),
        ("partition", True),
    ]


@pytest.mark.parametrize(("disk", "too_much"), [(35, False), (36, True)])
def test_disk_is_held_against_live_data_and_two_segments_of_each_partition(
    disk: int, too_much: bool
):
    kept = [Sample({}, 20, 10)] * 60
    kept[40] = Sample({}, disk, 10)
    verdict = disk_verdict(kept, partitions=2, segment_bytes=5)
    assert verdict is not None
    assert (verdict.disk_bytes, verdict.limit_bytes) == (disk, 35)
    assert verdict.too_much is too_much


def test_the_samples_of_a_long_run_are_thinned_evenly():
    kept = Samples()
    for turn in range(10 * SAMPLES_MAX):
        kept.add(Sample({}, turn, 0))
    found = [each.disk for each in kept.kept]
    assert len(found) < SAMPLES_MAX
    steps = [after - before for before, after in pairwise(found)]
    assert max(steps) < 2 * min(steps)
    assert found[-1] > 10 * SAMPLES_MAX - 64
