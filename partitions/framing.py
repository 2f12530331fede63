"""Frames on a pipe: four bytes of length (big-endian), then that many bytes. Pure."""

from typing import Final

from partitions.errors import PipeError
from partitions.limits import FRAME_BYTES_MAX

_LENGTH_BYTES: Final = 4


def frame(body: bytes) -> bytes:
    """The body with its length in front; the body must be within ``FRAME_BYTES_MAX``."""
    assert len(body) <= FRAME_BYTES_MAX, "a frame was built beyond its bound"
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class Deframer:
    """Cuts a stream of bytes into the bodies of its frames, however it arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that ``data`` completes, in order.

        Raises:
            PipeError: a length beyond ``FRAME_BYTES_MAX``; the stream is unusable.
        """
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(buffer) - start >= _LENGTH_BYTES:
            length = int.from_bytes(buffer[start : start + _LENGTH_BYTES], "big")
            if length > FRAME_BYTES_MAX:
                raise PipeError(f"frame of {length} bytes, at most {FRAME_BYTES_MAX} allowed")
            end = start + _LENGTH_BYTES + length
            if len(buffer) < end:
                break
            bodies.append(bytes(buffer[start + _LENGTH_BYTES : end]))
            start = end
        del buffer[:start]
        return bodies
