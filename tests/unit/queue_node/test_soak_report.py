"""What a soak says: the line of a minute, and everything that makes it a failure."""

from collections import Counter

import pytest

from queue_node.soak.chaos import Attacks
from queue_node.soak.growth import DiskVerdict, MemoryVerdict, Sample
from queue_node.soak.history import Kind
from queue_node.soak.ledger import Counts
from queue_node.soak.report import complaints, minute_line

MIB = 1 << 20
FINE = MemoryVerdict("front", 40 * MIB, 41 * MIB)
GROWN = MemoryVerdict("front", 40 * MIB, 60 * MIB)
ROOMY = DiskVerdict(10, 1, 100)
OVERFULL = DiskVerdict(300 * MIB, 5 * MIB, 263 * MIB)


def test_the_line_of_a_minute():
    counts = Counts(finished=7_000, by_kind=Counter({Kind.LOST: 2}))
    attacks = Attacks(
        partitions_killed=2, fronts_killed=1, nodes_killed=1, stalls=3, disks_filled=1
    )
    sample = Sample({"front": 53 * MIB, "checker": 40 * MIB}, 20 * MIB, 5 * MIB)
    assert minute_line(3, counts, Counts(finished=4_000), 60.0, attacks, sample) == (
        "   3 min     50 jobs/s  7,000 done | 4 kills, 3 stalls, 1 full disks"
        " | lost 2, doubled 0, wrong 0 | RSS MiB: checker 40 front 53 | disk 20, live 5"
    )


def test_nothing_to_complain_about():
    assert list(complaints(Counts(finished=100), [], [FINE], ROOMY, [])) == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (complaints(Counts(finished=9), ["lost: a: lost"], [FINE], ROOMY, []), "a: lost"),
        (complaints(Counts(finished=9), [], [FINE, GROWN], ROOMY, []), "memory of the front"),
        (complaints(Counts(finished=9), [], [FINE], OVERFULL, []), "300 MiB for 5 MiB"),
        (complaints(Counts(finished=9), [], [FINE], ROOMY, ["it ended"]), "it ended"),
        (complaints(Counts(finished=9, unverified=1), [], [FINE], None, []), "too slow"),
        (complaints(Counts(), [], [FINE], None, []), "no job was finished"),
    ],
)
def test_each_reason_to_fail_is_said(found, words: str):
    (complaint,) = found
    assert words in complaint
