"""Pictures through two steps: a thumbnail of each, then a contact sheet of all.

Structured input, structured output, files on disk: payloads say which file to read and where
the outcome goes, results say what it is. Pictures are binary PPM (``P6``), which needs no
library; with one it is the same. The work is the processor's, so several worker processes, each
with one job at a time, are what makes it quick. ::

    QUEUE_NODE_KEY=worker_... python image_pipeline.py work
    QUEUE_NODE_KEY=client_... python image_pipeline.py sheet FOLDER sheet.ppm
"""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from queue_node_sdk import Client, LeasedJob, QueueNodeError, Worker

QUEUE = "pictures"
EDGE = 32
COLUMNS = 4

_HEADER = re.compile(rb"P6\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+255\s")


class Thumbnail(msgspec.Struct, tag="thumbnail"):
    """Payload of the first step: make ``source`` fit into a square."""

    source: str
    target: str
    edge: int = EDGE


class Sheet(msgspec.Struct, tag="sheet"):
    """Payload of the second step: ``sources``, which are thumbnails, side by side."""

    sources: list[str]
    target: str
    edge: int = EDGE
    columns: int = COLUMNS


class Made(msgspec.Struct):
    """Result of either."""

    path: str
    width: int
    height: int
    bytes: int
    mean_colour: tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """Rows from the top, three bytes a pixel."""

    width: int
    height: int
    pixels: bytes

    def row(self, y: int) -> bytes:
        """One line of it."""
        return self.pixels[y * self.width * 3 : (y + 1) * self.width * 3]


# The work -------------------------------------------------------------------------------


def handle(job: LeasedJob) -> str:
    """Do the step that the payload is about."""
    step = msgspec.json.decode(job.payload, type=Thumbnail | Sheet)
    match step:
        case Thumbnail():
            picture = shrunk(read(step.source), step.edge)
        case Sheet():
            thumbnails = [read(source) for source in step.sources]
            picture = side_by_side(thumbnails, step.edge, step.columns)
    return msgspec.json.encode(write(picture, step.target)).decode()


def read(path: str) -> Picture:
    """A picture from a file.

    Raises:
        ValueError: it is no binary PPM, or a part of it is missing.
    """
    content = Path(path).read_bytes()
    header = _HEADER.match(content)
    if header is None:
        raise ValueError(f"{path}: no binary PPM of 8 bits")
    width, height = int(header[1]), int(header[2])
    pixels = content[header.end() :]
    if len(pixels) != width * height * 3 or not pixels:
        raise ValueError(f"{path}: {len(pixels)} bytes of pixels, not {width}x{height}x3")
    return Picture(width, height, pixels)


def write(picture: Picture, path: str) -> Made:
    """The picture as a file, whole or not at all: the job may come twice, or die half way."""
    content = b"P6\n%d %d\n255\n" % (picture.width, picture.height) + picture.pixels
    target = Path(path)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
        file.write(content)
    os.replace(file.name, target)
    return Made(path, picture.width, picture.height, len(content), mean(picture.pixels))


def shrunk(picture: Picture, edge: int) -> Picture:
    """At most ``edge`` wide and high, in its shape; each pixel the mean of those it stands for."""
    scale = max(picture.width, picture.height, edge) / edge
    width, height = max(1, int(picture.width / scale)), max(1, int(picture.height / scale))
    pixels = bytearray()
    for y in range(height):
        rows = [picture.row(line) for line in _span(y, height, picture.height)]
        for x in range(width):
            columns = _span(x, width, picture.width)
            pixels += bytes(
                mean(b"".join(row[columns[0] * 3 : columns[-1] * 3 + 3] for row in rows))
            )
    return Picture(width, height, bytes(pixels))


def side_by_side(pictures: list[Picture], edge: int, columns: int) -> Picture:
    """All in squares of ``edge``, ``columns`` to a line, on black."""
    lines = -(-len(pictures) // columns)
    width = edge * columns
    pixels = bytearray(width * edge * lines * 3)
    for index, picture in enumerate(pictures):
        line, column = divmod(index, columns)
        for y in range(picture.height):
            at = ((line * edge + y) * width + column * edge) * 3
            pixels[at : at + picture.width * 3] = picture.row(y)
    return Picture(width, edge * lines, bytes(pixels))


def mean(pixels: bytes) -> tuple[int, int, int]:
    """Red, green and blue."""
    count = len(pixels) // 3
    red, green, blue = (sum(pixels[channel::3]) // count for channel in range(3))
    return red, green, blue


def _span(index: int, of: int, length: int) -> range:
    """Which of ``length`` pixels number ``index`` of ``of`` stands for; at least one."""
    begin = index * length // of
    return range(begin, max(begin + 1, (index + 1) * length // of))


# The pipeline ---------------------------------------------------------------------------


def make_sheet(client: Client, folder: Path, target: Path) -> tuple[list[Made], Made]:
    """Thumbnails of all pictures in ``folder``, then the sheet of them.

    Raises:
        RuntimeError: a step failed for good.
    """
    sources = sorted(folder.glob("*.ppm"))
    thumbnails = target.parent / f"{target.stem}-thumbnails"
    thumbnails.mkdir(exist_ok=True)
    steps = [Thumbnail(str(source), str(thumbnails / source.name)) for source in sources]
    made = list(run_all(client, steps))
    # The second step begins when the first is over for all: its input is their output.
    (sheet,) = run_all(client, [Sheet([one.path for one in made], str(target))])
    return made, sheet


def run_all(client: Client, steps: list[Thumbnail] | list[Sheet]) -> Iterator[Made]:
    """What came of ``steps``, in their order."""
    payloads = [msgspec.json.encode(step).decode() for step in steps]
    # A picture that is broken is broken the second time, too.
    for job_id in client.submit_many(
        payloads, queue=QUEUE, max_retries=2, backoff={"initial": 0.1}
    ):
        job = client.wait(job_id, timeout=300)
        if job.result is None:
            raise RuntimeError(f"job {job_id} is {job.state}: {job.result_error}")
        yield msgspec.json.decode(job.result, type=Made)


def main(arguments: list[str]) -> int:
    """Exit code 0 when the sheet is made, or the worker was told to stop."""
    try:
        match arguments:
            case ["work"]:
                logging.basicConfig(
                    level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
                )
                Worker.from_env(handle, queues=[QUEUE], concurrency=1).run()
            case ["sheet", folder, target]:
                with Client.from_env() as client:
                    made, sheet = make_sheet(client, Path(folder).resolve(), Path(target).resolve())
                for one in (*made, sheet):
                    print(f"{one.path}: {one.width}x{one.height}, mean colour {one.mean_colour}")
            case _:
                print("usage: image_pipeline.py work | sheet FOLDER TARGET", file=sys.stderr)
                return 2
    except (QueueNodeError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
