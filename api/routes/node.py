"""Whether the node lives (``/health``) and whether it can serve (``/ready``). No key needed."""

from typing import Final

import msgspec
from quart import Response
from quart_trio import QuartTrio

from api.answer import TEXT, Answer
from api.routes.exchange import respond
from api.services import Services
from api.views import Readiness

SERVING: Final = "serving"

_encode: Final = msgspec.json.Encoder().encode


def register(app: QuartTrio, services: Services) -> None:
    """Add the routes of this module."""

    @app.get("/health")
    async def health() -> Response:
        return respond(Answer(200, b"OK", TEXT))

    @app.get("/ready")
    async def ready() -> Response:
        return respond(readiness(services))


def readiness(services: Services) -> Answer:
    """200 when every partition serves and requests can be told apart, else 503.

    A key store that went away does not make the node unready while known keys go on: a load
    balancer that took every node out would turn the grace time into an outage.
    """
    keyring = services.keyring
    partitions = {
        str(partition): state
        for partition, state in sorted(services.operations.partition_states().items())
    }
    is_ready = keyring.serving and all(state == SERVING for state in partitions.values())
    body = Readiness(partitions, SERVING if keyring.reachable else "unreachable")
    return Answer(200 if is_ready else 503, _encode(body))
