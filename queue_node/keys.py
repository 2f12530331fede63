"""``queue-node keys create|list|revoke``: keys for operators, whether the node runs or not.

It goes to the key store itself, with the node's own configuration (``WAL_DIR`` or
``REDIS_URL``, and the pepper); a running node hears of a revocation at once.
"""

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Final, Protocol

import msgspec
from rich.text import Text

from api.key_schemas import NewKeyBody, check, revoked, shown
from api.keys import KEY_TYPES, Token, is_key_id, mint, parse_token
from api.keystore import open_keystore
from api.keystore.base import (
    KeyIdTakenError,
    KeyRecord,
    KeyStore,
    KeyStoreError,
    NewKey,
    OtherPepperError,
    wall_s,
)
from api.problems import KEY_NOT_FOUND, Problem
from queue_node import config
from queue_node.client_output import Cell, Output, plain
from queue_node.errors import DirectoryError, ExitCode, NodeError, pepper_refused

_KEYSTORE_FILE: Final = "keys.sqlite"  # As in queue_node/directory.py; a test compares them.

_HEADINGS: Final = ("KEY", "TYPE", "OWNER", "NAME", "CREATED", "LAST USED", "REVOKED")

_encode: Final = msgspec.json.Encoder().encode


class KeysConfig(Protocol):
    """What of the configuration says where the keys are."""

    @property
    def wal_dir(self) -> str:
        """The data directory."""

    @property
    def redis_url(self) -> str | None:
        """Redis, or None: the file in the data directory."""

    @property
    def key_pepper(self) -> str | None:
        """What digests are keyed with."""


class KeysUsageError(NodeError):
    """What was asked for cannot be: a value is wrong, or there is no such key."""

    exit_code = ExitCode.USAGE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node keys``, its commands."""
    commands = parser.add_subparsers(dest="keys_command", required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a key; it is shown once, here")
    create.add_argument("--type", required=True, choices=KEY_TYPES, help="what it may do")
    create.add_argument("--owner", required=True, metavar="OWNER_ID", help="whose key it is")
    create.add_argument("--name", required=True, help="what it is for")
    listing = commands.add_parser("list", help="every key by its id, revoked ones too")
    listing.add_argument("--owner", metavar="OWNER_ID", help="only the keys of this owner")
    revoke = commands.add_parser("revoke", help="end a key for good, on all fronts at once")
    revoke.add_argument("key", help="the id of the key (client_3fQ9xYw2), or the whole key")
    for command in (create, listing, revoke):
        command.add_argument(
            "--json",
            action=argparse.BooleanOptionalAction,
            default=None,
            help="JSON, as the HTTP interface (of a list the default where there is no terminal)",
        )


def run(arguments: argparse.Namespace) -> int:
    """Do what ``arguments`` ask, print the answer, return the exit code.

    Raises:
        NodeError: in one line, why it could not be done.
    """
    return run_with(arguments, config.read(os.environ))


def run_with(arguments: argparse.Namespace, settings: KeysConfig) -> int:
    """The same with a configuration."""
    try:
        path = str(keystore_path(settings))
        with closing(open_keystore(settings.redis_url, path, settings.key_pepper)) as store:
            store.check_pepper()
            _COMMANDS[arguments.keys_command](store, arguments)
        # A node with another store does not know these keys, and nobody would see why.
        where = "Redis (REDIS_URL)" if settings.redis_url is not None else path
        print(f"key store: {where}", file=sys.stderr)
    except OtherPepperError as error:
        raise pepper_refused(settings.key_pepper, error) from error
    except KeyStoreError as error:
        raise NodeError(str(error)) from error
    return 0


def keystore_path(settings: KeysConfig) -> Path:
    """The file of the embedded key store.

    Raises:
        DirectoryError: it is needed, and there is no data directory to hold it.
    """
    directory = Path(settings.wal_dir)
    if settings.redis_url is None and not directory.is_dir():
        raise DirectoryError(f"no data directory {directory}: start the node once, or set WAL_DIR")
    return directory / _KEYSTORE_FILE


def _create(store: KeyStore, arguments: argparse.Namespace) -> None:
    wanted = check(NewKeyBody(name=arguments.name, owner_id=arguments.owner, type=arguments.type))
    if isinstance(wanted, Problem):
        raise KeysUsageError(wanted.error)
    while True:
        new = NewKey(mint(wanted.type), wanted.name, wanted.owner_id, wall_s())
        try:
            record = store.create(new)
            break
        except KeyIdTakenError:
            continue  # Once in 62**8 keys.
    if arguments.json:
        _print_json(shown(record, new.token.text))
    else:
        # Alone on standard output, so that a script can take it from there.
        print(f"Created {record.type} key for {record.owner_id}, shown once:", file=sys.stderr)
        print(new.token.text)


def _list(store: KeyStore, arguments: argparse.Namespace) -> None:
    records = store.list_all() if arguments.owner is None else store.list_owned(arguments.owner)
    output = Output(as_json=arguments.json)
    if output.json_rows:
        for record in records:
            _print_json(shown(record))
    else:
        output.table(_HEADINGS, [_cells(record) for record in records])


def _revoke(store: KeyStore, arguments: argparse.Namespace) -> None:
    record = _revoked(store, arguments.key)
    if record is None:
        raise KeysUsageError(KEY_NOT_FOUND.error)
    if arguments.json:
        _print_json(revoked(record))
    else:
        print(f"Revoked {record.key_id} ({record.owner_id})")


def _revoked(store: KeyStore, text: str) -> KeyRecord | None:
    key: str | Token | None = text if is_key_id(text) else parse_token(text)
    if isinstance(key, Token):
        found = store.find(key)
        key = found.key_id if found else None
    return None if key is None else store.revoke(key, wall_s())


_COMMANDS: Final = {"create": _create, "list": _list, "revoke": _revoke}


def _print_json(body: msgspec.Struct) -> None:
    print(_encode(body).decode())


def _cells(record: KeyRecord) -> tuple[Cell, ...]:
    body = shown(record)
    style = "dim" if body.revoked_at else ""
    times = (body.created_at, body.last_used_at or "-", body.revoked_at or "-")
    texts = (body.key, body.type, plain(body.owner_id), plain(body.name), *times)
    return tuple(Text(text, style) for text in texts)
