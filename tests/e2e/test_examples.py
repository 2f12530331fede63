"""Every program in sdk/examples, as a user starts it, against a real node.

The two simple ones are in test_sdk.py.
"""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.node import RunningNode
from tests.support.polling import DEADLINE_S

EXAMPLES = Path(__file__).parents[2] / "sdk" / "examples"
TESTED_ELSEWHERE = {"simple_client.py", "simple_worker.py"}
TESTED_HERE = {
    "asyncio_client.py",
    "batch_results.py",
    "checkout.py",
    "custom_results.py",
    "image_pipeline.py",
    "trio_client.py",
}


def environment(node: RunningNode, kind: str) -> dict[str, str]:
    return os.environ | {"QUEUE_NODE_URL": node.url, "QUEUE_NODE_KEY": node.keys[kind]}


@contextmanager
def working(node: RunningNode, name: str, *words: str) -> Iterator[None]:
    """The example's worker runs meanwhile, and ends well when it is told to."""
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *words],
        env=environment(node, "worker"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, output


def run(node: RunningNode, name: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        env=environment(node, "client"),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def picture(path: Path, width: int, height: int, colour: tuple[int, int, int]) -> None:
    path.write_bytes(
        b"P6\n# made by hand\n%d %d\n255\n" % (width, height) + bytes(colour) * width * height
    )


def test_no_example_is_left_out():
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED_HERE | TESTED_ELSEWHERE


def test_pictures_go_through_both_steps(node: RunningNode, tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    picture(folder / "a.ppm", 128, 64, (200, 100, 50))
    picture(folder / "b.ppm", 8, 16, (0, 255, 0))
    sheet = tmp_path / "sheet.ppm"
    with working(node, "image_pipeline.py", "work"), working(node, "image_pipeline.py", "work"):
        done = run(node, "image_pipeline.py", "sheet", str(folder), str(sheet))
    assert (done.returncode, done.stderr) == (0, "")
    first, second, last = done.stdout.splitlines()
    assert first.endswith("a.ppm: 32x16, mean colour (200, 100, 50)")
    assert second.endswith("b.ppm: 8x16, mean colour (0, 255, 0)")
    assert last.startswith(f"{sheet}: 128x32")
    header, pixels = sheet.read_bytes().split(b"\n255\n", 1)
    assert header == b"P6\n128 32"
    assert len(pixels) == 128 * 32 * 3
    assert pixels[:3] == bytes((200, 100, 50))
    assert pixels[32 * 3 : 33 * 3] == bytes((0, 255, 0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in",
        "sheet-thumbnails",
        "sheet.ppm",
    ]


def test_a_broken_picture_is_told_with_its_name(node: RunningNode, tmp_path: Path):
    (tmp_path / "broken.ppm").write_bytes(b"P6 2 2 255 \x00")
    with working(node, "image_pipeline.py", "work"):
        done = run(node, "image_pipeline.py", "sheet", str(tmp_path), str(tmp_path / "sheet.ppm"))
    assert done.returncode == 1
    assert "is DEAD" in done.stderr
    assert "broken.ppm: 1 bytes of pixels, not 2x2x3" in done.stderr


def test_a_batch_has_its_results_in_order(node: RunningNode, tmp_path: Path):
    lines = [f"line {number} é" for number in range(50)]
    (tmp_path / "lines").write_text("\n".join(lines))
    with working(node, "simple_worker.py"):
        done = run(node, "batch_results.py", str(tmp_path / "lines"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{line}\tACKED\t{line.upper()}" for line in lines]
    assert "{'ACKED': 50}" in done.stderr


def test_results_carry_their_metrics(node: RunningNode, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("b a b")
    two.write_text("c")
    with working(node, "custom_results.py", "work"):
        done = run(node, "custom_results.py", "count", str(one), str(two), str(tmp_path / "none"))
    assert done.returncode == 1
    first, second, figures = done.stdout.splitlines()
    assert first == f"{one}: 3 words; [('b', 2), ('a', 1)]"
    assert second == f"{two}: 1 words; [('c', 1)]"
    assert figures.startswith("2 files, 4 words, 6 bytes; work ")
    assert "No such file" in done.stderr


def test_an_order_is_paid_once_however_often_it_is_bought(node: RunningNode, tmp_path: Path):
    shop = tmp_path / "shop.sqlite"
    with working(node, "checkout.py", "work", str(shop)):
        receipts = [run(node, "checkout.py", "buy", "4711", "995") for _ in range(3)]
        other = run(node, "checkout.py", "buy", "4711", "1")
    assert [done.stdout for done in receipts] == ["receipt-4711-995\n"] * 3
    assert (other.returncode, other.stdout) == (1, "")
    assert other.stderr == "this order was bought before, at another price\n"
    with closing(sqlite3.connect(shop)) as database:
        assert database.execute("SELECT order_id, cents FROM payments").fetchall() == [
            ("4711", 995)
        ]


def test_a_payment_is_the_same_when_the_job_comes_again(tmp_path: Path):
    """A worker that died behind its payment: the next lease finds it; the older one is fenced."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from checkout import Order, Shop, TooLateError\n"
        "shop, order = Shop(sys.argv[2]), Order('1', 5)\n"
        "assert shop.pay(order, 1) == shop.pay(order, 2) == 'receipt-1-5'\n"
        "try: shop.pay(order, 1)\n"
        "except TooLateError: print('fenced')\n"
    )
    command = [sys.executable, "-c", code, str(EXAMPLES), str(tmp_path / "shop.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("fenced\n", "")


@pytest.mark.parametrize("name", ["trio_client.py", "asyncio_client.py"])
def test_many_tasks_share_a_client(node: RunningNode, name: str):
    words = [f"word {number}" for number in range(30)]
    with working(node, "simple_worker.py"):
        done = run(node, name, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{word!r}: ACKED {word.upper()}" for word in words]


@pytest.mark.parametrize("name", ["trio_client.py", "asyncio_client.py"])
def test_what_is_wrong_is_a_line_and_no_traceback(node: RunningNode, name: str):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), "x"],
        env=environment(node, "worker"),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("PermissionDenied: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", sorted(TESTED_HERE - {"trio_client.py", "asyncio_client.py"}))
def test_wrong_usage_is_two(node: RunningNode, name: str):
    done = run(node, name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"usage: {name}")
