"""What is in deploy/ fits the node: variables, paths, passwords, exit codes."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
import yaml

from queue_node.config import DRAIN_SECONDS_MAX, VARIABLES, read
from queue_node.errors import ExitCode

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
NAMES = {variable.name for variable in VARIABLES}


def substituted(text: str, environment: dict[str, str]) -> str:
    """``${NAME:-default}`` as compose replaces it."""
    return re.sub(
        r"\$\{(\w+):-([^}]*)\}", lambda match: environment.get(match[1]) or match[2], text
    )


@pytest.fixture
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture
def dockerfile():
    return (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


@pytest.fixture
def unit():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "queue-node.service")
    return parser


def image_environment(dockerfile: list[str]) -> dict[str, str]:
    words = [word for line in dockerfile if line.startswith("ENV ") for word in shlex.split(line)]
    return dict(word.split("=", 1) for word in words if "=" in word)


def test_the_compose_file_sets_only_variables_that_there_are(compose):
    assert set(compose["services"]["queue"]["environment"]) <= NAMES


@pytest.mark.parametrize("password", ["development", "s3cret"])
def test_the_composed_node_starts_with_development_keys_in_a_redis_with_a_password(
    compose, dockerfile, password
):
    set_outside = {} if password == "development" else {"REDIS_PASSWORD": password}
    texts = compose["services"]["queue"]["environment"]
    environment = {name: substituted(text, set_outside) for name, text in texts.items()}
    made = read(image_environment(dockerfile) | environment)
    assert made.redis_url == f"redis://:{password}@redis:6379/0"
    assert made.seed_dev_keys == "always"
    assert made.host == "0.0.0.0"
    command = [substituted(word, set_outside) for word in compose["services"]["redis"]["command"]]
    assert command[command.index("--requirepass") + 1] == password
    assert "redis" in compose["services"]


def test_composed_data_is_kept_and_only_this_machine_sees_the_port(compose):
    queue = compose["services"]["queue"]
    assert queue["volumes"] == ["jobs:/data"]
    assert set(compose["volumes"]) == {"jobs", "keys"}
    assert all(port.startswith("127.0.0.1:") for port in queue["ports"])
    assert int(queue["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS_MAX
    assert (DEPLOY / queue["build"]["context"] / queue["build"]["dockerfile"]).is_file()


def test_all_that_the_image_copies_is_there_and_not_ignored(dockerfile):
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copies = [line.split()[1:-1] for line in dockerfile if line.startswith("COPY ")]
    sources = [name for names in copies for name in names if not name.startswith(("--", "/"))]
    assert {"requirements.txt", "pyproject.toml", "queue_node", "sdk"} <= set(sources)
    for name in sources:
        assert (ROOT / name).exists()
        assert f"!{name}" in kept


def test_the_image_runs_as_nobody_special_and_keeps_its_data_in_a_volume(dockerfile):
    environment = image_environment(dockerfile)
    assert environment["WAL_DIR"] == "/data"
    assert read(environment).host == "0.0.0.0"
    assert "USER queue-node" in dockerfile
    assert "VOLUME /data" in dockerfile
    assert dockerfile.index("USER queue-node") < dockerfile.index('ENTRYPOINT ["queue-node"]')
    assert any(line.startswith("HEALTHCHECK") and "/health" in line for line in dockerfile)


def test_systemd_signals_the_supervisor_alone_and_gives_it_time_to_drain(unit):
    service = unit["Service"]
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > DRAIN_SECONDS_MAX
    assert service["ExecStart"].endswith("/queue-node serve")
    words = dict(word.split("=", 1) for word in service["Environment"].split())
    assert set(words) <= NAMES
    assert words["WAL_DIR"] == f"/var/lib/{service['StateDirectory']}"
    read(words)


def test_systemd_does_not_restart_what_only_a_person_can_mend(unit):
    service = unit["Service"]
    final = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert final == {ExitCode.USAGE, ExitCode.DIRECTORY}
    assert int(service["SuccessExitStatus"]) == ExitCode.CUT_SHORT
