"""The OpenAPI 3.1 document, made from the structs that bodies and answers are coded with.

``ROUTES`` says what each route takes and gives; the rest comes from those types, so the document
cannot say other than what is decoded. Not among the pure files of the import contracts only
because the structs of the key routes lie behind ``api.keys``; it does nothing but compute.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from api import bodies, views
from api.caller import ACK, KEYS_CREATE, KEYS_READ, KEYS_REVOKE, LEASE, READ, SUBMIT
from api.durations import DURATION_PATTERN
from api.key_schemas import KeyBody, NewKeyBody, RevokedBody
from api.problems import ErrorBody
from api.query_schemas import PAGE_JOBS, PAGE_JOBS_MAX, STATES

Schema = dict[str, Any]
Content = Any
"""What an answer holds: a struct, ``list[struct]``, a tuple of structs (one of them), or these."""

NOTHING: Final = "nothing"
TEXT: Final = "text"
OPEN: Final = "open"
"""In the place of a scope: no key is needed."""
ADMIN: Final = "admin"
"""In the place of a scope: a key of type admin."""


class Query(msgspec.Struct, frozen=True):
    """A parameter of a query."""

    name: str
    schema: Schema
    about: str = ""
    required: bool = False


class Route(msgspec.Struct, frozen=True):
    """What a method of a path takes, and gives when it is not refused.

    Refusals that are particular to it are in ``problems``; 400, 401, 403, 413, 414, 415, 500 and
    503 are not, nor is the 404 of a path with a placeholder.
    """

    method: Literal["get", "post", "delete"]
    path: str
    scope: str
    about: str
    answers: dict[int, Content]
    body: type[msgspec.Struct] | None = None
    problems: tuple[int, ...] = ()
    query: tuple[Query, ...] = ()
    body_required: bool = True


_QUEUE: Final[Schema] = {"type": "string", "pattern": f"^{bodies.QUEUE_PATTERN}$"}
_WAIT: Final = Query(
    "wait", {"type": "string", "pattern": DURATION_PATTERN}, "until it is finished, at most `60s`"
)
_FILTERS: Final = (
    Query("queue", _QUEUE),
    Query("state", {"enum": list(STATES)}),
    Query(
        "tag",
        {
            "type": "array",
            "items": {"type": "string", "pattern": "^[^:]+:"},
            "maxItems": bodies.TAGS_MAX,
        },
        "`key:value`, repeatable: all of them",
    ),
    Query("group", {"type": "string", "minLength": 1, "maxLength": 256}),
    Query(
        "limit", {"type": "integer", "minimum": 1, "maximum": PAGE_JOBS_MAX, "default": PAGE_JOBS}
    ),
    Query("cursor", {"type": "string"}, "`next_cursor` of the page before"),
)
_PURGED: Final = Query(
    "state", {"enum": [state for state in STATES if state != "RUNNING"]}, required=True
)

ROUTES: Final = (
    Route(
        "post",
        "/jobs",
        SUBMIT,
        "Submit a job. 200: it was submitted before, with this idempotency key",
        {201: views.JobCreated, 200: views.JobCreated},
        bodies.SubmitBody,
        (422, 429, 507),
    ),
    Route(
        "post",
        "/jobs/batch",
        SUBMIT,
        "Submit many jobs: all of them, or none",
        {201: views.JobsCreated, 503: (views.PartlyStored, ErrorBody)},
        bodies.BatchBody,
        (422, 429, 507),
    ),
    Route(
        "post",
        "/jobs/lease",
        LEASE,
        "Lease the next ready job, or with `max` up to so many. 404: there is none",
        {200: (views.LeasedJob, views.LeasedJobs)},
        bodies.LeaseBody,
        (404,),
        body_required=False,
    ),
    Route(
        "post",
        "/jobs/{job_id}/ack",
        ACK,
        "End an attempt, well or badly",
        {200: NOTHING},
        bodies.AckBody,
        (409,),
        body_required=False,
    ),
    Route(
        "post",
        "/jobs/ack",
        ACK,
        "End many attempts: one result for each, in order",
        {200: views.Results},
        bodies.AcksBody,
    ),
    Route(
        "post",
        "/jobs/{job_id}/extend",
        ACK,
        "Keep a lease alive, and tell how far the work is",
        {200: views.ExtendedLease},
        bodies.ExtendBody,
        (404, 409),
    ),
    Route(
        "post",
        "/jobs/extend",
        ACK,
        "Keep many leases alive: one result for each, in order",
        {200: views.ExtendResults},
        bodies.ExtendsBody,
    ),
    Route(
        "post",
        "/jobs/{job_id}/release",
        ACK,
        "Give a job back without using up the attempt",
        {200: NOTHING},
        bodies.ReleaseBody,
        (404, 409),
    ),
    Route(
        "get",
        "/jobs/{job_id}",
        READ,
        "A job; with `wait` when it is finished, or at the end of the wait",
        {200: views.JobStatus},
        None,
        (404,),
        (_WAIT,),
    ),
    Route(
        "get",
        "/jobs",
        READ,
        "Jobs in order of creation, a page at a time; a page may be short and not the last",
        {200: views.JobPage},
        None,
        (),
        _FILTERS,
    ),
    Route(
        "post",
        "/jobs/{job_id}/cancel",
        SUBMIT,
        "Call a job off that is not finished",
        {200: views.JobStatus},
        None,
        (404, 409),
    ),
    Route(
        "post",
        "/jobs/{job_id}/retry",
        SUBMIT,
        "Let a DEAD or CANCELLED job start again, its attempts at zero",
        {200: views.JobStatus},
        None,
        (404, 409, 429, 507),
    ),
    Route(
        "delete",
        "/jobs/{job_id}",
        ADMIN,
        "Forget a finished job",
        {200: NOTHING},
        None,
        (404, 409),
    ),
    Route("get", "/queues", READ, "All queues", {200: views.QueuesBody}),
    Route("get", "/queues/{queue}", READ, "A queue", {200: views.QueueBody}, None, (404,)),
    Route(
        "post",
        "/queues/{queue}/pause",
        ADMIN,
        "No leases of this queue; submits go on",
        {200: views.QueueBody},
        None,
        (429, 507),
    ),
    Route(
        "post",
        "/queues/{queue}/resume",
        ADMIN,
        "Leases of this queue again",
        {200: views.QueueBody},
        None,
        (429, 507),
    ),
    Route(
        "post",
        "/queues/{queue}/retry-dead",
        ADMIN,
        "Let all DEAD jobs of a queue start again",
        {200: views.Count},
        None,
        (404, 507),
    ),
    Route(
        "delete",
        "/queues/{queue}/jobs",
        ADMIN,
        "Forget all jobs of a queue that are in a state",
        {200: views.Count},
        None,
        (404, 507),
        (_PURGED,),
    ),
    Route(
        "post",
        "/admin/keys",
        KEYS_CREATE,
        "Make a key, which is shown whole in this answer alone",
        {201: KeyBody},
        NewKeyBody,
    ),
    Route("get", "/admin/keys", KEYS_CREATE, "All keys, revoked ones too", {200: list[KeyBody]}),
    Route("get", "/keys", KEYS_READ, "The keys of the caller's owner", {200: list[KeyBody]}),
    Route(
        "delete",
        "/keys/{key}",
        KEYS_REVOKE,
        "Revoke a key, named by itself or its id",
        {200: RevokedBody},
        None,
        (404,),
    ),
    Route("get", "/health", OPEN, "Whether the process lives", {200: TEXT}),
    Route(
        "get",
        "/ready",
        OPEN,
        "Whether every partition serves",
        {200: views.Readiness, 503: views.Readiness},
    ),
    Route("get", "/openapi.json", OPEN, "This document", {200: dict[str, Any]}),
)

_REFUSED: Final = {
    400: "Malformed: the words name the field",
    401: "No key, or none that is valid",
    403: "The key may not do this",
    404: "There is none",
    409: "The lease is lost, the job cancelled, or in another state",
    413: "Too large",
    414: "The target, with its query, is too long",
    415: "By its Content-Type the body is no JSON",
    422: "The idempotency key was used with another body",
    429: "As many jobs or queues as may be",
    500: "A bug, or damage on the disk: see the node's log",
    503: "Not now: try again, as Retry-After says",
    507: "The disk is full",
}
_ALWAYS: Final = (401, 403, 500, 503)
_WITH_INPUT: Final = (400, 413)

_ABOUT: Final = (
    "A durable job queue. A 201 means that the job is on disk. Times are RFC 3339 in UTC, durations"
    ' Go style (`1m30s`) or a number of seconds; an error is `{"error": "what is wrong"}`.'
)

_REF: Final = "#/components/schemas/{name}"
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_PATH_SCHEMAS: Final[dict[str, Schema]] = {
    "job_id": {"type": "string", "format": "uuid"},
    "queue": _QUEUE,
    "key": {"type": "string"},
}
_HEADERS: Final[dict[tuple[str, str, int], Schema]] = {
    ("post", "/jobs", 200): {
        "Idempotent-Replay": {"required": True, "schema": {"const": "true"}},
    },
}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "the same as the field `idempotency_key`",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": bodies.IDEMPOTENCY_KEY_CHARS_MAX,
        "pattern": "^[ -~]+$",
    },
}


def document(version: str) -> Schema:
    """The whole document, of a server of this ``version``."""
    types = list(_types())
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    _require_all(components[NewKeyBody.__name__])
    paths: dict[str, Schema] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Queue Node", "version": version, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _require_all(schema: Schema) -> None:
    """Of a body that is decoded with null and absent fields only to refuse them in our words."""
    for field in schema["properties"].values():
        value, null = field.pop("anyOf")
        assert null == {"type": "null"}
        field.update(value)
        del field["default"]
    schema["required"] = list(schema["properties"])


def _types() -> Iterator[Content]:
    """Each that a schema is made of, once."""
    seen: dict[str, Content] = {repr(ErrorBody): ErrorBody}
    for route in ROUTES:
        for content in (route.body, *route.answers.values()):
            for kind in content if isinstance(content, tuple) else (content,):
                if kind not in (None, NOTHING, TEXT):
                    seen[repr(kind)] = kind
    yield from seen.values()


def _operation(route: Route, schema_of: dict[str, Schema]) -> Schema:
    operation: Schema = {
        "operationId": _operation_id(route),
        "summary": route.about,
        "parameters": list(_parameters(route)),
        "security": [] if route.scope == OPEN else [{"key": [route.scope]}],
        "responses": _responses(route, schema_of),
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.body_required,
            "content": {"application/json": {"schema": schema_of[repr(route.body)]}},
        }
    return operation


def _operation_id(route: Route) -> str:
    parts = re.findall(r"\w+", route.path)
    return "_".join([route.method, *parts])


def _parameters(route: Route) -> Iterator[Schema]:
    for name in _PLACEHOLDER.findall(route.path):
        yield {"name": name, "in": "path", "required": True, "schema": _PATH_SCHEMAS[name]}
    for query in route.query:
        shown = {"name": query.name, "in": "query", "required": query.required}
        about = {"description": query.about} if query.about else {}
        yield {**shown, **about, "schema": query.schema}
    if (route.method, route.path) == ("post", "/jobs"):
        yield _IDEMPOTENCY_KEY


def _responses(route: Route, schema_of: dict[str, Schema]) -> Schema:
    responses: Schema = {}
    for status in sorted({*route.answers, *_refusals(route)}):
        content = route.answers.get(status, ErrorBody)
        response: Schema = {"description": _REFUSED.get(status, "Done")}
        if content == TEXT:
            response["content"] = {"text/plain": {"schema": {"type": "string"}}}
        elif content != NOTHING:
            response["content"] = {"application/json": {"schema": _schema(content, schema_of)}}
        if headers := _HEADERS.get((route.method, route.path, status)):
            response["headers"] = headers
        responses[str(status)] = response
    # The door's own: a head that is too long, a body that is too slow, a method that is not there.
    responses["default"] = {
        "description": "Refused",
        "content": {"application/json": {"schema": schema_of[repr(ErrorBody)]}},
    }
    return responses


def _refusals(route: Route) -> tuple[int, ...]:
    if route.scope == OPEN:
        return route.problems
    has_placeholder = "{" in route.path
    takes_input = route.body is not None or route.query or has_placeholder
    return (
        *_ALWAYS,
        *route.problems,
        *(_WITH_INPUT if takes_input else ()),
        *((415,) if route.body is not None else ()),
        *((414,) if route.query or has_placeholder else ()),
        # Also of a path that no route may see, such as one with an escaped slash.
        *((404,) if has_placeholder else ()),
    )


def _schema(content: Content, schema_of: dict[str, Schema]) -> Schema:
    if isinstance(content, tuple):
        return {"anyOf": [schema_of[repr(kind)] for kind in content]}
    return schema_of[repr(content)]
