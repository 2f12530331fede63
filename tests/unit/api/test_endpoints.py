import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from api import problems
from api.answer import Answer
from api.caller import ACK, LEASE, READ, SCOPES_OF, SUBMIT, Caller, KeyType
from api.calls import driven
from api.endpoints import JobEndpoints, JobRequest
from api.operations import Operations
from api.problems import Problem
from api.settings import FrontSettings
from partitions.messages import Ack, Cancel, Command, Get, Lease, List, Retry, ViewQueues
from tests.support.partitions import Fleet, fleet_of

if TYPE_CHECKING:
    from api.keyring import Keyring

UNKNOWN_ID = "01234567-89ab-7def-8123-456789abcdef"
SETTINGS = FrontSettings(0, 0, (), "", payload_bytes_max=100, default_max_retries=7)

Endpoint = Callable[[JobEndpoints, JobRequest], Awaitable[Answer]]

ROUTES: dict[str, tuple[str, Endpoint]] = {
    "submit": (SUBMIT, lambda endpoints, request: driven(endpoints.submit(request))),
    "submit_many": (SUBMIT, lambda endpoints, request: driven(endpoints.submit_many(request))),
    "lease": (LEASE, lambda endpoints, request: driven(endpoints.lease(request))),
    "ack": (ACK, lambda endpoints, request: driven(endpoints.ack(UNKNOWN_ID, request))),
    "ack_many": (ACK, lambda endpoints, request: driven(endpoints.ack_many(request))),
    "extend": (ACK, lambda endpoints, request: driven(endpoints.extend(UNKNOWN_ID, request))),
    "extend_many": (ACK, lambda endpoints, request: driven(endpoints.extend_many(request))),
    "release": (ACK, lambda endpoints, request: driven(endpoints.release(UNKNOWN_ID, request))),
    "get": (READ, lambda endpoints, request: driven(endpoints.get(UNKNOWN_ID, "", request))),
    "page": (READ, lambda endpoints, request: driven(endpoints.page([], request))),
    "queues": (READ, lambda endpoints, request: driven(endpoints.queues(request))),
    "queue": (READ, lambda endpoints, request: driven(endpoints.queue("mail", request))),
    "cancel": (
        SUBMIT,
        lambda endpoints, request: driven(endpoints.change(UNKNOWN_ID, "cancel", request)),
    ),
    "retry": (
        SUBMIT,
        lambda endpoints, request: driven(endpoints.change(UNKNOWN_ID, "retry", request)),
    ),
}
"""Each with the scope that it wants."""
ADMIN_ROUTES: dict[str, Endpoint] = {
    "forget": lambda endpoints, request: driven(endpoints.forget(UNKNOWN_ID, request)),
    "pause": lambda endpoints, request: driven(endpoints.pause("mail", True, request)),
    "resume": lambda endpoints, request: driven(endpoints.pause("mail", False, request)),
    "retry_dead": lambda endpoints, request: driven(endpoints.retry_dead("mail", request)),
    "purge": lambda endpoints, request: driven(
        endpoints.purge("mail", [("state", "DEAD")], request)
    ),
}
EVERY_ROUTE = {**{name: call for name, (_, call) in ROUTES.items()}, **ADMIN_ROUTES}
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
    def __init__(
        self, authorization: str | None, body: bytes = b"", idempotency_key: str | None = None
    ) -> None:
        self.authorization = authorization
        self.body = body
        self.idempotency_key = idempotency_key

    def gone(self) -> bool:
        return False


def endpoints_of(fleet: Fleet, keyring: FakeKeyring) -> JobEndpoints:
    operations = Operations(fleet.clients)
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


REACHED_WITHOUT_A_BODY: dict[str, set[type[Command]]] = {
    SUBMIT: {Cancel, Retry},
    LEASE: {Lease},
    ACK: {Ack},
    READ: {Get, List, ViewQueues},
}


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
        # Without a body these say too little to reach a partition; a refusal never does.
        reached = {type(command) for command in fleet.partitions[0].commands}
        assert reached == REACHED_WITHOUT_A_BODY.get(held, set())


OF_CLIENTS = {"submit", "submit_many", "cancel", "retry"}
OF_WORKERS = {"lease", "ack", "ack_many", "extend", "extend_many", "release"}
OF_READERS = {"get", "page", "queues", "queue"}


@pytest.mark.parametrize(
    ("type_", "allowed"),
    [
        ("client", OF_CLIENTS | OF_READERS),
        ("worker", OF_WORKERS | OF_READERS),
        ("admin", set(EVERY_ROUTE)),
    ],
)
async def test_what_each_type_of_key_may_do(
    tmp_path: Path, keyring: FakeKeyring, type_: KeyType, allowed: set[str]
) -> None:
    keyring.callers["key"] = Caller("key", "owner", type_, frozenset(SCOPES_OF[type_]))
    async with fleet_of(tmp_path, 1) as (fleet, _):
        endpoints = endpoints_of(fleet, keyring)
        answers = {
            name: await call(endpoints, Request("key")) for name, call in EVERY_ROUTE.items()
        }
        assert {name for name, answer in answers.items() if answer.status != 403} == allowed
        refused = [error_of(answers[name]) for name in ADMIN_ROUTES if name not in allowed]
        assert set(refused) <= {"Admin access required"}


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
        for call in EVERY_ROUTE.values():
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
        shown = await driven(endpoints.get(job_id, "", Request("all")))
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
        missing = await driven(endpoints.get(UNKNOWN_ID, "", Request("all")))
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


async def test_a_submit_seen_before_is_200_and_says_so(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    async with fleet_of(tmp_path, 2) as (fleet, _):
        endpoints = endpoints_of(fleet, keyring)
        body = b'{"payload":"x","idempotency_key":"k"}'
        first = await driven(endpoints.submit(Request("all", body)))
        assert (first.status, first.headers) == (201, ())
        for again in (Request("all", body), Request("all", b'{"payload":"x"}', "k")):
            second = await driven(endpoints.submit(again))
            assert (second.status, second.body) == (200, first.body)
            assert second.headers == (("Idempotent-Replay", "true"),)
        other = await driven(endpoints.submit(Request("all", b'{"payload":"y"}', "k")))
        assert other.status == 422


async def test_the_statuses_of_what_the_holder_of_a_lease_does(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    async with fleet_of(tmp_path, 1) as (fleet, _):
        endpoints = endpoints_of(fleet, keyring)
        jobs = {"jobs": [{"payload": "a"}, {"payload": "b"}, {"payload": "c"}]}
        batch = await driven(endpoints.submit_many(Request("all", json.dumps(jobs).encode())))
        assert batch.status == 201
        leased = await driven(endpoints.lease(Request("all", b'{"max":3}')))
        jobs_leased = json.loads(leased.body)["jobs"]
        assert [each["job_id"] for each in jobs_leased] == json.loads(batch.body)["job_ids"]
        first, second, third = (
            {"job_id": each["job_id"], "lease_token": each["lease_token"]} for each in jobs_leased
        )
        token = json.dumps({"lease_token": first["lease_token"]}).encode()
        extended = await driven(endpoints.extend(first["job_id"], Request("all", token)))
        assert (extended.status, list(json.loads(extended.body))) == (200, ["lease_until"])
        released = await driven(endpoints.release(first["job_id"], Request("all", token)))
        assert (released.status, released.body) == (200, b"")
        lost = await driven(endpoints.release(first["job_id"], Request("all", token)))
        assert (lost.status, error_of(lost)) == (409, "lease lost")
        unknown = {"job_id": UNKNOWN_ID, "lease_token": "1"}
        extends = json.dumps({"extends": [first, second, unknown]}).encode()
        many = await driven(endpoints.extend_many(Request("all", extends)))
        assert [each["status"] for each in json.loads(many.body)["results"]] == [409, 200, 404]
        acks = json.dumps({"acks": [unknown, third, first]}).encode()
        many = await driven(endpoints.ack_many(Request("all", acks)))
        assert [each["status"] for each in json.loads(many.body)["results"]] == [404, 200, 409]


async def test_a_batch_of_which_a_part_is_stored_does_not_ask_to_be_sent_again(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    # Retry-After promises that nothing has happened: clients would store the other part twice.
    async with fleet_of(tmp_path, 2) as (fleet, _):
        fleet.partitions[0].limit(jobs_max=0)
        groups = [{"payload": "x", "group": str(number)} for number in range(20)]
        body = json.dumps({"jobs": groups}).encode()
        answer = await driven(endpoints_of(fleet, keyring).submit_many(Request("all", body)))
        assert (answer.status, answer.headers) == (503, ())
        results = json.loads(answer.body)["results"]
        assert {each["status"] for each in results} == {201, 429}
        assert sum("job_id" in each for each in results) == len(fleet.partitions[1].state)


async def test_the_statuses_of_what_an_operator_does(tmp_path: Path, keyring: FakeKeyring) -> None:
    keyring.callers["admin"] = Caller("admin", "owner", "admin", frozenset(ALL_SCOPES))
    admin = Request("admin")
    async with fleet_of(tmp_path, 2) as (fleet, _):
        endpoints = endpoints_of(fleet, keyring)
        body = b'{"payload":"x","queue":"mail"}'
        created = await driven(endpoints.submit(Request("admin", body)))
        job_id = json.loads(created.body)["job_id"]
        paused = await driven(endpoints.pause("mail", True, admin))
        assert (paused.status, json.loads(paused.body)["paused"]) == (200, True)
        lease = Request("admin", b'{"queues":["mail"]}')
        assert (await driven(endpoints.lease(lease))).status == 404
        resumed = await driven(endpoints.pause("mail", False, admin))
        assert (resumed.status, json.loads(resumed.body)["paused"]) == (200, False)
        too_early = await driven(endpoints.forget(job_id, admin))
        assert too_early.status == 409
        for _ in range(2):
            cancelled = await driven(endpoints.change(job_id, "cancel", admin))
            assert (cancelled.status, json.loads(cancelled.body)["state"]) == (200, "CANCELLED")
        retried = await driven(endpoints.change(job_id, "retry", admin))
        assert (retried.status, json.loads(retried.body)["state"]) == (200, "READY")
        assert (await driven(endpoints.change(job_id, "retry", admin))).status == 409
        assert (await driven(endpoints.change(job_id, "cancel", admin))).status == 200
        dead = await driven(endpoints.retry_dead("mail", admin))
        assert (dead.status, json.loads(dead.body)) == (200, {"count": 0})
        purged = await driven(endpoints.purge("mail", [("state", "CANCELLED")], admin))
        assert (purged.status, json.loads(purged.body)) == (200, {"count": 1})
        gone = await driven(endpoints.forget(job_id, admin))
        assert gone.status == 404


@pytest.mark.parametrize("name", ["pause", "resume", "retry_dead", "purge", "cancel", "forget"])
async def test_what_takes_no_body_refuses_one(
    tmp_path: Path, keyring: FakeKeyring, name: str
) -> None:
    keyring.callers["admin"] = Caller("admin", "owner", "admin", frozenset(ALL_SCOPES))
    async with fleet_of(tmp_path, 1) as (fleet, _):
        answer = await EVERY_ROUTE[name](endpoints_of(fleet, keyring), Request("admin", b"{"))
        assert answer.status == 400
        assert not fleet.partitions[0].commands


async def test_a_queue_that_cannot_be_is_refused_and_a_bad_query_too(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    keyring.callers["admin"] = Caller("admin", "owner", "admin", frozenset(ALL_SCOPES))
    admin = Request("admin")
    async with fleet_of(tmp_path, 1) as (fleet, _):
        endpoints = endpoints_of(fleet, keyring)
        answers = [
            await driven(endpoints.queue("no such name", admin)),
            await driven(endpoints.pause("", True, admin)),
            await driven(endpoints.retry_dead("a/b", admin)),
            await driven(endpoints.purge("mail", [("state", "RUNNING")], admin)),
            await driven(endpoints.purge("mail", [], admin)),
            await driven(endpoints.page([("limit", "0")], admin)),
            await driven(endpoints.page([("cursor", "x")], admin)),
            await driven(endpoints.get(UNKNOWN_ID, "wait=61s", admin)),
        ]
        assert [answer.status for answer in answers] == [400] * 8
        assert not fleet.partitions[0].commands
