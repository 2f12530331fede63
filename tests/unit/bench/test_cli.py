"""bench.cli: bad input is refused in one clear line, before anything is started."""

import argparse

import pytest

from bench import cli
from bench.micro import cli as micro


def parse(*words):
    parser = argparse.ArgumentParser(prog="bench")
    cli.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture(autouse=True)
def no_node_in_the_environment(monkeypatch):
    for name in ("URL", "CLIENT_KEY", "WORKER_KEY"):
        monkeypatch.delenv(f"QUEUE_NODE_{name}", raising=False)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["submit", "--connections", "0"], "whole number from 1 up"),
        (["submit", "--connections", "many"], "whole number from 1 up"),
        (["submit", "--duration", "0"], "seconds"),
        (["submit", "--duration", "nan"], "seconds"),
        (["submit", "--duration", "inf"], "seconds"),
        (["submit", "--warmup", "-1"], "seconds"),
        (["submit", "--rate", "0"], "rate"),
        (["submit", "--rate", "1e9"], "rate"),
        (["submit", "--payload-bytes", "3"], "whole number from 16"),
        (["submit", "--payload-bytes", "2000000"], "more than a payload may have"),
        (["submit", "--dir", "/nowhere"], "not a directory"),
        (["cycle", "--backlog", "-1"], "whole number from 0 up"),
        (["lease", "--window", "0"], "whole number from 1 up"),
        (["bare", "--rate", "5"], "unrecognized"),
        (["batch", "--batch", "0"], "whole number from 1 up"),
        (["batch", "--batch", "10001"], "more than 10000"),
        (["batch-cycle", "--batch", "1001"], "more than 1000"),
        (["batch-cycle", "--window", "0"], "whole number from 1 up"),
        (["submit", "--batch", "2"], "unrecognized"),
        (["order", "--waiting", "0"], "whole number from 1 up"),
        (["order", "--priorities", "101"], "more than 100"),
        (["order", "--batch", "1001"], "more than 1000"),
        (["suite", "--deep", "1000"], "whole number from 1001 up"),
        (["micro", "everything"], "invalid choice"),
        (["dance"], "invalid choice"),
        ([], "required"),
    ],
)
def test_bad_arguments_are_named(words, what, capsys):
    with pytest.raises(SystemExit) as error:
        parse(*words)
    assert error.value.code == 2
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["submit", "--url", "https://localhost:1"], "http://host:port"),
        (["submit", "--url", "localhost:8080"], "http://host:port"),
        (["submit", "--url", "http://localhost:1/jobs"], "path"),
        (["submit", "--url", "http://localhost:99999"], "Port out of range"),
        (["submit", "--url", "http://127.0.0.1:9"], "QUEUE_NODE_CLIENT_KEY"),
        (["cycle", "--url", "http://127.0.0.1:9", "--client-key", "c"], "--worker-key"),
        (["lease", "--url", "http://127.0.0.1:9", "--client-key", "c"], "--worker-key"),
        (["batch", "--url", "http://127.0.0.1:9"], "QUEUE_NODE_CLIENT_KEY"),
        (["batch-cycle", "--url", "http://127.0.0.1:9", "--client-key", "c"], "--worker-key"),
        (["submit", "--url", "http://127.0.0.1:1", "--client-key", "c"], "cannot connect"),
        (["batch", "--url", "http://127.0.0.1:1", "--client-key", "c"], "cannot connect"),
        (["batch", "--batch", "10000", "--payload-bytes", "2000"], "more than a request may have"),
        (["suite", "--payload-bytes", "200000"], "more than a request may have"),
        (["submit", "--dir", "/dev/shm"], "nothing is durable"),
    ],
)
def test_a_run_that_cannot_be_says_why_and_fails(words, what, capsys):
    assert cli.run(parse(*words)) == cli.EXIT_FAILED
    captured = capsys.readouterr()
    assert what in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_the_node_may_be_named_by_the_environment(monkeypatch):
    monkeypatch.setenv("QUEUE_NODE_URL", "http://127.0.0.1:1234")
    monkeypatch.setenv("QUEUE_NODE_CLIENT_KEY", "client_x")
    arguments = parse("submit")
    assert arguments.url == "http://127.0.0.1:1234"
    assert arguments.client_key == "client_x"


def test_targets_is_another_name_of_suite():
    assert parse("targets").mode == parse("suite").mode == "suite"


def test_batches_are_measured_as_their_targets_say():
    for mode in ("batch", "batch-cycle"):
        arguments = parse(mode)
        assert (arguments.connections, arguments.batch) == (8, 100)
    assert parse("submit").connections == 64


def test_the_suite_is_shorter_than_one_long_measurement():
    assert (parse("suite").duration, parse("suite").warmup) == (5.0, 1.0)
    assert (parse("submit").duration, parse("submit").warmup) == (10.0, 2.0)


def test_micro_storage_wants_a_job_at_least(capsys):
    assert micro.run(parse("micro", "storage", "--jobs", "0")) == 2
    assert "--jobs" in capsys.readouterr().err


def test_micro_wants_a_directory_that_is_there(capsys):
    assert micro.run(parse("micro", "log", "--dir", "/nowhere")) == 2
    assert "not a directory" in capsys.readouterr().err


def test_order_has_two_fronts_and_four_partitions_and_one_load_process():
    arguments = parse("order")
    assert (arguments.fronts, arguments.partitions, arguments.load_processes) == (2, 4, 1)
    assert parse("submit").partitions is None, "of the others that is the node's own"


def test_order_is_judged_by_one_clock(capsys):
    assert cli.run(parse("order", "--load-processes", "2")) == cli.EXIT_FAILED
    assert "--load-processes must be 1" in capsys.readouterr().err
