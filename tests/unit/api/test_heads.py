"""api.heads: a hint, less what was asked for since it came."""

from api.heads import KnownHead, shares
from partitions.messages import Head


def head(*lines, ready=None):
    """Lines of ``(priority, count, oldest, newest)``."""
    told = sum(line[1] for line in lines)
    return Head("q", lines[0][0], told if ready is None else ready, lines)


def test_a_higher_priority_comes_first_then_the_older_job():
    high = KnownHead(head((2, 1, 900, 900), (-1, 5, 0, 800)))
    old = KnownHead(head((0, 3, 100, 700)))
    new = KnownHead(head((0, 3, 200, 700)))
    assert sorted([new, old, high], key=KnownHead.rank) == [high, old, new]


def test_what_was_asked_for_is_reckoned_with():
    one_good = KnownHead(head((2, 1, 900, 900), (-1, 5, 0, 800)))
    ordinary = KnownHead(head((0, 3, 100, 700)))
    one_good.ask(1)
    assert ordinary.rank() < one_good.rank()


def test_an_answer_alone_gives_nothing_back_until_the_next_hint():
    known = KnownHead(head((2, 1, 900, 900), (-1, 5, 0, 800)))
    before = known.rank()
    known.ask(1)
    asked = known.rank()
    known.answered(1)
    assert known.rank() == asked > before
    known.told(head((2, 1, 950, 950)))
    assert known.rank()[0] == -2


def test_a_hint_does_not_know_of_what_is_still_on_its_way():
    known = KnownHead(head((2, 1, 900, 900), (-1, 5, 0, 800)))
    known.ask(1)
    known.told(head((2, 1, 900, 900), (-1, 6, 0, 950)))
    assert known.rank()[0] == 1, "the job of priority 2 is as good as taken"


def test_of_equals_the_one_older_after_what_was_taken_comes_first():
    drawn_from = KnownHead(head((0, 100, 0, 1000)))
    other = KnownHead(head((0, 100, 200, 1200)))
    assert drawn_from.rank() < other.rank()
    drawn_from.ask(50)
    assert other.rank() < drawn_from.rank()


def test_past_all_that_was_told_it_comes_last():
    used_up = KnownHead(head((2, 1, 900, 900), (1, 1, 900, 900)))
    used_up.ask(2)
    assert KnownHead(head((1, 1, 999, 999))).rank() < used_up.rank()


def test_the_shares_of_many_are_those_of_the_best_jobs():
    known = [
        KnownHead(head((2, 3, 0, 10), (0, 5, 0, 10), ready=20)),
        KnownHead(head((1, 4, 0, 10), ready=4)),
    ]
    assert shares(known, 2) == [2, 0]
    assert shares(known, 6) == [3, 3]
    assert shares(known, 10) == [6, 4]
    assert shares(known, 100) == [20, 4], "no more than the hints know of"


def test_what_was_asked_for_since_the_hint_is_nobodys_share():
    first, second = (KnownHead(head((2, 3, 0, 10), ready=3)) for _ in range(2))
    first.ask(2)
    assert shares([first, second], 6) == [1, 3]
    first.ask(5)
    assert shares([first, second], 6) == [0, 3]
