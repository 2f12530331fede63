"""``queue-node dump``: the records of the log, one JSON object a line, oldest first.

It only reads, and takes no lock. One segment is in memory at a time. Events have the names and
fields of ``partitions.events``, and what a submit said of its job (queue, priority, tags, group
...) has the names that it has in HTTP; a position is ``{"segment", "offset"}``, the same as in
verify's and repair's reports.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from partitions.disk import RealDisk
from partitions.errors import CorruptLogError
from partitions.events import Event
from partitions.files import LoadedSegment, events_of, list_files, torn_bytes
from partitions.job import EMPTY_AT, Own
from partitions.log import identity_of, segment_name
from partitions.made import refuse_lost
from partitions.options import decode_options
from partitions.positions import offset_of, segment_of
from partitions.record import (
    BLOB_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    Record,
    decode_blob_header,
    decode_segment_header,
)
from partitions.slots import format_job_id
from partitions.walk import walk
from queue_node import config
from queue_node.errors import ExitCode
from queue_node.node_file import partition_name
from queue_node.offline import (
    WHAT_TO_DO,
    ToolUsageError,
    data_directory,
    existing_node,
    plain_faults,
    warn,
)

_disk: Final = RealDisk()
_encode: Final = msgspec.json.Encoder().encode

_TEXTS: Final = {
    "payload_at": "payload",
    "result_at": "result",
    "error_at": "error",
    "outcome_at": "outcome",
}
"""What stands at the positions that events name."""

_LEFT_OUT: Final = ("own", "progress", "worker", "lease_ms", "run_at_ms")
"""Fields that most events do not use."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser``, that of ``queue-node dump``, its arguments."""
    parser.description = (
        "Print every record of the log as one JSON object a line: partition, segment, offset,\n"
        "lsn, time, and events. Payloads and results only with --texts. Nothing is written and\n"
        "no lock is taken. At the first thing that does not check it stops, says so on standard\n"
        "error, and exits with 1."
    )
    parser.add_argument(
        "directory", nargs="?", metavar="DIRECTORY", help="the data directory (default: WAL_DIR)"
    )
    parser.add_argument("--partition", type=int, metavar="N", help="only this one (default: all)")
    parser.add_argument(
        "--from", type=int, default=1, dest="first_lsn", metavar="LSN", help="skip what is before"
    )
    parser.add_argument("--texts", action="store_true", help="print payloads, results and errors")


def run(arguments: argparse.Namespace) -> int:
    """Print the records; 0 when all that were asked for are there.

    Raises:
        NodeError: there is no node's data, or not this partition.
    """
    path = data_directory(arguments.directory, config.read(os.environ))
    count = existing_node(path).partitions
    wanted = range(count)
    if arguments.partition is not None:
        if arguments.partition not in wanted:
            raise ToolUsageError(f"--partition {arguments.partition}: there are 0 to {count - 1}")
        wanted = range(arguments.partition, arguments.partition + 1)
    with plain_faults():
        try:
            for number in wanted:
                for line in lines_of(path, number, count, arguments.first_lsn, arguments.texts):
                    sys.stdout.buffer.write(line)
            sys.stdout.flush()
        except BrokenPipeError:
            # `| head` has seen enough; the interpreter must not flush once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except CorruptLogError as error:
            sys.stdout.flush()
            warn(f"{error}; {WHAT_TO_DO}")
            return ExitCode.FAULT
    return 0


def lines_of(
    path: Path, number: int, partitions: int, first_lsn: int, texts: bool
) -> Iterator[bytes]:
    """One line for each record of a partition from ``first_lsn`` on.

    Raises:
        CorruptLogError: the first thing that does not check.
    """
    directory = path / partition_name(number)
    refuse_lost(_disk, directory)
    segments = _from(directory, list_files(_disk, directory).segments, first_lsn)
    for segment, item in walk(_disk, directory, identity_of(number, partitions), segments):
        if not isinstance(item, Record):
            if torn := torn_bytes(segment, item):
                warn(f"{segment.path}: offset {item.offset_bytes}: torn tail of {torn} bytes")
        elif item.lsn >= first_lsn:
            yield _encode(_shown(number, segment, item, texts)) + b"\n"


def _from(directory: Path, segments: list[int], first_lsn: int) -> list[int]:
    """The segments that are needed: one whose successor begins no later is not."""
    while len(segments) > 1:
        file = _disk.open(directory / segment_name(segments[1]))
        header = decode_segment_header(file.read(SEGMENT_HEADER_BYTES, 0))
        file.close()
        if isinstance(header, str) or header.first_lsn > first_lsn:
            break
        segments = segments[1:]
    return segments


def _shown(partition: int, segment: LoadedSegment, record: Record, texts: bool) -> dict[str, Any]:
    return {
        "partition": partition,
        "segment": segment.header.number,
        "offset": record.offset_bytes,
        "bytes": record.end_bytes - record.offset_bytes,
        "lsn": record.lsn,
        "time": _time(record.written_ms),
        "events": [_event(event, segment, texts) for event in events_of(segment, record)],
    }


def _event(event: Event, segment: LoadedSegment, texts: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"event": type(event).__name__}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name in _LEFT_OUT and not value:
            continue
        if name in _TEXTS:
            shown[name] = _position(value)
            if texts and value > EMPTY_AT:
                shown[_TEXTS[name]] = _text(value, segment)
        elif name in _SHOWN:
            shown |= _SHOWN[name](value)
        elif name.endswith("_ms") and value:
            shown[name.removesuffix("_ms")] = _time(value)
        else:
            shown[name] = value
    return shown


def _options(encoded: bytes) -> dict[str, Any]:
    try:
        options = decode_options(encoded)
    except msgspec.MsgspecError:
        return {"options": encoded.hex()}
    shown: dict[str, Any] = {"queue": options.queue, "priority": options.priority}
    if options.lease_ms is not None:
        shown["lease_duration"] = _duration(options.lease_ms)
    if options.retention_ms is not None:
        shown["retention"] = _duration(options.retention_ms)
    if (backoff := options.backoff) is not None:
        shown["backoff"] = {
            "initial": _duration(backoff.initial_ms),
            "factor": backoff.factor,
            "max": _duration(backoff.max_ms),
            "jitter": backoff.jitter,
        }
    if options.tags:
        shown["tags"] = dict(options.tags)
    return shown


def _own(own: Own) -> dict[str, Any]:
    shown = {"group": own.group, "digest": own.digest.hex()}
    if own.expires_at_ms:
        shown["expires_at"] = _time(own.expires_at_ms)
    return {name: value for name, value in shown.items() if value}


def _progress(text: bytes) -> dict[str, Any]:
    """What a worker said, as the value that it is."""
    try:
        return {"progress": msgspec.json.decode(text)}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {"progress": text.decode(errors="replace")}


def _duration(ms: int) -> str:
    """As the contract writes durations: ``1.5s``."""
    return f"{ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"


_SHOWN: Final[dict[str, Callable[[Any], dict[str, Any]]]] = {
    "job_id": lambda job_id: {"job_id": format_job_id(job_id)},
    "key_id": lambda key_id: {"key_id": format_job_id(key_id)},
    "options": _options,
    "own": _own,
    "progress": _progress,
    "lease_ms": lambda ms: {"lease_duration": _duration(ms)},
}
"""How fields are shown that are neither times nor plain values."""


def _position(position: int) -> dict[str, int] | None:
    if position <= EMPTY_AT:
        return None
    return {"segment": segment_of(position), "offset": offset_of(position)}


def _text(position: int, segment: LoadedSegment) -> str:
    """The text stands in the same record as the event, whose checksum was right."""
    start = offset_of(position)
    length, _ = decode_blob_header(segment.data[start : start + BLOB_HEADER_BYTES])
    start += BLOB_HEADER_BYTES
    return segment.data[start : start + length].decode(errors="replace")


def _time(at_ms: int) -> str:
    """RFC 3339, UTC, to the millisecond; a number where the calendar ends."""
    try:
        moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (OverflowError, ValueError):
        return str(at_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
