"""What an operator types, and what they get for a slip."""

import re
import subprocess
import sys

import pytest

from queue_node import cli
from queue_node.config import VARIABLES
from queue_node.errors import ConfigError, ExitCode


def test_the_version_is_that_of_the_distribution(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == "queue-node 0.1.0\n"


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert re.search(rf"^    {command.name}\s", out, re.MULTILINE)


def test_the_help_of_serve_has_every_variable_and_every_exit_code(capsys):
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    lines = capsys.readouterr().out.splitlines()
    for variable in VARIABLES:
        assert any(line.startswith(f"  {variable.name} (default: ") for line in lines)
    for code in ExitCode:
        assert f"  {code.value}  {code.meaning}" in lines


@pytest.mark.parametrize("words", [[], ["swerve"], ["serve", "--port", "1"], ["--nothing"]])
def test_a_slip_is_refused_with_usage_and_two(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    assert exit_.value.code == ExitCode.USAGE
    assert "usage: queue-node" in capsys.readouterr().err


def test_an_argument_that_a_command_does_not_have_leads_to_its_help(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["serve", "--port", "1"])
    assert exit_.value.code == ExitCode.USAGE
    error = "unrecognized arguments: --port 1 (see queue-node serve --help)\n"
    assert capsys.readouterr().err.endswith(error)


def test_a_node_error_is_one_line_without_a_traceback(monkeypatch, capsys):
    class Failing:
        def add_arguments(self, parser):
            """None."""

        def run(self, arguments):
            raise ConfigError("PORT", "x", "must be a number")

    monkeypatch.setattr(cli, "_module", lambda name: Failing())
    assert cli.main(["serve"]) == ExitCode.USAGE
    assert capsys.readouterr().err == "queue-node: PORT=x: must be a number\n"


@pytest.mark.parametrize("command", [command.name for command in cli.COMMANDS])
def test_every_command_has_its_module(command):
    module = cli._module(command)
    assert callable(module.add_arguments)
    assert callable(module.run)


def test_help_needs_neither_the_node_nor_its_tools():
    code = (
        "import sys; from queue_node import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'trio', 'quart', 'redis', 'api', 'partitions', 'bench'} & set(sys.modules)\n"
        "sys.exit(str(slow) if slow else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "missing", "said"),
    [
        (
            "demo",
            "queue_node_sdk",
            "needs the package queue-node-sdk (`pip install queue-node-sdk`",
        ),
        ("bench", "bench", "needs the package bench, the load generator"),
        ("demo", "rich", "needs the package rich (`pip install rich`)"),
    ],
)
def test_a_package_that_is_not_installed_is_named_in_one_line(command, missing, said):
    code = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "from queue_node import cli\n"
        f"sys.exit(cli.main([{command!r}, '--help']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.FAULT
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
