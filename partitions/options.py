"""What a submitter chose for a job beside its payload; the same for very many jobs. Pure.

The front encodes them once (``encode_options``), the log keeps the bytes with each job, and a
partition decodes each different sequence of bytes once (``kinds``). No bytes at all are the
defaults: that is what plain jobs have.
"""

from functools import lru_cache
from typing import Annotated, Final

import msgspec

from partitions.limits import PRIORITY_MAX, QUEUE_CHARS_MAX
from partitions.retry import DELAY_MS_MAX, Backoff

DEFAULT_QUEUE: Final = "default"

_DurationMs = Annotated[int, msgspec.Meta(ge=0, le=DELAY_MS_MAX)]


class Options(msgspec.Struct, frozen=True, array_like=True):
    """Positions are the schema: a new field goes last and has a default."""

    queue: Annotated[str, msgspec.Meta(min_length=1, max_length=QUEUE_CHARS_MAX)] = DEFAULT_QUEUE
    priority: Annotated[int, msgspec.Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    """Higher first."""
    lease_ms: _DurationMs | None = None
    """None: as the node is set."""
    retention_ms: _DurationMs | None = None
    """How long the finished job is kept; None: as the node is set."""
    backoff: Backoff | None = None
    """None: as the node is set."""
    tags: tuple[tuple[str, str], ...] = ()
    """Sorted by key."""


DEFAULTS: Final = Options()

_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(Options)


@lru_cache(maxsize=1024)
def encode_options(options: Options) -> bytes:
    """The bytes that stand for ``options``; equal options have equal bytes."""
    return b"" if options == DEFAULTS else _encode(options)


@lru_cache(maxsize=1024)
def decode_options(encoded: bytes) -> Options:
    """What ``encode_options`` was given.

    Raises:
        msgspec.MsgspecError: these bytes are no options.
    """
    if not encoded:
        return DEFAULTS
    try:
        return _decoder.decode(encoded)
    except (UnicodeDecodeError, RecursionError) as error:
        # These two escape msgspec's own errors; see ``messages``.
        raise msgspec.DecodeError(f"malformed options: {error}") from error
