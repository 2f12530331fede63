"""The JSON of the key routes, and what may be asked for; the command line uses it too. Pure."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from api.caller import KeyType
from api.keys import KEY_TYPES, NAME_CHARACTERS_MAX, OWNER_ID
from api.keystore.base import KeyRecord
from api.problems import Problem
from api.times import rfc3339

NAME_REQUIRED: Final = Problem(400, "name is required")
NAME_TOO_LONG: Final = Problem(400, f"name is longer than {NAME_CHARACTERS_MAX} characters")
OWNER_ID_REQUIRED: Final = Problem(400, "owner_id is required")
OWNER_ID_PATTERN: Final = Problem(400, f"owner_id must match {OWNER_ID.pattern}")
TYPE_REQUIRED: Final = Problem(400, "type is required")
TYPE_UNKNOWN: Final = Problem(400, "type must be client, worker or admin")


_Name = Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": NAME_CHARACTERS_MAX})]
_OwnerId = Annotated[str, Meta(extra_json_schema={"pattern": f"^{OWNER_ID.pattern}$"})]
_Type = Annotated[str, Meta(extra_json_schema={"enum": list(KEY_TYPES)})]


class NewKeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /admin/keys``. Absent, null and empty are the same: required.

    Bounds are for readers of the schema; ``check`` refuses, the first field first.
    """

    name: _Name | None = None
    owner_id: _OwnerId | None = None
    type: _Type | None = None


class WantedKey(msgspec.Struct, frozen=True):
    """A ``NewKeyBody`` that checked."""

    type: KeyType
    name: str
    owner_id: str


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


def check(body: NewKeyBody) -> WantedKey | Problem:
    """The key that is wanted, or the first thing that is wrong."""
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
            return WantedKey(key_type, body.name, body.owner_id)
    return TYPE_UNKNOWN


def shown(record: KeyRecord, key: str | None = None) -> KeyBody:
    """A key by its id, or by ``key``: in full, in the one answer that made it."""
    return KeyBody(
        key=key or record.key_id,
        name=record.name,
        owner_id=record.owner_id,
        type=record.type,
        scopes=record.scopes,
        created_at=rfc3339(record.created_s * 1000),
        last_used_at=None if record.last_used_s is None else rfc3339(record.last_used_s * 1000),
        revoked_at=None if record.revoked_s is None else rfc3339(record.revoked_s * 1000),
    )


def revoked(record: KeyRecord) -> RevokedBody:
    """The answer about a key that is revoked."""
    assert record.revoked_s is not None
    return RevokedBody("Key revoked successfully", record.key_id, rfc3339(record.revoked_s * 1000))
