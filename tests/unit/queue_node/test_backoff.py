"""When a child that died is started again."""

from queue_node.backoff import CRASH_LOOP_S, Backoff


def delays(*deaths_s):
    backoff = Backoff()
    return [backoff.after_death(now_s) for now_s in deaths_s], backoff.in_crash_loop


def test_the_first_death_costs_a_tenth_of_a_second():
    assert delays(1000.0) == ([0.1], False)


def test_the_delay_doubles_with_each_recent_death():
    assert delays(0, 1, 2, 3, 4) == ([0.1, 0.2, 0.4, 0.8, 1.6], False)


def test_more_than_five_deaths_in_a_minute_are_a_crash_loop():
    assert delays(0, 1, 2, 3, 4, 5) == ([0.1, 0.2, 0.4, 0.8, 1.6, CRASH_LOOP_S], True)


def test_a_crash_loop_ends_when_the_child_lives_for_a_while():
    assert delays(0, 1, 2, 3, 4, 5, 66) == ([0.1, 0.2, 0.4, 0.8, 1.6, CRASH_LOOP_S, 0.1], False)


def test_old_deaths_are_forgotten():
    assert delays(0, 61, 122, 183) == ([0.1] * 4, False)


def test_a_child_that_dies_at_every_slow_try_stays_in_its_crash_loop():
    found, looping = delays(*(10.0 * death for death in range(20)))
    assert looping
    assert found[5:] == [CRASH_LOOP_S] * 15
