"""The settings line: everything named, nothing else."""

import msgspec
import pytest

from partitions.settings import PartitionSettings

NEEDED = b'{"partition":1,"partitions":2,"directory":"/d","socket":"/s"'


def test_what_is_needed_is_enough():
    settings = msgspec.json.decode(NEEDED + b"}", type=PartitionSettings)
    assert (settings.partition, settings.partitions) == (1, 2)
    assert (settings.directory, settings.socket) == ("/d", "/s")


def test_settings_there_and_back():
    settings = PartitionSettings(1, 2, "/d", "/s", retention_ms=5)
    assert msgspec.json.decode(msgspec.json.encode(settings), type=PartitionSettings) == settings


@pytest.mark.parametrize(
    "more", [b',"colour":1}', b',"retention_ms":"1s"}', b"", b',"socket":null}']
)
def test_anything_else_is_refused(more):
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(NEEDED + more, type=PartitionSettings)
