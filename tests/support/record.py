"""The file in which fake children note what happens to them."""

import sys
from pathlib import Path

import trio

FAKE_CHILD = Path(__file__).with_name("fake_child.py")
DEADLINE_S = 120.0


class Record:
    """Lines like ``front 0 started 4711 4711``, in the order of what happened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def command(self, behaviour: str) -> tuple[str, ...]:
        """The command line of a fake child that notes here."""
        # -S: no site-packages to look through, so it starts in a third of the time.
        return (sys.executable, "-S", str(FAKE_CHILD), behaviour, str(self.path))

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def pids(self, name: str) -> list[int]:
        """The processes that ``name`` has been, oldest first."""
        starts = [line.split() for line in self.lines if line.startswith(f"{name} started")]
        return [int(words[3]) for words in starts]

    def count(self, line: str) -> int:
        return sum(found == line or found.startswith(f"{line} ") for found in self.lines)

    async def until(self, line: str, times: int = 1) -> None:
        """Wait until ``line`` (or one that it begins) was noted ``times`` times."""
        with trio.fail_after(DEADLINE_S):
            while self.count(line) < times:
                await trio.sleep(0.005)
