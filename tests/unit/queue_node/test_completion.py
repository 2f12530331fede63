"""The scripts that shells complete with, made from the parsers; those of bash and fish are run."""

import os
import shutil
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


def completed(bash: Path, *words: str, directory: Path | None = None) -> list[str]:
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
        cwd=directory,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


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
        (["top", "--sort", "=", "ba"], ["backlog"]),
        (["top", "--sort", "="], ["backlog", "name", "age", "rate", "dead"]),
        (["jobs", "--queue", "dead", "--sta"], ["--state"]),
    ],
)
def test_bash_knows_where_it_is(bash, words, offered):
    assert completed(bash, *words) == offered


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["submit", "--file", "a"], ["a file.txt"]),
        (["restore", "--directory", "a"], ["a file.txt"]),
        (["verify", "a"], ["a file.txt"]),
        (["get", "a"], []),
        (["submit", "--queue", "a"], []),
        (["backup", "--cop"], ["--copy"]),
    ],
)
def test_files_are_offered_where_they_may_stand(bash, tmp_path, words, offered):
    (tmp_path / "a file.txt").touch()
    assert completed(bash, *words, directory=tmp_path) == offered


def need(shell: str) -> str:
    """Where the shell is."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell} here")
    return path


@pytest.mark.parametrize(
    ("shell", "option"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")]
)
def test_the_shell_can_read_its_script(shell, option, tmp_path):
    path = tmp_path / "script"
    path.write_text(script(shell, tree_of(cli.whole_parser())))
    done = subprocess.run([need(shell), option, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("queue-node sub", ["submit"]),
        ("queue-node jobs --state D", ["DEAD"]),
        ("queue-node dead ", ["list", "purge", "retry"]),
        ("queue-node dead purge --ye", ["--yes"]),
        ("queue-node jobs --queue dead ", []),
        ("queue-node submit get --idem", ["--idempotency-key"]),
        ("queue-node get ", []),
        ("queue-node get --json --wa", ["--wait"]),
        ("queue-node verify a", ["a"]),
        ("queue-node submit --file a", ["a"]),
        ("queue-node completion f", ["fish"]),
        ("queue-node keys create --type=c", ["--type=client"]),
    ],
)
def test_fish_knows_where_it_is(line, offered, tmp_path):
    (tmp_path / "made.fish").write_text(script("fish", tree_of(cli.whole_parser())))
    (tmp_path / "a").touch()
    # Not what stands in the user's own configuration.
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        [need("fish"), "--no-config", "-c", f"source made.fish; complete -C '{line}'"],
        cwd=tmp_path, env=home, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert sorted(each.partition("\t")[0] for each in done.stdout.splitlines()) == offered


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
