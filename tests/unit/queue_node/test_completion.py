"""The scripts that shells complete with, made from the parsers; bash's is run."""

import subprocess
from pathlib import Path

import pytest

from queue_node import cli
from queue_node.client_exit import ClientExit
from queue_node.completion import SHELLS, script, tree_of


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "queue-node"
    path.write_text(script("bash", tree_of(cli.whole_parser())))
    return path


def completed(bash: Path, *words: str) -> list[str]:
    """What bash offers for the last of ``words``."""
    done = subprocess.run(
        [
            "bash",
            "-c",
            'source "$0"; COMP_WORDS=(queue-node "$@"); COMP_CWORD=$#; _queue_node; '
            'printf "%s\\n" "${COMPREPLY[@]}"',
            str(bash),
            *words,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_offers_every_command(bash):
    assert set(completed(bash, "")) >= {command.name for command in cli.COMMANDS}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sub"], ["submit"]),
        (["submit", "--prio"], ["--priority"]),
        (["jobs", "--state", "D"], ["DEAD"]),
        (["dead", "p"], ["purge"]),
        (["dead", "retry", "--ye"], []),
        (["dead", "purge", "--ye"], ["--yes"]),
        (["submit", "get", "--idem"], ["--idempotency-key"]),
        (["completion", "f"], ["fish"]),
        (["submit", "--queue", "x"], []),
    ],
)
def test_bash_knows_where_it_is(bash, words, offered):
    assert completed(bash, *words) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_has_every_command_and_its_options(shell):
    text = script(shell, tree_of(cli.whole_parser()))
    for command in cli.COMMANDS:
        assert command.name in text
    assert "idempotency-key" in text


def test_the_command_prints_the_script(capsys):
    assert cli.main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef queue-node\n")


def test_the_page_about_the_command_line_has_every_command_and_exit_code():
    page = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    for command in cli.COMMANDS:
        if command.module.startswith("queue_node.client_"):
            assert f"`{command.name} " in page or f"`{command.name}`" in page
    for code in ClientExit:
        assert f"| {code.value} | {code.meaning.split(' (')[0].split(',')[0][:20]}" in page
