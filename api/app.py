"""The Quart-Trio app: every route that is not in the lane, and those of the lane as well.

The limits of heads, bodies and times are the door's. Those that are set here are the same
numbers, for HTTP/2, which does not come through the door.
"""

import logging
from typing import Final

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from api.media_types import is_other_format
from api.problems import (
    INTERNAL,
    METHOD_NOT_ALLOWED,
    NO_SUCH_ROUTE,
    UNSUPPORTED_MEDIA_TYPE,
    Problem,
)
from api.routes import docs, jobs, keys, node, queues
from api.routes.exchange import refuse
from api.services import Services

_log: Final = logging.getLogger(__name__)


def create_app(services: Services) -> QuartTrio:
    """The app with all its routes; ``services.keyring`` runs elsewhere."""
    app = QuartTrio(__name__, static_folder=None)
    limits = services.settings.limits
    app.config["MAX_CONTENT_LENGTH"] = limits.body_bytes_max
    # The door gives this time to each MiB; here it is one bound for the whole body.
    bodies = -(-limits.body_bytes_max // (1 << 20))
    app.config["BODY_TIMEOUT"] = bodies * limits.body_timeout_ms / 1000
    # ``//jobs/x`` is not ``/jobs/x``: a redirect would let a path be understood in two ways.
    app.url_map.merge_slashes = False
    _speak_json(app)
    _take_json(app)
    node.register(app, services)
    keys.register(app, services)
    jobs.register(app, services)
    queues.register(app, services)
    docs.register(app)
    return app


def _speak_json(app: QuartTrio) -> None:
    """Refusals of the framework in the contract's words, and no traceback to a client."""

    @app.errorhandler(HTTPException)
    async def refused(error: HTTPException) -> Response:
        response = refuse(_problem_of(error, app.config["MAX_CONTENT_LENGTH"]))
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    @app.after_request
    async def same_each_time(response: Response) -> Response:
        if request.method == "OPTIONS" and response.status_code == 200:
            # Quart's own answer: its methods come from a set, its emptiness as HTML.
            response.headers["Allow"] = ", ".join(sorted(response.allow))
            del response.headers["Content-Type"]
        return response

    @app.errorhandler(Exception)
    async def failed(error: Exception) -> Response:
        # By its rule: the path may hold a key.
        rule = request.url_rule.rule if request.url_rule else "no route"
        _log.error("%s %s failed", request.method, rule, exc_info=error)
        return refuse(INTERNAL)


def _take_json(app: QuartTrio) -> None:
    """Refuse bodies of other formats, as the door does, for HTTP/2."""

    @app.before_request
    async def refuse_other_formats() -> Response | None:
        content_type = request.headers.get("Content-Type")
        if content_type is None or not is_other_format(request.method, content_type):
            return None
        # Over HTTP/2 only its end says that there is none.
        return refuse(UNSUPPORTED_MEDIA_TYPE) if await request.get_data() else None


def _problem_of(error: HTTPException, body_bytes_max: int) -> Problem:
    match error:
        case NotFound():
            return NO_SUCH_ROUTE
        case MethodNotAllowed():
            return METHOD_NOT_ALLOWED
        case RequestEntityTooLarge():
            return Problem(413, f"body too large: at most {body_bytes_max} bytes")
        case _:
            return Problem(error.code or 500, (error.name or "refused").lower())
