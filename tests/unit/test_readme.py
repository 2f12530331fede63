"""README.md tells the truth about what can be set and what is answered."""

import re
from pathlib import Path

import pytest

from queue_node.config import VARIABLES
from queue_node.errors import ExitCode

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_of_variables_is_the_list_of_variables():
    rows = [
        (name.strip("`"), default, meaning) for name, default, meaning in rows_of("Configuration")
    ]
    assert [name for name, _, _ in rows] == [variable.name for variable in VARIABLES]
    for variable, (_, default, meaning) in zip(VARIABLES, rows, strict=True):
        assert default in (variable.default, f"`{variable.default}`"), variable.name
        assert meaning == variable.meaning


def test_the_table_of_exit_codes_is_the_list_of_exit_codes():
    rows = rows_of("Starting and stopping")
    assert rows == [[str(code.value), code.meaning] for code in ExitCode]


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "ARCHITECTURE.md", "sdk/README.md"])
def test_every_file_that_a_page_links_to_is_there(page):
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text())
    for link in links:
        if "://" not in link and not link.startswith("#"):
            assert ((ROOT / page).parent / link.partition("#")[0]).exists(), link


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert {"run", "test", "demo", "bench"} <= named
    assert named <= targets
