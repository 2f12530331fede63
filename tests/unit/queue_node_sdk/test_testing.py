"""Tasks, the node in this process, the fake and the fixtures, together."""

import dataclasses
import sys
import threading
from datetime import UTC, datetime

import msgspec
import pydantic
import pytest

from queue_node_sdk import JobState, NotFound, Reject, Release, Retry, Timeout, current_job
from queue_node_sdk.errors import BadRequest, ConfigurationError
from queue_node_sdk.fake import FakeClient
from queue_node_sdk.task_codec import BadArguments
from queue_node_sdk.tasks import TaskFailed, Tasks, default
from queue_node_sdk.tasks import task as default_task
from queue_node_sdk.testing import LocalNode


@dataclasses.dataclass
class Size:
    width: int
    height: int


class Point(msgspec.Struct):
    x: int


class Model(pydantic.BaseModel):
    when: datetime
    points: list[int]


tasks = Tasks()


@tasks.task(queue="images", max_retries=3)
def shrink(
    path: str, size: Size, *, point: Point | None = None, model: Model | None = None
) -> Size:
    job = current_job()
    assert job is not None
    job.progress(50)
    if path == "bad":
        raise Reject("not an image")
    if path == "fails":
        raise ValueError("broken")
    return Size(size.width // 2, size.height // 2)


@tasks.task
async def echo(model: Model) -> list[Model]:
    return [model, model]


@pytest.fixture
def node():
    with LocalNode() as made, tasks.connected(made.client):
        yield made


def test_a_task_goes_there_and_back_with_its_types(node: LocalNode):
    handle = shrink.send("a.png", Size(640, 480), point=Point(1))
    model = Model(when=datetime(2030, 1, 2, tzinfo=UTC), points=[1, 2])
    echoed = echo.send(model)
    assert len(node.drain(tasks)) == 2
    assert handle.result() == Size(320, 240)
    assert echoed.result() == [model, model]
    job = handle.job()
    assert (job.queue, job.max_retries, job.progress) == ("images", 3, 50)


class Text(str):
    """As some libraries have texts of their own."""

    __slots__ = ()


def test_a_task_takes_texts_of_other_libraries(node: LocalNode):
    handle = shrink.send(Text("a.png"), Size(640, 480))
    node.drain(tasks)
    assert handle.result() == Size(320, 240)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_task_runs_on_both_loops(node: LocalNode, backend):
    model = Model(when=datetime(2030, 1, 2, tzinfo=UTC), points=[])
    handle = echo.send(model)
    node.drain(tasks, backend=backend)
    assert handle.result() == [model, model]


def test_called_it_is_the_function():
    with pytest.raises(AssertionError):
        shrink("a", Size(2, 2))  # there is no job


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "missing a required argument"),
        (("a", 3), "size: Expected `object`, got `int`"),
        ((3, Size(1, 1)), "path: Expected `str`, got `int`"),
        (("a", object()), "cannot be JSON"),
        (("\ud800", Size(1, 1)), "cannot be JSON"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_sent(node: LocalNode, args, words):
    with pytest.raises(BadArguments, match=words):
        shrink.send(*args)
    assert node.client.queues() == []


def test_arguments_that_no_longer_fit_make_the_job_dead_at_once(node: LocalNode):
    for payload in (
        msgspec.json.encode({"task": shrink.name, "args": {"path": 1}}).decode(),
        "not json",
        msgspec.json.encode({"task": shrink.name, "args": {"other": 1}}).decode(),
    ):
        job_id = node.client.submit(payload, max_retries=5)
        (job,) = node.drain(tasks, queues=["default"])
        assert (job.job_id, job.state, job.attempts) == (job_id, JobState.DEAD, 1)


def test_a_task_that_is_not_known_may_be_known_to_others(node: LocalNode):
    node.client.submit('{"task":"other","args":{}}')
    (job,) = node.drain(tasks, queues=["default"])
    assert job.state is JobState.RETRY
    assert "no task 'other'" in (job.result_error or "")


def test_a_rejected_job_is_dead_and_its_handle_says_so(node: LocalNode):
    handle = shrink.send("bad", Size(1, 1))
    node.drain(tasks)
    with pytest.raises(TaskFailed, match="not an image") as raised:
        handle.result()
    assert raised.value.job.state is JobState.DEAD


def test_drain_goes_through_retries_when_the_clock_may_be_moved(node: LocalNode):
    handle = shrink.send("fails", Size(1, 1))
    assert [job.state for job in node.drain(tasks)] == [JobState.RETRY]
    assert node.drain(tasks) == []
    assert [job.state for job in node.drain(tasks, ahead="1h")] == [JobState.RETRY, JobState.DEAD]
    assert handle.job().result_error == "ValueError: broken"


def test_many_are_sent_in_one_request(node: LocalNode):
    handles = shrink.send_many(shrink.call(str(n), Size(n, n)) for n in range(20))
    assert len(node.drain(tasks)) == 20
    assert [handle.result() for handle in handles] == [Size(n // 2, n // 2) for n in range(20)]


def test_a_delayed_job_waits_for_the_clock(node: LocalNode):
    handle = shrink.using(delay="2h").send("a", Size(2, 2))
    node.advance("1h59m")
    assert node.drain(tasks) == []
    node.advance("1m")
    assert len(node.drain(tasks)) == 1
    assert handle.result() == Size(1, 1)


def test_plain_handlers_end_as_with_a_worker(node: LocalNode):
    def handler(job):
        match job.payload:
            case "retry":
                raise Retry("later", in_="5m")
            case "release":
                raise Release("1h")
        return job.payload.upper()

    names = {payload: node.client.submit(payload) for payload in ("a", "retry", "release")}
    node.drain(handler)
    states = {payload: node.client.get(job_id) for payload, job_id in names.items()}
    assert (states["a"].state, states["a"].result) == (JobState.ACKED, "A")
    assert (states["retry"].state, states["retry"].attempts) == (JobState.RETRY, 1)
    assert states["release"].attempts == 0


def test_two_functions_cannot_have_one_name():
    own = Tasks()
    own.task(name="x")(test_called_it_is_the_function)
    with pytest.raises(ConfigurationError, match="two tasks"):
        own.task(name="x")(test_many_are_sent_in_one_request)
    with pytest.raises(ConfigurationError, match="no option colour"):
        own.task(colour="red")  # type: ignore[call-overload]


def test_what_can_have_no_process_is_refused_before_any_work():
    own = Tasks()

    @own.task(process=True)
    def inside() -> None: ...

    with pytest.raises(ConfigurationError, match="at the top of a module"):
        _ = own.handler
    mixed = Tasks()
    mixed.task(process=True)(test_called_it_is_the_function)

    @mixed.task
    async def waits() -> None: ...

    with pytest.raises(ConfigurationError, match="do not go together"):
        _ = mixed.handler


def test_without_the_server_it_says_which_extra_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "queue_node.engine", None)
    with pytest.raises(ConfigurationError, match=r"queue-node-sdk\[testing\]"):
        LocalNode()


async def test_an_async_client_reaches_it_too(node: LocalNode):
    async with node.make_async_client() as client:
        job_id = await client.submit("a")
        assert (await client.get(job_id)).state is JobState.READY


def test_the_fake_records_and_says_what_it_is_told():
    fake = FakeClient()
    with tasks.connected(fake):
        handle = shrink.send("a", Size(2, 2))
    (submit,) = fake.submits
    assert (submit.queue, submit.options["max_retries"]) == ("images", 3)
    with pytest.raises(Timeout):
        fake.wait(handle.job_id)
    fake.finish(handle.job_id, '{"width":1,"height":1}')
    with tasks.connected(fake):
        assert handle.result() == Size(1, 1)


def test_the_fake_refuses_what_the_client_refuses():
    fake = FakeClient()
    with pytest.raises(BadRequest):
        fake.submit("")
    with pytest.raises(BadRequest):
        fake.submit_many(["a", ""])
    assert fake.submits == []
    with pytest.raises(NotFound):
        fake.get("nothing")
    first = fake.submit("a", idempotency_key="k")
    assert fake.submit("a", idempotency_key="k") == first
    assert len(fake.submits) == 1


@default_task(queue="mail")
def remind(whom: str) -> str:
    return f"reminded {whom}"


def test_the_fixture_sends_the_default_tasks_through_its_node(queue_node: LocalNode):
    handle = remind.using(delay="24h").send("ada")
    assert queue_node.drain(default) == []
    queue_node.advance("24h")
    queue_node.drain(default)
    assert handle.result() == "reminded ada"


def test_the_fixture_of_the_fake_records_the_default_tasks(fake_queue: FakeClient):
    remind.send("ada")
    assert [each.queue for each in fake_queue.submits] == ["mail"]


def test_a_worker_works_through_it(node: LocalNode):
    worker = node.make_worker(tasks.handler, queues=tasks.queues, concurrency=2)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        assert shrink.send("a", Size(4, 4)).result(timeout=20) == Size(2, 2)
        sent = echo.send(Model(when=datetime(2030, 1, 2, tzinfo=UTC), points=[]))
        assert len(sent.result(timeout=20)) == 2
    finally:
        worker.stop()
        thread.join(20)
    assert not thread.is_alive()
