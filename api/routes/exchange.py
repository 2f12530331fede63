"""What the route modules share: who asks, the body coming in, the answer going out."""

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec
from quart import Response, request

from api import query_schemas
from api.answer import Answer
from api.caller import Caller
from api.calls import driven
from api.problems import INVALID_JSON, Problem, to_answer
from api.services import Services

TWO_AUTHORIZATIONS = Problem(400, "more than one Authorization header")
TWO_IDEMPOTENCY_KEYS = Problem(400, "more than one Idempotency-Key header")

_T = TypeVar("_T")


async def identify(services: Services) -> Caller | Problem:
    """Who sent this request; scopes are for the route to check."""
    # The door refuses two of them, HTTP/2 lets them through: which one counts must not be a
    # matter of taste.
    headers = request.headers.getlist("Authorization")
    if len(headers) > 1:
        return TWO_AUTHORIZATIONS
    return await services.keyring.identify(headers[0] if headers else None)


async def read_json(decoder: "msgspec.json.Decoder[_T]") -> _T | Problem:
    """The body as what ``decoder`` makes; unknown fields and wrong types are named."""
    body = await request.get_data(cache=False)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        return Problem(400, f"invalid JSON: {error}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return INVALID_JSON


class _Request:
    """A Quart request as ``endpoints`` wants it."""

    __slots__ = ("authorization", "body", "idempotency_key")

    def __init__(self, authorization: str | None, body: bytes, idempotency_key: str | None) -> None:
        self.authorization: Final = authorization
        self.body: Final = body
        self.idempotency_key: Final = idempotency_key

    def gone(self) -> bool:
        """Whoever serves the app cancels a request whose client has gone."""
        return False


async def answered(
    endpoint: Callable[..., Coroutine[Any, Any, Answer]], *arguments: object
) -> Response:
    """What one of the ``endpoints`` answers to this request."""
    authorizations = request.headers.getlist("Authorization")
    if len(authorizations) > 1:
        return refuse(TWO_AUTHORIZATIONS)
    keys = request.headers.getlist("Idempotency-Key")
    if len(keys) > 1:
        return refuse(TWO_IDEMPOTENCY_KEYS)
    body = await request.get_data(cache=False, as_text=False)
    assert isinstance(body, bytes), "asked for bytes"
    taken = _Request(authorizations[0] if authorizations else None, body, keys[0] if keys else None)
    return respond(await driven(endpoint(*arguments, taken)))


def query_pairs() -> list[tuple[str, str]]:
    """The query of this request, in order."""
    return query_schemas.query_pairs(request.query_string.decode("latin-1"))


def respond(answer: Answer) -> Response:
    """An answer as Quart wants it."""
    response = Response(answer.body, answer.status, content_type=answer.content_type)
    if not answer.body:
        # Nothing has no type; the lane says none either.
        del response.headers["Content-Type"]
    for name, value in answer.headers:
        response.headers.add(name, value)
    return response


def refuse(problem: Problem) -> Response:
    """A problem as Quart wants it."""
    return respond(to_answer(problem))
