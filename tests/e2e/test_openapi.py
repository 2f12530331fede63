"""A real node against its own ``/openapi.json``: schemathesis tries every operation in it.

What the document allows is done, or refused for a reason that a schema cannot say; what it forbids
is refused; and whatever the answer, status, headers and body are ones that the document has. Its
``default`` answer, which allows any, is left out for that.
"""

import copy
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core import NOT_SET
from schemathesis.specs.openapi import checks

from api.caller import SCOPES_OF
from api.durations import parse_duration
from api.openapi import document
from tests.support.contract import Http
from tests.support.node import RunningNode

EXAMPLES = 20
"""Of an operation and a direction: bounded by the time of the whole file, which is 15 s."""
JOBS = 30
KEYS = ("client", "worker", "admin")
Case = schemathesis.Case[Any]
DOCUMENT = document(version("queue-node"))
CHECKS: list[Any] = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
NEGATIVE_CHECKS: list[Any] = [*CHECKS, checks.negative_data_rejection]

BEYOND_A_SCHEMA = (
    "must be a duration like",  # too many hours, or more text than anybody means
    "lease_duration must be",
    "wait must be <= 60s",
    "ttl must be > 0",
    "must be an RFC 3339 time",  # of a year without a number here
    "delay and run_at exclude each other",
    "backoff.initial must be <= backoff.max",
    "result and result_error exclude each other",
    "is only for a failure",
    "retry_in and retry false exclude each other",
    "lease_token must be a string of digits",  # that an int of 64 bits holds
    "idempotency_key and the header Idempotency-Key differ",
    "queues must not name a queue twice",
    "tag must be key:value",
    "cursor is none that a page of this list gave",
    "failed to ack job: ",  # the contract's 400
)
"""Words of a 400 to what the document allows."""


def _operations() -> list[Any]:
    strict = copy.deepcopy(DOCUMENT)
    for methods in strict["paths"].values():
        for operation in methods.values():
            del operation["responses"]["default"]
    config = SchemathesisConfig()
    # Who may call what has a test of its own below.
    config.projects.default.generation.update(with_security_parameters=False)
    schema = schemathesis.openapi.from_dict(strict, config=config)
    found: list[Any] = list(schema.get_all_operations())
    return [one.ok() for one in found]


def _name(operation: Any) -> str:
    return f"{operation.method.upper()} {operation.path}"


OPERATIONS = _operations()
EVERY_OPERATION = pytest.mark.parametrize("operation", OPERATIONS, ids=_name)
WITH_INPUT = pytest.mark.parametrize(
    "operation",
    [
        operation
        for operation in OPERATIONS
        # Any text may be a key.
        if operation.body or operation.query or re.search("{(?!key)", operation.path)
    ],
    ids=_name,
)


def _may(key: str, operation: Any) -> bool:
    """Whether a key of this type has what the document asks for."""
    security = DOCUMENT["paths"][operation.path][operation.method]["security"]
    if not security:
        return True
    (scope,) = security[0]["key"]
    return key == "admin" if scope in ("admin", "keys:create") else scope in SCOPES_OF[key]


class Caller:
    """Sends what schemathesis made up to the node, over one connection."""

    def __init__(self, node: RunningNode, session: requests.Session, leases: list[Any]) -> None:
        self.node = node
        self.leases = leases
        self._session = session

    def call(self, case: Case, key: str) -> Any:
        token = self.node.keys[key]
        return case.call(
            base_url=self.node.url,
            session=self._session,
            headers={"Authorization": f"Bearer {token}"},
        )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    environment = {"FRONTS": "1", "PARTITIONS": "2", "LEASE_DURATION": "1h"}
    with RunningNode(tmp_path_factory.mktemp("node"), environment) as running:
        yield running


@pytest.fixture
def caller(node: RunningNode) -> Iterator[Caller]:
    """With jobs of its own: most are leased, some wait."""
    http = Http(node)
    http.submitted_batch([{"payload": "x"} for _ in range(JOBS)])
    leases = http.drained("default", most=2 * JOBS // 3)
    with requests.Session() as session:
        yield Caller(node, session, leases)


def _as_numbers_are_written(value: Any) -> Any:
    """JSON Schema takes 5.0 for an integer, and nobody writes one like that."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    if isinstance(value, dict):
        return {name: _as_numbers_are_written(inner) for name, inner in value.items()}
    return [_as_numbers_are_written(inner) for inner in value] if isinstance(value, list) else value


def _wait_briefly(case: Case) -> None:
    for part in (case.body, case.query):
        fields: Any = part if isinstance(part, dict) else {}
        wait = fields.get("wait")
        if isinstance(wait, str | int | float) and parse_duration(wait):
            fields["wait"] = "10ms"


def _point_at(case: Case, lease: Any) -> None:
    """Let the request be about a job that there is, by its live lease."""
    if "job_id" in (case.path_parameters or {}):
        case.path_parameters["job_id"] = lease["job_id"]
    body: Any = case.body if isinstance(case.body, dict) else {}
    for item in (body, *body.get("acks", ()), *body.get("extends", ())):
        for name in ("job_id", "lease_token"):
            if item.get(name) is not None:
                item[name] = lease[name]


def _tried(operation: Any, mode: GenerationMode, check: Callable[[Case, str, Any], None]) -> None:
    """Let ``check`` look at examples: a case, who calls, and a lease to point it at, or none."""
    keys = [key for key in KEYS if _may(key, operation)]

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(operation.as_strategy(mode), st.sampled_from(keys), st.none() | st.integers(0, JOBS))
    def run(case: Case, key: str, number: int | None) -> None:
        _wait_briefly(case)
        check(case, key, number)

    run()


@EVERY_OPERATION
def test_what_the_document_allows_is_done_as_it_says(caller: Caller, operation: Any):
    def check(case: Case, key: str, number: int | None) -> None:
        if case.body is not NOT_SET:
            case.body = _as_numbers_are_written(case.body)
        if number is not None:
            _point_at(case, caller.leases[number % len(caller.leases)])
        answer = caller.call(case, key)
        case.validate_response(answer, checks=CHECKS)
        assert answer.status_code not in (401, 403, 413), answer.content
        if answer.status_code == 400:
            assert any(words in answer.json()["error"] for words in BEYOND_A_SCHEMA), answer.content

    _tried(operation, GenerationMode.POSITIVE, check)


@WITH_INPUT
def test_what_the_document_forbids_is_refused(caller: Caller, operation: Any):
    def check(case: Case, key: str, number: int | None) -> None:
        del number
        answer = caller.call(case, key)
        # That a query is too long is found before it is looked into.
        is_too_long = answer.status_code == 414
        case.validate_response(answer, checks=CHECKS if is_too_long else NEGATIVE_CHECKS)

    _tried(operation, GenerationMode.NEGATIVE, check)


@EVERY_OPERATION
def test_who_is_let_in_is_what_the_document_says(node: RunningNode, operation: Any):
    path = operation.path.replace("{job_id}", "x").replace("{key}", "x").replace("{queue}", "x")
    is_open = DOCUMENT["paths"][operation.path][operation.method]["security"] == []
    anybody = node.request(operation.method.upper(), path)
    assert (anybody.status == 401) != is_open
    for key in KEYS:
        answer = node.request(operation.method.upper(), path, key=key)
        assert (answer.status == 403) != _may(key, operation), key


def test_the_node_shows_this_document(node: RunningNode):
    assert node.request("GET", "/openapi.json").json == DOCUMENT


def test_nothing_went_wrong_inside(node: RunningNode):
    assert node.running
    assert "Traceback" not in node.log
