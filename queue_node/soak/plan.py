"""What is done to the node, and when: a shuffled bag of attacks, again and again. Pure.

Every attack of the bag comes once before any comes again, so a run of two minutes has met each
kind; which process, how long, and the pauses between are drawn.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

What = Literal["kill", "kill node", "stall", "fill disk"]

_BAG: Final[tuple[tuple[What, str], ...]] = (
    ("kill", "partition"),
    ("kill", "partition"),
    ("kill", "front"),
    ("kill", "front"),
    ("kill node", ""),
    ("stall", "partition"),
    ("stall", "front"),
    ("fill disk", ""),
)
_PAUSE_S: Final = (1.0, 5.0)
_STALLS_S: Final = ((0.2, 3.0), (0.2, 3.0), (6.0, 12.0))
"""Short ones nobody notices; after 5 to 10 s a front cuts the partition off."""
_FULL_S: Final = (3.0, 8.0)


@dataclass(frozen=True, slots=True)
class Attack:
    """One thing to do, ``pause_s`` after the one before is over."""

    pause_s: float
    what: What
    kind: str = ""
    """"partition" or "front", for "kill" and "stall"."""
    number: int = 0
    lasts_s: float = 0.0
    kills_meanwhile: bool = False
    """While the disk is full, partition ``number`` is killed, and cannot come back before."""


def attacks(seed: int, *, partitions: int, fronts: int, can_fill: bool) -> Iterator[Attack]:
    """For ever; the same for the same arguments."""
    draws = random.Random(f"attacks {seed}")
    bag = [each for each in _BAG if can_fill or each[0] != "fill disk"]
    while True:
        draws.shuffle(bag)
        for what, kind in bag:
            number = draws.randrange(fronts if kind == "front" else partitions)
            yield Attack(
                draws.uniform(*_PAUSE_S),
                what,
                kind,
                number,
                draws.uniform(*(_FULL_S if what == "fill disk" else draws.choice(_STALLS_S))),
                kills_meanwhile=draws.random() < 0.5,
            )
