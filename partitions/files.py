"""The files of a partition's directory: what they are called, and opened as what they say.

Shared by those that start a partition (``recovery``) and those that only look at one
(``walk``): nothing here writes.
"""

import re
from pathlib import Path
from typing import Final

import msgspec

from partitions.disk import Disk
from partitions.errors import CorruptLogError
from partitions.events import Event, decode_events
from partitions.log import Identity, segment_name
from partitions.record import (
    SEGMENT_HEADER_BYTES,
    End,
    LogEnd,
    Record,
    SegmentHeader,
    decode_segment_header,
)
from partitions.state import PartitionState

_SEGMENT_NAME: Final = re.compile(r"(\d{10})\.seg")
_SNAPSHOT_NAME: Final = re.compile(r"(\d{20})\.snap")
_TEMPORARY_NAME: Final = re.compile(r"(\d{10}\.seg|\d{20}\.snap)\.tmp")


class Files(msgspec.Struct, frozen=True):
    """What is in a directory, each list in order."""

    segments: list[int]
    """Their numbers."""
    snapshots: list[int]
    """The lsns that they cover."""
    leftovers: list[Path]
    """Files that were being written when a process ended: never part of anything."""
    foreign: list[Path]
    """What has no business there."""


class LoadedSegment(msgspec.Struct, frozen=True):
    """A whole segment in memory; its header checked."""

    path: Path
    header: SegmentHeader
    data: bytes


def list_files(disk: Disk, directory: Path) -> Files:
    """What is in ``directory``, by name."""
    found = Files([], [], [], [])
    for name in disk.names(directory):
        if match := _SEGMENT_NAME.fullmatch(name):
            found.segments.append(int(match[1]))
        elif match := _SNAPSHOT_NAME.fullmatch(name):
            found.snapshots.append(int(match[1]))
        elif _TEMPORARY_NAME.fullmatch(name):
            found.leftovers.append(directory / name)
        else:
            found.foreign.append(directory / name)
    return found


def refuse_foreign(files: Files) -> None:
    """A foreign file may be a part of the log under a wrong name: nobody may go on.

    Raises:
        CorruptLogError: there is one.
    """
    for path in files.foreign:
        raise CorruptLogError(path, 0, "not a file of the log; move it away if you put it there")


def read_file(disk: Disk, path: Path) -> bytes:
    """All of a file."""
    file = disk.open(path)
    try:
        return file.read(file.size(), 0)
    finally:
        file.close()


def load_segment(disk: Disk, directory: Path, number: int, identity: Identity) -> LoadedSegment:
    """Read a segment.

    Raises:
        CorruptLogError: its header is not that of segment ``number`` of this partition.
    """
    path = directory / segment_name(number)
    data = read_file(disk, path)
    header = check_header(path, data[:SEGMENT_HEADER_BYTES], number, identity)
    return LoadedSegment(path, header, data)


def check_header(path: Path, data: bytes, number: int, identity: Identity) -> SegmentHeader:
    """The header in the first bytes of a segment.

    Raises:
        CorruptLogError: as ``load_segment``.
    """
    header = decode_segment_header(data)
    if isinstance(header, str):
        raise CorruptLogError(path, 0, header)
    if header.number != number:
        raise CorruptLogError(path, 0, f"this is segment {header.number} under another name")
    owner = Identity(header.partition, header.slot_first, header.slot_end)
    if owner != identity:
        raise CorruptLogError(
            path,
            0,
            f"segment of partition {owner.partition} (slots {owner.slot_first}.."
            f"{owner.slot_end - 1}), not of partition {identity.partition}",
        )
    return header


def check_headers(disk: Disk, directory: Path, identity: Identity) -> None:
    """Look at the header of each segment, and at no record; beside a running partition, too.

    Raises:
        CorruptLogError: a header is not that of its segment of this partition.
    """
    for number in list_files(disk, directory).segments:
        path = directory / segment_name(number)
        try:
            file = disk.open(path)
        except FileNotFoundError:
            continue  # It was retired since it was listed.
        try:
            check_header(path, file.read(SEGMENT_HEADER_BYTES, 0), number, identity)
        finally:
            file.close()


def events_of(segment: LoadedSegment, record: Record) -> list[Event]:
    """The events of a record in ``segment``.

    Raises:
        CorruptLogError: its checksum is right, and they are none that we know.
    """
    try:
        return decode_events(record.events)
    except msgspec.MsgspecError as error:
        what = f"record {record.lsn} holds events that cannot be read: {error}"
        raise CorruptLogError(segment.path, record.offset_bytes, what) from error


def replay_record(segment: LoadedSegment, record: Record, state: PartitionState) -> None:
    """Evolve ``state`` by a record in ``segment``.

    Raises:
        CorruptLogError: its checksum is right, and what it says cannot have happened to the jobs
            that are there. A bug wrote it, or a segment of another time is in its place.
    """
    events = events_of(segment, record)
    try:
        for event in events:
            state.evolve(event)
    except (LookupError, ValueError, AssertionError, msgspec.MsgspecError) as error:
        what = f"record {record.lsn} does not fit the jobs that are there: {error!r}"
        raise CorruptLogError(segment.path, record.offset_bytes, what) from error


def torn_bytes(segment: LoadedSegment, end: LogEnd) -> int:
    """Bytes behind the last record that a crash left unfinished."""
    if end.kind is not End.TORN:
        return 0
    return len(segment.data[end.offset_bytes :].rstrip(b"\0"))
