"""``queue-node soak`` as it is typed: two minutes of everything, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.points import Points

SOAK = [sys.executable, "-m", "queue_node", "soak"]


def test_two_minutes_of_chaos_break_no_promise(tmp_path: Path, points: Points):
    folder = tmp_path / "soak"
    done = subprocess.run(
        [*SOAK, "--minutes", "2", "--chaos", "--json", "--directory", str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    verdict = json.loads(done.stdout)
    assert done.returncode == 0, (verdict, (folder / "node.log").read_text()[-5000:])
    assert verdict["good"]
    assert (verdict["lost"], verdict["doubled"], verdict["wrong"]) == (0, 0, 0)
    assert verdict["verified"] == verdict["finished"] > 500
    assert verdict["seen_gone"] > 0
    assert verdict["retries"] > 0
    assert verdict["keyed"] > 0
    assert verdict["replayed"] > 0
    assert verdict["conflicts"] > 0
    assert all(verdict["kills"].values())
    assert verdict["stalls"] > 0
    for kind, count in verdict["kills"].items():
        points.add(f"soak: a {kind} killed under load", count)
    points.add("soak: a process stalled under load", verdict["stalls"])
    points.add("soak: a disk filled under load", verdict["full_disks"])
    if verdict["full_disks_skipped"]:
        pytest.skip("all but full disks passed: those need the right to mount a disk (root)")
    assert verdict["full_disks"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--minutes", "0"], "'0' is not a number above 0"),
        (["--minutes", "x"], "'x' is not a number above 0"),
        (["--rate", "-1"], "'-1' is not a number above 0"),
        (["--directory", "{full}"], "is not empty"),
        (["--directory", "{full}/file"], "--directory"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(tmp_path: Path, arguments: list[str], words: str):
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    typed = [each.format(full=full) for each in arguments]
    done = subprocess.run([*SOAK, *typed], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
