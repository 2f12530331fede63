"""The demo's bookkeeping against a fake node: what counts as lost, wrong, doubled, changed."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from queue_node import demo_load
from queue_node.demo_load import Load, Report, find_files
from queue_node.demo_worker import describe, handle
from queue_node_sdk import AuthError, Client, LeasedJob, Worker
from queue_node_sdk.worker import Handler
from tests.support.fake_node import CLIENT_KEY, WORKER_KEY, Answer, FakeNode, HangUp
from tests.support.polling import wait_until
from tests.support.running_worker import RunningWorker


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode() as fake:
        yield fake


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for number in range(12):
        (tmp_path / f"file-{number:02}").write_text("some words\n" * number)
    return find_files(str(tmp_path), None, frozenset())[0]


@pytest.fixture
def run(node: FakeNode, paths: list[str]) -> Iterator[Callable[..., Report]]:
    """Runs a load over ``paths`` with a worker that uses the given handler."""
    worker: RunningWorker | None = None

    def run_it(handler: Handler = handle, kills: tuple[Callable[[], str], ...] = ()) -> Report:
        nonlocal worker
        worker = RunningWorker(Worker(node.url, WORKER_KEY, handler, poll_interval=0.02))
        with Client(node.url, CLIENT_KEY, retry_for=5) as client:
            load = Load(client, paths, kills)
            load.start()
            assert load.wait(60), "the load did not end"
            return load.report()

    yield run_it
    if worker is not None:
        worker.stop()


def test_a_good_run(run: Callable[..., Report], paths: list[str]):
    report = run()
    assert report.good
    assert (report.jobs, report.lost, report.wrong, report.retries) == (len(paths), 0, 0, 0)
    assert 0 < report.p50_ms <= report.p99_ms <= report.seconds * 1000
    assert report.jobs_per_second > 0


def test_a_wrong_result_is_told(run: Callable[..., Report], paths: list[str]):
    def lie(job: LeasedJob) -> str:
        result = describe(json.loads(job.payload))
        if job.payload == json.dumps(paths[3]):
            result["words"] = -1
        return json.dumps(result)

    report = run(lie)
    assert (report.wrong, report.lost, report.good) == (1, 0, False)
    assert "file-03" in report.complaints[0]


def test_a_job_that_is_out_of_attempts_though_its_file_is_fine_is_wrong(
    run: Callable[..., Report], paths: list[str]
):
    def fail(job: LeasedJob) -> str:
        if job.payload == json.dumps(paths[3]):
            raise ValueError("cannot")
        return handle(job)

    report = run(fail)
    assert (report.wrong, report.retries) == (1, demo_load.MAX_RETRIES - 1)
    assert "ValueError: cannot" in report.complaints[0]


def test_a_job_that_the_node_forgot_is_lost(
    run: Callable[..., Report], node: FakeNode, paths: list[str]
):
    def forget(job: LeasedJob) -> str:
        if job.payload == json.dumps(paths[3]):
            node.jobs.pop(job.job_id)
        return handle(job)

    report = run(forget)
    assert (report.lost, report.wrong, report.jobs) == (1, 0, len(paths) - 1)
    assert not report.good


def test_a_job_that_is_never_done_is_lost(
    run: Callable[..., Report], node: FakeNode, paths: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(demo_load, "_STALL_SECONDS", 0.5)
    monkeypatch.setattr(demo_load, "_WAIT_SECONDS", 0.1)

    def hide(job: LeasedJob) -> str:
        if job.payload == json.dumps(paths[-1]):
            node.jobs[job.job_id].lease_token += 1  # the ack will be refused
        return handle(job)

    report = run(hide)
    assert report.lost == 1
    assert "RUNNING" in report.complaints[0]


def test_a_file_that_changed_or_went_meanwhile_proves_nothing(
    run: Callable[..., Report], paths: list[str]
):
    def touch(job: LeasedJob) -> str:
        path = json.loads(job.payload)
        result = handle(job)
        if path == paths[3]:
            Path(path).write_text("other content")
        if path == paths[4]:
            Path(path).unlink()
        return result

    report = run(touch)
    assert (report.changed, report.wrong, report.lost, report.good) == (2, 0, 0, True)


def test_a_submit_without_its_answer_is_sent_again_and_is_one_job(
    run: Callable[..., Report], node: FakeNode, paths: list[str]
):
    node.fail("submit", HangUp(ran=True), HangUp(ran=False), Answer(503))
    report = run()
    assert report.possibly_doubled == 0
    assert (report.jobs, report.lost, report.good) == (len(paths), 0, True)
    assert len(node.jobs) == len(paths)


def test_kills_come_in_the_middle(run: Callable[..., Report], paths: list[str], node: FakeNode):
    met: list[tuple[str, int, int]] = []
    lock = threading.Lock()

    def kill(name: str) -> str:
        with lock:
            acked = sum(job.state == "ACKED" for job in node.jobs.values())
            met.append((name, acked, len(node.jobs)))
        return name

    report = run(handle, (lambda: kill("first"), lambda: kill("second")))
    assert report.killed == ["first", "second"]
    (_, first_acked, first_submitted), (_, second_acked, second_submitted) = met
    assert first_acked >= len(paths) // 4
    assert second_acked >= len(paths) // 2
    # Some jobs are submitted only after everything was killed.
    assert first_submitted <= second_submitted <= len(paths) * 3 // 4


def test_what_the_node_should_not_refuse_ends_the_run(node: FakeNode, paths: list[str]):
    with Client(node.url, "client_typo") as client:
        load = Load(client, paths)
        load.start()
        with pytest.raises(AuthError):
            wait_until(lambda: load.wait(0.05))


def test_files_are_found_in_order_without_links_and_what_is_no_file(tmp_path: Path):
    (tmp_path / "b").write_text("x")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z").write_text("x")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "y").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "folder-link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "fifo")
    without = frozenset({"site-packages"})
    assert find_files(str(tmp_path), None, without) == (
        [str(tmp_path / "b"), str(tmp_path / "a" / "z")],
        0,
    )
    assert find_files(str(tmp_path), 1, without) == ([str(tmp_path / "b")], 0)
    assert len(find_files(str(tmp_path), None, frozenset())[0]) == 3
    assert find_files(str(tmp_path / "b"), None, without) == ([str(tmp_path / "b")], 0)


def test_files_that_cannot_be_read_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("x")
    # As root every file can be read, so the system is asked in the test's way.
    monkeypatch.setattr(os, "access", lambda path, _mode: not path.endswith("b"))
    assert find_files(str(tmp_path), None, frozenset()) == (
        [str(tmp_path / "a"), str(tmp_path / "c")],
        1,
    )
