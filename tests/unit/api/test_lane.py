import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.answer import Answer
from api.lane import HEALTHY, Lane, LaneHandler

if TYPE_CHECKING:
    from api.endpoints import JobEndpoints

JOB_ID = "01234567-89ab-7def-8123-456789abcdef"


class Endpoints:
    """Answers with what was called."""

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Answer]]:
        async def called(*arguments: object) -> Answer:
            *words, request = arguments
            assert isinstance(request, Request)
            return Answer(200, " ".join([name, *map(str, words)]).encode() + b" " + request.body)

        return called


class Request:
    authorization = None
    idempotency_key = None
    body = b"body"

    def gone(self) -> bool:
        return False


def route(method: str, target: str) -> LaneHandler | None:
    return Lane(cast("JobEndpoints", Endpoints())).route(method, target)


@pytest.mark.parametrize(
    ("method", "target", "called"),
    [
        ("POST", "/jobs", "submit body"),
        ("POST", "/jobs/lease", "lease body"),
        ("POST", f"/jobs/{JOB_ID}/ack", f"ack {JOB_ID} body"),
        ("GET", f"/jobs/{JOB_ID}", f"get {JOB_ID}  body"),
        ("GET", f"/jobs/{JOB_ID}?wait=30s", f"get {JOB_ID} wait=30s body"),
        ("GET", f"/jobs/{JOB_ID}?wait=1.5", f"get {JOB_ID} wait=1.5 body"),
        ("POST", "/jobs/batch", "submit_many body"),
        ("POST", "/jobs/ack", "ack_many body"),
        ("POST", "/jobs/extend", "extend_many body"),
        ("POST", f"/jobs/{JOB_ID}/extend", f"extend {JOB_ID} body"),
        ("POST", f"/jobs/{JOB_ID}/release", f"release {JOB_ID} body"),
    ],
)
async def test_the_hot_routes_are_taken(method: str, target: str, called: str) -> None:
    handler = route(method, target)
    assert handler is not None
    assert (await handler(Request())).body.decode() == called


async def test_health_needs_nothing() -> None:
    handler = route("GET", "/health")
    assert handler is not None
    assert await handler(Request()) is HEALTHY
    assert (HEALTHY.status, HEALTHY.body) == (200, b"OK")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/jobs"),
        ("GET", "/jobs/lease"),
        ("HEAD", "/health"),
        ("HEAD", f"/jobs/{JOB_ID}"),
        ("POST", "/health"),
        ("OPTIONS", "/jobs"),
        ("POST", f"/jobs/{JOB_ID}"),
        ("GET", f"/jobs/{JOB_ID}/ack"),
        ("post", "/jobs"),
        ("POST ", "/jobs"),
        ("", ""),
        ("POST", "/jobs/"),
        ("POST", "//jobs"),
        ("POST", "/jobs?"),
        ("POST", "/jobs?x=1"),
        ("POST", "/jobs#x"),
        ("POST", "/jobs;x"),
        ("POST", "/Jobs"),
        ("POST", "/%6Aobs"),
        ("POST", "jobs"),
        ("POST", "http://host/jobs"),
        ("POST", "/jobs\n"),
        ("POST", "/jobs/lease/"),
        ("POST", f"/jobs/{JOB_ID}/ack/"),
        ("POST", f"/jobs/{JOB_ID}/ack\n"),
        ("POST", f"/jobs/{JOB_ID}/ack?x"),
        ("POST", f"/jobs/{JOB_ID}//ack"),
        ("POST", f"/jobs/{JOB_ID}/cancel"),
        ("POST", f"/jobs/{JOB_ID}/retry"),
        ("DELETE", f"/jobs/{JOB_ID}"),
        ("GET", f"/jobs/{JOB_ID}/release"),
        ("POST", f"/jobs/{JOB_ID}?wait=1"),
        ("POST", f"/jobs/{JOB_ID}/ack?wait=1"),
        ("GET", f"/jobs/{JOB_ID}?"),
        ("GET", f"/jobs/{JOB_ID}?wait="),
        ("GET", f"/jobs/{JOB_ID}?wait=1&wait=2"),
        ("GET", f"/jobs/{JOB_ID}?wait=%31"),
        ("GET", f"/jobs/{JOB_ID}?wait=1\n"),
        ("GET", f"/jobs/{JOB_ID}?wait={'1' * 17}"),
        ("GET", f"/jobs/{JOB_ID}?Wait=1"),
        ("GET", f"/jobs/{JOB_ID}?limit=1"),
        ("GET", "/jobs/batch"),
        ("GET", "/jobs/extend"),
        ("GET", "/queues"),
        ("GET", f"/jobs/{JOB_ID}\n"),
        ("GET", f"/jobs/{JOB_ID}/"),
        ("GET", f"/jobs/{JOB_ID.upper()}"),
        ("GET", f"/jobs/{JOB_ID[:-1]}"),
        ("GET", f"/jobs/{JOB_ID}0"),
        ("GET", f"/jobs/{JOB_ID.replace('-', '')}"),
        ("GET", f"/jobs/%30{JOB_ID[1:]}"),
        ("GET", f"/jobs/{{{JOB_ID}}}"),
        ("GET", f"/jobs/{JOB_ID[:-1]}\u0661"),
        ("GET", f"/jobs/../jobs/{JOB_ID}"),
        ("GET", "/jobs/"),
        ("GET", "/"),
        ("GET", "*"),
    ],
)
def test_every_other_form_goes_to_the_app(method: str, target: str) -> None:
    assert route(method, target) is None


JOB = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
PLAIN = {
    "GET": re.compile(rf"/health|/jobs/{JOB}(\?wait=[0-9a-z.]+)?"),
    "POST": re.compile(rf"/jobs(/batch|/lease|/ack|/extend|/{JOB}/(ack|extend|release))?"),
}
pieces = st.sampled_from(
    ["/", "jobs", "lease", "ack", "batch", JOB_ID, "?", "wait=1", "%2f", "health", ".", "\n", "A"]
)


@given(
    st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "get"]),
    st.lists(pieces, max_size=6).map("".join) | st.text(max_size=20),
)
def test_what_is_taken_has_exactly_one_of_the_plain_forms(method: str, target: str) -> None:
    if route(method, target) is not None:
        assert PLAIN[method].fullmatch(target)
