"""API keys as text: minting, parsing, checksums, hashes. No store, no HTTP.

A token is ``<type>_<32 base62><6 base62 checksum>``: 190 random bits, then the CRC-32 of all
that stands before it (type and underscore included), base62 with leading zeros. A typing
error is refused without a look-up, and a leak scanner can be sure of what it found. Tokens
of the original system are ``<type>_<32 base64url>`` without a checksum; they stay valid.

The public id of a key is its type and the first 8 random characters, ``client_3fQ9xYw2``:
that is what lists, logs and stores show. The token itself is shown once, when it is made,
and is kept nowhere: stores hold ``TokenHasher`` digests.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from typing import Final, cast

import msgspec

from api.caller import KeyType

KEY_TYPES: Final[tuple[KeyType, ...]] = ("client", "worker", "admin")

OWNER_ID: Final = re.compile(r"[A-Za-z0-9_.@+/-]{1,128}", re.ASCII)
"""Owner ids that may be given to a new key. They become part of Redis key names, where a
colon would let one owner's set look like another's."""

NAME_CHARACTERS_MAX: Final = 256
"""Longest name of a key (guess: it is a label for people)."""

_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_CHARACTERS: Final = 32
_CHECKSUM_CHARACTERS: Final = 6  # 62**6 > 2**32
_ID_CHARACTERS: Final = 8

_TOKEN: Final = re.compile(r"(client|worker|admin)_([0-9A-Za-z]{32})([0-9A-Za-z]{6})", re.ASCII)
_ORIGINAL_TOKEN: Final = re.compile(r"(client|worker|admin)_[0-9A-Za-z_-]{32}", re.ASCII)
_SECRET: Final = re.compile(
    r"((?:client|worker|admin)_[0-9A-Za-z_-]{8})[0-9A-Za-z_-]{8,}", re.ASCII
)
_KEY_ID: Final = re.compile(r"(client|worker|admin)_[0-9A-Za-z_-]{8}", re.ASCII)


class Token(msgspec.Struct, frozen=True):
    """A key in the clear. Made by ``parse_token`` or ``mint`` alone, so its form is right."""

    text: str
    type: KeyType

    @property
    def key_id(self) -> str:
        """The public part: what may be shown and logged."""
        return self.text[: len(self.type) + 1 + _ID_CHARACTERS]

    @property
    def last4(self) -> str:
        """The end, for people who look for a key in their notes; of the checksum, so no secret."""
        return self.text[-4:]

    # A token in a traceback, an assertion or a log line must not give the key away.
    def __repr__(self) -> str:
        return f"Token({self.key_id}...)"


def mint(key_type: KeyType) -> Token:
    """A new key from the system's randomness."""
    body = "".join(secrets.choice(_BASE62) for _ in range(_RANDOM_CHARACTERS))
    return Token(f"{key_type}_{body}{checksum(f'{key_type}_{body}')}", key_type)


def parse_token(text: str) -> Token | None:
    """The token if ``text`` has the form of one and its checksum is right, else None."""
    if found := _TOKEN.fullmatch(text):
        if checksum(text[:-_CHECKSUM_CHARACTERS]) != found[3]:
            return None
    elif not (found := _ORIGINAL_TOKEN.fullmatch(text)):
        return None
    return Token(text, cast("KeyType", found[1]))


def is_key_id(text: str) -> bool:
    """Whether ``text`` has the form of a public id; nothing else may be looked up by id."""
    return _KEY_ID.fullmatch(text) is not None


def without_secrets(text: str) -> str:
    """``text`` with every key in it cut to its id: for words that came from elsewhere."""
    return _SECRET.sub(r"\1...", text)


def checksum(text: str) -> str:
    """CRC-32 of ``text``, which is ASCII, as 6 characters of base62."""
    rest = zlib.crc32(text.encode("ascii"))
    digits = []
    for _ in range(_CHECKSUM_CHARACTERS):
        rest, digit = divmod(rest, len(_BASE62))
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


NO_PEPPER: Final = "none"
"""``TokenHasher.mark`` without a pepper."""


class TokenHasher:
    """Token -> what a store keeps of it, 64 hex digits.

    With a pepper HMAC-SHA-256: whoever reads a store cannot check a guess, and whoever writes
    one cannot make a key. Without, SHA-256, which is enough against reading: nobody guesses
    190 bits, so a slow hash would only cost us time. Another pepper means other digests: every
    key made before is unknown.
    """

    def __init__(self, pepper: str | None) -> None:
        self._pepper = pepper.encode() if pepper else None

    def digest(self, token: Token) -> str:
        """The digest of ``token`` under this store's pepper."""
        text = token.text.encode("ascii")
        if self._pepper is None:
            return hashlib.sha256(text).hexdigest()
        return hmac.new(self._pepper, text, hashlib.sha256).hexdigest()

    @property
    def mark(self) -> str:
        """What a store keeps to tell later that its keys are digested under another pepper.

        Half a digest of a constant that is no token. Whoever reads the store can check a guess
        at the pepper by it, as they can by the digest of a key of theirs.
        """
        if self._pepper is None:
            return NO_PEPPER
        return hmac.new(self._pepper, b"queue-node: pepper", hashlib.sha256).hexdigest()[:32]

    def fits(self, token: Token, digest: str) -> bool:
        """Whether ``digest`` is that of ``token``, in time that does not depend on either."""
        return hmac.compare_digest(self.digest(token), digest)
