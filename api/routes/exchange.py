"""What the route modules share: who asks, the body coming in, the answer going out."""

from typing import TypeVar

import msgspec
from quart import Response, request

from api.answer import Answer
from api.caller import Caller
from api.problems import INVALID_JSON, Problem, to_answer
from api.services import Services

TWO_AUTHORIZATIONS = Problem(400, "more than one Authorization header")

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
