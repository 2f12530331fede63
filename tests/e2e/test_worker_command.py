"""``queue-node worker`` against a real node."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from queue_node.errors import ExitCode
from queue_node_sdk import Client, JobState
from tests.support.node import RunningNode
from tests.support.polling import DEADLINE_S

MODULE = """
from queue_node_sdk.tasks import task

@task(queue="sums", name="add")
def add(a: int, b: int) -> int:
    return {expression}

@task(name="later")
async def later(text: str) -> str:
    return text.upper()
"""


@contextmanager
def worker(node: RunningNode, folder: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    environment = os.environ | {
        "QUEUE_NODE_URL": node.url,
        "QUEUE_NODE_KEY": node.keys["worker"],
        # What is written twice within a second must not be taken from a cache.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "queue_node", "worker", *words], cwd=folder, env=environment
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(DEADLINE_S)


PROCESSES = """
import os
from queue_node_sdk import current_job
from queue_node_sdk.tasks import task

@task(name="where")
def where() -> int:
    return os.getpid()

@task(name="there", process=True)
def there(status: int | None = None) -> int:
    if status is not None:
        os._exit(status)
    current_job().progress(50)
    return os.getpid()
"""


def write(folder: Path, expression: str) -> None:
    package = folder / "app"
    package.mkdir(exist_ok=True)
    (package / "jobs.py").write_text(MODULE.format(expression=expression))


def call(client: Client, name: str, args: str, queue: str = "default") -> str | None:
    payload = f'{{"task":"{name}","args":{args}}}'
    job = client.submit_and_wait(payload, queue=queue, timeout=DEADLINE_S)
    assert job.succeeded, job
    return job.result


@pytest.fixture
def client(node: RunningNode) -> Iterator[Client]:
    with Client(node.url, node.keys["client"]) as made:
        yield made


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_runs_the_tasks_of_a_module_until_it_is_told_to_stop(
    node: RunningNode, client: Client, tmp_path: Path, backend: str
):
    write(tmp_path, "a + b")
    with worker(node, tmp_path, "app.jobs", "--concurrency", "2", "--backend", backend) as process:
        assert call(client, "add", '{"a":1,"b":2}', "sums") == "3"
        assert call(client, "later", '{"text":"x"}') == '"X"'
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == ExitCode.DRAINED


def test_its_log_tells_of_the_worker_and_not_of_each_request(
    node: RunningNode, client: Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write(tmp_path, "a + b")
    with worker(node, tmp_path, "app.jobs"):
        assert call(client, "add", '{"a":1,"b":2}', "sums") == "3"
    logged = capfd.readouterr().err
    assert f"worker for {node.url}: add, later" in logged
    assert "HTTP Request" not in logged


def test_a_task_may_run_in_a_process_beside_others_that_do_not(
    node: RunningNode, client: Client, tmp_path: Path
):
    (tmp_path / "apart.py").write_text(PROCESSES)
    with worker(node, tmp_path, "apart", "--concurrency", "1") as process:
        assert call(client, "where", "{}") == str(process.pid)
        there = call(client, "there", "{}")
        assert there not in (None, str(process.pid))
        # It lasts, until it dies.
        assert call(client, "there", "{}") == there
        payload = '{"task":"there","args":{"status":7}}'
        died = client.submit_and_wait(payload, max_retries=1, timeout=DEADLINE_S)
        assert died.result_error == "the handler's process ended: exit status 7"
        assert call(client, "there", "{}") not in (there, None)
        payload = '{"task":"there","args":{"status":"x"}}'
        rejected = client.submit_and_wait(payload, timeout=DEADLINE_S)
        assert (rejected.state, rejected.attempts) == (JobState.DEAD, 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == ExitCode.DRAINED


TRACED = """
from pathlib import Path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from queue_node_sdk.tasks import task

provider = TracerProvider()
file = Path("spans").open("a")
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=file)))
trace.set_tracer_provider(provider)

@task(name="traced", process=True)
def traced() -> str:
    return f"{trace.get_current_span().get_span_context().trace_id:032x}"
"""


def test_a_trace_goes_on_in_a_process(node: RunningNode, client: Client, tmp_path: Path):
    (tmp_path / "spanning.py").write_text(TRACED)
    tags = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    with worker(node, tmp_path, "spanning"):
        job = client.submit_and_wait('{"task":"traced"}', tags=tags, timeout=DEADLINE_S)
    assert job.result == f'"{"a" * 32}"'
    exported = (tmp_path / "spans").read_text()
    assert job.job_id in exported
    assert f'"parent_id": "0x{"b" * 16}"' in exported


MAIN = """
import os
from queue_node_sdk import Worker
from queue_node_sdk.tasks import default, task

@task(process=True)
def there() -> int:
    return os.getpid()

if __name__ == "__main__":
    Worker.from_env(default.handler, concurrency=1).run()
"""


@pytest.mark.parametrize("words", [["program.py"], ["-m", "program"]])
def test_a_program_of_ones_own_may_define_it_itself(
    node: RunningNode, client: Client, tmp_path: Path, words: list[str]
):
    (tmp_path / "program.py").write_text(MAIN)
    environment = {"QUEUE_NODE_URL": node.url, "QUEUE_NODE_KEY": node.keys["worker"]}
    with subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, env=os.environ | environment
    ) as process:
        try:
            name = "program.there" if "-m" in words else "__main__.there"
            assert call(client, name, "{}") not in (None, str(process.pid))
        finally:
            process.terminate()


def test_with_reload_it_goes_on_with_the_new_code(
    node: RunningNode, client: Client, tmp_path: Path
):
    write(tmp_path, "a + b")
    with worker(node, tmp_path, "app.jobs", "--reload") as process:
        assert call(client, "add", '{"a":3,"b":4}', "sums") == "7"
        write(tmp_path, "a * b")
        # The old one may take some more before it is stopped.
        for _ in range(500):
            time.sleep(0.02)
            if call(client, "add", '{"a":3,"b":4}', "sums") == "12":
                break
        else:
            pytest.fail("the new code never ran")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == ExitCode.DRAINED


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere", "no module named 'nowhere'"),
        ("empty", "defines no tasks"),
        ("empty:nothing", "no Tasks called 'nothing'"),
    ],
)
def test_a_module_without_tasks_is_named(tmp_path: Path, target: str, words: str):
    (tmp_path / "empty.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "queue_node", "worker", target],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == ExitCode.USAGE
    assert words in done.stderr
    assert "Traceback" not in done.stderr
