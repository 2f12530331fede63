"""Which node, and with which key: checked before anything is sent."""

import os
from typing import Final
from urllib.parse import urlsplit

from queue_node_sdk.errors import ConfigurationError

URL_VARIABLE: Final = "QUEUE_NODE_URL"
KEY_VARIABLE: Final = "QUEUE_NODE_KEY"


def check_url(url: str) -> str:
    """The URL of a node without its last slash.

    Raises:
        ConfigurationError: it is not ``http://host[:port][/path]`` (or ``https``).
    """
    # urlsplit overlooks some of them; whoever sends the request does not.
    if any(character.isspace() for character in url):
        raise ConfigurationError("the URL of a node has no blanks")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"not a URL: {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigurationError(f"not the URL of a node: {url!r}; expected http://host:port")
    if parts.query or parts.fragment or parts.username is not None:
        raise ConfigurationError(
            "the URL of a node has no user, query or fragment; the key is given beside it"
        )
    return url.rstrip("/")


def check_key(key: str) -> str:
    """The key, if it can stand in a header. What is wrong never shows it.

    Raises:
        ConfigurationError: it is empty, or has blanks or characters beyond ASCII.
    """
    if not key:
        raise ConfigurationError("the key is empty")
    if not all("!" <= character <= "~" for character in key):
        raise ConfigurationError("the key has blanks or characters that no key has")
    return key


def url_and_key_from_env() -> tuple[str, str]:
    """What ``from_env`` goes by.

    Raises:
        ConfigurationError: one of the two variables is not set.
    """
    missing = [name for name in (URL_VARIABLE, KEY_VARIABLE) if not os.environ.get(name)]
    if missing:
        raise ConfigurationError(f"not set in the environment: {' and '.join(missing)}")
    return os.environ[URL_VARIABLE], os.environ[KEY_VARIABLE]
