"""``/openapi.json``: the contract for programs, made from the types that are really decoded."""

from importlib.metadata import version
from typing import Final

import msgspec
from quart import Response
from quart_trio import QuartTrio

from api.answer import Answer
from api.openapi import document
from api.routes.exchange import respond

_DOCUMENT: Final = Answer(200, msgspec.json.encode(document(version("queue-node"))))


def register(app: QuartTrio) -> None:
    """Add the routes of this module. No key is needed."""

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return respond(_DOCUMENT)
