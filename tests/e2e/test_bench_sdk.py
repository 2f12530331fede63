import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import environment


def test_a_client_is_measured_on_both_loops(tmp_path: Path):
    if environment.keeps_nothing(environment.filesystem_of(tmp_path)):
        pytest.skip("a benchmark of durable jobs needs a disk")
    done = subprocess.run(
        [sys.executable, "-m", "queue_node", "bench", "sdk", "--json", "--dir", str(tmp_path),
         "--tasks", "20", "--duration", "0.5", "--warmup", "0.1"],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert [(figure["loop"], figure["tasks"]) for figure in figures] == [
        ("asyncio", 20), ("trio", 20),
    ]  # fmt: skip
    assert all(figure["jobs_s"] > 20 for figure in figures)
    assert not list(tmp_path.iterdir())
