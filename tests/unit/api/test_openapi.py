"""The document against what is decoded and encoded: neither may say what the other does not."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from api import bodies, openapi, views
from api.caller import SCOPES_OF
from api.key_schemas import NewKeyBody, check, shown
from api.keystore.base import KeyRecord
from api.lease_schemas import (
    decode_ack,
    decode_acks,
    decode_extend,
    decode_extends,
    decode_lease,
    decode_release,
)
from api.problems import Problem, to_answer
from api.submit_schemas import SubmitLimits, decode_batch, decode_submit
from partitions.messages import JobView, Leased, QueueView
from partitions.options import Options, encode_options

DOCUMENT = openapi.document("1.2.3")
JOB_ID = bytes(16)
_KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """As much of JSON Schema as the document uses; what it does not know, it will not pass."""
    return all(_RULES[rule](value, bound, schema) for rule, bound in schema.items())


def _named(reference: str) -> dict[str, Any]:
    prefix, name = reference.rsplit("/", 1)
    assert prefix == "#/components/schemas"
    schema: dict[str, Any] = DOCUMENT["components"]["schemas"][name]
    return schema


def _is(value: Any, kind: str | list[str]) -> bool:
    if isinstance(kind, list):
        return any(_is(value, one) for one in kind)
    return isinstance(value, _KINDS[kind]) and (kind == "boolean" or type(value) is not bool)


def _fields(value: Any, properties: dict[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    return all(fits(value[name], schema) for name, schema in properties.items() if name in value)


def _others(value: Any, other: Any, schema: dict[str, Any]) -> bool:
    others = set(value) - set(schema.get("properties", ())) if isinstance(value, dict) else set()
    return not others if other is False else all(fits(value[name], other) for name in others)


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


_RULES: dict[str, Any] = {
    "title": lambda *_: True,
    "description": lambda *_: True,
    "default": lambda *_: True,
    "format": lambda *_: True,
    "$ref": lambda value, name, _: fits(value, _named(name)),
    "anyOf": lambda value, some, _: any(fits(value, schema) for schema in some),
    "enum": lambda value, allowed, _: value in allowed,
    "type": lambda value, kind, _: _is(value, kind),
    "properties": lambda value, properties, _: _fields(value, properties),
    "required": lambda value, names, _: not isinstance(value, dict) or set(names) <= set(value),
    "additionalProperties": _others,
    "propertyNames": lambda value, schema, _: (
        not isinstance(value, dict) or all(fits(name, schema) for name in value)
    ),
    "items": lambda value, schema, _: (
        not isinstance(value, list) or all(fits(item, schema) for item in value)
    ),
    "minItems": lambda value, n, _: not isinstance(value, list) or len(value) >= n,
    "maxItems": lambda value, n, _: not isinstance(value, list) or len(value) <= n,
    "minProperties": lambda value, n, _: not isinstance(value, dict) or len(value) >= n,
    "maxProperties": lambda value, n, _: not isinstance(value, dict) or len(value) <= n,
    "minLength": lambda value, n, _: not isinstance(value, str) or len(value) >= n,
    "maxLength": lambda value, n, _: not isinstance(value, str) or len(value) <= n,
    "pattern": lambda value, text, _: not isinstance(value, str) or bool(re.search(text, value)),
    "minimum": lambda value, n, _: not _number(value) or value >= n,
    "exclusiveMinimum": lambda value, n, _: not _number(value) or value > n,
    "maximum": lambda value, n, _: not _number(value) or value <= n,
}


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method]
    return found


def body_schema(method: str, path: str) -> dict[str, Any]:
    content = operation(method, path)["requestBody"]["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return schema


def answer_schema(method: str, path: str, status: int) -> dict[str, Any]:
    content = operation(method, path)["responses"][str(status)]["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return schema


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from walk(inner)
    if isinstance(value, list):
        for inner in value:
            yield from walk(inner)


# The document -----------------------------------------------------------------------------------


def test_it_is_json_of_openapi_3_1():
    assert json.loads(msgspec.json.encode(DOCUMENT)) == DOCUMENT
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["version"] == "1.2.3"


def test_it_is_a_valid_openapi_document():
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    broken = {**DOCUMENT, "paths": {"/jobs": {"post": {"responses": {"201": {}}}}}}
    assert not OpenAPIV31SpecValidator(broken).is_valid()


def test_a_header_is_promised_by_its_own_route_alone():
    promised = [
        (method, path, status)
        for path, methods in DOCUMENT["paths"].items()
        for method, entry in methods.items()
        for status, response in entry["responses"].items()
        if "headers" in response
    ]
    assert promised == [("post", "/jobs", "200")]


def test_every_route_of_the_contract_is_there_with_its_scope():
    scopes = {
        f"{method.upper()} {path}": (entry["security"] or [{"key": [None]}])[0]["key"][0]
        for path, methods in DOCUMENT["paths"].items()
        for method, entry in methods.items()
    }
    assert scopes == {
        "POST /jobs": "jobs:submit",
        "POST /jobs/batch": "jobs:submit",
        "POST /jobs/lease": "jobs:lease",
        "POST /jobs/{job_id}/ack": "jobs:ack",
        "POST /jobs/ack": "jobs:ack",
        "POST /jobs/{job_id}/extend": "jobs:ack",
        "POST /jobs/extend": "jobs:ack",
        "POST /jobs/{job_id}/release": "jobs:ack",
        "GET /jobs/{job_id}": "jobs:read",
        "GET /jobs": "jobs:read",
        "POST /jobs/{job_id}/cancel": "jobs:submit",
        "POST /jobs/{job_id}/retry": "jobs:submit",
        "DELETE /jobs/{job_id}": "admin",
        "GET /queues": "jobs:read",
        "GET /queues/{queue}": "jobs:read",
        "POST /queues/{queue}/pause": "admin",
        "POST /queues/{queue}/resume": "admin",
        "POST /queues/{queue}/retry-dead": "admin",
        "DELETE /queues/{queue}/jobs": "admin",
        "POST /admin/keys": "keys:create",
        "GET /admin/keys": "keys:create",
        "GET /keys": "keys:read",
        "DELETE /keys/{key}": "keys:revoke",
        "GET /health": None,
        "GET /ready": None,
        "GET /openapi.json": None,
    }
    assert set(scopes.values()) - {"admin", None} == set(SCOPES_OF["admin"])


def test_every_reference_leads_somewhere_and_nothing_is_left_over():
    referred = {part["$ref"].rsplit("/", 1)[1] for part in walk(DOCUMENT) if "$ref" in part}
    assert referred == set(DOCUMENT["components"]["schemas"])


def test_operations_have_names_of_their_own():
    ids = Counter(
        entry["operationId"] for methods in DOCUMENT["paths"].values() for entry in methods.values()
    )
    assert set(ids.values()) == {1}


def test_what_a_path_holds_is_a_parameter():
    for path, methods in DOCUMENT["paths"].items():
        for entry in methods.values():
            named = {given["name"] for given in entry["parameters"] if given["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


# Requests ---------------------------------------------------------------------------------------


def decoded_key(body: bytes) -> object:
    try:
        return check(msgspec.json.decode(body, type=NewKeyBody))
    except msgspec.ValidationError as error:
        return Problem(400, str(error))


def decoded(path: str, value: object) -> object:
    body = json.dumps(value).encode()
    limits = SubmitLimits(1 << 20, 3)
    match path:
        case "/jobs":
            return decode_submit(body, limits, int)
        case "/jobs/batch":
            return decode_batch(body, limits, int)
        case "/jobs/lease":
            return decode_lease(body)
        case "/jobs/{job_id}/ack":
            return decode_ack(body, text_bytes_max=1 << 20)
        case "/jobs/ack":
            return decode_acks(body, text_bytes_max=1 << 20)
        case "/jobs/{job_id}/extend":
            return decode_extend(body)
        case "/jobs/extend":
            return decode_extends(body)
        case "/admin/keys":
            return decoded_key(body)
        case _:
            assert path == "/jobs/{job_id}/release"
            return decode_release(body)


@pytest.mark.parametrize(
    ("path", "value", "right"),
    [
        ("/jobs", {"payload": "x"}, True),
        ("/jobs", {"payload": ""}, False),
        ("/jobs", {"payload": None}, False),
        ("/jobs", {}, False),
        ("/jobs", {"payload": "x", "y": 1}, False),
        ("/jobs", {"payload": "x", "max_retries": -1}, False),
        ("/jobs", {"payload": "x", "max_retries": 1_000_000}, True),
        ("/jobs", {"payload": "x", "max_retries": 1_000_001}, False),
        ("/jobs", {"payload": "x", "max_retries": None, "queue": None}, True),
        ("/jobs", {"payload": "x", "queue": "a b"}, False),
        ("/jobs", {"payload": "x", "queue": "q" * 128}, True),
        ("/jobs", {"payload": "x", "queue": "q" * 129}, False),
        ("/jobs", {"payload": "x", "priority": -100}, True),
        ("/jobs", {"payload": "x", "priority": -101}, False),
        ("/jobs", {"payload": "x", "delay": "1m30s"}, True),
        ("/jobs", {"payload": "x", "delay": 1.5}, True),
        ("/jobs", {"payload": "x", "delay": "soon"}, False),
        ("/jobs", {"payload": "x", "delay": -1}, False),
        ("/jobs", {"payload": "x", "delay": 315_360_001}, False),
        ("/jobs", {"payload": "x", "delay": True}, False),
        ("/jobs", {"payload": "x", "lease_duration": 604_800}, True),
        ("/jobs", {"payload": "x", "lease_duration": 604_801}, False),
        ("/jobs", {"payload": "x", "lease_duration": 0}, False),
        ("/jobs", {"payload": "x", "ttl": 0}, False),
        ("/jobs", {"payload": "x", "ttl": 1e-9}, True),
        ("/jobs", {"payload": "x", "backoff": {"factor": 1, "max": "1s"}}, True),
        ("/jobs", {"payload": "x", "backoff": {"factor": 0.5}}, False),
        ("/jobs", {"payload": "x", "backoff": {"jitter": 2}}, False),
        ("/jobs", {"payload": "x", "group": ""}, False),
        ("/jobs", {"payload": "x", "tags": {"a": ""}}, True),
        ("/jobs", {"payload": "x", "tags": {"": "a"}}, False),
        ("/jobs", {"payload": "x", "tags": {str(n): "" for n in range(17)}}, False),
        ("/jobs/batch", {"jobs": [{"payload": "x"}]}, True),
        ("/jobs/batch", {"jobs": []}, False),
        ("/jobs/batch", {"jobs": [{}]}, False),
        ("/jobs/lease", {}, True),
        ("/jobs/lease", {"queues": ["a"], "max": 1000, "wait": "60s", "worker": "w"}, True),
        ("/jobs/lease", {"wait": 60}, True),
        ("/jobs/lease", {"wait": 61}, False),
        ("/jobs/lease", {"queues": []}, False),
        ("/jobs/lease", {"max": 0}, False),
        ("/jobs/lease", {"max": 1001}, False),
        ("/jobs/{job_id}/ack", {}, True),
        ("/jobs/{job_id}/ack", {"lease_token": "7", "result": ""}, True),
        ("/jobs/{job_id}/ack", {"lease_token": "x"}, False),
        ("/jobs/{job_id}/ack", {"lease_token": 7}, False),
        ("/jobs/{job_id}/ack", {"result_error": "e", "retry": False}, True),
        ("/jobs/ack", {"acks": [{"job_id": "a"}]}, True),
        ("/jobs/ack", {"acks": [{}]}, False),
        ("/jobs/{job_id}/extend", {"lease_token": "7", "progress": 100}, True),
        ("/jobs/{job_id}/extend", {"lease_token": "7", "progress": 101}, False),
        ("/jobs/{job_id}/extend", {"lease_token": "7", "progress": "p" * 257}, False),
        ("/jobs/{job_id}/extend", {}, False),
        ("/jobs/extend", {"extends": [{"job_id": "a", "lease_token": "7"}]}, True),
        ("/jobs/extend", {"extends": [{"job_id": "a"}]}, False),
        ("/jobs/{job_id}/release", {"lease_token": "7", "delay": 1}, True),
        ("/jobs/{job_id}/release", {"delay": 1}, False),
        ("/admin/keys", {"name": "n", "owner_id": "o", "type": "client"}, True),
        ("/admin/keys", {"name": "n" * 256, "owner_id": "o/p@q", "type": "admin"}, True),
        ("/admin/keys", {}, False),
        ("/admin/keys", {"name": "", "owner_id": "o", "type": "client"}, False),
        ("/admin/keys", {"name": None, "owner_id": "o", "type": "client"}, False),
        ("/admin/keys", {"name": "n" * 257, "owner_id": "o", "type": "client"}, False),
        ("/admin/keys", {"name": "n", "owner_id": "o p", "type": "client"}, False),
        ("/admin/keys", {"name": "n", "owner_id": "o", "type": "root"}, False),
        ("/admin/keys", {"name": "n", "owner_id": "o", "type": "client", "x": 1}, False),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_the_document_and_the_decoder_agree_on_a_body(path: str, value: object, right: bool):
    assert fits(value, body_schema("post", path)) == right
    assert isinstance(decoded(path, value), Problem) != right


def test_a_body_may_be_empty_where_the_decoder_takes_an_empty_one():
    for path, required in [("/jobs", True), ("/jobs/lease", False), ("/jobs/{job_id}/ack", False)]:
        assert operation("post", path)["requestBody"]["required"] is required


def test_each_struct_of_a_body_is_in_the_document():
    structs = {
        name
        for name, kind in vars(bodies).items()
        if isinstance(kind, type) and issubclass(kind, bodies.Body) and kind is not bodies.Body
    }
    assert structs
    assert structs <= set(DOCUMENT["components"]["schemas"])


# Answers ----------------------------------------------------------------------------------------

OPTIONS = encode_options(Options("mail", 5, tags=(("a", "b"),)))
PLAIN = JobView(JOB_ID, "READY", 0, 3, 0, None, None, None, "me")
FULL = JobView(
    JOB_ID, "RUNNING", 1, 3, 0, 1, b"r", b"e", "me", OPTIONS, 1, 2, 3, 4, "g", 5, b'"p"', "w"
)
QUEUE = QueueView("mail", False, {"READY": 1}, 5, 1, {"acked": (1.0, 2.0, 3.0)})
KEY = KeyRecord("client_00000000", "n", "o", "client", ("jobs:read",), 0, None, None)


@pytest.mark.parametrize(
    ("method", "path", "status", "answer"),
    [
        ("post", "/jobs", 201, msgspec.json.decode(views.created(JOB_ID))),
        ("post", "/jobs/batch", 201, views.created_many([JOB_ID])),
        ("post", "/jobs/batch", 503, views.partly_stored([JOB_ID, Problem(503, "e")])),
        ("post", "/jobs/lease", 200, views.leased(Leased(JOB_ID, b"x", 1, 1, 1, 3, 0))),
        (
            "post",
            "/jobs/lease",
            200,
            views.leased_many([Leased(JOB_ID, b"x", 1, 1, 1, 3, 0, OPTIONS, "g")]),
        ),
        ("post", "/jobs/ack", 200, views.results([None, Problem(409, "e")])),
        ("post", "/jobs/{job_id}/extend", 200, views.extended(5)),
        ("post", "/jobs/extend", 200, views.extend_results([5, Problem(409, "e")])),
        ("get", "/jobs/{job_id}", 200, views.status(PLAIN)),
        ("get", "/jobs/{job_id}", 200, views.status(FULL)),
        ("get", "/jobs", 200, views.page([PLAIN, FULL], "c")),
        ("get", "/jobs", 200, views.page([], None)),
        ("post", "/jobs/{job_id}/cancel", 200, views.status(PLAIN)),
        ("get", "/queues", 200, views.queues([views.queue_view("mail", [(0, QUEUE)], 9, [])], [])),
        ("get", "/queues/{queue}", 200, views.queue_view("mail", [], 9, [1])),
        ("delete", "/queues/{queue}/jobs", 200, views.count(3)),
        ("get", "/ready", 503, views.Readiness({"0": "down"}, "serving")),
        ("get", "/keys", 200, [shown(KEY)]),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_an_answer_is_as_the_document_says(method: str, path: str, status: int, answer: object):
    schema = answer_schema(method, path, status)
    value = json.loads(views.encode(answer))
    assert fits(value, schema)
    assert not fits({"other": 1}, schema)


def test_a_problem_is_as_the_document_says_on_every_route():
    value = json.loads(to_answer(Problem(400, "words")).body)
    for path, methods in DOCUMENT["paths"].items():
        for method, entry in methods.items():
            refusals = set(entry["responses"]) - {"200", "201"}
            assert "default" in refusals
            for status in refusals:
                if (path, status) != ("/ready", "503"):
                    content = entry["responses"][status]["content"]
                    assert fits(value, content["application/json"]["schema"]), (method, path)


def test_an_ack_has_no_body_and_health_is_text():
    assert "content" not in operation("post", "/jobs/{job_id}/ack")["responses"]["200"]
    assert set(operation("get", "/health")["responses"]["200"]["content"]) == {"text/plain"}
