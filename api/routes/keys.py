"""Keys over HTTP: ``/admin/keys``, ``/keys``, ``/keys/{key}``.

A key is whole in one answer only, the one that made it; everywhere else it is its id.
"""

import logging
from typing import Final

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from api.answer import Answer
from api.caller import KEYS_READ, KEYS_REVOKE, Caller
from api.key_schemas import KeyBody, NewKeyBody, check, revoked, shown
from api.keystore.base import KeyStoreUnreachableError
from api.problems import (
    ADMIN_REQUIRED,
    KEYSTORE_UNREACHABLE,
    UNSUPPORTED_MEDIA_TYPE,
    Problem,
    missing_scope,
)
from api.routes.exchange import identify, read_json, refuse, respond
from api.services import Services

_log: Final = logging.getLogger(__name__)
_decoder: Final = msgspec.json.Decoder(NewKeyBody)
_encode: Final = msgspec.json.Encoder().encode


def register(app: QuartTrio, services: Services) -> None:
    """Add the routes of this module."""
    _register_admin(app, services)
    _register_own(app, services)

    @app.errorhandler(KeyStoreUnreachableError)
    async def unreachable(error: KeyStoreUnreachableError) -> Response:
        _log.warning("%s %s: %s", request.method, request.url_rule, error)
        return refuse(KEYSTORE_UNREACHABLE)

    @app.after_request
    async def keep_out_of_caches(response: Response) -> Response:
        # The body of another format is refused before the routes, by the door in the same words.
        refused = response.status_code == UNSUPPORTED_MEDIA_TYPE.status
        if request.path.startswith(("/keys", "/admin/keys")) and not refused:
            response.headers["Cache-Control"] = "no-store"
        return response


def _register_admin(app: QuartTrio, services: Services) -> None:
    keyring = services.keyring

    @app.post("/admin/keys")
    async def create_key() -> Response:
        caller = await _admin(services)
        if isinstance(caller, Problem):
            return refuse(caller)
        body = await read_json(_decoder)
        wanted = body if isinstance(body, Problem) else check(body)
        if isinstance(wanted, Problem):
            return refuse(wanted)
        token, record = await keyring.create(wanted.type, wanted.name, wanted.owner_id)
        return _json(201, shown(record, token.text))

    @app.get("/admin/keys")
    async def list_keys() -> Response:
        caller = await _admin(services)
        if isinstance(caller, Problem):
            return refuse(caller)
        return _json(200, [shown(record) for record in await keyring.list_all()])


def _register_own(app: QuartTrio, services: Services) -> None:
    keyring = services.keyring

    @app.get("/keys")
    async def list_own_keys() -> Response:
        caller = await _with_scope(services, KEYS_READ)
        if isinstance(caller, Problem):
            return refuse(caller)
        records = await keyring.list_owned(caller.owner_id)
        return _json(200, [shown(record) for record in records])

    @app.delete("/keys/<key>")
    async def revoke_key(key: str) -> Response:
        caller = await _with_scope(services, KEYS_REVOKE)
        if isinstance(caller, Problem):
            return refuse(caller)
        record = await keyring.revoke(key, caller)
        return refuse(record) if isinstance(record, Problem) else _json(200, revoked(record))


async def _admin(services: Services) -> Caller | Problem:
    caller = await identify(services)
    if isinstance(caller, Caller) and caller.type != "admin":
        return ADMIN_REQUIRED
    return caller


async def _with_scope(services: Services, scope: str) -> Caller | Problem:
    caller = await identify(services)
    if isinstance(caller, Caller) and scope not in caller.scopes:
        return missing_scope(scope)
    return caller


def _json(status: int, body: msgspec.Struct | list[KeyBody]) -> Response:
    return respond(Answer(status, _encode(body)))
