"""How a child talks to its supervisor: settings in, ``ready`` out, and when to stop."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import msgspec, sys, trio
from partitions.child import read_settings, say_ready, told_to_stop

class Settings(msgspec.Struct, forbid_unknown_fields=True):
    name: str

settings = read_settings(Settings)
say_ready()
sys.stderr.write(f"settings {settings.name}\\n")
sys.stderr.flush()
trio.run(told_to_stop)
sys.stderr.write("told to stop\\n")
"""


@pytest.fixture
def child():
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        bufsize=0,
    ) as process:
        yield process
        process.kill()


def started(child: subprocess.Popen[bytes], line: bytes = b'{"name": "x"}\n') -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdin.write(line)
    assert child.stdout.readline() == b"ready\n"
    assert child.stderr.readline() == b"settings x\n"


def end_of(child: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    assert child.stderr is not None
    return child.wait(20), child.stderr.read()


@pytest.mark.parametrize("moment", range(5))
def test_sigterm_at_any_moment_after_the_settings_ends_it_with_0(child, moment):
    started(child)
    for _ in range(moment * 100_000):
        pass
    child.send_signal(signal.SIGTERM)
    assert end_of(child)[0] == 0


def test_it_stops_when_its_supervisor_is_gone(child):
    started(child)
    child.stdin.close()
    assert end_of(child) == (0, b"told to stop\n")


def test_the_end_of_input_right_behind_the_settings_is_not_missed(child):
    child.stdin.write(b'{"name": "x"}\n')
    child.stdin.close()
    assert end_of(child) == (0, b"settings x\ntold to stop\n")


def test_what_stands_behind_the_settings_is_left_alone(child):
    started(child, b'{"name": "x"}\nmore\n')
    child.stdin.write(b"and more\n")
    child.send_signal(signal.SIGINT)
    child.stdin.close()
    assert end_of(child) == (0, b"told to stop\n")


def test_settings_may_come_in_pieces(child):
    child.stdin.write(b'{"name": ')
    child.stdin.flush()
    started(child, b'"x"}\n')
    child.send_signal(signal.SIGTERM)
    assert end_of(child)[0] == 0


@pytest.mark.parametrize("line", [b"", b"\n", b"{}\n", b'{"name": 1}\n', b'{"name":"x","y":1}\n'])
def test_other_settings_than_were_asked_for_are_refused(child, line):
    child.stdin.write(line)
    child.stdin.close()
    code, words = end_of(child)
    assert code == 1
    assert b"msgspec" in words


def test_nothing_but_ready_is_said(child):
    started(child)
    child.send_signal(signal.SIGTERM)
    assert end_of(child)[0] == 0
    assert child.stdout.read() == b""
