"""bench.micro: each part runs, at toy sizes, and leaves nothing behind."""

import gc
from collections.abc import Iterator

import pytest

from bench.micro import codec, log, state, storage


@pytest.fixture(autouse=True)
def own_garbage_alone() -> Iterator[None]:
    """Each figure collects garbage first: not that of the thousands of tests before this one."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_the_state_is_measured_at_each_depth():
    figures = state.measure(waiting=(10, 200), chunk=50)
    assert [figure.what for figure in figures] == [
        "submit, 10 waiting",
        "lease + ack, 10 waiting",
        "submit, 200 waiting",
        "lease + ack, 200 waiting",
    ]
    assert all(figure.per_second > 0 for figure in figures)
    wanted = [figure.note.partition(" a second")[0] for figure in figures]
    assert wanted == ["wanted: 250,000", "wanted: 150,000"] * 2, "the same at every depth"


def test_the_codecs_are_measured():
    figures = codec.measure(jobs=64)
    assert {figure.what.split(",")[0] for figure in figures} == {
        "encode submits",
        "decode submits",
        "encode replies",
        "decode replies",
        "encode records",
        "check records",
    }


def test_commits_are_measured_on_a_log_of_their_own(tmp_path):
    figures = log.measure(tmp_path, seconds=0.01, batches=(1, 4))
    assert [figure.what for figure in figures] == ["commit, 1 jobs", "commit, 4 jobs"]
    assert list(tmp_path.iterdir()) == []


def test_starts_are_measured_with_and_without_a_snapshot_which_is_really_taken(tmp_path):
    figures = storage.measure(tmp_path, storage.Load(jobs=250, acks=30))
    assert [figure.what for figure in figures] == [
        "submit, in batches of 100, synced, 250 jobs",
        "start from the log alone, 250 jobs",
        "snapshot",
        "start from the snapshot, 250 jobs",
        "lease and ack in random order, 30 acks at once",
    ]
    snapshot_bytes = int(figures[2].note.rpartition(", ")[2].split()[0])
    assert snapshot_bytes >= 40
    assert list(tmp_path.iterdir()) == []
