import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from api import problems
from api.answer import Answer
from api.caller import ACK, LEASE, READ, SCOPES_OF, SUBMIT, Caller
from api.calls import driven
from api.endpoints import JobEndpoints, JobRequest
from api.operations import Operations
from api.problems import Problem
from api.settings import FrontSettings
from tests.support.partitions import Fleet, fleet_of

if TYPE_CHECKING:
    from api.keyring import Keyring

UNKNOWN_ID = "01234567-89ab-7def-8123-456789abcdef"
SETTINGS = FrontSettings(0, 0, (), "", payload_bytes_max=100, default_max_retries=7)

Endpoint = Callable[[JobEndpoints, JobRequest], Awaitable[Answer]]

ROUTES: dict[str, tuple[str, Endpoint]] = {
    "submit": (SUBMIT, lambda endpoints, request: driven(endpoints.submit(request))),
    "lease": (LEASE, lambda endpoints, request: driven(endpoints.lease(request))),
    "ack": (ACK, lambda endpoints, request: driven(endpoints.ack(UNKNOWN_ID, request))),
    "get": (READ, lambda endpoints, request: driven(endpoints.get(UNKNOWN_ID, request))),
}
ALL_SCOPES = SCOPES_OF["admin"]


class FakeKeyring:
    """Knows callers by name; those named ``fresh...`` it remembers without waiting."""

    def __init__(self) -> None:
        self.callers: dict[str, Caller | Problem] = {}
        self.looked_up: list[str | None] = []

    def add(self, name: str, scopes: tuple[str, ...]) -> None:
        self.callers[name] = Caller(name, "owner", "client", frozenset(scopes))

    def recall(self, authorization: str | None) -> Caller | None:
        if authorization is None or not authorization.startswith("fresh"):
            return None
        caller = self.callers[authorization]
        return caller if isinstance(caller, Caller) else None

    async def identify(self, authorization: str | None) -> Caller | Problem:
        self.looked_up.append(authorization)
        if authorization is None:
            return problems.MISSING_AUTHORIZATION
        return self.callers.get(authorization, problems.INVALID_KEY)


class Request:
    def __init__(self, authorization: str | None, body: bytes = b"") -> None:
        self.authorization = authorization
        self.body = body


def endpoints_of(fleet: Fleet, keyring: FakeKeyring) -> JobEndpoints:
    operations = Operations(fleet.clients, lease_duration_ms=1000)
    return JobEndpoints(cast("Keyring", keyring), operations, SETTINGS)


@pytest.fixture
def keyring() -> FakeKeyring:
    keyring = FakeKeyring()
    keyring.add("all", ALL_SCOPES)
    keyring.add("fresh", ALL_SCOPES)
    keyring.callers["revoked"] = problems.REVOKED_KEY
    keyring.callers["unreachable"] = problems.KEYSTORE_UNREACHABLE
    return keyring


def error_of(answer: Answer) -> Any:
    return json.loads(answer.body)["error"]


@pytest.mark.parametrize("held", [*ALL_SCOPES, "jobs:*", ""])
@pytest.mark.parametrize("way", ["all", "fresh"])
async def test_each_route_wants_its_own_scope_and_no_other_will_do(
    tmp_path: Path, keyring: FakeKeyring, held: str, way: str
) -> None:
    keyring.add(way, (held,))
    async with fleet_of(tmp_path, 1) as (fleet, _):
        endpoints = endpoints_of(fleet, keyring)
        for wanted, call in ROUTES.values():
            answer = await call(endpoints, Request(way))
            if held == wanted:
                assert answer.status != 403
            else:
                assert answer.status == 403
                assert error_of(answer) == f"Insufficient permissions: {wanted} is required"
        reached = len(fleet.partitions[0].commands)
        assert reached == (1 if held in (LEASE, ACK, READ) else 0), "a refusal has no effect"


@pytest.mark.parametrize(
    ("type_", "allowed"),
    [
        ("client", {"submit", "get"}),
        ("worker", {"lease", "ack", "get"}),
        ("admin", {"submit", "lease", "ack", "get"}),
    ],
)
async def test_what_each_type_of_key_may_do(
    tmp_path: Path, keyring: FakeKeyring, type_: str, allowed: set[str]
) -> None:
    keyring.add("key", SCOPES_OF[type_])
    async with fleet_of(tmp_path, 1) as (fleet, _):
        endpoints = endpoints_of(fleet, keyring)
        answers = {
            name: await call(endpoints, Request("key")) for name, (_, call) in ROUTES.items()
        }
        assert {name for name, answer in answers.items() if answer.status != 403} == allowed


@pytest.mark.parametrize(
    ("authorization", "problem"),
    [
        (None, problems.MISSING_AUTHORIZATION),
        ("nobody", problems.INVALID_KEY),
        ("revoked", problems.REVOKED_KEY),
        ("unreachable", problems.KEYSTORE_UNREACHABLE),
    ],
)
@pytest.mark.parametrize("body", [b"", b"{", b'{"payload":"x"}'])
async def test_without_a_good_key_nothing_else_is_said_or_done(
    tmp_path: Path,
    keyring: FakeKeyring,
    authorization: str | None,
    problem: Problem,
    body: bytes,
) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        endpoints = endpoints_of(fleet, keyring)
        for _, call in ROUTES.values():
            assert await call(endpoints, Request(authorization, body)) == problems.to_answer(
                problem
            )
        assert not fleet.partitions[0].commands


async def test_a_remembered_caller_costs_no_look_up(tmp_path: Path, keyring: FakeKeyring) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        endpoints = endpoints_of(fleet, keyring)
        await driven(endpoints.submit(Request("fresh", b'{"payload":"x"}')))
        assert keyring.looked_up == []
        await driven(endpoints.submit(Request("all", b'{"payload":"x"}')))
        assert keyring.looked_up == ["all"]


async def test_the_statuses_and_bodies_of_a_jobs_life(tmp_path: Path, keyring: FakeKeyring) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        endpoints = endpoints_of(fleet, keyring)
        created = await driven(endpoints.submit(Request("all", b'{"payload":"x"}')))
        job_id = json.loads(created.body)["job_id"]
        assert (created.status, list(json.loads(created.body))) == (201, ["job_id"])
        shown = await driven(endpoints.get(job_id, Request("all")))
        assert (shown.status, json.loads(shown.body)["max_retries"]) == (200, 7)
        leased = await driven(endpoints.lease(Request("all")))
        assert (leased.status, json.loads(leased.body)["payload"]) == (200, "x")
        acked = await driven(endpoints.ack(job_id, Request("all")))
        assert (acked.status, acked.body) == (200, b"")
        again = await driven(endpoints.ack(job_id, Request("all")))
        assert again.status == 400
        assert error_of(again).startswith("failed to ack job: ")
        empty = await driven(endpoints.lease(Request("all")))
        assert (empty.status, error_of(empty)) == (404, "no jobs available")
        missing = await driven(endpoints.get(UNKNOWN_ID, Request("all")))
        assert (missing.status, error_of(missing)) == (404, f"job not found: {UNKNOWN_ID}")


@pytest.mark.parametrize(
    ("route", "body", "status"),
    [
        ("submit", b"", 400),
        ("submit", b'{"payload":""}', 400),
        ("submit", b'{"payload":"' + b"x" * 101 + b'"}', 413),
        ("submit", b'{"payload":"' + b"x" * 100 + b'"}', 201),
        ("lease", b"{", 400),
        ("ack", b"{", 400),
        ("ack", b'{"result":"' + b"x" * 101 + b'"}', 413),
        ("ack", b'{"lease_token":"5"}', 400),
    ],
)
async def test_bodies_are_held_to_the_contract_and_the_configured_limit(
    tmp_path: Path, keyring: FakeKeyring, route: str, body: bytes, status: int
) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        answer = await ROUTES[route][1](endpoints_of(fleet, keyring), Request("all", body))
        assert answer.status == status
