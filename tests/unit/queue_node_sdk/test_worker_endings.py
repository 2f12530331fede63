import logging
from datetime import UTC, datetime, timedelta

import pytest

from queue_node_sdk import (
    BadRequest,
    JobCancelled,
    JobContext,
    JobFields,
    LeasedJob,
    LeaseLost,
    Reject,
    Release,
    Retry,
    current_job,
)
from queue_node_sdk.worker_context import context_of
from queue_node_sdk.worker_core import Done, Ending, Failed, GivenBack, Loss
from queue_node_sdk.worker_endings import attempt


class FakeControl:
    def __init__(self) -> None:
        self.loss: Loss | None = None
        self.ends_at = 0.0
        self.told: list[float | str] = []
        self.asked: list[float] = []

    def tell_progress(self, progress: float | str) -> None:
        self.told.append(progress)

    def ask(self, seconds: float) -> None:
        self.asked.append(seconds)


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
def job(control: FakeControl) -> JobContext:
    until = datetime(2026, 1, 1, tzinfo=UTC)
    leased = LeasedJob(
        job_id="a", payload="x", lease_until=until, attempt=2, lease_token="7", tags={"k": "v"}
    )
    return context_of(leased, control)


def ending_of_raising(error: BaseException, job: JobContext) -> Ending:
    def handle(_job: JobContext) -> None:
        raise error

    return attempt(handle, job)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("raised", "ending"),
    [
        (Retry(), Failed("retry")),
        (Retry("later", in_=timedelta(minutes=5)), Failed("later", retry_in=300.0)),
        (Retry(in_="5m"), Failed("retry", retry_in="5m")),
        (caused(Retry(), ValueError("why")), Failed("ValueError: why")),
        (Reject("no image"), Failed("no image", retry=False)),
        (Reject(), Failed("rejected", retry=False)),
        (Release(), GivenBack()),
        (Release(2), GivenBack(2)),
        (BaseExceptionGroup("", [ExceptionGroup("", [Reject("x")])]), Failed("x", retry=False)),
        (
            ExceptionGroup("two", [ValueError(), KeyError()]),
            Failed("ExceptionGroup: two (2 sub-exceptions)"),
        ),
        (Retry("\udc80"), Failed("\\udc80")),
    ],
    ids=repr,
)
def test_what_a_handler_raises_is_how_its_attempt_ends(
    job: JobContext, raised: BaseException, ending: Ending
):
    assert ending_of_raising(raised, job) == ending


class OwnRetry(Retry):
    def __init__(self) -> None:
        """Not ours."""


class OwnReject(Reject):
    def __init__(self) -> None:
        """Not ours."""


class OwnRelease(Release):
    def __init__(self) -> None:
        """Not ours."""


def test_a_derived_one_that_never_called_ours_ends_the_attempt_alike(job: JobContext):
    assert ending_of_raising(OwnRetry(), job) == Failed("retry")
    assert ending_of_raising(OwnReject(), job) == Failed("rejected", retry=False)
    assert ending_of_raising(OwnRelease(), job) == GivenBack()


@pytest.mark.parametrize("in_", [-1, float("nan"), True, object()])
def test_a_pause_that_cannot_be_is_the_failure_of_the_attempt(job: JobContext, in_: float):
    def handle(_job: JobContext) -> None:
        raise Retry(in_=in_)

    ending = attempt(handle, job)
    assert isinstance(ending, Failed)
    assert ending.error.startswith("BadRequest: in_ ")


def test_a_result_is_a_text_or_nothing(job: JobContext):
    assert attempt(lambda _job: "r", job) == Done("r")
    assert attempt(lambda _job: None, job) == Done(None)
    assert attempt(lambda _job: 1, job) == Failed(
        "TypeError: the handler returned int; a result is a str or None"
    )


def test_a_context_is_a_leased_job(job: JobContext):
    assert isinstance(job, LeasedJob)
    assert (job.job_id, job.attempt, job.lease_token, job.tags) == ("a", 2, "7", {"k": "v"})


@pytest.mark.parametrize("value", [0, 100, 33.3, "half"])
def test_progress_is_a_number_or_a_text(job: JobContext, control: FakeControl, value: float | str):
    job.progress(value)
    assert control.told == [value]


@pytest.mark.parametrize("value", [-1, 100.1, float("nan"), True, None, "", "x" * 257])
def test_progress_that_the_node_would_refuse(job: JobContext, control: FakeControl, value: float):
    with pytest.raises(BadRequest):
        job.progress(value)
    assert control.told == []


@pytest.mark.parametrize("seconds", [0, -1, 7 * 86_400 + 1, float("inf"), float("nan"), True])
def test_an_extension_that_cannot_be(job: JobContext, control: FakeControl, seconds: float):
    with pytest.raises(BadRequest):
        job.extend(seconds)
    assert control.asked == []


def test_a_lost_job_says_so_at_every_turn(job: JobContext, control: FakeControl):
    assert (job.lost, job.why_lost) == (False, None)
    job.raise_if_lost()
    control.loss = Loss.LEASE_LOST
    assert (job.lost, job.why_lost) == (True, "lease lost")
    with pytest.raises(LeaseLost, match="lease lost"):
        job.extend(1)
    control.loss = Loss.CANCELLED
    with pytest.raises(JobCancelled, match="cancelled"):
        job.progress(1)


def test_log_records_of_a_handler_name_its_job(job: JobContext):
    record = logging.LogRecord("x", logging.INFO, "x", 1, "x", None, None)
    seen: list[JobContext | None] = []

    def handle(_job: JobContext) -> None:
        seen.append(current_job())
        assert JobFields().filter(record)

    attempt(handle, job)
    assert seen == [job]
    assert current_job() is None
    assert (record.job_id, record.attempt) == ("a", 2)  # type: ignore[attr-defined]
