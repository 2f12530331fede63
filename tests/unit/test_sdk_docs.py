"""The pages about the SDK: what they show compiles, what they name exists."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from docs import make_reference
from queue_node_sdk import AsyncClient, Client, Job, JobContext, Worker
from queue_node_sdk.fake import FakeClient
from queue_node_sdk.testing import LocalNode

ROOT = Path(__file__).parents[2]
PAGES = ("sdk/README.md", "docs/sdk.md", "docs/sdk-worker.md", "docs/sdk-tasks.md",
         "docs/sdk-testing.md")  # fmt: skip

OF_THE_READER = frozenset(("app.tasks",))
"""Modules that a page makes up for its reader."""

KNOWN = {
    "client": set(dir(Client)),
    # In one block a job is what a worker has, in another what a client read.
    "job": {*dir(JobContext), *dir(Job)},
    "queue_node": {*dir(LocalNode), "client", "keys", "url"},
    "fake_queue": set(dir(FakeClient())),
}
"""What these names have wherever a page uses them."""


def blocks() -> list[tuple[str, int, str]]:
    """Page, line and text of each block of Python."""
    found: list[tuple[str, int, str]] = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        shown = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        found += [(page, text.count("\n", 0, block.start()) + 2, block[1]) for block in shown]
    return found


BLOCKS = [pytest.param(*block, id=f"{block[0]}:{block[1]}") for block in blocks()]


def test_every_page_shows_something():
    assert {page for page, _, _ in blocks()} == set(PAGES)


@pytest.mark.parametrize(("page", "line", "text"), BLOCKS)
def test_a_block_compiles_and_its_imports_are_there(page: str, line: int, text: str):
    tree = compile("\n" * (line - 1) + text, page, "exec", ast.PyCF_ONLY_AST)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module not in OF_THE_READER:
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{page}:{node.lineno}: {alias.name}"


@pytest.mark.parametrize(("page", "line", "text"), BLOCKS)
def test_what_a_block_calls_is_there(page: str, line: int, text: str):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = KNOWN.get(node.value.id)
            at = f"{page}:{line + node.lineno - 1}"
            assert names is None or node.attr in names, f"{at}: {ast.unparse(node)}"


def test_the_reference_is_what_the_docstrings_say():
    assert make_reference.page() == make_reference.PAGE.read_text(), "run `make docs`"


def test_every_method_of_a_client_is_on_its_page():
    page = (ROOT / "docs/sdk.md").read_text()
    named = set(re.findall(r"`(?:Client\.)?([a-z_]+)[`(,]", page))
    of_both = {name for name in dir(Client) if name[0] != "_"} - {"close"}
    assert of_both <= set(dir(AsyncClient))
    assert of_both <= named


def test_every_option_of_a_worker_is_on_its_page():
    table = (ROOT / "docs/sdk-worker.md").read_text().partition("\n## Options\n")[2]
    named = set(re.findall(r"`([a-z_]+)`", table.partition("\n## ")[0]))
    arguments = Worker.__init__.__annotations__.keys() - {"url", "key", "handler", "return"}
    # What decides where the handler runs is told where that is told.
    assert arguments - {"process"} <= named


@pytest.mark.parametrize(
    "page", ["docs/cli.md", "docs/sdk-reference.md", *(each for each in PAGES if "docs" in each)]
)
def test_every_file_and_heading_that_a_page_links_to_is_there(page: str):
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
