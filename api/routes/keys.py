"""Keys over HTTP: ``/admin/keys``, ``/keys``, ``/keys/{key}``.

A key is whole in one answer only, the one that made it; everywhere else it is its id.
"""

import datetime
from typing import Final, TypeVar

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from api.answer import Answer
from api.caller import KEYS_READ, KEYS_REVOKE, Caller, KeyType
from api.keys import KEY_TYPES, NAME_CHARACTERS_MAX, OWNER_ID
from api.keystore.base import KeyRecord, KeyStoreUnreachableError
from api.problems import ADMIN_REQUIRED, KEYSTORE_UNREACHABLE, Problem, missing_scope
from api.routes.exchange import identify, read_json, refuse, respond
from api.services import Services

NAME_REQUIRED: Final = Problem(400, "name is required")
NAME_TOO_LONG: Final = Problem(400, f"name is longer than {NAME_CHARACTERS_MAX} characters")
OWNER_ID_REQUIRED: Final = Problem(400, "owner_id is required")
OWNER_ID_PATTERN: Final = Problem(400, f"owner_id must match {OWNER_ID.pattern}")
TYPE_REQUIRED: Final = Problem(400, "type is required")
TYPE_UNKNOWN: Final = Problem(400, "type must be client, worker or admin")


class NewKeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /admin/keys``. Absent, null and empty are the same: required."""

    name: str | None = None
    owner_id: str | None = None
    type: str | None = None


class KeyBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key as answers show it. ``last_used_at`` is null until the first use."""

    key: str
    name: str
    owner_id: str
    type: KeyType
    scopes: tuple[str, ...]
    created_at: str
    last_used_at: str | None
    revoked_at: str | None = None


class RevokedBody(msgspec.Struct, frozen=True):
    """The answer to ``DELETE /keys/{key}``."""

    message: str
    key: str
    revoked_at: str


class _KeySpecification(msgspec.Struct, frozen=True):
    type: KeyType
    name: str
    owner_id: str


_T = TypeVar("_T")
_decoder: Final = msgspec.json.Decoder(NewKeyBody)
_encode: Final = msgspec.json.Encoder().encode


def register(app: QuartTrio, services: Services) -> None:
    """Add the routes of this module."""
    keyring = services.keyring

    @app.post("/admin/keys")
    async def create_key() -> Response:
        caller = await _admin(services)
        if isinstance(caller, Problem):
            return refuse(caller)
        body = await read_json(_decoder)
        wanted = body if isinstance(body, Problem) else _check(body)
        if isinstance(wanted, Problem):
            return refuse(wanted)
        token, record = await keyring.create(wanted.type, wanted.name, wanted.owner_id)
        return _json(201, _shown(record, token.text))

    @app.get("/admin/keys")
    async def list_keys() -> Response:
        caller = await _admin(services)
        if isinstance(caller, Problem):
            return refuse(caller)
        return _json(200, [_shown(record) for record in await keyring.list_all()])

    @app.get("/keys")
    async def list_own_keys() -> Response:
        caller = await _with_scope(services, KEYS_READ)
        if isinstance(caller, Problem):
            return refuse(caller)
        records = await keyring.list_owned(caller.owner_id)
        return _json(200, [_shown(record) for record in records])

    @app.delete("/keys/<key>")
    async def revoke_key(key: str) -> Response:
        caller = await _with_scope(services, KEYS_REVOKE)
        if isinstance(caller, Problem):
            return refuse(caller)
        record = await keyring.revoke(key, caller)
        if isinstance(record, Problem):
            return refuse(record)
        assert record.revoked_s is not None
        revoked_at = rfc3339(record.revoked_s)
        return _json(200, RevokedBody("Key revoked successfully", record.key_id, revoked_at))

    @app.errorhandler(KeyStoreUnreachableError)
    async def unreachable(_error: KeyStoreUnreachableError) -> Response:
        # The keyring has logged it, once for as long as it lasts.
        return refuse(KEYSTORE_UNREACHABLE)

    @app.after_request
    async def keep_out_of_caches(response: Response) -> Response:
        if request.path.startswith(("/keys", "/admin/keys")):
            response.headers["Cache-Control"] = "no-store"
        return response


def rfc3339(seconds: int) -> str:
    """Seconds since 1970 as the contract writes times."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


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


def _check(body: NewKeyBody) -> _KeySpecification | Problem:
    if not body.name:
        return NAME_REQUIRED
    if not body.owner_id:
        return OWNER_ID_REQUIRED
    if not body.type:
        return TYPE_REQUIRED
    if len(body.name) > NAME_CHARACTERS_MAX:
        return NAME_TOO_LONG
    if not OWNER_ID.fullmatch(body.owner_id):
        return OWNER_ID_PATTERN
    for key_type in KEY_TYPES:
        if key_type == body.type:
            return _KeySpecification(key_type, body.name, body.owner_id)
    return TYPE_UNKNOWN


def _shown(record: KeyRecord, key: str | None = None) -> KeyBody:
    return KeyBody(
        key=key or record.key_id,
        name=record.name,
        owner_id=record.owner_id,
        type=record.type,
        scopes=record.scopes,
        created_at=rfc3339(record.created_s),
        last_used_at=None if record.last_used_s is None else rfc3339(record.last_used_s),
        revoked_at=None if record.revoked_s is None else rfc3339(record.revoked_s),
    )


def _json(status: int, body: msgspec.Struct | list[KeyBody]) -> Response:
    return respond(Answer(status, _encode(body)))
