"""OpenTelemetry, where ``opentelemetry-api`` is installed: a trace goes on from submit to handler.

The context of a submit travels in two tags of its job, ``traceparent`` and ``tracestate``, as
https://www.w3.org/TR/trace-context/ writes them; so a worker in any language can go on with it.
An attempt is a span of kind CONSUMER by OpenTelemetry's conventions for messaging.

Without the package nothing here does anything. The clients call ``traced``; whoever runs a
handler enters ``attempt_span``.
"""

# ``_installed`` says whether the names are there; pyright cannot know.
# pyright: reportPossiblyUnboundVariable=false

import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

from queue_node_sdk.models import LeasedJob
from queue_node_sdk.options import JobOptions
from queue_node_sdk.version import __version__

try:
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        Link,
        Span,
        SpanKind,
        Status,
        StatusCode,
        get_current_span,
        get_tracer,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    _installed = False
else:
    _installed = True

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
_TAGS_MAX: Final = 16
_TAG_CHARACTERS_MAX: Final = 256
"""Of the contract."""


# Submitting


def traced(options: JobOptions) -> JobOptions:
    """``options`` with the tags of the current trace; unchanged when there is none.

    Nor are they added to a job that names the tags itself, or has no room for them. With an
    idempotency key of the caller's own they are no matter: the node leaves them out when it
    compares jobs.
    """
    if not _installed:
        return options
    if not get_current_span().get_span_context().is_valid:
        return options
    tags = options.get("tags") or {}
    # What is no mapping is for others to refuse.
    if not isinstance(tags, Mapping) or TRACEPARENT in tags or TRACESTATE in tags:
        return options
    context: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(context)
    state = _shortened(context.pop(TRACESTATE, ""))
    if state:
        context[TRACESTATE] = state
    if len(tags) + len(context) > _TAGS_MAX:
        return options
    return {**options, "tags": {**tags, **context}}


def _shortened(state: str) -> str:
    """What a tag can hold of it: entries are left out from the end, as the W3C says."""
    while len(state) > _TAG_CHARACTERS_MAX:
        state = state.rpartition(",")[0]
    return state


# Working


class AttemptSpan:
    """The span of an attempt, or nothing."""

    def __init__(self, span: "Span | None") -> None:
        self._span = span

    def failed(self, error: BaseException, words: str) -> None:
        """The attempt is a failure: ``error``, and the same in words that can be sent."""
        if self._span is None or not self._span.is_recording():
            return
        name = _name_of(error)
        # Not ``record_exception``: that one fails over an exception that cannot be printed.
        lines = "".join(traceback.format_exception(error))
        event = {
            "exception.type": name,
            "exception.message": words,
            "exception.stacktrace": lines.encode(errors="backslashreplace").decode(),
        }
        self._span.add_event("exception", event)
        self._end_badly(name, words)

    def called_off(self, why: str) -> None:
        """The job was lost, and its handler ended for it."""
        if self._span is not None:
            self._end_badly("lost", why)

    def _end_badly(self, kind: str, words: str) -> None:
        assert self._span is not None
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, words))


_NOTHING: Final = AttemptSpan(None)


@contextmanager
def attempt_span(job: LeasedJob) -> Generator[AttemptSpan, None, None]:
    """Inside, the current span is that of this attempt of ``job``.

    It is a child of the span in which the job was submitted, and linked to it, as the conventions
    have it. Of a job without a trace it is the first span of a new one, whatever else goes on
    around the worker.
    """
    if not _installed:
        yield _NOTHING
        return
    parent = TraceContextTextMapPropagator().extract(job.tags, Context())
    submitted = get_current_span(parent).get_span_context()
    # Asked for each time: a program may set its provider after it imported us.
    tracer = get_tracer("queue_node_sdk", __version__)
    with tracer.start_as_current_span(
        f"process {job.queue}",
        context=parent,
        kind=SpanKind.CONSUMER,
        attributes=_attributes(job),
        links=[Link(submitted)] if submitted.is_valid else [],
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield AttemptSpan(span)


def _attributes(job: LeasedJob) -> dict[str, str | int]:
    """https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/."""
    attributes: dict[str, str | int] = {
        "messaging.system": "queue_node",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": job.queue,
        "messaging.message.id": job.job_id,
        "queue_node.job.attempt": job.attempt,
    }
    if job.group:
        attributes["queue_node.job.group"] = job.group
    return attributes


def _name_of(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"
