"""What ``serve`` does before a child starts, as far as it needs no node."""

import logging
import resource

import pytest

from api.settings import DoorLimits
from queue_node.serve import raise_file_limit


class Limits:
    """What the system allows, without asking it."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def get(self, _which: int) -> tuple[int, int]:
        return self.now

    def set(self, _which: int, limits: tuple[int, int]) -> None:
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "warned"),
    [
        (1024, 1 << 20, False),
        (256, 564, False),
        (256, 563, True),
        (1024, resource.RLIM_INFINITY, False),
    ],
)
def test_the_soft_limit_is_raised_first_and_held_against_what_is_needed(
    monkeypatch, caplog, soft, hard, warned
):
    limits = Limits(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    caplog.set_level(logging.WARNING)
    raise_file_limit(DoorLimits(connections_max=500))
    assert limits.now == (hard, hard)
    assert bool(caplog.messages) is warned
    if warned:
        assert "may open 563 files" in caplog.text
        assert "MAX_CONNECTIONS=500 needs 564" in caplog.text
