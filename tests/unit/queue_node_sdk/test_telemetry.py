"""Traces from a submit to its handler, over the real engine."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
)

from queue_node_sdk import JobContext, Reject, Release, Submit, telemetry
from queue_node_sdk.testing import LocalNode
from tests.support.polling import DEADLINE_S
from tests.support.running_worker import RunningWorker


class Traces:
    """What was recorded, and a tracer to record with."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.get_tracer = provider.get_tracer
        self.tracer = provider.get_tracer("test")

    @property
    def attempts(self) -> list[ReadableSpan]:
        spans = self._exporter.get_finished_spans()
        return [span for span in spans if span.kind is SpanKind.CONSUMER]


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Traces:
    made = Traces()
    # The provider of a process can be set only once, and other tests run in this one.
    monkeypatch.setattr(telemetry, "get_tracer", made.get_tracer)
    return made


@pytest.fixture
def node() -> Iterator[LocalNode]:
    with LocalNode() as made:
        yield made


def header_of(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@contextmanager
def remote_span(state: str = "", trace_id: int = 1) -> Iterator[SpanContext]:
    """As if a request that is part of a trace were being answered."""
    context = SpanContext(
        trace_id, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=state_of(state)
    )
    with trace.use_span(NonRecordingSpan(context)):
        yield context


def state_of(header: str) -> TraceState:
    return TraceState.from_header([header]) if header else TraceState()


# Submitting


def test_without_a_span_a_submit_carries_nothing(node: LocalNode):
    assert node.client.get(node.client.submit("x", tags={"a": "b"})).tags == {"a": "b"}


def test_every_way_to_submit_carries_the_current_context(node: LocalNode, traces: Traces):
    with traces.tracer.start_as_current_span("request") as span:
        expected = header_of(span.get_span_context())
        ids = [
            node.client.submit("x"),
            *node.client.submit_many(["y", Submit("z", tags={"a": "b"})]),
        ]
    tags = [node.client.get(job_id).tags for job_id in ids]
    assert [each["traceparent"] for each in tags] == [expected] * 3
    assert tags[2]["a"] == "b"


async def test_an_async_client_carries_it_too(node: LocalNode):
    async with node.make_async_client() as client:
        with remote_span() as context:
            ids = [await client.submit("x"), *await client.submit_many(["y"])]
        tags = [(await client.get(job_id)).tags for job_id in ids]
    assert tags == [{"traceparent": header_of(context)}] * 2


def test_a_key_of_ones_own_is_no_conflict_in_another_trace(node: LocalNode):
    with remote_span(trace_id=1) as first:
        job_id = node.client.submit("x", idempotency_key="k")
    with remote_span("vendor=7", trace_id=2):
        assert node.client.submit("x", idempotency_key="k") == job_id
        assert node.client.submit_many(["x"], idempotency_key="k") == [job_id]
    assert node.client.submit("x", idempotency_key="k") == job_id
    assert node.client.get(job_id).tags == {"traceparent": header_of(first)}


@pytest.mark.parametrize(
    "tags", [{"traceparent": "mine"}, {str(number): "x" for number in range(16)}]
)
def test_tags_of_ones_own_go_first(node: LocalNode, tags: dict[str, str]):
    with remote_span():
        assert node.client.get(node.client.submit("x", tags=tags)).tags == tags


def test_of_a_long_state_the_first_entries_fit(node: LocalNode):
    state = ",".join(f"vendor{number}={'x' * 100}" for number in range(4))
    with remote_span(state):
        tags = node.client.get(node.client.submit("x")).tags
    assert tags["tracestate"] == ",".join(state.split(",")[:2])
    with remote_span(f"vendor={'x' * 255}"):
        assert "tracestate" not in node.client.get(node.client.submit("x")).tags


# Working


def test_an_attempt_is_a_span_below_that_of_the_submit(node: LocalNode, traces: Traces):
    inside: list[dict[str, str]] = []

    def handle(job: JobContext) -> None:
        if job.payload == "first":
            second = node.client.submit("second", queue="other")
            inside.append(node.client.get(second).tags)

    with remote_span("vendor=7") as submitted:
        job_id = node.client.submit("first", queue="mail", group="g")
    node.drain(handle, queues=["mail"])
    (span,) = traces.attempts
    assert span.name == "process mail"
    assert span.parent == submitted
    assert span.context is not None
    assert span.context.trace_state == state_of("vendor=7")
    assert [link.context for link in span.links] == [submitted]
    assert dict(span.attributes or {}) == {
        "messaging.system": "queue_node",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mail",
        "messaging.message.id": job_id,
        "queue_node.job.attempt": 1,
        "queue_node.job.group": "g",
    }
    assert span.status.status_code is StatusCode.UNSET
    # What the handler submits is of the same trace, below the attempt.
    assert inside == [{"traceparent": header_of(span.context), "tracestate": "vendor=7"}]


@pytest.mark.parametrize("tags", [{}, {"traceparent": "nonsense", "tracestate": "é=\x00"}])
def test_without_a_trace_an_attempt_begins_one(
    node: LocalNode, traces: Traces, tags: dict[str, str]
):
    node.client.submit("x", tags=tags)
    with remote_span():  # the worker's own affairs
        node.drain(lambda _job: None)
    (span,) = traces.attempts
    assert (span.parent, list(span.links)) == (None, [])


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("raised", "name", "words"),
    [
        (ValueError("no \udc80"), "ValueError", "ValueError: no \\udc80"),
        (Unprintable(), f"{__name__}.Unprintable", "Unprintable"),
        (ExceptionGroup("", [KeyError("k")]), "KeyError", "KeyError: 'k'"),
        (Reject("bad"), "queue_node_sdk.worker_context.Reject", "Reject: bad"),
        (SystemExit(3), "SystemExit", "SystemExit: 3"),
        (StopIteration(), "StopIteration", "StopIteration"),
    ],
)
def test_what_a_handler_raises_is_in_its_span(
    node: LocalNode, traces: Traces, raised: BaseException, name: str, words: str
):
    def handle(_job: JobContext) -> None:
        raise raised

    node.client.submit("x")
    node.drain(handle)
    (span,) = traces.attempts
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == words
    assert (span.attributes or {})["error.type"] == name
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["exception.type"] == name
    assert event.attributes["exception.message"] == words
    stack = event.attributes["exception.stacktrace"]
    assert isinstance(stack, str)
    assert name.rpartition(".")[2] in stack
    stack.encode()


def test_a_job_that_is_given_back_has_not_failed(node: LocalNode, traces: Traces):
    def handle(_job: JobContext) -> None:
        raise Release("1h")

    node.client.submit("x")
    node.drain(handle)
    (span,) = traces.attempts
    assert span.status.status_code is StatusCode.UNSET
    assert span.events == ()


def test_each_attempt_has_a_span_of_its_own(node: LocalNode, traces: Traces):
    def handle(job: JobContext) -> None:
        if job.attempt == 1:
            raise ValueError("once")

    with remote_span() as submitted:
        node.client.submit("x")
    node.drain(handle, ahead="1h")
    assert [span.parent for span in traces.attempts] == [submitted] * 2
    numbers = [(span.attributes or {})["queue_node.job.attempt"] for span in traces.attempts]
    assert numbers == [1, 2]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_handler_is_in_its_span_and_in_no_others(
    node: LocalNode, traces: Traces, backend: Any
):
    current: dict[str, SpanContext] = {}

    async def handle(job: JobContext) -> None:
        await anyio.sleep(0.02)
        current[job.job_id] = trace.get_current_span().get_span_context()

    ids = [node.client.submit(str(number)) for number in range(4)]
    running = RunningWorker(node.make_worker(handle, backend=backend))
    for job_id in ids:
        node.client.wait(job_id, timeout=DEADLINE_S)
    running.stop()
    assert running.error is None
    spans = {(span.attributes or {})["messaging.message.id"]: span for span in traces.attempts}
    assert {job_id: span.context for job_id, span in spans.items()} == current
    assert len(current) == 4


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_was_called_off_says_why(node: LocalNode, traces: Traces, backend: Any):
    begun = threading.Event()

    async def handle(_job: JobContext) -> None:
        begun.set()
        await anyio.sleep_forever()

    node.client.submit("x")
    running = RunningWorker(node.make_worker(handle, backend=backend, grace=0.0))
    assert begun.wait(DEADLINE_S)
    running.stop()
    (span,) = traces.attempts
    assert span.status.description == "the worker is shutting down"
    assert (span.attributes or {})["error.type"] == "lost"
    assert span.events == ()


def test_without_the_package_nothing_is_different():
    program = """
import sys
sys.modules["opentelemetry"] = None
from queue_node_sdk import telemetry
from queue_node_sdk.testing import LocalNode
with LocalNode() as node:
    job_id = node.client.submit("x", tags={"a": "b"})
    node.drain(lambda job: job.payload.upper())
    job = node.client.get(job_id)
print(job.result, job.tags, hasattr(telemetry, "Span"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("X {'a': 'b'} False\n", "")
