"""The queue routes: what is in them, pause and resume, dead letters in bulk."""

from quart import Response
from quart_trio import QuartTrio

from api.routes.exchange import answered, query_pairs
from api.services import Services


def register(app: QuartTrio, services: Services) -> None:
    """Add the routes of this module."""
    endpoints = services.endpoints

    @app.get("/queues")
    async def queues() -> Response:
        return await answered(endpoints.queues)

    @app.get("/queues/<name>")
    async def queue(name: str) -> Response:
        return await answered(endpoints.queue, name)

    @app.post("/queues/<name>/pause")
    async def pause(name: str) -> Response:
        return await answered(endpoints.pause, name, True)

    @app.post("/queues/<name>/resume")
    async def resume(name: str) -> Response:
        return await answered(endpoints.pause, name, False)

    @app.post("/queues/<name>/retry-dead")
    async def retry_dead(name: str) -> Response:
        return await answered(endpoints.retry_dead, name)

    @app.delete("/queues/<name>/jobs")
    async def purge(name: str) -> Response:
        return await answered(endpoints.purge, name, query_pairs())
