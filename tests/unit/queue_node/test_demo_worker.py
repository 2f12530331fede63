import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_node import demo_worker
from queue_node.demo_worker import describe, handle
from queue_node_sdk import LeasedJob


def leased(payload: str) -> LeasedJob:
    return LeasedJob(job_id="j", payload=payload, lease_until=datetime.now(UTC), attempt=1)


@given(parts=st.lists(st.sampled_from([b" ", b"\n", b"\t", b"a", b"bc", b"\xff", b"\x00"])))
def test_a_file_is_described_whatever_the_chunks(
    parts: list[bytes], tmp_path_factory: pytest.TempPathFactory
):
    whole = b"".join(parts)
    file = tmp_path_factory.getbasetemp() / "described"
    file.write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        for chunk_bytes in (1, 2, 3, 1 << 20):
            patch.setattr(demo_worker, "_CHUNK_BYTES", chunk_bytes)
            assert describe(str(file)) == {
                "sha256": hashlib.sha256(whole).hexdigest(),
                "lines": whole.count(b"\n"),
                "words": len(whole.split()),
            }


@pytest.mark.parametrize("name", [b"plain", b"\xff\xfe", 'é " \\ 😀\n'.encode()])
def test_a_payload_carries_any_file_name(tmp_path: Path, name: bytes):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    Path(path).write_bytes(b"a b\n")
    payload = json.dumps(path)
    payload.encode()  # it can be sent
    result = json.loads(handle(leased(payload)))
    assert (result["lines"], result["words"]) == (1, 2)


def test_a_file_that_is_gone_is_the_error_of_the_attempt(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        handle(leased(json.dumps(str(tmp_path / "gone"))))
