"""Real file operations that stop before the k-th: what a ``kill -9`` at any place leaves.

Every call of ``os`` that changes a file system is counted, whoever makes it (``pathlib`` and
``shutil`` go through ``os`` too). From the k-th on each of them raises, so nothing that runs
in a ``finally`` can tidy up what a killed process would have left. Syncs are counted but not
done: a killed process leaves the page cache behind.
"""

import gc
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import patch

from tests.support.fake_disk import Halted

_CHANGES = (
    "ftruncate", "link", "mkdir", "pwrite", "remove", "rename", "replace", "rmdir", "unlink",
)  # fmt: skip
_SYNCS = ("fsync", "fdatasync")


class Stopping:
    """Counts operations; raises ``Halted`` from number ``at`` (from 0) on; None: never."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.operations = 0
        self.halted = False
        self._open: set[int] = set()

    def run(self, action: Callable[[], object]) -> None:
        """``action``, to its end or until it is stopped."""
        # What is here already is no garbage of the action: the collector need not look at it.
        gc.freeze()
        with patch.multiple(os, **self._patches()):
            with suppress(Halted):
                action()
            if self.halted:
                # A killed process holds no lock, and no file.
                gc.collect()
            self._close_leftovers()
        gc.unfreeze()

    def _patches(self) -> dict[str, Any]:
        patches: dict[str, Any] = {name: self._counted(name) for name in _CHANGES}
        patches |= dict.fromkeys(_SYNCS, self._skipped)
        return patches | {"open": self._opening(os.open), "close": self._closing(os.close)}

    def _counted(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._count()
            return real(*args, **kwargs)

        return counted

    def _skipped(self, fd: int) -> None:
        del fd
        self._count()

    def _opening(self, real: Callable[..., int]) -> Callable[..., int]:
        def opening(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_CREAT:
                self._count()
            fd = real(path, flags, *args, **kwargs)
            self._open.add(fd)
            return fd

        return opening

    def _closing(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def closing(fd: int) -> None:
            self._open.discard(fd)
            real(fd)

        return closing

    def _count(self) -> None:
        if self.at is not None and self.operations >= self.at:
            self.halted = True
            raise Halted(self.at)
        self.operations += 1

    def _close_leftovers(self) -> None:
        for fd in list(self._open):
            try:
                os.close(fd)
            except OSError:
                continue
        self._open.clear()
