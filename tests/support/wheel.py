"""The SDK as its users get it: a wheel, and an environment that has nothing else."""

import subprocess
import sys
from pathlib import Path

SDK = Path(__file__).parents[2] / "sdk"


def build_wheel(directory: Path) -> Path:
    """The SDK's wheel, made below ``directory`` with what is installed here."""
    # Copied first: a build writes beside its source.
    source = directory / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((SDK / name).read_bytes())
    package = source / "queue_node_sdk"
    package.mkdir()
    for file in (SDK / "queue_node_sdk").iterdir():
        if file.is_file():
            (package / file.name).write_bytes(file.read_bytes())
    program = (
        "import setuptools.build_meta as backend, sys; print(backend.build_wheel(sys.argv[1]))"
    )
    built = subprocess.run(
        [sys.executable, "-c", program, str(directory)],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return directory / built.stdout.split()[-1]


def python_with(wheel: Path, directory: Path) -> Path:
    """The interpreter of a new environment with ``wheel`` and what it asks pip for."""
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    python = directory / "bin" / "python"
    installed = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", wheel],
        capture_output=True,
        text=True,
    )
    assert installed.returncode == 0, installed.stderr
    return python
