"""Lists of jobs: pages, filters, and walks while jobs come and go."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.contract import Http, Stopwatch, ids, job, moment, new_name
from tests.support.node import RunningNode

SOON_S = 20.0
"""A page that scans everything takes far longer than one of bounded work; both under load."""


@pytest.fixture(scope="module")
def http(node: RunningNode) -> Http:
    return Http(node)


@pytest.fixture
def queue() -> str:
    return new_name()


@pytest.fixture
def batch(http: Http, queue: str) -> list[str]:
    """Forty jobs of one queue."""
    return http.submitted_batch([job(queue) for _ in range(40)])


# Pages -------------------------------------------------------------------------------------


def test_a_walk_meets_every_job_once_and_the_oldest_first(http: Http, queue: str):
    job_ids = [http.submitted(queue) for _ in range(25)]
    for limit in (1, 4, 25, 1000, None):
        pages = list(http.pages(limit, queue=queue))
        assert all(len(page) <= (limit or len(job_ids)) for page in pages)
        walked = [one for page in pages for one in page]
        assert sorted(ids(walked)) == sorted(job_ids)
        created = [moment(one["created_at"]) for one in walked]
        assert created == sorted(created)


def test_a_page_has_as_many_as_were_asked_for_or_a_cursor(http: Http, queue: str, batch: list[str]):
    answer = http.get("/jobs", queue=queue, limit=1000)
    if answer.json["next_cursor"] is None:
        assert sorted(ids(answer.json["jobs"])) == sorted(batch)
    answer = http.get("/jobs", queue=queue, limit=3)
    assert len(answer.json["jobs"]) <= 3
    assert answer.json["next_cursor"], "there are more"


def test_what_is_listed_is_what_the_job_is(http: Http, queue: str):
    for state in ("READY", "SCHEDULED"):
        http.in_state(state, queue)
    http.in_state("ACKED", new_name())
    for page in http.pages(queue=queue):
        for one in page:
            whole = http.job(one["job_id"])
            assert one.items() <= whole.items()
            fields = ("job_id", "state", "attempts", "max_retries", "created_at")
            assert {field: one[field] for field in fields} == {f: whole[f] for f in fields}


def test_the_same_cursor_again_is_the_same_page(http: Http, queue: str, batch: list[str]):
    cursor = http.get("/jobs", queue=queue, limit=10).json["next_cursor"]
    pages = [http.get("/jobs", queue=queue, limit=10, cursor=cursor).json for _ in range(4)]
    assert all(page["jobs"] == pages[0]["jobs"] for page in pages)
    assert set(ids(pages[0]["jobs"])) <= set(batch)


def test_a_queue_without_jobs_has_an_empty_list(http: Http, queue: str):
    assert http.listed(queue=queue) == []


def test_without_a_filter_the_list_is_of_all_queues(http: Http, queue: str):
    job_ids = {http.submitted(queue), http.submitted(new_name())}
    walked = http.listed(1000)
    assert job_ids <= set(walked)
    assert len(set(walked)) == len(walked)


# Filters -----------------------------------------------------------------------------------


def test_by_state(http: Http):
    queues = {state: new_name() for state in ("READY", "SCHEDULED", "RUNNING", "RETRY")}
    queues |= {state: new_name() for state in ("ACKED", "DEAD", "CANCELLED")}
    job_ids = {state: http.in_state(state, name) for state, name in queues.items()}
    for state in queues:
        assert http.listed(queue=queues[state], state=state) == [job_ids[state]]
        of_this_state = http.listed(1000, state=state)
        found = [name for name, job_id in job_ids.items() if job_id in of_this_state]
        assert found == [state]
        for other in queues:
            if other != state:
                assert http.listed(queue=queues[state], state=other) == []


def test_a_state_is_the_present_one(http: Http, queue: str):
    job_id = http.submitted(queue)
    assert http.listed(queue=queue, state="READY") == [job_id]
    lease = http.leased(queue)
    assert http.listed(queue=queue, state="READY") == []
    assert http.listed(queue=queue, state="RUNNING") == [job_id]
    http.acked(lease)
    assert http.listed(queue=queue, state="ACKED") == [job_id]


def test_by_tag(http: Http, queue: str):
    red = http.submitted(queue, tags={"colour": "red"})
    red_and_big = http.submitted(queue, tags={"colour": "red", "size": "big"})
    http.submitted(queue, tags={"colour": "blue"})
    http.submitted(queue, tags={"red": "colour"})
    http.submitted(queue)
    listed = http.listed(queue=queue, tag="colour:red")
    assert sorted(listed) == sorted([red, red_and_big])
    both = http.listed(queue=queue, tag=["colour:red", "size:big"])
    assert red_and_big in both
    assert set(both) <= {red, red_and_big}
    assert http.listed(queue=queue, tag="colour:green") == []
    assert http.listed(queue=queue, tag="colour:re") == []


def test_by_a_tag_of_any_text(http: Http, queue: str):
    job_id = http.submitted(queue, tags={"schlüssel": "a&b=c 😀"})
    assert http.listed(queue=queue, tag="schlüssel:a&b=c 😀") == [job_id]


@pytest.mark.parametrize(("key", "value"), [("a:b", "c"), ("a", "b:c"), (":a", ":"), ("a:", "")])
def test_a_tag_with_colons_is_found(http: Http, queue: str, key: str, value: str):
    http.submitted(queue, tags={key: f"{value}x"})
    job_id = http.submitted(queue, tags={key: value})
    assert http.listed(queue=queue, tag=f"{key}:{value}") == [job_id]


def test_by_group(http: Http, queue: str):
    first = [http.submitted(queue, group="first") for _ in range(3)]
    second = http.submitted(queue, group="second")
    http.submitted(queue)
    assert sorted(http.listed(queue=queue, group="first")) == sorted(first)
    assert http.listed(queue=queue, group="second") == [second]
    assert http.listed(queue=queue, group="third") == []


def test_all_filters_together_and_by_pages(http: Http, queue: str):
    jobs = [
        job(queue, group="g" if n % 2 else "h", tags={"n": str(n % 3)}, priority=n % 5)
        for n in range(60)
    ]
    job_ids = http.submitted_batch(jobs)
    wanted = [job_id for n, job_id in enumerate(job_ids) if n % 2 and n % 3 == 1]
    listed = http.listed(3, queue=queue, state="READY", tag="n:1", group="g")
    assert sorted(listed) == sorted(wanted)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "1.5"}, "limit"),
        ({"limit": "9" * 400}, "limit"),
        ({"state": "DONE"}, "state"),
        ({"state": "x" * 1000}, "state"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "\x00\x7f"}, "cursor"),
        ({"cursor": "é😀"}, "cursor"),
        ({"cursor": "A" * 2000}, "cursor"),
        ({"tag": "colour"}, "tag"),
        ({"queue": "a b"}, "queue"),
        ({"queue": "x" * 129}, "queue"),
    ],
)
def test_a_bad_query_is_refused_by_its_name(http: Http, query: dict[str, str], field: str):
    answer = http.get("/jobs", **query)
    assert answer.status == 400
    assert field in answer.error


# While jobs come and go --------------------------------------------------------------------


class Churn:
    """Submits, acks and cancels in a queue, in a thread, until its block ends."""

    def __init__(self, http: Http, queue: str, to_cancel: list[str]) -> None:
        self._http = http
        self._queue = queue
        self._to_cancel = list(to_cancel)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0
        self.error: BaseException | None = None

    def __enter__(self) -> "Churn":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        assert self.error is None, self.error

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._round()
                self.rounds += 1
        except BaseException as error:
            # The block that started the thread raises it.
            self.error = error

    def _round(self) -> None:
        self._http.submitted_batch([job(self._queue) for _ in range(3)])
        self._http.submitted(self._queue, delay="1h")
        lease = self._http.leased(self._queue)
        if self.rounds % 2:
            self._http.acked(lease)
        else:
            self._http.failed(lease, retry_in="10ms")
        if self._to_cancel:
            self._http.cancel(self._to_cancel.pop())


def test_who_was_there_all_along_is_met_exactly_once(http: Http, queue: str):
    there = http.submitted_batch([job(queue) for _ in range(150)])
    walks = 0
    with Churn(http, queue, there[::3]) as churn:
        while churn.rounds < 20 or walks < 3:
            assert churn.error is None
            walked = http.listed(13, queue=queue)
            walks += 1
            assert len(set(walked)) == len(walked), "none is met twice"
            assert set(there) <= set(walked)


def test_a_filtered_walk_meets_who_fitted_all_along(http: Http, queue: str):
    # Nothing touches these: they are not due.
    there = http.submitted_batch([job(queue, delay="2h", tags={"a": "b"}) for _ in range(60)])
    http.submitted_batch([job(queue) for _ in range(60)])
    with Churn(http, queue, []) as churn:
        while churn.rounds < 10:
            assert churn.error is None
            walked = http.listed(7, queue=queue, state="SCHEDULED", tag="a:b")
            assert sorted(walked) == sorted(there)


@pytest.fixture(scope="module")
def crowd(http: Http) -> Iterator[str]:
    """A queue of many jobs."""
    name = new_name("crowd")
    http.submitted_batch([job(name, tags={"a": "b"}) for _ in range(10_000)])
    yield name
    http.of_queue("DELETE", name, "jobs?state=READY")


@pytest.mark.parametrize(
    "filters", [{"state": "CANCELLED"}, {"tag": "a:c"}, {"group": "g"}, {"state": "DEAD"}]
)
def test_a_filter_that_matches_nothing_is_answered_soon(
    http: Http, crowd: str, filters: dict[str, Any]
):
    watch = Stopwatch()
    answer = http.get("/jobs", queue=crowd, **filters)
    assert answer.status == 200
    assert answer.json["jobs"] == []
    assert answer.json["next_cursor"] is None or isinstance(answer.json["next_cursor"], str)
    assert http.listed(queue=crowd, **filters) == [], "and the walk ends"
    assert watch.passed_s < SOON_S


def test_one_of_many_is_found(http: Http, crowd: str):
    job_id = http.submitted(crowd, tags={"needle": "yes"}, delay="1h")
    assert http.listed(queue=crowd, tag="needle:yes") == [job_id]
    assert http.listed(queue=crowd, state="SCHEDULED") == [job_id]
