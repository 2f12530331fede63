"""bench.targets: what counts as reached."""

import pytest

from bench.targets import judge
from tests.unit.bench.results import SYNC, a_result

BARE = a_result("bare", connections=256, done=10_000)


def verdicts(*results):
    return {target.what: target.verdict for target in judge(list(results), SYNC)}


def verdict(word, *results):
    (found,) = [seen for what, seen in verdicts(*results).items() if word in what]
    return found


@pytest.mark.parametrize(("connections", "enough"), [(16, 3_000), (64, 5_000), (256, 6_500)])
def test_submits_are_judged_as_a_share_of_bare_requests(connections, enough):
    word = f"at {connections} connections"
    reached = a_result(connections=connections, done=enough)
    missed = a_result(connections=connections, done=enough - 1)
    assert verdict(word, BARE, reached) == "reached"
    assert verdict(word, BARE, missed) == "missed"


def test_bare_is_the_mean_of_its_measurements():
    slower = a_result("bare", connections=256, done=8_000)
    seen = a_result(connections=64, done=4_500)
    assert verdict("at 64 connections", BARE, seen) == "missed"
    assert verdict("at 64 connections", BARE, slower, seen) == "reached"


def test_one_connection_may_take_a_sync_and_a_little():
    assert verdict("p50", a_result(connections=1, latency_ms=0.49)) == "reached"
    assert verdict("p50", a_result(connections=1, latency_ms=0.51)) == "missed"


def test_cycles_have_a_floor():
    assert verdict("cycles", a_result("cycle", done=6_000)) == "reached"
    assert verdict("cycles", a_result("cycle", done=5_999)) == "missed"


def test_batches_have_a_floor_of_jobs_not_of_requests():
    assert verdict("jobs/s submitted in", a_result("batch", done=130_000)) == "reached"
    assert verdict("jobs/s submitted in", a_result("batch", done=129_999)) == "missed"
    assert verdict("leased and acked in", a_result("batch-cycle", done=50_000)) == "reached"
    assert verdict("leased and acked in", a_result("batch-cycle", done=49_999)) == "missed"


def test_leases_and_acks_alone_are_no_full_cycles():
    assert verdict("leased and acked in", a_result("batch-lease", done=99_999)) == "not measured"


def test_flat_compares_the_deepest_with_the_shallowest():
    shallow = a_result("lease", waiting=1_000, done=1_000)
    assert verdict("flat", a_result("lease", waiting=9_000, done=800), shallow) == "reached"
    assert verdict("flat", a_result("lease", waiting=9_000, done=799), shallow) == "missed"


def test_flat_takes_the_mean_of_what_was_measured_twice():
    results = [a_result("lease", waiting=1_000, done=done) for done in (1_200, 800)]
    assert verdict("flat", *results, a_result("lease", waiting=9_000, done=800)) == "reached"
    assert verdict("flat", *results, a_result("lease", waiting=9_000, done=799)) == "missed"


def test_what_was_not_measured_is_not_judged():
    assert set(verdicts().values()) == {"not measured"}
    assert verdict("at 64", a_result(connections=64)) == "not measured", "there was no bare"
    assert verdict("p50", a_result(connections=1, done=0, latencies={})) == "not measured"
    assert verdict("flat", a_result("lease", waiting=1_000)) == "not measured"
