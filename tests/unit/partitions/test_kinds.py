"""Kinds: one for all jobs that are alike, kept for a while, and queues that come and go."""

import msgspec
import pytest

from partitions import kinds as module
from partitions.kinds import Kinds, NumberedKind
from partitions.options import Options, encode_options

OTHER = encode_options(Options("other", priority=5, lease_ms=1, retention_ms=2))


def test_jobs_that_are_alike_share_a_kind_and_others_do_not():
    kinds = Kinds()
    first = kinds.of(b"", "owner", 3)
    assert kinds.of(b"", "owner", 3) is first
    others = [kinds.of(b"", "another", 3), kinds.of(b"", "owner", 4), kinds.of(OTHER, "owner", 3)]
    assert len({first.index, *(each.index for each in others)}) == 4
    assert [kinds[each.index] for each in others] == others
    assert (first.queue.name, others[2].queue.name) == ("default", "other")
    assert (others[2].priority, others[2].lease_ms, others[2].retention_ms) == (5, 1, 2)
    assert kinds.known(OTHER, "owner", 3) is not None
    assert kinds.known(OTHER, "owner", 2) is None


@pytest.mark.parametrize(("max_retries", "attempts"), [(0, 1), (1, 1), (2, 2), (7, 7)])
def test_zero_and_one_retries_both_mean_one_attempt(max_retries, attempts):
    assert Kinds().of(b"", "owner", max_retries).attempts_max == attempts


def test_bytes_that_are_no_options_change_nothing():
    kinds = Kinds()
    with pytest.raises(msgspec.MsgspecError):
        kinds.of(b"\xc1", "owner", 3)
    assert list(kinds) == []
    assert kinds.queues == {}


def test_a_kind_without_jobs_stays_until_there_are_very_many_of_them(monkeypatch):
    monkeypatch.setattr(module, "_IDLE_MAX", 10)
    kinds = Kinds()
    busy = kinds.of(b"", "busy", 1)
    kinds.hold(busy)
    for number in range(50):
        kind = kinds.of(b"", f"owner {number}", 1)
        kinds.hold(kind)
        kinds.let_go(kind, keep=False)
        assert len(list(kinds)) <= 12
    assert kinds[busy.index] is busy
    # Numbers are given anew.
    assert max(kind.index for kind in kinds) <= 12


def test_no_number_is_given_anew_while_a_snapshot_is_taken(monkeypatch):
    monkeypatch.setattr(module, "_IDLE_MAX", 2)
    kinds = Kinds()
    for number in range(9):
        kind = kinds.of(b"", f"owner {number}", 1)
        kinds.hold(kind)
        kinds.let_go(kind, keep=True)
    assert [kind.index for kind in kinds] == list(range(9))


def test_a_queue_goes_with_its_last_kind_unless_it_is_paused():
    kinds = Kinds()
    kinds.of(OTHER, "owner", 1)
    kinds.of(b"", "owner", 1)
    kinds.queues["default"].paused = True
    kinds.drop_idle()
    assert list(kinds.queues) == ["default"]
    kinds.queues["default"].paused = False
    kinds.drop_if_idle(kinds.queues["default"])
    assert kinds.queues == {}


def test_a_snapshot_holds_those_with_jobs_under_their_numbers():
    kinds = Kinds()
    kept = []
    for number in range(6):
        kind = kinds.of(OTHER, f"owner {number}", 1)
        kinds.hold(kind)
        if number % 2:
            kept.append(kind)
        else:
            kinds.let_go(kind, keep=False)
    numbered = [NumberedKind(each.index, each.key) for each in kinds.all() if each is not None]
    assert {kind.index for kind in kept} <= {each.index for each in numbered}
    restored = Kinds()
    restored.restore(numbered[::-1])
    for kind in kept:
        assert restored[kind.index].key == kind.key
        assert restored.of(OTHER, kind.owner, 1).index == kind.index
    new = [restored.of(b"", f"new {number}", 1).index for number in range(4)]
    assert not {kind.index for kind in kept} & set(new)
    assert len(set(new)) == 4
