"""``queue-node verify``, ``repair``, ``dump`` as they are typed: output, exit codes, refusals."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from partitions.disk import RealDisk
from partitions.errors import CorruptLogError
from partitions.log import Sizes, identity_of
from partitions.messages import Ack, Cancel, Command, Enqueue, Extend, Fail, Lease, Pause, Release
from partitions.options import Options, encode_options
from partitions.record import SEGMENT_HEADER_BYTES
from partitions.recovery import recover
from partitions.retry import Backoff
from partitions.slots import first_slot, format_job_id, make_job_id
from partitions.state import PartitionState
from queue_node import cli
from queue_node.dump import lines_of
from queue_node.node_file import FORMAT, NodeFile, partition_name, write_node_file
from tests.support.past import header_of, records_of

START_MS = 1_800_000_000_000
PARTITIONS = 2
SIZES = Sizes(segment_bytes=1024, extent_bytes=512, reserve_bytes=64)


def job_id(partition: int, index: int) -> bytes:
    return make_job_id(START_MS, index, first_slot(partition, PARTITIONS))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two partitions of a stopped node, some segments each."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    write_node_file(data, NodeFile(FORMAT, PARTITIONS))
    for number in range(PARTITIONS):
        _fill(data / partition_name(number), number)
    return data


def _fill(directory: Path, number: int) -> None:
    directory.mkdir()
    state = PartitionState()
    log = recover(RealDisk(), directory, identity_of(number, PARTITIONS), state, SIZES).log
    commands: list[Command] = [
        Enqueue(job_id(number, index), b"payload %d \xe2\x82\xac" % index, 3, "owner")
        for index in range(12)
    ]
    commands += [Lease(60_000), Lease(60_000)]
    commands.append(Ack(job_id(number, 0), 1, b"done"))
    commands.append(Fail(job_id(number, 1), 2, b"an error"))
    for at, command in enumerate(commands):
        applied = state.apply(command, START_MS + at, log.put)
        log.commit(applied.events, START_MS + at)
        log.make_room(START_MS + at)
    assert log.tail_segment > 1
    log.close()


def damage(data: Path, number: int = 1) -> Path:
    """Flip a bit of the second record's header."""
    path = data / partition_name(number) / "0000000001.seg"
    content = bytearray(path.read_bytes())
    content[records_of(bytes(content))[1].offset_bytes + 17] ^= 1
    path.write_bytes(content)
    return path


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def typed(*words: object) -> int:
    return cli.main([str(word) for word in words])


# verify -------------------------------------------------------------------------------------


def test_verify_says_that_all_is_well_and_changes_nothing(data, capsys):
    before = contents(data)
    assert typed("verify", "--deep", data) == 0
    out = capsys.readouterr().out
    assert "all is well" in out
    assert "a node runs here" not in out
    assert contents(data) == before


def test_verify_finds_the_directory_in_the_environment(data, capsys, monkeypatch):
    monkeypatch.setenv("WAL_DIR", str(data))
    assert typed("verify", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["good"], report["running"]) == (True, None)
    for number, each in enumerate(report["partitions"]):
        assert each["partition"] == number
        assert (each["jobs"], each["records"]) == (12, 16)
        assert each["states"] == {"ACKED": 1, "READY": 10, "RETRY": 1}
        assert each["texts"] is None


def test_verify_names_file_offset_and_what_to_do(data, capsys):
    path = damage(data)
    offset = records_of((data / "p-0000" / path.name).read_bytes())[1].offset_bytes
    assert typed("verify", data) == 1
    out = capsys.readouterr().out
    assert f"{path}: offset {offset}: record does not match its checksum" in out
    assert "queue-node repair" in out
    assert "NOT well" in out


def test_verify_says_that_a_node_runs(data, capsys):
    (data / "lock").write_text(json.dumps({"pid": os.getpid(), "runtime": "/x"}))
    assert typed("verify", data) == 0
    assert f"a node runs here (process {os.getpid()})" in capsys.readouterr().out
    (data / "lock").write_text("")
    assert typed("verify", data) == 0
    assert "a node runs here" not in capsys.readouterr().out


def test_verify_takes_no_lock(data):
    lock = data / "lock"
    lock.write_text("")
    with lock.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert typed("verify", data) == 0


def test_a_partition_too_many_and_one_too_few_are_faults(data, capsys):
    (data / "p-0007").mkdir()
    assert typed("verify", data) == 1
    assert "node.json says PARTITIONS=2" in capsys.readouterr().out
    (data / "p-0007").rmdir()
    (data / "p-0001").rename(data / "away")
    assert typed("verify", data) == 1
    assert f"{data / 'p-0001'}: offset 0" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["verify", "dump"])
def test_what_is_no_data_directory_is_refused_in_one_line(command, tmp_path, capsys):
    assert typed(command, tmp_path) == 4
    error = capsys.readouterr().err
    assert "no node has run here" in error
    assert error.count("\n") == 1


# repair -------------------------------------------------------------------------------------


def test_repair_makes_a_copy_that_checks_and_leaves_the_original_alone(data, tmp_path, capsys):
    (data / "keys.sqlite").write_bytes(b"keys")
    damage(data)
    before = contents(data)
    dest = tmp_path / "dest"
    assert typed("repair", data, dest) == 0
    out = capsys.readouterr().out
    assert "partition 0: good, 12 jobs" in out
    assert "partition 1: DAMAGED, 11 jobs kept, 1 lost, 0 uncertain" in out
    assert "gap: records 2 to 2 (1)" in out
    assert f"WAL_DIR={dest}" in out
    assert contents(data) == before
    assert (dest / "keys.sqlite").read_bytes() == b"keys"
    assert dest.stat().st_mode & 0o777 == 0o700
    assert (dest / "p-0001").stat().st_mode & 0o777 == 0o700
    assert typed("verify", "--deep", dest) == 0
    healthy = Path("p-0000", "0000000001.seg")
    assert (dest / healthy).read_bytes() == (data / healthy).read_bytes()


def test_repair_lists_ids(data, tmp_path, capsys):
    # The submission of the job that is leased first, later: so its id is known.
    path = data / "p-0001" / "0000000001.seg"
    content = bytearray(path.read_bytes())
    content[records_of(bytes(content))[0].offset_bytes + 17] ^= 1
    path.write_bytes(content)
    assert typed("repair", data, tmp_path / "dest", "--json") == 0
    second = json.loads(capsys.readouterr().out)["partitions"][1]
    lost = {"job_id": format_job_id(job_id(1, 0)), "why": "its submission is in a gap of the log"}
    assert second["lost"] == [lost]
    assert second["uncertain"] == []
    assert [(gap["first_lsn"], gap["last_lsn"]) for gap in second["gaps"]] == [(1, 1)]


def test_a_dry_run_writes_nothing(data, tmp_path, capsys):
    damage(data)
    assert typed("repair", data, tmp_path / "dest", "--dry-run") == 0
    assert "dry run" in capsys.readouterr().out
    assert not (tmp_path / "dest").exists()


def test_repair_refuses_a_destination_that_is_there_or_inside(data, tmp_path, capsys):
    damage(data)
    (tmp_path / "there").mkdir()
    assert typed("repair", data, tmp_path / "there") == 2
    assert "exists" in capsys.readouterr().err
    assert typed("repair", data, data / "copy") == 2
    assert "is inside" in capsys.readouterr().err


@pytest.mark.parametrize("held", ["lock", "p-0001"])
def test_repair_keeps_off_a_node_that_runs(data, tmp_path, capsys, held):
    damage(data)
    (data / "lock").write_text("")
    fd = os.open(data / held, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert typed("repair", data, tmp_path / "dest") == 4
    finally:
        os.close(fd)
    assert "stop the node first" in capsys.readouterr().err
    assert not (tmp_path / "dest").exists()


def test_a_repair_that_fails_leaves_nothing(data, tmp_path, capsys, monkeypatch):
    damage(data)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error", "somewhere")

    monkeypatch.setattr("queue_node.repair.rebuilding", broken)
    assert typed("repair", data, tmp_path / "dest") == 1
    assert "somewhere: Input/output error" in capsys.readouterr().err
    assert not (tmp_path / "dest").exists()


# dump ---------------------------------------------------------------------------------------


def dumped(
    data: Path, number: int, first_lsn: int = 1, *, texts: bool = False
) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(data, number, PARTITIONS, first_lsn, texts)]


def test_dump_prints_every_record_with_its_events(data):
    records = dumped(data, 1, texts=True)
    assert [each["lsn"] for each in records] == list(range(1, 17))
    first = records[0]
    assert (first["partition"], first["segment"], first["offset"]) == (1, 1, SEGMENT_HEADER_BYTES)
    assert first["time"] == "2027-01-15T08:00:00.000Z"
    (event,) = first["events"]
    assert event == {
        "event": "JobEnqueued",
        "job_id": format_job_id(job_id(1, 0)),
        "payload_at": {"segment": 1, "offset": SEGMENT_HEADER_BYTES + 40},
        "payload": "payload 0 €",
        "max_retries": 3,
        "created_at": "2027-01-15T08:00:00.000Z",
        "owner": "owner",
        "queue": "default",
        "priority": 0,
    }
    names = [event["event"] for each in records for event in each["events"]]
    assert names == ["JobEnqueued"] * 12 + ["JobLeased"] * 2 + ["JobAcked", "JobFailed"]
    assert records[-2]["events"][0]["result"] == "done"
    assert records[-1]["events"][0]["error"] == "an error"


OPTIONS = Options(
    "mail", -3, lease_ms=90_000, retention_ms=0, backoff=Backoff(500, 60_000, 1.5, 0.25),
    tags=(("from", "shop"), ("to", "ann")),
)  # fmt: skip


def test_dump_shows_all_that_a_submit_said_of_its_job(tmp_path):
    data = tmp_path / "data"
    (data / partition_name(0)).mkdir(parents=True)
    state = PartitionState()
    log = recover(RealDisk(), data / partition_name(0), identity_of(0, 1), state, SIZES).log
    mine = make_job_id(START_MS, 1, 0)
    run_at_ms, expires_at_ms = START_MS + 1_000, START_MS + 9_000
    submit = Enqueue(
        mine,
        b"",
        3,
        "owner",
        encode_options(OPTIONS),
        run_at_ms,
        expires_at_ms,
        "orders",
        b"\x01\xff",
    )
    lease = Lease(30_000, ("mail",), "worker 7")
    commands: list[tuple[int, Command]] = [
        (0, submit), (1_000, lease), (1_001, Extend(mine, 1, 60_000, b'{"done":[1,2]}')),
        (1_002, Release(mine, 1, 500)), (1_003, Pause("mail", True)), (1_004, Cancel(mine)),
    ]  # fmt: skip
    for after_ms, command in commands:
        applied = state.apply(command, START_MS + after_ms, log.put)
        log.commit(applied.events, START_MS + after_ms)
    log.close()
    events = [
        event
        for line in lines_of(data, 0, 1, 1, texts=False)
        for event in json.loads(line)["events"]
    ]
    job = format_job_id(mine)
    assert events == [
        {
            "event": "JobEnqueued", "job_id": job, "payload_at": None, "max_retries": 3,
            "created_at": "2027-01-15T08:00:00.000Z", "owner": "owner",
            "queue": "mail", "priority": -3, "lease_duration": "90s", "retention": "0s",
            "backoff": {"initial": "0.5s", "max": "60s", "factor": 1.5, "jitter": 0.25},
            "tags": {"from": "shop", "to": "ann"}, "run_at": "2027-01-15T08:00:01.000Z",
            "group": "orders", "digest": "01ff", "expires_at": "2027-01-15T08:00:09.000Z",
        },
        {"event": "BackoffOver", "job_id": job},
        {
            "event": "JobLeased", "job_id": job, "lease_token": 1,
            "lease_until": "2027-01-15T08:00:31.000Z", "lease_duration": "30s",
            "worker": "worker 7",
        },
        {
            "event": "LeaseExtended", "job_id": job,
            "lease_until": "2027-01-15T08:01:01.001Z", "progress": {"done": [1, 2]},
        },
        {"event": "JobReleased", "job_id": job, "run_at": "2027-01-15T08:00:01.502Z"},
        {"event": "QueuePaused", "queue": "mail", "paused": True},
        {"event": "JobCancelled", "job_id": job, "at": "2027-01-15T08:00:01.004Z"},
    ]  # fmt: skip


def test_dump_without_texts_prints_none(data):
    assert "payload" not in dumped(data, 0)[0]["events"][0]


def test_dump_from_an_lsn_reads_no_segment_before_it(data):
    damage(data)
    with pytest.raises(CorruptLogError):
        dumped(data, 1)
    header = header_of((data / "p-0001" / "0000000002.seg").read_bytes())
    assert [each["lsn"] for each in dumped(data, 1, header.first_lsn)] == list(
        range(header.first_lsn, 17)
    )
    assert [each["lsn"] for each in dumped(data, 0, 5)] == list(range(5, 17))


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "queue_node", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_dump_ends_at_a_fault_with_1_and_a_line_on_standard_error(data):
    path = damage(data, 0)
    done = run("dump", data)
    assert done.returncode == 1
    assert [json.loads(line)["lsn"] for line in done.stdout.splitlines()] == [1]
    assert done.stderr.startswith(f"queue-node: {path}: offset ")
    assert done.stderr.count("\n") == 1


def test_dump_of_one_partition_and_of_one_that_is_not_there(data, capsys):
    assert typed("dump", data, "--partition", 9) == 2
    assert "there are 0 to 1" in capsys.readouterr().err
    done = run("dump", data, "--partition", "1", "--from", "15")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["partition"] for line in done.stdout.splitlines()] == [1, 1]


def test_dump_into_a_pipe_that_closes_ends_quietly(data):
    script = f"{sys.executable} -m queue_node dump --texts {data} | head -c 10"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"partitio', "")


def test_a_torn_tail_is_said_and_no_fault(data):
    path = sorted((data / "p-0001").glob("*.seg"))[-1]
    end = records_of(path.read_bytes())
    at = end[-1].end_bytes if end else SEGMENT_HEADER_BYTES
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff\xfeQR torn")
    done = run("dump", data)
    assert done.returncode == 0
    assert "torn tail of 9 bytes" in done.stderr
