"""The SDK stands alone: what a user's application installs has nothing of the server."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import queue_node_sdk
from tests.support.wheel import build_wheel

SDK = Path(__file__).parents[3] / "sdk"


def test_importing_it_brings_in_nothing_of_the_server():
    program = (
        "import sys, queue_node_sdk; "
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(SDK)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(eval(answer.stdout))  # noqa: S307 - a list of names that we printed
    assert "queue_node_sdk" in modules
    assert not modules & {"queue_node", "api", "partitions", "bench"}
    # Nor what only the server needs.
    assert not modules & {"quart", "hypercorn", "httptools", "redis", "rich", "setproctitle"}


def test_the_settings_name_every_file_of_the_package():
    setuptools = tomllib.loads((SDK / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["packages"] == ["queue_node_sdk"]
    assert setuptools["package-data"] == {"queue_node_sdk": ["py.typed"]}
    assert not [path for path in (SDK / "queue_node_sdk").glob("*/") if path.name[0] != "_"]


def test_the_wheel_holds_the_package_its_types_and_nothing_else(tmp_path: Path):
    with zipfile.ZipFile(build_wheel(tmp_path)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (about,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        requires = [
            line
            for line in wheel.read(about).decode().splitlines()
            if line.startswith("Requires-Dist")
        ]
    assert names == {
        f"queue_node_sdk/{file.name}"
        for file in (SDK / "queue_node_sdk").iterdir()
        if file.suffix in (".py", ".typed")
    }
    assert requires == [
        "Requires-Dist: anyio>=4.10",
        "Requires-Dist: httpx2>=2",
        "Requires-Dist: msgspec>=0.19",
        'Requires-Dist: queue-node>=0.1; extra == "testing"',
        'Requires-Dist: pytest>=8; extra == "testing"',
        'Requires-Dist: opentelemetry-api>=1.30; extra == "otel"',
    ]


def test_the_version_is_the_distributions():
    project = tomllib.loads((SDK / "pyproject.toml").read_text())["project"]
    assert queue_node_sdk.__version__ == project["version"]


def test_asyncio_is_imported_nowhere():
    for file in (SDK / "queue_node_sdk").glob("*.py"):
        assert "import asyncio" not in file.read_text(), file
