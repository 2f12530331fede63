"""Texts by their positions, for those that read a partition and do not run it.

Stricter than a running partition (``log.Log.read``): the text must be as long as its position
says, so one that stands where another should is not taken for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from partitions.disk import Disk, File
from partitions.errors import BlobUnreadableError
from partitions.log import read_text, segment_name
from partitions.positions import make_position, offset_of, segment_of
from partitions.record import BLOB_HEADER_BYTES

_OPEN_FILES_MAX: Final = 64


class Texts:
    """Reads them, inside a ``with``.

    ``paths`` says where a segment is that is not under its own name.
    """

    def __init__(
        self, disk: Disk, directory: Path, paths: Mapping[int, Path] | None = None
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._paths = paths or {}
        self._files: dict[int, File] = {}

    def __enter__(self) -> "Texts":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def read(self, position: int) -> bytes:
        """The text there.

        Raises:
            BlobUnreadableError: it does not read back, or is not as long as the position says.
            OSError: its segment cannot be opened.
        """
        number, offset = segment_of(position), offset_of(position)
        path = self._paths.get(number, self._directory / segment_name(number))
        text = read_text(self._file(number, path), path, offset)
        if make_position(number, offset, BLOB_HEADER_BYTES + len(text)) != position:
            raise BlobUnreadableError(path, offset, f"another text: it has {len(text)} bytes")
        return text

    def _file(self, number: int, path: Path) -> File:
        file = self._files.get(number)
        if file is None:
            if len(self._files) >= _OPEN_FILES_MAX:
                self._files.pop(next(iter(self._files))).close()
            file = self._files[number] = self._disk.open(path)
        return file
