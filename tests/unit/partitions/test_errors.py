"""Faults carry their facts, and say them in one line."""

from pathlib import Path

import pytest

from partitions.errors import (
    BlobUnreadableError,
    CorruptLogError,
    DirectoryInUseError,
    PartitionError,
    PipeError,
)

PATH = Path("/data/p-0000/0000000001.seg")


@pytest.mark.parametrize("kind", [CorruptLogError, BlobUnreadableError])
def test_damage_names_file_offset_and_what_is_wrong(kind):
    error = kind(PATH, 77, "bad")
    assert (error.path, error.offset_bytes, error.what) == (PATH, 77, "bad")
    assert str(error) == f"{PATH}: offset 77: bad"


def test_a_directory_in_use_is_named():
    assert str(DirectoryInUseError(PATH)) == f"{PATH} is in use by another process"


@pytest.mark.parametrize(
    "kind", [CorruptLogError, BlobUnreadableError, DirectoryInUseError, PipeError]
)
def test_every_fault_is_of_one_family_and_no_oserror(kind):
    assert issubclass(kind, PartitionError)
    assert not issubclass(kind, OSError)
