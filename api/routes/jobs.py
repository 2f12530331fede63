"""The job routes for every request that the lane does not take, HTTP/2 above all.

The lane's routes over the same ``endpoints``: a request has the same answer on both ways.
"""

from typing import Final

from quart import Response, request
from quart_trio import QuartTrio

from api.answer import Answer
from api.calls import driven
from api.problems import to_answer
from api.routes.exchange import TWO_AUTHORIZATIONS, respond
from api.services import Services


class _Request:
    """A Quart request as ``endpoints`` wants it."""

    __slots__ = ("authorization", "body")

    def __init__(self, authorization: str | None, body: bytes) -> None:
        self.authorization: Final = authorization
        self.body: Final = body


def register(app: QuartTrio, services: Services) -> None:
    """Add the routes of this module."""
    endpoints = services.endpoints

    @app.post("/jobs")
    async def submit() -> Response:
        taken = await _taken()
        return respond(
            taken if isinstance(taken, Answer) else await driven(endpoints.submit(taken))
        )

    @app.post("/jobs/lease")
    async def lease() -> Response:
        taken = await _taken()
        return respond(taken if isinstance(taken, Answer) else await driven(endpoints.lease(taken)))

    @app.post("/jobs/<job_id>/ack")
    async def ack(job_id: str) -> Response:
        taken = await _taken()
        return respond(
            taken if isinstance(taken, Answer) else await driven(endpoints.ack(job_id, taken))
        )

    @app.get("/jobs/<job_id>")
    async def get(job_id: str) -> Response:
        taken = await _taken()
        return respond(
            taken if isinstance(taken, Answer) else await driven(endpoints.get(job_id, taken))
        )


async def _taken() -> _Request | Answer:
    """The request with its whole body, or the answer to one that cannot be taken."""
    headers = request.headers.getlist("Authorization")
    if len(headers) > 1:
        return to_answer(TWO_AUTHORIZATIONS)
    body = await request.get_data(cache=False, as_text=False)
    assert isinstance(body, bytes), "asked for bytes"
    return _Request(headers[0] if headers else None, body)
