"""The job routes for every request that the lane does not take, HTTP/2 above all.

The lane's routes over the same ``endpoints``: a request has the same answer on both ways.
"""

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.routing import BaseConverter

from api.routes.exchange import answered, query_pairs
from api.services import Services


class _JobId(BaseConverter):
    """Any one segment but the routes that stand where an id could: those have their own methods.

    A ``GET /jobs/lease`` that found ``/jobs/<job_id>`` would answer that there is no such job.
    """

    regex = r"(?!(?:batch|lease|ack|extend)\Z)[^/]+"


def register(app: QuartTrio, services: Services) -> None:
    """Add the routes of this module."""
    app.url_map.converters["job_id"] = _JobId
    endpoints = services.endpoints

    @app.post("/jobs")
    async def submit() -> Response:
        return await answered(endpoints.submit)

    @app.get("/jobs")
    async def page() -> Response:
        return await answered(endpoints.page, query_pairs())

    @app.post("/jobs/batch")
    async def submit_many() -> Response:
        return await answered(endpoints.submit_many)

    @app.post("/jobs/lease")
    async def lease() -> Response:
        return await answered(endpoints.lease)

    @app.post("/jobs/ack")
    async def ack_many() -> Response:
        return await answered(endpoints.ack_many)

    @app.post("/jobs/extend")
    async def extend_many() -> Response:
        return await answered(endpoints.extend_many)

    @app.post("/jobs/<job_id>/ack")
    async def ack(job_id: str) -> Response:
        return await answered(endpoints.ack, job_id)

    @app.post("/jobs/<job_id>/extend")
    async def extend(job_id: str) -> Response:
        return await answered(endpoints.extend, job_id)

    @app.post("/jobs/<job_id>/release")
    async def release(job_id: str) -> Response:
        return await answered(endpoints.release, job_id)

    @app.post("/jobs/<job_id>/cancel")
    async def cancel(job_id: str) -> Response:
        return await answered(endpoints.change, job_id, "cancel")

    @app.post("/jobs/<job_id>/retry")
    async def retry(job_id: str) -> Response:
        return await answered(endpoints.change, job_id, "retry")

    @app.get("/jobs/<job_id:job_id>")
    async def get(job_id: str) -> Response:
        return await answered(endpoints.get, job_id, request.query_string.decode("latin-1"))

    @app.delete("/jobs/<job_id:job_id>")
    async def forget(job_id: str) -> Response:
        return await answered(endpoints.forget, job_id)
